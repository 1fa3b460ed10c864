import RaftCore
import RaftStorage
import ShardMap
import Testing

@testable import ShardServer
@testable import Simulator

/// Nodes and replicas that are not what they were when somebody counted on them.
@Suite("What is gone does not come back as itself") struct GoneForGoodTests {
    /// The record of the cluster's beginning names the address for ever; who is there now has promised nothing.
    @Test("A new data directory under the address of a first controller holds no part of the controller")
    func wipedNode() throws {
        let lab = try ShardLab(seed: 3, groups: ["a"])
        lab.stopsPursuing = true
        let (former, heir) = (lab.simulation.nodes[2], lab.simulation.nodes[3])
        for group in [ClusterMap.controllerGroup, "g1"] {
            let from = try #require(lab.map?.group(group)?.peers)
            let to = from.filter { $0.address != former.address } + [heir.peer]
            let change = ChangePeersOperation(group: group, from: from, to: to)
            #expect(try lab.answer(to: .changePeers(change)).error == nil)
            try lab.wait("the change does not end") { lab.simulation.operationsHaveEnded() }
        }
        try lab.wait("replicas stay") { former.host.records.isEmpty }
        let number = try #require(lab.map?.node(at: former.address)?.id)
        let removal = try lab.answer(to: ControllerCommand.node(NodeChange(node: number, isRemoved: true)))
        #expect(removal.error == nil, "\(removal)")
        lab.shutDown([former])
        for disk in [former.directoryDisk, former.logDisk, former.snapshotDisk] {
            for name in try disk.list() { disk.lose(name) }
            for name in try disk.folders() { try disk.removeFolder(name) }
        }
        try lab.start([former])
        try lab.wait("the node is not taken in") {
            let known = lab.simulation.server(of: former)?.map?.node(at: former.address)?.id
            return known != nil && known != number
        }
        try lab.sleep(3000)
        #expect(former.host.records.isEmpty)
        try lab.end()
    }

    /// The state may have gone while it was read: what is missing in the answer was perhaps there.
    @Test("What is read of a moving shard is no answer if the replica is removed meanwhile") func readMove() throws {
        let (lab, operation, _) = try OperationConflictTests.stuckMove()
        guard case .move(let move) = operation.kind else { return }
        let node = try #require(lab.nodes(of: "a").first { !$0.leads("a") })
        let question = ReadMoveRequest(group: "a", operation: operation.id, shard: move.shard, epoch: move.epoch)
        let server = try #require(lab.simulation.server(of: node))
        var result: Result<ReadMoveReply, ShardServer.ReadMoveFailure>?
        func read() {
            result = nil
            node.lane.post { server.readMoveHere(question) { result = $0 } }
        }
        try lab.sleep(500)
        read()
        try lab.wait("the source does not answer") { result != nil }
        #expect(throws: Never.self) { try result?.get() }

        lab.simulation.world.holdJobs(of: node.address, for: .milliseconds(1000))
        read()
        try lab.sleep(50)
        #expect(result == nil, "it is being read")
        let host = node.host!
        node.lane.post { host.remove(group: "a", peer: node.peer) { _ in } }
        try lab.wait("the source does not answer") { result != nil }
        #expect(throws: ShardServer.ReadMoveFailure.self) { try result?.get() }
        lab.simulation.end()
    }
}

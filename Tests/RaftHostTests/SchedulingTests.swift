import RaftCore
import RaftHost
import ShardMap
import Simulator
import Testing
import WireMessages

@testable import ShardServer

/// A simulated cluster whose controller's leader asks the real scheduler.
@Suite("The scheduler at work")
struct SchedulingTests {
    private let cluster: ShardedCluster
    private let newcomer: ShardedNode

    init() throws {
        cluster = ShardedCluster(seed: 31)
        try #require(try cluster.form())
        let newcomer = ShardedNode(
            number: 4, world: cluster.world, controllers: cluster.nodes.map(\.address), seed: 4)
        try newcomer.start()
        self.newcomer = newcomer
        try #require(
            cluster.world.runUntil(limit: .milliseconds(20_000)) {
                newcomer.server.map?.node(at: newcomer.address) != nil
            })
    }

    private var nodes: [ShardedNode] { cluster.nodes + [newcomer] }

    private func leader() throws -> ShardedNode {
        let nodes = self.nodes
        func isLed(_ node: ShardedNode) -> Bool { node.isRunning && node.host.leads(ClusterMap.controllerGroup) }
        #expect(cluster.world.runUntil(limit: .milliseconds(20_000)) { nodes.contains(where: isLed) })
        return try #require(nodes.first(where: isLed))
    }

    private func order(_ command: ControllerCommand) throws {
        let leader = try leader()
        leader.lane.post {
            leader.host.propose(command.encoded(Arena()), to: ClusterMap.controllerGroup) { _ in }
            leader.lane.requestTurn()
        }
    }

    @Test("The controller's leader knows who is up, who leads and who is caught up; nobody else does")
    func load() throws {
        let leader = try leader()
        cluster.world.run(for: .milliseconds(15_000))
        let load = leader.server.clusterLoad
        #expect(load.nodes.map(\.node) == [1, 2, 3, 4] && load.nodes.allSatisfy(\.isUp))
        #expect(Set(load.groups.map(\.group)) == ["controller", "g1", "g2"])
        #expect(load.groups.allSatisfy { $0.leader != nil && $0.caughtUp.count == 3 })
        #expect(Set(load.shards.map(\.shard)) == [1, 2])
        for node in nodes where node !== leader { #expect(node.server.clusterLoad == ClusterLoad()) }

        newcomer.crash()
        cluster.world.run(for: .milliseconds(10_000))
        let later = leader.server.clusterLoad
        #expect(later.nodes.map(\.isUp) == [true, true, true, false])
        #expect(later.nodes[3].lastHeard.map { .milliseconds(5000) < leader.lane.clock.now - $0 } == true)
        #expect(Set(later.groups.map(\.group)) == ["controller", "g1", "g2"])
    }

    @Test("The node of the controller's leader is drained: another leader takes that over")
    func drain() throws {
        let drained = try leader()
        let id = try #require(drained.server.map?.node(at: drained.address)?.id)
        try order(.rebalance(.off))
        try order(.node(NodeChange(node: id, isDraining: true)))
        let newcomer = self.newcomer
        #expect(
            cluster.world.runUntil(limit: .milliseconds(120_000)) {
                let groups = newcomer.server.map?.groups ?? []
                return !groups.contains { $0.peers.contains { $0.address == drained.address } }
                    && drained.host.records.isEmpty
            })
        let leader = try leader()
        #expect(leader !== drained && leader.server.controller?.rebalancing == .off)
        let records = leader.server.scheduling.records
        #expect(!records.isEmpty && records.allSatisfy { $0.reason.hasPrefix("drain: node \(id) is draining") })
        #expect(records.contains { $0.operation != nil })
        #expect(newcomer.host.records.count == 3)
    }
}

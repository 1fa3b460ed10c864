import RaftCore
import ShardMap
import Testing

@testable import Simulator

/// An operator asks for something that an operation under way has: that is refused with the number and the words of
/// that operation, and changes nothing.
@Suite("Operations that exclude each other") struct OperationConflictTests {
    /// A cluster where `a` and `b` own the shards and a shard of `a` is on its way to `b`, which is down.
    static func stuckMove() throws -> (lab: ShardLab, move: ClusterOperation, map: ClusterMap) {
        let lab = try ShardLab(seed: 1, groups: ["a", "b"])
        lab.join("a", "b")
        try lab.settle()
        lab.stopsPursuing = true
        lab.shutDown(lab.nodes(of: "b"))
        let map = try #require(lab.map)
        // one with a right neighbour at the same group
        let pair = try #require(zip(map.shards, map.shards.dropFirst()).first { $0.group == "a" && $1.group == "a" })
        let begun = try lab.answer(to: .move(MoveOperation(shard: pair.0.id, destination: "b")))
        return (lab, try #require(begun.operation), map)
    }

    @Test("A shard on its way cannot be moved, split or merged, and its groups not deleted") func shards() throws {
        let (lab, move, map) = try OperationConflictTests.stuckMove()
        let shard = map.shards[try #require(map.shardPosition(move.kind.shards[0]))]
        let next = map.shards[try #require(map.shardPosition(shard.id)) + 1]
        let key = Bytes(shard.range.start.withUnsafeBytes { Array($0) } + [0x50])
        let conflicts: [ClusterOperation.Kind] = [
            .move(MoveOperation(shard: shard.id, destination: "g1")),
            .split(SplitOperation(shard: shard.id, key: key)),
            .merge(MergeOperation(left: shard.id, right: next.id)),
            .deleteGroup(DeleteGroupOperation(group: "a")),
            .deleteGroup(DeleteGroupOperation(group: "b")),
        ]
        for conflict in conflicts {
            let reply = try lab.answer(to: conflict)
            #expect(reply.error == .conflict && reply.operation?.id == move.id, "\(conflict): \(reply)")
            let sentence = "is in \(move), which is under way; wait for it: raftctl operation wait \(move.id)"
            #expect(reply.message?.contains(sentence) == true, "\(conflict): \(reply.message ?? "nothing")")
        }
        // whatever else the cluster can do, it does
        #expect(try lab.answer(to: .move(MoveOperation(shard: next.id, destination: "g1"))).error == nil)
        try lab.start(lab.nodes(of: "b"))
        try lab.wait("the operations do not end") { lab.simulation.operationsHaveEnded() }
        #expect(lab.map?.shards.first { $0.id == shard.id }?.group == "b")
        try lab.end()
    }

    @Test("While a group's members change, no other change of them begins") func members() throws {
        let lab = try ShardLab(seed: 2, groups: ["a", "b"])
        lab.join("a")
        try lab.settle()
        lab.stopsPursuing = true
        let newcomer = lab.nodes(of: "b")[0]
        lab.shutDown([newcomer])
        let peers = try #require(lab.map?.group("a")?.peers)
        let to = Array(peers.dropFirst()) + [newcomer.peer]
        let change = ClusterOperation.Kind.changePeers(ChangePeersOperation(group: "a", from: peers, to: to))
        let begun = try #require(try lab.answer(to: change).operation)
        for conflict in [change, .deleteGroup(DeleteGroupOperation(group: "a"))] {
            let reply = try lab.answer(to: conflict)
            #expect(reply.error == .conflict && reply.operation?.id == begun.id, "\(conflict): \(reply)")
            #expect(
                reply.message?.contains("group a is in \(begun), which is under way") == true,
                "\(conflict): \(reply.message ?? "nothing")")
        }
        try lab.start([newcomer])
        try lab.wait("the change does not end") { lab.simulation.operationsHaveEnded() }
        #expect(lab.map?.group("a")?.peers.contains(newcomer.peer) == true)
        try lab.end()
    }
}

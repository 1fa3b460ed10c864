import RaftCore
import ShardMap
import Testing
import WireMessages

@Suite("The form of an answer") struct ReplyCodingTests {
    @Test func theShardAsItIsOwnedComesThrough() {
        let shard = Shard(
            id: 7, range: KeyRange(start: Bytes("a"), end: Bytes("m")), group: "g2", epoch: 9)
        let refusal = ExecuteReply(error: .wrongShard, route: shard)
        #expect(ExecuteReply(refusal.packed(Arena()), Arena()) == refusal)
        let other = ExecuteReply(error: .wrongShard)
        #expect(ExecuteReply(other.packed(Arena()), Arena())?.route == nil)
    }
}

import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("Ownership is judged where the entry or the read stands")
struct ShardTests {
    static func shard(_ id: UInt64, _ start: String, _ end: String, epoch: UInt64 = 1) -> Shard {
        Shard(id: id, range: KeyRange(start: Bytes(start), end: Bytes(end)), group: "g1", epoch: epoch)
    }

    static func write(
        shard: UInt64 = 1, epoch: UInt64 = 1, session: UInt64 = Replica.token, _ operations: KeyOperation...
    ) -> GroupCommand {
        .write(
            SessionWrite(shard: shard, epoch: epoch, session: session, sequence: 1, floor: 1, operations: operations))
    }

    @Test(
        "A write elsewhere is refused whole",
        arguments: [
            write(shard: 2, .set("c", "1")), write(epoch: 2, .set("c", "1")), write(epoch: 0, .set("c", "1")),
            write(.set("c", "1"), .set("a", "1")), write(.set("c", "1"), .set("f", "1")),
            write(.set("c", "1"), .get("f")),
        ])
    func foreignWrites(_ command: GroupCommand) throws {
        let replica = try Replica(shards: [ShardTests.shard(1, "b", "f")])
        #expect(try replica.apply(command).error == .wrongShard)
        #expect(try replica.result(.count) == .integer(0))
        #expect(try replica.apply(ShardTests.write(.set("b", "1"), .set("ezz", "1"))).error == nil)
    }

    @Test("Who knows the epoch is told the range that was missed") func route() throws {
        let replica = try Replica(shards: [ShardTests.shard(1, "b", "f")])
        let outside = try replica.apply(ShardTests.write(.set("f", "1")))
        #expect(outside.error == .wrongShard && outside.route == ShardTests.shard(1, "b", "f"))
        let late = try replica.apply(ShardTests.write(epoch: 2, .set("f", "1")))
        #expect(late.error == .wrongShard && late.route == nil)
    }

    @Test func foreignReads() throws {
        let replica = try Replica(shards: [ShardTests.shard(1, "b", "f")])
        let wrong = KeyValueStateMachine.ReadOutcome.reply(ExecuteReply(error: .wrongShard))
        let route = ShardTests.shard(1, "b", "f")
        let outside = KeyValueStateMachine.ReadOutcome.reply(ExecuteReply(error: .wrongShard, route: route))
        #expect(try replica.read(.get("f")) == outside, "the epoch is right: the range is told")
        #expect(try replica.read(.get("a")) == outside)
        #expect(try replica.read(.get("b"), epoch: 2) == wrong)
        #expect(try replica.result(.get("b")) == KeyResult())
    }

    @Test func aScanAndACountSeeTheirShardOnly() throws {
        let shards = [ShardTests.shard(1, "b", "f"), ShardTests.shard(2, "f", "")]
        let replica = try Replica(shards: shards)
        let session = try #require(try replica.apply(.openSession(shard: 2, epoch: 1, nonce: 1)).session)
        _ = try replica.apply([
            ShardTests.write(.set("e", "1")), ShardTests.write(shard: 2, session: session, .set("f", "2")),
        ])
        #expect(try replica.result(.scan("")) == .pairs([("e", "1")], more: false))
        #expect(try replica.result(.scan("", to: "z", limit: 1)) == .pairs([("e", "1")], more: false))
        #expect(try replica.result(.scan("f")) == .pairs([], more: false))
        #expect(try replica.result(.count) == .integer(1))
    }

    @Test func installingAgainChangesNothing() throws {
        let replica = try Replica()
        _ = try replica.execute(.set("a", "1"))
        let before = replica.machine.ownedShards
        #expect(try replica.apply(.install([Replica.shard])).error == nil)
        #expect(replica.machine.ownedShards == before)
        // the session is still there
        #expect(try replica.execute(.get("a")) == [.value("1")])
    }

    @Test func epochsOnlyRise() throws {
        let replica = try Replica(shards: [ShardTests.shard(1, "b", "f", epoch: 5)])
        #expect(try replica.apply(.install([ShardTests.shard(1, "b", "z", epoch: 4)])).error == nil)
        #expect(replica.machine.ownedShards == [ShardTests.shard(1, "b", "f", epoch: 5)])
        #expect(try replica.apply(.install([ShardTests.shard(1, "b", "z", epoch: 5)])).error == .refused)
        #expect(try replica.apply(.install([ShardTests.shard(1, "b", "z", epoch: 6)])).error == nil)
        #expect(replica.machine.ownedShards == [ShardTests.shard(1, "b", "z", epoch: 6)])
    }

    @Test func noKeyHasTwoOwners() throws {
        let replica = try Replica(shards: [ShardTests.shard(1, "b", "f")])
        let overlapping = [ShardTests.shard(9, "f", "g"), ShardTests.shard(2, "e", "k")]
        #expect(try replica.apply(.install(overlapping)).error == .refused)
        #expect(try replica.apply(.install([ShardTests.shard(3, "", "")])).error == .refused)
        #expect(try replica.apply(.install([ShardTests.shard(3, "z", "x")])).error == .badRequest)
        #expect(replica.machine.ownedShards == [ShardTests.shard(1, "b", "f")])
        #expect(try replica.apply(.install([ShardTests.shard(2, "f", ""), ShardTests.shard(0, "", "b")])).error == nil)
        #expect(replica.machine.ownedShards.map(\.id) == [0, 1, 2])
    }

    @Test func shardsSurviveARestart() throws {
        let replica = try Replica(shards: [ShardTests.shard(1, "b", "f"), ShardTests.shard(2, "f", "", epoch: 3)])
        let before = replica.machine.ownedShards
        try replica.restart()
        #expect(replica.machine.ownedShards == before && before.count == 2)
    }

    @Test func aPackedReadIsAnsweredPacked() throws {
        let arena = Arena()
        let replica = try Replica()
        _ = try replica.execute(.set("a", "1"))
        let query = ExecuteRequest(group: "g1", shard: 1, epoch: 1, reads: [.get("a")]).packed(arena)
        #expect(ExecuteReply(try replica.machine.read(query), arena)?.results == [.value("1")])
        #expect(ExecuteReply(try replica.machine.read(Bytes([0xff])), arena)?.error == .badRequest)
    }
}

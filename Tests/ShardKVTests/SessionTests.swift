import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("Sessions execute each write once")
struct SessionTests {
    static func write(
        _ sequence: UInt64, floor: UInt64 = 0, session: UInt64 = Replica.token, _ operations: KeyOperation...
    ) -> GroupCommand {
        .write(
            SessionWrite(
                shard: 1, epoch: 1, session: session, sequence: sequence, floor: floor, operations: operations))
    }

    static func open(_ nonce: UInt64) -> GroupCommand { .openSession(shard: 1, epoch: 1, nonce: nonce) }

    @Test(arguments: [false, true]) func aRepeatedWriteIsAnsweredButNotExecuted(_ restarts: Bool) throws {
        let replica = try Replica()
        let command = SessionTests.write(1, .increment("a", by: 1))
        let first = try replica.apply(command)
        if restarts { try replica.restart() }
        #expect(try replica.apply(command) == first)
        #expect(first.results == [.integer(1)])
        #expect(try replica.result(.get("a")) == .value("1"))
    }

    @Test func aRepetitionWithinOneBatchIsOneToo() throws {
        let replica = try Replica()
        let command = SessionTests.write(1, .increment("a", by: 1))
        let replies = try replica.apply([command, command, SessionTests.write(2, .increment("a", by: 1)), command])
        #expect(replies.map { $0.results.first?.integer } == [1, 1, 2, 1])
    }

    @Test(arguments: [false, true]) func aSequenceUsedForSomethingElseIsRefused(_ restarts: Bool) throws {
        let replica = try Replica()
        _ = try replica.apply(SessionTests.write(1, .set("a", "1")))
        if restarts { try replica.restart() }
        #expect(try replica.apply(SessionTests.write(1, .set("a", "2"))).error == .sequenceReused)
        #expect(try replica.result(.get("a")) == .value("1"))
    }

    @Test(arguments: [false, true]) func belowTheFloorNothingIsRemembered(_ restarts: Bool) throws {
        let replica = try Replica()
        let first = SessionTests.write(1, .increment("a", by: 1))
        _ = try replica.apply([first, SessionTests.write(5, floor: 3, .increment("a", by: 1))])
        if restarts { try replica.restart() }
        #expect(try replica.apply(first).error == .sequenceTooOld)
        #expect(try replica.apply(SessionTests.write(2, .increment("a", by: 1))).error == .sequenceTooOld)
        #expect(try replica.apply(SessionTests.write(3, .increment("a", by: 1))).results == [.integer(3)])
    }

    @Test func forgottenRepliesLeaveTheEngine() throws {
        let replica = try Replica()
        for sequence: UInt64 in 1...20 {
            _ = try replica.apply(SessionTests.write(sequence, floor: sequence, .set("a", "1")))
        }
        let replies = try contents(replica.engine).filter { $0[0][8] == KeyKind.replies.rawValue }
        #expect(replies.count == 1)
    }

    @Test func theWindowCountsFromTheHigherFloor() throws {
        let replica = try Replica(limits: .init(windowPerSession: 4))
        #expect(try replica.apply(SessionTests.write(4, .set("a", "1"))).error == .windowExceeded)
        #expect(try replica.apply(SessionTests.write(3, .set("a", "1"))).error == nil)
        // the client was busy on other shards: its own floor has gone on
        #expect(try replica.apply(SessionTests.write(1003, floor: 1000, .set("a", "1"))).error == nil)
        #expect(try replica.apply(SessionTests.write(1004, floor: 1000, .set("a", "1"))).error == .windowExceeded)
        #expect(try replica.apply(SessionTests.write(.max, floor: .max, .set("a", "1"))).error == nil)
        #expect(try replica.apply(SessionTests.write(5, floor: 6, .set("a", "1"))).error == .badRequest)
    }

    @Test func storedRepliesAreBounded() throws {
        let replica = try Replica(limits: .init(replyBytesPerSession: 50))
        _ = try replica.apply(SessionTests.write(1, .set("a", String(repeating: "x", count: 100)), .get("a")))
        #expect(try replica.apply(SessionTests.write(2, floor: 1, .set("a", "1"))).error == .windowExceeded)
        try replica.restart()
        #expect(try replica.apply(SessionTests.write(2, floor: 1, .set("a", "1"))).error == .windowExceeded)
        #expect(try replica.result(.stringLength("a")) == .integer(100))
        // once the client says that the large answer has arrived, the session gets on
        #expect(try replica.apply(SessionTests.write(2, floor: 2, .set("a", "1"))).error == nil)
    }

    @Test func aWriteNeverOpensASession() throws {
        let replica = try Replica()
        // of the next session but one
        let token = SessionTable().freeToken(of: 99, openedAt: replica.machine.appliedPosition.index.advanced(by: 2))
        let write = SessionTests.write(1, session: token, .set("a", "1"))
        #expect(try replica.apply(write).error == .sessionExpired)
        #expect(try replica.result(.exists("a")) == .integer(0))
        #expect(try replica.apply(SessionTests.open(99)) == ExecuteReply(session: token))
        #expect(try replica.apply(write).error == nil)
    }

    @Test func openingAgainOpensAnotherAndForgetsNothing() throws {
        let replica = try Replica()
        let token = try replica.openSession(nonce: 99)
        let write = SessionTests.write(1, session: token, .increment("a", by: 1))
        let first = try replica.apply(write)
        let other = try replica.openSession(nonce: 99)
        #expect(other != token)
        #expect(try replica.apply(write) == first)
        let underTheOther = SessionTests.write(1, session: other, .increment("a", by: 1))
        #expect(try replica.apply(underTheOther).results == [.integer(2)])
    }

    @Test func theTokenIsTheSameForEver() {
        let table = SessionTable()
        // computed by an independent implementation
        #expect(table.freeToken(of: 0xabc, openedAt: LogIndex(2)) == 0x2024_8287_516c_9256)
        #expect(table.freeToken(of: 0xabc, openedAt: LogIndex(3)) == 0xc5c3_f0a6_63b4_4538)
        #expect(table.freeToken(of: .max, openedAt: LogIndex(1 << 40)) == 0xf99a_afa2_1e20_540a)
    }

    @Test func aBadlyChosenNonceIsNoTrouble() throws {
        let replica = try Replica()
        // with this one the third entry would open the session of the replica's own client
        let step: UInt64 = 0x9e37_79b9_7f4a_7c15
        let other = try replica.openSession(nonce: 0xabc &- step)
        #expect(other != Replica.token)
        #expect(try replica.apply(SessionTests.write(1, session: other, .increment("a", by: 1))).error == nil)
        #expect(try replica.apply(SessionTests.write(1, .increment("a", by: 1))).results == [.integer(2)])
        // and with this one the sixth would open none
        #expect(try replica.openSession(nonce: 0 &- 6 &* step) != 0)
    }

    @Test(arguments: [false, true]) func aLateOpenDoesNotBringAnEvictedSessionBack(_ restarts: Bool) throws {
        let replica = try Replica(limits: .init(sessionsPerShard: 2))
        let open = SessionTests.open(99)
        let token = try #require(try replica.apply(open).session)
        let write = SessionTests.write(1, session: token, .increment("a", by: 1))
        #expect(try replica.apply(write).results == [.integer(1)])
        _ = try replica.apply([SessionTests.open(3), SessionTests.open(4)])
        if restarts { try replica.restart() }
        #expect(try replica.apply(write).error == .sessionExpired)
        // repetitions of both arrive after that
        #expect(try replica.apply(open).error == nil)
        #expect(try replica.apply(write).error == .sessionExpired)
        #expect(try replica.result(.get("a")) == .value("1"))
    }

    @Test(arguments: [false, true]) func theLeastRecentlyUsedSessionIsEvicted(_ restarts: Bool) throws {
        let replica = try Replica(limits: .init(sessionsPerShard: 3))
        let (first, second) = (try replica.openSession(), try replica.openSession())
        // order of last use: the first, the replica's own, the second
        _ = try replica.apply([
            SessionTests.write(1, .set("a", "1")), SessionTests.write(1, session: second, .set("a", "1")),
        ])
        if restarts { try replica.restart() }
        let third = try replica.openSession()
        #expect(try replica.apply(SessionTests.write(1, session: first, .set("a", "1"))).error == .sessionExpired)
        let fourth = try replica.openSession()
        #expect(try replica.apply(SessionTests.write(2, .set("a", "1"))).error == .sessionExpired)
        #expect(try replica.apply(SessionTests.write(2, session: second, .set("a", "1"))).error == nil)
        let layout = KeyLayout(replicaNumber: Replica.number)
        let sessions = try contents(replica.engine).filter { $0[0][8] == KeyKind.sessions.rawValue }
        // and a note of when an evicted one was used last
        let kept = [SessionTable.noToken] + [second, third, fourth].sorted()
        #expect(sessions.map { $0[0] } == kept.map { layout.key(.sessions, 1, $0) })
        let replies = try contents(replica.engine).filter { $0[0][8] == KeyKind.replies.rawValue }
        #expect(replies.map { $0[0] } == [1, 2].map { layout.key(.replies, 1, second, $0) })
    }

    @Test func theHashIsTheSameForEver() {
        let operations: [KeyOperation] = [.set("key", "a value of some length", expiresIn: 5), .delete("b")]
        // computed by an independent implementation
        #expect(RequestHash.of([]) == 0xefd0_1f60_ba99_2926)
        #expect(RequestHash.of(operations) == 0xf5af_e344_aa32_ff5b)
        #expect(RequestHash.of([.set("key", "v", at: 1500), .expire("b", at: -1)]) == 0x3aa5_f819_493a_c313)
    }

    @Test func theHashSeesEveryField() {
        let variants: [[KeyOperation]] = [
            [], [.set("ab", "c")], [.set("a", "bc")], [.set("ab", "d")], [.append("ab", "c")],
            [.set("ab", "c"), .set("ab", "c")], [.set("ab", "c", expiresIn: 1)], [.set("ab", "c", expiresIn: 0)],
            [KeyOperation(.set, key: Bytes("ab"), value: Bytes("c"), condition: .ifAbsent)],
            [KeyOperation(.set, key: Bytes("ab"), value: Bytes("c"), returnsOldValue: true)],
            [KeyOperation(.set, key: Bytes("ab"), value: Bytes("c"), keepsExpiry: true)],
            [KeyOperation(.set, key: Bytes("ab"), value: Bytes("c"), number: 1)],
            [.set("ab", "c", at: 1)], [.set("ab", "c", at: 0)], [.set("ab", "c", at: 1), .set("ab", "c")],
            [.set("ab", "c"), .set("ab", "c", at: 1)],
            [.set("ab", "12345678")], [.set("ab", "12345679")], [.set("ab", "12345678\u{0}")],
        ]
        #expect(Set(variants.map { RequestHash.of($0) }).count == variants.count)
    }
}

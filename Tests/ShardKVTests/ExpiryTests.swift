import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("Keys expire by replicated time")
struct ExpiryTests {
    static func replica(at time: Int64 = 1000) throws -> Replica {
        let replica = try Replica()
        #expect(try replica.apply(.time(time)) == ExecuteReply())
        return replica
    }

    @Test func timeNeverGoesBack() throws {
        let replica = try ExpiryTests.replica()
        _ = try replica.apply(.time(999))
        #expect(replica.machine.replicatedTime == 1000)
        _ = try replica.apply(.time(1001))
        try replica.restart()
        #expect(replica.machine.replicatedTime == 1001)
    }

    @Test func aKeyIsThereUntilItsTimeIsReached() throws {
        let replica = try ExpiryTests.replica()
        _ = try replica.execute(.set("a", "1", expiresIn: 100), .set("b", "2"))
        #expect(replica.machine.mayHoldExpiringKeys)
        _ = try replica.apply(.time(1099))
        #expect(try replica.result(.get("a")) == .value("1"))
        #expect(try replica.result(.timeToLive("a")) == .integer(1))
        _ = try replica.apply(.time(1100))
        #expect(!replica.machine.mayHoldExpiringKeys)
        #expect(try replica.result(.get("a")) == KeyResult())
        #expect(try replica.result(.exists("a")) == .integer(0))
        #expect(try replica.result(.timeToLive("a")) == .integer(-2))
        #expect(try replica.result(.scan("")) == .pairs([("b", "2")], more: false))
        #expect(try replica.result(.count) == .integer(1))
    }

    @Test(
        "A key that has expired and is not yet removed counts as absent everywhere",
        arguments: [
            (KeyOperation.get("a"), KeyResult()), (.exists("a"), .integer(0)), (.stringLength("a"), .integer(0)),
            (.timeToLive("a"), .integer(-2)), (.scan(""), .pairs([("b", "2")], more: false)), (.count, .integer(1)),
            (.scan("", limit: 1), .pairs([("b", "2")], more: false)),
            (.increment("a", by: 1), .integer(1)), (.append("a", "xy"), .integer(2)), (.delete("a"), .integer(0)),
            (.expire("a", in: 10), .integer(0)), (.persist("a"), .integer(0)),
            (KeyOperation(.set, key: Bytes("a"), condition: .ifPresent), KeyResult(applied: false)),
            (KeyOperation(.set, key: Bytes("a"), condition: .ifAbsent, keepsExpiry: true), KeyResult()),
            (KeyOperation(.set, key: Bytes("a"), returnsOldValue: true), KeyResult()),
        ])
    func expiredButStored(_ operation: KeyOperation, _ expected: KeyResult) throws {
        // one key is removed by each time entry: the decoy, which is due first
        let replica = try Replica(limits: .init(expiredKeysPerTime: 1))
        _ = try replica.execute(.set("0", "decoy", expiresIn: 5), .set("a", "1", expiresIn: 10), .set("b", "2"))
        _ = try replica.apply(.time(10))
        #expect(try replica.engine.get(KeyLayout(replicaNumber: Replica.number).key(.data, rest: Bytes("a"))) != nil)
        #expect(try replica.execute(operation) == [expected])
        // whatever it was replaced by has no expiry, so later sweeps spare it
        let after = try replica.result(.get("a"))
        _ = try replica.apply([.time(11), .time(100)])
        #expect(try replica.result(.get("a")) == after)
        #expect(!replica.machine.mayHoldExpiringKeys)
    }

    @Test func aReadWaitsForTimeOnlyIfAKeyItTouchesIsDue() throws {
        let replica = try ExpiryTests.replica()
        _ = try replica.execute(.set("a", "1", expiresIn: 100), .set("b", "2"))
        #expect(try replica.result(.get("a"), wallClock: 1099) == .value("1"))
        #expect(try replica.result(.timeToLive("a"), wallClock: 1060) == .integer(40))
        #expect(try replica.result(.get("b"), wallClock: 1200) == .value("2"))
        #expect(try replica.result(.get("c"), wallClock: 1200) == KeyResult())
        for operation: KeyOperation in [.get("a"), .exists("a"), .timeToLive("a"), .scan(""), .count] {
            #expect(try replica.read(.get("b"), operation, wallClock: 1100) == .needsTime(1100))
        }
        // a wall clock behind replicated time decides nothing
        #expect(try replica.result(.timeToLive("a"), wallClock: 5) == .integer(100))
        _ = try replica.apply(.time(1100))
        #expect(try replica.result(.get("a"), wallClock: 1100) == KeyResult())
    }

    @Test func expiredKeysLeaveTheEngineAFewAtATime() throws {
        let replica = try Replica(limits: .init(expiredKeysPerTime: 3))
        for number in 0..<10 { _ = try replica.execute(.set("k\(number)", "v", expiresIn: Int64(10 + number % 2))) }
        func stored() throws -> [Int] {
            let pairs = try contents(replica.engine)
            return [KeyKind.data, .expiry].map { kind in pairs.filter { $0[0][8] == kind.rawValue }.count }
        }
        _ = try replica.apply(.time(9))
        #expect(try stored() == [10, 10])
        _ = try replica.apply(.time(10))
        #expect(try stored() == [7, 7])
        try replica.restart()
        _ = try replica.apply(.time(10))
        #expect(try stored() == [5, 5])
        _ = try replica.apply([.time(11), .time(11)])
        #expect(try stored() == [0, 0])
        #expect(!replica.machine.mayHoldExpiringKeys)
    }

    @Test func theSweepSeesTheBatchItStandsIn() throws {
        let replica = try ExpiryTests.replica()
        _ = try replica.execute(.set("old", "1", expiresIn: 10))
        _ = try replica.apply([
            replica.write([.set("new", "1", expiresIn: 20)]), replica.write([.persist("old")]), .time(1020),
        ])
        #expect(try replica.result(.scan("")) == .pairs([("old", "1")], more: false))
        #expect(!replica.machine.mayHoldExpiringKeys)
        #expect(try contents(replica.engine).filter { $0[0][8] == KeyKind.expiry.rawValue }.isEmpty)
    }
}

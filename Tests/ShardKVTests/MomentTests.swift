import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("Moments of expiry are judged by replicated time")
struct MomentTests {
    static let now: Int64 = 1000

    /// Executed at replicated time 1000.
    static let stories: [Story] = [
        Story(
            "set until a moment that is to come",
            [
                (.set("a", "1", at: 1001), KeyResult()), (.get("a"), .value("1")), (.timeToLive("a"), .integer(1)),
                (.set("a", "2", at: .max), KeyResult()), (.timeToLive("a"), .integer(.max - now)),
                (.set("a", "3"), KeyResult()), (.timeToLive("a"), .integer(-1)),
            ]),
        Story(
            "set until a moment that has passed leaves no key",
            [
                (.set("a", "1"), KeyResult()), (.set("a", "2", at: 1000), KeyResult()), (.get("a"), KeyResult()),
                (.set("a", "3", at: 999), KeyResult()), (.set("a", "3", at: .min), KeyResult()),
                (.timeToLive("a"), .integer(-2)), (.count, .integer(0)),
            ]),
        Story(
            "its conditions and its reply count all the same",
            [
                (set(.ifPresent, at: 1), KeyResult(applied: false)), (.set("a", "1"), KeyResult()),
                (set(.ifAbsent, at: 1), KeyResult(value: Bytes("1"), applied: false)), (.get("a"), .value("1")),
                (set(.ifPresent, at: 1), .value("1")), (.exists("a"), .integer(0)),
                (set(.ifAbsent, at: 1), KeyResult()), (.exists("a"), .integer(0)),
            ]),
        Story(
            "expire",
            [
                (.expire("a", at: 2000), .integer(0)), (.set("a", "1"), KeyResult()),
                (.expire("a", at: 2000), .integer(1)), (.timeToLive("a"), .integer(1000)),
                (.expire("a", at: 1001), .integer(1)), (.timeToLive("a"), .integer(1)),
                (.expire("a", at: 1000), .integer(1)), (.get("a"), KeyResult()),
                (.set("a", "1"), KeyResult()), (.expire("a", at: .min), .integer(1)), (.exists("a"), .integer(0)),
            ]),
        Story(
            "two answers to when it expires are none",
            [
                (
                    KeyOperation(
                        .set, key: Bytes("a"), expiresInMilliseconds: 5, expiresAtMilliseconds: 2000),
                    .failure(.badRequest)
                ),
                (
                    KeyOperation(.set, key: Bytes("a"), expiresAtMilliseconds: 2000, keepsExpiry: true),
                    .failure(.badRequest)
                ),
                (.exists("a"), .integer(0)),
            ]),
    ]

    static func set(_ condition: KeyOperation.Condition, at moment: Int64) -> KeyOperation {
        KeyOperation(
            .set, key: Bytes("a"), value: Bytes("new"), condition: condition, returnsOldValue: true,
            expiresAtMilliseconds: moment)
    }

    @Test(arguments: stories) func eachOperationInAnEntryOfItsOwn(_ story: Story) throws {
        let replica = try ExpiryTests.replica(at: MomentTests.now)
        for (operation, expected) in story.steps {
            OperationTests.expect(try replica.execute(operation)[0], expected, operation)
        }
    }

    @Test(arguments: stories) func allInOneRequest(_ story: Story) throws {
        let replica = try ExpiryTests.replica(at: MomentTests.now)
        let results = try replica.apply(replica.write(story.steps.map(\.0))).results
        #expect(results.count == story.steps.count)
        for (result, (operation, expected)) in zip(results, story.steps) {
            OperationTests.expect(result, expected, operation)
        }
    }

    @Test func aKeyGoesWhenItsMomentIsReached() throws {
        let replica = try ExpiryTests.replica(at: MomentTests.now)
        _ = try replica.execute(.set("a", "1", at: 1100), .set("b", "2"), .expire("b", at: 1200))
        _ = try replica.apply(.time(1099))
        #expect(try replica.result(.count) == .integer(2))
        _ = try replica.apply(.time(1100))
        #expect(try replica.result(.scan("")) == .pairs([("b", "2")], more: false))
        _ = try replica.apply(.time(1200))
        #expect(try replica.result(.count) == .integer(0))
        #expect(!replica.machine.mayHoldExpiringKeys)
    }

    @Test func whatHasPassedIsNotStored() throws {
        let replica = try ExpiryTests.replica(at: MomentTests.now)
        _ = try replica.execute(.set("a", "1", at: 5000), .set("a", "2", at: 500), .set("b", "1", at: 1000))
        #expect(
            try contents(replica.engine).allSatisfy { ![KeyKind.data, .expiry].map(\.rawValue).contains($0[0][8]) })
        #expect(!replica.machine.mayHoldExpiringKeys)
    }

    @Test(arguments: [nil, 0, -1, 1, .min, .max] as [Int64?])
    func aMomentTravelsAsItIs(_ moment: Int64?) throws {
        let arena = Arena()
        let operation = KeyOperation(.set, key: Bytes("a"), value: Bytes("1"), expiresAtMilliseconds: moment)
        let command = GroupCommand.write(
            SessionWrite(shard: 1, epoch: 2, session: 3, sequence: 4, floor: 4, operations: [operation]))
        #expect(try GroupCommand.decoded(command.encoded(arena), arena) == command)
    }

    @Test(
        "A leader proposes a fresh time before whatever sets an expiry, and only then",
        arguments: [
            (.set("a", "1"), false), (.get("a"), false), (.delete("a"), false), (.persist("a"), false),
            (.set("a", "1", expiresIn: 5), true), (.expire("a", in: 5), true), (.expire("a", in: 0), true),
            (.set("a", "1", at: 0), true), (.set("a", "1", at: .max), true), (.expire("a", at: 5), true),
        ] as [(KeyOperation, Bool)])
    func peeking(_ operation: KeyOperation, _ setsExpiry: Bool) throws {
        let command = GroupCommand.write(
            SessionWrite(
                shard: 1, epoch: 1, session: 1, sequence: 1, floor: 1, operations: [.get("b"), operation, .get("b")]))
        let peek = try #require(CommandPeek(command.encoded(Arena())))
        #expect(peek.kind == .write && peek.setsExpiry == setsExpiry)
    }
}

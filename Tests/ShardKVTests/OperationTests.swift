import RaftCore
import ShardMap
import Testing

@testable import ShardKV

/// A named list of operations, executed in one request each, and what each of them must answer.
struct Story: CustomTestStringConvertible, Sendable {
    var testDescription: String
    var steps: [(KeyOperation, KeyResult)]
    init(_ name: String, _ steps: [(KeyOperation, KeyResult)]) {
        testDescription = name
        self.steps = steps
    }
}

@Suite("Operations mean what their documentation says")
struct OperationTests {
    static let stories: [Story] = [
        Story(
            "get",
            [
                (.get("a"), KeyResult()), (.set("a", "1"), KeyResult()), (.get("a"), .value("1")),
                (.set("a", ""), KeyResult()), (.get("a"), .value("")),
            ]),
        Story(
            "set if absent",
            [
                (conditional("a", "1", .ifAbsent), KeyResult()), (conditional("a", "2", .ifAbsent), notApplied()),
                (conditional("a", "2", .ifAbsent, old: true), notApplied("1")), (.get("a"), .value("1")),
            ]),
        Story(
            "set if present",
            [
                (conditional("a", "1", .ifPresent), notApplied()), (.get("a"), KeyResult()),
                (.set("a", "1"), KeyResult()), (conditional("a", "2", .ifPresent), KeyResult()),
                (.get("a"), .value("2")),
            ]),
        Story(
            "set returns the old value",
            [
                (conditional("a", "1", .always, old: true), KeyResult()),
                (conditional("a", "2", .always, old: true), .value("1")), (.get("a"), .value("2")),
            ]),
        Story(
            "delete",
            [
                (.delete("a"), .integer(0)), (.set("a", "1"), KeyResult()), (.delete("a"), .integer(1)),
                (.get("a"), KeyResult()), (.set("a", "2"), KeyResult()),
                (
                    KeyOperation(.delete, key: Bytes("a"), returnsOldValue: true),
                    KeyResult(value: Bytes("2"), integer: 1)
                ),
            ]),
        Story(
            "exists and length",
            [
                (.exists("a"), .integer(0)), (.stringLength("a"), .integer(0)), (.set("a", "four"), KeyResult()),
                (.exists("a"), .integer(1)), (.stringLength("a"), .integer(4)),
            ]),
        Story(
            "increment",
            [
                (.increment("a", by: 5), .integer(5)), (.increment("a", by: -7), .integer(-2)),
                (.get("a"), .value("-2")),
                (.set("a", "9223372036854775807"), KeyResult()), (.increment("a", by: 1), .failure(.overflow)),
                (.get("a"), .value("9223372036854775807")), (.increment("a", by: -1), .integer(.max - 1)),
                (.set("a", "-9223372036854775808"), KeyResult()), (.increment("a", by: -1), .failure(.overflow)),
                (.increment("a", by: 0), .integer(.min)),
            ]),
        Story(
            "append",
            [
                (.append("a", "ab"), .integer(2)), (.append("a", ""), .integer(2)), (.append("a", "c"), .integer(3)),
                (.get("a"), .value("abc")),
            ]),
        Story(
            "scan and count",
            [
                (.count, .integer(0)), (.scan(""), .pairs([], more: false)),
                (.set("c", "3"), KeyResult()), (.set("a", "1"), KeyResult()), (.set("b", "2"), KeyResult()),
                (.count, .integer(3)), (.scan(""), .pairs([("a", "1"), ("b", "2"), ("c", "3")], more: false)),
                (.scan("b"), .pairs([("b", "2"), ("c", "3")], more: false)),
                (.scan("", to: "b"), .pairs([("a", "1")], more: false)),
                (.scan("", limit: 2), .pairs([("a", "1"), ("b", "2")], more: true)),
                (.scan("", limit: 3), .pairs([("a", "1"), ("b", "2"), ("c", "3")], more: false)),
                (.scan("a\u{0}", to: "c", limit: 1), .pairs([("b", "2")], more: false)),
                (.delete("b"), .integer(1)), (.scan("", limit: 1), .pairs([("a", "1")], more: true)),
            ]),
        Story(
            "time to live",
            [
                (.timeToLive("a"), .integer(-2)), (.set("a", "1"), KeyResult()), (.timeToLive("a"), .integer(-1)),
                (.expire("a", in: 50), .integer(1)), (.timeToLive("a"), .integer(50)), (.persist("a"), .integer(1)),
                (.persist("a"), .integer(0)), (.timeToLive("a"), .integer(-1)), (.expire("b", in: 50), .integer(0)),
                (.persist("b"), .integer(0)), (.expire("a", in: 0), .integer(1)), (.get("a"), KeyResult()),
            ]),
        Story(
            "what keeps an expiry and what does not",
            [
                (.set("a", "1", expiresIn: 70), KeyResult()), (.increment("a", by: 1), .integer(2)),
                (.timeToLive("a"), .integer(70)), (.append("a", "x"), .integer(2)), (.timeToLive("a"), .integer(70)),
                (KeyOperation(.set, key: Bytes("a"), value: Bytes("3"), keepsExpiry: true), KeyResult()),
                (.timeToLive("a"), .integer(70)), (.set("a", "4"), KeyResult()), (.timeToLive("a"), .integer(-1)),
            ]),
        Story(
            "expiries that make no sense",
            [
                (.set("a", "1", expiresIn: 0), .failure(.badRequest)),
                (.set("a", "1", expiresIn: -1), .failure(.badRequest)),
                (.get("a"), KeyResult()), (.set("a", "1", expiresIn: .max), KeyResult()), (.get("a"), .value("1")),
            ]),
        Story(
            "keys that are refused",
            [
                (.set("", "1"), .failure(.keyTooLarge)), (.get(""), .failure(.keyTooLarge)),
                (KeyOperation(.set, key: long(KeyLimits.keyBytes + 1)), .failure(.keyTooLarge)),
                (KeyOperation(.set, key: long(KeyLimits.keyBytes)), KeyResult()),
            ]),
    ]

    static func conditional(
        _ key: String, _ value: String, _ condition: KeyOperation.Condition, old: Bool = false
    ) -> KeyOperation {
        KeyOperation(.set, key: Bytes(key), value: Bytes(value), condition: condition, returnsOldValue: old)
    }

    static func notApplied(_ old: String? = nil) -> KeyResult {
        KeyResult(value: old.map { Bytes($0) }, applied: false)
    }

    static func long(_ count: Int) -> Bytes { Bytes([UInt8](repeating: 0x61, count: count)) }

    /// The wire keeps neither `applied` of a failure nor its message, so only the error counts then.
    static func expect(_ result: KeyResult, _ expected: KeyResult, _ step: KeyOperation) {
        if expected.error != nil {
            #expect(result.error == expected.error, "\(step)")
        } else {
            #expect(result == expected, "\(step)")
        }
    }

    @Test(arguments: stories) func eachOperationInAnEntryOfItsOwn(_ story: Story) throws {
        let replica = try Replica()
        for (operation, expected) in story.steps {
            // a read must say the same in the log and beside it
            if operation.isRead { OperationTests.expect(try replica.result(operation), expected, operation) }
            OperationTests.expect(try replica.execute(operation)[0], expected, operation)
        }
    }

    @Test(arguments: stories) func allInOneBatch(_ story: Story) throws {
        let replica = try Replica()
        let replies = try replica.apply(story.steps.map { replica.write([$0.0]) })
        for (reply, (operation, expected)) in zip(replies, story.steps) {
            OperationTests.expect(try #require(reply.results.first), expected, operation)
        }
    }

    @Test(arguments: stories) func allInOneRequest(_ story: Story) throws {
        let replica = try Replica()
        let results = try replica.apply(replica.write(story.steps.map(\.0))).results
        #expect(results.count == story.steps.count)
        for (result, (operation, expected)) in zip(results, story.steps) {
            OperationTests.expect(result, expected, operation)
        }
    }

    @Test(
        "Only the exact decimal form of an integer is one",
        arguments: [
            "", " 1", "1 ", "+1", "01", "-0", "1.0", "x", "9223372036854775808", "-", "1\u{0}",
        ])
    func notAnInteger(_ text: String) throws {
        let results = try Replica().execute(.set("a", text), .increment("a", by: 1), .get("a"), .set("b", "on"))
        #expect(results[1].error == .notAnInteger)
        #expect(results[2] == .value(text))
        #expect(results[3] == KeyResult())
    }

    @Test func aValueNeverGrowsBeyondItsLimit() throws {
        let replica = try Replica()
        let full = KeyOperation(.set, key: Bytes("a"), value: OperationTests.long(KeyLimits.valueBytes))
        let tooLong = KeyOperation(.set, key: Bytes("b"), value: OperationTests.long(KeyLimits.valueBytes + 1))
        let results = try replica.execute(full, .append("a", "x"), .append("a", ""), tooLong, .exists("b"))
        #expect(results.map(\.error) == [nil, .valueTooLarge, nil, .valueTooLarge, nil])
        #expect(results[2].integer == Int64(KeyLimits.valueBytes))
        #expect(results[4].integer == 0)
    }

    @Test func aScanStopsAtItsBytesAndSaysSo() throws {
        let replica = try Replica(limits: .init(scanBytes: 10))
        _ = try replica.execute(.set("a", "123456"), .set("b", "123456"), .set("c", "123456"))
        let result = try replica.result(.scan(""))
        #expect(result == .pairs([("a", "123456"), ("b", "123456")], more: true))
    }

    @Test func aReplyStopsAtItsBytesAndNothingIsDoneBehindThat() throws {
        let replica = try Replica(limits: .init(replyBytes: 4))
        let results = try replica.execute(
            .set("a", "12345"), .get("a"), .get("a"), KeyOperation(.delete, key: Bytes("a"), returnsOldValue: true),
            .set("a", "1"), .exists("a"), .scan(""))
        #expect(results.map(\.error) == [nil, nil] + [NamedError?](repeating: .refused, count: 5))
        #expect(try replica.result(.get("a")).value == Bytes("12345"))
    }

    @Test func smallPairsTakeRoomInAReplyToo() throws {
        let replica = try Replica(limits: .init(replyBytes: 1000))
        for key in "abcdefghij" { _ = try replica.execute(.set("\(key)", "")) }
        let results = try replica.execute(.scan(""), .scan(""), .scan(""))
        #expect(results.map(\.error) == [nil, nil, .refused])
    }

    @Test func aReadMayNotWrite() throws {
        let replica = try Replica()
        #expect(try replica.read(.set("a", "1")) == .reply(ExecuteReply(error: .badRequest)))
        #expect(try replica.result(.exists("a")) == .integer(0))
    }
}

import RaftCore
import Testing

@testable import Gateway

@Suite("The request parser")
struct RequestParserTests {
    private static let limits = RequestParser.Limits(bulkBytes: 1000, commandBytes: 4000, arguments: 100)

    /// What a parser makes of `bytes` when they come in pieces that end at `cuts`.
    private func requests(_ bytes: [UInt8], cuts: [Int]) -> [String] {
        var parser = RequestParser(limits: RequestParserTests.limits)
        var found: [String] = []
        var consumed = 0
        for cut in cuts + [bytes.count] {
            let presented = Bytes(Array(bytes[consumed..<cut]))
            var position = 0
            while case .request(let request) = parser.next(presented, &position) {
                found.append(describe(request.body))
                if case .violation = request.body { return found }
            }
            parser.settle()
            consumed += position
        }
        return found
    }

    private func describe(_ body: Request.Body) -> String {
        switch body {
        case .command(let arguments): arguments.map(\.description).joined(separator: "|")
        case .refused(let refusal): "refused: \(refusal.text)"
        case .violation(let refusal): "violation: \(refusal.text)"
        }
    }

    private static let stream: [UInt8] =
        Harness.encoded(words: [Array("SET".utf8), [0, 13, 10, 255, 36, 42], Array("\r\n$3\r\n".utf8)])
        + Array("get  'a b' \"\\x00\\n\"\r\n\r\n*0\r\n*-1\r\nping\n".utf8)
        + Harness.encoded(words: [Array("ECHO".utf8), []])
        + Harness.encoded(words: [Array("SET".utf8), Array("k".utf8), [UInt8](repeating: 7, count: 1001), [1]])
        + Harness.encoded(words: [Array("MSET".utf8)] + (0..<5).map { [UInt8](repeating: $0, count: 900) })
        + Array("PING\r\n*x\r\nPING\r\n".utf8)

    private static let expected = [
        "SET|\\x00\\x0d\\x0a\\xff$*|\\x0d\\x0a$3\\x0d\\x0a", "get|a b|\\x00\\x0a", "ping", "ECHO|",
        "refused: ERR a value must be at most 8388608 bytes long",
        "refused: ERR a command's arguments must be at most 4000 bytes long together", "PING",
        "violation: ERR Protocol error: invalid multibulk length",
    ]

    @Test func aStreamIsTheSameHoweverItIsCut() {
        let stream = RequestParserTests.stream
        for cut in 0...stream.count {
            let found = requests(stream, cuts: [cut])
            if found != RequestParserTests.expected { Issue.record("cut at \(cut): \(found)") }
        }
        #expect(requests(stream, cuts: Array(0..<stream.count)) == RequestParserTests.expected)
    }

    @Test func everyPairOfCutsInAShortStream() {
        let stream = Harness.encoded(words: [Array("GET".utf8), [13, 10]]) + Array("a 'b'\r\n".utf8)
        for first in 0...stream.count {
            for second in first...stream.count {
                #expect(requests(stream, cuts: [first, second]) == ["GET|\\x0d\\x0a", "a|b"])
            }
        }
    }

    @Test func argumentsAreSlicesOfWhatCameIn() {
        var parser = RequestParser(limits: RequestParserTests.limits)
        let bytes = Bytes(Harness.encoded("SET key value"))
        var position = 0
        guard case .request(let request) = parser.next(bytes, &position), case .command(let arguments) = request.body
        else {
            Issue.record("no command")
            return
        }
        #expect(position == bytes.count)
        let start = bytes.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
        let value = arguments[2].withUnsafeBytes { UInt(bitPattern: $0.baseAddress) }
        #expect(value == start + UInt(bytes.count - 7))
    }

    @Test func theRoomALongBulkNeedsIsAnnounced() {
        var parser = RequestParser(limits: RequestParserTests.limits)
        for (text, needed) in [("*2\r\n$3\r\nGET\r\n$900\r\n", 902), ("abc", 902)] {
            var position = 0
            guard case .incomplete(let announced) = parser.next(Bytes(text), &position) else {
                Issue.record("complete after \(text)")
                return
            }
            #expect(announced == needed)
        }
    }

    @Test(arguments: [
        ("*" + String(repeating: "1", count: 70_000), "too big mbulk count string"),
        ("*1\r\n$" + String(repeating: "1", count: 70_000), "too big bulk count string"),
        (String(repeating: "a", count: 70_000), "too big inline request"),
        ("*101\r\n", "invalid multibulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
    ])
    func whatCannotBeIsAViolation(text: String, sentence: String) {
        #expect(requests(Array(text.utf8), cuts: []) == ["violation: ERR Protocol error: \(sentence)"])
    }

    @Test(
        arguments: [
            ("0", 0), ("-1", -1), ("9223372036854775807", .max), ("-9223372036854775808", .min),
            ("9223372036854775808", nil),
            ("-9223372036854775809", nil), ("", nil), ("-", nil), ("-0", nil), ("01", nil), ("+1", nil), (" 1", nil),
            ("1 ", nil), ("1a", nil), ("99999999999999999999", nil),
        ] as [(String, Int64?)])
    func integersAreReadStrictly(text: String, number: Int64?) {
        #expect(Bytes(text).strictInteger == number)
    }
}

@Suite("Glob patterns")
struct GlobPatternTests {
    @Test(arguments: [
        ("", "", true), ("", "a", false), ("*", "", true), ("*", "abc", true), ("a*c", "abc", true),
        ("a*c", "abcd", false),
        ("a**c", "ac", true), ("?", "", false), ("?", "a", true), ("h?llo", "hello", true), ("h[ae]llo", "hallo", true),
        ("h[ae]llo", "hillo", false), ("h[^e]llo", "hallo", true), ("h[^e]llo", "hello", false),
        ("h[a-c]llo", "hbllo", true),
        ("h[c-a]llo", "hbllo", true), ("[\\]]", "]", true), ("[a", "a", true), ("[", "a", false), ("\\*", "*", true),
        ("\\*", "a", false), ("a\\", "a\\", true), ("*a*b*", "xxaxxbxx", true), ("*a*b*", "xxbxxaxx", false),
        ("user:*:name", "user:17:name", true), ("user:*:name", "user:17:names", false), ("A", "a", false),
    ])
    func aPatternMatchesAsInRedis(pattern: String, text: String, matches: Bool) {
        #expect(GlobPattern(Bytes(pattern)).matches(Bytes(text)) == matches)
    }

    @Test func aHostilePatternIsCheap() {
        let pattern = Bytes(String(repeating: "a*", count: 500) + "b")
        #expect(!GlobPattern(pattern).matches(Bytes(String(repeating: "a", count: 5000))))
    }
}

@Suite("Recognising the protocol")
struct ProtocolOpeningTests {
    @Test(
        arguments: [
            ("", nil), ("*", true), ("*1\r\n", true), ("PING\r\n", true), ("P", nil), ("PR", nil), ("PRPC", false),
            ("PI", true),
            ("P\r\n", true), ("GET", nil), ("GET ", nil), ("GET /", false), ("GET key", true), ("get /", true),
            ("POST /x", false),
            ("HEAD", nil), ("HELLO 3", true), ("H", nil), ("DELETE ", false), ("DEL a", true),
            ("OPTIONS * HTTP/1.1", false),
            ("PRI * HTTP/2.0", false), ("\"ping\"", true), ("\r\n", true), ("\u{1}", false), ("{", false),
            ("$3", false),
        ] as [(String, Bool?)])
    func theFirstBytesTell(text: String, expected: Bool?) {
        #expect(RedisServer.matches(Bytes(text)) == expected)
    }
}

@Suite("Scan cursors")
struct ScanCursorsTests {
    @Test func aCursorKeepsItsKeyUntilItIsTheOldestOfTooMany() {
        var cursors = ScanCursors(countMax: 3, bytesMax: 1000, firstNumber: 50)
        let numbers = (0..<20).map { cursors.number(for: Bytes("k\($0)")) }
        #expect(numbers == Array(50..<70))
        for (index, number) in numbers.enumerated() {
            #expect(cursors.key(for: number) == (index < 17 ? nil : Bytes("k\(index)")))
        }
        #expect(cursors.key(for: 70) == nil)
        #expect(cursors.key(for: 49) == nil)
        #expect(cursors.key(for: .max) == nil)
    }

    @Test func longKeysAreForgottenSooner() {
        var cursors = ScanCursors(countMax: 100, bytesMax: 25, firstNumber: 1)
        let long = Bytes([UInt8](repeating: 1, count: 10))
        let numbers = (0..<4).map { _ in cursors.number(for: long) }
        #expect(numbers.map { cursors.key(for: $0) != nil } == [false, false, true, true])
    }
}

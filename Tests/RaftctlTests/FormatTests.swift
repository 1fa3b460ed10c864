import RaftCore
import Testing

@testable import raftctl

private func parse(_ line: String, _ format: RecordFormat) -> Result<Record, MalformedRecord> {
    var line = line
    return line.withUTF8 { format.record(UnsafeRawBufferPointer($0)) }
}

@Suite("Escapes") struct EscapesTests {
    @Test("whatever the bytes, their text is UTF-8 without control characters, and reads back as the same")
    func roundTrip() throws {
        var random = SeededRandom(seed: 7)
        var samples = (0...255).map { [UInt8($0)] } + [[], Array("grüße, 世界".utf8), [0xc3], [0xed, 0xa0, 0x80]]
        for _ in 0..<500 {
            samples.append(
                (0..<Int.random(in: 0...20, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) })
        }
        for sample in samples {
            var output: [UInt8] = []
            Escapes.append(Bytes(sample), to: &output)
            #expect(String(validating: output, as: UTF8.self) != nil)
            #expect(output.allSatisfy { $0 >= 0x20 && $0 != 0x7f })
            #expect(Escapes.bytes(Escapes.text(Bytes(sample))) == Bytes(sample))
        }
    }

    @Test("text stays readable")
    func readable() {
        #expect(Escapes.text(Bytes("grüße")) == "grüße")
        #expect(Escapes.text(Bytes([0x61, 0xff, 0x0a, 0x00, 0x5c])) == #"a\xff\n\0\\"#)
    }

    @Test("either case of hexadecimal digits is read", arguments: [#"\xaB"#, #"\xAb"#])
    func hexadecimal(text: String) { #expect(Escapes.bytes(text) == Bytes([0xab])) }

    @Test("a backslash that begins no escape is refused", arguments: [#"\"#, #"a\q"#, #"\x"#, #"\x1"#, #"\xg0"#])
    func refused(text: String) { #expect(Escapes.bytes(text) == nil) }
}

@Suite("Base64") struct Base64Tests {
    @Test(
        "RFC 4648 §10",
        arguments: [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ])
    func vectors(plain: String, encoded: String) {
        #expect(Base64.encoded(Bytes(plain)) == encoded)
        #expect(Base64.decoded(Array(encoded.utf8)) == Bytes(plain))
    }

    @Test("what is not canonical is refused", arguments: ["Zg=", "Zg", "Zh==", "Z===", "Zg==Zg==", "Z!==", "===="])
    func refused(text: String) { #expect(Base64.decoded(Array(text.utf8)) == nil) }
}

@Suite("Record lines") struct RecordFormatTests {
    @Test("a written record reads back", arguments: [RecordFormat.tsv, .jsonl])
    func roundTrip(format: RecordFormat) {
        var random = SeededRandom(seed: 11)
        for _ in 0..<500 {
            let key = (0..<Int.random(in: 1...9, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            let value = (0..<Int.random(in: 0...9, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random)
            }
            let record = Record(key: Bytes(key), value: Bytes(value))
            var line: [UInt8] = []
            format.append(record, to: &line)
            #expect(line.filter { $0 == 0x0a }.count == 1 && line.last == 0x0a)
            #expect(parse(String(decoding: line.dropLast(), as: UTF8.self), format) == .success(record))
        }
    }

    @Test("lines of other programs")
    func foreign() {
        let record = Record(key: Bytes("k"), value: Bytes("a😀\n/"))
        #expect(parse(#" { "value" : "a\uD83D\ude00\n\/" , "key":"\u006b" } "#, .jsonl) == .success(record))
        #expect(
            parse(#"{"key_base64":"aw==","value":"v"}"#, .jsonl) == .success(Record(key: Bytes("k"), value: Bytes("v")))
        )
        #expect(parse("k\t", .tsv) == .success(Record(key: Bytes("k"), value: Bytes())))
    }

    @Test(
        "malformed TSV says why",
        arguments: [
            ("key", "no tab"), ("a\tb\tc", "more than one tab"), ("a\t\\q", "backslash"), ("\tv", "1 to 65536"),
        ])
    func malformedTSV(line: String, reason: String) throws {
        guard case .failure(let malformed) = parse(line, .tsv) else { return #expect(Bool(false), "accepted") }
        #expect(malformed.reason.contains(reason))
    }

    @Test(
        "malformed JSON says why",
        arguments: [
            ("{}", "no key"), (#"{"key":"a"}"#, "no value"), (#"{"key":"a","value":1}"#, "not an object"),
            (#"{"key":"a","value":"b"}x"#, "not an object"), (#"{"key":"a","value":"b",}"#, "not an object"),
            (#"{"key":"a","value":"\ud800"}"#, "not an object"), (#"{"key":"a","value":"b","more":"c"}"#, "unknown"),
            (#"{"key":"a","key_base64":"YQ==","value":"b"}"#, "two members"),
            (#"{"key":"a","value_base64":"?"}"#, "base64"),
            ("[]", "not an object"), (#"{"key":"a"#, "not an object"),
            ("{\"key\":\"a\tb\",\"value\":\"\"}", "not an object"),
        ])
    func malformedJSON(line: String, reason: String) {
        guard case .failure(let malformed) = parse(line, .jsonl) else { return #expect(Bool(false), "accepted") }
        #expect(malformed.reason.contains(reason))
    }
}

@Suite("Output") struct OutputTests {
    @Test("JSON: members keep their order, bytes that are not UTF-8 have their exact form beside them")
    func json() {
        let members: [(String, JSON)] =
            [("z", .integer(-1)), ("a", .optional(nil as String?))] + JSON.members("key", Bytes([0xff]))
            + JSON.members("text", Bytes("a\"\\\u{1}"))
        let expected = #"{"z":-1,"a":null,"key":"\\xff","key_base64":"/w==","text":"a\"\\\u0001"}"#
        #expect(JSON.object(members).text == expected)
    }

    @Test("tables are aligned, numbers to the right, without trailing space")
    func table() {
        var table = Table(["NAME", "N", "X"], numeric: [1])
        table.add(["a", "100", ""])
        table.add(["longer", "7", "y"])
        #expect(table.text == "NAME      N  X\na       100\nlonger    7  y")
    }

    @Test("numbers for people")
    func quantities() {
        #expect(Quantity.bytes(999) == "999 B")
        #expect(Quantity.bytes(1000) == "1.0 kB")
        #expect(Quantity.bytes(999_999) == "1.0 MB")
        #expect(Quantity.bytes(52_400_000) == "52.4 MB")
        #expect(Quantity.duration(milliseconds: 3_725_000) == "1h2m")
    }

    @Test("progress with and without a known total")
    func progress() {
        let count = Progress.Count(records: 50, payloadBytes: 2000, fileBytes: 0)
        let bar = Progress.line("import", count, share: 0.5, total: 100, rate: 10, isBar: true)
        #expect(bar == "import: [############------------]  50%  50/100  10/s  2.0 kB")
        let plain = Progress.line("import", count, share: nil, total: nil, rate: 10, isBar: false)
        #expect(plain == "import: 50 records  10/s  2.0 kB")
    }
}

import CMessages
import CProtobufC
import Glibc
import RaftCore
import Testing
import WireMessages

@testable import Gateway

private func descriptor<M>(_ initialize: (UnsafeMutablePointer<M>?) -> Void) -> JsonMapping.Descriptor {
    let message = UnsafeMutablePointer<M>.allocate(capacity: 1)
    defer { message.deallocate() }
    initialize(message)
    return UnsafeRawPointer(message).load(as: ProtobufCMessage.self).descriptor
}

/// Packs random messages by their descriptors, in protobuf's plain form; written here without the code under test.
private struct RandomMessages {
    var random: SeededRandom

    mutating func message(_ descriptor: JsonMapping.Descriptor, depth: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for field in descriptor.fields {
            let count: Int
            if field.isRequired {
                count = 1
            } else {
                count = depth > 4 ? 0 : Int(random.next() % (field.isRepeated ? 4 : 2))
            }
            if field.flags & 1 != 0, field.isRepeated {
                guard count > 0 else { continue }
                let run = (0..<count).flatMap { _ in value(field, depth) }
                bytes += varint(UInt64(field.id) << 3 | 2) + varint(UInt64(run.count)) + run
            } else {
                for _ in 0..<count { bytes += varint(UInt64(field.id) << 3 | wireType(field)) + value(field, depth) }
            }
        }
        return bytes
    }

    private func wireType(_ field: ProtobufCFieldDescriptor) -> UInt64 {
        switch field.kind {
        case .fixed64, .sfixed64, .double: 1
        case .fixed32, .sfixed32, .float: 5
        case .string, .bytes, .message: 2
        default: 0
        }
    }

    private mutating func value(_ field: ProtobufCFieldDescriptor, _ depth: Int) -> [UInt8] {
        let extremes: [UInt64] = [0, 1, 0x7f, 0x80, 1 << 31 - 1, 1 << 31, 1 << 53 + 1, 1 << 63 - 1, 1 << 63, .max]
        let number = random.next() % 3 == 0 ? random.next() : extremes[Int(random.next() % UInt64(extremes.count))]
        switch field.kind {
        case .bool: return [UInt8(number & 1)]
        case .enumeration:
            let known = field.descriptor.assumingMemoryBound(to: ProtobufCEnumDescriptor.self).pointee
            let chosen = known.values[Int(number % UInt64(known.n_values))].value
            return varint(UInt64(bitPattern: Int64(chosen)))
        case .int32: return varint(UInt64(bitPattern: Int64(Int32(truncatingIfNeeded: number))))
        case .uint32, .sint32: return varint(number & 0xffff_ffff)
        case .fixed32, .sfixed32: return little(UInt32(truncatingIfNeeded: number))
        case .fixed64, .sfixed64: return little(number)
        case .float: return little(Float(Double(number) / 7).bitPattern)
        case .double: return little((Double(number) / 7).bitPattern)
        case .string:
            let texts = ["", "g1", "\"\\\u{1}\n\u{7f}/", "größe 群 \u{1F600}", String(number)]
            let text = Array(texts[Int(number % UInt64(texts.count))].utf8)
            return varint(UInt64(text.count)) + text
        case .bytes:
            let bytes = (0..<Int(number % 9)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            return varint(UInt64(bytes.count)) + bytes
        case .message:
            let inner = message(
                field.descriptor.assumingMemoryBound(to: ProtobufCMessageDescriptor.self), depth: depth + 1)
            return varint(UInt64(inner.count)) + inner
        default: return varint(number)
        }
    }

    private func varint(_ number: UInt64) -> [UInt8] {
        var (rest, bytes): (UInt64, [UInt8]) = (number, [])
        while rest > 0x7f {
            bytes.append(UInt8(rest & 0x7f) | 0x80)
            rest >>= 7
        }
        return bytes + [UInt8(rest)]
    }

    private func little(_ number: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: number.littleEndian) { Array($0) }
    }
}

@Suite("Messages as JSON") struct JsonMappingTests {
    private let mapping = JsonMapping()

    private func decode<M>(_ text: String, _ initialize: (UnsafeMutablePointer<M>?) -> Void) throws(JsonProblem)
        -> Bytes
    {
        try mapping.decode(Bytes(text), as: descriptor(initialize))
    }

    private func encode<M>(_ bytes: Bytes, _ initialize: (UnsafeMutablePointer<M>?) -> Void) throws(JsonProblem)
        -> String
    {
        String(decoding: try mapping.encode(bytes, as: descriptor(initialize)), as: UTF8.self)
    }

    private func problem<M>(_ text: String, _ initialize: (UnsafeMutablePointer<M>?) -> Void) -> String {
        do throws(JsonProblem) {
            let bytes = try decode(text, initialize)
            return "taken as \(bytes)"
        } catch {
            return error.text
        }
    }

    /// Every message that a service knows goes to JSON and comes back as the same bytes.
    @Test(arguments: 0..<40) func randomMessagesComeBack(seed: Int) throws {
        var messages = RandomMessages(random: SeededRandom(seed: UInt64(seed) + 1))
        let catalog = ServiceCatalog()
        var seen = 0
        for service in catalog.names {
            for name in catalog.methods(of: service) {
                let method = try #require(catalog.method(service, name))
                for descriptor in [method.request, method.reply] {
                    let bytes = Bytes(messages.message(descriptor, depth: 1))
                    let text = try mapping.encode(bytes, as: descriptor)
                    #expect(String(validating: text, as: UTF8.self) != nil)
                    let again = try mapping.decode(Bytes(text), as: descriptor)
                    #expect(again == bytes, "\(service).\(name): \(String(decoding: text, as: UTF8.self))")
                    seen += 1
                }
            }
        }
        #expect(seen > 80)
    }

    @Test func fieldsAreWrittenAsBrpcWritesThem() throws {
        let append =
            #"{"group_id":"g","server_id":"s","peer_id":"p","term":2,"prev_log_term":1,"prev_log_index":7,"#
            + #""entries":[{"term":2,"type":"ENTRY_TYPE_CONFIGURATION","peers":["a","b"],"data_len":0}],"committed_index":7}"#
        let packed = try decode(append, braft__append_entries_request__init)
        #expect(try encode(packed, braft__append_entries_request__init) == append)
        let widely = append.replacing("\"term\":2", with: "\"term\":\"2\"").replacing(
            "\"ENTRY_TYPE_CONFIGURATION\"", with: "3"
        ).replacing("{\"group_id\"", with: " { \"unknown\":[{}], \"group_id\"")
        #expect(try decode(widely, braft__append_entries_request__init) == packed)
        // what is not set is not written, empty lists neither
        #expect(try encode(Bytes(), braft__change_peers_response__init) == "{}")
        #expect(try decode(#"{"old_peers":[],"new_peers":null}"#, braft__change_peers_response__init).isEmpty)
    }

    /// By a descriptor made by hand, for no message here has fields of every type.
    @Test func everyTypeIsMapped() throws {
        let types: [(FieldKind, [String])] = [
            (.int32, ["-2147483648", "0"]), (.sint32, ["-2147483648", "2147483647"]), (.sfixed32, ["-1"]),
            (.int64, ["-9223372036854775808"]), (.sint64, ["-9223372036854775808", "9223372036854775807", "-1"]),
            (.sfixed64, ["-2"]), (.uint32, ["4294967295"]), (.fixed32, ["4294967295"]),
            (.uint64, ["9223372036854775807", "\"18446744073709551615\""]), (.fixed64, ["\"9223372036854775808\""]),
            (.float, ["1.5", "-0.0", "\"NaN\"", "\"Infinity\"", "\"-Infinity\"", "3.4028235e+38"]),
            (.double, ["0.1", "\"NaN\"", "\"-Infinity\"", "5e-324", "1.7976931348623157e+308"]),
            (.bool, ["true", "false"]), (.string, ["\"\"", "\"\\u0001 \\\" \\\\ é\""]), (.bytes, ["\"AP8=\""]),
        ]
        for (kind, values) in types {
            let descriptor = try Self.handmade(of: kind)
            for text in values.map({ "{\"f\":\($0),\"r\":[]}" }) + [
                "{\"f\":\(values[0]),\"r\":[\(values.joined(separator: ","))]}"
            ] {
                let packed = try mapping.decode(Bytes(text), as: descriptor)
                let again = String(decoding: try mapping.encode(packed, as: descriptor), as: UTF8.self)
                #expect(again == text.replacing(",\"r\":[]", with: ""), "\(kind)")
            }
            for bad in ["[]", "{}", kind == .bool ? "1" : "true", kind == .string ? "1" : "\"x\"", "-1e400"] {
                #expect(throws: JsonProblem.self, "\(kind): \(bad)") {
                    try mapping.decode(Bytes("{\"f\":\(bad)}"), as: descriptor)
                }
            }
        }
        #expect(throws: JsonProblem.self) {
            try mapping.decode(Bytes("{\"f\":1e39}"), as: try Self.handmade(of: .float))
        }
    }

    /// A message with a required field `f` and a repeated one `r`. Its memory is never freed.
    private static func handmade(of kind: FieldKind) throws -> JsonMapping.Descriptor {
        let fields = UnsafeMutablePointer<ProtobufCFieldDescriptor>.allocate(capacity: 2)
        for (position, (name, label)) in [("f", 0), ("r", 2)].enumerated() {
            var field = ProtobufCFieldDescriptor()
            field.name = UnsafePointer(strdup(name))
            field.id = UInt32(position + 1)
            field.label = ProtobufCLabel(rawValue: UInt32(label))
            field.type = ProtobufCType(rawValue: kind.rawValue)
            (field.offset, field.quantifier_offset) = (UInt32(24 + 16 * position), 56)
            (fields + position).initialize(to: field)
        }
        let ranges = UnsafeMutablePointer<ProtobufCIntRange>.allocate(capacity: 2)
        ranges.initialize(to: ProtobufCIntRange(start_value: 1, orig_index: 0))
        (ranges + 1).initialize(to: ProtobufCIntRange(start_value: 0, orig_index: 2))
        let descriptor = UnsafeMutablePointer<ProtobufCMessageDescriptor>.allocate(capacity: 1)
        descriptor.initialize(to: ProtobufCMessageDescriptor())
        descriptor.pointee.magic = 0x28aa_eef9
        descriptor.pointee.name = UnsafePointer(strdup("test.Message"))
        (descriptor.pointee.sizeof_message, descriptor.pointee.n_fields) = (64, 2)
        descriptor.pointee.fields = UnsafePointer(fields)
        (descriptor.pointee.n_field_ranges, descriptor.pointee.field_ranges) = (1, UnsafePointer(ranges))
        return UnsafePointer(descriptor)
    }

    @Test func bytesAreBase64() throws {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("/+8=", "\u{ff}\u{ef}")] {
            let expected = bytes.unicodeScalars.map { UInt8($0.value) }
            let packed = try decode(#"{"user_meta":"\#(text)"}"#, braft__local_file_meta__init)
            #expect(packed.array == [0x0a, UInt8(expected.count)] + expected)
            #expect(try encode(packed, braft__local_file_meta__init) == #"{"user_meta":"\#(text)"}"#)
        }
        for text in ["Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zg==Zg==", "Z g=", "Zg=x", "=", "====", "é==="] {
            #expect(
                problem(#"{"user_meta":"\#(text)"}"#, braft__local_file_meta__init) == "user_meta is not base64",
                "\(text)")
        }
    }

    @Test func integersKeepTheirLimits() throws {
        let get = { (count: String) in #"{"reader_id":\#(count),"filename":"f","count":0,"offset":0}"# }
        for good in ["9223372036854775807", "-9223372036854775808", "\"-9223372036854775808\"", "\"0007\"", "-0"] {
            #expect(throws: Never.self) { try decode(get(good), braft__get_file_request__init) }
        }
        for bad in [
            "\"9223372036854775808\"", "\"\"", "\" 1\"", "\"+1\"", "\"1.0\"", "\"0x1\"", "1.0", "1e3", "true", "[]",
            "{}",
        ] {
            #expect(problem(get(bad), braft__get_file_request__init) == "reader_id is an integer of 64 bits", "\(bad)")
        }
        #expect(problem(get("9223372036854775808"), braft__get_file_request__init).contains("too big integer"))
        #expect(problem(get("1e999"), braft__get_file_request__init).contains("real number overflow"))
        #expect(problem(#"{"groups":4294967296,"replicas":1}"#, flotilla__init_request__init).contains("32 bits"))
        #expect(problem(#"{"groups":-1,"replicas":1}"#, flotilla__init_request__init).contains("32 bits"))
    }

    @Test(arguments: [
        #"{"group_id":"a","group_id":"b"}"#, "[]", "3", "\"g\"", "null", "{", "{\"group_id\":\"g\"} x",
        "{'group_id':'g'}",
        #"{"group_id":"\ud800"}"#, #"{"group_id":"\udc00\ud800"}"#, #"{"group_id":"a\u0000b"}"#,
        "{\"group_id\":\"a\nb\"}",
        #"{"group_id":1}"#, #"{"group_id":["g"]}"#, #"{"group_id":"g","peer_id":{}}"#, "{\"group_id\":\"g\",}",
        "\u{feff}{}",
    ])
    func whatIsNotTheMessageIsRefused(text: String) {
        #expect(!problem(text, braft__get_leader_request__init).hasPrefix("taken as"), "\(text)")
    }

    @Test func invalidUTF8IsRefusedAndNeverWritten() throws {
        for bytes: [UInt8] in [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xc3]] {
            let text = Array("{\"group_id\":\"".utf8) + bytes + Array("\"}".utf8)
            #expect(throws: JsonProblem.self) {
                try mapping.decode(Bytes(text), as: descriptor(braft__get_leader_request__init))
            }
            let packed = Bytes([0x0a, UInt8(bytes.count)] + bytes)
            let written = try mapping.encode(packed, as: descriptor(braft__get_leader_response__init))
            #expect(String(validating: written, as: UTF8.self) != nil)
        }
    }

    @Test func depthIsBounded() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = String(repeating: open, count: 100_000) + "1" + String(repeating: close, count: 100_000)
            #expect(
                problem("{\"group_id\":\"g\",\"x\":\(deep)}", braft__get_leader_request__init).contains(
                    "maximum parsing depth"))
        }
    }
}

internal import CJansson
internal import CProtobufC
internal import RaftCore
internal import WireMessages

/// Why a text is not the message that is wanted.
struct JsonProblem: Error, Equatable {
    let text: String
    init(_ text: String) { self.text = text }
}

/// Messages as JSON, by protobuf-c's descriptors, as brpc maps them: an object with the fields' own names, arrays for
/// repeated fields, 64-bit integers as numbers, bytes in base64, enums by name. Lane-confined.
///
/// Read more widely than written: an integer may also be a decimal string, an enum a number, a floating-point number the
/// string `NaN`, `Infinity` or `-Infinity`; `null` is a field that is not there, and names that the message does not have
/// are passed over. A name that comes twice is refused. A uint64 above 2^63-1 is a string in both directions, for the
/// parser has no such numbers.
final class JsonMapping {
    typealias Descriptor = UnsafePointer<ProtobufCMessageDescriptor>

    /// Messages in messages.
    static let depthMax = 100

    private let arena = Arena()

    // MARK: from JSON

    /// The packed message that `text` says; no text at all is one without fields.
    func decode(_ text: Bytes, as descriptor: Descriptor) throws(JsonProblem) -> Bytes {
        guard !text.isEmpty else {
            for field in descriptor.fields where field.isRequired {
                throw JsonProblem(missing: field, of: descriptor)
            }
            return Bytes()
        }
        var error = json_error_t()
        let parsed = text.withUnsafeBytes { buffer in
            json_loadb(buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count, 0x1, &error)
        }
        guard let root = parsed else {
            let reason = withUnsafeBytes(of: error.text) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            throw JsonProblem("not JSON, at byte \(max(0, error.position)): \(reason)")
        }
        defer { json_decref(root) }
        var packed: [UInt8] = []
        try write(root, descriptor, depth: 1, to: &packed)
        return Bytes(packed)
    }

    private typealias Value = UnsafeMutablePointer<json_t>

    private func write(
        _ object: Value, _ descriptor: Descriptor, depth: Int, to packed: inout [UInt8]
    ) throws(JsonProblem) {
        guard depth <= JsonMapping.depthMax else { throw JsonProblem("more than \(JsonMapping.depthMax) levels") }
        guard object.pointee.type == JSON_OBJECT else {
            throw JsonProblem("\(String(cString: descriptor.pointee.name)) is an object")
        }
        for field in descriptor.fields {
            guard let value = json_object_get(object, field.name), value.pointee.type != JSON_NULL else {
                guard !field.isRequired else {
                    throw JsonProblem(missing: field, of: descriptor)
                }
                continue
            }
            guard field.isRepeated else {
                try write(value, field, depth, withTag: true, to: &packed)
                continue
            }
            guard value.pointee.type == JSON_ARRAY else { throw JsonProblem("\(field.title) is an array") }
            let count = json_array_size(value)
            guard field.isPacked else {
                for position in 0..<count {
                    guard let element = json_array_get(value, position) else { continue }
                    try write(element, field, depth, withTag: true, to: &packed)
                }
                continue
            }
            guard count > 0 else { continue }
            var elements: [UInt8] = []
            for position in 0..<count {
                guard let element = json_array_get(value, position) else { continue }
                try write(element, field, depth, withTag: false, to: &elements)
            }
            packed.appendTag(field.id, .bytes)
            packed.appendRun(elements)
        }
    }

    private func write(
        _ value: Value, _ field: ProtobufCFieldDescriptor, _ depth: Int, withTag: Bool, to packed: inout [UInt8]
    ) throws(JsonProblem) {
        if withTag { packed.appendTag(field.id, field.wireType) }
        switch field.kind {
        case .int32:
            packed.appendVarint(UInt64(bitPattern: Int64(try integer(value, field) as Int32)))
        case .int64: packed.appendVarint(UInt64(bitPattern: try integer(value, field)))
        case .uint32: packed.appendVarint(UInt64(try integer(value, field) as UInt32))
        case .uint64: packed.appendVarint(try integer(value, field))
        case .sint32:
            let number: Int32 = try integer(value, field)
            packed.appendVarint(UInt64(UInt32(bitPattern: number << 1 ^ number >> 31)))
        case .sint64:
            let number: Int64 = try integer(value, field)
            packed.appendVarint(UInt64(bitPattern: number << 1 ^ number >> 63))
        case .sfixed32: packed.appendFixed(UInt32(bitPattern: try integer(value, field)))
        case .fixed32: packed.appendFixed(try integer(value, field) as UInt32)
        case .sfixed64: packed.appendFixed(UInt64(bitPattern: try integer(value, field)))
        case .fixed64: packed.appendFixed(try integer(value, field) as UInt64)
        case .float:
            let wide = try real(value, field)
            let number = Float(wide)
            guard number.isFinite || !wide.isFinite else { throw JsonProblem("\(field.title) is out of range") }
            packed.appendFixed(number.bitPattern)
        case .double: packed.appendFixed(try real(value, field).bitPattern)
        case .bool:
            guard value.pointee.type == JSON_TRUE || value.pointee.type == JSON_FALSE else {
                throw JsonProblem("\(field.title) is true or false")
            }
            packed.append(value.pointee.type == JSON_TRUE ? 1 : 0)
        case .enumeration:
            packed.appendVarint(UInt64(bitPattern: Int64(try enumeration(value, field))))
        case .string: packed.appendRun(try string(value, field))
        case .bytes:
            guard let bytes = Base64.decoded(try string(value, field)) else {
                throw JsonProblem("\(field.title) is not base64")
            }
            packed.appendRun(bytes)
        case .message:
            guard let descriptor = field.message else { throw JsonProblem("\(field.title) has no type") }
            var inner: [UInt8] = []
            try write(value, descriptor, depth: depth + 1, to: &inner)
            packed.appendRun(inner)
        case nil: throw JsonProblem("\(field.title) has an unknown type")
        }
    }

    private func string(
        _ value: Value, _ field: ProtobufCFieldDescriptor
    ) throws(JsonProblem) -> UnsafeRawBufferPointer {
        guard value.pointee.type == JSON_STRING else { throw JsonProblem("\(field.title) is a string") }
        return UnsafeRawBufferPointer(start: json_string_value(value), count: json_string_length(value))
    }

    private func integer<Number: FixedWidthInteger>(
        _ value: Value, _ field: ProtobufCFieldDescriptor
    ) throws(JsonProblem) -> Number {
        let number: Number?
        switch value.pointee.type {
        case JSON_INTEGER: number = Number(exactly: json_integer_value(value))
        case JSON_STRING:
            let text = String(decoding: try string(value, field), as: UTF8.self)
            number = text.hasPrefix("+") ? nil : Number(text)
        default: number = nil
        }
        guard let number else { throw JsonProblem("\(field.title) is an integer of \(Number.bitWidth) bits") }
        return number
    }

    private func real(_ value: Value, _ field: ProtobufCFieldDescriptor) throws(JsonProblem) -> Double {
        switch value.pointee.type {
        case JSON_REAL, JSON_INTEGER: return json_number_value(value)
        case JSON_STRING:
            switch String(decoding: try string(value, field), as: UTF8.self) {
            case "NaN": return .nan
            case "Infinity": return .infinity
            case "-Infinity": return -.infinity
            default: break
            }
        default: break
        }
        throw JsonProblem("\(field.title) is a number")
    }

    private func enumeration(_ value: Value, _ field: ProtobufCFieldDescriptor) throws(JsonProblem) -> Int32 {
        let descriptor = field.enumeration
        if value.pointee.type == JSON_STRING {
            if let known = protobuf_c_enum_descriptor_get_value_by_name(descriptor, json_string_value(value)) {
                return known.pointee.value
            }
        } else if let known = protobuf_c_enum_descriptor_get_value(descriptor, try integer(value, field)) {
            return known.pointee.value
        }
        throw JsonProblem("\(field.title) has no such value")
    }

    // MARK: to JSON

    /// The packed `message` in JSON.
    func encode(_ message: Bytes, as descriptor: Descriptor) throws(JsonProblem) -> [UInt8] {
        var text: [UInt8] = []
        try arena.scope { (arena) throws(JsonProblem) in
            guard let unpacked = arena.unpackBase(descriptor, message) else {
                throw JsonProblem("no \(String(cString: descriptor.pointee.name))")
            }
            try write(UnsafeRawPointer(unpacked), descriptor, depth: 1, to: &text)
        }
        return text
    }

    private func write(
        _ message: UnsafeRawPointer, _ descriptor: Descriptor, depth: Int, to text: inout [UInt8]
    ) throws(JsonProblem) {
        guard depth <= JsonMapping.depthMax else { throw JsonProblem("more than \(JsonMapping.depthMax) levels") }
        text.append(UInt8(ascii: "{"))
        var isFirst = true
        for field in descriptor.fields where field.isPresent(in: message) {
            if !isFirst { text.append(UInt8(ascii: ",")) }
            isFirst = false
            text.appendString(String(cString: field.name))
            text.append(UInt8(ascii: ":"))
            let place = message + Int(field.offset)
            guard field.isRepeated else {
                try write(place, field, depth, to: &text)
                continue
            }
            let count = message.load(fromByteOffset: Int(field.quantifier_offset), as: Int.self)
            let elements = place.load(as: UnsafeRawPointer.self)
            text.append(UInt8(ascii: "["))
            for position in 0..<count {
                if position > 0 { text.append(UInt8(ascii: ",")) }
                try write(elements + position * field.stride, field, depth, to: &text)
            }
            text.append(UInt8(ascii: "]"))
        }
        text.append(UInt8(ascii: "}"))
    }

    private func write(
        _ place: UnsafeRawPointer, _ field: ProtobufCFieldDescriptor, _ depth: Int, to text: inout [UInt8]
    ) throws(JsonProblem) {
        switch field.kind {
        case .int32, .sint32, .sfixed32:
            text.append(contentsOf: "\(place.load(as: Int32.self))".utf8)
        case .int64, .sint64, .sfixed64:
            text.append(contentsOf: "\(place.load(as: Int64.self))".utf8)
        case .uint32, .fixed32:
            text.append(contentsOf: "\(place.load(as: UInt32.self))".utf8)
        case .uint64, .fixed64:
            let number = place.load(as: UInt64.self)
            text.append(contentsOf: (number > UInt64(Int64.max) ? "\"\(number)\"" : "\(number)").utf8)
        case .float: text.appendReal(place.load(as: Float.self))
        case .double: text.appendReal(place.load(as: Double.self))
        case .bool:
            text.append(contentsOf: (place.load(as: protobuf_c_boolean.self) != 0 ? "true" : "false").utf8)
        case .enumeration:
            let number = place.load(as: Int32.self)
            if let known = protobuf_c_enum_descriptor_get_value(field.enumeration, number) {
                text.appendString(String(cString: known.pointee.name))
            } else {
                text.append(contentsOf: "\(number)".utf8)
            }
        case .string:
            text.appendString(String(field: place.load(as: UnsafePointer<CChar>?.self)))
        case .bytes:
            let data = place.load(as: ProtobufCBinaryData.self)
            text.append(UInt8(ascii: "\""))
            Base64.append(UnsafeRawBufferPointer(start: data.data, count: data.len), to: &text)
            text.append(UInt8(ascii: "\""))
        case .message:
            guard let descriptor = field.message, let inner = place.load(as: UnsafeRawPointer?.self) else {
                throw JsonProblem("\(field.title) has no value")
            }
            try write(inner, descriptor, depth: depth + 1, to: &text)
        case nil: throw JsonProblem("\(field.title) has an unknown type")
        }
    }
}

// MARK: descriptors

extension UnsafePointer<ProtobufCMessageDescriptor> {
    /// Ascending by number, as they are packed.
    var fields: UnsafeBufferPointer<ProtobufCFieldDescriptor> {
        UnsafeBufferPointer(start: pointee.fields, count: Int(pointee.n_fields))
    }
}

extension JsonProblem {
    fileprivate init(missing field: ProtobufCFieldDescriptor, of descriptor: JsonMapping.Descriptor) {
        self.init("Missing required field: \(String(cString: descriptor.pointee.name)).\(String(cString: field.name))")
    }
}

/// `ProtobufCType`, in its order: the names that it has in C are of two modules, and so of none.
enum FieldKind: UInt32 {
    case int32, sint32, sfixed32, int64, sint64, sfixed64, uint32, fixed32, uint64, fixed64, float, double, bool
    case enumeration, string, bytes, message
}

extension ProtobufCFieldDescriptor {
    fileprivate var title: String { String(cString: name) }
    /// Its type; nil if it is one that did not exist when this was written.
    var kind: FieldKind? { FieldKind(rawValue: type.rawValue) }
    var isRequired: Bool { label.rawValue == 0 }
    var isRepeated: Bool { label.rawValue == 2 }

    fileprivate var message: JsonMapping.Descriptor? {
        descriptor?.assumingMemoryBound(to: ProtobufCMessageDescriptor.self)
    }

    fileprivate var enumeration: UnsafePointer<ProtobufCEnumDescriptor>? {
        descriptor?.assumingMemoryBound(to: ProtobufCEnumDescriptor.self)
    }

    /// Elements one behind the other, under one tag.
    fileprivate var isPacked: Bool { flags & (1 << 0) != 0 }

    fileprivate var wireType: WireType {
        switch kind {
        case .sfixed32, .fixed32, .float: .fixed32
        case .sfixed64, .fixed64, .double: .fixed64
        case .string, .bytes, .message: .bytes
        default: .varint
        }
    }

    /// Size of an element in a repeated field's array.
    fileprivate var stride: Int {
        switch kind {
        case .bytes: MemoryLayout<ProtobufCBinaryData>.stride
        case .string, .message: MemoryLayout<UnsafeRawPointer>.stride
        case .int64, .sint64, .sfixed64, .uint64,
            .fixed64, .double:
            8
        default: 4
        }
    }

    /// Whether the field is set.
    fileprivate func isPresent(in message: UnsafeRawPointer) -> Bool {
        let quantifier = message + Int(quantifier_offset)
        if isRequired { return true }
        if isRepeated { return quantifier.load(as: Int.self) > 0 }
        if flags & (1 << 2) != 0 { return quantifier.load(as: UInt32.self) == id }
        switch kind {
        case .string, .message:
            let value = (message + Int(offset)).load(as: UnsafeRawPointer?.self)
            return value != nil && value != default_value
        default: return quantifier.load(as: protobuf_c_boolean.self) != 0
        }
    }
}

// MARK: writing

private enum WireType: UInt64 {
    case varint = 0
    case fixed64 = 1
    case bytes = 2
    case fixed32 = 5
}

extension [UInt8] {
    fileprivate mutating func appendTag(_ id: UInt32, _ type: WireType) {
        appendVarint(UInt64(id) << 3 | type.rawValue)
    }

    fileprivate mutating func appendVarint(_ number: UInt64) {
        var rest = number
        while rest >= 0x80 {
            append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        append(UInt8(rest))
    }

    fileprivate mutating func appendFixed<Number: FixedWidthInteger>(_ number: Number) {
        Swift.withUnsafeBytes(of: number.littleEndian) { append(contentsOf: $0) }
    }

    fileprivate mutating func appendRun(_ bytes: some Collection<UInt8>) {
        appendVarint(UInt64(bytes.count))
        append(contentsOf: bytes)
    }

    fileprivate mutating func appendReal(_ number: some BinaryFloatingPoint & CustomStringConvertible) {
        if number.isNaN { return append(contentsOf: "\"NaN\"".utf8) }
        if number.isInfinite { return append(contentsOf: (number < 0 ? "\"-Infinity\"" : "\"Infinity\"").utf8) }
        append(contentsOf: number.description.utf8)
    }

    /// `text` in quotes. Whatever was not UTF-8 has been replaced when it became a `String`.
    fileprivate mutating func appendString(_ text: String) {
        append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                append(UInt8(ascii: "\\"))
                append(byte)
            case ..<0x20:
                let digits = Array("0123456789abcdef".utf8)
                append(contentsOf: "\\u00".utf8)
                append(digits[Int(byte >> 4)])
                append(digits[Int(byte & 15)])
            default: append(byte)
            }
        }
        append(UInt8(ascii: "\""))
    }
}

/// Base64 with the usual alphabet and padding (RFC 4648 §4).
enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    private static let padding = UInt8(ascii: "=")

    static func append(_ bytes: UnsafeRawBufferPointer, to text: inout [UInt8]) {
        var position = 0
        while position < bytes.count {
            let count = min(3, bytes.count - position)
            var group = UInt32(bytes[position]) << 16
            if count > 1 { group |= UInt32(bytes[position + 1]) << 8 }
            if count > 2 { group |= UInt32(bytes[position + 2]) }
            for digit in 0..<4 {
                text.append(digit <= count ? alphabet[Int(group >> UInt32(18 - 6 * digit) & 63)] : padding)
            }
            position += 3
        }
    }

    /// Nil if `text` is none, to the last bit.
    static func decoded(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
        guard text.count % 4 == 0 else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count / 4 * 3)
        for start in stride(from: 0, to: text.count, by: 4) {
            var group: UInt32 = 0
            var digits = 0
            for position in start..<start + 4 {
                if text[position] == padding { break }
                guard let value = value(of: text[position]) else { return nil }
                group |= value << UInt32(18 - 6 * digits)
                digits += 1
            }
            let isLast = start + 4 == text.count
            guard digits == 4 || (isLast && digits >= 2) else { return nil }
            for position in start + digits..<start + 4 where text[position] != padding { return nil }
            // bits that no byte takes are zero
            if digits == 2, group & 0xffff != 0 { return nil }
            if digits == 3, group & 0xff != 0 { return nil }
            for byte in 0..<digits - 1 { bytes.append(UInt8(truncatingIfNeeded: group >> UInt32(16 - 8 * byte))) }
        }
        return bytes
    }

    private static func value(of digit: UInt8) -> UInt32? {
        switch digit {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(digit) - 65
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(digit) - 71
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(digit) + 4
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}

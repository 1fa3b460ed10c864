/// A protobuf message as the fields that stand in it, in their order: read and written without knowing its type, and
/// without the code that nodes read and write messages with, so that the two can be held against each other.
public struct WireFields: Equatable, Sendable, CustomStringConvertible {
    /// What a field holds.
    public enum Value: Equatable, Sendable {
        /// Wire type 0: an integer, a truth value or an enumerator.
        case number(UInt64)
        /// Wire type 2: text, bytes or a message.
        case bytes([UInt8])
    }

    /// One field.
    public struct Field: Equatable, Sendable {
        /// Its number in the message's definition.
        public var number: Int
        /// What it holds.
        public var value: Value
    }

    /// All of them, in the order of the wire.
    public private(set) var fields: [Field] = []

    /// A message without fields, which has no bytes.
    public init() {}

    /// Reads `bytes`; nil if they are no sequence of fields of the two wire types.
    public init?(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            guard let tag = WireFields.takeVarint(&rest), tag >> 3 > 0 else { return nil }
            switch tag & 7 {
            case 0:
                guard let number = WireFields.takeVarint(&rest) else { return nil }
                fields.append(Field(number: Int(tag >> 3), value: .number(number)))
            case 2:
                guard let count = WireFields.takeVarint(&rest), count <= UInt64(rest.count) else { return nil }
                fields.append(Field(number: Int(tag >> 3), value: .bytes(Array(rest.prefix(Int(count))))))
                rest = rest.dropFirst(Int(count))
            default: return nil
            }
        }
    }

    private static func takeVarint(_ bytes: inout ArraySlice<UInt8>) -> UInt64? {
        var result: UInt64 = 0
        for shift in stride(from: 0, to: 70, by: 7) {
            guard let byte = bytes.popFirst() else { return nil }
            result |= UInt64(byte & 0x7f) << UInt64(shift)
            if byte < 0x80 { return result }
        }
        return nil
    }

    private static func put(_ number: UInt64, to bytes: inout [UInt8]) {
        var rest = number
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    /// The message's bytes.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = []
        for field in fields {
            switch field.value {
            case .number(let number):
                WireFields.put(UInt64(field.number) << 3, to: &bytes)
                WireFields.put(number, to: &bytes)
            case .bytes(let value):
                WireFields.put(UInt64(field.number) << 3 | 2, to: &bytes)
                WireFields.put(UInt64(value.count), to: &bytes)
                bytes += value
            }
        }
        return bytes
    }

    // MARK: writing

    /// With an integer more.
    public func number(_ number: Int, _ value: Int64) -> WireFields {
        adding(number, .number(UInt64(bitPattern: value)))
    }

    /// With a truth value more.
    public func flag(_ number: Int, _ value: Bool) -> WireFields { adding(number, .number(value ? 1 : 0)) }

    /// With a text more.
    public func text(_ number: Int, _ value: String) -> WireFields { adding(number, .bytes(Array(value.utf8))) }

    /// With a message more.
    public func message(_ number: Int, _ value: WireFields) -> WireFields { adding(number, .bytes(value.encoded)) }

    /// Without the fields of that number.
    public func without(_ number: Int) -> WireFields {
        var result = self
        result.fields.removeAll { $0.number == number }
        return result
    }

    private func adding(_ number: Int, _ value: Value) -> WireFields {
        var result = self
        result.fields.append(Field(number: number, value: value))
        return result
    }

    // MARK: reading

    /// The last integer of that number, which is the one that counts; nil if there is none.
    public func integer(_ number: Int) -> Int64? {
        for field in fields.reversed() where field.number == number {
            if case .number(let value) = field.value { return Int64(bitPattern: value) }
        }
        return nil
    }

    /// The last truth value of that number; nil if there is none.
    public func isSet(_ number: Int) -> Bool? { integer(number).map { $0 != 0 } }

    /// The last text of that number; nil if there is none.
    public func text(_ number: Int) -> String? { texts(number).last }

    /// All texts of that number.
    public func texts(_ number: Int) -> [String] { values(number).map { String(decoding: $0, as: UTF8.self) } }

    /// All messages of that number; what does not parse is left out.
    public func messages(_ number: Int) -> [WireFields] { values(number).compactMap { WireFields($0) } }

    private func values(_ number: Int) -> [[UInt8]] {
        fields.compactMap { field in
            guard field.number == number, case .bytes(let value) = field.value else { return nil }
            return value
        }
    }

    /// `4: 2, 1: "g"`.
    public var description: String {
        fields.map { field in
            switch field.value {
            case .number(let number): "\(field.number): \(Int64(bitPattern: number))"
            case .bytes(let bytes): "\(field.number): \"\(String(decoding: bytes, as: UTF8.self))\""
            }
        }.joined(separator: ", ")
    }
}

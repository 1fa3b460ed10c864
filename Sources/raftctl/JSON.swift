import RaftCore

/// A JSON value to be written; members keep their order.
indirect enum JSON {
    case null
    case bool(Bool)
    case integer(Int64)
    case unsigned(UInt64)
    case string(String)
    case array([JSON])
    case object([(String, JSON)])

    /// `text`, or null.
    static func optional(_ text: String?) -> JSON { text.map { .string($0) } ?? .null }
    /// `number`, or null.
    static func optional(_ number: Int64?) -> JSON { number.map { .integer($0) } ?? .null }
    /// A 64-bit id in hexadecimal: JSON's numbers are not that wide everywhere.
    static func identifier(_ id: UInt64) -> JSON { .string(hexadecimal(id)) }
    /// Sixteen digits.
    static func hexadecimal(_ number: UInt64) -> String {
        let digits = String(number, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// Members for bytes: text under `name`, and the exact bytes as well where they are not UTF-8.
    static func members(_ name: String, _ bytes: Bytes) -> [(String, JSON)] {
        if Escapes.isUTF8(bytes) { return [(name, .string(bytes.text))] }
        return [(name, .string(Escapes.text(bytes))), ("\(name)_base64", .string(Base64.encoded(bytes)))]
    }

    /// On one line.
    var text: String {
        var output: [UInt8] = []
        append(to: &output)
        return String(decoding: output, as: UTF8.self)
    }

    /// Appends it, on one line.
    func append(to output: inout [UInt8]) {
        switch self {
        case .null: output += "null".utf8
        case .bool(let value): output += (value ? "true" : "false").utf8
        case .integer(let value): output += String(value).utf8
        case .unsigned(let value): output += String(value).utf8
        case .string(let value): JSON.append(quoted: value, to: &output)
        case .array(let elements):
            output.append(UInt8(ascii: "["))
            for (position, element) in elements.enumerated() {
                if position > 0 { output.append(UInt8(ascii: ",")) }
                element.append(to: &output)
            }
            output.append(UInt8(ascii: "]"))
        case .object(let members):
            output.append(UInt8(ascii: "{"))
            for (position, member) in members.enumerated() {
                if position > 0 { output.append(UInt8(ascii: ",")) }
                JSON.append(quoted: member.0, to: &output)
                output.append(UInt8(ascii: ":"))
                member.1.append(to: &output)
            }
            output.append(UInt8(ascii: "}"))
        }
    }

    private static func append(quoted text: String, to output: inout [UInt8]) {
        output.append(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""): output += "\\\"".utf8
            case UInt8(ascii: "\\"): output += "\\\\".utf8
            case UInt8(ascii: "\n"): output += "\\n".utf8
            case UInt8(ascii: "\r"): output += "\\r".utf8
            case UInt8(ascii: "\t"): output += "\\t".utf8
            case ..<0x20, 0x7f:
                let digits = String(byte, radix: 16)
                output += ("\\u" + String(repeating: "0", count: 4 - digits.count) + digits).utf8
            default: output.append(byte)
            }
        }
        output.append(UInt8(ascii: "\""))
    }
}

/// Base64 with padding (RFC 4648 §4).
enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    private static let padding = UInt8(ascii: "=")
    private static let values: [UInt8] = {
        var values = [UInt8](repeating: 0xff, count: 256)
        for (value, letter) in alphabet.enumerated() { values[Int(letter)] = UInt8(value) }
        return values
    }()

    static func encoded(_ bytes: Bytes) -> String {
        var output: [UInt8] = []
        output.reserveCapacity((bytes.count + 2) / 3 * 4)
        bytes.withUnsafeBytes { buffer in
            for start in stride(from: 0, to: buffer.count, by: 3) {
                let count = min(3, buffer.count - start)
                var word = UInt32(buffer[start]) << 16
                if count > 1 { word |= UInt32(buffer[start + 1]) << 8 }
                if count > 2 { word |= UInt32(buffer[start + 2]) }
                for digit in 0..<4 {
                    output.append(digit <= count ? alphabet[Int(word >> (18 - 6 * UInt32(digit)) & 63)] : padding)
                }
            }
        }
        return String(decoding: output, as: UTF8.self)
    }

    /// The bytes; nil if `text` is anything but padded base64 in its one canonical form.
    static func decoded(_ text: [UInt8]) -> Bytes? {
        guard text.count % 4 == 0 else { return nil }
        let padded = text.suffix(2).reduce(0) { $0 + ($1 == padding ? 1 : 0) }
        var output: [UInt8] = []
        output.reserveCapacity(text.count / 4 * 3)
        var word: UInt32 = 0
        for (position, letter) in text.enumerated() {
            let isPadding = position >= text.count - padded
            let value = isPadding ? 0 : values[Int(letter)]
            guard value < 64, !isPadding || letter == padding else { return nil }
            word = word << 6 | UInt32(value)
            if position % 4 == 3 {
                output += [UInt8(word >> 16 & 0xff), UInt8(word >> 8 & 0xff), UInt8(word & 0xff)]
                if position == text.count - 1 {
                    guard output.suffix(padded).allSatisfy({ $0 == 0 }) else { return nil }
                }
                word = 0
            }
        }
        output.removeLast(padded)
        return Bytes(output)
    }
}

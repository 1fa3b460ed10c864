/// Reads one JSON object whose values are strings (RFC 8259); anything else is nil. The text must be UTF-8.
struct FlatObjectReader {
    private let text: UnsafeRawBufferPointer
    private var position = 0

    init(_ text: UnsafeRawBufferPointer) { self.text = text }

    /// Names and values in their order.
    mutating func members() -> [(name: String, value: [UInt8])]? {
        guard take("{") else { return nil }
        var members: [(name: String, value: [UInt8])] = []
        if !take("}") {
            repeat {
                guard let name = string(), take(":"), let value = string() else { return nil }
                members.append((String(decoding: name, as: UTF8.self), value))
            } while take(",")
            guard take("}") else { return nil }
        }
        skipSpace()
        return position == text.count ? members : nil
    }

    private mutating func skipSpace() {
        while position < text.count, [0x20, 0x09, 0x0a, 0x0d].contains(text[position]) { position += 1 }
    }

    /// Steps over `character` and the space before it, if it is next.
    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        skipSpace()
        guard position < text.count, text[position] == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    private mutating func string() -> [UInt8]? {
        guard take("\"") else { return nil }
        var result: [UInt8] = []
        while position < text.count {
            let byte = text[position]
            position += 1
            switch byte {
            case UInt8(ascii: "\""): return result
            case UInt8(ascii: "\\"): guard appendEscape(to: &result) else { return nil }
            case ..<0x20: return nil
            default: result.append(byte)
            }
        }
        return nil
    }

    private mutating func appendEscape(to result: inout [UInt8]) -> Bool {
        guard position < text.count else { return false }
        let letter = text[position]
        position += 1
        switch letter {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): result.append(letter)
        case UInt8(ascii: "b"): result.append(0x08)
        case UInt8(ascii: "f"): result.append(0x0c)
        case UInt8(ascii: "n"): result.append(0x0a)
        case UInt8(ascii: "r"): result.append(0x0d)
        case UInt8(ascii: "t"): result.append(0x09)
        case UInt8(ascii: "u"):
            guard let scalar = scalar() else { return false }
            result.append(contentsOf: String(scalar).utf8)
        default: return false
        }
        return true
    }

    /// The scalar behind `\u`: one unit, or the two of a surrogate pair.
    private mutating func scalar() -> Unicode.Scalar? {
        guard let unit = codeUnit() else { return nil }
        guard UTF16.isLeadSurrogate(UInt16(unit)) else { return Unicode.Scalar(unit) }
        guard position + 1 < text.count, text[position] == UInt8(ascii: "\\"), text[position + 1] == UInt8(ascii: "u")
        else { return nil }
        position += 2
        guard let second = codeUnit(), UTF16.isTrailSurrogate(UInt16(second)) else { return nil }
        return Unicode.Scalar(0x10000 + (unit - 0xd800) << 10 + (second - 0xdc00))
    }

    private mutating func codeUnit() -> UInt32? {
        guard position + 4 <= text.count else { return nil }
        var unit: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Escapes.hexDigit(text[position]) else { return nil }
            unit = unit << 4 | UInt32(digit)
            position += 1
        }
        return unit
    }
}

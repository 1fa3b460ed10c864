import RaftCore

/// Bytes in one line of text: `\\`, `\n`, `\r`, `\t`, `\0` and `\xHH`.
///
/// What is written is always UTF-8 without control characters: text stays readable, bytes that are not UTF-8 become
/// `\xHH`. What is read may also have any other byte but the separators as it is. Reading what was written gives the
/// same bytes.
enum Escapes {
    /// Appends `bytes` as text to `output`.
    static func append(_ bytes: Bytes, to output: inout [UInt8]) {
        let isText = isUTF8(bytes)
        bytes.withUnsafeBytes { buffer in
            for byte in buffer {
                switch byte {
                case UInt8(ascii: "\\"): output += [UInt8(ascii: "\\"), UInt8(ascii: "\\")]
                case UInt8(ascii: "\n"): output += [UInt8(ascii: "\\"), UInt8(ascii: "n")]
                case UInt8(ascii: "\r"): output += [UInt8(ascii: "\\"), UInt8(ascii: "r")]
                case UInt8(ascii: "\t"): output += [UInt8(ascii: "\\"), UInt8(ascii: "t")]
                case 0: output += [UInt8(ascii: "\\"), UInt8(ascii: "0")]
                case 1..<0x20, 0x7f: appendHex(byte, to: &output)
                case 0x80... where !isText: appendHex(byte, to: &output)
                default: output.append(byte)
                }
            }
        }
    }

    /// `bytes` as text.
    static func text(_ bytes: Bytes) -> String {
        var output: [UInt8] = []
        append(bytes, to: &output)
        return String(decoding: output, as: UTF8.self)
    }

    static func isUTF8(_ bytes: Bytes) -> Bool {
        bytes.withUnsafeBytes { buffer in
            buffer.allSatisfy { $0 < 0x80 } || String(validating: buffer, as: UTF8.self) != nil
        }
    }

    /// The bytes that escaped `text` stands for; nil if a backslash begins no escape.
    static func bytes(_ text: UnsafeRawBufferPointer) -> Bytes? {
        guard text.contains(UInt8(ascii: "\\")) else { return Bytes(copying: text) }
        var result: [UInt8] = []
        result.reserveCapacity(text.count)
        var position = 0
        while position < text.count {
            let byte = text[position]
            position += 1
            guard byte == UInt8(ascii: "\\") else {
                result.append(byte)
                continue
            }
            guard position < text.count else { return nil }
            switch text[position] {
            case UInt8(ascii: "\\"): result.append(UInt8(ascii: "\\"))
            case UInt8(ascii: "n"): result.append(UInt8(ascii: "\n"))
            case UInt8(ascii: "r"): result.append(UInt8(ascii: "\r"))
            case UInt8(ascii: "t"): result.append(UInt8(ascii: "\t"))
            case UInt8(ascii: "0"): result.append(0)
            case UInt8(ascii: "x"):
                guard position + 2 < text.count, let high = hexDigit(text[position + 1]),
                    let low = hexDigit(text[position + 2])
                else { return nil }
                result.append(high << 4 | low)
                position += 2
            default: return nil
            }
            position += 1
        }
        return Bytes(result)
    }

    /// As above, of a string.
    static func bytes(_ text: some StringProtocol) -> Bytes? {
        var text = String(text)
        return text.withUTF8 { bytes(UnsafeRawBufferPointer($0)) }
    }

    /// The value of a hexadecimal digit in either case.
    static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    private static func appendHex(_ byte: UInt8, to output: inout [UInt8]) {
        let digits = Array("0123456789abcdef".utf8)
        output += [UInt8(ascii: "\\"), UInt8(ascii: "x"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
    }
}

internal import RaftCore

/// Splits an inline command as Redis does: `"…"` with the escapes of C, `'…'` with `\'` only; a closing quote ends its
/// word.
enum InlineWords {
    /// The words of `line`; nil if a quote is not closed, or something follows it directly.
    static func split(_ line: [UInt8]) -> [Bytes]? {
        var words: [Bytes] = []
        var position = 0
        while true {
            while position < line.count, isSpace(line[position]) { position += 1 }
            guard position < line.count else { return words }
            guard let word = word(line, &position) else { return nil }
            words.append(Bytes(word))
        }
    }

    private static func word(_ line: [UInt8], _ position: inout Int) -> [UInt8]? {
        var word: [UInt8] = []
        while position < line.count, !isSpace(line[position]) {
            let byte = line[position]
            position += 1
            if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") {
                guard quoted(line, &position, until: byte, into: &word) else { return nil }
                return word
            }
            word.append(byte)
        }
        return word
    }

    /// Whether a closing quote was found where one may be.
    private static func quoted(
        _ line: [UInt8], _ position: inout Int, until quote: UInt8, into word: inout [UInt8]
    ) -> Bool {
        while position < line.count {
            let byte = line[position]
            position += 1
            if byte == quote { return position == line.count || isSpace(line[position]) }
            if byte == UInt8(ascii: "\\"), position < line.count {
                if quote == UInt8(ascii: "\"") {
                    word.append(escaped(line, &position))
                    continue
                }
                if line[position] == quote {
                    word.append(quote)
                    position += 1
                    continue
                }
            }
            word.append(byte)
        }
        return false
    }

    /// The byte meant by what follows a backslash.
    private static func escaped(_ line: [UInt8], _ position: inout Int) -> UInt8 {
        let byte = line[position]
        if byte == UInt8(ascii: "x"), position + 2 < line.count,
            let high = hexDigit(line[position + 1]), let low = hexDigit(line[position + 2])
        {
            position += 3
            return high << 4 | low
        }
        position += 1
        return switch byte {
        case UInt8(ascii: "n"): 0x0a
        case UInt8(ascii: "r"): 0x0d
        case UInt8(ascii: "t"): 0x09
        case UInt8(ascii: "b"): 0x08
        case UInt8(ascii: "a"): 0x07
        default: byte
        }
    }

    private static func hexDigit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0d).contains(byte) }
}

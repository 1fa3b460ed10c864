internal import RaftCore

/// A pattern of Redis's kind: `*`, `?`, `[a-z]`, `[^a]`, and `\` before what is meant literally.
///
/// Matching takes at most pattern × text steps: only the last `*` is ever tried again, because a later star can take
/// over whatever an earlier one would have left.
struct GlobPattern {
    private enum Element {
        case byte(UInt8)
        case anyByte
        case anyRun
        case oneOf([ClosedRange<UInt8>], inverted: Bool)

        func matches(_ byte: UInt8) -> Bool {
            switch self {
            case .byte(let own): own == byte
            case .anyByte: true
            case .anyRun: false
            case .oneOf(let ranges, let inverted): ranges.contains { $0.contains(byte) } != inverted
            }
        }
    }

    private var elements: [Element] = []

    init(_ pattern: Bytes) {
        let pattern = pattern.array
        var position = 0
        while position < pattern.count {
            let byte = pattern[position]
            position += 1
            switch byte {
            case UInt8(ascii: "*"):
                if case .anyRun? = elements.last { continue }
                elements.append(.anyRun)
            case UInt8(ascii: "?"): elements.append(.anyByte)
            case UInt8(ascii: "["): elements.append(GlobPattern.oneOf(pattern, &position))
            case UInt8(ascii: "\\") where position < pattern.count:
                elements.append(.byte(pattern[position]))
                position += 1
            default: elements.append(.byte(byte))
            }
        }
    }

    /// Whether the whole of `bytes` matches.
    func matches(_ bytes: Bytes) -> Bool {
        bytes.withUnsafeBytes { text in
            var element = 0
            var position = 0
            var retry: (element: Int, position: Int)?
            while position < text.count {
                if element < elements.count, case .anyRun = elements[element] {
                    element += 1
                    retry = (element, position)
                } else if element < elements.count, elements[element].matches(text[position]) {
                    element += 1
                    position += 1
                } else if let last = retry {
                    retry = (last.element, last.position + 1)
                    element = last.element
                    position = last.position + 1
                } else {
                    return false
                }
            }
            return elements[element...].allSatisfy { if case .anyRun = $0 { true } else { false } }
        }
    }

    /// What stands in brackets; like Redis it takes the pattern's end for a missing bracket.
    private static func oneOf(_ pattern: [UInt8], _ position: inout Int) -> Element {
        var ranges: [ClosedRange<UInt8>] = []
        let inverted = position < pattern.count && pattern[position] == UInt8(ascii: "^")
        if inverted { position += 1 }
        while position < pattern.count, pattern[position] != UInt8(ascii: "]") {
            if pattern[position] == UInt8(ascii: "\\"), position + 1 < pattern.count {
                ranges.append(pattern[position + 1]...pattern[position + 1])
                position += 2
            } else if position + 2 < pattern.count, pattern[position + 1] == UInt8(ascii: "-") {
                let (first, last) = (pattern[position], pattern[position + 2])
                ranges.append(min(first, last)...max(first, last))
                position += 3
            } else {
                ranges.append(pattern[position]...pattern[position])
                position += 1
            }
        }
        position = min(position + 1, pattern.count)
        return .oneOf(ranges, inverted: inverted)
    }
}

internal import RaftCore

extension Bytes {
    /// The decimal number these are, written the one way Redis accepts: no sign but a minus, no leading zero, no space.
    var strictInteger: Int64? { strictInteger(from: 0, to: count) }

    /// The same of the bytes `start ..< end` of these.
    func strictInteger(from start: Int, to end: Int) -> Int64? {
        withUnsafeBytes { buffer -> Int64? in
            let number = buffer[start..<end]
            let isNegative = number.first == UInt8(ascii: "-")
            let digits = number.dropFirst(isNegative ? 1 : 0)
            guard let first = digits.first, digits.count <= 19 else { return nil }
            if first == UInt8(ascii: "0") { return digits.count == 1 && !isNegative ? 0 : nil }
            var magnitude: UInt64 = 0
            for digit in digits {
                guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
                magnitude = magnitude * 10 + UInt64(digit - UInt8(ascii: "0"))
            }
            if isNegative { return magnitude <= Int64.min.magnitude ? Int64(truncatingIfNeeded: 0 &- magnitude) : nil }
            return Int64(exactly: magnitude)
        }
    }

    /// Whether these are `word`, which is in lower case, written in any case.
    func isWord(_ word: String) -> Bool {
        count == word.utf8.count && withUnsafeBytes { zip($0, word.utf8).allSatisfy { lowered($0) == $1 } }
    }

    /// The text with ASCII letters in lower case, if it is short enough to be the name of anything; nil otherwise.
    var shortName: String? {
        guard count <= 24 else { return nil }
        return withUnsafeBytes { buffer in
            String(unsafeUninitializedCapacity: buffer.count) { room in
                for (index, byte) in buffer.enumerated() { room[index] = lowered(byte) }
                return buffer.count
            }
        }
    }

    /// Up to `limit` bytes as they may be quoted in an error: they end at a zero byte, as in C.
    func quotable(limit: Int) -> String {
        slice(from: 0, count: Swift.min(count, Swift.max(0, limit))).withUnsafeBytes { buffer in
            String(decoding: buffer.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}

private func lowered(_ byte: UInt8) -> UInt8 {
    (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte | 0x20 : byte
}

/// A 64-bit hash of a sequence that only grows: of what a replica applied, or of a file's bytes.
///
/// Each step is a bijection of the state for a given word, and of the word for a given state: two sequences that differ
/// in one word never come together again while what follows is equal. It tells mistakes, not malice. Words, not bytes;
/// no allocation. The values are stored and compared between nodes, so the steps change with ``version`` only.
public struct RollingHash: Hashable, Sendable {
    /// Of the algorithm; values of different versions must not be compared.
    public static let version: UInt8 = 1
    /// The hash so far.
    public var value: UInt64

    /// The hash of nothing.
    @inlinable public init() { self.init(value: 0x6a09_e667_f3bc_c908) }

    /// Goes on from `value`.
    @inlinable public init(value: UInt64) { self.value = value }

    /// Adds a number.
    @inlinable public mutating func combine(_ word: UInt64) { value = RollingHash.step(value, word) }

    /// Adds the length of `bytes`, so that the border between two fields counts too, and the bytes: of whole blocks of
    /// 32 bytes four hashes of every fourth word, which the processor counts side by side, then what is left.
    @inlinable public mutating func combine(_ bytes: Bytes) {
        combine(UInt64(bytes.count))
        bytes.withUnsafeBytes { buffer in
            func word(_ offset: Int) -> UInt64 {
                UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
            }
            var offset = 0
            if buffer.count >= 32 {
                var lanes: (UInt64, UInt64, UInt64, UInt64) = (1, 2, 3, 4)
                while buffer.count - offset >= 32 {
                    lanes.0 = RollingHash.step(lanes.0, word(offset))
                    lanes.1 = RollingHash.step(lanes.1, word(offset + 8))
                    lanes.2 = RollingHash.step(lanes.2, word(offset + 16))
                    lanes.3 = RollingHash.step(lanes.3, word(offset + 24))
                    offset += 32
                }
                combine(lanes.0)
                combine(lanes.1)
                combine(lanes.2)
                combine(lanes.3)
            }
            while buffer.count - offset >= 8 {
                combine(word(offset))
                offset += 8
            }
            guard offset < buffer.count else { return }
            var last: UInt64 = 0
            for position in offset..<buffer.count {
                last |= UInt64(buffer[position]) << (8 * UInt64(position - offset))
            }
            combine(last)
        }
    }

    @inlinable static func step(_ state: UInt64, _ word: UInt64) -> UInt64 {
        // the multiplication carries upwards only, the shift brings the high half down
        let product = (state ^ word) &* 0x9e37_79b9_7f4a_7c15
        return product ^ (product >> 32)
    }
}

import RaftCore
import ShardMap

/// A stable 64-bit hash of a request's operations, stored with its reply: it tells a repeated request from another one
/// under the same sequence. FNV-1a's step over words of eight bytes, and a final mix. Part of the stored format.
struct RequestHash {
    private var state: UInt64 = 0xcbf2_9ce4_8422_2325

    static func of(_ operations: [KeyOperation]) -> UInt64 {
        var hash = RequestHash()
        for operation in operations { hash.combine(operation) }
        return hash.finished
    }

    private mutating func combine(_ operation: KeyOperation) {
        combine(UInt64(operation.code.rawValue))
        combine(operation.key)
        combine(operation.value)
        combine(UInt64(operation.condition.rawValue))
        combine((operation.returnsOldValue ? 1 : 0) | (operation.keepsExpiry ? 2 : 0))
        combine(operation.expiresInMilliseconds == nil ? 0 : 1)
        combine(UInt64(bitPattern: operation.expiresInMilliseconds ?? 0))
        combine(UInt64(bitPattern: operation.number))
        // Only where there is one: hashes stored before there were moments stay valid.
        if let moment = operation.expiresAtMilliseconds {
            combine(RequestHash.momentMark)
            combine(UInt64(bitPattern: moment))
        }
    }

    /// No operation's code, so that a moment cannot pass for the operation that follows.
    private static let momentMark: UInt64 = 1 << 32

    private mutating func combine(_ word: UInt64) {
        state = (state ^ word) &* 0x0000_0100_0000_01b3
        // the multiplication carries upwards only; without this the high half of a word would hardly count
        state ^= state >> 29
    }

    /// The length first, so that the border between two fields counts too.
    private mutating func combine(_ bytes: Bytes) {
        combine(UInt64(bytes.count))
        bytes.withUnsafeBytes { buffer in
            var offset = 0
            while buffer.count - offset >= 8 {
                combine(UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
                offset += 8
            }
            var last: UInt64 = 0
            for position in offset..<buffer.count {
                last |= UInt64(buffer[position]) << (8 * UInt64(position - offset))
            }
            if offset < buffer.count { combine(last) }
        }
    }

    private var finished: UInt64 { state.mixed }
}

extension UInt64 {
    /// Each bit of it counts for every bit of the result (MurmurHash3's last step); different numbers stay different.
    var mixed: UInt64 {
        var mixed = (self ^ (self >> 33)) &* 0xff51_afd7_ed55_8ccd
        mixed = (mixed ^ (mixed >> 33)) &* 0xc4ce_b9fe_1a85_ec53
        return mixed ^ (mixed >> 33)
    }
}

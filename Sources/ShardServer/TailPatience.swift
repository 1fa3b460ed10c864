/// How much of a moving shard may be left when its source freezes, for which its clients wait: little, unless the shard
/// is written faster than it is copied. Then it has to freeze some time, and more may be left the longer it has lasted.
struct TailPatience {
    /// So much may be left in any case.
    private static let leastBytes: UInt64 = 64 << 10
    /// So many pieces are taken behind the scan in any case, and then for each doubling of what may be left.
    private static let pieces = 16
    private static let doublingsMax = 10

    /// Behind the scan, since the least was left.
    private var taken = 0

    /// A piece behind the scan was read; nil: what is left is not known.
    mutating func take(bytesLeft: UInt64?) {
        taken = (bytesLeft ?? .max) <= TailPatience.leastBytes ? 0 : taken + 1
    }

    /// Pieces too many behind the scan, of a shard that has come in `pieces` so far: one that is written half as fast
    /// as it is copied changes as many during the scan as the scan has, and those are to be expected.
    func excess(ofPieces pieces: UInt64) -> Int { max(0, taken - max(TailPatience.pieces, Int(clamping: pieces / 2))) }

    /// What may be left.
    func tailBytes(ofPieces pieces: UInt64) -> UInt64 {
        TailPatience.leastBytes
            << UInt64(min(excess(ofPieces: pieces) / TailPatience.pieces, TailPatience.doublingsMax))
    }
}

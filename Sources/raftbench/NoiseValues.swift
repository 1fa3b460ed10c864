import RaftCore

/// Values that no store makes smaller: what compresses well costs neither disk nor compaction what other data cost.
struct NoiseValues: Sendable {
    private static let pool = 1 << 20
    private let noise: Bytes
    private let bytes: Int

    /// Values of `bytes`, which are less than a mebibyte.
    init(bytes: Int) {
        precondition(bytes < NoiseValues.pool)
        self.bytes = bytes
        var random = SeededRandom(seed: 1)
        noise = Bytes((0..<NoiseValues.pool).map { _ in UInt8(truncatingIfNeeded: random.next()) })
    }

    /// The value with a number; neighbours differ.
    subscript(number: Int) -> Bytes { noise.slice(from: number * 4099 % (NoiseValues.pool - bytes), count: bytes) }
}

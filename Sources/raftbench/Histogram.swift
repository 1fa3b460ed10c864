/// How often which time was taken, in nanoseconds, in a fixed number of buckets: adding one costs no memory.
///
/// A bucket is at most 1/64 of its times wide, so a quantile is at most 1.6 % too high, and never too low.
struct Histogram: Sendable {
    private static let subBits = 6
    private var buckets = [Int](repeating: 0, count: (64 - subBits) << subBits)
    /// Times that were added.
    private(set) var count = 0
    /// The longest of them.
    private(set) var longest: Int64 = 0

    /// Adds a time; one below zero counts as zero.
    mutating func add(_ nanoseconds: Int64) {
        let time = max(nanoseconds, 0)
        buckets[Histogram.bucket(of: UInt64(time))] += 1
        count += 1
        longest = max(longest, time)
    }

    /// The time that `share` of all are not above; 0 without any.
    func quantile(_ share: Double) -> Int64 {
        let wanted = min(max(Int((Double(count) * share).rounded(.up)), 1), count)
        var seen = 0
        for position in buckets.indices where buckets[position] > 0 {
            seen += buckets[position]
            if seen >= wanted { return min(Histogram.highest(in: position), longest) }
        }
        return 0
    }

    private static func bucket(of time: UInt64) -> Int {
        guard time >= 1 << subBits else { return Int(time) }
        let shift = 63 - time.leadingZeroBitCount - subBits
        return shift << subBits + Int(time >> UInt64(shift))
    }

    private static func highest(in bucket: Int) -> Int64 {
        guard bucket >= 1 << subBits else { return Int64(bucket) }
        let shift = bucket >> subBits - 1
        let first = Int64(bucket - shift << subBits)
        return first << Int64(shift) + (1 << Int64(shift) - 1)
    }
}

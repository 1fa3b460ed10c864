import RaftCore

/// Spreads bytes evenly over time: who wants some is told when.
struct SnapshotBudget {
    /// What may be taken at once after a pause, as time.
    private static let burst = Interval.milliseconds(100)

    private let bytesPerSecond: Int
    /// When everything taken so far is paid for.
    private var paidAt = Instant.distantPast

    init(bytesPerSecond: Int) {
        precondition(bytesPerSecond > 0)
        self.bytesPerSecond = bytesPerSecond
    }

    /// How long it takes until everything taken is paid for.
    func backlog(_ now: Instant) -> Interval { max(paidAt, now) - now }

    /// When `bytes` may be used that are asked for at `now`; never before those asked for earlier.
    mutating func take(_ bytes: Int, now: Instant) -> Instant {
        let start = max(paidAt, Instant(nanoseconds: now.nanoseconds - SnapshotBudget.burst.nanoseconds))
        let cost = Int64(Double(bytes) / Double(bytesPerSecond) * 1e9)
        paidAt = start + Interval(nanoseconds: cost)
        return max(start, now)
    }
}

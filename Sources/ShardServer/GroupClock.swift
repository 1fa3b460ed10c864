import RaftCore

/// The replicated time of a group this node leads, as its leader may continue it.
///
/// The first time of a term is the median of the voters' wall clocks, so that one wrong clock destroys nothing; from
/// then on it is what was replicated plus what the leader's own monotonic clock has counted since that was applied.
struct GroupClock {
    /// Whether the first time of the term is under way or done.
    var isStarted = false
    /// The last time applied here, and when.
    private var base: (milliseconds: Int64, at: Instant)?
    /// The last time proposed, so that a millisecond is proposed once.
    private var lastProposed: Int64 = 0

    mutating func applied(_ milliseconds: Int64, at now: Instant) {
        // an earlier base that ran on further is kept: replicated time never goes back
        if let current = time(at: now), current >= milliseconds { return }
        base = (milliseconds, now)
    }

    /// The group's time now; nil before the first time of the term is applied.
    func time(at now: Instant) -> Int64? {
        base.map { $0.milliseconds + Int64((now - $0.at).milliseconds) }
    }

    /// The time to propose before a write, if one is due.
    mutating func timeToPropose(at now: Instant) -> Int64? {
        guard let time = time(at: now), time > lastProposed else { return nil }
        lastProposed = time
        return time
    }
}

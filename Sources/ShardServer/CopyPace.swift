import RaftCore

/// How fast a node's groups take pieces of moving shards in: all of them together leave the log and the store at least
/// as much time without a piece as the pieces take. A piece is what it takes until its entry is applied, so that pieces
/// come slower where disks, followers or appliers have much to do, with writes of clients or with earlier pieces.
struct CopyPace {
    /// A piece that took longer says more about a lost leader than about work.
    private static let restMax = Interval.milliseconds(1000)

    /// When the next piece may be asked for.
    private(set) var next = Instant.distantPast
    /// What the latest piece took.
    private var latest = Interval(nanoseconds: 0)

    /// A piece is asked for: another group's comes when this one has been applied and rested from, by all we know.
    mutating func begin(_ now: Instant) { next = max(next, now + latest + latest) }

    /// A piece was applied so long after it was proposed; what was supposed of it before counts no more.
    mutating func applied(after duration: Interval, _ now: Instant) {
        latest = min(duration, CopyPace.restMax)
        next = now + latest
    }
}

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

    /// The time kept for a piece that was asked for.
    struct Reservation {
        fileprivate let former: Instant
        fileprivate let until: Instant
    }

    /// A piece is asked for: another group's comes when this one has been applied and rested from, by all we know.
    mutating func begin(_ now: Instant) -> Reservation {
        let former = next
        next = max(next, now + latest + latest)
        return Reservation(former: former, until: next)
    }

    /// No piece came of it: nobody has to wait for that.
    mutating func cancel(_ reservation: Reservation) {
        if next == reservation.until { next = reservation.former }
    }

    /// A piece was applied so long after it was proposed; what was supposed of it before counts no more. Of one that was
    /// not `paced` nobody has to rest: there may be no end of them.
    mutating func applied(after duration: Interval, paced: Bool, _ now: Instant) {
        latest = min(duration, CopyPace.restMax)
        if paced { next = now + latest }
    }
}

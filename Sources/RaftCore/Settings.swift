/// A replica's times and windows.
public struct RaftSettings: Sendable {
    /// How long a candidate waits for votes, an awake follower for a leader, and a hand-over for its end.
    public var electionTimeout = Interval.milliseconds(1000)
    /// Bound of the random delay before a woken replica campaigns (§5.2); above zero.
    public var electionJitter = Interval.milliseconds(300)
    /// An append unanswered for so long is probed again.
    public var retryInterval = Interval.milliseconds(1000)
    /// Most entries in one append.
    public var maxEntriesPerAppend = 1024
    /// Most entries sent to one peer and not acknowledged.
    public var maxEntriesInFlight = 8192

    /// The defaults.
    public init() {}
}

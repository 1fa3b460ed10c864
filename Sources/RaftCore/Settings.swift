/// A replica's times and windows.
public struct RaftSettings: Sendable {
    /// How long a candidate waits for votes, an awake follower for a leader, and a hand-over for its end.
    public var electionTimeout = Interval.milliseconds(1000)
    /// Bound of the random delay before a woken replica campaigns (§5.2); above zero.
    public var electionJitter = Interval.milliseconds(300)
    /// Tells who of a group campaigns first when all learn at once that its leader has gone: the same for all its members,
    /// and different from group to group, so that one node does not get all groups of another.
    public var electionOrder: UInt64 = 0
    /// How soon this replica campaigns compared with others: each step below ``highestPriority`` waits for one more
    /// ``electionJitter``. 0: never of its own accord.
    public var electionPriority = RaftSettings.highestPriority
    /// The priority of replicas of which nothing else is said.
    public static let highestPriority = 4
    /// An append, a release or a question for the read index unanswered for so long is sent again.
    public var retryInterval = Interval.milliseconds(1000)
    /// Most entries in one append.
    public var maxEntriesPerAppend = 1024
    /// Most entries sent to one peer and not acknowledged.
    public var maxEntriesInFlight = 8192
    /// A newcomer that lacks no more entries than this has caught up (dissertation §4.2.1).
    public var catchUpMargin = 1000
    /// A newcomer that has not got on for so long ends the change of membership.
    public var catchUpTimeout = Interval.milliseconds(10_000)
    /// Whether a leader with the promises of a majority answers reads without asking (dissertation §6.4.1).
    public var leaseReads = true
    /// From one heartbeat to the next for a member that knows no liveness of ours.
    public var heartbeatInterval = Interval.milliseconds(100)
    /// How much longer than ``electionTimeout`` a follower stands by a foreign leader: by so much may clocks differ.
    public var maxClockDrift = Interval.milliseconds(1000)
    /// Whether foreign leaders read by leases (braft's raft_enable_leader_lease), so that a follower owes them its vote
    /// for ``foreignLease``. Without, it only grants no pre-vote while it hears one. To say that there are none where
    /// there are some makes their reads stale; the other way round costs an election's time.
    public var foreignLeases = true

    /// How long a follower stands by a foreign leader from the moment at which it hears it.
    public var foreignLease: Interval {
        Interval(nanoseconds: electionTimeout.nanoseconds + maxClockDrift.nanoseconds)
    }

    /// The defaults.
    public init() {}
}

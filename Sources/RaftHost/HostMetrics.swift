public import RaftCore

/// How often something took how long, in buckets whose bounds double.
///
/// Counting is a few instructions and allocates nothing.
public struct DurationHistogram: Sendable {
    /// Bounded buckets; what took longer than all of them is in one more.
    public static let bucketCount = 22
    /// The first bound is 8,192 ns, the last about 17 s.
    private static let firstBoundLog2 = 13

    /// What each bucket holds by itself; the last one has no bound.
    public private(set) var counts = [UInt64](repeating: 0, count: bucketCount + 1)
    /// All durations together, in nanoseconds.
    public private(set) var nanoseconds: UInt64 = 0

    /// An empty one.
    public init() {}

    /// How many were counted.
    public var count: UInt64 { counts.reduce(0, &+) }

    /// The longest duration that bucket `position` holds.
    public static func bound(of position: Int) -> Interval { Interval(nanoseconds: 1 << (firstBoundLog2 + position)) }

    /// Counts `times` durations; a negative one as none at all.
    public mutating func count(_ duration: Interval, times: Int = 1) {
        let length = UInt64(max(0, duration.nanoseconds))
        let log2 = length < 2 ? 0 : UInt64.bitWidth - (length - 1).leadingZeroBitCount
        let position = min(max(0, log2 - DurationHistogram.firstBoundLog2), DurationHistogram.bucketCount)
        counts[position] &+= UInt64(times)
        nanoseconds &+= length &* UInt64(times)
    }
}

/// What a host has done since it was made, and how long it took. Counted per batch wherever that says as much.
public struct HostMetrics: Sendable {
    /// From the first write of a batch to when the batch was handed to the log: how long the one before kept it waiting.
    public internal(set) var queue = DurationHistogram()
    /// A batch of the log, written and synced.
    public internal(set) var log = DurationHistogram()
    /// From a proposal to its commitment. Of each group one at a time is followed.
    public internal(set) var replicate = DurationHistogram()
    /// From the commitment of a followed proposal to when it was applied.
    public internal(set) var apply = DurationHistogram()
    /// From a read to its moment: by lease, or by asking a majority.
    public internal(set) var readMoment = DurationHistogram()
    /// A job of reads on the state machines' worker, with the wait for it.
    public internal(set) var evaluate = DurationHistogram()

    /// Proposals whose outcome was that they are applied.
    public internal(set) var writes: UInt64 = 0
    /// Reads that got their moment.
    public internal(set) var reads: UInt64 = 0
    /// Entries given to state machines.
    public internal(set) var appliedEntries: UInt64 = 0
    /// Bytes of their payloads.
    public internal(set) var appliedBytes: UInt64 = 0
    /// Payload bytes given to the log.
    public internal(set) var loggedBytes: UInt64 = 0
    /// How often a replica here came to lead.
    public internal(set) var leadershipsGained: UInt64 = 0
    /// How often one ceased to lead.
    public internal(set) var leadershipsLost: UInt64 = 0
    /// What happened to campaigns of replicas here, in the order of ``RaftCore/ElectionNotes/names``.
    public private(set) var elections = [UInt64](repeating: 0, count: ElectionNotes.names.count)
    /// What requests for votes and pre-votes came to here, in the order of ``RaftCore/VoteVerdict``'s cases.
    public private(set) var verdicts = [UInt64](repeating: 0, count: VoteVerdict.allCases.count)

    /// Nothing yet.
    public init() {}

    /// How often `note` was made of a campaign.
    public func elections(_ note: ElectionNotes) -> UInt64 {
        ElectionNotes.names.firstIndex { $0.note == note }.map { elections[$0] } ?? 0
    }

    mutating func count(_ notes: ElectionNotes) {
        for (position, known) in ElectionNotes.names.enumerated() where notes.contains(known.note) {
            elections[position] &+= 1
        }
    }

    mutating func count(_ verdict: VoteVerdict) {
        if let position = VoteVerdict.allCases.firstIndex(of: verdict) { verdicts[position] &+= 1 }
    }
}

/// What one group was asked on a node.
public struct GroupActivity: Sendable {
    /// The group.
    public var group: String
    /// Whether this node leads it.
    public var isLeader: Bool
    /// Entries applied and reads answered here, since the replica was opened.
    public var operations: UInt64
    /// As many of them as came between the look before this one and this one.
    public var recent: UInt64
}

/// A proposal that is followed on its way.
struct FollowedProposal {
    var index: LogIndex
    /// When it was proposed, then when it was committed.
    var since: Instant
    var isCommitted = false
}

extension RaftHost {
    /// The groups that did most here since they were looked at last, most first. Groups that did nothing are not even
    /// walked over.
    public func busiestGroups(_ count: Int) -> [GroupActivity] {
        let active = activeReplicas
        activeReplicas.removeAll(keepingCapacity: true)
        // in order; all but a few are passed over by one comparison
        var busiest: [GroupActivity] = []
        for replica in active {
            replica.isActive = false
            let recent = replica.operations - replica.operationsSeen
            replica.operationsSeen = replica.operations
            if busiest.count == count, let last = busiest.last, recent < last.recent { continue }
            let activity = GroupActivity(
                group: replica.group, isLeader: replica.raft.isLeader, operations: replica.operations, recent: recent)
            let place = busiest.firstIndex {
                $0.recent < recent || ($0.recent == recent && activity.group < $0.group)
            }
            busiest.insert(activity, at: place ?? busiest.count)
            if busiest.count > count { busiest.removeLast() }
        }
        return busiest
    }

    /// How many replicas this node has, how many of them lead, and how many do not serve.
    public var replicaCounts: (all: Int, leading: Int, damaged: Int) {
        var (leading, failing) = (0, damaged.count)
        for replica in replicas {
            if replica.raft.isLeader { leading += 1 }
            if replica.problem != nil { failing += 1 }
        }
        return (replicas.count + damaged.count, leading, failing)
    }

    /// The nodes this one shares groups with, and whether it hears each.
    public var peerStates: [(node: NodeAddress, isReachable: Bool)] {
        links.map { ($0.address, liveness.isReachable($0.address)) }.sorted { $0.node < $1.node }
    }

    func noteOperations(_ count: Int, of replica: Replica) {
        replica.operations &+= UInt64(count)
        guard !replica.isActive else { return }
        replica.isActive = true
        activeReplicas.append(replica)
    }

    /// `replica` has appended proposals of this turn, up to `last`.
    func follow(_ last: LogIndex, of replica: Replica) {
        if replica.followed == nil { replica.followed = FollowedProposal(index: last, since: now) }
    }

    /// Everything up to `index` is committed.
    func noteCommitted(_ index: LogIndex, of replica: Replica) {
        guard let followed = replica.followed, !followed.isCommitted, followed.index <= index else { return }
        metrics.replicate.count(now - followed.since)
        replica.followed?.isCommitted = true
        replica.followed?.since = now
    }

    /// Everything up to `index` is applied.
    func noteApplied(_ index: LogIndex, of replica: Replica) {
        guard let followed = replica.followed, followed.index <= index else { return }
        if followed.isCommitted { metrics.apply.count(now - followed.since) }
        replica.followed = nil
    }
}

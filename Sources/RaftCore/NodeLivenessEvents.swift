/// What ``NodeLiveness`` is told and tells.
extension NodeLiveness {
    /// Best the same on all nodes of a cluster; where they differ, the asker counts the shorter promise.
    public struct Settings: Sendable {
        /// How long a promise lasts.
        public var promise = Interval.milliseconds(1000)
        /// From one request to the next.
        public var interval = Interval.milliseconds(200)
        /// By how much one node's clock may run faster than another's, in percent.
        public var maxClockDriftPercent = 5
        /// Whether a starting node is quiet; only a node that never promised anything does without.
        public var startupQuiet = true
        /// The longest promise that an earlier run can have given, if longer than ``promise``.
        public var earlierPromise = Interval(nanoseconds: 0)
        /// The defaults.
        public init() {}
    }

    /// Asks for support, or pings.
    public struct Request: Equatable, Sendable {
        /// The asker's run.
        public var runNumber: UInt64
        /// Tells requests of a run apart.
        public var sequence: UInt64
        /// Whether support is asked for.
        public var asks: Bool
        /// A request.
        public init(runNumber: UInt64, sequence: UInt64, asks: Bool) {
            self.runNumber = runNumber
            self.sequence = sequence
            self.asks = asks
        }
    }

    /// The answer to a ``Request``.
    public struct Reply: Equatable, Sendable {
        /// Of the request.
        public var sequence: UInt64
        /// Whether support is promised from the request's receipt on.
        public var granted: Bool
        /// The supporter's latest epoch for the asker.
        public var epoch: UInt64
        /// The supporter's run.
        public var runNumber: UInt64
        /// The supporter's wall clock, milliseconds since 1970.
        public var wallClockMilliseconds: Int64
        /// How long the supporter keeps the promise, from the request's receipt; nil: as long as the asker's own.
        public var promise: Interval?
        /// An answer.
        public init(
            sequence: UInt64, granted: Bool, epoch: UInt64, runNumber: UInt64, wallClockMilliseconds: Int64,
            promise: Interval? = nil
        ) {
            self.sequence = sequence
            self.granted = granted
            self.epoch = epoch
            self.runNumber = runNumber
            self.wallClockMilliseconds = wallClockMilliseconds
            self.promise = promise
        }
    }

    /// What happened.
    public enum Event: Sendable {
        /// ``NodeLiveness/deadline`` has come.
        case deadlineReached
        /// A node asked; `wallClock` is this node's own in milliseconds since 1970, for the answer.
        case received(Request, from: NodeAddress, wallClock: Int64)
        /// A node answered.
        case answered(Reply, from: NodeAddress)
        /// The request to a node failed, or the connection broke.
        case failed(NodeAddress)
        /// A node, tracked or not, was found not to speak our services (braft answers their calls with 1001 or 1002).
        /// Undone when it asks for support itself, and by ``familiar(_:)``. Each is remembered until then: how many
        /// there are is for the host to bound.
        case foreign(NodeAddress)
        /// A node was found to speak them, or is nobody's concern any more.
        case familiar(NodeAddress)
        /// A check of this node's own vitals that was started at that moment has ended well: since then the lane has
        /// finished a turn, the apply worker a job, and the log a sync. Never later than the step's `now`.
        case vitalsConfirmed(startedAt: Instant)
        /// The nodes to ask from now on, ascending: those with which groups are shared, this one left out.
        case track([NodeAddress])
    }

    /// What to do.
    public struct Effects: Sendable {
        /// To send.
        public var requests: [(to: NodeAddress, request: Request)] = []
        /// Answers the received request.
        public var reply: Reply?
        /// Nodes to or from which a promise was gained (a new epoch counts as a new one) or lapsed, that run anew, or
        /// that became reachable, unreachable, foreign or familiar, ascending: every replica that shares a group with
        /// one gets ``RaftCore/Event/livenessChanged(_:)``.
        public var changed: [NodeAddress] = []
        /// Start a check of this node's vitals now, and report its good end as ``Event/vitalsConfirmed(startedAt:)``
        /// with the step's `now`. None is asked for while one is under way: one that never ends is the last.
        public var checksVitals = false

        /// An empty buffer.
        public init() {}

        /// Empties the buffer and keeps its memory.
        public mutating func removeAll() {
            requests.removeAll(keepingCapacity: true)
            reply = nil
            changed.removeAll(keepingCapacity: true)
            checksVitals = false
        }

        mutating func noteChange(of node: NodeAddress) {
            let position = changed.firstIndex { $0 >= node } ?? changed.count
            if position == changed.count || changed[position] != node { changed.insert(node, at: position) }
        }
    }
}

extension NodeLiveness.Settings {
    /// How long the asker counts a promise that the supporter keeps for `kept`.
    func counted(of kept: Interval?) -> Interval {
        let promise = min(promise, max(kept ?? promise, Interval(nanoseconds: 0)))
        return Interval(nanoseconds: promise.nanoseconds / 100 * Int64(100 - maxClockDriftPercent))
    }
}

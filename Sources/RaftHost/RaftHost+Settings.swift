public import RaftCore
public import Transport

extension RaftHost {
    /// What may be tuned.
    public struct Settings: Sendable {
        /// Of every core.
        public var raft = RaftSettings()
        /// Of the promises between nodes.
        public var liveness = NodeLiveness.Settings()
        /// Payload bytes of one append frame; a single larger entry still goes in one.
        public var frameBytes = 512 << 10
        /// Unsent bytes towards a peer above which no further append is made.
        public var linkBytes = 4 << 20
        /// Payload bytes of applied entries each replica keeps in memory for its peers.
        public var tailBytes = 4 << 20
        /// Payload bytes proposed and not applied per replica above which proposals are refused as busy.
        public var proposalBytes = 64 << 20
        /// Proposals not applied per replica above which further ones are refused as busy.
        public var proposals = 65_536
        /// Reads waiting per replica above which further ones are refused as busy.
        public var reads = 65_536
        /// Largest payload of an entry; with what surrounds it, it must fit a frame.
        public var payloadBytes = 32 << 20
        /// Payload bytes waiting for the log above which proposals are refused as busy and appends with an error that a
        /// leader repeats later.
        public var batchBytes = 256 << 20
        /// Answers waiting for the log above which appends are refused in the same way.
        public var batchAnswers = 65_536
        /// Free bytes on the log's device below which proposals are refused.
        public var minimumFreeBytes = 256 << 20
        /// How long a batch may stay last in the log before a seal proves it.
        public var sealDelay = Interval.milliseconds(50)
        /// How long a state machine that failed rests before it is made anew.
        public var applyRetryInterval = Interval.milliseconds(1000)
        /// Of campaigns, and of probes of nodes that have come back.
        public var pace = Pacer.Settings()
        /// Whether logs are compacted at all.
        public var compacts = true
        /// Bytes of one replica's log above which it is compacted. Above half the log's own bound, whatever keeps its
        /// oldest part alive is compacted as far as it can be.
        public var compactionBytes = 64 << 20
        /// Entries of one replica's log above which it is compacted.
        public var compactionEntries = 1 << 20
        /// Entries that are kept for members that lag a little.
        public var keptEntries = 8192
        /// Bytes of entries that are kept for them at most.
        public var keptBytes = 4 << 20
        /// Shortest time between two rounds of compaction.
        public var compactionPace = Interval.milliseconds(1000)
        /// Bytes written after which the log is looked at as a whole, and its index is written.
        public var lookBytes = 32 << 20
        /// How long the log is kept for a member that was sent a snapshot and gets no further; a braft's files too. A braft
        /// from which a snapshot comes has to send 64 KiB of it in this time.
        public var pinPatience = Interval.milliseconds(60_000)
        /// Bytes of payload applied to a volatile state machine after which its state is saved, at the latest.
        public var saveBytes = 64 << 20
        /// Entries applied to a volatile state machine after which its state is saved, at the latest.
        public var saveEntries = 100_000
        /// Bytes of snapshots that this node sends to others, gets from brafts and saves for itself in a second, all
        /// together.
        public var snapshotBytesPerSecond = 64 << 20
        /// Bytes of a snapshot in one answer at most, and about as many in one step of writing it.
        public var snapshotChunkBytes = 256 << 10
        /// Snapshots received at a time; another is refused as busy, and offered again later.
        public var snapshotsReceived = 2
        /// Snapshots received at a time beside those, of brafts and for guests.
        public var foreignSnapshotsReceived = 1
        /// Snapshots whose files are kept for others at a time.
        public var snapshotsSent = 8
        /// Snapshots whose files are kept for brafts at a time, beside those.
        public var foreignSnapshotsSent = 4
        /// How long a snapshot that nobody asks for is kept, sent or received in part.
        public var snapshotPatience = Interval.milliseconds(30_000)
        /// How long after something was applied the replicas of a group are compared, and the shortest time between two
        /// comparisons.
        public var comparisonPace = Interval.milliseconds(1000)
        /// Whether braft's command line service takes orders; who leads is said in any case.
        public var answersCli = true
        /// Seed of the cores' random delays.
        public var seed: UInt64 = 1

        /// The defaults.
        public init() {}
    }

    /// Where blocking work happens.
    public struct Workers {
        var log: any Worker
        var reader: any Worker
        var apply: any Worker
        var maintenance: any Worker
        /// The log's writer, the reader of old entries, the state machines' worker, and one for what may take long.
        public init(log: any Worker, reader: any Worker, apply: any Worker, maintenance: any Worker) {
            self.log = log
            self.reader = reader
            self.apply = apply
            self.maintenance = maintenance
        }
    }
}

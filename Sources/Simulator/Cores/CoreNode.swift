import RaftCore

/// A write on its way to a disk, and what waits for it.
struct CoreWrite {
    enum Change {
        case none
        case log(truncateFrom: LogIndex?, entries: [CoreEntry])
        case install(SnapshotInstall, CoreState)
        case compact(through: LogIndex)
        case debtPaid
    }
    var hardState: HardState?
    var change = Change.none
    /// What the core is told when it is done; it asked for nothing if nil.
    var mark: DurableMark?
    /// What leaves when it is done.
    var released: [CorePacket] = []
}

/// A message under way. Answers come back to the run that asked, or not at all.
struct CorePacket {
    enum Body {
        case vote(VoteRequest)
        case append(AppendRequest, entries: [CoreEntry], ticket: AppendTicket)
        case timeoutNow(TimeoutNowRequest)
        case release(ReleaseRequest)
        case readIndex(ReadIndexRequest)
        case snapshot(SnapshotRequest, CoreState, sending: UInt64)
        case reply(Message)
        /// Answers the sending of a snapshot.
        case snapshotReply(SnapshotReply, sending: UInt64, through: LogIndex)
        case livenessRequest(NodeLiveness.Request)
        case livenessReply(NodeLiveness.Reply)
    }
    var from: Int
    var to: Int
    /// The asker's run.
    var run: UInt64
    var body: Body
    /// Up to where an answer in the positive vouches for its sender's log.
    var vouched: LogPosition?

    var isReply: Bool {
        switch body {
        case .reply, .snapshotReply, .livenessReply: true
        default: false
        }
    }

    var isLiveness: Bool {
        switch body {
        case .livenessRequest, .livenessReply: true
        default: false
        }
    }

    /// Estimated bytes on the wire: header and metadata of a frame, entries with their payloads.
    var size: Int {
        switch body {
        case .append(_, let entries, _): entries.reduce(120) { $0 + $1.size + 16 }
        case .snapshot: 1000
        default: isReply ? 60 : 120
        }
    }
}

/// What survives a crash.
struct CoreDisk {
    var hardState = HardState.initial
    var log: CoreLog
    /// What the state machine has flushed.
    var state = CoreState()
    /// The last entry that it ever held, if damage took it, and everything that damage took since it owed nothing.
    var debt: LogPosition?
    var lost: Set<LogPosition> = []

    mutating func complete(_ write: CoreWrite) {
        if let hardState = write.hardState { self.hardState = hardState }
        switch write.change {
        case .none: break
        case .log(let index, let entries):
            if let index { log.truncate(from: index) }
            for entry in entries { log.append(entry) }
        case .install(let install, let state):
            log.install(install)
            self.state = state
        case .compact(let index): log.compact(through: index)
        case .debtPaid: (debt, lost) = (nil, [])
        }
    }

    /// Whether it holds this entry, or a state that contains it.
    func holds(_ position: LogPosition) -> Bool {
        position.index < log.base.index || log.term(at: position.index) == position.term
    }
}

/// One node with one replica.
struct CoreNode {
    enum Standing {
        case up
        case down
        /// It left the group, or its disk is lost: never started again.
        case gone
    }

    let id: PeerID
    var standing = Standing.down
    /// Counts its starts.
    var run: UInt64 = 0
    var disk: CoreDisk
    var raft: Raft
    var liveness: NodeLiveness
    /// The log in memory, and what is applied of it.
    var log: CoreLog
    var state = CoreState()
    /// What may be applied.
    var applicable = LogIndex.zero
    var writes: [CoreWrite] = []
    /// Until then the disk finishes nothing, and the process does nothing.
    var diskStalledUntil: Int64 = 0
    var pausedUntil: Int64 = 0
    /// When its next timer fires, in simulated time; nil if none is set.
    var wakesAt: Int64?
    /// Whether its liveness has not been told yet with whom it has to do.
    var isNew = true
    /// Reads that wait for their index to be applied.
    var readings: [ReadyRead] = []
    /// Snapshots that are being sent, by number.
    var sendings: [UInt64: PeerID] = [:]
    /// Runs of the followers that asked for a read index, by node and sequence.
    var questions: [[UInt64]: UInt64] = [:]
    /// This node's clock: it began somewhere and runs a little fast or slow.
    let clockOffset: Int64
    let clockPercent: Int64

    var isUp: Bool { standing == .up }
    /// The last entry of its log.
    var last: LogPosition { LogPosition(term: raft.lastTerm, index: raft.lastIndex) }
    /// Whether it keeps entries without their payloads.
    var isWitness: Bool { id.role == .witness }

    func localTime(_ time: Int64) -> Instant { Instant(nanoseconds: clockOffset + time / 100 * clockPercent) }

    /// The first simulated time at which the local clock shows `instant` or more.
    func globalTime(_ instant: Instant) -> Int64 {
        let local = max(0, instant.nanoseconds - clockOffset)
        return (local + clockPercent - 1) / clockPercent * 100
    }
}

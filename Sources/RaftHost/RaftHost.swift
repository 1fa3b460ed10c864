public import RaftCore
public import RaftStorage
public import Transport
import WireMessages

/// Runs many groups on one lane: drives their cores, carries out what they decide over one log and one connection per
/// peer, and applies what is committed.
///
/// Threads: every method belongs to the lane, and every completion comes on it, never from inside the call. The log,
/// reads of old entries, the state machines and what takes long run on four workers; nothing but values and completions
/// crosses over.
///
/// A turn drains what came in, steps the replicas concerned, then hands *one* batch to the log, *one* job to the state
/// machines, and lets the network join what goes to one peer (DESIGN's fourth law). At most one log batch is under
/// way; what gathers meanwhile is the next one, so the cost of a sync is shared by whoever waits for it.
///
/// Invariants:
/// 1. A vote or an acknowledgement leaves only when its own write and all earlier ones of its group are durable: they
///    are duties of a batch, and batches complete in order.
/// 2. A state machine gets only entries that are committed and durable on this node, in order, each once.
/// 3. A proposal's completion is called exactly once.
public final class RaftHost: @unchecked Sendable {
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
        /// How long the log is kept for a member that was sent a snapshot and gets no further.
        public var pinPatience = Interval.milliseconds(60_000)
        /// Bytes of snapshots that this node sends in a second, to all others together.
        public var snapshotBytesPerSecond = 64 << 20
        /// Bytes of a snapshot in one answer at most.
        public var snapshotChunkBytes = 256 << 10
        /// Snapshots received at a time; another is refused as busy, and offered again later.
        public var snapshotsReceived = 2
        /// Snapshots whose files are kept for others at a time.
        public var snapshotsSent = 8
        /// How long a snapshot that nobody asks for is kept, sent or received in part.
        public var snapshotPatience = Interval.milliseconds(30_000)
        /// How long after something was applied the replicas of a group are compared, and the shortest time between two
        /// comparisons.
        public var comparisonPace = Interval.milliseconds(1000)
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

    let settings: Settings
    let lane: any LaneDriver
    let network: any Network
    let workers: Workers
    let log: WriteAheadLog
    let disk: any Disk
    let snapshots: SnapshotStore
    let logger: Logger
    let wire = RaftWire()

    /// Who this node is; the cluster and node ids are set when it joins.
    public private(set) var identity: NodeIdentity
    /// Tells connections of two processes under one run number apart.
    let nonce: UInt64
    /// The incarnation recorded for a node, if it is recorded; others are refused.
    public var recordedIncarnation: (_ nodeID: UInt64) -> UInt64? = { _ in nil }
    /// Called once when the node cannot go on: a failed sync, for one. The process must end.
    public var onFatal: (String) -> Void = { _ in }
    /// Makes the state machine of a replica anew from what the store holds, after it has failed; nil: never. Called on
    /// the state machines' worker.
    public var remakeStateMachine: @Sendable (ReplicaRecord) throws(StateMachineError) -> (any StateMachine)? = {
        (_) throws(StateMachineError) in nil
    }
    /// Where the state machines keep their state, if they share a store; without one no snapshots are received.
    public var store: (any StateMachineStore)?
    /// Called on the lane with the state machine that took a failed one's place, or came with a snapshot.
    public var onStateMachine: (ReplicaRecord, any StateMachine) -> Void = { _, _ in }
    /// Called in a turn in which the replica of a group gained or lost leadership.
    public var onLeadership: (_ group: String, _ isLeader: Bool) -> Void = { _, _ in }

    /// Sees what the replicas do, if set; set before the first is opened.
    public var observer: (any ReplicaObserver)?

    var now: Instant
    /// The node's promises, and those to it.
    public internal(set) var liveness: NodeLiveness
    var livenessEffects = NodeLiveness.Effects()
    var effects = Effects()

    /// Those that take part.
    var replicas: [Replica] = []
    /// By slot, which is never given again in this life; nil: removed.
    var slots: [Replica?] = []
    var byGroup: [String: Replica] = [:]
    var replicasByNode: [NodeAddress: [Replica]] = [:]
    var links: [PeerLink] = []
    var linkByNode: [NodeAddress: PeerLink] = [:]
    var nodeState: NodeState
    /// Of the runs in it those that are known to be durable, by node id.
    var durableRuns: [UInt64: NodeState.PeerRun] = [:]
    /// The process heard last from each node, by node id.
    var welcomed: [UInt64: KnownPeer] = [:]
    /// What the log held at the start; emptied as replicas are opened.
    var recovered: [LogGroup: RecoveredGroup]
    var damaged: [ReplicaStatus] = []

    /// Answers that came in and wait for the turn.
    var inbox: [(Replica, Event)] = []
    var livenessInbox: [NodeLiveness.Event] = []
    /// The check of this node's vitals under way.
    var vitalsCheck: VitalsCheck?
    var dirty: [Replica] = []
    var applyReady: [Replica] = []
    var stalled: [Replica] = []
    var stalledRetry: Instant?
    /// When leaders that cannot serve try again to hand over.
    var handOverDue: Instant?
    var heap = DeadlineHeap()
    /// Replicas, by slot, that want to campaign or to probe.
    var pacer: Pacer
    /// Completions for others; run at the end of the turn, so that nobody is called from inside a step.
    var deferred: [() -> Void] = []
    var nextRead: UInt64 = 0
    var nextChange: UInt64 = 0

    /// Bytes written since the log was last looked at.
    var grownBytes = 0
    /// Bytes written since its index was last written.
    var bytesSinceCheckpoint = 0
    /// The log is to be looked at once more.
    var wantsCompaction = false
    var compactionCandidates: [Replica] = []
    var compaction: CompactionRound?
    var nextCompaction = Instant.distantPast
    var compactionDue: Instant?
    var snapshotsDue: Instant?
    /// Numbers of states from here on were given in this life.
    let firstFreshNumber: UInt64
    /// Replicas whose note is lost, and with it perhaps which state is their own.
    var unknownStates: [LogGroup] = []
    /// Replicas on their way to the disk, to be started then.
    var births: [LogGroup] = []
    /// Removals that were asked for and have not begun.
    var removals: [ReplicaRemoval] = []
    /// Replicas that wait for a state, and when their leaders are asked again.
    var stateless: [Replica] = []
    var nextAsking = Instant.distantPast
    var statesDue: Instant?
    var repairs: [LogRepair] = []
    var repairsDue: Instant?
    var sending: SnapshotSending
    var receiving = SnapshotReceiving()

    /// Groups led here that have applied something since their replicas were compared.
    var toCompare: [Replica] = []
    var nextComparison: Instant?
    var comparisonDue: Instant?
    /// The round under way.
    var comparing: ComparisonRound?

    var batch = LogBatch()
    var batchUnderWay: LogBatch?
    var batchRetry: Instant?
    var sealAt: Instant?
    var isApplying = false
    var evaluations: [Evaluation] = []
    var isEvaluating = false

    /// The log could not write for want of room, and tries again.
    var isLogFull = false
    /// The log could not write for want of room, by its own bound and not the device's.
    var isLogAtBound = false
    /// The log is about to refuse entries.
    var isLogTight = false
    /// Less is free than proposals need.
    var hasLittleRoom = false
    var freeSpaceChecked = Instant.distantPast
    var isCheckingFreeSpace = false
    var stopping: Stopping?
    var hasFailed = false
    /// Nothing more will be proposed, read or applied: the host closes, has failed, or is dismissed.
    var isOver = false
    /// Protocol violations met, by name.
    public internal(set) var refusals: [Refusal: Int] = [:]

    /// A host over an open log. Replicas found in it are listed in ``records`` and started by ``open(_:stateMachine:)``.
    public init(
        settings: Settings, identity: NodeIdentity, nonce: UInt64, lane: any LaneDriver, network: any Network,
        workers: Workers, disk: any Disk, snapshots: SnapshotStore, log: WriteAheadLog,
        recovered: [LogGroup: RecoveredGroup], logger: Logger
    ) {
        self.settings = settings
        self.identity = identity
        self.nonce = nonce
        self.lane = lane
        self.network = network
        self.workers = workers
        self.disk = disk
        self.snapshots = snapshots
        self.log = log
        self.recovered = recovered
        self.logger = logger
        self.now = lane.clock.now
        self.pacer = Pacer(settings: settings.pace)
        let note = recovered[0]?.note
        let state = note.map { NodeState($0) } ?? NodeState()
        self.nodeState = state ?? NodeState()
        self.nodeRecordDamage =
            recovered[0]?.damage?.reason
            ?? (state == nil ? "it was written by a newer version, or does not parse" : nil)
        for run in nodeState.peers { durableRuns[run.nodeID] = run }
        for position in nodeState.replicas.indices {
            let number = nodeState.replicas[position].number
            guard let bytes = recovered[number]?.note else { continue }
            if let note = ReplicaNote(bytes) {
                nodeState.replicas[position].store = note.store
                nodeState.replicas[position].fence = note.fence
            } else {
                // which state is its own is not known: none may be taken for nobody's
                self.recovered[number]?.damage = .promises(
                    reason: "the replica's own record was written by a newer version, or does not parse")
            }
        }
        firstFreshNumber = nodeState.nextNumber
        sending = SnapshotSending(
            random: SeededRandom(seed: settings.seed ^ nonce),
            budget: SnapshotBudget(bytesPerSecond: settings.snapshotBytesPerSecond))
        var livenessSettings = settings.liveness
        livenessSettings.earlierPromise = identity.longestPromise
        // nothing was ever promised in an earlier life if there was none
        if identity.runNumber == 1 { livenessSettings.startupQuiet = false }
        self.liveness = NodeLiveness(
            node: identity.address, runNumber: identity.runNumber, settings: livenessSettings, startedAt: now)
        removeUnfinishedSnapshots()
    }

    /// What an earlier life sent and received is of no use to anybody.
    private func removeUnfinishedSnapshots() {
        do throws(StateMachineError) {
            for name in try snapshots.names() where name.hasPrefix("in-") || name.hasPrefix("out-") {
                try snapshots.remove(name)
            }
        } catch {
            logger.log(.warning, "old snapshots stay", [("problem", error.description)])
        }
    }

    /// The replicas this node holds, as the log remembers them.
    public var records: [ReplicaRecord] { nodeState.replicas }

    /// Whether the node's own record is readable: if not, nobody knows what it promised.
    public let nodeRecordDamage: String?

    /// The node has joined a cluster: from now on it says who it is.
    public func join(clusterID: UInt64, nodeID: UInt64) {
        identity.clusterID = clusterID
        identity.nodeID = nodeID
    }

    // MARK: replicas

    /// Starts a replica that the log remembers.
    ///
    /// One whose part of the log is damaged is not started: it shows up in ``status()`` as damaged.
    public func open(_ record: ReplicaRecord, stateMachine: any StateMachine) {
        let opened = openLog(of: record, stateMachine)
        let state = opened.state
        let applied = stateMachine.appliedPosition.index
        var damage = opened.problem
        if damage == nil, applied > state.lastIndex {
            // nothing is applied before it is durable in the log: a part of the log has gone
            damage = "the store has applied entry \(applied), the log ends at \(state.lastIndex)"
        }
        let base = state.base?.position.index ?? .zero
        if case .promises = state.damage { unknownStates.append(record.number) }
        if let damage {
            logger.log(.error, "replica is damaged and does not serve", [("group", record.group), ("problem", damage)])
            damaged.append(
                ReplicaStatus(
                    group: record.group, peer: record.peer, state: "damaged", term: state.hardState.term, leader: nil,
                    commitIndex: .zero, appliedIndex: applied, lastIndex: state.lastIndex,
                    durableIndex: state.lastIndex,
                    configuration: state.configurations.last?.configuration ?? record.birth,
                    debt: nil, problem: damage))
            return
        }
        var configurations = state.configurations
        if let base = state.base {
            configurations.insert(
                PlacedConfiguration(index: base.position.index, configuration: base.configuration), at: 0)
        } else if !record.birth.isEmpty {
            configurations.insert(PlacedConfiguration(index: .zero, configuration: record.birth), at: 0)
        }
        let raft = makeRaft(
            record, state.hardState, base: state.base?.position ?? .zero, runs: state.termRuns, last: state.lastIndex,
            memberships: configurations, applied: max(applied, base), debt: state.debt)
        let replica = Replica(
            record: record, slot: slots.count, raft: raft, stateMachine: stateMachine, applied: max(applied, base),
            memberships: configurations, settings: settings)
        replicas.append(replica)
        slots.append(replica)
        byGroup[record.group] = replica
        replica.owes = state.debt != nil
        // a store that was emptied since holds another state
        if let fence = record.fence, applied >= fence.index {
            logger.log(.error, "the state is fenced", [("group", record.group), ("problem", fence.problem)])
            replica.fence = fence
            wantState(of: replica, fence.problem)
        }
        membershipChanged(replica)
        step(replica, .started, StepContext(write: opened.repair))
        askForCompaction(replica)
        if applied < base, replica.id.role != .witness {
            wantState(of: replica, "the store holds entries up to \(applied), the log begins behind \(base)")
        }
        lane.requestTurn()
    }

    private func openLog(of record: ReplicaRecord, _ stateMachine: any StateMachine) -> OpenedLog {
        let state = recovered.removeValue(forKey: record.number) ?? RecoveredGroup()
        var durable: SnapshotMeta?
        do throws(StateMachineError) {
            durable = try (stateMachine as? any SnapshotStateMachine)?.durableMeta()
        } catch {
            logger.log(
                .warning, "the state cannot be read", [("group", record.group), ("problem", error.description)])
        }
        let opened = OpenedLog(state, number: record.number, durable: durable)
        if opened.repair != nil, let damage = state.damage {
            logger.log(
                .error, "the log has lost entries",
                [
                    ("group", record.group), ("last", opened.state.lastIndex.description),
                    ("debt", opened.state.debt?.description ?? "none"), ("problem", damage.reason),
                ])
        }
        return opened
    }

    /// Creates a replica, at its group's birth or, with an empty `birth`, for a change of membership: remembered
    /// durably, then started. The completion gets nil, also if the replica is there already, or why there is none: the
    /// node holds another replica of the group, or once held one with this idx or a higher one.
    ///
    /// `mapVersion` is the version of the map that wants the replica; one that is there already remembers the highest.
    public func create(
        group: String, peer: PeerID, birth: Configuration, kind: String, mapVersion: UInt64? = nil,
        makeStateMachine: @escaping (_ number: UInt64) throws(StateMachineError) -> any StateMachine,
        completion: @escaping (String?) -> Void
    ) {
        if let position = nodeState.replicas.firstIndex(where: { $0.group == group }) {
            let existing = nodeState.replicas[position]
            guard existing.peer == peer else {
                return later { completion("the node holds another replica of \(group), \(existing.peer)") }
            }
            if let mapVersion, mapVersion > existing.mapVersion ?? 0 {
                nodeState.replicas[position].mapVersion = mapVersion
                return writeNodeState { completion(nil) }
            }
            // it may be on its way to the disk
            return whenDurable { completion(nil) }
        }
        if let former = nodeState.tombstone(of: group), former.idx >= peer.idx {
            return later {
                completion("\(former) was removed from this node: a new replica of \(group) needs a higher idx")
            }
        }
        var record = ReplicaRecord(group: group, peer: peer, number: nodeState.takeNumber(), birth: birth, kind: kind)
        record.mapVersion = mapVersion
        let stateMachine: any StateMachine
        do throws(StateMachineError) { stateMachine = try makeStateMachine(record.number) } catch {
            let text = error.description
            deferred.append { completion(text) }
            lane.requestTurn()
            return
        }
        nodeState.replicas.append(record)
        births.append(record.number)
        writeNodeState { [self] in
            logger.log(.info, "replica created", [("group", group), ("peer", peer.description)])
            births.removeAll { $0 == record.number }
            open(record, stateMachine: stateMachine)
            completion(nil)
        }
    }

    /// How the replica of `group` is doing; nil if there is none here.
    public func status(of group: String) -> ReplicaStatus? {
        byGroup[group]?.status() ?? damaged.first { $0.group == group }
    }

    /// How all replicas are doing.
    public func status() -> [ReplicaStatus] { replicas.map { $0.status() } + damaged }

    /// The consensus of the replica of `group`, for those who judge it; nil if there is none here.
    public func raft(of group: String) -> Raft? { byGroup[group]?.raft }

    /// Whether this node leads `group`, and may propose.
    public func leads(_ group: String) -> Bool { byGroup[group]?.raft.isLeader ?? false }

    /// The wall clocks of the voters of `group` known here, their median in milliseconds since 1970; nil unless a
    /// majority is known.
    public func medianWallClock(of group: String) -> Int64? {
        guard let replica = byGroup[group] else { return nil }
        let monotonic = lane.clock.now.nanoseconds / 1_000_000
        var clocks: [Int64] = []
        let members = replica.raft.configuration.voters
        for member in members {
            if member == replica.id {
                clocks.append(lane.clock.wallClockMilliseconds)
            } else if let offset = liveness.wallClockOffset(of: member.address) {
                clocks.append(monotonic &+ offset)
            }
        }
        guard clocks.count > members.count / 2 else { return nil }
        clocks.sort()
        return clocks[(clocks.count - 1) / 2]
    }

    /// Bytes of the log on disk.
    public var logBytes: Int { log.totalBytes }

    /// Whether proposals are refused for want of disk space. While the log is at its own bound they are refused as busy:
    /// compaction makes room before long.
    public var refusesWrites: Bool { (isLogFull && !isLogAtBound) || hasLittleRoom }

    /// Bytes that the log may occupy.
    public var logSpace: Int { log.spaceBytes }

    // MARK: what others ask for

    /// Proposes `payload` to `group`. Joined with everything else proposed to it in this turn.
    public func propose(_ payload: Bytes, to group: String, completion: @escaping (ProposalOutcome) -> Void) {
        guard let replica = byGroup[group] else {
            let refusal: ProposalRefusal = damaged.contains { $0.group == group } ? .damaged : .noSuchGroup
            return later { completion(.refused(refusal)) }
        }
        if replica.problem != nil { return later { completion(.refused(.damaged)) } }
        guard replica.raft.isLeader else {
            let leader = replica.raft.leader
            return later { completion(.notLeader(leader)) }
        }
        if isOver || stopping != nil || replica.raft.isTransferring { return later { completion(.refused(.stopping)) } }
        checkFreeSpace()
        if isLogTight || isLogAtBound { return later { completion(.refused(.busy)) } }
        if refusesWrites { return later { completion(.refused(.diskFull)) } }
        guard payload.count <= settings.payloadBytes else { return later { completion(.refused(.tooLarge)) } }
        guard batch.byteCount < settings.batchBytes else { return later { completion(.refused(.busy)) } }
        guard replica.proposedBytes < settings.proposalBytes,
            replica.proposed.count + replica.proposing.count < settings.proposals
        else { return later { completion(.refused(.busy)) } }
        replica.proposedBytes += payload.count
        replica.proposing.append((payload, completion))
        markDirty(replica)
    }

    /// Finds a moment at which a read of `group` is linearizable: under the leader's lease, or by asking a majority
    /// (ReadIndex, dissertation §6.4). Joined with everything else that wants to read it in this turn.
    ///
    /// - Parameters:
    ///   - lease: whether a lease will do; false for reads whose lease had lapsed when they were evaluated.
    ///   - atFollower: whether this replica may serve without leading, by asking the leader up to where to apply.
    public func read(
        _ group: String, lease: Bool = true, atFollower: Bool = false, completion: @escaping (ReadOutcome) -> Void
    ) {
        guard let replica = byGroup[group] else {
            let refusal: ProposalRefusal = damaged.contains { $0.group == group } ? .damaged : .noSuchGroup
            return later { completion(.refused(refusal)) }
        }
        if replica.problem != nil || replica.id.role == .witness { return later { completion(.refused(.damaged)) } }
        guard replica.raft.isLeader || atFollower else {
            let leader = replica.raft.leader
            return later { completion(.notLeader(leader)) }
        }
        if isOver { return later { completion(.refused(.stopping)) } }
        guard replica.readsWaiting < settings.reads, evaluations.count < settings.reads else {
            return later { completion(.refused(.busy)) }
        }
        replica.readsWaiting += 1
        if lease { replica.reading.append(completion) } else { replica.asking.append(completion) }
        markDirty(replica)
    }

    /// Runs `body` on the state machines' worker, where they may be read; several of a turn go in one job. The
    /// completion gets nil if the moment turns out not to count, for a lease lapsed before `body` was done: read again
    /// without lease.
    public func evaluate<R: Sendable>(
        at moment: ReadMoment, _ body: @escaping @Sendable () -> R, completion: @escaping (R?) -> Void
    ) {
        let result = Box<R?>(nil)
        let stoodBefore = planted("lease-judged-before-evaluation") && stands(moment, at: now)
        evaluations.append(
            Evaluation(
                job: { result.value = body() },
                completion: { [self] in
                    completion(stoodBefore || stands(moment, at: lane.clock.now) ? result.value : nil)
                }))
        lane.requestTurn()
    }

    /// Runs `body`, which may take long, on a worker that nobody's answers depend on; the completion comes on the lane.
    public func runAside<R: Sendable>(_ body: @escaping @Sendable () -> R, completion: @escaping (R) -> Void) {
        let result = Box<R?>(nil)
        let completion = Box(completion)
        workers.maintenance.submit {
            result.value = body()
        } completion: { [self] in
            guard let value = result.value, !isOver else { return }
            completion.value(value)
            lane.requestTurn()
        }
    }

    /// `reading` is one of the clock that is younger than the read: the turn's own may be older, when somebody on the lane
    /// asks in a turn that was suspended.
    private func stands(_ moment: ReadMoment, at reading: Instant) -> Bool {
        // the state of one that was removed may have gone before it was looked at
        guard let replica = byGroup[moment.group], replica.record.number == moment.replica else { return false }
        guard let term = moment.lease else { return true }
        return replica.raft.holdsLease(of: term, now: reading, liveness: liveness)
    }

    /// Changes the members of `group` to `target` (§6), which only its leader does. Newcomers must have been created on
    /// their nodes, with an empty birth. The completion comes when the change is committed, or not to be.
    public func changeMembership(
        of group: String, to target: Configuration, completion: @escaping (ChangeOutcome) -> Void
    ) {
        order(group, completion) { .membershipRequested($0, target) }
    }

    /// Puts `target` in force on this node's replica of `group` without asking anybody: for a group that lost its
    /// majority for good. What only the lost members knew is lost.
    public func resetMembership(
        of group: String, to target: Configuration, completion: @escaping (ChangeOutcome) -> Void
    ) {
        order(group, completion) { .resetRequested($0, target) }
    }

    private func order(
        _ group: String, _ completion: @escaping (ChangeOutcome) -> Void, _ event: (UInt64) -> Event
    ) {
        guard let replica = byGroup[group], !isOver else { return later { completion(.refused(.notLeader)) } }
        nextChange += 1
        replica.changes[nextChange] = completion
        inbox.append((replica, event(nextChange)))
        lane.requestTurn()
    }

    func finishChange(_ change: UInt64, _ outcome: ChangeOutcome, of replica: Replica) {
        guard let completion = replica.changes.removeValue(forKey: change) else { return }
        logger.log(
            .info, "membership",
            [
                ("group", replica.group), ("term", replica.raft.term.description), ("outcome", "\(outcome)"),
                ("members", replica.raft.configuration.description),
            ])
        deferred.append { completion(outcome) }
        lane.requestTurn()
    }

    /// Hands `group` over to `peer`, or to the most up-to-date voter; says nothing about success.
    public func transferLeadership(of group: String, to peer: PeerID?) {
        guard let replica = byGroup[group] else { return }
        inbox.append((replica, .transferRequested(peer)))
        lane.requestTurn()
    }

    func later(_ work: @escaping () -> Void) {
        // there may be no other turn
        guard !isOver else { return work() }
        deferred.append(work)
        lane.requestTurn()
    }

    func markDirty(_ replica: Replica) {
        guard !replica.isDirty, !replica.isRemoved else { return }
        replica.isDirty = true
        dirty.append(replica)
        lane.requestTurn()
    }
}

/// A value handed between the lane and a worker; one side at a time, ordered by the worker's queue.
final class Box<Value>: @unchecked Sendable {
    var value: Value
    init(_ value: Value) { self.value = value }
}

/// Something to compute on the state machines' worker.
struct Evaluation {
    var job: @Sendable () -> Void
    var completion: () -> Void
}

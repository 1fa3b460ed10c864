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
    let settings: Settings
    let lane: any LaneDriver
    let network: any Network
    let workers: Workers
    let log: WriteAheadLog
    let disk: any Disk
    let snapshots: SnapshotStore
    let logger: Logger
    let wire = RaftWire()

    /// In no cluster: it says no hello and wants none, every other node is foreign to it, and it to them. Set before the
    /// start.
    public var isOnItsOwn = false
    /// Nodes of ours with which no cluster is shared: only guests speak with them, as with brafts.
    var nodesElsewhere: [NodeAddress] = []
    /// Who this node is; the cluster and node ids are set when it joins.
    public private(set) var identity: NodeIdentity
    /// Tells connections of two processes under one run number apart.
    let nonce: UInt64
    /// Whether something else than a node of this cluster may stand at an address. Where it may not, what answers there
    /// without being such a node is not spoken with: it holds nothing of what that node has promised.
    public var mayBeForeign: (_ node: NodeAddress) -> Bool = { _ in true }
    /// The incarnation recorded for a node, if it is recorded; others are refused.
    public var recordedIncarnation: (_ nodeID: UInt64) -> UInt64? = { _ in nil }
    /// Called once when the node cannot go on: a failed sync, for one. The process must end.
    public var onFatal: (String) -> Void = { _ in }
    /// Makes the state machine of a replica anew from what the store holds, after it has failed; nil: never. Called on
    /// the maintenance worker, where it may take long: others are applied meanwhile, and the failed one may still be read.
    public var remakeStateMachine: @Sendable (ReplicaRecord) throws(StateMachineError) -> (any StateMachine)? = {
        (_) throws(StateMachineError) in nil
    }
    /// Where the state machines keep their state, if they share a store; without one no snapshots are received.
    public var store: (any StateMachineStore)?
    /// Called on the lane with the state machine that took a failed one's place, or came with a snapshot.
    public var onStateMachine: (ReplicaRecord, any StateMachine) -> Void = { _, _ in }
    /// Changes the members of a group for braft's command line service, and answers when that is committed or has failed;
    /// false: the group is in nobody's record, and the host does it by itself. Called on the lane.
    public var memberAuthority:
        ((_ group: String, _ order: MemberOrder, _ done: @escaping (MemberAnswer) -> Void) -> Bool)?
    /// Called in a turn in which the replica of a group gained or lost leadership.
    public var onLeadership: (_ group: String, _ isLeader: Bool) -> Void = { _, _ in }
    /// Called in a turn in which the replica of a group came to follow a foreign leader.
    public var onForeignLeader: (_ group: String) -> Void = { _ in }

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
    /// Connections to those who are in no configuration here and spoke without hello.
    var strangers: [StrangerLink] = []
    var foreignNotes = ForeignNotes()
    var nodeState: NodeState
    /// Whether it is to be in the next batch.
    var isNodeStateChanged = false
    /// Of the runs in it those that are known to be durable, by node id.
    var durableRuns: [UInt64: NodeState.PeerRun] = [:]
    /// The process heard last from each node, by node id.
    var welcomed: [UInt64: KnownPeer] = [:]
    /// What the log held at the start; emptied as replicas are opened.
    var recovered: [LogGroup: RecoveredGroup]
    var damaged: [ReplicaStatus] = []

    /// Answers that came in and wait for the turn.
    var inbox = FIFO<(Replica, Event)>()
    /// Replicas to which something was applied lately, in the order in which they are looked at.
    var warm = FIFO<(Replica, Instant)>()
    var coolingDue: Instant?
    /// What many replicas are to hear of a node; goes before the inbox.
    var news: [News] = []
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
    /// When this turn leaves the rest of its events, and of those who take turns, to the next one.
    var eventsEnd = Instant.distantFuture
    var pacedEnd: Instant?
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
    /// Those of the replicas that are guests; and those that lead.
    var guests: [Replica] = []
    var leadingGuests: [Replica] = []
    var guestsDue: Instant?
    var repairs: [LogRepair] = []
    var repairsDue: Instant?
    var snapshotBudget: SnapshotBudget
    var sending: SnapshotSending
    var receiving = SnapshotReceiving()
    var saving = StateSaving()
    var savingDue: Instant?
    /// Replicas to be saved because somebody wants that.
    var saveOrders: [SaveOrder] = []
    var saveOrdersDue: Instant?

    /// Replicas whose states are on trial, and when they ask again.
    var trials: [Replica] = []
    var nextTrial = Instant.distantPast
    var trialsDue: Instant?

    /// Groups led here that have applied something since their replicas were compared.
    var toCompare: [Replica] = []
    var nextComparison: Instant?
    var comparisonDue: Instant?
    /// The round under way.
    var comparing: ComparisonRound?

    var batch = LogBatch()
    /// When the first write of a replica came into it.
    var batchBegan: Instant?
    var batchUnderWay: LogBatch?
    /// Set while it waits for room.
    var batchRetry: Instant?
    /// What waits behind it meanwhile.
    var blockage: Blockage?
    /// What does not wait with it, while that is being written.
    var passing: PassingWrites?
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
    /// What was done, and how long it took.
    public internal(set) var metrics = HostMetrics()
    /// Replicas that have done something since they were looked at.
    var activeReplicas: [Replica] = []
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
        // whatever the record knows: nobody new gets a log that is there
        nodeState.skipNumbers(through: recovered.keys.max() ?? 0)
        sending = SnapshotSending(random: SeededRandom(seed: settings.seed ^ nonce))
        snapshotBudget = SnapshotBudget(bytesPerSecond: settings.snapshotBytesPerSecond)
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
        precondition(!isOnItsOwn, "a node that hears everybody joins a cluster")
        identity.clusterID = clusterID
        identity.nodeID = nodeID
        for node in nodesElsewhere { meetAgain(node) }
    }
}

/// A value handed between the lane and a worker; one side at a time, ordered by the worker's queue.
final class Box<Value>: @unchecked Sendable {
    var value: Value
    init(_ value: Value) { self.value = value }
}

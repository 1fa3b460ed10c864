public import RaftCore
public import RaftHost
public import ShardKV
public import ShardMap
public import Transport
public import RaftStorage
import CMessages
import Glibc
import WireMessages

/// The service of a node: key-value groups and the controller group on one host, the map, and how a cluster comes to
/// be. Lane-confined.
///
/// Invariants:
/// 1. The node answers for a group only through its replica's leader: a write is answered when it is applied, a read
///    after ReadIndex.
/// 2. The cluster's identity is durable in the data directory before the first replica exists.
/// 3. A map is only ever replaced by one with a higher version.
public final class ShardServer {
    /// What may be tuned.
    public struct Settings: Sendable {
        /// Addresses to find the cluster by; the first one creates the bootstrap record.
        public var controllers: [NodeAddress]
        /// Where the node stands: replicas of a group are kept in different zones. Nil: wherever the map has it.
        public var zone: String?
        /// How often a node looks for what is not there yet: its cluster, an unborn group, a newer map.
        public var pace = Interval.milliseconds(200)
        /// How long a node waits for a newer map before it asks another node.
        public var mapWait = Interval.milliseconds(5000)
        /// How often it asks at most as long as it gets no answer, or none that is new.
        public var mapPace = Interval.milliseconds(1000)
        /// Bytes of keys and values that the destination of a move asks for at a time.
        public var moveChunkBytes = StagedChunk.bytesWanted
        /// What the controller's leader does by itself.
        public var scheduler = SchedulerSettings()
        /// How often the controller's leader asks the nodes for their load, and the scheduler what to do.
        public var loadPace = Interval.milliseconds(3000)
        /// The highest ``ClusterLevel`` that the node announces, and of which it takes commands. Lower than the program's
        /// own only to play an older program, and higher only to play a newer one.
        public var knownLevel = ClusterLevel.newest
        /// Whether the controller's leader has the map follow forced resets of groups by itself. Off only where members are
        /// changed behind the map's back, which nobody could tell from a reset.
        public var followsResets = true
        /// How much of clients' requests it takes at a time; beyond, they are answered as busy.
        public var admission = Admission()
        /// Version printed in status.
        public var version = "0.1.0"

        /// The defaults, with these seeds.
        public init(controllers: [NodeAddress]) { self.controllers = controllers }
    }

    let settings: Settings
    let host: RaftHost
    let directory: NodeDirectory
    let factory: StateMachineFactory
    let lane: any LaneDriver
    let logger: Logger
    let arena = Arena()
    let startedAt: Instant
    var random: SeededRandom

    /// The newest map known here.
    public internal(set) var map: ClusterMap?
    /// The controller's operations as its replica here has applied them, ended ones too; none without a replica.
    public var recordedOperations: [ClusterOperation] { controller?.operations ?? [] }
    /// Why the node must not run: its own state of the controller is that of a cluster at a higher level than its program
    /// knows. The server is to be closed then.
    public private(set) var startProblem: String?
    /// Whether the node has joined a cluster; then there is a map, though this node may not know it yet.
    public var belongsToCluster: Bool { directory.identity.clusterID != 0 }
    /// Called with every newer map.
    public var onMap: (ClusterMap) -> Void = { _ in }

    var machines: [String: KeyValueStateMachine] = [:]
    var controller: ControllerStateMachine?
    /// Maps applied by the controller's replica, handed over from the worker.
    let appliedMap = LockedValue<ClusterMap?>(nil)
    /// States of this node's replicas that are being compared with others'.
    let held = HeldStates()
    /// Groups that are being verified from here.
    var verifying: Set<String> = []
    /// Members that had not applied the entry yet, by position.
    var digestRetries: [(verification: Verification, member: Int)] = []
    var nextDigestRetry = Instant.distantPast
    var groupClocks: [String: GroupClock] = [:]
    /// Groups led here whose clock waits to be started.
    var startingClocks: [String] = []
    var nextClockStart = Instant.distantPast
    var channels: [NodeAddress: RpcChannel] = [:]
    var channelOrder: [NodeAddress] = []
    /// Connections without hello, between nodes that share no cluster yet.
    var strangers: [NodeAddress: RpcChannel] = [:]
    var strangerOrder: [NodeAddress] = []

    /// Nodes without a cluster that said they are there, by address; kept by the first controller.
    var announced: [(node: NodeAddress, incarnation: UInt64, level: UInt32, at: Instant)] = []
    var bootstrap: BootstrapRecord?
    /// Nodes that have confirmed the record.
    var confirmed: Set<NodeAddress> = []
    var formationUnderWay: Set<NodeAddress> = []
    var announcements = 0
    var announcementsPassedOn = 0
    var nextFormation: Instant
    var driver = ControllerDriver()
    /// What this node carries out while it leads the controller.
    var operations = OperationRuns()
    /// Shards on their way into groups led here, and out of replicas held here.
    var pulling = Pulling()
    var leaderHints = LeaderHints()
    /// When something that is tried again and again was last complained about.
    private var complaints: [String: Instant] = [:]
    var unwanted = UnwantedReplicas()
    /// Groups led here, ascending.
    var ledGroups: [String] = []
    /// Requests that came to this node.
    var counts: OperationCounts
    /// Those that have no answer yet.
    var admission: Admission
    /// Requests of clients that were answered as busy because too many were under way.
    public var refusedRequests: UInt64 { admission.refused }
    /// Operations per second of each shard, as of the last first page.
    var rates: [UInt64: Double] = [:]
    var sizes = GroupSizes()
    /// Of the map as of the last page of the load.
    var mapIndex = MapIndex()
    /// What the controller's leader knows of the load.
    var collection = LoadCollection()
    /// What it does about it.
    var scheduling = Scheduling()
    /// Changes of members begun here, by group.
    var peersChanges: [String: PeersChange] = [:]
    var transfers: [OrderedTransfer] = []
    /// Orders of braft's command line service that the controller carries out, in the order in which they came.
    var cliOrders: [CliOrder] = []
    var nextCliOrder: UInt64 = 0
    var reclaiming = Reclaiming()
    /// Groups whose forced reset is about to be recorded in the map.
    var followedResets: Set<String> = []
    /// The map's record of a reset of the controller is on its way.
    var isFollowingReset = false
    var nextResetLook = Instant.distantPast
    var mapWatch = MapWatch()
    var mapPolling: MapPolling
    /// Set by the process while it stops.
    public var isStopping = false
    /// The node's metrics, in Prometheus' text format; whoever runs the server composes them.
    public var metricsPage: () -> String = { "" }

    /// A server over an open host. Replicas the host remembers are started; guests need `guests`, where their snapshots
    /// are.
    public init(
        settings: Settings, host: RaftHost, directory: NodeDirectory, engine: any KeyValueEngine, lane: any LaneDriver,
        logger: Logger, seed: UInt64, guests: GuestStates? = nil
    ) throws(StateMachineError) {
        self.settings = settings
        self.host = host
        self.directory = directory
        self.factory = StateMachineFactory(
            engine: engine, appliedMap: appliedMap, held: held, knownLevel: settings.knownLevel, guests: guests)
        self.lane = lane
        self.logger = logger
        self.startedAt = lane.clock.now
        self.admission = Admission(settings.admission)
        self.nextFormation = startedAt
        self.counts = OperationCounts(now: startedAt)
        self.random = SeededRandom(seed: seed)
        self.mapPolling = MapPolling(next: startedAt, turns: Int(seed & 0xffff))
        if let packed = directory.identity.bootstrap {
            bootstrap = arena.scope { arena in
                arena.unpack(flotilla__bootstrap_record__init, packed).flatMap { BootstrapRecord($0.pointee) }
            }
        }
        host.mayBeForeign = { [unowned self] address in !isNode(address) }
        host.recordedIncarnation = { [unowned self] node in incarnation(of: node) }
        host.memberAuthority = { [unowned self] group, order, done in takeMemberOrder(group, order, done) }
        host.onLeadership = { [unowned self] group, isLeader in leadershipChanged(group, isLeader) }
        host.onForeignLeader = { [unowned self] group in foreignLeads(group) }
        let factory = self.factory
        host.store = factory
        host.remakeStateMachine = { record throws(StateMachineError) in
            try factory.make(record.group, record.kind, record.store, record.birth)
        }
        host.onStateMachine = { [unowned self] record, machine in keep(machine, of: record.group) }
        for record in host.records {
            guard ReplicaKind.all.contains(record.kind) else {
                throw StateMachineError(
                    "\(record.group) is of the kind \(record.kind), which this version does not know; upgrade raftd")
            }
            let machine: any StateMachine
            do throws(StateMachineError) {
                machine = try makeStateMachine(record.group, record.kind, record.store, record.birth)
            } catch {
                // sound, and not for this program: no other state can be had for it, and this one must stay
                guard !error.needsNewerProgram else { throw error }
                // the others serve, and this one gets its state from its leader
                host.open(record, unreadable: error.description)
                continue
            }
            host.open(record, stateMachine: machine)
        }
        host.removeUnknownStates()
        startProblem = controller?.map.flatMap { outdated(by: $0) }
        guard startProblem == nil else { return }
        adoptMap(controller?.map)
        startControllerReplica()
    }

    /// One turn, before the host's. Returns when the next one is due at the latest.
    public func turn(now: Instant) -> Instant? {
        if let applied = appliedMap.take() {
            adoptMap(applied)
            operationsChanged()
        }
        let nextWatch = mapWatchTurn(now)
        guard !isStopping else { return nil }
        removeUnwantedReplicas()
        followControllerReset(now)
        var next = formationTurn(now)
        let deadlines = [
            proposeFirstTimes(now), driveGroups(now), driveOperations(now), pullTurn(now), nextWatch, pollMap(now),
            held.turn(now), verifyTurn(now), peersChangesTurn(now), transfersTurn(now), collectTurn(now),
            cliTurn(now),
            reclaimTurn(now),
        ]
        for deadline in deadlines {
            if let deadline { next = next.map { min($0, deadline) } ?? deadline }
        }
        let open = channelOrder.compactMap { channels[$0] } + strangerOrder.compactMap { strangers[$0] }
        for channel in open {
            if let deadline = channel.expire(now: now) { next = next.map { min($0, deadline) } ?? deadline }
        }
        return next
    }

    /// Closes the server's own connections to other nodes, and forgets those who wait for its answers, so that nobody
    /// keeps it alive. No other call may follow.
    public func close() {
        for node in channelOrder { channels[node]?.close() }
        for node in strangerOrder { strangers[node]?.close() }
        for node in reclaiming.channelOrder { reclaiming.channels[node]?.close() }
        reclaiming = Reclaiming()
        mapWatch.waiting = []
        peersChanges = [:]
        transfers = []
        cliOrders = []
        collection.waiting = []
        pulling = Pulling()
        digestRetries = []
    }

    func makeStateMachine(
        _ group: String, _ kind: String, _ number: UInt64, _ birth: Configuration
    ) throws(StateMachineError) -> any StateMachine {
        let machine = try factory.make(group, kind, number, birth)
        keep(machine, of: group)
        return machine
    }

    private func keep(_ machine: any StateMachine, of group: String) {
        if let machine = machine as? KeyValueStateMachine { machines[group] = machine }
        if let machine = machine as? ControllerStateMachine { controller = machine }
    }

    func incarnation(of node: UInt64) -> UInt64? {
        map?.nodes.first { $0.id == node }?.incarnation ?? bootstrap?.nodes.first { $0.id == node }?.incarnation
    }

    /// Whether the cluster has a node at `address`, as far as is known here.
    private func isNode(_ address: NodeAddress) -> Bool {
        if let map { return map.node(at: address) != nil }
        return bootstrap?.nodes.contains { $0.address == address } ?? false
    }

    func adoptMap(_ newer: ClusterMap?) {
        guard let newer, newer.version > map?.version ?? 0, newer.clusterID == directory.identity.clusterID else {
            return
        }
        if let problem = outdated(by: newer) { return host.giveUp(problem) }
        map = newer
        findUnwantedReplicas(newer)
        tellMapWatchers()
        onMap(newer)
        lane.requestTurn()
    }

    /// Kinds of replicas, as the node's record names them.
    enum ReplicaKind {
        static let controller = "controller"
        static let keyValue = "kv"
        static let guest = RaftHost.guestKind
        static let all = [controller, keyValue, guest]
    }

    func channel(to node: NodeAddress) -> RpcChannel {
        if let channel = channels[node] { return channel }
        let channel = host.makeChannel(to: node)
        channels[node] = channel
        channelOrder.append(node)
        return channel
    }

    /// Warns of something about `thing` that is tried again several times a second, at most every ten seconds.
    func complain(_ message: String, about thing: String, _ fields: [(String, String)]) {
        let now = lane.clock.now
        let key = "\(message): \(thing)"
        if let last = complaints[key], now < last + .milliseconds(10_000) { return }
        if complaints.count >= 256 { complaints = complaints.filter { now < $0.value + .milliseconds(10_000) } }
        complaints[key] = now
        logger.log(.warning, message, fields)
    }

    private func leadershipChanged(_ group: String, _ isLeader: Bool) {
        // nobody's business but its own members'
        guard !host.isGuest(group) else { return }
        groupClocks[group] = nil
        leadershipOfGroupChanged(group, isLeader)
        // what an earlier leader of the group failed in says nothing of a later one
        if peersChanges[group]?.problem != nil { peersChanges[group] = nil }
        if isLeader, machines[group] != nil {
            groupClocks[group] = GroupClock()
            if startingClocks.isEmpty { nextClockStart = .distantPast }
            startingClocks.append(group)
        }
        if group == ClusterMap.controllerGroup {
            driver = ControllerDriver()
            scheduling = Scheduling(number: scheduling.number + 1)
            restartCollecting()
            operationsChanged()
        }
        if isLeader { beginPulling(into: group) }
        lane.requestTurn()
    }
}

/// Names of our services.
enum Services {
    static let cluster = "flotilla.ClusterService"
    static let keyValue = "flotilla.KvService"
}

/// A value behind a lock, for what a worker hands to the lane.
final class LockedValue<Value: Sendable>: @unchecked Sendable {
    private var value: Value
    private var lock = pthread_mutex_t()

    init(_ value: Value) {
        self.value = value
        pthread_mutex_init(&lock, nil)
    }

    deinit { pthread_mutex_destroy(&lock) }

    func set(_ newValue: Value) {
        pthread_mutex_lock(&lock)
        defer { pthread_mutex_unlock(&lock) }
        value = newValue
    }
}

extension LockedValue {
    /// What was set since the last call, if anything.
    func take<Wrapped>() -> Wrapped? where Value == Wrapped? {
        pthread_mutex_lock(&lock)
        defer { pthread_mutex_unlock(&lock) }
        defer { value = nil }
        return value
    }
}

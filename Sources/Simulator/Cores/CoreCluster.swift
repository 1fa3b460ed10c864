import RaftCore

/// A group on simulated nodes, disks, clocks and network, all drawn from one seed; judged after every event.
///
/// It plays the host: executes the effects of the cores in the order of duty, applies what is committed, makes and
/// installs snapshots, serves reads. Nodes are known by their position in ``nodes``, which is also their port.
struct CoreCluster {
    /// What goes wrong with messages, in per mille, and how long they take, in milliseconds.
    struct Faults {
        var lost: Int64 = 0
        var doubled: Int64 = 0
        var late: Int64 = 0
        /// How late those are.
        var lateness: Range<Int64> = 100..<3000
        /// How many of those who asked hear, in per mille, and when, that a request or its answer got lost.
        var told: Int64 = 500
        var tellingOfLoss: Range<Int64> = 10..<300
        /// Two answers of three are very late.
        var reordersAnswers = false
        var delay: Range<Int64> = 1..<10
        /// How long a write takes.
        var writing: Range<Int64> = 1..<20
        /// How long it takes to copy a snapshot.
        var fetching: Range<Int64> = 5..<200
        /// How long a crashed node is down.
        var restarting: Range<Int64> = 1..<3000
        /// How many of those who restart find their log damaged, in per mille.
        var damaged: Int64 = 0
    }

    enum Happening {
        case arrival(CorePacket)
        case written
        case livenessFailed(peer: NodeAddress)
        case vitalsFine(startedAt: Instant)
        case appendFailed(AppendTicket, peer: PeerID)
        case questionFailed(ReadIndexRequest)
        case applies
        case leaseJudged(ReadyRead, seen: LogIndex)
        case snapshotFetched(SnapshotMeta, CoreState, asked: CorePacket)
        case sendingEnds(UInt64)
        case restart
    }

    /// Something that happens to one run of a node; to any run if zero.
    struct Appointment {
        var node: Int
        var run: UInt64
        var happening: Happening
    }

    var random: SeededRandom
    var faults = Faults()
    var settings = RaftSettings()
    var livenessSettings = NodeLiveness.Settings()
    var nodes: [CoreNode] = []
    var queue = Agenda<Appointment>()
    var time: Int64 = 0
    /// Which pairs cannot talk.
    var severed: Set<Int> = []
    var judge = CoreJudge()
    var traffic = CoreTraffic()
    var nextValue: UInt64 = 1
    var nextNumber: UInt64 = 1
    /// Changes of membership asked for and not answered, and the answers.
    var changes: [UInt64: Configuration] = [:]
    var outcomes: [UInt64: ChangeOutcome] = [:]
    /// A log is compacted when so many applied entries are in it; nil: only when somebody says so.
    var compactsEvery: Int?
    /// Reads that were evaluated under a lease are judged so much later, at most.
    var judgesLeaseWithin: Int64 = 20
    /// How often, in per mille, a node stops for a while between evaluating a read and judging its lease, or applies
    /// late.
    var pausesBeforeJudging: Int64 = 0
    var appliesLate: Int64 = 0
    /// Events of cores so far, and what stands for all of them.
    private(set) var events = 0
    private(set) var digest: UInt64 = 0
    /// Hears of every event of a core.
    var timeline: ((String) -> Void)?
    private var effects = Effects()
    private var livenessEffects = NodeLiveness.Effects()

    init(size: Int, seed: UInt64, roles: [PeerID.Role] = [], startupQuiet: Bool = true) {
        random = SeededRandom(seed: seed)
        livenessSettings.startupQuiet = startupQuiet
        let ids = (0..<size).map { Self.id($0, role: $0 < roles.count ? roles[$0] : .replica) }
        for id in ids { add(id, membership: Configuration(peers: ids)) }
        for node in nodes.indices { start(node) }
    }

    static func id(_ node: Int, role: PeerID.Role = .replica) -> PeerID {
        PeerID(address: NodeAddress(ip: 0x7f00_0001, port: UInt16(8000 + node)), role: role)
    }

    static func position(of address: NodeAddress) -> Int { Int(address.port) - 8000 }
    static func position(of peer: PeerID) -> Int { position(of: peer.address) }

    private mutating func add(_ id: PeerID, membership: Configuration?) {
        let log = CoreLog(membership: membership)
        nodes.append(
            CoreNode(
                id: id, disk: CoreDisk(log: log),
                raft: Raft(
                    id: id, hardState: .initial, termRuns: [], lastIndex: .zero, configurations: [], applied: .zero,
                    settings: settings, seed: 0),
                liveness: NodeLiveness(
                    node: id.address, runNumber: 0, settings: livenessSettings, startedAt: .distantPast), log: log,
                clockOffset: random.number(in: 0..<1_000_000_000_000), clockPercent: random.number(in: 98..<103)))
    }

    /// A new node with an empty replica, started.
    mutating func addNode(role: PeerID.Role = .replica) -> PeerID {
        let id = Self.id(nodes.count, role: role)
        add(id, membership: nil)
        start(nodes.count - 1)
        return id
    }

    // MARK: Time

    /// Lets simulated time pass.
    mutating func run(milliseconds: Int64) { run(until: time + milliseconds * 1_000_000) { _ in false } }

    /// Lets simulated time pass until something is so, looking often; false if it is not so in time.
    @discardableResult
    mutating func run(milliseconds: Int64, until isSo: (CoreCluster) -> Bool) -> Bool {
        run(until: time + milliseconds * 1_000_000, isSo)
    }

    @discardableResult
    private mutating func run(until end: Int64, _ isSo: (CoreCluster) -> Bool) -> Bool {
        guard !isSo(self) else { return true }
        while judge.violation == nil, let next = nextTime(), next <= end {
            time = max(time, next)
            if let appointment = queue.pop(notAfter: time) { keep(appointment) } else { fireTimers() }
            if isSo(self) { return true }
        }
        time = end
        return isSo(self)
    }

    private func nextTime() -> Int64? {
        var next = queue.nextTime
        for node in nodes where node.isUp {
            guard let wakesAt = node.wakesAt else { continue }
            next = min(next ?? .max, max(time, wakesAt, node.pausedUntil))
        }
        return next
    }

    private mutating func fireTimers() {
        for node in nodes.indices where nodes[node].isUp && nodes[node].pausedUntil <= time {
            guard let wakesAt = nodes[node].wakesAt, wakesAt <= time else { continue }
            let now = nodes[node].localTime(time)
            if let deadline = nodes[node].liveness.deadline, deadline <= now { stepLiveness(node, .deadlineReached) }
            if let deadline = nodes[node].raft.deadline, deadline <= now { step(node, .deadlineReached) }
        }
    }

    /// Lets something happen to the present run of a node, after so many milliseconds.
    mutating func appoint(_ node: Int, _ happening: Happening, in delay: Range<Int64>, notBefore: Int64 = 0) {
        let microseconds = random.number(in: delay.lowerBound * 1000..<delay.upperBound * 1000)
        queue.push(
            Appointment(node: node, run: nodes[node].run, happening: happening),
            at: max(time, notBefore) + microseconds * 1000)
    }

    private mutating func keep(_ appointment: Appointment) {
        let node = appointment.node
        if case .restart = appointment.happening { return start(node) }
        guard nodes[node].isUp, appointment.run == 0 || appointment.run == nodes[node].run else {
            if case .arrival(let packet) = appointment.happening { lose(packet) }
            return
        }
        guard nodes[node].pausedUntil <= time else { return queue.push(appointment, at: nodes[node].pausedUntil) }
        switch appointment.happening {
        case .arrival(let packet): receive(packet)
        case .written: finishWrite(node)
        case .livenessFailed(let peer): stepLiveness(node, .failed(peer))
        case .vitalsFine(let startedAt): stepLiveness(node, .vitalsConfirmed(startedAt: startedAt))
        case .appendFailed(let ticket, let peer): step(node, .appendFailed(ticket, peer: peer))
        case .questionFailed(let question): step(node, .readIndexFailed(question))
        case .applies: apply(node)
        case .leaseJudged(let ready, let seen): judgeLease(node, ready, seen: seen)
        case .snapshotFetched(let meta, let state, let asked):
            step(node, .snapshotReceived(meta), state: state, answering: asked)
        case .sendingEnds(let sending): endSending(node, sending, installed: nil)
        case .restart: break
        }
    }

    // MARK: Nodes

    mutating func start(_ node: Int) {
        guard nodes[node].standing == .down else { return }
        if faults.damaged > 0, isLikely(faults.damaged) { damageDisk(of: node) }
        let disk = nodes[node].disk
        let own = nodes[node].id
        nodes[node].standing = .up
        nodes[node].run += 1
        nodes[node].pausedUntil = 0
        nodes[node].diskStalledUntil = 0
        nodes[node].writes = []
        nodes[node].readings = []
        nodes[node].sendings = [:]
        nodes[node].questions = [:]
        nodes[node].isNew = true
        nodes[node].log = disk.log
        nodes[node].state = disk.state
        nodes[node].applicable = disk.state.index
        nodes[node].raft = Raft(
            id: own, hardState: disk.hardState, base: disk.log.base, termRuns: disk.log.termRuns,
            lastIndex: disk.log.lastIndex, configurations: disk.log.configurations, applied: disk.state.index,
            debt: disk.debt, settings: settings, seed: random.next())
        nodes[node].liveness = NodeLiveness(
            node: own.address, runNumber: nodes[node].run, settings: livenessSettings,
            startedAt: nodes[node].localTime(time))
        step(node, .started)
        noteDebt(of: node, before: disk.debt)
    }

    /// Stops a node; of its unfinished writes only some of the first survive, of its state only what is flushed.
    mutating func crash(_ node: Int, restarts: Bool = true) {
        guard nodes[node].isUp else { return }
        nodes[node].standing = .down
        let survivors = Int(random.number(in: 0..<Int64(nodes[node].writes.count) + 1))
        for write in nodes[node].writes.prefix(survivors) { complete(write, on: node) }
        for other in nodes.indices where other != node && nodes[other].isUp && nodes[other].pausedUntil <= time {
            step(other, .connectionLost(nodes[node].id.address))
            stepLiveness(other, .failed(nodes[node].id.address))
        }
        guard restarts else { return }
        queue.push(
            Appointment(node: node, run: 0, happening: .restart),
            at: time + random.number(in: faults.restarting) * 1_000_000)
    }

    /// Takes a node away for good.
    mutating func remove(_ node: Int) {
        crash(node, restarts: false)
        nodes[node].standing = .gone
    }

    mutating func stepLiveness(_ node: Int, _ event: NodeLiveness.Event, answering asked: CorePacket? = nil) {
        livenessEffects.removeAll()
        nodes[node].liveness.step(event, now: nodes[node].localTime(time), into: &livenessEffects)
        let drained = livenessEffects
        for (to, request) in drained.requests {
            post(
                CorePacket(from: node, to: Self.position(of: to), run: nodes[node].run, body: .livenessRequest(request))
            )
        }
        if let reply = drained.reply, let asked {
            post(CorePacket(from: node, to: asked.from, run: asked.run, body: .livenessReply(reply)))
        }
        if drained.checksVitals {
            appoint(
                node, .vitalsFine(startedAt: nodes[node].localTime(time)), in: faults.writing,
                notBefore: nodes[node].diskStalledUntil)
        }
        for changed in drained.changed { step(node, .livenessChanged(changed)) }
        judge.inspectPromises(of: node, nodes, at: time)
        noteWake(node)
    }

    private mutating func noteWake(_ node: Int) {
        let deadlines = [nodes[node].raft.deadline, nodes[node].liveness.deadline]
        nodes[node].wakesAt = deadlines.compactMap { $0 }.min().map { nodes[node].globalTime($0) }
    }

    /// Tells liveness with which nodes the replica has to do.
    private mutating func track(_ node: Int) {
        let raft = nodes[node].raft
        let addresses = Set((raft.configuration.members + raft.peers).map(\.address))
        stepLiveness(node, .track(addresses.sorted()))
    }

    /// One event for a core, and all its effects. `values` are proposed, `entries` came with a message, `state` with a
    /// snapshot.
    mutating func step(
        _ node: Int, _ event: Event, values: [CoreEntry] = [], state: CoreState? = nil,
        answering asked: CorePacket? = nil
    ) {
        let before = CoreJudge.Before(
            voters: nodes[node].raft.configuration, isLeader: nodes[node].raft.isLeader,
            commitIndex: nodes[node].raft.commitIndex)
        let debt = nodes[node].raft.debt
        effects.removeAll()
        nodes[node].raft.step(
            event, now: nodes[node].localTime(time), liveness: nodes[node].liveness, into: &effects)
        note(node, event)
        // executing them may lead to another step
        let changesPeers = effects.peersChanged || effects.statusChanged || nodes[node].isNew
        nodes[node].isNew = false
        execute(effects, on: node, before, values, state, asked)
        noteDebt(of: node, before: debt)
        if changesPeers { track(node) }
        noteWake(node)
    }

    /// Adds an event to the digest, and tells whoever listens.
    private mutating func note(_ node: Int, _ event: Event) {
        let raft = nodes[node].raft
        events += 1
        digest = mixed(digest, UInt64(time) ^ UInt64(node) << 56)
        digest = mixed(
            digest, UInt64(bitPattern: raft.term.rawValue) << 32 ^ UInt64(bitPattern: raft.lastIndex.rawValue))
        digest = mixed(digest, UInt64(bitPattern: raft.commitIndex.rawValue))
        guard let timeline else { return }
        let leader = raft.leader.map { "\(Self.position(of: $0))" } ?? "-"
        timeline(
            "\(time / 1000) us: \(node) \(raft.role) in term \(raft.term), log \(raft.lastIndex)@\(raft.lastTerm), "
                + "committed \(raft.commitIndex), leader \(leader): \(event)")
    }
}

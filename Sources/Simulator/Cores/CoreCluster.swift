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
    private mutating func appoint(_ node: Int, _ happening: Happening, in delay: Range<Int64>, notBefore: Int64 = 0) {
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
}

// MARK: Effects

extension CoreCluster {
    private mutating func execute(
        _ effects: Effects, on node: Int, _ before: CoreJudge.Before, _ values: [CoreEntry],
        _ state: CoreState?, _ asked: CorePacket?
    ) {
        judge.note(effects.refusal, at: time)
        var change = CoreWrite.Change.none
        if let logChange = effects.logChange {
            change = changeLog(of: node, logChange, values)
        } else if let install = effects.install {
            change = .install(install, state!)
            if !install.keepsSuffix {
                judge.inspectDropped(from: install.meta.last.index.next, of: nodes[node], at: time)
            }
            judge.noteInstalled()
            nodes[node].log.install(install)
            nodes[node].state = state!
            nodes[node].applicable = max(nodes[node].applicable, state!.index)
        }
        judge.inspect(node, nodes, before, at: time)
        if effects.peersChanged || effects.install != nil || effects.logChange?.truncateFrom != nil {
            judge.inspectMembership(of: nodes[node], at: time)
        }
        for outbound in effects.messages { send(outbound, from: node) }
        if let reply = effects.reply, let asked { post(answer(asked, reply)) }
        for (to, reply) in effects.readIndexReplies {
            let asker = Self.position(of: to)
            guard let run = nodes[node].questions.removeValue(forKey: [UInt64(asker), reply.sequence]) else { continue }
            post(CorePacket(from: node, to: asker, run: run, body: .reply(.readIndexReply(reply))))
        }
        var released = effects.durableMessages.map { packet(node, $0)! }
        if let acknowledgement = effects.acknowledgement, let asked { released.append(answer(asked, acknowledgement)) }
        write(node, effects.hardState, change, released)
        if let meta = effects.snapshotWanted, let asked, case .snapshot(_, let state, _) = asked.body {
            appoint(node, .snapshotFetched(meta, state, asked: asked), in: faults.fetching)
        }
        if let applicable = effects.applicable { makeApplicable(node, applicable) }
        nodes[node].readings += effects.readyReads
        for read in effects.failedReads { judge.failRead(read) }
        evaluateReads(node)
        for (change, outcome) in effects.finishedChanges { finish(change, outcome) }
    }

    private mutating func changeLog(
        of node: Int, _ change: LogChange, _ values: [CoreEntry]
    ) -> CoreWrite.Change {
        if let index = change.truncateFrom {
            judge.inspectDropped(from: index, of: nodes[node], at: time)
            nodes[node].log.truncate(from: index)
        }
        judge.check(nodes[node].log.lastIndex.next == change.first, "LogMatching", "a hole in a log", at: time)
        var added: [CoreEntry]
        switch change.source {
        case .message(let offset): added = Array(values[offset..<offset + change.count])
        case .proposal:
            added = values
            for position in added.indices { added[position].term = change.term }
        case .configuration(let configuration):
            added = [
                CoreEntry(
                    term: change.term, kind: .configuration, value: nextValue, size: 100,
                    configuration: configuration)
            ]
            nextValue += 1
        }
        judge.check(added.count == change.count, "LogMatching", "entries are missing", at: time)
        if nodes[node].isWitness {
            for position in added.indices { (added[position].value, added[position].size) = (0, 0) }
        }
        for entry in added {
            // what only its leader has seen, and not durably, is not in any log yet
            if case .message = change.source {
                let index = nodes[node].log.lastIndex
                judge.inspectMatching(entry, index.next, previous: nodes[node].log.term(at: index)!, at: time)
            }
            nodes[node].log.append(entry)
        }
        return .log(truncateFrom: change.truncateFrom, entries: added)
    }

    mutating func write(
        _ node: Int, _ hardState: HardState?, _ change: CoreWrite.Change, _ released: [CorePacket]
    ) {
        if hardState == nil, case .none = change {
            if nodes[node].writes.isEmpty {
                for packet in released { post(packet) }
            } else {
                nodes[node].writes[nodes[node].writes.count - 1].released += released
            }
            return
        }
        var mark: DurableMark? = nodes[node].raft.durableMark
        if case .compact = change { mark = nil }
        nodes[node].writes.append(
            CoreWrite(hardState: hardState, change: change, mark: mark, released: released))
        appoint(node, .written, in: faults.writing, notBefore: nodes[node].diskStalledUntil)
    }

    private mutating func finishWrite(_ node: Int) {
        // written before the stall began, and stalled all the same
        guard nodes[node].diskStalledUntil <= time else {
            return appoint(node, .written, in: faults.writing, notBefore: nodes[node].diskStalledUntil)
        }
        let write = nodes[node].writes.removeFirst()
        complete(write, on: node)
        for packet in write.released { post(packet) }
        if let mark = write.mark { step(node, .persisted(mark)) }
    }

    private mutating func complete(_ write: CoreWrite, on node: Int) {
        let before = nodes[node].disk.hardState
        nodes[node].disk.complete(write)
        if case .log(_, let entries) = write.change, let last = entries.last {
            let index = nodes[node].disk.log.lastIndex
            judge.inspectMatching(
                last, index, previous: nodes[node].disk.log.term(at: index.previous)!, at: time)
        }
        judge.inspectHardState(before, nodes[node].disk.hardState, at: time)
    }

    private mutating func finish(_ change: UInt64, _ outcome: ChangeOutcome) {
        judge.check(outcomes[change] == nil, "ChangesAreDone", "two answers to one change", at: time)
        outcomes[change] = outcome
        guard let target = changes.removeValue(forKey: change) else { return }
        judge.inspectChange(target, outcome, at: time)
    }

    // MARK: State

    private mutating func makeApplicable(_ node: Int, _ index: LogIndex) {
        let isDurable =
            nodes[node].log.term(at: index).map { nodes[node].disk.holds(LogPosition(term: $0, index: index)) } ?? true
        judge.check(isDurable, "DurableBeforeAcknowledged", "applied what is not durable", at: time)
        nodes[node].applicable = max(nodes[node].applicable, index)
        if appliesLate > 0, random.number(in: 0..<1000) < appliesLate {
            appoint(node, .applies, in: 1..<100)
        } else {
            apply(node)
        }
    }

    private mutating func apply(_ node: Int) {
        while nodes[node].state.index < nodes[node].applicable {
            let index = nodes[node].state.index.next
            guard let entry = nodes[node].log[index] else {
                return judge.check(false, "AppliedSequencesEqual", "no entry \(index) to apply", at: time)
            }
            nodes[node].state.apply(entry)
        }
        judge.inspectApplied(nodes[node], at: time)
        evaluateReads(node)
        if let every = compactsEvery, nodes[node].log.base.index.distance(to: nodes[node].state.index) >= every {
            compact(node, through: nodes[node].state.index)
        }
    }

    /// Flushes the state and drops the log's beginning.
    mutating func compact(_ node: Int, through index: LogIndex) {
        flush(node)
        // the state may be ahead of a core that took the place of another
        let applicable = min(nodes[node].raft.commitIndex, nodes[node].raft.durableIndex)
        let last = min(index, nodes[node].disk.state.index, applicable)
        guard last > nodes[node].log.base.index else { return }
        step(node, .compacted(through: last))
        nodes[node].log.compact(through: last)
        write(node, nil, .compact(through: last), [])
    }

    /// What is applied must be durable in the log, or the snapshot that brought it.
    mutating func flush(_ node: Int) {
        if nodes[node].state.index <= nodes[node].disk.log.lastIndex { nodes[node].disk.state = nodes[node].state }
    }

    // MARK: Reads

    private mutating func evaluateReads(_ node: Int) {
        let applied = nodes[node].state.index
        guard nodes[node].readings.contains(where: { $0.index <= applied }) else { return }
        for ready in nodes[node].readings where ready.index <= applied {
            if ready.lease == nil {
                judge.finishRead(ready.read, seen: applied, at: time)
            } else {
                appoint(node, .leaseJudged(ready, seen: applied), in: 0..<judgesLeaseWithin)
                if random.number(in: 0..<1000) < pausesBeforeJudging { pause(node, milliseconds: 1..<4000) }
            }
        }
        nodes[node].readings.removeAll { $0.index <= applied }
    }

    private mutating func judgeLease(_ node: Int, _ ready: ReadyRead, seen: LogIndex) {
        let now = nodes[node].localTime(time)
        if nodes[node].raft.holdsLease(of: ready.lease!, now: now, liveness: nodes[node].liveness) {
            judge.finishRead(ready.read, seen: seen, lease: true, at: time)
        } else {
            step(node, .readRequested(ready.read, lease: false))
        }
    }

    // MARK: Snapshots

    /// A snapshot of what is applied here, on its way.
    private mutating func sendSnapshot(from node: Int, to peer: PeerID, term: Term) {
        let state = nodes[node].state
        let last = LogPosition(term: nodes[node].log.term(at: state.index)!, index: state.index)
        let meta = SnapshotMeta(last: last, configuration: nodes[node].log.configuration(at: state.index)!)
        let sending = nextNumber
        nextNumber += 1
        nodes[node].sendings[sending] = peer
        appoint(node, .sendingEnds(sending), in: 3000..<6000)
        post(
            CorePacket(
                from: node, to: Self.position(of: peer), run: nodes[node].run,
                body: .snapshot(SnapshotRequest(term: term, meta: meta), state, sending: sending)))
    }

    private mutating func endSending(_ node: Int, _ sending: UInt64, installed: LogIndex?) {
        guard let peer = nodes[node].sendings.removeValue(forKey: sending) else { return }
        step(node, .snapshotSent(to: peer, installed: installed))
    }
}

// MARK: Network

extension CoreCluster {
    private mutating func send(_ outbound: Outbound, from node: Int) {
        if case .snapshot(let term) = outbound.body { return sendSnapshot(from: node, to: outbound.to, term: term) }
        post(packet(node, outbound)!)
    }

    /// The request with its payloads; nil for a snapshot, which travels in its own way.
    private func packet(_ from: Int, _ outbound: Outbound) -> CorePacket? {
        let body: CorePacket.Body
        switch outbound.body {
        case .vote(let request): body = .vote(request)
        case .timeoutNow(let request): body = .timeoutNow(request)
        case .release(let request): body = .release(request)
        case .readIndex(let question): body = .readIndex(question)
        case .snapshot: return nil
        case .append(let ticket, let previousTerm, let commit):
            let entries = Array(nodes[from].log.slice(from: ticket.previous.next, count: ticket.count))
            var configurations: [PlacedConfiguration] = []
            for (offset, entry) in entries.enumerated() where entry.kind == .configuration {
                let index = ticket.previous.advanced(by: offset + 1)
                configurations.append(PlacedConfiguration(index: index, configuration: entry.configuration!))
            }
            let request = AppendRequest(
                term: ticket.term, previous: LogPosition(term: previousTerm, index: ticket.previous),
                entries: entries.map { EntryHeader(term: $0.term, kind: $0.kind) }, configurations: configurations,
                commit: commit)
            body = .append(request, entries: entries, ticket: ticket)
        }
        return CorePacket(from: from, to: Self.position(of: outbound.to), run: nodes[from].run, body: body)
    }

    /// The answer to `asked`, with what its asker remembers.
    private func answer(_ asked: CorePacket, _ reply: Message) -> CorePacket {
        var packet = CorePacket(from: asked.to, to: asked.from, run: asked.run, body: .reply(reply))
        switch (asked.body, reply) {
        case (.append(let request, _, let ticket), .appendReply(var append)):
            append.ticket = ticket
            packet.body = .reply(.appendReply(append))
            packet.vouched = LogPosition(
                term: request.entries.last?.term ?? request.previous.term,
                index: request.previous.index.advanced(by: request.entries.count))
        case (.snapshot(let request, _, let sending), .snapshotReply(let reply)):
            packet.body = .snapshotReply(reply, sending: sending, through: request.meta.last.index)
            packet.vouched = request.meta.last
        default: break
        }
        return packet
    }

    private mutating func post(_ packet: CorePacket) {
        traffic.count(packet)
        judge.inspectSaid(packet, by: nodes[packet.from], at: time)
        let isLost = random.number(in: 0..<1000) < faults.lost || isSevered(packet.from, packet.to)
        if isLost { return lose(packet) }
        deliver(packet)
        if random.number(in: 0..<1000) < faults.doubled { deliver(packet) }
    }

    private mutating func deliver(_ packet: CorePacket) {
        var delay = faults.delay
        if random.number(in: 0..<1000) < faults.late { delay = faults.lateness }
        if packet.isReply, faults.reordersAnswers, random.number(in: 0..<3) < 2 { delay = 200..<2400 }
        let microseconds = random.number(in: delay.lowerBound * 1000..<delay.upperBound * 1000)
        let run = packet.isReply ? packet.run : 0
        queue.push(
            Appointment(node: packet.to, run: run, happening: .arrival(packet)), at: time + microseconds * 1000)
    }

    /// Sometimes the asker hears that its request, or the answer to it, got lost.
    private mutating func lose(_ packet: CorePacket) {
        let (asker, asked) = packet.isReply ? (packet.to, packet.from) : (packet.from, packet.to)
        guard nodes[asker].isUp, nodes[asker].run == packet.run, random.number(in: 0..<1000) < faults.told else {
            return
        }
        let happening: Happening
        switch packet.body {
        case .livenessRequest, .livenessReply: happening = .livenessFailed(peer: nodes[asked].id.address)
        case .append(_, _, let ticket): happening = .appendFailed(ticket, peer: nodes[asked].id)
        case .reply(.appendReply(let reply)): happening = .appendFailed(reply.ticket, peer: nodes[asked].id)
        case .readIndex(let question): happening = .questionFailed(question)
        case .snapshot(_, _, let sending), .snapshotReply(_, let sending, _): happening = .sendingEnds(sending)
        default: return
        }
        appoint(asker, happening, in: faults.tellingOfLoss)
    }

    func isSevered(_ from: Int, _ to: Int) -> Bool { severed.contains(from << 8 | to) }
    mutating func sever(_ from: Int, _ to: Int) { severed.insert(from << 8 | to) }

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

    private mutating func receive(_ packet: CorePacket) {
        guard !isSevered(packet.from, packet.to), nodes[packet.from].standing != .gone else { return lose(packet) }
        let sender = nodes[packet.from].id
        switch packet.body {
        case .vote(let request):
            step(packet.to, .received(.voteRequest(request), from: sender), answering: packet)
        case .append(let request, let entries, _):
            step(packet.to, .received(.appendRequest(request), from: sender), values: entries, answering: packet)
        case .timeoutNow(let request):
            step(packet.to, .received(.timeoutNowRequest(request), from: sender), answering: packet)
        case .release(let request):
            step(packet.to, .received(.releaseRequest(request), from: sender), answering: packet)
        case .readIndex(let question):
            nodes[packet.to].questions[[UInt64(packet.from), question.sequence]] = packet.run
            step(packet.to, .received(.readIndexRequest(question), from: sender), answering: packet)
        case .snapshot(let request, _, _):
            step(packet.to, .received(.snapshotRequest(request), from: sender), answering: packet)
        case .reply(let message):
            step(packet.to, .received(message, from: sender))
        case .snapshotReply(let reply, let sending, let through):
            endSending(packet.to, sending, installed: reply.success ? through : nil)
        case .livenessRequest(let request):
            stepLiveness(
                packet.to, .received(request, from: sender.address, wallClock: time / 1_000_000), answering: packet)
        case .livenessReply(let reply):
            stepLiveness(packet.to, .answered(reply, from: sender.address))
        }
    }
}

/// Counts messages and their estimated bytes.
struct CoreTraffic {
    /// Requests of the group, and bytes of these and their answers.
    private(set) var requests = 0
    private(set) var bytes = 0
    /// Requests of node liveness, which all groups of a node share.
    private(set) var livenessRequests = 0

    mutating func count(_ packet: CorePacket) {
        if packet.isLiveness {
            if !packet.isReply { livenessRequests += 1 }
        } else {
            if !packet.isReply { requests += 1 }
            bytes += packet.size
        }
    }
}

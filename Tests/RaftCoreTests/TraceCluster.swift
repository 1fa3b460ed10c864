import Testing

@testable import RaftCore

/// A group on nodes, disks, network and clock that do nothing unless a script says so. Whatever happens is written
/// down.
///
/// Chance has no part in it: whose random delay ends first is the script's choice, by ``campaign(_:)``.
struct TraceCluster {
    /// How a cluster is made.
    struct Options {
        var size = 3
        var configuration: Configuration?
        var promises = true
        var settings = RaftSettings()
        var liveness = NodeLiveness.Settings()
    }

    let options: Options
    let birth: Configuration
    var nodes: [TraceNode] = []
    var network: [TracePacket] = []
    var now = Instant(nanoseconds: 0)
    /// Promises that are not given (any more): supporter and asker.
    var withheld: Set<[Int]> = []
    /// Pairs of nodes that cannot talk.
    var severed: Set<[Int]> = []
    /// Which promises were last written down: given, by supporter and asker, and counted on, by asker and supporter.
    var promises: [[Int]: SupportStamp] = [:]
    var support: [[Int]: SupportStamp] = [:]
    var judge = TraceJudge()
    var record = TraceRecord()
    var nextNumber: UInt64 = 1

    init(_ options: Options) {
        self.options = options
        let everybody = (1...options.size).map { peer(UInt16($0)) }
        birth = options.configuration ?? Configuration(peers: everybody)
        for number in 1...options.size {
            var disk = TraceDisk()
            if birth.contains(peer(UInt16(number))) { disk.log.birth = birth }
            nodes.append(makeNode(number, disk, run: 1, isQuiet: false))
            if options.promises { continue }
            for other in 1...options.size where other != number { withheld.insert([number, other]) }
        }
        record.isMuted = true
        for node in 1...options.size { begin(node) }
        exchangePromises()
        record.isMuted = false
    }

    subscript(_ number: Int) -> TraceNode {
        get { nodes[number - 1] }
        set { nodes[number - 1] = newValue }
    }

    private func makeNode(_ number: Int, _ disk: TraceDisk, run: UInt64, isQuiet: Bool) -> TraceNode {
        var settings = options.settings
        // no delay is random: the script ends them
        settings.electionJitter = Interval(nanoseconds: 1)
        let id = peer(UInt16(number))
        let raft = Raft(
            id: id, hardState: disk.hardState, base: disk.log.base, termRuns: disk.log.termRuns,
            lastIndex: disk.log.lastIndex, configurations: disk.log.placed, applied: disk.log.base.index,
            debt: disk.debt, settings: settings, seed: 1)
        var livenessSettings = options.liveness
        livenessSettings.startupQuiet = isQuiet
        let liveness = NodeLiveness(node: id.address, runNumber: run, settings: livenessSettings, startedAt: now)
        return TraceNode(
            number: number, disk: disk, raft: raft, liveness: liveness, log: disk.log, run: run,
            applied: disk.log.base.index)
    }

    private mutating func begin(_ node: Int) {
        step(node, .started)
        let others = nodes.map(\.id.address).filter { $0 != self[node].id.address }
        stepLiveness(node, .track(others))
    }

    // MARK: Nodes

    /// Replaces the node by one with this log.
    mutating func setUp(_ node: Int, terms: [Int64], hardState: HardState, commit: Int64) {
        var disk = TraceDisk()
        disk.hardState = hardState
        disk.log.birth = self[node].disk.log.birth
        for (offset, term) in terms.enumerated() {
            // the same place, the same entry
            let value = UInt64(term) * 1_000_000 + UInt64(offset)
            disk.log.entries.append(
                TraceEntry(term: Term(term), kind: .data, value: value, configuration: nil))
        }
        record.isMuted = true
        let liveness = self[node].liveness
        self[node] = makeNode(node, disk, run: self[node].run, isQuiet: false)
        self[node].liveness = liveness
        self[node].raft.commit(through: LogIndex(commit))
        step(node, .started)
        record.isMuted = false
    }

    /// Stops a node; what is not synced is lost, and what the state machine has only in memory.
    mutating func crash(_ node: Int) {
        let lost = self[node].writes
        self[node].isUp = false
        self[node].writes = []
        self[node].ready = []
        record.state("\(node) is down" + (lost.isEmpty ? "" : ", \(lost.count) unsynced writes lost"))
        for answer in lost.flatMap(\.released) { noteLoss(answer) }
        if let offer = self[node].offer {
            self[node].offer = nil
            noteLoss(offer.asked)
        }
    }

    mutating func restart(_ node: Int) {
        let isSlow = self[node].isSlow
        self[node] = makeNode(node, self[node].disk, run: self[node].run + 1, isQuiet: options.promises)
        self[node].isSlow = isSlow
        record.isMuted = true
        begin(node)
        record.isMuted = false
        record.state("\(node) is up in run \(self[node].run): \(self[node].raft.traceStatus)")
        exchangePromises()
    }

    /// The delay after which the node campaigns is over, if it has one.
    mutating func campaign(_ node: Int) {
        guard self[node].isUp, self[node].raft.electionDeadline != nil else {
            return record.state("\(node) does not campaign")
        }
        self[node].raft.electionDeadline = now
        let role = self[node].raft.role
        step(node, .deadlineReached)
        if self[node].raft.role == .follower, role == .follower { record.state("\(node) does not campaign") }
    }

    // MARK: Steps

    mutating func step(
        _ node: Int, _ event: Event, carrying entries: [TraceEntry] = [], answering asked: TracePacket? = nil
    ) {
        let before = self[node].raft
        var effects = Effects()
        self[node].raft.step(event, now: now, liveness: self[node].liveness, into: &effects)
        describe(node, since: before, effects)
        if self[node].raft.debt == nil { self[node].disk.debt = nil }
        execute(effects, on: node, entries, answering: asked)
        for flaw in judge.flaws(of: nodes) { record.violation(flaw) }
    }

    private mutating func execute(
        _ effects: Effects, on node: Int, _ entries: [TraceEntry], answering asked: TracePacket?
    ) {
        if let install = effects.install { self[node].log.install(install) }
        if let change = effects.logChange { changeLog(of: node, change, entries) }
        for outbound in effects.messages { post(packet(node, outbound)) }
        if let reply = effects.reply, let asked { post(answer(asked, reply)) }
        for (to, reply) in effects.readIndexReplies {
            let asker = Int(to.address.port)
            post(TracePacket(from: node, to: asker, run: self[asker].run, message: .readIndexReply(reply)))
        }
        var released = effects.durableMessages.map { packet(node, $0) }
        if let acknowledgement = effects.acknowledgement, let asked { released.append(answer(asked, acknowledgement)) }
        write(node, effects, released)
        if let applicable = effects.applicable { self[node].applied = max(self[node].applied, applicable) }
        if let install = effects.install { self[node].applied = install.meta.last.index }
        if let meta = effects.snapshotWanted, let asked { self[node].offer = (meta, asked) }
        self[node].ready += effects.readyReads
        serveReads(node, withLease: false)
    }

    private mutating func changeLog(of node: Int, _ change: LogChange, _ received: [TraceEntry]) {
        if let index = change.truncateFrom { self[node].log.truncate(from: index) }
        if self[node].log.lastIndex.next != change.first { record.violation("\(node): a hole in the log") }
        for offset in 0..<change.count {
            nextNumber += 1
            switch change.source {
            case .message(let first): self[node].log.entries.append(received[first + offset])
            case .proposal:
                self[node].log.entries.append(
                    TraceEntry(term: change.term, kind: .data, value: nextNumber, configuration: nil))
            case .configuration(let configuration):
                self[node].log.entries.append(
                    TraceEntry(
                        term: change.term, kind: .configuration, value: nextNumber, configuration: configuration))
            }
        }
    }

    private mutating func write(_ node: Int, _ effects: Effects, _ released: [TracePacket]) {
        guard effects.hardState != nil || effects.logChange != nil || effects.install != nil else {
            if self[node].writes.isEmpty {
                for packet in released { post(packet) }
                return
            }
            for packet in released { record.message("\(packet.traceText) (after the sync)") }
            let last = self[node].writes.count - 1
            self[node].writes[last].released += released
            return
        }
        var added: [TraceEntry] = []
        if let change = effects.logChange {
            added = self[node].log.slice(after: change.first.previous, count: change.count)
        }
        self[node].writes.append(
            TraceWrite(
                hardState: effects.hardState, truncateFrom: effects.logChange?.truncateFrom, entries: added,
                install: effects.install, mark: self[node].raft.durableMark, released: released))
        guard self[node].isSlow else { return sync(node) }
        for packet in released { record.message("\(packet.traceText) (after the sync)") }
    }

    /// The disk finishes its next writes.
    mutating func sync(_ node: Int, count: Int = .max) {
        for _ in 0..<min(count, self[node].writes.count) where !self[node].writes.isEmpty {
            let write = self[node].writes.removeFirst()
            self[node].disk.complete(write)
            if self[node].isSlow { record.state("\(node) synced \(write.traceText)") }
            for packet in write.released { post(packet) }
            step(node, .persisted(write.mark))
        }
    }

    /// Evaluates reads whose index is applied. For those by lease the script chooses the moment.
    mutating func serveReads(_ node: Int, withLease: Bool) {
        let applied = self[node].applied
        func isDue(_ read: ReadyRead) -> Bool { read.index <= applied && (read.lease == nil || withLease) }
        let due = self[node].ready.filter(isDue)
        self[node].ready.removeAll(where: isDue)
        for read in due {
            let isGood = read.lease.map {
                self[node].raft.holdsLease(of: $0, now: now, liveness: self[node].liveness)
            }
            if isGood ?? true {
                let way = read.lease == nil ? "" : " by lease"
                record.state("\(node) serves read \(read.read)\(way) at index \(self[node].applied)")
            } else {
                record.state("\(node) has no lease after reading: read \(read.read) asks again")
                step(node, .readRequested(read.read, lease: false))
            }
        }
    }

    // MARK: Promises and time

    /// Nodes ask each other whatever is due.
    mutating func exchangePromises() {
        for node in nodes.map(\.number) where self[node].isUp { stepLiveness(node, .deadlineReached) }
    }

    private mutating func stepLiveness(_ node: Int, _ event: NodeLiveness.Event) {
        var effects = NodeLiveness.Effects()
        let before = self[node].liveness
        self[node].liveness.step(event, now: now, into: &effects)
        describePromises(of: node, since: before, at: now)
        for changed in effects.changed { step(node, .livenessChanged(changed)) }
        if effects.checksVitals { stepLiveness(node, .vitalsConfirmed(startedAt: now)) }
        for (address, request) in effects.requests { ask(node, Int(address.port), request) }
    }

    private mutating func ask(_ asker: Int, _ supporter: Int, _ request: NodeLiveness.Request) {
        let askerAddress = self[asker].id.address
        let supporterAddress = self[supporter].id.address
        guard self[supporter].isUp, !severed.contains([asker, supporter]), !severed.contains([supporter, asker]) else {
            return stepLiveness(asker, .failed(supporterAddress))
        }
        var request = request
        if withheld.contains([supporter, asker]) { request.asks = false }
        var effects = NodeLiveness.Effects()
        let before = self[supporter].liveness
        let event = NodeLiveness.Event.received(request, from: askerAddress, wallClock: 0)
        self[supporter].liveness.step(event, now: now, into: &effects)
        describePromises(of: supporter, since: before, at: now)
        for changed in effects.changed { step(supporter, .livenessChanged(changed)) }
        if let reply = effects.reply { stepLiveness(asker, .answered(reply, from: supporterAddress)) }
        for (address, request) in effects.requests { ask(supporter, Int(address.port), request) }
    }

    /// Lets time pass. Delays before campaigns do not end by themselves.
    mutating func advance(milliseconds: Int) {
        let end = now + .milliseconds(milliseconds)
        var steps = 0
        while let next = nextDeadline, next <= end {
            steps += 1
            precondition(steps < 10_000, "a deadline that does not move")
            now = max(now, next)
            record.time = now
            exchangePromises()
            for node in nodes.map(\.number) where self[node].isUp {
                guard let due = coreDeadline(of: node), due <= now else { continue }
                if let election = self[node].raft.electionDeadline {
                    self[node].raft.electionDeadline = max(election, now + Interval(nanoseconds: 1))
                }
                step(node, .deadlineReached)
            }
            record.time = nil
        }
        now = end
    }

    private var nextDeadline: Instant? {
        var next: Instant?
        for node in nodes where node.isUp {
            next = earliest(next, earliest(node.liveness.deadline, coreDeadline(of: node.number)))
        }
        return next
    }

    private func coreDeadline(of node: Int) -> Instant? {
        let raft = self[node].raft
        return raft.isLeader ? raft.deadline : earliest(raft.release?.retryAt, raft.followerReads.deadline)
    }
}

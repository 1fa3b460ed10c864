import Testing

@testable import RaftCore

/// A group on simulated nodes, disks, clocks and network, all drawn from one seed; judged after every event.
struct SimulatedCluster {
    /// What goes wrong, in per mille of messages.
    struct Faults {
        var lost: Int64 = 0
        var doubled: Int64 = 0
        var late: Int64 = 0
        var hasCrashes = false
    }

    enum Happening {
        case arrival(Packet)
        case written(node: Int, incarnation: UInt64)
        case livenessFailed(node: Int, incarnation: UInt64, peer: NodeAddress)
        case vitalsChecked(node: Int, incarnation: UInt64, startedAt: Instant)
        case appendFailed(node: Int, incarnation: UInt64, peer: Int, AppendTicket)
        case restart(Int)
    }

    let configuration: Configuration
    var random: SeededRandom
    var faults = Faults()
    var settings = RaftSettings()
    var nodes: [SimulatedNode] = []
    var queue = EventQueue<Happening>()
    var time: Int64 = 0
    /// Which pairs cannot talk.
    var severed: Set<Int> = []
    var judge = Judge()
    var nextValue: UInt64 = 1
    var effects = Effects()
    var livenessEffects = NodeLiveness.Effects()

    init(size: Int, seed: UInt64) {
        random = SeededRandom(seed: seed)
        let ids = (0..<size).map { PeerID(address: NodeAddress(ip: 0x7f00_0001, port: UInt16(8000 + $0))) }
        configuration = Configuration(peers: ids)
        for id in ids {
            let settings = NodeLiveness.Settings()
            nodes.append(
                SimulatedNode(
                    id: id,
                    raft: Raft(
                        id: id, hardState: .initial, termRuns: [], lastIndex: .zero, configurations: [],
                        applied: .zero, settings: RaftSettings(), seed: 0),
                    liveness: NodeLiveness(
                        node: id.address, runNumber: 0, settings: settings, startedAt: .distantPast),
                    clockOffset: random.number(in: 0..<1_000_000_000_000),
                    clockPercent: random.number(in: 99..<102)))
        }
        for node in nodes.indices { start(node) }
    }

    /// From each node's next start on, appends are small and few.
    mutating func useSmallWindows() {
        settings.maxEntriesPerAppend = 2
        settings.maxEntriesInFlight = 3
        for node in nodes.indices { crash(node) }
    }

    // MARK: Time

    /// Lets simulated time pass.
    mutating func run(milliseconds: Int64) {
        let end = time + milliseconds * 1_000_000
        while let next = nextTime(), next <= end {
            time = max(time, next)
            if let happening = queue.pop(notAfter: time) { handle(happening) } else { fireTimers() }
            judge.inspect(nodes, at: time)
        }
        time = end
    }

    private func nextTime() -> Int64? {
        var next = queue.nextTime
        for node in nodes where node.isUp {
            for deadline in [node.raft.deadline, node.liveness.deadline] {
                guard let deadline else { continue }
                next = min(next ?? .max, max(time, node.globalTime(deadline)))
            }
        }
        return next
    }

    private mutating func fireTimers() {
        for node in nodes.indices where nodes[node].isUp {
            let now = nodes[node].localTime(time)
            if let deadline = nodes[node].liveness.deadline, deadline <= now { stepLiveness(node, .deadlineReached) }
            if let deadline = nodes[node].raft.deadline, deadline <= now { step(node, .deadlineReached) }
        }
    }

    private mutating func handle(_ happening: Happening) {
        switch happening {
        case .arrival(let packet): receive(packet)
        case .written(let node, let incarnation):
            guard isPresent(node, incarnation) else { return }
            finishWrite(node)
        case .livenessFailed(let node, let incarnation, let peer):
            if isPresent(node, incarnation) { stepLiveness(node, .failed(peer)) }
        case .vitalsChecked(let node, let incarnation, let startedAt):
            if isPresent(node, incarnation) { stepLiveness(node, .vitalsConfirmed(startedAt: startedAt)) }
        case .appendFailed(let node, let incarnation, let peer, let ticket):
            if isPresent(node, incarnation) { step(node, .appendFailed(ticket, peer: nodes[peer].id)) }
        case .restart(let node): start(node)
        }
    }

    private func isPresent(_ node: Int, _ incarnation: UInt64) -> Bool {
        nodes[node].isUp && nodes[node].incarnation == incarnation
    }

    // MARK: Nodes

    mutating func start(_ node: Int) {
        guard !nodes[node].isUp else { return }
        nodes[node].isUp = true
        nodes[node].incarnation += 1
        nodes[node].writes = []
        let disk = nodes[node].disk
        nodes[node].entries = disk.entries
        nodes[node].raft = Raft(
            id: nodes[node].id, hardState: disk.hardState, termRuns: disk.termRuns,
            lastIndex: LogIndex(Int64(disk.entries.count)), configurations: disk.configurations(atBirth: configuration),
            applied: nodes[node].applied, settings: settings, seed: random.next())
        nodes[node].liveness = NodeLiveness(
            node: nodes[node].id.address, runNumber: nodes[node].incarnation, settings: NodeLiveness.Settings(),
            startedAt: nodes[node].localTime(time))
        step(node, .started)
        stepLiveness(node, .track(configuration.members.map(\.address)))
    }

    /// Stops a node; of its unfinished writes only some of the first survive.
    mutating func crash(_ node: Int) {
        guard nodes[node].isUp else { return }
        nodes[node].isUp = false
        let survivors = Int(random.number(in: 0..<Int64(nodes[node].writes.count) + 1))
        for write in nodes[node].writes.prefix(survivors) { nodes[node].disk.complete(write) }
        // the state machine may have lost what it did not flush
        if random.number(in: 0..<2) == 0 { nodes[node].applied = .zero }
        for other in nodes.indices where other != node && nodes[other].isUp {
            step(other, .connectionLost(nodes[node].id.address))
            stepLiveness(other, .failed(nodes[node].id.address))
        }
        queue.push(.restart(node), at: time + random.number(in: 1..<3000) * 1_000_000)
    }

    mutating func stepLiveness(_ node: Int, _ event: NodeLiveness.Event) {
        livenessEffects.removeAll()
        nodes[node].liveness.step(event, now: nodes[node].localTime(time), into: &livenessEffects)
        let drained = livenessEffects
        for (to, request) in drained.requests {
            let peer = configuration.members.firstIndex { $0.address == to }!
            post(packet(node, peer, .livenessRequest(request)))
        }
        if drained.checksVitals {
            let check = Happening.vitalsChecked(
                node: node, incarnation: nodes[node].incarnation, startedAt: nodes[node].localTime(time))
            queue.push(check, at: time + delay())
        }
        for changed in drained.changed { step(node, .livenessChanged(changed)) }
    }

    mutating func step(_ node: Int, _ event: Event, entries: [SimulatedEntry] = [], answering asked: Packet? = nil) {
        effects.removeAll()
        nodes[node].raft.step(
            event, now: nodes[node].localTime(time), liveness: nodes[node].liveness, into: &effects)
        execute(effects, on: node, entries: entries, answering: asked)
    }

    private mutating func execute(
        _ effects: Effects, on node: Int, entries: [SimulatedEntry], answering asked: Packet?
    ) {
        if let change = effects.logChange { changeLog(of: node, change, entries) }
        for outbound in effects.messages { post(packet(node, outbound)) }
        if let reply = effects.reply, let asked { post(answer(asked, reply)) }
        var released = effects.durableMessages.map { packet(node, $0) }
        if let acknowledgement = effects.acknowledgement, let asked { released.append(answer(asked, acknowledgement)) }
        write(node, effects, released)
        if let applicable = effects.applicable {
            #expect(applicable.rawValue <= Int64(nodes[node].disk.entries.count), "applied what is not durable")
            nodes[node].applied = max(nodes[node].applied, applicable)
        }
        for ready in effects.readyReads { judge.finishRead(ready.read, at: ready.index) }
        judge.noteRefusal(effects.refusal)
    }

    private mutating func changeLog(of node: Int, _ change: LogChange, _ received: [SimulatedEntry]) {
        if let index = change.truncateFrom {
            nodes[node].entries.removeSubrange(Int(index.rawValue) - 1..<nodes[node].entries.count)
        }
        #expect(Int64(nodes[node].entries.count) + 1 == change.first.rawValue)
        switch change.source {
        case .message(let offset): nodes[node].entries += received[offset..<offset + change.count]
        case .proposal:
            for _ in 0..<change.count {
                nodes[node].entries.append(
                    SimulatedEntry(term: change.term, kind: .data, value: nextValue, configuration: nil))
                nextValue += 1
            }
        case .configuration(let configuration):
            nodes[node].entries.append(
                SimulatedEntry(
                    term: change.term, kind: .configuration, value: nextValue, configuration: configuration))
            nextValue += 1
        }
    }

    private mutating func write(_ node: Int, _ effects: Effects, _ released: [Packet]) {
        var added: [SimulatedEntry] = []
        if let change = effects.logChange { added = Array(nodes[node].entries[(Int(change.first.rawValue) - 1)...]) }
        guard effects.hardState != nil || !added.isEmpty else {
            if nodes[node].writes.isEmpty {
                for packet in released { post(packet) }
            } else {
                nodes[node].writes[nodes[node].writes.count - 1].released += released
            }
            return
        }
        nodes[node].writes.append(
            SimulatedWrite(
                hardState: effects.hardState, truncateFrom: effects.logChange?.truncateFrom, entries: added,
                mark: nodes[node].raft.durableMark, released: released))
        let happening = Happening.written(node: node, incarnation: nodes[node].incarnation)
        queue.push(happening, at: time + random.number(in: 1..<20) * 1_000_000)
    }

    private mutating func finishWrite(_ node: Int) {
        let write = nodes[node].writes.removeFirst()
        nodes[node].disk.complete(write)
        for packet in write.released { post(packet) }
        step(node, .persisted(write.mark))
    }
}

// MARK: Network

extension SimulatedCluster {
    private func packet(_ from: Int, _ to: Int, _ body: Packet.Body) -> Packet {
        Packet(from: from, to: to, incarnation: nodes[from].incarnation, ticket: nil, body: body)
    }

    private func packet(_ from: Int, _ outbound: Outbound) -> Packet {
        let to = configuration.members.firstIndex(of: outbound.to)!
        switch outbound.body {
        case .vote(let request): return packet(from, to, .vote(request))
        case .timeoutNow(let request): return packet(from, to, .timeoutNow(request))
        case .append(let ticket, let previousTerm, let commit):
            let first = Int(ticket.previous.rawValue)
            let entries = Array(nodes[from].entries[first..<first + ticket.count])
            var configurations: [PlacedConfiguration] = []
            for (offset, entry) in entries.enumerated() {
                guard let configuration = entry.configuration else { continue }
                let index = ticket.previous.advanced(by: offset + 1)
                configurations.append(PlacedConfiguration(index: index, configuration: configuration))
            }
            let request = AppendRequest(
                term: ticket.term, previous: LogPosition(term: previousTerm, index: ticket.previous),
                entries: entries.map { EntryHeader(term: $0.term, kind: $0.kind) }, configurations: configurations,
                commit: commit)
            return packet(from, to, .append(request, entries: entries, ticket: ticket))
        }
    }

    /// The answer to `asked`, with the ticket that the asker remembers.
    private func answer(_ asked: Packet, _ reply: Message) -> Packet {
        var reply = reply
        if case .append(_, _, let ticket) = asked.body, case .appendReply(var append) = reply {
            append.ticket = ticket
            reply = .appendReply(append)
        }
        return Packet(
            from: asked.to, to: asked.from, incarnation: asked.incarnation, ticket: nil, body: .reply(reply))
    }

    private mutating func post(_ packet: Packet) {
        let isLost = random.number(in: 0..<1000) < faults.lost || isSevered(packet.from, packet.to)
        if isLost { return lose(packet) }
        queue.push(.arrival(packet), at: time + delay())
        if random.number(in: 0..<1000) < faults.doubled { queue.push(.arrival(packet), at: time + delay()) }
    }

    private mutating func delay() -> Int64 {
        let isLate = random.number(in: 0..<1000) < faults.late
        return random.number(in: isLate ? 100..<3000 : 1..<10) * 1_000_000
    }

    /// Sometimes the sender hears of a loss.
    private mutating func lose(_ packet: Packet) {
        guard random.number(in: 0..<2) == 0 else { return }
        let later = time + random.number(in: 10..<300) * 1_000_000
        switch packet.body {
        case .livenessRequest:
            let peer = nodes[packet.to].id.address
            queue.push(.livenessFailed(node: packet.from, incarnation: packet.incarnation, peer: peer), at: later)
        case .append(_, _, let ticket):
            queue.push(
                .appendFailed(node: packet.from, incarnation: packet.incarnation, peer: packet.to, ticket), at: later)
        default: break
        }
    }

    private func isSevered(_ from: Int, _ to: Int) -> Bool { severed.contains(from * nodes.count + to) }

    private mutating func receive(_ packet: Packet) {
        guard nodes[packet.to].isUp, !isSevered(packet.from, packet.to) else { return lose(packet) }
        let sender = nodes[packet.from].id
        switch packet.body {
        case .vote(let request):
            step(packet.to, .received(.voteRequest(request), from: sender), answering: packet)
        case .append(let request, let entries, _):
            step(
                packet.to, .received(.appendRequest(request), from: sender), entries: entries, answering: packet)
        case .timeoutNow(let request):
            step(packet.to, .received(.timeoutNowRequest(request), from: sender), answering: packet)
        case .reply(let message):
            guard packet.incarnation == nodes[packet.to].incarnation else { return }
            step(packet.to, .received(message, from: sender))
        case .livenessRequest(let request):
            stepLiveness(packet.to, .received(request, from: sender.address, wallClock: time / 1_000_000))
            guard let reply = livenessEffects.reply else { return }
            var answer = packet
            swap(&answer.from, &answer.to)
            answer.body = .livenessReply(reply)
            post(answer)
        case .livenessReply(let reply):
            guard packet.incarnation == nodes[packet.to].incarnation else { return }
            stepLiveness(packet.to, .answered(reply, from: sender.address))
        }
    }
}

// MARK: Trouble and clients

extension SimulatedCluster {
    /// Some minutes in the life of a cluster: every 50 ms something is proposed, read, cut, crashed or handed over.
    mutating func suffer(milliseconds: Int64) {
        for _ in 0..<milliseconds / 50 {
            let node = Int(random.number(in: 0..<Int64(nodes.count)))
            switch random.number(in: 0..<100) {
            case 0..<40: proposeSomewhere(count: Int(random.number(in: 1..<5)))
            case 40..<60: readSomewhere()
            case 60..<63: severed = partition()
            case 63..<68: severed = []
            case 68..<70: if faults.hasCrashes { crash(node) }
            case 70..<73: if nodes[node].isUp { step(node, .transferRequested(nil)) }
            case 73..<75: if nodes[node].isUp { step(node, .connectionLost(nodes[0].id.address)) }
            default: break
            }
            run(milliseconds: 50)
        }
    }

    /// Ends all trouble.
    mutating func heal() {
        faults = Faults()
        severed = []
        for node in nodes.indices { start(node) }
    }

    mutating func proposeSomewhere(count: Int) {
        for node in nodes.indices where nodes[node].isUp && nodes[node].raft.acceptsProposals {
            step(node, .proposed(count: count))
        }
    }

    mutating func readSomewhere() {
        for node in nodes.indices where nodes[node].isUp && nodes[node].raft.isLeader {
            step(node, .readRequested(judge.beginRead()))
        }
    }

    /// Cuts the nodes in two, sometimes in one direction only.
    private mutating func partition() -> Set<Int> {
        var cut: Set<Int> = []
        let sides = nodes.map { _ in random.number(in: 0..<2) }
        let isOneWay = random.number(in: 0..<4) == 0
        for from in nodes.indices {
            for to in nodes.indices where sides[from] < sides[to] || (!isOneWay && sides[from] > sides[to]) {
                cut.insert(from * nodes.count + to)
            }
        }
        return cut
    }
}

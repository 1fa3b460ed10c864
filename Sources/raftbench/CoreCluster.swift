import RaftCore

/// The voters of one group in one thread, driven as a host drives them, but by values: no payload, no frames, a network
/// and a disk that take no time. What is left is the cores' own work, and the queues around them.
///
/// A turn of a node is a host's turn: drain what came, propose what waits as one batch, let the disk be done with all of
/// it. Time is virtual, a microsecond per turn, so that a run does the same whatever else the machine does.
struct CoreCluster {
    private(set) var clients: ClosedLoopClients
    /// Events given to cores so far.
    private(set) var steps = 0

    private var nodes: [CoreNode]
    private var now = Instant(nanoseconds: 1_000_000_000)
    private var effects = Effects()
    /// Emptied queues, kept for their memory.
    private var spareInbox: [Packet] = []
    private var spareDuties: [CoreNode.Duty] = []
    private var spareEntries: [[EntryHeader]] = []

    private var liveness: [NodeLiveness]
    /// The earliest deadline in it.
    private var livenessDeadline: Instant?
    private var livenessEffects = NodeLiveness.Effects()
    private var livenessQueue: [(node: Int, event: NodeLiveness.Event)] = []

    /// A cluster that has a leader.
    init(voters: Int, clients: ClosedLoopClients) {
        let ids = (1...voters).map { PeerID(address: NodeAddress(ip: 0x7f00_0001, port: UInt16($0))) }
        var settings = NodeLiveness.Settings()
        // the first run of a node has promised nothing before
        settings.startupQuiet = false
        let start = now
        liveness = ids.map { NodeLiveness(node: $0.address, runNumber: 1, settings: settings, startedAt: start) }
        nodes = ids.map { CoreNode(id: $0, members: ids, seed: UInt64($0.address.port)) }
        self.clients = clients
        for position in nodes.indices { step(position, .started) }
        for position in nodes.indices {
            stepLiveness(position, .track(ids.map(\.address).filter { $0 != ids[position].address }))
        }
        // until there is a leader, and every queue has seen what a second brings
        let settled = now + .milliseconds(2000)
        while now < settled || !nodes.contains(where: { $0.raft.isLeader && $0.applied > .zero }) {
            if nodes.allSatisfy(\.inbox.isEmpty), let next = nextDeadline, next > now { now = next }
            for position in nodes.indices { turn(position, proposes: false) }
        }
    }

    private var nextDeadline: Instant? { (nodes.compactMap(\.deadline) + [livenessDeadline].compactMap(\.self)).min() }

    /// A turn of every node.
    mutating func round() {
        for position in nodes.indices { turn(position, proposes: true) }
    }

    private mutating func turn(_ position: Int, proposes: Bool) {
        now = now + Interval(nanoseconds: 1000)
        if let deadline = livenessDeadline, deadline <= now { fireLivenessDeadlines() }
        drainInbox(position)
        if let deadline = nodes[position].deadline, deadline <= now { step(position, .deadlineReached) }
        if proposes, clients.isWaiting, nodes[position].raft.acceptsProposals {
            let last = nodes[position].raft.lastIndex
            step(position, .proposed(count: clients.propose(after: last)))
        }
        while !nodes[position].duties.isEmpty { finishWrites(position) }
        let applied = nodes[position].applied
        if nodes[position].log.isFull, applied >= nodes[position].log.first {
            nodes[position].log.drop(through: applied)
            step(position, .compacted(through: applied))
        }
    }

    private mutating func drainInbox(_ position: Int) {
        guard !nodes[position].inbox.isEmpty else { return }
        var drained: [Packet] = []
        swap(&drained, &spareInbox)
        swap(&drained, &nodes[position].inbox)
        for packet in drained {
            step(position, packet.event, packet.sender)
            if case .received(.appendRequest(let request), _, _, _) = packet.event, !request.entries.isEmpty {
                spareEntries.append(request.entries)
            }
        }
        drained.removeAll(keepingCapacity: true)
        swap(&drained, &spareInbox)
    }

    /// The disk is done with all that was given to it.
    private mutating func finishWrites(_ position: Int) {
        var duties: [CoreNode.Duty] = []
        swap(&duties, &spareDuties)
        swap(&duties, &nodes[position].duties)
        for offset in duties.indices {
            switch duties[offset] {
            case .persisted(let mark): step(position, .persisted(mark))
            case .answer(let packet, let asker): nodes[asker].inbox.append(packet)
            case .send(let message): send(message, from: position)
            }
        }
        duties.removeAll(keepingCapacity: true)
        swap(&duties, &spareDuties)
    }

    // MARK: stepping

    private mutating func step(_ position: Int, _ event: Event, _ sender: Sender? = nil) {
        steps += 1
        effects.removeAll()
        nodes[position].raft.step(event, now: now, liveness: liveness[position], into: &effects)
        execute(position, event, sender)
        nodes[position].deadline = nodes[position].raft.deadline
    }

    private mutating func execute(_ position: Int, _ event: Event, _ sender: Sender?) {
        var isWritten = effects.hardState != nil
        if let change = effects.logChange {
            write(change, position, event)
            isWritten = true
        }
        if isWritten { nodes[position].duties.append(.persisted(nodes[position].raft.durableMark)) }
        for offset in effects.messages.indices { send(effects.messages[offset], from: position) }
        if let reply = effects.reply, let sender {
            nodes[sender.position].inbox.append(answer(reply, to: sender, from: position))
        }
        if let acknowledgement = effects.acknowledgement, let sender {
            let answer = answer(acknowledgement, to: sender, from: position)
            nodes[position].duties.append(.answer(answer, to: sender.position))
        }
        for message in effects.durableMessages { nodes[position].duties.append(.send(message)) }
        if let applicable = effects.applicable {
            nodes[position].applied = applicable
            if nodes[position].raft.isLeader { clients.finish(through: applicable) }
        }
        precondition(effects.refusal == nil, "a core refused another's message")
    }

    private func answer(_ reply: Message, to sender: Sender, from position: Int) -> Packet {
        let answerer = Sender(position: position)
        guard case .appendReply(var reply) = reply, let ticket = sender.ticket else {
            return Packet(event: .received(reply, from: nodes[position].id), sender: answerer)
        }
        reply.ticket = ticket
        return Packet(event: .received(.appendReply(reply), from: nodes[position].id), sender: answerer)
    }

    /// Changes the log in memory as the last step wants it.
    private mutating func write(_ change: LogChange, _ position: Int, _ event: Event) {
        if let from = change.truncateFrom { nodes[position].log.truncate(from: from) }
        switch change.source {
        case .proposal:
            nodes[position].log.append(EntryHeader(term: change.term, kind: .data), count: change.count)
        case .configuration(let configuration):
            nodes[position].log.append(EntryHeader(term: change.term, kind: .configuration), count: change.count)
            nodes[position].log.note(PlacedConfiguration(index: change.first, configuration: configuration))
        case .message(let offset):
            guard case .received(.appendRequest(let request), _, _, _) = event else {
                preconditionFailure("entries without a message")
            }
            nodes[position].log.append(request.entries[offset...])
            for placed in request.configurations where placed.index >= change.first {
                nodes[position].log.note(placed)
            }
        }
    }

    // MARK: sending

    private mutating func send(_ outbound: Outbound, from position: Int) {
        switch outbound.body {
        case .append(let ticket, let previousTerm, let commit):
            let request = AppendRequest(
                term: ticket.term, previous: LogPosition(term: previousTerm, index: ticket.previous),
                entries: entries(of: ticket, from: position),
                configurations: nodes[position].log.configurations(after: ticket.previous, count: ticket.count),
                commit: commit)
            post(.appendRequest(request), to: outbound.to, from: position, ticket)
        case .vote(let request): post(.voteRequest(request), to: outbound.to, from: position)
        case .timeoutNow(let request): post(.timeoutNowRequest(request), to: outbound.to, from: position)
        case .release(let request): post(.releaseRequest(request), to: outbound.to, from: position)
        case .readIndex(let request): post(.readIndexRequest(request), to: outbound.to, from: position)
        case .snapshot: preconditionFailure("nobody lags that far")
        }
    }

    private mutating func entries(of ticket: AppendTicket, from position: Int) -> [EntryHeader] {
        guard ticket.count > 0 else { return [] }
        var entries = spareEntries.popLast() ?? []
        entries.removeAll(keepingCapacity: true)
        nodes[position].log.copy(after: ticket.previous, count: ticket.count, to: &entries)
        return entries
    }

    private mutating func post(
        _ message: Message, to receiver: PeerID, from position: Int, _ ticket: AppendTicket? = nil
    ) {
        let packet = Packet(
            event: .received(message, from: nodes[position].id), sender: Sender(position: position, ticket: ticket))
        nodes[self.position(of: receiver.address)].inbox.append(packet)
    }

    private func position(of node: NodeAddress) -> Int { Int(node.port) - 1 }

    // MARK: liveness

    private mutating func fireLivenessDeadlines() {
        for position in nodes.indices { stepLiveness(position, .deadlineReached) }
    }

    /// Steps a node's liveness and whatever follows from it: all nodes are well, and hear each other at once.
    private mutating func stepLiveness(_ position: Int, _ event: NodeLiveness.Event) {
        livenessQueue.append((position, event))
        var next = 0
        while next < livenessQueue.count {
            let (position, event) = livenessQueue[next]
            let address = nodes[position].id.address
            next += 1
            livenessEffects.removeAll()
            liveness[position].step(event, now: now, into: &livenessEffects)
            for (receiver, request) in livenessEffects.requests {
                livenessQueue.append(
                    (self.position(of: receiver), .received(request, from: address, wallClock: 0)))
            }
            if let reply = livenessEffects.reply, case .received(_, let asker, _) = event {
                livenessQueue.append((self.position(of: asker), .answered(reply, from: address)))
            }
            if livenessEffects.checksVitals { livenessQueue.append((position, .vitalsConfirmed(startedAt: now))) }
            for changed in livenessEffects.changed { step(position, .livenessChanged(changed)) }
        }
        livenessQueue.removeAll(keepingCapacity: true)
        livenessDeadline = nil
        for node in liveness {
            guard let deadline = node.deadline else { continue }
            livenessDeadline = min(livenessDeadline ?? deadline, deadline)
        }
    }
}

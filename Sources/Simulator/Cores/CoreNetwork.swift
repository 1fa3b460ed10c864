import RaftCore

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

extension CoreCluster {
    mutating func send(_ outbound: Outbound, from node: Int) {
        if case .snapshot(let term) = outbound.body { return sendSnapshot(from: node, to: outbound.to, term: term) }
        post(packet(node, outbound)!)
    }

    /// The request with its payloads; nil for a snapshot, which travels in its own way.
    func packet(_ from: Int, _ outbound: Outbound) -> CorePacket? {
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
    func answer(_ asked: CorePacket, _ reply: Message) -> CorePacket {
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

    mutating func post(_ packet: CorePacket) {
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
    mutating func lose(_ packet: CorePacket) {
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

    mutating func receive(_ packet: CorePacket) {
        guard !isSevered(packet.from, packet.to), nodes[packet.from].standing != .gone else { return lose(packet) }
        let sender = nodes[packet.from].id
        switch packet.body {
        case .vote(let request):
            step(packet.to, .received(.voteRequest(request), from: sender, run: packet.run), answering: packet)
        case .append(let request, let entries, _):
            step(
                packet.to, .received(.appendRequest(request), from: sender, run: packet.run), values: entries,
                answering: packet)
        case .timeoutNow(let request):
            step(packet.to, .received(.timeoutNowRequest(request), from: sender, run: packet.run), answering: packet)
        case .release(let request):
            step(packet.to, .received(.releaseRequest(request), from: sender, run: packet.run), answering: packet)
        case .readIndex(let question):
            nodes[packet.to].questions[[UInt64(packet.from), question.sequence]] = packet.run
            step(packet.to, .received(.readIndexRequest(question), from: sender, run: packet.run), answering: packet)
        case .snapshot(let request, _, _):
            step(packet.to, .received(.snapshotRequest(request), from: sender, run: packet.run), answering: packet)
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

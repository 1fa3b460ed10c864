@testable import RaftCore

/// Which messages under way a command means.
struct TraceFilter {
    var from: Int?
    var to: Int?
    var kind: String?
    var count = Int.max
    var isDelayed = false

    func matches(_ packet: TracePacket) -> Bool {
        packet.isDelayed == isDelayed && (from ?? packet.from) == packet.from && (to ?? packet.to) == packet.to
            && (kind ?? packet.message.traceKind) == packet.message.traceKind
    }
}

extension TraceCluster {
    func packet(_ from: Int, _ outbound: Outbound) -> TracePacket {
        let run = self[from].run
        let to = Int(outbound.to.address.port)
        func plain(_ message: Message) -> TracePacket { TracePacket(from: from, to: to, run: run, message: message) }
        switch outbound.body {
        case .vote(let request): return plain(.voteRequest(request))
        case .timeoutNow(let request): return plain(.timeoutNowRequest(request))
        case .release(let request): return plain(.releaseRequest(request))
        case .readIndex(let request): return plain(.readIndexRequest(request))
        case .snapshot(let term):
            // of what is applied by now
            let log = self[from].log
            let index = max(self[from].applied, log.base.index)
            let last = LogPosition(term: log.entry(at: index)?.term ?? log.base.term, index: index)
            let meta = SnapshotMeta(last: last, configuration: log.configuration(at: index) ?? .empty)
            return plain(.snapshotRequest(SnapshotRequest(term: term, meta: meta)))
        case .append(let ticket, let previousTerm, let commit):
            let entries = self[from].log.slice(after: ticket.previous, count: ticket.count)
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
            var packet = plain(.appendRequest(request))
            packet.entries = entries
            packet.ticket = ticket
            return packet
        }
    }

    /// The answer to `asked`, with the ticket that the asker remembers.
    func answer(_ asked: TracePacket, _ reply: Message) -> TracePacket {
        var reply = reply
        if case .appendReply(var append) = reply, let ticket = asked.ticket {
            append.ticket = ticket
            reply = .appendReply(append)
        }
        var packet = TracePacket(from: asked.to, to: asked.from, run: asked.run, message: reply)
        if case .snapshotRequest(let offer) = asked.message { packet.offered = offer.meta.last.index }
        return packet
    }

    mutating func post(_ packet: TracePacket) {
        record.message(packet.traceText)
        if let flaw = judge.flaw(of: packet, self[packet.from].disk) { record.violation(flaw) }
        network.append(packet)
    }

    /// Takes the messages that `filter` means out of the network.
    mutating func take(_ filter: TraceFilter) -> [TracePacket] {
        var taken: [TracePacket] = []
        network.removeAll { packet in
            guard taken.count < filter.count, filter.matches(packet) else { return false }
            taken.append(packet)
            return true
        }
        return taken
    }

    mutating func deliver(_ filter: TraceFilter) {
        let taken = take(filter)
        if taken.isEmpty { record.state("nothing to deliver") }
        for packet in taken { deliver(packet) }
    }

    private mutating func deliver(_ packet: TracePacket) {
        guard self[packet.to].isUp else { return lose(packet, "is down") }
        guard !severed.contains([packet.from, packet.to]) else { return lose(packet, "cannot be reached") }
        guard !packet.isReply || packet.run == self[packet.to].run else { return lose(packet, "no longer waits") }
        record.heading("\(packet.traceText)")
        if case .snapshotReply(let reply) = packet.message {
            let installed = reply.success ? packet.offered : nil
            reportSnapshot(from: packet.to, to: packet.from, installed: installed)
        } else {
            step(
                packet.to, .received(packet.message, from: self[packet.from].id), carrying: packet.entries,
                answering: packet)
        }
        record.endHeading()
    }

    private mutating func lose(_ packet: TracePacket, _ reason: String?) {
        record.message("\(packet.traceText) is lost" + (reason.map { ": \(packet.to) \($0)" } ?? ""))
        noteLoss(packet)
    }

    /// Loses messages, and tells the senders of appends.
    mutating func fail(_ filter: TraceFilter) {
        for packet in take(filter) {
            lose(packet, nil)
            if let ticket = packet.ticket { step(packet.from, .appendFailed(ticket, peer: self[packet.to].id)) }
        }
    }

    mutating func drop(_ filter: TraceFilter) {
        let taken = take(filter)
        if taken.isEmpty { record.state("nothing to drop") }
        for packet in taken { lose(packet, nil) }
    }

    /// A host always learns how sending a snapshot ended.
    mutating func noteLoss(_ packet: TracePacket) {
        switch packet.message {
        case .snapshotRequest: reportSnapshot(from: packet.from, to: packet.to, installed: nil)
        case .snapshotReply: reportSnapshot(from: packet.to, to: packet.from, installed: nil)
        default: break
        }
    }

    private mutating func reportSnapshot(from leader: Int, to follower: Int, installed: LogIndex?) {
        guard self[leader].isUp else { return }
        step(leader, .snapshotSent(to: self[follower].id, installed: installed))
    }

    /// The snapshot that the node fetches is complete, or failed.
    mutating func endFetch(_ node: Int, succeeds: Bool) {
        guard let offer = self[node].offer else { return record.state("\(node) fetches nothing") }
        self[node].offer = nil
        let failure = Message.snapshotReply(SnapshotReply(term: self[node].raft.term, success: false))
        guard succeeds else { return post(answer(offer.asked, failure)) }
        let before = network.count + self[node].writes.count
        step(node, .snapshotReceived(offer.meta), answering: offer.asked)
        if network.count + self[node].writes.count == before { post(answer(offer.asked, failure)) }
    }

    /// The connection between two nodes breaks, with everything on it.
    mutating func disconnect(_ left: Int, _ right: Int) {
        for packet in take(TraceFilter(from: left, to: right)) + take(TraceFilter(from: right, to: left)) {
            lose(packet, nil)
        }
        if self[left].isUp { step(left, .connectionLost(self[right].id.address)) }
        if self[right].isUp { step(right, .connectionLost(self[left].id.address)) }
    }

    /// Delivers until nothing is under way.
    mutating func settle() {
        var delivered = 0
        while let index = network.firstIndex(where: { !$0.isDelayed }) {
            delivered += 1
            guard delivered < 1000 else { return record.violation("messages without end") }
            deliver(network.remove(at: index))
        }
    }

    /// Wins an election with these votes; nobody else is heard.
    mutating func elect(_ node: Int, with voters: [Int]) {
        campaign(node)
        for kind in ["pre-vote", "vote"] {
            for voter in voters {
                for packet in take(TraceFilter(from: node, to: voter, kind: kind)) { deliver(packet) }
                if self[voter].isSlow { sync(voter) }
            }
            for voter in voters {
                for packet in take(TraceFilter(from: voter, to: node, kind: kind + "-reply")) { deliver(packet) }
                if self[node].isSlow, self[node].raft.role == .candidate { sync(node) }
            }
            _ = take(TraceFilter(from: node, kind: kind))
            _ = take(TraceFilter(to: node, kind: kind + "-reply"))
        }
    }
}

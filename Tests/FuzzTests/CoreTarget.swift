import RaftCore

// The core under events and messages of any kind, in any order.

let coreMembers = (1...3).map { PeerID(address: NodeAddress(ip: 10, port: UInt16($0))) }

/// Replicas whose messages arrive in any order, more than once or never, with forged ones among them. Their own
/// preconditions are the judge; besides, term and commit index never go back.
func fuzzCore(_ input: Bytes) {
    var choices = Choices(input)
    var world = CoreWorld(replicas: choices.flag() ? 3 : 1)
    for _ in 0..<400 where !choices.isAtEnd { world.act(&choices) }
}

private struct CoreWorld {
    private struct Node {
        var raft: Raft
        var liveness: NodeLiveness
        var headers: [EntryHeader] = []
        var memberships: [PlacedConfiguration] = []
        var base = LogIndex.zero
        var marks: [DurableMark] = []
        var applied = LogIndex.zero
        var wanted: SnapshotMeta?
    }

    private struct Packet {
        var to: Int
        var from: Int
        var message: Message
        var ticket: AppendTicket?
    }

    private var nodes: [Node]
    private var packets: [Packet] = []
    private var now = Instant(nanoseconds: 0)
    private var reads: UInt64 = 0

    init(replicas: Int) {
        let configuration = Configuration(peers: Array(coreMembers[..<replicas]))
        let start = now
        nodes = coreMembers[..<replicas].enumerated().map { number, id in
            var settings = NodeLiveness.Settings()
            settings.startupQuiet = false
            return Node(
                raft: Raft(
                    id: id, hardState: .initial, termRuns: [], lastIndex: .zero,
                    configurations: [PlacedConfiguration(index: .zero, configuration: configuration)],
                    applied: .zero, settings: RaftSettings(), seed: UInt64(number)),
                liveness: NodeLiveness(
                    node: id.address, runNumber: 1, settings: settings, startedAt: start))
        }
        for node in nodes.indices {
            var effects = NodeLiveness.Effects()
            let others = coreMembers.filter { $0 != nodes[node].raft.id }.map(\.address)
            nodes[node].liveness.step(.track(others), now: now, into: &effects)
            step(node, .started)
        }
    }

    mutating func act(_ choices: inout Choices) {
        let node = choices.number(below: nodes.count)
        switch choices.number(below: 24) {
        case 0...3: deliver(&choices)
        case 4: nodes[node].marks.forEach { step(node, .persisted($0)) }
        case 5: now = now + .milliseconds(Int(choices.byte()) * 20)
        case 6, 7:
            if let deadline = nodes[node].raft.deadline { now = max(now, deadline) }
            step(node, .deadlineReached)
        case 8: step(node, .proposed(count: choices.number(below: 4) + 1))
        case 9:
            reads += 1
            step(node, .readRequested(reads, lease: choices.flag()))
        case 10: step(node, .transferRequested(choices.flag() ? nil : anyPeer(&choices)))
        case 11: step(node, .stepDownRequested)
        case 12: step(node, .membershipRequested(1, anyMembership(&choices)))
        case 13: step(node, .resetRequested(2, anyMembership(&choices)))
        case 14: compact(node)
        case 15:
            if let meta = nodes[node].wanted { step(node, .snapshotReceived(meta)) }
            nodes[node].wanted = nil
        case 16:
            let peer = anyPeer(&choices)
            step(node, choices.flag() ? .connectionLost(peer.address) : .livenessChanged(peer.address))
        case 17: support(node, &choices)
        case 18, 19: lose(&choices)
        case 20:
            let applied = nodes[node].applied.rawValue
            let installed = choices.flag() ? LogIndex(min(applied, choices.anyNumber() & .max)) : nil
            step(node, .snapshotSent(to: anyPeer(&choices), installed: installed))
        default: step(node, .received(anyMessage(&choices), from: anyPeer(&choices)))
        }
    }

    // MARK: what is likely

    /// One packet, kept or not.
    private mutating func deliver(_ choices: inout Choices) {
        guard !packets.isEmpty else { return }
        let position = choices.number(below: packets.count)
        let packet = packets[position]
        if !choices.flag() { packets.remove(at: position) }
        step(packet.to, .received(packet.message, from: nodes[packet.from].raft.id), answering: packet)
    }

    /// One packet is not answered, and its sender hears of it.
    private mutating func lose(_ choices: inout Choices) {
        guard !packets.isEmpty else { return }
        let packet = packets.remove(at: choices.number(below: packets.count))
        let receiver = nodes[packet.to].raft.id
        switch packet.message {
        case .appendRequest:
            if let ticket = packet.ticket { step(packet.from, .appendFailed(ticket, peer: receiver)) }
        case .readIndexRequest(let question): step(packet.from, .readIndexFailed(question))
        case .snapshotRequest: step(packet.from, .snapshotSent(to: receiver, installed: nil))
        default: step(packet.from, .connectionLost(receiver.address))
        }
    }

    /// Another node's promise comes, or is lost.
    private mutating func support(_ node: Int, _ choices: inout Choices) {
        let peer = anyPeer(&choices).address
        var effects = NodeLiveness.Effects()
        nodes[node].liveness.step(.vitalsConfirmed(startedAt: now), now: now, into: &effects)
        nodes[node].liveness.step(.deadlineReached, now: now, into: &effects)
        for (to, request) in effects.requests where to == peer {
            let reply = NodeLiveness.Reply(
                sequence: request.sequence, granted: request.asks, epoch: UInt64(1 + choices.number(below: 3)),
                runNumber: UInt64(1 + choices.number(below: 2)), wallClockMilliseconds: 0)
            nodes[node].liveness.step(.answered(reply, from: to), now: now, into: &effects)
        }
        if choices.flag() {
            let request = NodeLiveness.Request(
                runNumber: UInt64(choices.number(below: 3)), sequence: 1, asks: choices.flag())
            nodes[node].liveness.step(
                .received(request, from: peer, wallClock: 0), now: now, into: &effects)
        }
        switch choices.number(below: 16) {
        case 14: nodes[node].liveness.step(.failed(peer), now: now, into: &effects)
        case 15: nodes[node].liveness.step(.foreign(peer), now: now, into: &effects)
        default: break
        }
        for changed in effects.changed { step(node, .livenessChanged(changed)) }
    }

    private mutating func compact(_ node: Int) {
        let target = nodes[node].applied
        let dropped = nodes[node].base.distance(to: target)
        guard dropped > 0 else { return }
        step(node, .compacted(through: target))
        nodes[node].headers.removeFirst(min(dropped, nodes[node].headers.count))
        nodes[node].base = target
    }

    // MARK: what only a broken peer sends

    private func anyPeer(_ choices: inout Choices) -> PeerID {
        let number = choices.number(below: 5)
        return number < 3 ? coreMembers[number] : PeerID(address: NodeAddress(ip: 11, port: UInt16(number)))
    }

    private func anyMembership(_ choices: inout Choices) -> Configuration {
        let peers = (0..<choices.number(below: 4)).map { _ in
            let peer = anyPeer(&choices)
            let role = PeerID.Role(rawValue: Int32(choices.number(below: 3))) ?? .replica
            return PeerID(address: peer.address, role: role)
        }
        return Configuration(peers: peers, oldPeers: choices.number(below: 4) == 3 ? coreMembers : [])
    }

    private func anyPosition(_ choices: inout Choices) -> LogPosition {
        LogPosition(term: Term(choices.anyNumber()), index: LogIndex(choices.anyNumber()))
    }

    private func anyMessage(_ choices: inout Choices) -> Message {
        let kind = choices.number(below: 14)
        let term = Term(choices.anyNumber())
        switch kind {
        case 0:
            let handOver = choices.flag() ? TermLeader(leader: anyPeer(&choices), term: term) : nil
            return .voteRequest(
                VoteRequest(
                    isPreVote: choices.flag(), term: term, last: anyPosition(&choices), handOver: handOver))
        case 1:
            return .voteReply(
                VoteReply(
                    isPreVote: choices.flag(), requestTerm: Term(choices.anyNumber()), term: term,
                    granted: choices.flag()))
        case 2, 3, 4: return .appendRequest(anyAppend(term, &choices))
        case 5:
            let ticket = AppendTicket(
                term: Term(choices.anyNumber()), previous: LogIndex(choices.anyNumber()),
                count: Int(choices.anyNumber()), round: UInt64(choices.byte()))
            return .appendReply(
                AppendReply(
                    ticket: ticket, term: term, success: choices.flag(),
                    lastIndex: choices.flag() ? LogIndex(choices.anyNumber()) : nil,
                    lastTerm: choices.flag() ? Term(choices.anyNumber()) : nil,
                    support: choices.flag() ? anyStamp(&choices) : nil))
        case 6: return .timeoutNowRequest(TimeoutNowRequest(term: term, oldLeaderSteppedDown: choices.flag()))
        case 7: return .timeoutNowReply(TimeoutNowReply(term: term, success: choices.flag()))
        case 8: return .releaseRequest(ReleaseRequest(term: term))
        case 9: return .readIndexRequest(ReadIndexRequest(term: term, sequence: UInt64(choices.byte())))
        case 10:
            return .readIndexReply(
                ReadIndexReply(
                    sequence: UInt64(choices.byte()), index: choices.flag() ? LogIndex(choices.anyNumber()) : nil))
        case 11: return .releaseReply(ReleaseReply(term: term))
        case 12: return .snapshotReply(SnapshotReply(term: term, success: choices.flag()))
        default:
            let meta = SnapshotMeta(last: anyPosition(&choices), configuration: anyMembership(&choices))
            return .snapshotRequest(SnapshotRequest(term: term, meta: meta))
        }
    }

    private func anyStamp(_ choices: inout Choices) -> SupportStamp {
        SupportStamp(
            epoch: UInt64(choices.number(below: 4)), supporterRun: UInt64(choices.number(below: 3)),
            askerRun: UInt64(choices.number(below: 3)))
    }

    private func anyAppend(_ term: Term, _ choices: inout Choices) -> AppendRequest {
        let previous = anyPosition(&choices)
        var request = AppendRequest(term: term, previous: previous, commit: LogIndex(choices.anyNumber()))
        for offset in 0..<choices.number(below: 5) {
            let kind = EntryKind(rawValue: UInt8(choices.number(below: 3) + 1)) ?? .data
            request.entries.append(EntryHeader(term: Term(choices.anyNumber()), kind: kind))
            guard kind == .configuration else { continue }
            request.configurations.append(
                PlacedConfiguration(
                    index: LogIndex(previous.index.rawValue &+ Int64(offset + 1)),
                    configuration: anyMembership(&choices)))
        }
        return request
    }

    // MARK: the host's part

    private mutating func step(_ node: Int, _ event: Event, answering packet: Packet? = nil) {
        let before = (nodes[node].raft.term, nodes[node].raft.commitIndex)
        var effects = Effects()
        nodes[node].raft.step(event, now: now, liveness: nodes[node].liveness, into: &effects)
        precondition(nodes[node].raft.term >= before.0 && nodes[node].raft.commitIndex >= before.1, "it went back")
        if let install = effects.install {
            if install.keepsSuffix {
                let dropped = nodes[node].base.distance(to: install.meta.last.index)
                nodes[node].headers.removeFirst(min(max(0, dropped), nodes[node].headers.count))
            } else {
                nodes[node].headers = []
            }
            nodes[node].base = install.meta.last.index
            nodes[node].applied = install.meta.last.index
        }
        if let change = effects.logChange { write(change, node, event) }
        if let index = effects.applicable {
            precondition(index > nodes[node].applied && index <= nodes[node].raft.commitIndex)
            nodes[node].applied = index
        }
        if effects.logChange != nil || effects.install != nil || effects.hardState != nil {
            nodes[node].marks = [nodes[node].raft.durableMark]
        }
        if let meta = effects.snapshotWanted { nodes[node].wanted = meta }
        for outbound in effects.messages + effects.durableMessages { send(outbound, from: node) }
        for (asker, reply) in effects.readIndexReplies {
            guard let to = nodes.firstIndex(where: { $0.raft.id == asker }) else { continue }
            add(Packet(to: to, from: node, message: .readIndexReply(reply)))
        }
        guard let packet else { return }
        for reply in [effects.reply, effects.acknowledgement] {
            guard var reply else { continue }
            if case .appendReply(var answer) = reply, let ticket = packet.ticket {
                answer.ticket = ticket
                reply = .appendReply(answer)
            }
            add(Packet(to: packet.from, from: node, message: reply))
        }
    }

    private mutating func write(_ change: LogChange, _ node: Int, _ event: Event) {
        if let index = change.truncateFrom {
            let kept = nodes[node].base.distance(to: index) - 1
            precondition((0...nodes[node].headers.count).contains(kept), "cuts what is not there")
            nodes[node].headers.removeLast(nodes[node].headers.count - kept)
            nodes[node].memberships.removeAll { $0.index >= index }
        }
        precondition(
            change.first == nodes[node].base.advanced(by: nodes[node].headers.count + 1), "a hole in the log")
        switch change.source {
        case .message(let offset):
            guard case .received(.appendRequest(let request), _, _, _) = event else {
                preconditionFailure("entries of no message")
            }
            nodes[node].headers += request.entries[offset..<offset + change.count]
            nodes[node].memberships += request.configurations.filter { $0.index >= change.first }
        case .proposal:
            let header = EntryHeader(term: change.term, kind: .data)
            nodes[node].headers += Array(repeating: header, count: change.count)
        case .configuration(let configuration):
            nodes[node].headers.append(EntryHeader(term: change.term, kind: .configuration))
            nodes[node].memberships.append(
                PlacedConfiguration(index: change.first, configuration: configuration))
        }
    }

    private mutating func send(_ outbound: Outbound, from node: Int) {
        guard let to = nodes.firstIndex(where: { $0.raft.id == outbound.to }) else { return }
        switch outbound.body {
        case .vote(let request): add(Packet(to: to, from: node, message: .voteRequest(request)))
        case .timeoutNow(let request): add(Packet(to: to, from: node, message: .timeoutNowRequest(request)))
        case .release(let request): add(Packet(to: to, from: node, message: .releaseRequest(request)))
        case .readIndex(let request): add(Packet(to: to, from: node, message: .readIndexRequest(request)))
        case .snapshot(let term):
            let applied = nodes[node].applied
            guard applied > .zero, let last = nodes[node].raft.term(at: applied) else { return }
            let meta = SnapshotMeta(
                last: LogPosition(term: last, index: applied), configuration: nodes[node].raft.configuration)
            add(Packet(to: to, from: node, message: .snapshotRequest(SnapshotRequest(term: term, meta: meta))))
        case .append(let ticket, let previousTerm, let commit):
            let start = nodes[node].base.distance(to: ticket.previous)
            precondition(start >= 0 && start + ticket.count <= nodes[node].headers.count, "sends what is not there")
            let end = ticket.previous.advanced(by: ticket.count)
            let request = AppendRequest(
                term: ticket.term, previous: LogPosition(term: previousTerm, index: ticket.previous),
                entries: Array(nodes[node].headers[start..<start + ticket.count]),
                configurations: nodes[node].memberships.filter { $0.index > ticket.previous && $0.index <= end },
                commit: commit)
            add(Packet(to: to, from: node, message: .appendRequest(request), ticket: ticket))
        }
    }

    private mutating func add(_ packet: Packet) {
        if packets.count == 64 { packets.removeFirst() }
        packets.append(packet)
    }
}

/// One node's liveness under whatever other nodes say; whoever obeys its deadlines is not called without end.
func fuzzLiveness(_ input: Bytes) {
    var choices = Choices(input)
    var now = Instant(nanoseconds: 0)
    var liveness = NodeLiveness(
        node: coreMembers[0].address, runNumber: 3, settings: NodeLiveness.Settings(), startedAt: now)
    var effects = NodeLiveness.Effects()
    let others = coreMembers.dropFirst().map(\.address)
    liveness.step(.track(others), now: now, into: &effects)
    for _ in 0..<400 where !choices.isAtEnd {
        effects.removeAll()
        let node = coreMembers[choices.number(below: 3)].address
        let event: NodeLiveness.Event =
            switch choices.number(below: 8) {
            case 0, 1: .deadlineReached
            case 2:
                .received(
                    NodeLiveness.Request(
                        runNumber: UInt64(bitPattern: choices.anyNumber()),
                        sequence: UInt64(bitPattern: choices.anyNumber()), asks: choices.flag()),
                    from: node, wallClock: choices.anyNumber())
            case 3, 4:
                .answered(
                    NodeLiveness.Reply(
                        sequence: UInt64(bitPattern: choices.anyNumber()), granted: choices.flag(),
                        epoch: UInt64(bitPattern: choices.anyNumber()),
                        runNumber: UInt64(bitPattern: choices.anyNumber()),
                        wallClockMilliseconds: choices.anyNumber(),
                        promise: choices.flag() ? Interval(nanoseconds: choices.anyNumber()) : nil), from: node)
            case 5: choices.flag() ? .failed(node) : .foreign(node)
            case 6: .vitalsConfirmed(startedAt: now)
            default: .track(choices.flag() ? others : [])
            }
        if case .deadlineReached = event, let deadline = liveness.deadline { now = max(now, deadline) }
        if choices.number(below: 4) == 3 { now = now + .milliseconds(Int(choices.byte()) * 10) }
        liveness.step(event, now: now, into: &effects)
        precondition(liveness.deadline.map { $0 > now } ?? true, "a deadline that has passed")
    }
}

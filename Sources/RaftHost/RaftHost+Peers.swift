import CMessages
public import RaftCore
import RaftStorage
public import Transport
import WireMessages

extension RaftHost {
    static let raftService = "braft.RaftService"
    static let livenessService = "flotilla.LivenessService"
    static let groupService = "flotilla.GroupService"
    static let nodeService = "flotilla.NodeService"
    private static let bareUnderWayMax = 4

    func makeLink(to node: NodeAddress) {
        let link = PeerLink(
            address: node, data: RpcChannel(address: node, network: network, clock: lane.clock),
            liveness: RpcChannel(address: node, network: network, clock: lane.clock), silentSince: now)
        link.data.greeting = { [self, weak link] channel, done in
            introduce(on: channel, to: node) { kind in
                link?.kind = kind
                // it is never asked for support, so that nothing else would end its silence
                if kind == .foreign { link?.silentSince = nil }
                // another process than the one at the other end of that
                if let kind, let other = link?.livenessKind, other != kind {
                    link?.liveness.reset(reason: "the node is another one")
                }
                done(kind != nil)
            }
        }
        // to a foreign node it carries nothing but that question
        link.liveness.greeting = { [self, weak link] channel, done in
            introduce(on: channel, to: node) { kind in
                link?.livenessKind = kind
                if let kind, let other = link?.kind, other != kind {
                    link?.data.reset(reason: "the node is another one")
                }
                done(kind != nil)
            }
        }
        link.data.onStateChange = { [self, weak link] isConnected in
            if isConnected {
                tellReplicas(of: node)
                hastenGuests(of: node)
            } else {
                link?.kind = nil
                let concerned = replicasByNode[node] ?? []
                if !concerned.isEmpty { news.append(News(event: .connectionLost(node), replicas: concerned)) }
            }
            lane.requestTurn()
        }
        link.liveness.onStateChange = { [self, weak link] isConnected in
            guard !isConnected else { return }
            link?.livenessKind = nil
            livenessInbox.append(.failed(node))
            lane.requestTurn()
        }
        linkByNode[node] = link
        links.append(link)
    }

    /// Connections that are open and bring nothing: every call on them would wait for ever and take memory, and what
    /// was lost on the way is sent again ever more seldom. They are opened anew when the node comes back.
    func resetIfHung(_ link: PeerLink) {
        if link.kind == .foreign {
            // it promises nothing, but it answers heartbeats
            guard link.data.pendingCalls > 0 else { return link.silentSince = nil }
            let since = link.silentSince ?? now
            link.silentSince = since
            guard since + settings.raft.electionTimeout + settings.raft.electionTimeout < now else { return }
            link.silentSince = now
            return link.data.reset(reason: "the node is silent")
        }
        guard let since = link.silentSince, settings.liveness.promise.nanoseconds * 3 < (now - since).nanoseconds
        else { return }
        link.silentSince = now
        if link.data.pendingCalls > 0 { link.data.reset(reason: "the node is silent") }
        link.liveness.reset(reason: "the node is silent")
    }

    // MARK: sending

    func send(_ message: Outbound, from replica: Replica) {
        // a node that the membership has just lost
        guard !replica.isRemoved, let link = linkByNode[message.to.address] else { return }
        guard replica.isGuest || nodesElsewhere.isEmpty || !nodesElsewhere.contains(message.to.address) else { return }
        let peer = message.to
        switch message.body {
        case .append(let ticket, let previousTerm, let commit):
            let order = AppendOrder(ticket: ticket, previousTerm: previousTerm, commit: commit)
            let outlet = outlet(of: replica, to: peer, link)
            // heartbeats go beside entries: a slow disk there must not look like a dead leader here
            if link.kind == .foreign, ticket.count == 0 { return sendBare(order, on: outlet, link) }
            link.enqueue(order, on: outlet)
        case .vote(let request):
            // who cannot be reached would not answer, and there may be a thousand groups that do not ask it
            guard liveness.isReachable(peer.address) else { return }
            wire.arena.scope { arena in
                let body = wire.voteRequest(request, group: replica.group, from: replica.id, to: peer, arena: arena)
                link.data.call(
                    service: RaftHost.raftService, method: request.isPreVote ? "pre_vote" : "request_vote",
                    message: body,
                    attachment: [], deadline: now + settings.raft.electionTimeout
                ) { [self] result in
                    guard case .reply(let reply) = result, let answer = wire.decodeVoteReply(reply.body, to: request)
                    else {
                        return
                    }
                    receive(.received(.voteReply(answer), from: peer), replica)
                }
            }
        case .timeoutNow(let request):
            wire.arena.scope { arena in
                let body = wire.timeoutNowRequest(
                    request, group: replica.group, from: replica.id, to: peer, arena: arena)
                link.data.call(
                    service: RaftHost.raftService, method: "timeout_now", message: body, attachment: [],
                    deadline: now + settings.raft.electionTimeout
                ) { [self] result in
                    guard case .reply(let reply) = result, let answer = wire.decodeTimeoutNowReply(reply.body) else {
                        return
                    }
                    receive(.received(.timeoutNowReply(answer), from: peer), replica)
                }
            }
        case .release(let request):
            guard link.kind != .foreign else { return }
            wire.arena.scope { arena in
                let body = wire.releaseRequest(request, group: replica.group, from: replica.id, to: peer, arena: arena)
                link.data.call(
                    service: RaftHost.groupService, method: "release", message: body, attachment: [],
                    deadline: now + settings.raft.retryInterval
                ) { [self] result in
                    // a lost one is repeated
                    guard case .reply(let reply) = result, let answer = wire.decodeReleaseReply(reply.body) else {
                        return
                    }
                    receive(.received(.releaseReply(answer), from: peer), replica)
                }
            }
        case .readIndex(let request):
            guard link.kind != .foreign else { return receive(.readIndexFailed(request), replica) }
            wire.arena.scope { arena in
                let body = wire.readIndexRequest(
                    request, group: replica.group, from: replica.id, to: peer, arena: arena)
                link.data.call(
                    service: RaftHost.groupService, method: "read_index", message: body, attachment: [],
                    deadline: now + settings.raft.retryInterval
                ) { [self] result in
                    if case .reply(let reply) = result,
                        let answer = wire.decodeReadIndexReply(reply.body, to: request)
                    {
                        receive(.received(.readIndexReply(answer), from: peer), replica)
                    } else {
                        receive(.readIndexFailed(request), replica)
                    }
                }
            }
        case .snapshot: sendSnapshot(to: peer, of: replica)
        }
    }

    /// Of appends without entries a few are under way to a foreign node; the latest one waits, for it asks for no less.
    private func sendBare(_ order: AppendOrder, on outlet: Outlet, _ link: PeerLink) {
        guard outlet.bareUnderWay < RaftHost.bareUnderWayMax else { return outlet.waitingBare = order }
        call(order, entries: [], on: outlet, link)
    }

    private func receive(_ event: Event, _ replica: Replica) {
        inbox.append((replica, event))
        lane.requestTurn()
    }

    private func outlet(of replica: Replica, to peer: PeerID, _ link: PeerLink) -> Outlet {
        if let outlet = replica.outlets.first(where: { $0.peer == peer }) { return outlet }
        let outlet = Outlet(replica: replica, peer: peer, link: link)
        replica.outlets.append(outlet)
        return outlet
    }

    /// Turns waiting orders into frames, replica by replica, while the connection has room.
    func pump(_ link: PeerLink) {
        while link.data.unsentBytes < settings.linkBytes, let outlet = link.ready.popFirst() {
            outlet.isReady = false
            while !outlet.isAwaiting, link.data.unsentBytes < settings.linkBytes, let order = outlet.orders.popFirst() {
                guard sendFirstFrame(of: order, on: outlet, link) else { break }
            }
            if !outlet.orders.isEmpty, !outlet.isAwaiting { link.makeReady(outlet) }
        }
    }

    /// Sends as much of `order` as one frame takes and puts the rest back. False: the entries must be read first.
    private func sendFirstFrame(of order: AppendOrder, on outlet: Outlet, _ link: PeerLink) -> Bool {
        let replica = outlet.replica
        // what was ordered in another term, or for a tail that is gone, has no receiver any more
        guard replica.raft.isLeader, replica.raft.term == order.ticket.term else { return true }
        guard order.ticket.count > 0 else {
            call(order, entries: [], on: outlet, link)
            return true
        }
        let from = order.ticket.previous.next
        let entries: ArraySlice<LogEntry>
        if let held = replica.tail.slice(from: from, count: order.ticket.count), !held.isEmpty {
            entries = held
        } else if let first = outlet.loaded.first, first.position.index <= from,
            let last = outlet.loaded.last, last.position.index >= from
        {
            let start = first.position.index.distance(to: from)
            entries = outlet.loaded[start..<min(start + order.ticket.count, outlet.loaded.count)]
        } else {
            load(from, order.ticket.count, for: outlet, link)
            outlet.orders.prepend(order)
            return false
        }
        var bytes = 0
        var count = 0
        for entry in entries {
            if count > 0, bytes + entry.payload.count > settings.frameBytes { break }
            bytes += entry.payload.count
            count += 1
        }
        let part = entries.prefix(count)
        var frame = order
        frame.ticket.count = count
        call(frame, entries: part, on: outlet, link)
        if count < order.ticket.count, let last = part.last {
            var rest = order
            rest.ticket.previous = last.position.index
            rest.ticket.count -= count
            rest.previousTerm = last.position.term
            outlet.orders.prepend(rest)
        } else if let last = outlet.loaded.last, last.position.index <= order.ticket.previous.advanced(by: count) {
            outlet.loaded = []
        }
        return true
    }

    private func call(_ order: AppendOrder, entries: ArraySlice<LogEntry>, on outlet: Outlet, _ link: PeerLink) {
        let replica = outlet.replica
        let peer = outlet.peer
        let ticket = order.ticket
        let hasState = !replica.raft.isWitness(peer)
        let waits = link.kind == .foreign && ticket.count > 0
        let isBare = link.kind == .foreign && ticket.count == 0
        if waits { outlet.isAwaiting = true }
        if isBare { outlet.bareUnderWay += 1 }
        wire.arena.scope { arena in
            let body = wire.appendRequest(
                group: replica.group, from: replica.id, to: peer, term: ticket.term,
                previous: LogPosition(term: order.previousTerm, index: ticket.previous), entries: entries,
                withPayloads: hasState, commit: order.commit, arena: arena)
            link.data.call(
                service: RaftHost.raftService, method: "append_entries", message: body,
                attachment: hasState ? entries.compactMap { $0.payload.isEmpty ? nil : $0.payload } : [],
                deadline: nil
            ) { [self] result in
                if waits { noteAnswer(result, of: outlet, link) }
                if isBare { outlet.bareUnderWay -= 1 }
                if link.kind == .foreign, case .reply = result { link.silentSince = nil }
                if isBare, let next = outlet.waitingBare {
                    outlet.waitingBare = nil
                    // only while it is the same leadership that asks
                    if link.kind == .foreign, replica.raft.isLeader, replica.raft.term == next.ticket.term {
                        call(next, entries: [], on: outlet, link)
                    }
                }
                switch result {
                case .reply(let reply):
                    if let answer = wire.decodeAppendReply(reply.body, to: ticket) {
                        if waits, !answer.success { outlet.clear() }
                        receive(.received(.appendReply(answer), from: peer), replica)
                    } else {
                        receive(.appendFailed(ticket, peer: peer), replica)
                    }
                case .failed(let error):
                    logger.log(
                        .debug, "append failed",
                        [("group", replica.group), ("peer", peer.description), ("problem", error.text)])
                    let isBusy = error.code == RaftHost.busy || error.code == RaftHost.superseded
                    receive(.appendFailed(ticket, peer: peer, isBusy: isBusy), replica)
                }
            }
        }
    }

    /// A foreign node has the entries, or refuses them: then it gets none of those that wait behind.
    private func noteAnswer(_ result: RpcResult, of outlet: Outlet, _ link: PeerLink) {
        outlet.isAwaiting = false
        if case .failed = result { outlet.clear() }
        link.makeReady(outlet)
    }

    /// Reads entries that are no longer in memory; the outlet waits.
    private func load(_ from: LogIndex, _ count: Int, for outlet: Outlet, _ link: PeerLink) {
        outlet.isLoading = true
        let log = self.log
        let replica = outlet.replica
        let number = replica.record.number
        let result = Box<Result<[LogEntry], StorageError>>(.success([]))
        let term = replica.raft.term
        let bytes = settings.frameBytes * 4
        workers.reader.submit {
            do throws(StorageError) {
                result.value = .success(try log.entries(of: number, from: from, count: count, maxBytes: bytes))
            } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            outlet.isLoading = false
            guard !replica.isRemoved else { return }
            switch result.value {
            case .success(let entries):
                // entries read under another term may have been replaced since
                if replica.raft.term != term {
                    outlet.loaded = []
                } else if entries.isEmpty {
                    outlet.clear()
                } else {
                    outlet.loaded = entries
                }
            case .failure(let error):
                outlet.clear()
                repairLog(of: replica, from: from, error.description)
            }
            link.makeReady(outlet)
            lane.requestTurn()
        }
    }

    // MARK: liveness

    func sendSupportRequest(_ request: NodeLiveness.Request, to node: NodeAddress) {
        guard let link = linkByNode[node] else { return }
        wire.arena.scope { arena in
            let message = arena.make(flotilla__support_request__init)
            message.pointee.from = arena.string(identity.address.description)
            message.pointee.run_number = request.runNumber
            message.pointee.sequence = request.sequence
            message.pointee.asks = request.asks ? 1 : 0
            link.liveness.call(
                service: RaftHost.livenessService, method: "support", message: message, attachment: [],
                deadline: now + settings.liveness.promise
            ) { [self] result in
                if case .reply(let reply) = result, let answer = decodeSupportReply(reply.body) {
                    livenessInbox.append(.answered(answer, from: node))
                } else {
                    livenessInbox.append(.failed(node))
                }
                lane.requestTurn()
            }
        }
    }

    private func decodeSupportReply(_ body: Bytes) -> NodeLiveness.Reply? {
        wire.arena.scope { arena in
            arena.unpack(flotilla__support_reply__init, body).map { message in
                NodeLiveness.Reply(
                    sequence: message.pointee.sequence, granted: message.pointee.granted != 0,
                    epoch: message.pointee.epoch, runNumber: message.pointee.run_number,
                    wallClockMilliseconds: message.pointee.wall_clock_ms,
                    promise: message.pointee.has_promise_ms == 0
                        ? nil : .milliseconds(Int(min(message.pointee.promise_ms, 1 << 32))))
            }
        }
    }
}

extension RaftHost {
    /// A connection to another node that opens with our hello, for services of nodes among themselves. The owner calls
    /// its `expire` once a turn.
    public func makeChannel(to node: NodeAddress) -> RpcChannel {
        let channel = RpcChannel(address: node, network: network, clock: lane.clock)
        channel.greeting = { [self] channel, done in
            sayHello(on: channel, to: node) { done($0 == .welcome) }
        }
        return channel
    }

    /// A connection to a node that shares no cluster with this one yet: without hello.
    public func makeStrangerChannel(to node: NodeAddress) -> RpcChannel {
        RpcChannel(address: node, network: network, clock: lane.clock)
    }

    /// Whether the other side of `connection` is a node of this cluster that said who it is, and no later run of that
    /// node has done so since.
    public func isKnownPeer(_ connection: any Connection) -> Bool {
        (connection.context as? KnownPeer)?.isPresent == true
    }
}

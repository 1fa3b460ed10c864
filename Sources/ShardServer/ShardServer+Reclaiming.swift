import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// A member that runs another program may come to lead a group of keys, which it cannot serve. Then the keys answer
// NOT_SERVED, and one of the members that could serve asks it, by braft's own service, to hand over.

/// Groups that are to be had back.
struct Reclaiming {
    /// Led by a foreign member, as far as this node knows, in the order in which that was heard.
    var groups: [Group] = []
    /// Connections to those leaders; a braft is told no hello.
    var channels: [NodeAddress: RpcChannel] = [:]
    var channelOrder: [NodeAddress] = []

    struct Group {
        var name: String
        /// When to ask next.
        var due: Instant
        /// A question is under way.
        var isAsking = false
    }
}

extension ShardServer {
    /// From one question to the next.
    private static let reclaimPace = Interval.milliseconds(1000)
    /// Each further member waits so much longer, for the one before it may have got it.
    private static let reclaimStep = Interval.milliseconds(2000)
    private static let reclaimTimeout = Interval.milliseconds(2000)

    /// What the group's members say of who leads, if it is not this node.
    func notLeading(_ leader: PeerID?) -> ExecuteReply {
        guard let leader, host.liveness.isForeign(leader.address) else {
            return ExecuteReply(error: .notLeader, leader: leader?.address)
        }
        return ExecuteReply(
            error: .notServed,
            message: "\(leader), which serves no keys, leads the group; it is asked "
                + "to hand over")
    }

    /// A member that runs another program leads `group`.
    func foreignLeads(_ group: String) {
        guard machines[group] != nil, !reclaiming.groups.contains(where: { $0.name == group }),
            let raft = host.raft(of: group), let rank = reclaimRank(raft)
        else { return }
        logger.log(
            .warning, "a member that serves no keys leads the group",
            [("group", group), ("leader", raft.leader?.description ?? "none"), ("term", raft.term.description)])
        // a moment for it to find that it leads
        let wait = ShardServer.reclaimPace.nanoseconds / 4 + ShardServer.reclaimStep.nanoseconds * Int64(rank)
        reclaiming.groups.append(
            Reclaiming.Group(name: group, due: lane.clock.now + Interval(nanoseconds: wait)))
        lane.requestTurn()
    }

    /// How many members would rather lead than this one; nil: it must not.
    private func reclaimRank(_ raft: Raft) -> Int? {
        let able = raft.configuration.voters.filter {
            !raft.configuration.isWitness($0) && !host.liveness.isForeign($0.address)
                && host.liveness.isReachable($0.address)
        }
        return able.sorted().firstIndex(of: raft.id)
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func reclaimTurn(_ now: Instant) -> Instant? {
        guard !reclaiming.groups.isEmpty || !reclaiming.channelOrder.isEmpty else { return nil }
        reclaiming.groups.removeAll { !isLedByForeign($0.name) }
        var next: Instant?
        for position in reclaiming.groups.indices where !reclaiming.groups[position].isAsking {
            if reclaiming.groups[position].due <= now { reclaim(position) }
            let due = reclaiming.groups[position].due
            next = min(next ?? due, due)
        }
        if reclaiming.groups.isEmpty {
            for node in reclaiming.channelOrder { reclaiming.channels[node]?.close() }
            (reclaiming.channels, reclaiming.channelOrder) = ([:], [])
        }
        for node in reclaiming.channelOrder {
            if let due = reclaiming.channels[node]?.expire(now: now) { next = min(next ?? due, due) }
        }
        return next
    }

    private func isLedByForeign(_ group: String) -> Bool {
        guard let leader = host.raft(of: group)?.leader else { return false }
        return host.liveness.isForeign(leader.address)
    }

    private func reclaim(_ position: Int) {
        let name = reclaiming.groups[position].name
        reclaiming.groups[position].due = lane.clock.now + ShardServer.reclaimPace
        guard let raft = host.raft(of: name), let leader = raft.leader, host.status(of: name)?.problem == nil else {
            return
        }
        reclaiming.groups[position].isAsking = true
        let body = arena.scope { arena in
            let message = arena.make(braft__transfer_leader_request__init)
            message.pointee.group_id = arena.string(name)
            message.pointee.leader_id = arena.string(leader.description)
            message.pointee.peer_id = arena.string(raft.id.description)
            return arena.pack(message)
        }
        reclaimChannel(to: leader.address).call(
            service: "braft.CliService", method: "transfer_leader", body: body,
            deadline: lane.clock.now + ShardServer.reclaimTimeout
        ) { [self] result in
            if let position = reclaiming.groups.firstIndex(where: { $0.name == name }) {
                reclaiming.groups[position].isAsking = false
            }
            switch result {
            case .reply:
                logger.log(
                    .info, "leadership was asked back", [("group", name), ("leader", leader.description)])
            case .failed(let error):
                complain(
                    "leadership was not given back", about: name,
                    [("group", name), ("leader", leader.description), ("problem", error.text)])
            }
            lane.requestTurn()
        }
    }

    private func reclaimChannel(to node: NodeAddress) -> RpcChannel {
        if let channel = reclaiming.channels[node] { return channel }
        let channel = host.makeStrangerChannel(to: node)
        reclaiming.channels[node] = channel
        reclaiming.channelOrder.append(node)
        return channel
    }
}

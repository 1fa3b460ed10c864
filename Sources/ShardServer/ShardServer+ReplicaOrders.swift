import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// What an operator asks of one replica, whoever leads its group: to save its state, or to have other members by force.

extension ShardServer {
    /// Answers `save_replica`, when it is done.
    func answerSaveReplica(_ request: RpcRequest) {
        let group = arena.scope { arena in
            arena.unpack(flotilla__save_replica_request__init, request.body).map { String(field: $0.pointee.group) }
        }
        guard let group else { return request.responder.fail(RpcCode.badRequest, "malformed order") }
        host.save(group) { [self] outcome in
            arena.scope { arena in
                let reply = arena.make(flotilla__save_replica_reply__init)
                switch outcome {
                case .saved(let state):
                    reply.pointee.error = 0
                    (reply.pointee.has_index, reply.pointee.index) = (1, state.index.rawValue)
                    (reply.pointee.has_first_index, reply.pointee.first_index) = (1, state.firstIndex.rawValue)
                case .failed(_, let problem):
                    reply.pointee.error = (host.holds(group) ? NamedError.refused : .noSuchGroup).rawValue
                    reply.pointee.message = arena.string(problem)
                }
                request.responder.reply(reply)
            }
        }
    }

    // MARK: force

    /// Answers `reset_replica`.
    func answerResetReplica(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (group: String, from: [PeerID], to: [PeerID])? in
            guard let message = arena.unpack(flotilla__reset_replica_request__init, request.body)?.pointee,
                let from = PeerID.decoded(message.from, count: message.n_from),
                let to = PeerID.decoded(message.to, count: message.n_to)
            else { return nil }
            return (String(field: message.group), from, to)
        }
        guard let (group, from, to) = parsed else {
            return request.responder.fail(RpcCode.badRequest, "malformed order")
        }
        resetReplica(of: group, from: from, to: to) { [self] answer in
            arena.scope { arena in
                let reply = arena.make(flotilla__reset_replica_reply__init)
                reply.pointee.error = answer.error?.rawValue ?? 0
                if let text = answer.message ?? answer.error?.sentence { reply.pointee.message = arena.string(text) }
                reply.pointee.n_peers = answer.peers.count
                reply.pointee.peers = arena.strings(answer.peers.map(\.description))
                request.responder.reply(reply)
            }
        }
    }

    /// Puts the members `to`, some of those in `from`, in force on this node's replica of `group`, without asking
    /// anybody. Done before counts as done.
    func resetReplica(of group: String, from: [PeerID], to: [PeerID], _ done: @escaping (PeersAnswer) -> Void) {
        guard let raft = host.raft(of: group), !host.isGuest(group) else {
            let error: NamedError = host.holds(group) ? .damaged : .noSuchGroup
            return done(PeersAnswer(error: error, message: nil))
        }
        let present = raft.configuration
        // in the roles that they have: a witness cannot become a replica by force
        let target = Configuration(peers: to.compactMap { peer in present.members.first { $0 == peer } })
        if present == target { return done(PeersAnswer(peers: present.listed)) }
        guard present.members == Configuration(peers: from).members else {
            let text = "the members of \(group) are \(present) here, not those that the reset was planned for"
            return done(PeersAnswer(error: .conflict, message: text, peers: present.listed))
        }
        guard target.members == Configuration(peers: to).members, target.peers.contains(raft.id) else {
            let text = "only members can be left, and \(raft.id), which is to begin alone, must be one that votes"
            return done(PeersAnswer(error: .refused, message: text, peers: present.listed))
        }
        logger.log(
            .warning, "members are reset by force",
            [("group", group), ("from", present.description), ("to", target.description)])
        host.resetMembership(of: group, to: target) { [self] outcome in
            if case .done = outcome { return done(PeersAnswer(peers: target.listed)) }
            let (error, text) = obstacle(toResetOf: group)
            done(PeersAnswer(error: error, message: text, peers: present.listed))
        }
    }

    private func obstacle(toResetOf group: String) -> (NamedError, String) {
        if let status = host.status(of: group), status.appliedIndex > status.lastIndex {
            return (.refused, "the state here is ahead of a log that was cut; restart this node first")
        }
        // whoever has lost its majority knows that when the promises to its leader are over
        let verb = group == ClusterMap.controllerGroup ? "controller change-peers" : "group change-peers \(group)"
        return (
            .busy,
            "\(group) is led, or was a moment ago: a reset is for a group that has lost its majority for good; otherwise "
                + "change its members in order: raftctl \(verb)"
        )
    }

    // MARK: the map

    /// How long a member that would leave is waited for: it may be down for good, which is what resets are for.
    private static let leavingPatience = Interval.milliseconds(2000)

    /// As the controller's leader, on an operator's word: has the map follow a forced reset, after the group's leader has
    /// said that these are its members, committed, and no change of them is under way; and no member that would leave
    /// says that another one leads, for then the others have not lost their majority. `done` gets what is to be proposed,
    /// or why nothing is.
    func confirmReset(
        of group: String, to peers: [PeerID], _ done: @escaping (Result<ControllerCommand, OrderRefusal>) -> Void
    ) {
        guard group != ClusterMap.controllerGroup else {
            let text = "the controller records a reset of its own by itself"
            return done(.failure(OrderRefusal(.refused, text)))
        }
        guard let map = controller?.map else {
            return done(.failure(OrderRefusal(.notInitialized, NamedError.notInitialized.sentence)))
        }
        let nodes = peers.filter { map.node(at: $0.address) != nil }
        askMembers(nodes[...], of: group, peers, map.version) { [self] answer, leader in
            switch answer {
            case .done:
                let known = map.group(group).map { $0.peers + $0.joining } ?? []
                let leaving = known.filter { !peers.contains($0) && map.node(at: $0.address) != nil }
                askLeaving(leaving, of: group, besides: leader) { [self] rival in
                    if let rival { return done(.failure(OrderRefusal(.busy, rival))) }
                    // of the map that was there before the questions: what has begun since is not overlooked
                    done(
                        .success(
                            .resetMembers(
                                group: group, peers: peers, expectedVersion: map.version,
                                wallClock: lane.clock.wallClockMilliseconds)))
                }
            case .refused(let error, let text):
                done(.failure(OrderRefusal(error, "\(group): \(text ?? error.sentence)")))
            case .underWay, .notLeader, .failed, .moveStatus:
                let text = "none of the members named says that it leads \(group) with these members, committed"
                done(.failure(OrderRefusal(.busy, text)))
            }
        }
    }

    /// Asks one after the other whether `peers` are the members, which is a change of members that changes nothing. `done`
    /// also gets who answered.
    private func askMembers(
        _ rest: ArraySlice<PeerID>, of group: String, _ peers: [PeerID], _ version: UInt64,
        refusal: GroupAnswer? = nil, _ done: @escaping (GroupAnswer, PeerID?) -> Void
    ) {
        guard let next = rest.first else { return done(refusal ?? .failed("nobody leads it"), nil) }
        let question = GroupQuestion.changePeers(operation: 0, from: peers, to: peers, mapVersion: version)
        ask(question, of: group, hops: 0, at: next.address) { [self] answer in
            switch answer {
            case .failed, .notLeader:
                askMembers(rest.dropFirst(), of: group, peers, version, refusal: refusal, done)
            // one that led before the reset may not know yet that it is over
            case .refused: askMembers(rest.dropFirst(), of: group, peers, version, refusal: answer, done)
            case .done, .underWay, .moveStatus: done(answer, next)
            }
        }
    }

    /// Asks the members that would leave, all at once, who leads; `done` gets what speaks against it that they do: one of
    /// them knows another leader than `leader`. Who does not answer says nothing.
    private func askLeaving(
        _ leaving: [PeerID], of group: String, besides leader: PeerID?, _ done: @escaping (String?) -> Void
    ) {
        guard !leaving.isEmpty else { return done(nil) }
        var left = leaving.count
        var rival: String?
        for member in leaving {
            askLeader(of: group, at: member) { known in
                if let known, known.address != leader?.address {
                    rival = "\(member), which would leave \(group), is led by \(known): its members have a majority"
                }
                left -= 1
                if left == 0 { done(rival) }
            }
        }
    }

    /// Whom `member` takes for the leader; nil if for nobody, or if it does not answer.
    private func askLeader(of group: String, at member: PeerID, _ done: @escaping (PeerID?) -> Void) {
        guard member.address != address else { return done(host.raft(of: group)?.leader) }
        let body = arena.scope { arena in
            let message = arena.make(braft__get_leader_request__init)
            message.pointee.group_id = arena.string(group)
            message.pointee.peer_id = arena.string(member.description)
            return arena.pack(message)
        }
        channel(to: member.address).call(
            service: "braft.CliService", method: "get_leader", body: body, attachment: [],
            deadline: lane.clock.now + ShardServer.leavingPatience
        ) { [self] result in
            lane.requestTurn()
            guard case .reply(let reply) = result else { return done(nil) }
            done(
                arena.scope { arena in
                    arena.unpack(braft__get_leader_response__init, reply.body).flatMap {
                        PeerID(String(field: $0.pointee.leader_id))
                    }
                })
        }
    }

    /// As the controller's leader: has the map follow a forced reset of the controller itself, which nobody could record
    /// when it happened. Members that are committed and in the map, and neither those there were nor those that are to
    /// be, come from a reset.
    func followControllerReset(_ now: Instant) {
        let name = ClusterMap.controllerGroup
        guard !isFollowingReset, nextResetLook <= now, let raft = host.raft(of: name), raft.isLeader else { return }
        nextResetLook = now + settings.pace
        guard raft.hasCommittedConfiguration, !raft.isChangingMembership, let record = controller?.mapAndOperations,
            let group = record.map.group(name), let status = host.status(of: name),
            status.appliedIndex == status.commitIndex
        else { return }
        let members = raft.configuration.listed
        guard group.wasReset(to: members, record.operations) else { return }
        isFollowingReset = true
        logger.log(.warning, "the map follows a reset of the controller", [("members", raft.configuration.description)])
        let command = ControllerCommand.resetMembers(
            group: name, peers: members, expectedVersion: record.map.version,
            wallClock: lane.clock.wallClockMilliseconds)
        propose(command) { [self] _ in isFollowingReset = false }
    }

    /// Resets that are being recorded at a time.
    private static let resetsAtOnce = 16

    /// As the controller's leader: has the map follow forced resets of other groups. What tells of them is what is there
    /// anyway, the members that a group's leader has and those that the map has, so that nobody need remember a reset or
    /// be up when its record is due.
    func followResets(_ load: ClusterLoad) {
        guard settings.followsResets, host.leads(ClusterMap.controllerGroup),
            let record = controller?.mapAndOperations
        else { return }
        for told in load.groups where !told.members.isEmpty && followedResets.count < ShardServer.resetsAtOnce {
            guard told.group != ClusterMap.controllerGroup, !followedResets.contains(told.group),
                let group = record.map.group(told.group), group.isBorn,
                group.wasReset(to: told.members, record.operations)
            else { continue }
            followedResets.insert(told.group)
            confirmReset(of: told.group, to: told.members) { [self] judged in
                switch judged {
                case .success(let command):
                    logger.log(
                        .warning, "the map follows a reset",
                        [("group", told.group), ("members", Configuration(peers: told.members).description)])
                    propose(command) { [self] _ in
                        followedResets.remove(told.group)
                        operationsChanged()
                    }
                case .failure(let refusal):
                    // the next look at the load finds it again
                    followedResets.remove(told.group)
                    complain(
                        "the map does not follow a reset yet", about: told.group,
                        [("group", told.group), ("problem", refusal.message)])
                }
            }
        }
    }
}

extension Group {
    /// Whether `members`, which are committed, come from a forced reset: they are all in the map, and neither those there
    /// nor those that an operation under way leads to.
    func wasReset(to members: [PeerID], _ operations: [ClusterOperation]) -> Bool {
        let sorted = members.sorted()
        guard sorted != peers.sorted(), members.allSatisfy({ peers.contains($0) || joining.contains($0) }) else {
            return false
        }
        return !operations.contains { operation in
            guard !operation.state.isOver, operation.kind.memberGroup == id else { return false }
            guard case .changePeers(let change) = operation.kind else { return true }
            return change.to.sorted() == sorted
        }
    }
}

import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// The orders to a group's leader: have these members, let another one lead. Both are idempotent, and are answered after
// a while even if nothing has come of them yet: whoever ordered asks again.

/// A change of a group's members that was begun here.
struct PeersChange {
    /// Those who wait for its end; further ones are answered at once.
    static let waitingMax = 64

    /// The controller's number of it.
    var operation: UInt64
    var target: Configuration
    /// Why it came to nothing, as long as nobody has heard of that.
    var problem: String?
    var waiting: [(until: Instant, done: (PeersAnswer) -> Void)] = []
}

/// What the leader of a group says of its members.
struct PeersAnswer {
    var error: NamedError?
    var message: String?
    /// Who is to be asked instead.
    var leader: PeerID?
    var peers: [PeerID] = []
    /// They are those wanted, and that is committed.
    var isDone = false
    /// Of the snapshots that members to be are sent.
    var progress: CopyProgress?
}

/// A hand-over that was ordered here.
struct OrderedTransfer {
    var group: String
    /// The group's leader hands over now, or has.
    var hasBegun = false
    var until: Instant
    var done: (TransferAnswer) -> Void
}

/// What came of a hand-over.
struct TransferAnswer {
    var error: NamedError?
    var message: String?
    /// Who leads now, or is to be asked instead.
    var leader: PeerID?
}

extension ShardServer {
    /// How long an order is kept waiting; whoever gave it asks again, and shows how far it is.
    private static let changePatience = Interval.milliseconds(1000)
    private static let transferPatience = Interval.milliseconds(3000)
    private static let transferPace = Interval.milliseconds(20)

    // MARK: members

    /// Has `group`, which this node leads, change its members from those in `from` to those in `to`. The answer comes
    /// when that is committed or has failed, or after a while.
    func changePeers(
        of group: String, operation: UInt64, from: [PeerID], to: [PeerID], _ done: @escaping (PeersAnswer) -> Void
    ) {
        guard let raft = host.raft(of: group), !host.isGuest(group) else {
            return done(PeersAnswer(error: .noSuchGroup))
        }
        guard raft.isLeader else { return done(PeersAnswer(error: .notLeader, leader: raft.leader)) }
        let target = Configuration(peers: to)
        // what changes nothing is a question, and the problem of a change is for whoever ordered that
        if let change = peersChanges[group], change.problem == nil || from != to {
            guard let problem = change.problem else {
                guard change.target == target else { return done(overlap(raft, change.target)) }
                return wait(for: group, done)
            }
            // said once; then it may be tried again
            peersChanges[group] = nil
            if change.operation == operation { return done(answer(raft, .refused, problem)) }
        }
        let present = raft.configuration
        if raft.isChangingMembership {
            // an earlier leader's, which ends by itself
            let isSame = present.peers == target.peers && present.learners == target.learners
            return done(isSame ? answer(raft, nil, nil) : overlap(raft, present))
        }
        if present == target {
            if from == to, raft.hasCommittedConfiguration { return confirmMembers(of: group, target, done) }
            var reply = answer(raft, nil, nil)
            reply.isDone = raft.hasCommittedConfiguration
            return done(reply)
        }
        guard present == Configuration(peers: from) else {
            return done(answer(raft, .conflict, "the members of \(group) are \(present), not those the order is for"))
        }
        peersChanges[group] = PeersChange(operation: operation, target: target)
        wait(for: group, done)
        host.changeMembership(of: group, to: target) { [self] in end(group, $0) }
    }

    /// Answers a question for the members once a majority has said that this node leads still: whoever is cut off, and
    /// does not know it yet, may have members that were.
    private func confirmMembers(
        of group: String, _ members: Configuration, _ done: @escaping (PeersAnswer) -> Void
    ) {
        host.read(group, lease: false) { [self] outcome in
            let raft = host.raft(of: group)
            guard case .ready = outcome, let raft, raft.isLeader else {
                if case .notLeader(let leader) = outcome { return done(PeersAnswer(error: .notLeader, leader: leader)) }
                return done(answer(raft, .busy, "no majority of \(group) has confirmed its leader"))
            }
            var reply = answer(raft, nil, nil)
            reply.isDone =
                raft.configuration == members && raft.hasCommittedConfiguration && !raft.isChangingMembership
            done(reply)
        }
    }

    private func overlap(_ raft: Raft, _ other: Configuration) -> PeersAnswer {
        answer(raft, .conflict, "another change of members is under way, to \(other)")
    }

    private func answer(_ raft: Raft?, _ error: NamedError?, _ message: String?) -> PeersAnswer {
        PeersAnswer(error: error, message: message, leader: raft?.leader, peers: raft?.configuration.listed ?? [])
    }

    /// Of a change that goes on.
    private func interim(_ group: String) -> PeersAnswer {
        var reply = answer(host.raft(of: group), nil, nil)
        reply.progress = host.snapshotProgress(of: group).map {
            CopyProgress(bytesDone: UInt64($0.done), bytesLeft: UInt64($0.left))
        }
        return reply
    }

    private func wait(for group: String, _ done: @escaping (PeersAnswer) -> Void) {
        guard let count = peersChanges[group]?.waiting.count, count < PeersChange.waitingMax else {
            return done(interim(group))
        }
        peersChanges[group]?.waiting.append((lane.clock.now + ShardServer.changePatience, done))
        lane.requestTurn()
    }

    private func end(_ group: String, _ outcome: ChangeOutcome) {
        guard let change = peersChanges.removeValue(forKey: group) else { return }
        let raft = host.raft(of: group)
        var reply: PeersAnswer
        switch outcome {
        case .done:
            reply = answer(raft, nil, nil)
            (reply.peers, reply.isDone) = (change.target.listed, true)
        case .refused(.notLeader), .unknown: reply = answer(raft, .notLeader, nil)
        case .refused(.busy): reply = answer(raft, .busy, "the leader of \(group) is not ready to change members")
        case .refused(let refusal): reply = answer(raft, .refused, refusal.sentence)
        case .notCaughtUp(let peer):
            reply = answer(raft, .refused, "\(peer) did not catch up in time")
            noteNotCaughtUp(peer, operation: change.operation)
        }
        if change.waiting.isEmpty, reply.error == .refused {
            peersChanges[group] = PeersChange(
                operation: change.operation, target: change.target, problem: reply.message)
        }
        for waiting in change.waiting { waiting.done(reply) }
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func peersChangesTurn(_ now: Instant) -> Instant? {
        guard !peersChanges.isEmpty else { return nil }
        var next: Instant?
        for group in peersChanges.keys.sorted() {
            guard let waiting = peersChanges[group]?.waiting else { continue }
            peersChanges[group]?.waiting.removeAll { $0.until <= now }
            for waiting in waiting where waiting.until <= now { waiting.done(interim(group)) }
            for waiting in waiting where waiting.until > now { next = min(next ?? waiting.until, waiting.until) }
        }
        return next
    }

    func answerChangePeers(_ request: RpcRequest) {
        let newest = map?.version ?? 0
        var version = newest
        let parsed = arena.scope { arena -> (group: String, operation: UInt64, from: [PeerID], to: [PeerID])? in
            guard let message = arena.unpack(flotilla__change_peers_request__init, request.body)?.pointee,
                let from = PeerID.decoded(message.from, count: message.n_from),
                let to = PeerID.decoded(message.to, count: message.n_to)
            else { return nil }
            if message.has_map_version != 0 { version = message.map_version }
            return (String(field: message.group), message.operation, from, to)
        }
        guard let parsed else { return request.responder.fail(RpcCode.badRequest, "malformed order") }
        // whoever led the controller before may order what has been ordered back since
        guard version >= newest else {
            let text = "the order was made from version \(version) of the map, this node has \(newest)"
            return reply(PeersAnswer(error: .busy, message: text), to: request)
        }
        changePeers(
            of: parsed.group, operation: parsed.operation, from: parsed.from, to: parsed.to
        ) { [self] in reply($0, to: request) }
    }

    private func reply(_ answer: PeersAnswer, to request: RpcRequest) {
        arena.scope { arena in
            let reply = arena.make(flotilla__change_peers_reply__init)
            reply.pointee.error = answer.error?.rawValue ?? 0
            if let text = answer.message ?? answer.error?.sentence { reply.pointee.message = arena.string(text) }
            if let leader = answer.leader { reply.pointee.leader = arena.string(leader.address.description) }
            reply.pointee.n_peers = answer.peers.count
            reply.pointee.peers = arena.strings(answer.peers.map(\.description))
            reply.pointee.has_done = 1
            reply.pointee.done = answer.isDone ? 1 : 0
            if let progress = answer.progress {
                (reply.pointee.has_bytes_done, reply.pointee.bytes_done) = (1, progress.bytesDone)
                (reply.pointee.has_bytes_left, reply.pointee.bytes_left) = (1, progress.bytesLeft)
            }
            request.responder.reply(reply)
        }
    }

    // MARK: leadership

    /// Hands `group`, which this node leads, over to `peer`, or to whoever can take it. The answer comes when another
    /// member leads, or says why none does.
    func transferLeadership(of group: String, to peer: PeerID?, _ done: @escaping (TransferAnswer) -> Void) {
        guard let raft = host.raft(of: group), !host.isGuest(group) else {
            return done(TransferAnswer(error: .noSuchGroup))
        }
        guard raft.isLeader else { return done(TransferAnswer(error: .notLeader, leader: raft.leader)) }
        if let peer, peer == raft.leader { return done(TransferAnswer(leader: peer)) }
        if let problem = obstacle(to: peer, raft) { return done(TransferAnswer(error: .refused, message: problem)) }
        guard transfers.count < PeersChange.waitingMax else { return done(TransferAnswer(error: .busy)) }
        transfers.append(
            OrderedTransfer(group: group, until: lane.clock.now + ShardServer.transferPatience, done: done))
        host.transferLeadership(of: group, to: peer)
        lane.requestTurn()
    }

    private func obstacle(to peer: PeerID?, _ raft: Raft) -> String? {
        let fit = raft.configuration.voters.filter { $0 != raft.leader && !raft.configuration.isWitness($0) }
        if let peer, !fit.contains(peer) {
            return "\(peer) is no voter of the group that could lead; its members are \(raft.configuration)"
        }
        if fit.isEmpty { return "the group has no other voter that could lead" }
        return raft.isChangingMembership ? "the group's members are being changed; try again when that is over" : nil
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func transfersTurn(_ now: Instant) -> Instant? {
        guard !transfers.isEmpty else { return nil }
        let asked = transfers
        transfers = []
        for var transfer in asked {
            let raft = host.raft(of: transfer.group)
            let leads = raft?.isLeader ?? false
            let isTransferring = raft?.isTransferring ?? false
            if !leads, raft?.leader != nil || transfer.until <= now {
                transfer.done(TransferAnswer(error: raft?.leader == nil ? .noLeader : nil, leader: raft?.leader))
            } else if leads, transfer.until <= now || (transfer.hasBegun && !isTransferring) {
                let problem =
                    transfer.hasBegun
                    ? "the successor did not take over in time: it lags too much, cannot be reached or cannot serve"
                    : "no other voter is in touch with the leader"
                transfer.done(TransferAnswer(error: .refused, message: problem, leader: raft?.leader))
            } else {
                transfer.hasBegun = transfer.hasBegun || isTransferring
                transfers.append(transfer)
            }
        }
        return transfers.isEmpty ? nil : now + ShardServer.transferPace
    }

    func answerTransfer(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (group: String, peer: PeerID?)? in
            guard let message = arena.unpack(flotilla__transfer_request__init, request.body)?.pointee else {
                return nil
            }
            guard let text = message.peer else { return (String(field: message.group), nil) }
            return PeerID(String(cString: text)).map { (String(field: message.group), $0) }
        }
        guard let (group, peer) = parsed else { return request.responder.fail(RpcCode.badRequest, "malformed order") }
        transferLeadership(of: group, to: peer) { [self] answer in
            arena.scope { arena in
                let reply = arena.make(flotilla__transfer_reply__init)
                reply.pointee.error = answer.error?.rawValue ?? 0
                if let text = answer.message ?? answer.error?.sentence { reply.pointee.message = arena.string(text) }
                if let leader = answer.leader { reply.pointee.leader = arena.string(leader.address.description) }
                request.responder.reply(reply)
            }
        }
    }
}

extension ChangeRefusal {
    fileprivate var sentence: String {
        switch self {
        case .notLeader: "this replica does not lead"
        case .busy: "another change or a hand-over is under way"
        case .noVoters: "nobody would be left who votes and holds the group's state"
        case .roleChange: "a voter cannot become a witness, or a witness a replica: it needs a new idx"
        case .foreignWithLearners: "a group with a member that runs another program cannot have learners"
        case .notApplicable: "the change does not apply to the group as it is"
        }
    }
}

import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

// Replicas are compared while they run. A leader that has applied something asks, at most once a second, for the hashes
// its followers have of what they applied: one request for each node, for all groups together. Each leader asks for the
// newest entry it has applied and for the newest at one of the distances at which hashes are remembered longer: at rest
// the former is known to all, under load the latter.

/// A round of comparing: all groups that this node leads and that have applied something since the last one.
final class ComparisonRound {
    struct Group {
        var replica: Replica
        var term: Term
        /// The leader's own hashes; lower indexes first.
        var marks: [AppliedHash]
        /// By peer, what it has at each of the marks.
        var answers: [(peer: PeerID, hashes: [UInt64?])] = []
        /// A peer that answered does not know the newest one.
        var isIncomplete = false
    }

    var groups: [Group]
    /// Nodes that have not answered.
    var waiting = 0

    init(groups: [Group]) { self.groups = groups }
}

extension RaftHost {
    /// Groups of one round; the others follow in the next.
    static let groupsPerRound = 4096
    private static let roundTimeout = Interval.milliseconds(2000)
    /// Rounds in a row that a group takes part in without having applied anything, because a follower was not there yet.
    private static let repetitionsMax = 5
    /// Indexes of one question that are answered.
    private static let indexesMax = 4

    /// A leader has applied something: it is compared in the next round.
    func noteForComparison(_ replica: Replica) {
        guard replica.raft.isLeader else { return }
        replica.comparison.repetitions = 0
        enlist(replica)
    }

    private func enlist(_ replica: Replica) {
        guard !replica.comparison.isEnlisted else { return }
        replica.comparison.isEnlisted = true
        toCompare.append(replica)
        lane.requestTurn()
    }

    /// Called once a turn; returns when the next round is due, if one is.
    func pursueComparing() -> Instant? {
        guard comparing == nil, !toCompare.isEmpty, stopping == nil else { return nil }
        // a moment is left for what has just been applied to get to the followers
        let due = nextComparison ?? now + settings.comparisonPace
        nextComparison = due
        guard due <= now else { return due }
        nextComparison = nil
        beginComparing()
        return nil
    }

    private func beginComparing() {
        let replicas = toCompare.prefix(RaftHost.groupsPerRound)
        toCompare.removeFirst(replicas.count)
        let round = ComparisonRound(groups: [])
        for replica in replicas {
            replica.comparison.isEnlisted = false
            guard replica.raft.isLeader, replica.fence == nil, replica.applyProblem == nil,
                let machine = replica.stateMachine as? any HashedStateMachine
            else { continue }
            var marks = comparable(machine)
            if marks.count > 1, marks[0].index <= replica.comparison.mark { marks.removeFirst() }
            guard !marks.isEmpty else { continue }
            round.groups.append(ComparisonRound.Group(replica: replica, term: replica.raft.term, marks: marks))
        }
        var questions: [NodeAddress: [(group: Int, peer: PeerID)]] = [:]
        for (position, group) in round.groups.enumerated() {
            for peer in group.replica.raft.peers where peer.role != .witness {
                questions[peer.address, default: []].append((position, peer))
            }
        }
        // in the order of the links, which is the same in every run
        let asked = links.filter { questions[$0.address] != nil && $0.kind != .foreign }
        guard !asked.isEmpty else { return }
        comparing = round
        round.waiting = asked.count
        for link in asked { ask(link, questions[link.address] ?? [], round) }
    }

    /// The hashes others are asked about: the newest, and before it the newest of those that are remembered longer.
    func comparable(_ machine: any HashedStateMachine) -> [AppliedHash] {
        guard let newest = machine.latestHash else { return [] }
        let stride = Int64(AppliedHashTrail.stride)
        let mark = LogIndex(newest.index.rawValue / stride * stride)
        guard mark > .zero, mark < newest.index, let older = machine.appliedHash(at: mark) else { return [newest] }
        return [older, newest]
    }

    private func ask(_ link: PeerLink, _ questions: [(group: Int, peer: PeerID)], _ round: ComparisonRound) {
        wire.arena.scope { arena in
            let message = arena.make(flotilla__compare_applied_request__init)
            message.pointee.n_groups = questions.count
            message.pointee.groups = arena.array(
                questions.map { question -> UnsafeMutablePointer<Flotilla__AppliedQuestion>? in
                    let group = round.groups[question.group]
                    return wire.appliedQuestion(group.replica.group, to: question.peer, group.marks.map(\.index), arena)
                })
            link.data.call(
                service: RaftHost.groupService, method: "compare_applied", message: message, attachment: [],
                deadline: now + RaftHost.roundTimeout
            ) { [self] result in
                now = lane.clock.now
                if case .reply(let reply) = result { take(reply.body, questions, round) }
                round.waiting -= 1
                if round.waiting == 0 { endComparing(round) }
                lane.requestTurn()
            }
        }
    }

    private func take(_ body: Bytes, _ questions: [(group: Int, peer: PeerID)], _ round: ComparisonRound) {
        guard let answers = wire.appliedAnswers(body, count: questions.count) else { return }
        for (question, known) in zip(questions, answers) {
            let hashes = round.groups[question.group].marks.map { known[$0.index] }
            round.groups[question.group].answers.append((question.peer, hashes))
            if hashes.last == .some(nil) { round.groups[question.group].isIncomplete = true }
        }
    }

    private func endComparing(_ round: ComparisonRound) {
        comparing = nil
        guard !isOver else { return }
        for group in round.groups {
            let replica = group.replica
            // a state that was replaced meanwhile is another
            guard !replica.isRemoved, replica.raft.isLeader, replica.raft.term == group.term, replica.fence == nil
            else { continue }
            judge(group)
            if group.marks.count > 1 { replica.comparison.mark = group.marks[0].index }
            if group.isIncomplete, replica.comparison.repetitions < RaftHost.repetitionsMax {
                replica.comparison.repetitions += 1
                enlist(replica)
            }
        }
    }

    private func judge(_ group: ComparisonRound.Group) {
        let replica = group.replica
        for (position, mark) in group.marks.enumerated() {
            var values = [(peer: replica.id, value: mark.value)]
            for answer in group.answers {
                if let hash = answer.hashes[position] { values.append((answer.peer, hash)) }
            }
            switch AppliedComparison(values, in: replica.raft.configuration) {
            case .equal: continue
            case .divergent(let peers, let standard):
                let right = values.first { $0.peer == standard }.map {
                    AppliedHash(version: mark.version, index: mark.index, value: $0.value)
                }
                for peer in peers {
                    let problem = "its state differs from \(standard)'s at index \(mark.index)"
                    fence(replica, peer, Fence(index: mark.index, problem: problem), right)
                }
            case .undecided(let peers): reportDisagreement(of: replica, with: peers, at: mark.index)
            }
            // what differs once differs from there on
            return
        }
    }

    /// Nobody is fenced: to stop all would turn a difference into an outage, and any choice might keep the wrong one.
    private func reportDisagreement(of replica: Replica, with peers: [PeerID], at index: LogIndex) {
        guard replica.comparison.reportedTerm != replica.raft.term else { return }
        replica.comparison.reportedTerm = replica.raft.term
        logDisagreement(replica, with: peers.map(\.description).joined(separator: ","), at: index)
        for peer in peers {
            sendFence(Fence(index: index, problem: replica.id.description), nil, to: peer, of: replica, isOrder: false)
        }
    }

    private func logDisagreement(_ replica: Replica, with others: String, at index: LogIndex) {
        logger.log(
            .error, "replicas differ and no majority agrees: nobody is fenced, compare them with raftctl group verify",
            [("group", replica.group), ("index", index.description), ("others", others)])
    }

    // MARK: the asked node

    func compareApplied(_ request: RpcRequest) throws(RaftWire.WireError) {
        guard isKnownPeer(request.connection) else { throw RaftHost.stranger }
        let isAnswered = wire.arena.scope { arena -> Bool in
            guard let message = arena.unpack(flotilla__compare_applied_request__init, request.body)?.pointee,
                message.n_groups <= RaftHost.groupsPerRound
            else { return false }
            let reply = arena.make(flotilla__compare_applied_reply__init)
            reply.pointee.n_groups = message.n_groups
            reply.pointee.groups = arena.array(
                (0..<message.n_groups).map { position -> UnsafeMutablePointer<Flotilla__AppliedAnswer>? in
                    answer(message.groups[position], arena)
                })
            request.responder.reply(reply)
            return true
        }
        guard isAnswered else { throw RaftHost.malformed }
    }

    private func answer(
        _ question: UnsafeMutablePointer<Flotilla__AppliedQuestion>?, _ arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__AppliedAnswer> {
        let answer = arena.make(flotilla__applied_answer__init)
        guard let question = question?.pointee, question.n_indexes <= RaftHost.indexesMax,
            question.version == UInt32(RollingHash.version),
            let replica = byGroup[String(field: question.group_id)],
            replica.id.description == String(field: question.to),
            let machine = replica.stateMachine as? any HashedStateMachine
        else { return answer }
        let known = (0..<question.n_indexes).compactMap { position -> AppliedHash? in
            guard question.indexes[position] >= 0 else { return nil }
            return machine.appliedHash(at: LogIndex(question.indexes[position]))
        }
        answer.pointee.n_marks = known.count
        answer.pointee.marks = arena.array(
            known.map { hash -> UnsafeMutablePointer<Flotilla__AppliedMark>? in
                let mark = arena.make(flotilla__applied_mark__init)
                mark.pointee.index = hash.index.rawValue
                mark.pointee.hash = hash.value
                return mark
            })
        return answer
    }

    /// The leader says that the state here is not what it should be.
    func takeFence(_ request: RpcRequest) throws(RaftWire.WireError) {
        let parsed = wire.arena.scope {
            arena -> (RaftWire.Addressing, term: Term, fence: Fence, right: AppliedHash?, isOrder: Bool)? in
            guard let message = arena.unpack(flotilla__fence_request__init, request.body)?.pointee,
                message.term >= 0, message.index >= 0
            else { return nil }
            var right: AppliedHash?
            if message.has_hash != 0, let version = UInt8(exactly: message.version) {
                right = AppliedHash(version: version, index: LogIndex(message.index), value: message.hash)
            }
            let addressing = RaftWire.Addressing(
                group: String(field: message.group_id), from: String(field: message.from), to: String(field: message.to)
            )
            return (
                addressing, Term(message.term),
                Fence(index: LogIndex(message.index), problem: String(field: message.problem)), right,
                message.fences != 0
            )
        }
        guard let parsed else { throw RaftHost.malformed }
        let (replica, from) = try addressed(parsed.0, request, badSender: 22)
        guard replica.raft.term == parsed.term, replica.raft.leader == from else {
            throw RaftWire.WireError(code: 1, text: "\(from) does not lead term \(replica.raft.term)")
        }
        now = lane.clock.now
        if parsed.isOrder {
            let own = parsed.right.flatMap {
                (replica.stateMachine as? any HashedStateMachine)?.appliedHash(at: $0.index)
            }
            // the state that was compared has been replaced
            guard own == nil || own != parsed.right else {
                throw RaftWire.WireError(code: 1, text: "the state is what it should be")
            }
            fence(replica, parsed.fence)
        } else {
            logDisagreement(replica, with: parsed.fence.problem, at: parsed.fence.index)
        }
        wire.arena.scope { arena in request.responder.reply(arena.make(flotilla__fence_reply__init)) }
        lane.requestTurn()
    }
}

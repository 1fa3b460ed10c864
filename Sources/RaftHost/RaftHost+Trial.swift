import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

// A fenced state that has gone, with its store for example, is made anew from the log; what had made it wrong may do so
// again. So the replica applies and serves nobody until its hash, at the fence's entry or behind it, was found equal to
// its leader's. It asks by itself, as leaders ask: at rest nobody else would. A difference is for the leader to judge,
// which asks all.

/// A state made anew in the place of a fenced one.
struct StateTrial {
    /// For an operator.
    var problem: String
    /// Answers of leaders by which it was not found equal, since it had come to the fence's entry.
    var doubts = 0
}

/// What a replica on trial asks its leader.
private struct TrialQuestion {
    var replica: Replica
    var generation: Int
    var leader: PeerID
    var marks: [AppliedHash]
}

extension RaftHost {
    /// Doubts after which the leader is asked for its state.
    private static let doubtsMax = 10

    func beginTrial(of replica: Replica, _ fence: Fence) {
        let isAlone = !replica.raft.configuration.voters.contains { $0 != replica.id && $0.role != .witness }
        // there is nothing, or nobody, to compare with
        guard replica.stateMachine is any HashedStateMachine, !isAlone else { return forgetFence(of: replica) }
        replica.trial = StateTrial(problem: "made anew, and not compared yet: \(fence.problem)")
        trials.append(replica)
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueTrials() -> Instant? {
        trials.removeAll { $0.trial == nil }
        guard !trials.isEmpty, stopping == nil else { return nil }
        guard nextTrial <= now else { return nextTrial }
        nextTrial = now + settings.comparisonPace
        var questions: [NodeAddress: [TrialQuestion]] = [:]
        for question in trials.compactMap(question) {
            questions[question.leader.address, default: []].append(question)
        }
        for link in links {
            var rest = (questions[link.address] ?? [])[...]
            while !rest.isEmpty {
                ask(link, Array(rest.prefix(RaftHost.groupsPerRound)))
                rest = rest.dropFirst(RaftHost.groupsPerRound)
            }
        }
        return nextTrial
    }

    private func question(of replica: Replica) -> TrialQuestion? {
        guard let fence = replica.fence, let machine = replica.stateMachine as? any HashedStateMachine,
            let leader = replica.raft.leader, leader != replica.id, replica.applied >= fence.index,
            !replica.isSwitching
        else { return nil }
        let marks = comparable(machine).filter { $0.index >= fence.index }
        return TrialQuestion(replica: replica, generation: replica.generation, leader: leader, marks: marks)
    }

    private func ask(_ link: PeerLink, _ questions: [TrialQuestion]) {
        wire.arena.scope { arena in
            let message = arena.make(flotilla__compare_applied_request__init)
            message.pointee.n_groups = questions.count
            message.pointee.groups = arena.array(
                questions.map { question -> UnsafeMutablePointer<Flotilla__AppliedQuestion>? in
                    let group = question.replica.group
                    return wire.appliedQuestion(group, to: question.leader, question.marks.map(\.index), arena)
                })
            link.data.call(
                service: RaftHost.groupService, method: "compare_applied", message: message, attachment: [],
                deadline: now + settings.comparisonPace
            ) { [self] result in
                guard !isOver else { return }
                now = lane.clock.now
                if case .reply(let reply) = result { judge(questions, by: reply.body) }
                lane.requestTurn()
            }
        }
    }

    private func judge(_ questions: [TrialQuestion], by body: Bytes) {
        let answers = wire.appliedAnswers(body, count: questions.count)
        for (position, question) in questions.enumerated() {
            let replica = question.replica
            // one that another is about to replace is not in force any more
            guard replica.generation == question.generation, replica.trial != nil, !replica.isSwitching else {
                continue
            }
            judge(replica, by: answers?[position] ?? [:], question.marks, question.leader)
        }
    }

    private func judge(_ replica: Replica, by answer: [LogIndex: UInt64], _ marks: [AppliedHash], _ leader: PeerID) {
        if let equal = marks.last(where: { answer[$0.index] == $0.value }) {
            logger.log(
                .info, "the state made anew is what its leader has",
                [("group", replica.group), ("leader", leader.description), ("index", equal.index.description)])
            forgetFence(of: replica)
            releaseReads(of: replica)
            return readyToApply(replica)
        }
        replica.trial?.doubts += 1
        guard let doubts = replica.trial?.doubts, doubts >= RaftHost.doubtsMax else { return }
        replica.trial = nil
        wantState(of: replica, "its state was made anew, and still not found equal to \(leader)'s")
    }
}

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
        for replica in trials { compareWithLeader(replica) }
        return nextTrial
    }

    private func compareWithLeader(_ replica: Replica) {
        guard let fence = replica.fence, let machine = replica.stateMachine as? any HashedStateMachine,
            let leader = replica.raft.leader, leader != replica.id, let link = linkByNode[leader.address],
            replica.applied >= fence.index
        else { return }
        let marks = comparable(machine).filter { $0.index >= fence.index }
        let generation = replica.generation
        wire.arena.scope { arena in
            let message = arena.make(flotilla__compare_applied_request__init)
            message.pointee.n_groups = 1
            message.pointee.groups = arena.array([
                wire.appliedQuestion(replica.group, to: leader, marks.map(\.index), arena)
            ])
            link.data.call(
                service: RaftHost.groupService, method: "compare_applied", message: message, attachment: [],
                deadline: now + settings.comparisonPace
            ) { [self] result in
                guard !isOver, replica.generation == generation, replica.trial != nil else { return }
                now = lane.clock.now
                if case .reply(let reply) = result { judge(replica, by: wire.appliedAnswer(reply.body), marks, leader) }
                lane.requestTurn()
            }
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

import CMessages
public import RaftCore
import RaftStorage
import Transport
import WireMessages

/// What is wrong with a replica's state, found by comparing it with the others'.
struct Fence: Equatable, Sendable {
    /// The entry at which they were compared.
    var index: LogIndex
    /// For an operator.
    var problem: String
}

/// What a leader remembers of comparing its replicas.
struct ComparisonState {
    var isEnlisted = false
    /// The newest entry at a distance remembered long that was compared.
    var mark = LogIndex.zero
    /// Rounds since something was applied.
    var repetitions = 0
    /// The term in which it was said that nobody can tell who is right.
    var reportedTerm: Term?
}

extension RaftHost {
    /// The state of `peer`, a member of `group`, which this node leads, was found to differ from what a majority has at
    /// `index`: the replica stops applying and serving, for good, until it gets another state. `problem` tells an
    /// operator.
    public func fence(_ group: String, _ peer: PeerID, at index: LogIndex, _ problem: String) {
        guard let replica = byGroup[group], replica.raft.isLeader else { return }
        fence(replica, peer, Fence(index: index, problem: problem), nil)
    }

    /// `right` is what a majority has there, if hashes were compared.
    func fence(_ replica: Replica, _ peer: PeerID, _ fence: Fence, _ right: AppliedHash?) {
        guard peer != replica.id else { return self.fence(replica, fence) }
        logger.log(
            .error, "a replica differs from the others and is fenced",
            [
                ("group", replica.group), ("peer", peer.description), ("index", fence.index.description),
                ("problem", fence.problem),
            ])
        sendFence(fence, right, to: peer, of: replica, isOrder: true)
    }

    /// A lost one is sent again by the next comparison.
    func sendFence(_ fence: Fence, _ right: AppliedHash?, to peer: PeerID, of replica: Replica, isOrder: Bool) {
        guard let link = linkByNode[peer.address], link.kind != .foreign else { return }
        wire.arena.scope { arena in
            let message = arena.make(flotilla__fence_request__init)
            message.pointee.group_id = arena.string(replica.group)
            message.pointee.from = arena.string(replica.id.description)
            message.pointee.to = arena.string(peer.description)
            message.pointee.term = replica.raft.term.rawValue
            message.pointee.index = fence.index.rawValue
            message.pointee.problem = arena.string(fence.problem)
            message.pointee.fences = isOrder ? 1 : 0
            if let right {
                message.pointee.has_hash = 1
                message.pointee.hash = right.value
                message.pointee.has_version = 1
                message.pointee.version = UInt32(right.version)
            }
            link.data.call(
                service: RaftHost.groupService, method: "fence", message: message, attachment: [],
                deadline: now + settings.raft.electionTimeout
            ) { _ in }
        }
    }

    /// The replica keeps voting and acknowledging, for its log is whole, but applies nothing more, serves nobody and
    /// gives leadership away; a snapshot from its leader ends that.
    func fence(_ replica: Replica, _ fence: Fence) {
        guard replica.fence == nil || replica.trial != nil else { return }
        logger.log(
            .error, "the state differs from the others' and is fenced",
            [
                ("group", replica.group), ("index", fence.index.description), ("problem", fence.problem),
                ("applied", replica.applied.description),
            ])
        (replica.fence, replica.trial) = (fence, nil)
        dropOutgoing(of: replica)
        observer?.fenced(replica.group, at: fence.index)
        turnAway(replica)
        noteFailure(of: replica)
        remember(fence, of: replica)
        wantState(of: replica, fence.problem)
    }

    /// A restart must not put the state back into service. What is remembered stands for the state that was compared,
    /// so that comes to the disk first.
    private func remember(_ fence: Fence, of replica: Replica) {
        let (store, generation, logger) = (self.store, replica.generation, self.logger)
        let group = replica.group
        workers.maintenance.submit {
            do throws(StateMachineError) { try store?.flush() } catch {
                logger.log(
                    .warning, "the fenced state cannot be flushed",
                    [("group", group), ("problem", error.description)])
            }
        } completion: { [self] in
            guard !isOver, replica.generation == generation, replica.fence == fence, !replica.isSwitching else {
                return
            }
            note(fence, of: replica)
        }
    }

    private func note(_ fence: Fence?, of replica: Replica) {
        var note = ReplicaNote(store: replica.record.store)
        note.fence = fence
        batch.append(LogWrite(group: replica.record.number, note: note.packed(wire.arena)))
        lane.requestTurn()
    }

    /// The replica's own record remembers a fence at the start. The state that was compared came to the disk before the
    /// fence did, so one that ends before is another, made again from the log: it is on trial until it was compared. If
    /// that flush had failed, the comparison finds it again. One that gets there and meets a restart before it was compared
    /// is taken for the fenced one: it gets another state, which is right as well.
    func restore(_ fence: Fence, of replica: Replica) {
        // nobody knows where that ends: it may be readable next time
        if replica.stateMachine is UnreadableState { return }
        let applied = replica.stateMachine.appliedPosition.index
        guard applied < fence.index else {
            logger.log(.error, "the state is fenced", [("group", replica.group), ("problem", fence.problem)])
            replica.fence = fence
            return wantState(of: replica, fence.problem)
        }
        logger.log(
            .info, "the fenced state is gone; the one in its place serves when it was compared",
            [("group", replica.group), ("applied", applied.description), ("index", fence.index.description)])
        replica.fence = fence
        beginTrial(of: replica, fence)
    }

    /// The replica's state is another one, and right as far as anybody can tell.
    func forgetFence(of replica: Replica) {
        precondition(!replica.isSwitching, "what is written of the state in force would undo the switch to another")
        (replica.fence, replica.trial, replica.record.fence) = (nil, nil, nil)
        if let position = nodeState.replicas.firstIndex(where: { $0.number == replica.record.number }) {
            nodeState.replicas[position].fence = nil
        }
        note(nil, of: replica)
    }
}

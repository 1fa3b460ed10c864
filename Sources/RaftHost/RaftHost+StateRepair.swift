import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

// A replica whose state is lost or unreadable votes and acknowledges, for its log is whole, but neither leads nor serves.
// The log does not reach back to its beginning, so the state comes from the leader, as a snapshot that the log has no
// need of; the old one goes when the new one is in force.

/// Stands where there is no state.
final class UnreadableState: SnapshotStateMachine {
    private let problem: String

    init(_ problem: String) { self.problem = problem }

    var appliedPosition: LogPosition { .zero }
    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] { throw StateMachineError(problem) }
    func read(_ query: Bytes) throws(StateMachineError) -> Bytes { throw StateMachineError(problem) }
    func flush() {}
    func durableMeta() -> SnapshotMeta? { nil }
    func freeze() throws(StateMachineError) -> any FrozenState { throw StateMachineError(problem) }
}

extension RaftHost {
    /// How often the leader is asked.
    private static let askingPace = Interval.milliseconds(2000)
    /// A state machine that was made anew so often, in vain, is not worth another try.
    private static let failuresMax = 5
    /// Once may be a whim of the disk.
    private static let failedReadsMax = 2

    /// Starts a replica that the log remembers and whose state cannot be read, for the reason given: it gets another one
    /// from its leader.
    public func open(_ record: ReplicaRecord, unreadable problem: String) {
        open(record, stateMachine: UnreadableState(problem))
        if let replica = byGroup[record.group], replica.record.number == record.number {
            wantState(of: replica, problem)
        }
    }

    /// The state machine failed once more.
    func noteFailure(of replica: Replica) {
        replica.failures += 1
        // a full disk is no damage
        guard replica.failures >= RaftHost.failuresMax, !isLogFull, !hasLittleRoom, let problem = replica.applyProblem
        else { return }
        wantState(of: replica, problem)
    }

    /// A read of `group`'s state failed in the store: for all that is known, part of it is damaged. The replica hands over
    /// to another member and its state is opened anew, as if applying had failed; when that happens to the same state
    /// again, it gets another one from its leader.
    ///
    /// Only for failures that the state is the cause of, not for questions it has no answer to. Whoever calls must know
    /// that the state in force is the one that was read. Where no other member could serve, this one goes on: what can be
    /// read shall be.
    public func couldNotRead(_ group: String, _ error: StateMachineError) {
        guard let replica = byGroup[group], !replica.isSwitching, !replica.needsState else { return }
        logger.log(.error, "the state could not be read", [("group", group), ("problem", error.description)])
        guard replica.applyProblem == nil, replica.fence == nil,
            replica.raft.configuration.voters.contains(where: { $0 != replica.id && mayServe($0) })
        else { return }
        if error.isDamage { replica.failedReads += 1 }
        stopServing(replica, error.description)
        lane.requestTurn()
    }

    /// Whether `peer` has a state that clients and members can be served from, for all that is known here.
    private func mayServe(_ peer: PeerID) -> Bool {
        peer.role != .witness && !liveness.isForeign(peer.address) && liveness.isReachable(peer.address)
    }

    /// A state that opens well and cannot be read is not worth opening for ever, but the only one whose leadership the
    /// group has is better than none: it is given up only when another member leads that may have a sound one.
    func givesUpUnreadable(_ replica: Replica) -> Bool {
        guard replica.failedReads >= RaftHost.failedReadsMax, let leader = replica.raft.leader, leader != replica.id,
            mayServe(leader), let problem = replica.applyProblem
        else { return false }
        wantState(of: replica, problem)
        return replica.needsState
    }

    /// Nothing is applied and served any more until a snapshot has come.
    func wantState(of replica: Replica, _ problem: String) {
        guard !replica.needsState, takesSnapshots(replica), replica.id.role != .witness else { return }
        logger.log(
            .error, "the state is lost; the leader is asked for another",
            [("group", replica.group), ("problem", problem)])
        replica.needsState = true
        replica.trial = nil
        dropOutgoing(of: replica)
        replica.applyProblem = problem
        replica.applyRetry = .distantFuture
        stalled.removeAll { $0 === replica }
        stateless.append(replica)
        nextAsking = .distantPast
        handOver(replica)
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueStates() -> Instant? {
        guard !stateless.isEmpty else { return nil }
        stateless.removeAll { !$0.needsState }
        guard nextAsking <= now else { return nextAsking }
        nextAsking = now + RaftHost.askingPace
        for replica in stateless where replica.incoming == nil { askForState(of: replica) }
        return nextAsking
    }

    private func askForState(of replica: Replica) {
        guard let leader = replica.raft.leader, leader != replica.id, let link = linkByNode[leader.address],
            link.kind != .foreign
        else {
            return
        }
        wire.arena.scope { arena in
            let message = arena.make(flotilla__want_snapshot_request__init)
            message.pointee.group_id = arena.string(replica.group)
            message.pointee.from = arena.string(replica.id.description)
            message.pointee.to = arena.string(leader.description)
            // the offer is the answer
            link.data.call(
                service: RaftHost.groupService, method: "want_snapshot", message: message,
                deadline: now + RaftHost.askingPace
            ) { _ in }
        }
    }

    /// A member has lost its state.
    func wantSnapshot(_ request: RpcRequest) throws(RaftWire.WireError) {
        let asked = wire.arena.scope { arena -> RaftWire.Addressing? in
            arena.unpack(flotilla__want_snapshot_request__init, request.body).map {
                RaftWire.Addressing(
                    group: String(field: $0.pointee.group_id), from: String(field: $0.pointee.from),
                    to: String(field: $0.pointee.to))
            }
        }
        guard let asked else { throw RaftHost.malformed }
        let (replica, from) = try addressed(asked, request, badSender: 22)
        now = lane.clock.now
        guard replica.raft.isLeader, replica.problem == nil, replica.raft.configuration.contains(from) else {
            throw RaftWire.WireError(code: RaftHost.again, text: "not by this replica")
        }
        let isOnItsWay = replica.outgoing.contains { $0.peer == from && $0.isOffered }
        if !isOnItsWay { sendSnapshot(to: from, of: replica) }
        wire.arena.scope { arena in request.responder.reply(arena.make(flotilla__want_snapshot_reply__init)) }
        lane.requestTurn()
    }
}

public import RaftCore
import Transport

// What others ask of the groups here: proposals, reads, changes of membership.

extension RaftHost {
    /// Proposes `payload` to `group`. Joined with everything else proposed to it in this turn.
    public func propose(_ payload: Bytes, to group: String, completion: @escaping (ProposalOutcome) -> Void) {
        guard let replica = byGroup[group] else {
            let refusal: ProposalRefusal = damaged.contains { $0.group == group } ? .damaged : .noSuchGroup
            return later { completion(.refused(refusal)) }
        }
        if replica.problem != nil { return later { completion(.refused(.damaged)) } }
        // its own clients are others'
        if replica.isGuest { return later { completion(.refused(.noSuchGroup)) } }
        guard replica.raft.isLeader else {
            let leader = replica.raft.leader
            return later { completion(.notLeader(leader)) }
        }
        if isOver || stopping != nil || replica.raft.isTransferring { return later { completion(.refused(.stopping)) } }
        checkFreeSpace()
        if isLogTight || isLogAtBound { return later { completion(.refused(.busy)) } }
        if refusesWrites { return later { completion(.refused(.diskFull)) } }
        guard payload.count <= settings.payloadBytes else { return later { completion(.refused(.tooLarge)) } }
        guard waitingBytes < settings.batchBytes else { return later { completion(.refused(.busy)) } }
        guard replica.proposedBytes < settings.proposalBytes,
            replica.proposed.count + replica.proposing.count < settings.proposals
        else { return later { completion(.refused(.busy)) } }
        replica.proposedBytes += payload.count
        replica.proposing.append((payload, completion))
        markDirty(replica)
    }

    /// Answers for ``propose(_:to:completion:)``, as late as that does, where its caller has found a reason to refuse.
    public func refuse(_ refusal: ProposalRefusal, completion: @escaping (ProposalOutcome) -> Void) {
        later { completion(.refused(refusal)) }
    }

    /// Ends the node: it has learnt that it cannot go on. ``onFatal`` gets the reason, once.
    public func giveUp(_ reason: String) { fail(reason) }

    /// Finds a moment at which a read of `group` is linearizable: under the leader's lease, or by asking a majority
    /// (ReadIndex, dissertation §6.4). Joined with everything else that wants to read it in this turn.
    ///
    /// - Parameters:
    ///   - lease: whether a lease will do; false for reads whose lease had lapsed when they were evaluated.
    ///   - atFollower: whether this replica may serve without leading, by asking the leader up to where to apply.
    public func read(
        _ group: String, lease: Bool = true, atFollower: Bool = false, completion: @escaping (ReadOutcome) -> Void
    ) {
        guard let replica = byGroup[group] else {
            let refusal: ProposalRefusal = damaged.contains { $0.group == group } ? .damaged : .noSuchGroup
            return later { completion(.refused(refusal)) }
        }
        if replica.problem != nil || replica.id.role == .witness { return later { completion(.refused(.damaged)) } }
        if replica.isGuest { return later { completion(.refused(.noSuchGroup)) } }
        guard replica.raft.isLeader || atFollower else {
            let leader = replica.raft.leader
            return later { completion(.notLeader(leader)) }
        }
        if isOver { return later { completion(.refused(.stopping)) } }
        guard replica.readsWaiting < settings.reads, evaluations.count < settings.reads else {
            return later { completion(.refused(.busy)) }
        }
        replica.readsWaiting += 1
        if lease { replica.reading.append(completion) } else { replica.asking.append(completion) }
        markDirty(replica)
    }

    /// Runs `body` on the state machines' worker, where they may be read; several of a turn go in one job. The
    /// completion gets nil if the moment turns out not to count, for a lease lapsed before `body` was done: read again
    /// without lease.
    public func evaluate<R: Sendable>(
        at moment: ReadMoment, _ body: @escaping @Sendable () -> R, completion: @escaping (R?) -> Void
    ) {
        let result = Box<R?>(nil)
        let stoodBefore = planted("lease-judged-before-evaluation") && stands(moment, at: now)
        evaluations.append(
            Evaluation(
                job: { result.value = body() },
                completion: { [self] in
                    completion(stoodBefore || stands(moment, at: lane.clock.now) ? result.value : nil)
                }))
        lane.requestTurn()
    }

    /// Runs `body` on the state machines' worker, where they may be read, on whatever they have applied by then.
    public func evaluateAsApplied<R: Sendable>(
        _ body: @escaping @Sendable () -> R, completion: @escaping (R) -> Void
    ) {
        let result = Box<R?>(nil)
        evaluations.append(
            Evaluation(
                job: { result.value = body() }, completion: { if let value = result.value { completion(value) } }))
        lane.requestTurn()
    }

    /// When `bytes` of state may leave this node for another one: together with snapshots they keep to the node's
    /// budget. A moment that has come may be used at once.
    public func payForTransfer(_ bytes: Int) -> Instant { snapshotBudget.take(bytes, now: lane.clock.now) }

    /// How far the node's budget is spent ahead.
    public var transferBacklog: Interval { snapshotBudget.backlog(lane.clock.now) }

    /// Runs `body`, which may take long, on a worker that nobody's answers depend on; the completion comes on the lane.
    public func runAside<R: Sendable>(_ body: @escaping @Sendable () -> R, completion: @escaping (R) -> Void) {
        let result = Box<R?>(nil)
        let completion = Box(completion)
        workers.maintenance.submit {
            result.value = body()
        } completion: { [self] in
            guard let value = result.value, !isOver else { return }
            completion.value(value)
            lane.requestTurn()
        }
    }

    /// `reading` is one of the clock that is younger than the read: the turn's own may be older, when somebody on the lane
    /// asks in a turn that was suspended.
    private func stands(_ moment: ReadMoment, at reading: Instant) -> Bool {
        // the state of one that was removed may have gone before it was looked at
        guard let replica = byGroup[moment.group], replica.record.number == moment.replica else { return false }
        guard let term = moment.lease else { return true }
        return replica.raft.holdsLease(of: term, now: reading, liveness: liveness)
    }

    /// Changes the members of `group` to `target` (§6), which only its leader does. Newcomers must have been created on
    /// their nodes, with an empty birth. The completion comes when the change is committed, or not to be.
    public func changeMembership(
        of group: String, to target: Configuration, completion: @escaping (ChangeOutcome) -> Void
    ) {
        order(group, completion) { .membershipRequested($0, target) }
    }

    /// Puts `target` in force on this node's replica of `group` without asking anybody: for a group that lost its
    /// majority for good, or the only copy of entries. What only the lost members, or the lost part of the log, knew is
    /// lost. Refused while the state in memory is ahead of a log that was cut in this life: a restart ends that.
    public func resetMembership(
        of group: String, to target: Configuration, completion: @escaping (ChangeOutcome) -> Void
    ) {
        if let replica = byGroup[group], replica.applied > replica.raft.lastIndex {
            // the state holds what the log has lost: other entries would come under the numbers of those it has applied
            return later { completion(.refused(.notApplicable)) }
        }
        order(group, completion) { .resetRequested($0, target) }
    }

    private func order(
        _ group: String, _ completion: @escaping (ChangeOutcome) -> Void, _ event: (UInt64) -> Event
    ) {
        guard let replica = byGroup[group], !isOver else { return later { completion(.refused(.notLeader)) } }
        nextChange += 1
        replica.changes[nextChange] = completion
        inbox.append((replica, event(nextChange)))
        lane.requestTurn()
    }

    func finishChange(_ change: UInt64, _ outcome: ChangeOutcome, of replica: Replica) {
        guard let completion = replica.changes.removeValue(forKey: change) else { return }
        logger.log(
            .info, "membership",
            [
                ("group", replica.group), ("term", replica.raft.term.description), ("outcome", "\(outcome)"),
                ("members", replica.raft.configuration.description),
            ])
        deferred.append { completion(outcome) }
        lane.requestTurn()
    }

    /// Hands `group` over to `peer`, or to the most up-to-date voter; says nothing about success.
    public func transferLeadership(of group: String, to peer: PeerID?) {
        guard let replica = byGroup[group] else { return }
        inbox.append((replica, .transferRequested(peer)))
        lane.requestTurn()
    }

    func later(_ work: @escaping () -> Void) {
        // there may be no other turn
        guard !isOver else { return work() }
        deferred.append(work)
        lane.requestTurn()
    }

    func markDirty(_ replica: Replica) {
        guard !replica.isDirty, !replica.isRemoved else { return }
        replica.isDirty = true
        dirty.append(replica)
        lane.requestTurn()
    }
}

/// Something to compute on the state machines' worker.
struct Evaluation {
    var job: @Sendable () -> Void
    var completion: () -> Void
}

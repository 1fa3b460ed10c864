public import RaftCore
import RaftStorage
import Transport

// A replica goes in this order, whether it serves or is out of service:
//
// 1. lane: it takes part in nothing any more, and whoever waits is answered
// 2. log: in one batch the node's record loses it and remembers its idx, and its part of the log goes
// 3. state machines, maintenance: behind whatever was being applied or read, its state goes
//
// A crash before the batch is durable has removed nothing: whoever wants it gone says so again. After one behind it the
// next start finds a state that no replica has, and removes that.

/// A removal that was asked for.
struct ReplicaRemoval {
    var group: String
    var peer: PeerID
    var completion: (String?) -> Void
}

extension RaftHost {
    /// Removes the replica `peer` of `group` from this node, with its log and its state, also one that is out of
    /// service; that it was here is remembered. Nobody checks whether its group can do without it.
    ///
    /// Whoever waits for the replica is answered: proposals that were accepted with an unknown outcome, everything else
    /// with ``ProposalRefusal/noSuchGroup``. The completion gets nil when nothing is left of it, also if it was removed
    /// before, or why not. A snapshot that is being installed is waited for. If the host closes first, there is no
    /// completion, and the replica is there after the next start, or gone.
    public func remove(group: String, peer: PeerID, completion: @escaping (String?) -> Void) {
        removals.append(ReplicaRemoval(group: group, peer: peer, completion: completion))
        lane.requestTurn()
    }

    /// The replica of `group` with the highest idx that was removed from this node; nil if none ever was. None is
    /// created here again under its idx or a lower one.
    public func removedReplica(of group: String) -> PeerID? { nodeState.tombstone(of: group) }

    /// Called once a turn: begins removals that need not wait.
    func pursueRemovals() {
        guard !removals.isEmpty else { return }
        let asked = removals
        removals = []
        for removal in asked {
            let record = nodeState.replicas.first { $0.group == removal.group && $0.peer == removal.peer }
            guard let record else {
                answerRemoval(removal)
                continue
            }
            let replica = byGroup[record.group]
            // neither is stopped on its way; a turn comes when it is over
            if births.contains(record.number) || replica?.incoming?.isBeingInstalled == true {
                removals.append(removal)
            } else {
                remove(record, replica, removal.completion)
            }
        }
    }

    /// Parts of the log whose replica the node's own record does not know keep old segments for nobody. They come of
    /// damage, or of an earlier version; a replica's end is one write. A number that the record has not given yet is
    /// another matter: then the record is older than the log, and what it does not know may be a promise.
    func dropUnknownLogs() {
        guard nodeRecordDamage == nil else { return }
        let known = Set(nodeState.replicas.map(\.number))
        for number in recovered.keys.sorted() where number != 0 && !known.contains(number) {
            guard number < firstFreshNumber else {
                logger.log(
                    .error, "the log has a part that the node's own record is too old to know; it stays",
                    [("number", "\(number)"), ("next", "\(firstFreshNumber)")])
                continue
            }
            logger.log(
                .warning, "a part of the log that no replica has is dropped",
                [("number", "\(number)"), ("last", recovered[number]?.lastIndex.description ?? "0")])
            recovered[number] = nil
            batch.append(LogWrite(dropping: number))
            wantsCompaction = true
        }
        lane.requestTurn()
    }

    private func answerRemoval(_ removal: ReplicaRemoval) {
        guard let former = nodeState.tombstone(of: removal.group), former.idx >= removal.peer.idx else {
            return deferred.append {
                removal.completion("the node holds no replica \(removal.peer) of \(removal.group)")
            }
        }
        // it may be on its way to the disk
        whenDurable(of: 0) { removal.completion(nil) }
    }

    private func remove(_ record: ReplicaRecord, _ replica: Replica?, _ completion: @escaping (String?) -> Void) {
        if let replica { retire(replica) }
        damaged.removeAll { $0.group == record.group && $0.peer == record.peer }
        recovered[record.number] = nil
        let hadUnknownState = unknownStates.contains(record.number)
        unknownStates.removeAll { $0 == record.number }
        nodeState.bury(record)
        let completion = Box(completion)
        batch.append(LogWrite(dropping: record.number))
        writeNodeState { [self] in
            logger.log(.info, "replica removed", [("group", record.group), ("peer", record.peer.description)])
            wantsCompaction = true
            // what it said last has left by now
            if let replica { membershipChanged(replica) }
            // behind whatever is done with it
            workers.apply.submit {
            } completion: { [self] in
                dropState(record.store) { [self] in
                    guard !isOver else { return }
                    // it may have had another one
                    if hadUnknownState { removeStates() }
                    later { completion.value(nil) }
                }
            }
        }
    }

    /// The replica takes part in nothing any more.
    private func retire(_ replica: Replica) {
        // its voters need not wait for their promises to end
        if replica.raft.isLeader { step(replica, .stepDownRequested) }
        if let incoming = replica.incoming { abandon(incoming, nil) }
        dropOutgoing(of: replica)
        replica.isRemoved = true
        // what workers have of it is nothing to anybody
        replica.generation += 1
        byGroup[replica.group] = nil
        slots[replica.slot] = nil
        replicas.removeAll { $0 === replica }
        applyReady.removeAll { $0 === replica }
        activeReplicas.removeAll { $0 === replica }
        stalled.removeAll { $0 === replica }
        stateless.removeAll { $0 === replica }
        trials.removeAll { $0 === replica }
        foreignNotes.forget(replica)
        guests.removeAll { $0 === replica }
        leadingGuests.removeAll { $0 === replica }
        toCompare.removeAll { $0 === replica }
        compactionCandidates.removeAll { $0 === replica }
        repairs.removeAll { $0.replica === replica }
        saving.waiting.removeAll { $0 === replica }
        for link in links { link.forget(replica) }
        observer?.removed(replica.group)
        for sequence in replica.questions.keys.sorted() {
            replica.questions[sequence]?.fail(RaftHost.noSuchReplica.code, RaftHost.noSuchReplica.text)
        }
        replica.questions = [:]
        deferred.append { replica.dismiss(.noSuchGroup) }
    }
}

// Snapshots (§7): the log's beginning goes, and whoever needs it gets the state instead.

// MARK: Leader

extension Raft {
    /// The host is about to drop what a snapshot, or the state on disk, stands for.
    mutating func compact(through index: LogIndex, _ around: Surroundings) {
        precondition(index <= reportedApplicable, "only what may be applied can be compacted")
        log.compact(through: index)
    }

    /// Whether `peer` needs entries that are gone.
    func needsSnapshot(_ peer: Progress) -> Bool { peer.next <= log.base.index }

    mutating func sendSnapshot(to position: Int, _ around: Surroundings, _ effects: inout Effects) {
        leadership!.peers[position].state = .snapshot
        leadership!.peers[position].waitingSince = around.now
        effects.messages.append(Outbound(to: leadership!.peers[position].peer, body: .snapshot(term)))
    }

    /// Goes on with the log behind the snapshot, or tries again after a while.
    mutating func noteSnapshot(
        of peer: PeerID, installed: LogIndex?, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard role == .leader, let position = leadership!.position(of: peer),
            leadership!.peers[position].state == .snapshot
        else { return }
        if let installed, installed <= commitIndex {
            leadership!.peers[position].match = max(leadership!.peers[position].match, installed)
        }
        leadership!.peers[position].becomeProbe(now: around.now)
        if installed != nil {
            sendProbe(to: position, around, &effects)
        } else {
            noteLostSnapshot(of: peer, around)
        }
    }
}

// MARK: Follower

extension Raft {
    mutating func consider(
        _ request: SnapshotRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard request.term >= term, released != TermLeader(leader: sender, term: request.term) else {
            return effects.reply = .snapshotReply(SnapshotReply(term: term, success: false))
        }
        guard accept(sender, term: request.term, around, &effects) else {
            return refuse(.snapshotRequest(request), because: .twoLeadersInOneTerm, &effects)
        }
        let last = request.meta.last
        guard last.index <= commitIndex else { return effects.snapshotWanted = request.meta }
        guard holdsCommitted(last) else {
            return refuse(.snapshotRequest(request), because: .conflictingSnapshot, &effects)
        }
        acknowledgeSnapshot(&effects)
    }

    /// Whether the committed entry at the index of `last` is `last`; what is compacted away is.
    private func holdsCommitted(_ last: LogPosition) -> Bool {
        last.index < log.base.index || log.term(at: last.index) == last.term
    }

    /// All that a snapshot stands for is here, as soon as it is durable.
    private func acknowledgeSnapshot(_ effects: inout Effects) {
        let reply = Message.snapshotReply(SnapshotReply(term: term, success: true))
        if planted("snapshot-answered-before-durable") {
            effects.reply = reply
        } else {
            effects.acknowledgement = reply
        }
    }

    /// Lets the snapshot take the place of the log's beginning, unless the log has got there by itself. Entries behind
    /// it stay if they continue it (§7, rule 6 of InstallSnapshot), for others may count on them.
    mutating func install(_ meta: SnapshotMeta, _ around: Surroundings, _ effects: inout Effects) {
        guard role != .leader, meta.last.term <= term else { return }
        guard meta.last.index > commitIndex || planted("snapshot-goes-back") else {
            if holdsCommitted(meta.last) { acknowledgeSnapshot(&effects) }
            return
        }
        if role != .follower { becomeFollower(around, &effects) }
        let isContinued = log.term(at: meta.last.index) == meta.last.term
        let keepsSuffix =
            (isContinued && !planted("snapshot-drops-what-continues-it"))
            || (planted("snapshot-keeps-what-conflicts") && log.lastIndex > meta.last.index)
        if keepsSuffix {
            configurations.removeAll { $0.index <= meta.last.index }
            log.compact(through: meta.last.index)
        } else {
            configurations.removeAll()
            log.reset(to: meta.last)
            logTerm = term
            // nothing that the disk held counts any more, and what comes instead is not there yet
            durableIndex = planted("snapshot-durable-at-once") ? meta.last.index : .zero
        }
        configurations.insert(PlacedConfiguration(index: meta.last.index, configuration: meta.configuration), at: 0)
        configuration = configurations[configurations.count - 1].configuration
        membershipVersion += 1
        commitIndex = meta.last.index
        reportedApplicable = meta.last.index
        effects.install = SnapshotInstall(meta: meta, keepsSuffix: keepsSuffix)
        acknowledgeSnapshot(&effects)
        // whether it may campaign depends on the membership
        if let leader { restOrWait(for: leader, around) } else { wake(from: around.now) }
    }
}

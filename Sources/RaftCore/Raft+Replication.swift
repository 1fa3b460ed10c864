// Log replication (§5.3): a leader sends, a follower appends, the leader counts.

// MARK: Leader, sending

extension Raft {
    mutating func propose(_ count: Int, _ effects: inout Effects) {
        guard acceptsProposals, count > 0 else { return }
        let first = log.lastIndex.next
        extendLog(by: count, term: term)
        effects.logChange = LogChange(truncateFrom: nil, first: first, count: count, term: term, source: .proposal)
    }

    /// Sends whatever the window still takes; to a peer with nothing under way also a new commit index, once.
    mutating func feed(_ position: Int, _ around: Surroundings, _ effects: inout Effects) {
        let peer = leadership!.peers[position]
        guard peer.state == .replicate, peer.heldUntil <= around.now else { return }
        guard !needsSnapshot(peer) else { return sendSnapshot(to: position, around, &effects) }
        if peer.next <= lastSendable(to: peer) {
            sendEntries(to: position, around, &effects)
        } else if !peer.isWaiting, peer.knownCommit < commitIndex {
            sendEmpty(to: position, around, &effects)
        }
    }

    private mutating func sendEntries(to position: Int, _ around: Surroundings, _ effects: inout Effects) {
        while leadership!.peers[position].next <= lastSendable(to: leadership!.peers[position]) {
            let peer = leadership!.peers[position]
            let room = settings.maxEntriesInFlight - peer.entriesInFlight
            guard room > 0, peer.entriesInFlight == 0 || !around.isForeign(peer.peer) else { return }
            let count = min(room, sendable(to: peer))
            send(to: position, after: peer.next.previous, count: count, around, &effects)
            leadership!.peers[position].next = peer.next.advanced(by: count)
        }
    }

    /// Sends the one append that a probing peer may have under way. It carries entries unless they would likely be
    /// wasted.
    mutating func sendProbe(to position: Int, _ around: Surroundings, _ effects: inout Effects) {
        let peer = leadership!.peers[position]
        guard !needsSnapshot(peer) else { return sendSnapshot(to: position, around, &effects) }
        let count = peer.isSearching ? 0 : sendable(to: peer)
        send(to: position, after: peer.next.previous, count: count, around, &effects)
    }

    /// Sends an append without entries that is sure to match, and makes its answer recognisable.
    mutating func sendEmpty(to position: Int, _ around: Surroundings, _ effects: inout Effects) {
        leadership!.round += 1
        sendBare(to: position, around, &effects)
    }

    /// Sends an append without entries; one that is sure to match, unless the peer needs a snapshot.
    mutating func sendBare(to position: Int, _ around: Surroundings, _ effects: inout Effects) {
        let previous = max(leadership!.peers[position].match, log.base.index)
        send(to: position, after: previous, count: 0, around, &effects)
    }

    /// Makes contact anew with a peer that may have forgotten what it was told, or whom it follows.
    mutating func reconnect(_ position: Int, _ around: Surroundings, _ effects: inout Effects) {
        if leadership!.peers[position].state != .snapshot, leadership!.peers[position].isWaiting {
            leadership!.peers[position].becomeProbe(now: around.now)
            sendProbe(to: position, around, &effects)
        } else {
            sendEmpty(to: position, around, &effects)
        }
    }

    mutating func reconnect(_ peer: PeerID, _ around: Surroundings, _ effects: inout Effects) {
        guard let position = leadership!.position(of: peer) else { return }
        reconnect(position, around, &effects)
    }

    mutating func send(
        to position: Int, after previous: LogIndex, count: Int, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard let previousTerm = log.term(at: previous) else { preconditionFailure("a leader's log has no hole") }
        let round = leadership!.round
        leadership!.peers[position].noteSent(round: round, now: around.now)
        let ticket = AppendTicket(term: term, previous: previous, count: count, round: round)
        let append = Outbound(
            to: leadership!.peers[position].peer,
            body: .append(ticket, previousTerm: previousTerm, commit: commitIndex))
        // entries may leave before this disk has them, but not before it has the vote that this leader was elected by:
        // a sole voter that forgot it would make other entries in the same term
        if durableTerm == term { effects.messages.append(append) } else { effects.durableMessages.append(append) }
    }

    private func sendable(to peer: Progress) -> Int {
        max(0, min(settings.maxEntriesPerAppend, peer.next.distance(to: lastSendable(to: peer)) + 1))
    }

    /// A witness gets what this disk has: if it held more than any replica after a crash, it would let nobody lead.
    @inline(__always) private func lastSendable(to peer: Progress) -> LogIndex {
        peer.isWitness ? min(durableIndex, log.lastIndex) : log.lastIndex
    }

    mutating func loseConnection(to node: NodeAddress, _ around: Surroundings) {
        guard let peers = leadership?.peers else { return }
        for (position, peer) in peers.enumerated() where peer.peer.address == node && peer.isWaiting {
            // the host reports how sending a snapshot ends
            guard peer.state != .snapshot else { continue }
            leadership!.peers[position].becomeProbe(now: around.now)
        }
    }

    mutating func loseAppend(_ ticket: AppendTicket, to peer: PeerID, isBusy: Bool, _ around: Surroundings) {
        guard ticket.term == term, let position = leadership?.position(of: peer),
            leadership!.peers[position].state != .snapshot
        else { return }
        guard around.isForeign(peer) else { return leadership!.peers[position].becomeProbe(now: around.now) }
        // the heartbeats that follow each other while it is away must not put off the probe that is due
        let isHeartbeat =
            leadership!.peers[position].state == .probe
            && ticket.previous != leadership!.peers[position].next.previous
        if !isHeartbeat { hold(position, for: isBusy ? settings.retryInterval : settings.heartbeatInterval, around) }
    }

    /// Gives a foreign member that answered with an error the pause that a braft leader would give it, then probes.
    private mutating func hold(_ position: Int, for pause: Interval, _ around: Surroundings) {
        guard leadership!.peers[position].heldUntil <= around.now else { return }
        let end = around.now + pause
        leadership!.peers[position].heldUntil = end
        // so that it is due for a probe at the end
        leadership!.peers[position].becomeProbe(
            now: end + Interval(nanoseconds: -settings.retryInterval.nanoseconds))
    }
}

// MARK: Leader, counting

extension Raft {
    mutating func note(
        _ reply: AppendReply, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        if reply.term > term, !reply.success {
            if !isOfHandOver(reply.term, around) { adopt(term: reply.term, around, &effects) }
            return
        }
        // an answer to a leadership that is over
        guard role == .leader, reply.ticket.term == term || planted("answers-to-older-terms-count") else { return }
        guard let position = leadership!.position(of: sender) else { return effects.refusal = .unknownPeer }
        guard reply.ticket.previous.advanced(by: reply.ticket.count) <= log.lastIndex else {
            return effects.refusal = .acknowledgedTooMuch
        }
        guard !reply.success || reply.term == term, reply.ticket.round <= leadership!.round else {
            return effects.refusal = .unexpectedReply
        }
        let before = leadership!.peers[position]
        var peer = before
        if reply.term == term {
            peer.answeredRound = max(peer.answeredRound, reply.ticket.round)
            peer.answeredAt = around.now
            if let support = reply.support { peer.note(support) }
        }
        let isSuccess = reply.success || (planted("refusals-count-as-success") && reply.ticket.count > 0)
        if isSuccess { noteSuccess(reply.ticket, of: &peer) }
        leadership!.peers[position] = peer
        if !isSuccess {
            noteMismatch(reply, of: position, around, &effects)
            peer = leadership!.peers[position]
        }
        // an answer to what went beside a probe must not put off the next one; nor may a heartbeat that is refused for want
        // of what is compacted
        let isAwaited =
            before.state != .probe || (isSuccess && reply.ticket.previous >= before.next.previous)
        let gotOn =
            peer.match > before.match || peer.state != before.state
            || (isAwaited && peer.entriesInFlight == 0 && peer.answeredRound > before.answeredRound)
        if !peer.isWaiting {
            leadership!.peers[position].waitingSince = nil
        } else if gotOn {
            leadership!.peers[position].waitingSince = around.now
        }
    }

    @inline(__always) private func noteSuccess(_ ticket: AppendTicket, of peer: inout Progress) {
        guard ticket.round >= peer.trustedRound else { return }
        let through = ticket.previous.advanced(by: ticket.count)
        peer.noteSuccess(through: through)
        if ticket.round >= leadership!.commitRound {
            peer.knownCommit = max(peer.knownCommit, min(commitIndex, through))
        }
    }

    /// The logs part before the append's first entry: steps back, to the follower's hint at once.
    private mutating func noteMismatch(
        _ reply: AppendReply, of position: Int, _ around: Surroundings, _ effects: inout Effects
    ) {
        var peer = leadership!.peers[position]
        guard peer.state != .snapshot else { return }
        let previous = reply.ticket.previous
        let isCurrent = peer.state == .probe ? previous == peer.next.previous : previous >= peer.match
        guard isCurrent else { return }
        guard previous > .zero else {
            // every log has the place before it: there is nothing to step back to, and no sense in haste
            effects.refusal = .unexpectedReply
            return leadership!.peers[position].becomeProbe(now: around.now)
        }
        if previous <= peer.match, peer.state == .probe {
            // it denies what it acknowledged: a part of its log that was durable is lost. Nothing is less committed for
            // that, and it gets everything again
            peer.match = min(peer.match, reply.lastIndex ?? .zero, previous.previous)
            leadership!.round += 1
            peer.trustedRound = leadership!.round
        }
        peer.becomeProbe(now: around.now)
        peer.isSearching = true
        peer.next = max(peer.match.next, min(lastPossibleMatch(reply).next, previous))
        if peer.next == peer.match.next { peer.isSearching = false }
        leadership!.peers[position] = peer
        sendProbe(to: position, around, &effects)
    }

    /// The last entry that the follower may have too, by what its refusal tells of its log (§5.3).
    private func lastPossibleMatch(_ reply: AppendReply) -> LogIndex {
        let hint = reply.lastIndex ?? .zero
        guard let term = reply.lastTerm else { return hint }
        return hint > log.base.index ? log.last(through: hint, term: term).index : hint
    }

    /// Commits what a majority holds durably, this replica's own disk being one vote among them; earlier terms' entries
    /// only along with one of this term (§5.4.2).
    mutating func commitByMajority() {
        let least =
            planted("old-terms-committed-by-counting")
            ? commitIndex.next : max(commitIndex.next, leadership!.firstIndex)
        guard log.lastIndex >= least,
            let committed = leadership!.highestMajority(from: least, to: log.lastIndex, durable: durableIndex)
        else { return }
        commit(through: committed)
        leadership!.round += 1
        leadership!.commitRound = leadership!.round
    }
}

extension Leadership {
    /// The highest index, `least` to `last`, that a majority holds durably: it is somebody's last. The leader itself
    /// holds everything up to `durable`.
    @inline(__always) func highestMajority(from least: LogIndex, to last: LogIndex, durable: LogIndex) -> LogIndex? {
        var best: LogIndex?
        if durable >= least, isHeld(durable, durable: durable) { best = durable }
        for position in peers.indices {
            let match = peers[position].match
            if match >= best?.next ?? least, match <= last, isHeld(match, durable: durable) { best = match }
        }
        return best
    }

    @inline(__always) private func isHeld(_ index: LogIndex, durable: LogIndex) -> Bool {
        let isHere = durable >= index || planted("leader-counts-itself-before-durable")
        return hasMajority(itself: isHere) { $0.match >= index }
    }
}

// MARK: Follower

extension Raft {
    mutating func append(
        _ request: AppendRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        if let flaw = request.flaw { return refuse(.appendRequest(request), because: flaw, &effects) }
        let isCurrent = request.term >= term || (planted("deposed-leaders-are-heard") && request.term >= log.last.term)
        guard isCurrent, released != TermLeader(leader: sender, term: request.term) else {
            return reject(request, &effects)
        }
        guard accept(sender, term: max(term, request.term), around, &effects) else {
            return refuse(.appendRequest(request), because: .twoLeadersInOneTerm, &effects)
        }
        let previous = request.previous
        // what is compacted away is committed, and that matches every leader's log
        let matches =
            previous.index < log.base.index || log.term(at: previous.index) == previous.term
            || (planted("previous-term-unchecked") && previous.index <= log.lastIndex && previous.term >= log.last.term)
        guard matches else {
            return rejectMismatch(request, from: sender, around, &effects)
        }
        let circle = membershipVersion
        guard take(request, &effects) else {
            effects.refusal = .conflictsWithCommitted
            return reject(request, lastIndex: commitIndex, &effects)
        }
        // whether it may campaign depends on the membership
        if membershipVersion != circle { follow(sender, around, &effects) }
        let vouchedFor =
            planted("commit-beyond-what-matches")
            ? log.lastIndex : previous.index.advanced(by: request.entries.count)
        commit(through: min(request.commit, vouchedFor))
        acknowledge(request, from: sender, around, &effects)
    }

    /// Takes `sender` as the leader of `newTerm`, which is not behind this replica's. False: the term has another one.
    mutating func accept(
        _ sender: PeerID, term newTerm: Term, _ around: Surroundings, _ effects: inout Effects
    ) -> Bool {
        if newTerm > term { adopt(term: newTerm, around, &effects) }
        if let leader, leader != sender {
            // as braft does, to be rid of both
            adopt(term: term.next, around, &effects)
            return false
        }
        follow(sender, around, &effects)
        return true
    }

    private func reject(
        _ request: AppendRequest, lastIndex: LogIndex? = nil, lastTerm: Term? = nil, support: SupportStamp? = nil,
        _ effects: inout Effects
    ) {
        effects.reply = .appendReply(
            AppendReply(
                ticket: request.ticket, term: term, success: false, lastIndex: lastIndex, lastTerm: lastTerm,
                support: support))
    }

    /// The logs part before the request's entries. The hint is the last entry that this log may share with the leader's,
    /// by the term that the leader has there; a braft steps back to a hint without looking at terms, so it gets the
    /// smallest one that skips the term in conflict. What is committed matches every leader.
    private func rejectMismatch(
        _ request: AppendRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let previous = request.previous
        guard !around.isForeign(sender) else {
            let run = log.firstOfRun(at: previous.index)
            return reject(request, lastIndex: run.map { max(commitIndex, $0.previous) } ?? log.lastIndex, &effects)
        }
        let shared = max(
            log.last(through: previous.index, term: previous.term).index, min(commitIndex, previous.index))
        reject(
            request, lastIndex: shared, lastTerm: log.term(at: shared),
            support: around.promise(toSender: sender), &effects)
    }

    /// Makes the log hold the request's entries. False, and nothing changed, if that would replace committed ones.
    private mutating func take(_ request: AppendRequest, _ effects: inout Effects) -> Bool {
        let count = request.entries.count
        var index = request.previous.index.next
        var offset = 0
        while offset < count, index <= log.lastIndex,
            !(planted("append-cuts-what-it-knows") && index > commitIndex),
            index < log.base.index || log.term(at: index) == request.entries[offset].term
        {
            index = index.next
            offset += 1
        }
        guard offset < count else { return true }
        let conflicts = index <= log.lastIndex
        if conflicts {
            guard index > commitIndex else { return false }
            truncateLog(from: index)
        }
        extendLog(by: request.entries, from: offset)
        for placed in request.configurations where placed.index >= index {
            if placed.index > request.commit, planted("membership-waits-for-commit") { continue }
            adopt(placed)
        }
        effects.logChange = LogChange(
            truncateFrom: conflicts ? index : nil, first: index, count: count - offset,
            term: request.term, source: .message(offset: offset))
        return true
    }

    /// Adds the entries from `offset` on, those of one term at once.
    private mutating func extendLog(by entries: [EntryHeader], from offset: Int) {
        var start = offset
        while start < entries.count {
            let entryTerm = entries[start].term
            var end = start + 1
            while end < entries.count, entries[end].term == entryTerm { end += 1 }
            extendLog(by: end - start, term: entryTerm)
            start = end
        }
    }

    /// A success vouches for everything up to its end, and for the term: it leaves when both are durable.
    private func acknowledge(
        _ request: AppendRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let isProbe = request.entries.isEmpty
        let reply = Message.appendReply(
            AppendReply(
                ticket: request.ticket, term: term, success: true, lastIndex: isProbe ? log.lastIndex : nil,
                support: around.promise(toSender: sender)))
        let isDurable = isProbe && request.previous.index <= durableIndex && durableTerm == term
        let isHasty =
            planted("acknowledge-before-durable")
            || (planted("probe-vouches-for-what-is-not-durable") && isProbe)
        if isDurable || isHasty {
            effects.reply = reply
        } else {
            effects.acknowledgement = reply
        }
    }
}

/// What a leader keeps besides the log (Figure 2, volatile state on leaders).
struct Leadership: Sendable {
    /// A hand-over under way (dissertation §3.10).
    struct Transfer: Sendable {
        /// Who is to lead.
        let target: PeerID
        /// When to give up.
        let deadline: Instant
        /// Whether it was told.
        var isSent = false
    }

    /// The other members, ascending.
    var peers: [Progress]
    /// The first entry of the leader's own term.
    let firstIndex: LogIndex
    /// Until then a new leader need not have the support of a majority; nil once it had.
    var graceEnd: Instant?
    /// When the first silent peer is due to be probed again; recomputed at the end of each step.
    var retryDeadline: Instant?
    /// Grows with everything that must be told to somebody. An answer to an append of a round proves that it left
    /// after everything before that round.
    var round: UInt64 = 0
    /// Appends of this round or later carry the present commit index.
    var commitRound: UInt64 = 0
    var transfer: Transfer?
    var reads = ReadQueue()

    /// Where `peer` stands in ``peers``.
    func position(of peer: PeerID) -> Int? { peers.firstIndex { $0.peer == peer } }
}

extension Raft {
    /// Wins the term. The first entry repeats the configuration, as braft's leaders do: it commits what earlier terms
    /// left (§5.4.2), and leaves while this disk still writes it (§10.2.1).
    mutating func becomeLeader(_ around: Surroundings, _ effects: inout Effects) {
        role = .leader
        leader = id
        candidacy = nil
        electionDeadline = nil
        let first = log.lastIndex.next
        extendLog(by: 1, term: term)
        adopt(PlacedConfiguration(index: first, configuration: configuration))
        effects.logChange = LogChange(
            truncateFrom: nil, first: first, count: 1, term: term, source: .configuration(configuration))
        leadership = Leadership(
            peers: configuration.members.filter { $0 != id }.map { Progress(peer: $0, next: first) },
            firstIndex: first, graceEnd: around.now + around.liveness.settings.promise)
        if hasSupport(around) { leadership!.graceEnd = nil }
        for peer in leadership!.peers.indices { sendProbe(to: peer, around, &effects) }
    }

    /// Whether the nodes of a majority stand by this one.
    func hasSupport(_ around: Surroundings) -> Bool {
        configuration.hasMajority { around.isSupported(by: $0) }
    }

    /// Steps down if a majority no longer stands by this node (§6.2): another leader may exist.
    private mutating func checkSupport(_ around: Surroundings, _ effects: inout Effects) {
        if hasSupport(around) {
            leadership!.graceEnd = nil
        } else if around.now >= leadership!.graceEnd ?? .distantPast {
            becomeFollower(around, &effects)
            waitAwake(around)
        }
    }

    mutating func leaderLivenessChanged(_ node: NodeAddress, _ around: Surroundings, _ effects: inout Effects) {
        checkSupport(around, &effects)
        guard role == .leader, around.liveness.supportStands(from: node, now: around.now) else { return }
        for position in leadership!.peers.indices where leadership!.peers[position].peer.address == node {
            reconnect(position, around, &effects)
        }
    }

    mutating func leaderDeadlineReached(_ around: Surroundings, _ effects: inout Effects) {
        if let transfer = leadership!.transfer, transfer.deadline <= around.now { leadership!.transfer = nil }
        checkSupport(around, &effects)
        guard role == .leader else { return }
        for position in leadership!.peers.indices {
            let peer = leadership!.peers[position]
            guard let due = retryDeadline(of: peer, around), due <= around.now else { continue }
            leadership!.peers[position].becomeProbe(now: around.now)
            // whoever does not answer has trouble enough without the same entries once more
            leadership!.peers[position].isSearching = true
            sendProbe(to: position, around, &effects)
        }
    }

    /// When to probe `peer` again; nil if it owes nothing, or while its node does not support us: news of that will
    /// come.
    private func retryDeadline(of peer: Progress, _ around: Surroundings) -> Instant? {
        guard peer.isWaiting, let since = peer.waitingSince, around.isSupported(by: peer.peer) else { return nil }
        return since + settings.retryInterval
    }

    /// What a leader does after every event: commits, answers reads, tells everybody what they lack.
    mutating func pursueLeadership(_ around: Surroundings, _ effects: inout Effects) {
        commitByMajority()
        pursueReads(around, &effects)
        for position in leadership!.peers.indices { feed(position, around, &effects) }
        pursueTransfer(&effects)
        var retry: Instant?
        for peer in leadership!.peers {
            guard let due = retryDeadline(of: peer, around) else { continue }
            retry = min(retry ?? due, due)
        }
        leadership!.retryDeadline = retry
    }
}

// MARK: Leadership transfer (dissertation §3.10)

extension Raft {
    mutating func transferLeadership(to wanted: PeerID?, _ around: Surroundings) {
        guard let leadership, leadership.transfer == nil, wanted != id else { return }
        guard let target = wanted ?? bestSuccessor(around), leadership.position(of: target) != nil else { return }
        self.leadership!.transfer = Leadership.Transfer(
            target: target, deadline: around.now + settings.electionTimeout)
    }

    /// The member with the longest log among those whose nodes support this one; the first of equals.
    private func bestSuccessor(_ around: Surroundings) -> PeerID? {
        var best: Progress?
        for peer in leadership?.peers ?? [] where around.isSupported(by: peer.peer) {
            if best == nil || peer.match > best!.match { best = peer }
        }
        return best?.peer
    }

    /// Tells the target to campaign as soon as it holds the whole log.
    private mutating func pursueTransfer(_ effects: inout Effects) {
        guard let transfer = leadership!.transfer, !transfer.isSent,
            let position = leadership!.position(of: transfer.target),
            leadership!.peers[position].match == log.lastIndex
        else { return }
        leadership!.transfer!.isSent = true
        let request = TimeoutNowRequest(term: term, oldLeaderSteppedDown: false)
        effects.messages.append(Outbound(to: transfer.target, body: .timeoutNow(request)))
    }

    mutating func note(
        _ reply: TimeoutNowReply, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard reply.term <= term else { return adopt(term: reply.term, around, &effects) }
        guard let transfer = leadership?.transfer, transfer.target == sender, transfer.isSent else { return }
        if !reply.success { leadership!.transfer = nil }
    }
}

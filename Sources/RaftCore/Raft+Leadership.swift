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

    /// Everybody else who gets the log, ascending: members, newcomers that catch up, and leavers until they were told.
    var peers: [Progress]
    /// Whether the leader itself counts for the majorities of the configuration's peers and old peers.
    var isVoter = false
    var isOldVoter = false
    /// The first entry of the leader's own term.
    let firstIndex: LogIndex
    /// Until then a new leader need not have the support of a majority; nil once it had.
    var graceEnd: Instant?
    /// When the first silent peer is due to be probed again; recomputed at the end of each step.
    var retryDeadline: Instant?
    /// When something that waits for a majority will have waited too long; nil if nothing waits.
    var stallDeadline: Instant?
    /// The commit index, the read round, and how far the voters had got, when ``stallDeadline`` was set.
    var stalledAt: (commit: LogIndex, round: UInt64, approach: Int64) = (.zero, 0, 0)
    /// Grows with everything that must be told to somebody. An answer to an append of a round proves that it left
    /// after everything before that round.
    var round: UInt64 = 0
    /// Appends of this round or later carry the present commit index.
    var commitRound: UInt64 = 0
    var transfer: Transfer?
    /// A TimeoutNow has left: somebody may be elected while promises stand, so no lease counts in this term.
    var hasGivenUpLease = false
    var change: MembershipChange?
    /// Whether members may be among ``peers`` that no configuration knows any more.
    var hasLeavers = false
    var reads = ReadQueue()

    /// Where `peer` stands in ``peers``.
    func position(of peer: PeerID) -> Int? { peers.firstIndex { $0.peer == peer } }
}

extension Raft {
    /// Wins the term. The first entry repeats the configuration, as braft's leaders do: it commits what earlier terms
    /// left (§5.4.2), and leaves while this disk still writes it (§10.2.1).
    mutating func becomeLeader(_ around: Surroundings, _ effects: inout Effects) {
        effects.elections.insert(.won)
        role = .leader
        leader = id
        candidacy = nil
        defeats = 0
        pledge = nil
        release = nil
        electionDeadline = nil
        let first = log.lastIndex.next
        extendLog(by: 1, term: term)
        adopt(PlacedConfiguration(index: first, configuration: configuration))
        effects.logChange = LogChange(
            truncateFrom: nil, first: first, count: 1, term: term, source: .configuration(configuration))
        leadership = Leadership(
            peers: [], firstIndex: first, graceEnd: around.now + around.liveness.settings.promise)
        for read in followerReads.close() { leadership!.reads.waiting.append(.local(read)) }
        trackMembers(around)
        if hasSupport(around) { leadership!.graceEnd = nil }
        for peer in leadership!.peers.indices { sendProbe(to: peer, around, &effects) }
    }

    /// Whether a majority stands by this node, a foreign member by having answered lately.
    func hasSupport(_ around: Surroundings) -> Bool {
        guard let leadership else { return false }
        return leadership.hasMajority(itself: true) { peer in
            if around.isForeign(peer.peer) { return around.now < peer.answeredAt + settings.electionTimeout }
            return around.isSupported(by: peer.peer)
        }
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

    /// Ends this leadership, of its own accord, and wakes a successor if one is fit (dissertation §3.10).
    mutating func resign(_ around: Surroundings, _ effects: inout Effects) {
        if let successor = bestSuccessor(around) {
            let request = TimeoutNowRequest(term: term, oldLeaderSteppedDown: true)
            effects.messages.append(Outbound(to: successor, body: .timeoutNow(request)))
        }
        becomeFollower(around, &effects)
        waitAwake(around)
    }

    /// Everything that ends with a leadership: nobody may be answered from here, and voters are set free.
    mutating func endLeadership(_ around: Surroundings, _ effects: inout Effects) {
        #if MUTANTS
            if planted("deposed-leader-answers-reads") { answerReadsAnyway(&effects) }
        #endif
        failReads(&effects)
        failChange(.unknown, &effects)
        let followers = leadership!.peers.map(\.peer)
        leadership = nil
        beginRelease(followers, around, &effects)
    }

    mutating func leaderLivenessChanged(_ node: NodeAddress, _ around: Surroundings, _ effects: inout Effects) {
        checkSupport(around, &effects)
        let isBack = around.liveness.supportStands(from: node, now: around.now) || around.liveness.isForeign(node)
        guard role == .leader, isBack else { return }
        for position in leadership!.peers.indices where leadership!.peers[position].peer.address == node {
            reconnect(position, around, &effects)
        }
    }

    mutating func leaderDeadlineReached(_ around: Surroundings, _ effects: inout Effects) {
        if let transfer = leadership!.transfer, transfer.deadline <= around.now { leadership!.transfer = nil }
        checkSupport(around, &effects)
        guard role == .leader else { return }
        if let stall = leadership!.stallDeadline, stall <= around.now { return resign(around, &effects) }
        checkCatchUp(around, &effects)
        for position in leadership!.peers.indices {
            let peer = leadership!.peers[position]
            guard let due = retryDeadline(of: peer, around), due <= around.now else { continue }
            if let since = peer.waitingSince, peer.isWaiting, peer.state != .snapshot,
                since + settings.retryInterval <= around.now
            {
                leadership!.peers[position].becomeProbe(now: around.now)
                // whoever does not answer has trouble enough without the same entries once more
                leadership!.peers[position].isSearching = true
                sendProbe(to: position, around, &effects)
            } else {
                sendEmpty(to: position, around, &effects)
            }
        }
    }

    /// When to send `peer` something again; nil if it owes nothing, or while its node does not support us: news of that
    /// will come. A foreign member gets heartbeats for ever.
    @inline(__always) private func retryDeadline(of peer: Progress, _ around: Surroundings) -> Instant? {
        if around.isForeign(peer.peer) {
            let awaitsAppend = peer.isWaiting && peer.state != .snapshot
            let retry = awaitsAppend ? peer.waitingSince.map { $0 + settings.retryInterval } : nil
            return earliest(retry, peer.sentAt + settings.heartbeatInterval)
        }
        guard peer.isWaiting, peer.state != .snapshot, let since = peer.waitingSince,
            around.isSupported(by: peer.peer)
        else { return nil }
        return since + settings.retryInterval
    }

    /// What a leader does after every event: commits, answers reads, goes on with a change of membership, tells
    /// everybody what they lack.
    mutating func pursueLeadership(_ around: Surroundings, _ effects: inout Effects) {
        commitByMajority()
        pursueMembership(around, &effects)
        guard role == .leader else { return }
        pursueReads(around, &effects)
        for position in leadership!.peers.indices { feed(position, around, &effects) }
        if leadership!.hasLeavers { forgetLeavers() }
        pursueTransfer(&effects)
        watchForStall(around)
        var retry: Instant?
        for position in leadership!.peers.indices {
            retry = earliest(retry, retryDeadline(of: leadership!.peers[position], around))
        }
        leadership!.retryDeadline = retry
    }

    /// A leader that its voters' nodes support but that gets nothing done must go: a proposal or a read that finds no
    /// majority for two promises ends its leadership (Liveness, rule 10). Not if nobody else could lead, and not while a
    /// majority needs members that are sent snapshots: another leader would get no further, and they no faster.
    private mutating func watchForStall(_ around: Surroundings) {
        guard commitIndex < log.lastIndex || !leadership!.reads.isEmpty,
            leadership!.peers.contains(where: { $0.isVoter || $0.isOldVoter }),
            leadership!.hasMajority(itself: true, where: { $0.state != .snapshot })
        else {
            return leadership!.stallDeadline = nil
        }
        // voters that come nearer to the oldest entry that waits will have it in the end
        let mark = (
            commit: commitIndex, round: leadership!.reads.round, approach: leadership!.approach(to: commitIndex.next)
        )
        if leadership!.stallDeadline == nil || mark != leadership!.stalledAt {
            leadership!.stalledAt = mark
            let promise = around.liveness.settings.promise
            leadership!.stallDeadline = around.now + promise + promise
        }
    }
}

extension Leadership {
    /// Grows as long as a voter that lacks the entry at `index` gets entries before it.
    func approach(to index: LogIndex) -> Int64 {
        var sum: Int64 = 0
        for position in peers.indices where peers[position].isVoter || peers[position].isOldVoter {
            sum += min(peers[position].match, index).rawValue
        }
        return sum
    }

    /// Whether the voters for whom `holds` is true, the leader itself included if `itself` is, are a majority of the
    /// configuration's peers, and of its old peers while joint.
    @inline(__always) func hasMajority(itself: Bool, where holds: (Progress) -> Bool) -> Bool {
        var (yes, all, oldYes, oldAll) = (0, 0, 0, 0)
        if isVoter { (yes, all) = (itself ? 1 : 0, 1) }
        if isOldVoter { (oldYes, oldAll) = (itself ? 1 : 0, 1) }
        for position in peers.indices where peers[position].isVoter || peers[position].isOldVoter {
            let counts = holds(peers[position]) ? 1 : 0
            if peers[position].isVoter { (yes, all) = (yes + counts, all + 1) }
            if peers[position].isOldVoter { (oldYes, oldAll) = (oldYes + counts, oldAll + 1) }
        }
        if planted("half-is-a-majority") { return yes >= all / 2 && (oldAll == 0 || oldYes > oldAll / 2) }
        if planted("joint-counts-the-new-only") { return yes > all / 2 }
        if planted("joint-counts-the-old-only"), oldAll > 0 { return oldYes > oldAll / 2 }
        if planted("joint-counted-as-one") { return yes + oldYes > (all + oldAll) / 2 }
        return yes > all / 2 && (oldAll == 0 || oldYes > oldAll / 2)
    }
}

// MARK: Leadership transfer (dissertation §3.10)

extension Raft {
    mutating func transferLeadership(to wanted: PeerID?, _ around: Surroundings) {
        guard let leadership, leadership.transfer == nil, !isChangingMembership, wanted != id else { return }
        guard let target = wanted ?? bestSuccessor(around), isFit(target), leadership.position(of: target) != nil else {
            return
        }
        self.leadership!.transfer = Leadership.Transfer(
            target: target, deadline: around.now + settings.electionTimeout)
    }

    private func isFit(_ peer: PeerID) -> Bool { configuration.isVoter(peer) && !configuration.isWitness(peer) }

    /// The voter with the longest log among those whose nodes support this one; the first of equals. A foreign one that
    /// answers, only if there is no other: it may be unable to serve what the group holds.
    private func bestSuccessor(_ around: Surroundings) -> PeerID? {
        var best: Progress?
        var bestForeign: Progress?
        for peer in leadership?.peers ?? [] where isFit(peer.peer) {
            if around.isForeign(peer.peer) {
                guard around.now < peer.answeredAt + settings.electionTimeout else { continue }
                if bestForeign == nil || peer.match > bestForeign!.match { bestForeign = peer }
            } else if around.isSupported(by: peer.peer) {
                if best == nil || peer.match > best!.match { best = peer }
            }
        }
        return (best ?? bestForeign)?.peer
    }

    /// Tells the target to campaign as soon as it holds the whole log.
    private mutating func pursueTransfer(_ effects: inout Effects) {
        guard let transfer = leadership!.transfer, !transfer.isSent,
            let position = leadership!.position(of: transfer.target),
            leadership!.peers[position].match == log.lastIndex
        else { return }
        leadership!.transfer!.isSent = true
        leadership!.hasGivenUpLease = !planted("lease-kept-while-handing-over")
        let request = TimeoutNowRequest(term: term, oldLeaderSteppedDown: false)
        effects.messages.append(Outbound(to: transfer.target, body: .timeoutNow(request)))
    }

    /// Whether `replyTerm` is the one in which a braft campaigns that was told to, which answers TimeoutNow with it, and
    /// everything else meanwhile. Whoever stepped down for that could not tell its vote request that a leader has gone for
    /// its sake, and those who stand by that leader would refuse it. The request ends this leadership, or the transfer's
    /// deadline the wait for it.
    func isOfHandOver(_ replyTerm: Term, _ around: Surroundings) -> Bool {
        guard let transfer = leadership?.transfer else { return false }
        return transfer.isSent && replyTerm == term.next && around.isForeign(transfer.target)
    }

    mutating func note(
        _ reply: TimeoutNowReply, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let transfer = leadership?.transfer.flatMap { $0.target == sender && $0.isSent ? $0 : nil }
        guard !isOfHandOver(reply.term, around) else { return }
        guard reply.term <= term else { return adopt(term: reply.term, around, &effects) }
        guard transfer != nil else { return }
        if !reply.success { leadership!.transfer = nil }
    }
}

// MARK: Releasing (Liveness, rule 8)

/// A leadership that is over while the node lives on: as long as promises to it stand, voters would stand by nobody.
/// Whose promise has lapsed by this node's count is told when it stands again: it may have outlived the count.
struct Release: Sendable {
    /// The term that was led.
    let term: Term
    /// Followers that have not answered.
    var unanswered: [PeerID]
    /// When to send again; nil while none of them stands by this node.
    var retryAt: Instant?
}

extension Raft {
    private mutating func beginRelease(
        _ followers: [PeerID], _ around: Surroundings, _ effects: inout Effects
    ) {
        let unanswered = followers.filter { !around.isForeign($0) }
        guard !unanswered.isEmpty, !planted("no-release") else { return release = nil }
        release = Release(term: term, unanswered: unanswered)
        sendRelease(around, &effects)
    }

    private mutating func sendRelease(_ around: Surroundings, _ effects: inout Effects) {
        guard let release else { return }
        self.release!.retryAt = nil
        for follower in release.unanswered where around.isSupported(by: follower) {
            effects.messages.append(Outbound(to: follower, body: .release(ReleaseRequest(term: release.term))))
            self.release!.retryAt = around.now + settings.retryInterval
        }
    }

    mutating func repeatRelease(_ around: Surroundings, _ effects: inout Effects) {
        guard let due = release?.retryAt, due <= around.now else { return }
        sendRelease(around, &effects)
    }

    /// Whoever stands by this node again may be loyal still.
    mutating func hastenRelease(to node: NodeAddress, _ around: Surroundings) {
        guard let release, release.unanswered.contains(where: { $0.address == node && around.isSupported(by: $0) })
        else { return }
        self.release!.retryAt = around.now
    }

    mutating func note(_ reply: ReleaseReply, from sender: PeerID, _ effects: inout Effects) {
        guard release?.term == reply.term else { return }
        release!.unanswered.removeAll { $0 == sender }
        if release!.unanswered.isEmpty { release = nil }
    }

    /// Sets free whoever is loyal to `sender` for that term or an earlier one.
    mutating func heed(
        _ request: ReleaseRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        effects.reply = .releaseReply(ReleaseReply(term: request.term))
        if request.term >= released?.term ?? .zero { released = TermLeader(leader: sender, term: request.term) }
        if let pledge {
            let isMeant = pledge.leader == sender && (pledge.term <= request.term || planted("old-releases-count"))
            if isMeant || planted("anybody-releases") { self.pledge = nil }
        }
        if leader == sender, request.term >= term { loseLeader(around) }
    }
}

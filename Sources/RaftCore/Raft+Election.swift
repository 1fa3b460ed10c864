/// A campaign under way.
struct Candidacy: Sendable {
    /// Who granted the (pre-)vote, the candidate first.
    var granted: [PeerID]
    /// The leader that told this replica to campaign, if one did, or that a voter says has gone for its sake.
    var handOver: TermLeader?
    /// Foreign voters that stand by a leader, and have not been told that it has gone.
    var setAside: [PeerID] = []
    /// Those who have been told since; nobody is asked a third time.
    var askedAgain: [PeerID] = []
    /// Who has refused it, of our own kind.
    var refused: [PeerID] = []
    /// Too many have refused, or can give no answer: the next one has been settled.
    var isConceded = false
}

/// The leader that a replica accepted last. While the promise under which its node then supported the leader's node
/// stands, the replica is loyal: leases count on it. Terms that others reach do not end that, only the leader itself does: by
/// asking for votes, by handing over, by a release; or a successor, whom a majority that is free has elected.
struct Pledge: Sendable {
    /// Whom.
    let leader: PeerID
    /// The promise under which it was accepted; nil if none stood, or if it is a replica of this node. A later one says
    /// nothing of this group: its node may be supported for the sake of others.
    let promise: SupportStamp?
    /// In which term.
    let term: Term
    /// Of a foreign leader, which knows no promises: when loyalty ends without another message (braft's follower lease).
    var leaseEnd: Instant?
}

// MARK: Waiting

extension Raft {
    mutating func start(_ around: Surroundings) {
        precondition(!hasStarted, "a replica starts once")
        hasStarted = true
        // who never was in a term has followed nobody
        if followedForeigners, settings.foreignLeases, term > .zero { startLeaseEnd = foreignLeaseEnd(around) }
        wake(from: max(around.now, around.liveness.quietUntil, startLeaseEnd))
    }

    /// Arms a short random delay: there seems to be no leader. Random, so that few campaign at once (§5.2).
    mutating func wake(from earliest: Instant) {
        armElection(at: configuration.members == [id] ? earliest : earliest + randomDelay())
    }

    /// Arms a long delay: somebody deserves the time to lead, or to be elected.
    mutating func waitAwake(_ around: Surroundings) {
        armElection(at: around.now + settings.electionTimeout + randomDelay())
    }

    private mutating func armElection(at instant: Instant) {
        electionDeadline = mayCampaign ? instant : nil
    }

    /// Arms a delay for when all members learn at once that their leader has gone: the first in the group's order asks
    /// at once, and has won, most often, before the next one does (Liveness, rule 20).
    private mutating func wakeInTurn(_ around: Surroundings) {
        defeats = 0
        let turn = Interval(nanoseconds: rank(around) * settings.electionJitter.nanoseconds)
        armElection(at: around.now + turn + priorityDelay + shortDelay())
    }

    /// The lower a replica's priority, the later it campaigns.
    private mutating func randomDelay() -> Interval {
        let jitter = settings.electionJitter.nanoseconds
        return Interval(nanoseconds: priorityDelay.nanoseconds + random.number(in: 1..<jitter + 1))
    }

    private var priorityDelay: Interval {
        let steps = Int64(RaftSettings.highestPriority - settings.electionPriority)
        return Interval(nanoseconds: steps * settings.electionJitter.nanoseconds)
    }

    /// An eighth of the jitter at most.
    private mutating func shortDelay() -> Interval {
        Interval(nanoseconds: random.number(in: 1..<settings.electionJitter.nanoseconds / 8 + 2))
    }

    /// How many of the voters that may lead now come before this one. Each group has an order of its own, so that the
    /// groups of a dead node are spread over the others.
    private func rank(_ around: Surroundings) -> Int64 {
        var (count, own) = (0, 0)
        for peer in configuration.voters where peer == id || mayLead(peer, around) {
            if peer == id { own = count }
            count += 1
        }
        let first = Int(settings.electionOrder % UInt64(max(count, 1)))
        return Int64(own >= first ? own - first : own + count - first)
    }

    private func mayLead(_ peer: PeerID, _ around: Surroundings) -> Bool {
        !configuration.isWitness(peer) && !around.isForeign(peer) && mayAnswer(peer, around)
    }

    /// Whether a vote of `peer` is worth waiting for: not one of a leader that was given up.
    private func mayAnswer(_ peer: PeerID, _ around: Surroundings) -> Bool {
        around.isReachable(peer) && (pledge?.leader != peer || isPledged(around))
    }

    /// Takes `leader` as the leader of this term, and rests if this node has promised to stand by it.
    mutating func follow(_ newLeader: PeerID, _ around: Surroundings, _ effects: inout Effects) {
        if candidacy != nil { effects.elections.insert(.lostToLeader) }
        role = .follower
        candidacy = nil
        defeats = 0
        leader = newLeader
        startLeaseEnd = .distantPast
        let isForeign = around.isForeign(sender: newLeader)
        // under a promise to the run that speaks: an earlier one has ended, and a later one leads nothing, so that nobody
        // would end a loyalty to it; and who knows nothing of promises may only have the name of a node that has one
        pledge = Pledge(
            leader: newLeader, promise: around.senderIsForeign ? nil : around.promise(toSender: newLeader), term: term,
            leaseEnd: isForeign ? foreignLeaseEnd(around) : nil)
        restOrWait(for: newLeader, around)
    }

    /// Rests under the promise to the leader that it follows, or gives it the time to show itself.
    mutating func restOrWait(for leader: PeerID, _ around: Surroundings) {
        if restsUnderPromise(around) { electionDeadline = nil } else { waitAwake(around) }
    }

    /// Whether it is loyal to a leader whose end it will hear of.
    private func restsUnderPromise(_ around: Surroundings) -> Bool { pledge?.leaseEnd == nil && isPledged(around) }

    /// Whether it owes loyalty to the leader that it accepted last.
    func isPledged(_ around: Surroundings) -> Bool {
        guard let pledge, !planted("loyal-to-nobody") else { return false }
        if let end = pledge.leaseEnd {
            // whatever is there now, or known to be: the lease was given
            if around.now < end { return true }
            if around.isForeign(pledge.leader) { return false }
        }
        return around.hasPromised(pledge.leader)
            && (around.promise(to: pledge.leader) == pledge.promise || planted("loyal-to-any-run"))
    }

    /// When loyalty to a foreign leader ends that speaks now.
    private func foreignLeaseEnd(_ around: Surroundings) -> Instant {
        around.now + settings.foreignLease
    }

    /// Whether that loyalty stands against a real election too: not if its leader, a foreign one, counts on no leases.
    private func owesItsVote(_ around: Surroundings) -> Bool {
        isPledged(around) && (settings.foreignLeases || pledge?.leaseEnd == nil)
    }

    /// Whether, in a run before this one, it may have accepted a foreign leader whose lease is not over. Nobody knows
    /// who that was: the membership may have changed since, and whoever is there may not have been found out yet.
    private func mayOweLease(_ around: Surroundings) -> Bool { around.now < startLeaseEnd }

    /// Stops leading or campaigning and waits, awake, for what comes.
    mutating func becomeFollower(_ around: Surroundings, _ effects: inout Effects) {
        let handsOver = leadership?.transfer != nil
        if role == .leader { endLeadership(around, &effects) }
        let wasIdle = role == .leader || electionDeadline == nil
        let campaigned = role == .candidate || role == .preCandidate
        role = .follower
        leader = nil
        candidacy = nil
        // whoever was chosen deserves the time to be elected
        if handsOver { return waitAwake(around) }
        if wasIdle || campaigned || !mayCampaign { wake(from: around.now) }
    }

    /// Adopts a term that somebody else has reached.
    mutating func adopt(term newTerm: Term, _ around: Surroundings, _ effects: inout Effects) {
        precondition(newTerm > term, "the term never goes back")
        if candidacy != nil { effects.elections.insert(.lostToTerm) }
        // first, so that a leadership ends in its own term
        becomeFollower(around, &effects)
        term = newTerm
        vote = nil
    }

    /// A promise to `node` was gained or lapsed: whoever follows a leader there rests with it and wakes without it.
    /// Whoever found too few nodes to campaign looks again.
    mutating func livenessChanged(_ node: NodeAddress, _ around: Surroundings, _ effects: inout Effects) {
        hastenRelease(to: node, around)
        if let leader, leader.address == node, restsUnderPromise(around) {
            electionDeadline = nil
        } else if electionDeadline == nil, leader == nil || leader?.address == node {
            // nothing will wake it: whoever asks is not to hear of a leader that is gone
            if !mayCampaign, role == .follower, leader != nil, !isPledged(around) { leader = nil }
            wakeInTurn(around)
        } else {
            // whose vote was waited for may be gone
            concedeIfLost(around, &effects)
        }
    }
}

// MARK: Campaigning

extension Raft {
    mutating func followerDue(_ around: Surroundings, _ effects: inout Effects) {
        repeatRelease(around, &effects)
        guard let due = electionDeadline, due <= around.now else { return }
        guard mayCampaign else {
            // it was told to campaign, and has lost
            if role == .follower { electionDeadline = nil } else { becomeFollower(around, &effects) }
            return
        }
        guard !around.isQuiet else { return wake(from: around.liveness.quietUntil) }
        guard role != .follower || !mayOweLease(around) else { return wake(from: startLeaseEnd) }
        if let leader, leader == pledge?.leader, isPledged(around) {
            if restsUnderPromise(around) { electionDeadline = nil } else { waitAwake(around) }
            return
        }
        // without a majority there is nothing to ask for; news of it will come
        guard configuration.hasMajority(where: { $0 == id || around.isReachable($0) }) else {
            if role != .follower {
                effects.elections.insert(.unanswered)
                becomeFollower(around, &effects)
            }
            leader = nil
            return electionDeadline = nil
        }
        preVote(around, &effects)
    }

    /// Asks whether an election could be won, without disturbing anybody's term (§9.6).
    private mutating func preVote(_ around: Surroundings, _ effects: inout Effects) {
        if case .some(let candidacy) = candidacy, !candidacy.isConceded { effects.elections.insert(.unanswered) }
        effects.elections.insert(.asked)
        role = .preCandidate
        leader = nil
        candidacy = Candidacy(granted: [id], handOver: nil)
        waitAwake(around)
        let request = VoteRequest(isPreVote: true, term: term.next, last: log.last)
        for peer in configuration.voters where peer != id {
            effects.messages.append(Outbound(to: peer, body: .vote(request)))
        }
        if hasWon { finishPreVote(around, &effects) }
    }

    /// Whoever is loyal to a leader of an earlier term, or in debt, asks, so that it is heard of, and leaves it at that:
    /// a leader answers with a probe, and who stood by this replica as leader is free.
    private mutating func finishPreVote(_ around: Surroundings, _ effects: inout Effects) {
        if !isPledged(around), !isDebtor { campaign(handOver: nil, around, &effects) }
    }

    /// Stands for election in a new term (§5.2). The requests wait for the candidate's own vote to be durable.
    private mutating func campaign(handOver: TermLeader?, _ around: Surroundings, _ effects: inout Effects) {
        effects.elections.insert(.stood)
        role = .candidate
        leader = nil
        term = term.next
        vote = id
        candidacy = Candidacy(granted: [id], handOver: handOver)
        waitForVotes(around)
        let request = VoteRequest(isPreVote: false, term: term, last: log.last, handOver: handOver)
        for peer in configuration.voters where peer != id {
            let outbound = Outbound(to: peer, body: .vote(request))
            if planted("candidate-asks-before-its-vote-is-durable") {
                effects.messages.append(outbound)
            } else {
                effects.durableMessages.append(outbound)
            }
        }
        if hasWon { becomeLeader(around, &effects) }
    }

    /// Also one who would not campaign of its own accord, but was told to, gives up in the end.
    private mutating func waitForVotes(_ around: Surroundings) {
        electionDeadline = around.now + settings.electionTimeout + randomDelay()
    }

    /// Whether it may be lacking what others count on it to have: it must not lead.
    private var isDebtor: Bool { debt != nil && !planted("debtor-campaigns") }

    /// Whether it may be lacking what nobody else has: it cannot lead, and there is nobody to ask.
    var isLonelyDebtor: Bool { isDebtor && configuration.voters.allSatisfy { $0 == id } }

    private var hasWon: Bool {
        guard let candidacy else { return false }
        return configuration.hasMajority { candidacy.granted.contains($0) }
    }

    mutating func count(
        _ reply: VoteReply, from voter: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard reply.term <= term else { return adopt(term: reply.term, around, &effects) }
        guard configuration.isVoter(voter) else { return effects.refusal = .unknownPeer }
        let isCurrent =
            reply.isPreVote
            ? role == .preCandidate && reply.requestTerm == term.next
            : role == .candidate && (reply.requestTerm == term || planted("votes-of-other-terms-count"))
        let isPreVoteForVote = planted("pre-votes-count-as-votes") && reply.isPreVote && role == .candidate
        if isCurrent, !reply.isPreVote, let details = reply.details {
            note(details, granted: reply.granted, of: voter, &effects)
        }
        guard isCurrent || isPreVoteForVote, candidacy?.granted.contains(voter) == false else { return }
        guard reply.granted else { return noteRefusal(of: voter, around, &effects) }
        // the request left after this replica's own vote was durable
        if !reply.isPreVote { durableTerm = term }
        candidacy?.granted.append(voter)
        guard hasWon else { return }
        if role == .preCandidate {
            finishPreVote(around, &effects)
        } else {
            becomeLeader(around, &effects)
        }
    }

    private mutating func noteRefusal(of voter: PeerID, _ around: Surroundings, _ effects: inout Effects) {
        // a braft may be asked again
        guard !around.isForeign(sender: voter), candidacy?.refused.contains(voter) == false else { return }
        candidacy?.refused.append(voter)
        concedeIfLost(around, &effects)
    }

    /// Waits no longer for votes that cannot be enough any more: the next campaign begins the sooner, the earlier this
    /// replica's turn is, and the later, the more of them were lost like this (Liveness, rule 21).
    private mutating func concedeIfLost(_ around: Surroundings, _ effects: inout Effects) {
        guard let candidacy, !candidacy.isConceded, !candidacy.refused.isEmpty, let due = electionDeadline,
            !configuration.hasMajority(where: {
                candidacy.granted.contains($0) || (!candidacy.refused.contains($0) && mayAnswer($0, around))
            })
        else { return }
        effects.elections.insert(.refused)
        self.candidacy?.isConceded = true
        let jitter = settings.electionJitter.nanoseconds
        let turn = rank(around) * (jitter / 2) + (jitter / 8) << Int64(defeats)
        if defeats < 5 { defeats += 1 }
        let delay = min(Interval(nanoseconds: turn), settings.electionTimeout)
        electionDeadline = min(due, around.now + delay + priorityDelay + shortDelay())
    }

    /// braft's voters that stand by a leader are asked once more as soon as that one is known to have gone.
    private mutating func note(
        _ details: VoteDetails, granted: Bool, of voter: PeerID, _ effects: inout Effects
    ) {
        guard var candidacy else { return }
        if details.isDisrupted, candidacy.handOver == nil {
            candidacy.handOver = TermLeader(leader: voter, term: details.previousTerm)
            // our own voters do not say what holds them
            candidacy.setAside = configuration.voters.filter {
                $0 != id && $0 != voter && !candidacy.granted.contains($0)
            }
        } else if !granted, details.isRejectedByLease, !candidacy.setAside.contains(voter),
            !candidacy.askedAgain.contains(voter)
        {
            candidacy.setAside.append(voter)
        }
        if let handOver = candidacy.handOver, !candidacy.setAside.isEmpty {
            candidacy.askedAgain += candidacy.setAside
            let request = VoteRequest(isPreVote: false, term: term, last: log.last, handOver: handOver)
            for peer in candidacy.setAside { effects.messages.append(Outbound(to: peer, body: .vote(request))) }
            candidacy.setAside.removeAll()
        }
        self.candidacy = candidacy
    }

    /// TimeoutNow (§3.10): campaigns at once, in the name of the leader that hands over.
    mutating func campaignNow(
        _ request: TimeoutNowRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let isFree = pledge?.leader == sender || !owesItsVote(around)
        let campaigns =
            request.term == term && role == .follower && (leader == nil || leader == sender) && isFree && !isDebtor
            && configuration.isVoter(id) && !configuration.isWitness(id) && !around.isQuiet
        if request.term > term { adopt(term: request.term, around, &effects) }
        // in the answer the term before the campaign: the old leader must not step down before it has voted
        effects.reply = .timeoutNowReply(TimeoutNowReply(term: term, success: campaigns))
        guard campaigns else { return }
        pledge = nil
        // a foreign leader that has not stepped down may go on leading: its own answer to the vote will tell
        let hasGone = request.oldLeaderSteppedDown || !around.isForeign(sender: sender)
        campaign(handOver: hasGone ? TermLeader(leader: sender, term: term) : nil, around, &effects)
    }
}

// MARK: Voting

extension Raft {
    mutating func consider(
        _ request: VoteRequest, from asker: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let before = (term: term, leads: role == .leader)
        let verdict = judge(request, of: asker, around, &effects)
        effects.verdict = verdict
        let granted = verdict == .granted
        var details: VoteDetails?
        if around.isForeign(sender: asker) {
            let leads = role == .leader
            details = VoteDetails(
                // a leader that would not go must not be taken for one that has gone
                isDisrupted: before.leads && (request.isPreVote ? granted : !leads), previousTerm: before.term,
                isRejectedByLease: !granted && !leads && request.term >= term && request.last >= lastEverHeld
                    && isLoyal(against: asker, request, around))
        }
        let reply = Message.voteReply(
            VoteReply(
                isPreVote: request.isPreVote, requestTerm: request.term, term: term, granted: granted,
                details: details))
        let mustBeDurable = granted && !request.isPreVote && !planted("vote-answered-before-durable")
        if mustBeDurable { effects.acknowledgement = reply } else { effects.reply = reply }
    }

    private mutating func judge(
        _ request: VoteRequest, of asker: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) -> VoteVerdict {
        guard !around.isQuiet else { return .quiet }
        noteEnd(of: asker, request)
        guard !isLoyal(against: asker, request, around) else {
            // an asker that does not follow a living leader is told of it, else it would ask for ever
            if role == .leader { reconnect(asker, around, &effects) }
            return .loyal
        }
        guard request.term >= term else { return .outdated }
        let isUpToDate =
            planted("vote-for-shorter-logs")
            || (planted("logs-compared-by-length")
                ? request.last.index >= log.last.index : request.last >= lastEverHeld)
        guard !request.isPreVote else {
            if asker == leader, request.term > term { loseLeader(around) }
            guard isUpToDate else {
                hasten(around)
                return .shorterLog
            }
            // it would learn of this vote only when it has given its own to itself; brafts are answered as brafts do
            let isGiven = request.term == term && vote != nil && vote != asker && !around.isForeign(sender: asker)
            return isGiven ? .taken : .granted
        }
        if request.term > term { adopt(term: request.term, around, &effects) }
        guard isUpToDate else { return .shorterLog }
        // a term that has a leader has no use for another candidate
        guard vote == nil || vote == asker || planted("two-votes-in-a-term"),
            leader == nil || leader == asker || planted("two-votes-in-a-term")
        else { return .taken }
        vote = asker
        role = .follower
        candidacy = nil
        if leader == nil { waitAwake(around) }
        return .granted
    }

    /// Somebody asks who cannot have this replica's vote, for its log is shorter: so this one asks soon, if it was
    /// about to. It may be the only one that can win. A leader that it followed under a promise is over by now.
    private mutating func hasten(_ around: Surroundings) {
        guard role == .follower, leader == nil || (leader == pledge?.leader && pledge?.promise != nil),
            let due = electionDeadline, due < around.now + settings.electionTimeout
        else { return }
        electionDeadline = min(due, around.now + shortDelay())
    }

    /// What candidates are compared with (§5.4.1): the log as if it had never been damaged.
    private var lastEverHeld: LogPosition {
        guard let debt, !planted("debt-is-forgotten-in-votes") else { return log.last }
        return max(log.last, debt)
    }

    /// A vote asked by the leader itself, or in the name of its hand-over, ends the loyalty to it. An old one that was
    /// long under way, from before it led, does not.
    private mutating func noteEnd(of asker: PeerID, _ request: VoteRequest) {
        guard let pledge, request.term > pledge.term || planted("late-votes-end-loyalty") else { return }
        let handsOver =
            !request.isPreVote && request.handOver == TermLeader(leader: pledge.leader, term: pledge.term)
        if asker == pledge.leader || handsOver { self.pledge = nil }
    }

    /// Leader stickiness (§4.2.3, §6.4.1): while this node's promise to the leader it accepted stands, a replica hears
    /// no other candidate, nor its term; nor does a leader with its majority.
    private func isLoyal(against asker: PeerID, _ request: VoteRequest, _ around: Surroundings) -> Bool {
        guard role == .leader else {
            if request.isPreVote ? isPledged(around) : owesItsVote(around) { return true }
            // a leader that has gone, of this term or a later one: a majority was free to elect it
            return mayOweLease(around) && request.handOver?.term ?? .zero < term
        }
        return request.handOver != TermLeader(leader: id, term: term) && leadership?.transfer?.target != asker
            && hasSupport(around)
    }

    /// Only a replica that does not lead asks for pre-votes beyond its term: the leader we knew leads no longer.
    mutating func loseLeader(_ around: Surroundings) {
        leader = nil
        wake(from: around.now)
    }
}

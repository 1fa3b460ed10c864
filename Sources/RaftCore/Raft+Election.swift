/// A campaign under way.
struct Candidacy: Sendable {
    /// Who granted the (pre-)vote, the candidate first.
    var granted: [PeerID]
    /// The leader that told this replica to campaign, if one did.
    var handOver: TermLeader?
}

// MARK: Waiting

extension Raft {
    mutating func start(_ around: Surroundings) {
        precondition(!hasStarted, "a replica starts once")
        hasStarted = true
        wake(from: max(around.now, around.liveness.quietUntil))
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
        electionDeadline = configuration.contains(id) ? instant : nil
    }

    private mutating func randomDelay() -> Interval {
        Interval(nanoseconds: random.number(in: 1..<settings.electionJitter.nanoseconds + 1))
    }

    /// Takes `leader` as the leader of this term, and rests if this node has promised to stand by it.
    mutating func follow(_ newLeader: PeerID, _ around: Surroundings) {
        role = .follower
        candidacy = nil
        leader = newLeader
        leaderRun = around.liveness.runNumber(of: newLeader.address)
        if standsBy(newLeader, around) { electionDeadline = nil } else { waitAwake(around) }
    }

    /// Whether this node's promise stands to the very run of the leader's node that led: one that was restarted leads
    /// nothing.
    private func standsBy(_ leader: PeerID, _ around: Surroundings) -> Bool {
        around.hasPromised(leader) && around.liveness.runNumber(of: leader.address) == leaderRun
    }

    /// Stops leading or campaigning and waits, awake, for what comes.
    mutating func becomeFollower(_ around: Surroundings, _ effects: inout Effects) {
        if role == .leader { failReads(&effects) }
        let wasIdle = role == .leader || electionDeadline == nil
        let campaigned = role == .candidate || role == .preCandidate
        role = .follower
        leader = nil
        candidacy = nil
        leadership = nil
        if wasIdle || campaigned || !configuration.contains(id) { wake(from: around.now) }
    }

    /// Adopts a term that somebody else has reached.
    mutating func adopt(term newTerm: Term, _ around: Surroundings, _ effects: inout Effects) {
        precondition(newTerm > term, "the term never goes back")
        term = newTerm
        vote = nil
        becomeFollower(around, &effects)
    }

    /// A promise to `node` was gained or lapsed: whoever follows a leader there rests with it and wakes without it.
    mutating func livenessChanged(_ node: NodeAddress, _ around: Surroundings) {
        guard let leader, leader.address == node else { return }
        if standsBy(leader, around) {
            electionDeadline = nil
        } else if electionDeadline == nil {
            wake(from: around.now)
        }
    }
}

// MARK: Campaigning

extension Raft {
    mutating func electionDue(_ around: Surroundings, _ effects: inout Effects) {
        guard let due = electionDeadline, due <= around.now else { return }
        guard configuration.contains(id) else { return electionDeadline = nil }
        guard !around.isQuiet else { return wake(from: around.liveness.quietUntil) }
        if let leader, standsBy(leader, around) { return electionDeadline = nil }
        preVote(around, &effects)
    }

    /// Asks whether an election could be won, without disturbing anybody's term (§9.6).
    private mutating func preVote(_ around: Surroundings, _ effects: inout Effects) {
        role = .preCandidate
        leader = nil
        candidacy = Candidacy(granted: [id], handOver: nil)
        waitAwake(around)
        let request = VoteRequest(isPreVote: true, term: term.next, last: log.last)
        for peer in configuration.members where peer != id {
            effects.messages.append(Outbound(to: peer, body: .vote(request)))
        }
        if hasWon { campaign(handOver: nil, around, &effects) }
    }

    /// Stands for election in a new term (§5.2). The requests wait for the candidate's own vote to be durable.
    private mutating func campaign(handOver: TermLeader?, _ around: Surroundings, _ effects: inout Effects) {
        role = .candidate
        leader = nil
        term = term.next
        vote = id
        candidacy = Candidacy(granted: [id], handOver: handOver)
        waitAwake(around)
        let request = VoteRequest(isPreVote: false, term: term, last: log.last, handOver: handOver)
        for peer in configuration.members where peer != id {
            effects.durableMessages.append(Outbound(to: peer, body: .vote(request)))
        }
        if hasWon { becomeLeader(around, &effects) }
    }

    private var hasWon: Bool {
        guard let candidacy else { return false }
        return configuration.hasMajority { candidacy.granted.contains($0) }
    }

    mutating func count(
        _ reply: VoteReply, from voter: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard reply.term <= term else { return adopt(term: reply.term, around, &effects) }
        guard configuration.contains(voter) else { return effects.refusal = .unexpectedReply }
        let isCurrent =
            reply.isPreVote
            ? role == .preCandidate && reply.requestTerm == term.next
            : role == .candidate && reply.requestTerm == term
        guard isCurrent, reply.granted, candidacy?.granted.contains(voter) == false else { return }
        candidacy?.granted.append(voter)
        guard hasWon else { return }
        if role == .preCandidate {
            campaign(handOver: nil, around, &effects)
        } else {
            becomeLeader(around, &effects)
        }
    }

    /// TimeoutNow (§3.10): campaigns at once, in the name of the leader that hands over.
    mutating func campaignNow(
        _ request: TimeoutNowRequest, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let campaigns =
            request.term == term && role == .follower && (leader == nil || leader == sender)
            && configuration.contains(id) && !around.isQuiet
        if request.term > term { adopt(term: request.term, around, &effects) }
        // in the answer the term before the campaign: the old leader must not step down before it has voted
        effects.reply = .timeoutNowReply(TimeoutNowReply(term: term, success: campaigns))
        if campaigns { campaign(handOver: TermLeader(leader: sender, term: term), around, &effects) }
    }
}

// MARK: Voting

extension Raft {
    mutating func consider(
        _ request: VoteRequest, from asker: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        let granted = grants(request, to: asker, around, &effects)
        let reply = Message.voteReply(
            VoteReply(isPreVote: request.isPreVote, requestTerm: request.term, term: term, granted: granted))
        if granted, !request.isPreVote { effects.acknowledgement = reply } else { effects.reply = reply }
    }

    private mutating func grants(
        _ request: VoteRequest, to asker: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) -> Bool {
        guard !around.isQuiet else { return false }
        guard !isLoyal(against: asker, request, around) else {
            // an asker that does not follow a living leader is told of it, else it would ask for ever
            if role == .leader { reconnect(asker, around, &effects) }
            return false
        }
        guard request.term >= term else { return false }
        let isUpToDate = request.last >= log.last
        guard !request.isPreVote else {
            if asker == leader, request.term > term { loseLeader(around) }
            return isUpToDate
        }
        if request.term > term { adopt(term: request.term, around, &effects) }
        // a term that has a leader has no use for another candidate
        guard isUpToDate, vote == nil || vote == asker, leader == nil || leader == asker else { return false }
        vote = asker
        role = .follower
        candidacy = nil
        if leader == nil { waitAwake(around) }
        return true
    }

    /// Leader stickiness (§4.2.3, §6.4.1): while it has a leader that this node promised to stand by, a replica hears
    /// no other candidate, nor its term, unless that leader itself sends it; nor does a leader with its majority.
    private func isLoyal(against asker: PeerID, _ request: VoteRequest, _ around: Surroundings) -> Bool {
        guard let leader, leader != asker else { return false }
        if request.handOver == TermLeader(leader: leader, term: term) { return false }
        guard role == .leader else { return standsBy(leader, around) }
        return leadership?.transfer?.target != asker && hasSupport(around)
    }

    /// Only a replica that does not lead asks for pre-votes beyond its term: the leader we knew leads no longer.
    private mutating func loseLeader(_ around: Surroundings) {
        leader = nil
        wake(from: around.now)
    }
}

/// One replica's consensus: a value that an event drives and that answers with effects (Raft paper and
/// dissertation; paragraph signs in comments refer to them).
///
/// It owns no thread, clock or disk: time, chance and the node's liveness are arguments. It knows entries by index
/// and term only; payloads stay with the host. Call ``step(_:now:liveness:into:)`` from one thread at a time.
///
/// 1. The term never goes back, and in a term at most one vote is given (§5.2).
/// 2. `applicable` reported ≤ commit index ≤ last index, and durable index ≤ last index.
/// 3. What is committed is never truncated (§5.4).
/// 4. A leader counts itself for a commit only up to its own durable index, and commits only by counting an entry of
///    its own term (§5.4.2).
/// 5. A configuration is in force from the moment it is appended, and the one before it again when it is truncated
///    (§4.1). Every majority is one of both configurations while joint.
/// 6. The log changed last under the leader of ``durableMark``'s term; from then on it is a prefix of that leader's
///    log, so completions of writes under the same term vouch for what is in it now, and no others do.
/// 7. There is leader state exactly while leading, campaign state exactly while campaigning.
/// 8. A follower that may campaign rests, without any deadline, only under the standing promise under which it accepted
///    the leader of its term, or while the nodes of a majority cannot be reached. So does a sole voter in debt: there is
///    nobody to hear of it.
/// 9. While the promise stands under which it accepted its leader last, a replica neither campaigns nor votes for
///    another, whatever its term: see ``Pledge``.
/// 10. While there is a ``debt``, the durable log is less up to date than it; the replica stands for no election, and
///    votes only for candidates at least as up to date as it. It so votes as if its log were whole.
public struct Raft: Sendable {
    /// What a replica does at present.
    public enum Role: Sendable {
        /// Follows a leader, or waits for one.
        case follower
        /// Asks whether it could be elected (§9.6).
        case preCandidate
        /// Asks for votes.
        case candidate
        /// Leads.
        case leader
    }

    /// This replica.
    public let id: PeerID
    /// What it does.
    public internal(set) var role = Role.follower
    /// Its term, perhaps not durable yet.
    public internal(set) var term: Term
    /// Who has its vote in ``term``.
    public internal(set) var vote: PeerID?
    /// Whom it accepts as leader of ``term``; itself if it leads.
    public internal(set) var leader: PeerID?
    /// The leader accepted last, of this term or an earlier one, unless it has since shown that it leads no more.
    var pledge: Pledge?
    /// Who released this replica last, and of which term: what it said before may arrive after.
    var released: TermLeader?
    /// Everything up to here is committed as far as it knows.
    public internal(set) var commitIndex: LogIndex
    /// Its log is durable up to here.
    public internal(set) var durableIndex: LogIndex
    /// The last entry that it ever held, after damage to its log cost it that one and perhaps more; nil as soon as what
    /// it holds durably is at least as up to date.
    public internal(set) var debt: LogPosition?
    /// The membership in force.
    public internal(set) var configuration: Configuration
    /// When to send ``Event/deadlineReached``; nil while the replica rests.
    public private(set) var deadline: Instant?

    let settings: RaftSettings
    var random: SeededRandom
    var log: TermLog
    /// Memberships along the log, ascending: the last committed one and all after it.
    package internal(set) var configurations: [PlacedConfiguration]
    /// Grows whenever ``peers`` may have changed.
    var membershipVersion = 0
    /// Term of the leader under which the log changed last.
    var logTerm: Term
    /// A term that is known to be durable.
    var durableTerm: Term
    /// What the host has been told to apply.
    var reportedApplicable: LogIndex
    /// When to campaign next; nil while leading or resting.
    var electionDeadline: Instant?
    var candidacy: Candidacy?
    /// Campaigns in a row that were lost by the voters' own word; counted up to a few.
    var defeats: UInt8 = 0
    var leadership: Leadership?
    /// A leadership that is over, of which not every voter knows.
    var release: Release?
    /// Reads of this replica that wait for the leader's read index.
    var followerReads = FollowerReads()
    /// Whether it may have followed a foreign leader in an earlier run of its node.
    var followedForeigners: Bool
    /// Until then it may owe such a leader the loyalty of that run (braft's follower lease).
    var startLeaseEnd = Instant.distantPast
    var hasStarted = false

    /// A replica as its disk knows it, before ``Event/started``.
    ///
    /// - Parameters:
    ///   - base: the last entry that the log no longer has, for a snapshot stands for it; zero if there is none.
    ///   - termRuns: the log's terms behind the base, each with the index at which it begins, ascending.
    ///   - configurations: memberships along the log, ascending; index 0 stands for the membership at birth.
    ///   - applied: known to be committed, for the state machine holds it durably.
    ///   - debt: the last entry that the log ever held, if damage has taken a part of it; nothing if it has got there
    ///     again. See <doc:DrivingTheCore>.
    ///   - followedForeigners: whether it may have followed a foreign leader in an earlier run of its node.
    ///   - seed: of this replica's random delays.
    public init(
        id: PeerID, hardState: HardState, base: LogPosition = .zero, termRuns: [LogPosition], lastIndex: LogIndex,
        configurations: [PlacedConfiguration], applied: LogIndex, debt: LogPosition? = nil,
        followedForeigners: Bool = false, settings: RaftSettings, seed: UInt64
    ) {
        precondition(settings.electionJitter.nanoseconds > 0 && settings.maxEntriesPerAppend > 0)
        precondition(settings.maxEntriesInFlight >= settings.maxEntriesPerAppend)
        precondition((0...RaftSettings.highestPriority).contains(settings.electionPriority))
        precondition(applied >= base.index, "what is compacted away was applied")
        precondition(configurations.allSatisfy { $0.index <= lastIndex }, "a configuration needs its entry")
        precondition(zip(configurations, configurations.dropFirst()).allSatisfy { $0.index < $1.index })
        self.id = id
        self.term = hardState.term
        self.vote = hardState.vote
        self.log = TermLog(base: base, runs: termRuns, lastIndex: lastIndex)
        self.configurations = configurations
        self.configuration = configurations.last?.configuration ?? .empty
        self.commitIndex = applied
        self.reportedApplicable = applied
        self.durableIndex = lastIndex
        self.debt = debt
        self.followedForeigners = followedForeigners
        self.durableTerm = hardState.term
        self.logTerm = log.last.term
        self.settings = settings
        self.random = SeededRandom(seed: seed)
        forgetOldConfigurations()
        payDebt()
        checkInvariants()
    }

    /// Lets this replica, whose log was damaged, take the place of `former`, which drove the same replica in this run
    /// of the node: what that one owes others stays owed. Loyalty, for leases count on it until the promise ends; the
    /// news that it leads no more; and the numbers of questions asked, for late answers to them may come. Before
    /// ``Event/started``; a leader must have stepped down.
    public mutating func succeed(_ former: Raft) {
        precondition(!hasStarted && former.id == id && !former.isLeader, "what a leader owes ends before")
        precondition(term == former.term && vote == former.vote, "hard state outlives damage to the log")
        pledge = former.pledge
        (followedForeigners, startLeaseEnd) = (false, former.startLeaseEnd)
        released = former.released
        // what is still being written is durable when the first write of this one is
        durableIndex = min(durableIndex, former.durableIndex)
        durableTerm = former.durableTerm
        release = former.release
        followerReads.sequence = former.followerReads.sequence
    }

    /// The last entry that the log no longer has; zero if it has all.
    public var base: LogPosition { log.base }
    /// Index of the last entry.
    public var lastIndex: LogIndex { log.lastIndex }
    /// Term of the last entry.
    public var lastTerm: Term { log.last.term }
    /// The mark for a write submitted right after the last step.
    public var durableMark: DurableMark { DurableMark(term: logTerm, index: log.lastIndex) }
    /// Whether it leads.
    public var isLeader: Bool { role == .leader }
    /// Whether it leads and is handing leadership over.
    public var isTransferring: Bool { leadership?.transfer != nil }
    /// Whether ``Event/proposed(count:)`` would be heard.
    public var acceptsProposals: Bool { isLeader && !isTransferring }
    /// Whether it leads and a change of membership is under way.
    public var isChangingMembership: Bool { leadership?.change != nil || (isLeader && configuration.isJoint) }
    /// Whether the membership in force is known to be committed.
    public var hasCommittedConfiguration: Bool { configurations.last.map { $0.index <= commitIndex } ?? false }

    /// Whether the next ``Event/deadlineReached`` may begin a campaign: a host of many replicas lets them take turns, see
    /// ``Pacer``.
    public func isElectionDue(now: Instant) -> Bool { electionDeadline.map { $0 <= now } ?? false }

    /// Where a change of membership under way leads to, on the leader that was asked for it.
    package var targetConfiguration: Configuration? { leadership?.change?.target }

    /// The term of the entry at `index`: zero for index zero, nil if it is not in the log, or not any more.
    public func term(at index: LogIndex) -> Term? { log.term(at: index) }

    /// Everybody this replica may have to talk to, ascending: the other members, and on a leader also newcomers that
    /// catch up and leavers that are yet to be told.
    public var peers: [PeerID] {
        let members = configuration.members.filter { $0 != id }
        guard let leadership else { return members }
        return (members + leadership.peers.map(\.peer).filter { !members.contains($0) }).sorted()
    }

    /// What a leader knows of another member.
    public struct MemberProgress: Equatable, Sendable {
        /// The member.
        public var peer: PeerID
        /// It durably holds everything up to here.
        public var match: LogIndex
        /// The next entry it is sent.
        public var next: LogIndex
        /// Whether it is being sent a snapshot.
        public var isInstalling: Bool
    }

    /// Whether `peer` holds no payloads, or on a leader is to be added as one that holds none.
    public func isWitness(_ peer: PeerID) -> Bool {
        guard let leadership, let position = leadership.position(of: peer) else {
            return configuration.isWitness(peer)
        }
        return leadership.peers[position].isWitness
    }

    /// On a leader, what it knows of another member's log; otherwise nil.
    public func progress(of peer: PeerID) -> MemberProgress? {
        guard let leadership, let position = leadership.position(of: peer) else { return nil }
        let known = leadership.peers[position]
        return MemberProgress(
            peer: known.peer, match: known.match, next: known.next, isInstalling: known.state == .snapshot)
    }

    /// Takes in one event and adds what is to be done to `effects`.
    ///
    /// `now` never goes back between calls. `liveness` is the node's, as it stands at `now`.
    public mutating func step(_ event: Event, now: Instant, liveness: NodeLiveness, into effects: inout Effects) {
        let before = (role: role, hardState: HardState(term: term, vote: vote), leader: leader)
        let circle = membershipVersion
        let sender = event.senderNode
        let around = Surroundings(
            now: now, liveness: liveness, senderRun: sender.run, senderIsForeign: sender.isForeign)
        dispatch(event, around, &effects)
        if role == .leader { pursueLeadership(around, &effects) } else { pursueFollowerReads(around, &effects) }
        if case .some = debt { payDebt(around) }
        reportApplicable(&effects)
        let hardState = HardState(term: term, vote: planted("vote-not-persisted") ? nil : vote)
        if hardState != before.hardState, !(planted("term-not-persisted") && hardState.vote == before.hardState.vote) {
            effects.hardState = hardState
        }
        if before.role != role || before.hardState.term != term || before.leader != leader {
            effects.statusChanged = true
        }
        if membershipVersion != circle { effects.peersChanged = true }
        updateDeadline()
        checkInvariants()
    }
}

/// The earlier of two moments that may not be due at all.
func earliest(_ left: Instant?, _ right: Instant?) -> Instant? {
    guard let left else { return right }
    guard let right else { return left }
    return min(left, right)
}

extension Event {
    fileprivate var senderNode: (run: UInt64, isForeign: Bool) {
        guard case .received(_, _, let run, let isForeign) = self else { return (0, false) }
        return (run, isForeign)
    }
}

/// The time and the node's liveness during one step.
struct Surroundings {
    /// The time.
    let now: Instant
    /// The node's liveness.
    let liveness: NodeLiveness
    /// Run number of the node whose message this is; zero if it is none, or nobody knows.
    let senderRun: UInt64
    /// Whether it came from somebody who knows nothing of promises.
    var senderIsForeign = false

    /// Whether this node may neither vote nor campaign yet.
    var isQuiet: Bool { liveness.isQuiet(now: now) }
    /// Whether this node's promise to `peer`'s node stands.
    func hasPromised(_ peer: PeerID) -> Bool { liveness.promiseStands(to: peer.address, now: now) }
    /// This node's promise to `peer`'s node, by name, if it stands.
    func promise(to peer: PeerID) -> SupportStamp? { liveness.promiseStamp(to: peer.address, now: now) }
    /// This node's promise to the node of `sender`, whose message this is, if it stands for the run that sent it.
    func promise(toSender sender: PeerID) -> SupportStamp? {
        promise(to: sender).flatMap { senderRun == 0 || $0.askerRun == senderRun ? $0 : nil }
    }
    /// Whether the promise of `peer`'s node to this one stands.
    func isSupported(by peer: PeerID) -> Bool { liveness.supportStands(from: peer.address, now: now) }
    /// Whether `peer`'s node knows nothing of promises.
    func isForeign(_ peer: PeerID) -> Bool { liveness.isForeign(peer.address) }
    /// The same of the sender of this message, who may be in no configuration yet.
    func isForeign(sender: PeerID) -> Bool { senderIsForeign || isForeign(sender) }
    /// Whether it makes sense to ask `peer`'s node for anything.
    func isReachable(_ peer: PeerID) -> Bool { liveness.isReachable(peer.address) }
}

extension Raft {
    private mutating func dispatch(_ event: Event, _ around: Surroundings, _ effects: inout Effects) {
        switch event {
        case .started: start(around)
        case .received(let message, let sender, _, _): receive(message, from: sender, around, &effects)
        case .proposed(let count): propose(count, &effects)
        case .persisted(let mark): notePersisted(mark)
        case .readRequested(let read, let lease): requestRead(read, lease: lease, around, &effects)
        case .readIndexFailed(let question): loseQuestion(question, &effects)
        case .deadlineReached:
            if role == .leader { leaderDeadlineReached(around, &effects) } else { followerDue(around, &effects) }
        case .connectionLost(let node): loseConnection(to: node, around)
        case .appendFailed(let ticket, let peer, let isBusy): loseAppend(ticket, to: peer, isBusy: isBusy, around)
        case .livenessChanged(let node):
            if role == .leader {
                leaderLivenessChanged(node, around, &effects)
            } else {
                livenessChanged(node, around, &effects)
            }
        case .transferRequested(let target): transferLeadership(to: target, around)
        case .stepDownRequested: if role == .leader { resign(around, &effects) }
        case .membershipRequested(let change, let target): changeMembership(change, to: target, around, &effects)
        case .resetRequested(let change, let target): resetMembership(change, to: target, around, &effects)
        case .compacted(let index): compact(through: index, around)
        case .snapshotReceived(let meta): install(meta, around, &effects)
        case .snapshotSent(let peer, let installed): noteSnapshot(of: peer, installed: installed, around, &effects)
        }
    }

    private mutating func receive(
        _ message: Message, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard sender != id, message.isWithinBounds else { return refuse(message, because: .malformed, &effects) }
        switch message {
        case .voteRequest(let request): consider(request, from: sender, around, &effects)
        case .voteReply(let reply): count(reply, from: sender, around, &effects)
        case .appendRequest(let request): append(request, from: sender, around, &effects)
        case .appendReply(let reply): note(reply, from: sender, around, &effects)
        case .timeoutNowRequest(let request): campaignNow(request, from: sender, around, &effects)
        case .timeoutNowReply(let reply): note(reply, from: sender, around, &effects)
        case .releaseRequest(let request): heed(request, from: sender, around, &effects)
        case .releaseReply(let reply): note(reply, from: sender, &effects)
        case .readIndexRequest(let request): answer(request, of: sender, &effects)
        case .readIndexReply(let reply): note(reply, from: sender, around, &effects)
        case .snapshotRequest(let request): consider(request, from: sender, around, &effects)
        case .snapshotReply: effects.refusal = .unexpectedReply
        }
    }

    /// Refuses a message: counts why, answers a request in the negative, changes nothing.
    func refuse(_ message: Message, because refusal: Refusal, _ effects: inout Effects) {
        effects.refusal = refusal
        switch message {
        case .voteRequest(let request):
            effects.reply = .voteReply(
                VoteReply(isPreVote: request.isPreVote, requestTerm: request.term, term: term, granted: false))
        case .appendRequest(let request):
            effects.reply = .appendReply(
                AppendReply(ticket: request.ticket, term: term, success: false, lastIndex: nil))
        case .timeoutNowRequest:
            effects.reply = .timeoutNowReply(TimeoutNowReply(term: term, success: false))
        case .releaseRequest(let request):
            effects.reply = .releaseReply(ReleaseReply(term: request.term))
        case .readIndexRequest(let request):
            effects.reply = .readIndexReply(ReadIndexReply(sequence: request.sequence, index: nil))
        case .snapshotRequest:
            effects.reply = .snapshotReply(SnapshotReply(term: term, success: false))
        case .voteReply, .appendReply, .timeoutNowReply, .releaseReply, .readIndexReply, .snapshotReply:
            break
        }
    }

    /// A write is durable. Its mark vouches for the log as it is now only if the log has since grown under the same
    /// leader; the hard state of that leader's term was written before or with it.
    private mutating func notePersisted(_ mark: DurableMark) {
        guard mark.term == logTerm || planted("marks-of-any-leader") else { return }
        durableIndex = max(durableIndex, min(mark.index, log.lastIndex))
        durableTerm = max(durableTerm, mark.term)
    }

    /// A debt is paid when the durable log is at least as up to date. From then on it holds whatever is committed of
    /// what was lost: a log as up to date as a committed entry contains it, as §5.4.3 shows for the logs of leaders, and
    /// every log is the beginning of one.
    private mutating func payDebt(_ around: Surroundings) {
        let rests = isLonelyDebtor && electionDeadline == nil
        payDebt()
        if rests, debt == nil, role == .follower, leader == nil { wake(from: around.now) }
    }

    private mutating func payDebt() {
        guard let owed = debt else { return }
        let end = planted("debt-paid-before-durable") ? log.lastIndex : durableIndex
        if let endTerm = log.term(at: end), LogPosition(term: endTerm, index: end) >= owed { debt = nil }
    }

    /// Raises the commit index; it never goes back.
    mutating func commit(through index: LogIndex) {
        guard index > commitIndex else { return }
        precondition(index <= log.lastIndex, "only entries that are there can be committed")
        commitIndex = index
        forgetOldConfigurations()
    }

    private mutating func reportApplicable(_ effects: inout Effects) {
        let applicable = planted("apply-before-durable") ? commitIndex : min(commitIndex, durableIndex)
        guard applicable > reportedApplicable else { return }
        reportedApplicable = applicable
        effects.applicable = applicable
    }

    /// Adds entries at the end of the log, as the leader of this term says.
    mutating func extendLog(by count: Int, term entryTerm: Term) {
        log.append(count: count, term: entryTerm)
        logTerm = term
    }

    /// Drops the end of the log, and the configurations in it.
    mutating func truncateLog(from index: LogIndex) {
        precondition(index > commitIndex, "committed entries stay")
        log.truncate(from: index)
        durableIndex = min(durableIndex, log.lastIndex)
        while let last = configurations.last, last.index >= index { configurations.removeLast() }
        configuration = configurations.last?.configuration ?? .empty
        membershipVersion += 1
    }

    /// Puts a configuration in force.
    mutating func adopt(_ placed: PlacedConfiguration) {
        configurations.append(placed)
        configuration = placed.configuration
        membershipVersion += 1
    }

    /// Whether this replica stands for election of its own accord. Also one that is about to leave does, until that is
    /// committed: perhaps nobody else can be elected (dissertation §4.2.2).
    var mayCampaign: Bool {
        settings.electionPriority > 0 && !isLonelyDebtor
            && configurations.contains {
                $0.configuration.isVoter(id) && (!$0.configuration.isWitness(id) || planted("witness-campaigns"))
            }
    }

    /// Truncation cannot go back before the last committed configuration.
    private mutating func forgetOldConfigurations() {
        var obsolete = 0
        while obsolete + 1 < configurations.count, configurations[obsolete + 1].index <= commitIndex { obsolete += 1 }
        if obsolete > 0 { configurations.removeFirst(obsolete) }
    }

    private mutating func updateDeadline() {
        if role == .leader {
            deadline = earliest(
                earliest(leadership!.graceEnd, leadership!.transfer?.deadline),
                earliest(
                    earliest(leadership!.retryDeadline, leadership!.stallDeadline), leadership!.change?.deadline))
        } else {
            deadline = earliest(electionDeadline, earliest(release?.retryAt, followerReads.deadline))
        }
    }

    // changes nothing, but whoever may is not called with a copy of the whole replica
    private mutating func checkInvariants() {
        precondition(commitIndex <= log.lastIndex, "commit index beyond the log")
        precondition(durableIndex <= log.lastIndex, "durable index beyond the log")
        precondition(reportedApplicable <= commitIndex, "applied what is not committed")
        precondition(log.base.index <= commitIndex, "compacted what is not committed")
        precondition(log.last.term <= term && logTerm <= term && durableTerm <= term, "a term ahead of the term")
        var leads = false
        if case .some = leadership { leads = true }
        precondition((role == .leader) == leads, "leader state exactly while leading")
        let campaigns = role == .candidate || role == .preCandidate
        precondition(campaigns == (candidacy != nil), "campaign state exactly while campaigning")
        switch role {
        case .leader:
            precondition(leader == id && vote == id && logTerm == term && electionDeadline == nil && release == nil)
        case .candidate:
            precondition(leader == nil && vote == id && electionDeadline != nil)
        case .preCandidate:
            precondition(leader == nil && electionDeadline != nil)
        case .follower:
            precondition(leader != id, "a follower does not follow itself")
        }
    }
}

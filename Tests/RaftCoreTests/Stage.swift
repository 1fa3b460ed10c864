@testable import RaftCore

func peer(_ number: UInt16) -> PeerID { PeerID(address: NodeAddress(ip: 0x0a00_0001, port: number)) }
let (a, b, c, d, e) = (peer(1), peer(2), peer(3), peer(4), peer(5))

func index(_ value: Int64) -> LogIndex { LogIndex(value) }
func position(_ index: Int64, term: Int64) -> LogPosition { LogPosition(term: Term(term), index: LogIndex(index)) }

/// One replica, `a`, set up by hand and driven event by event.
struct Stage {
    var raft: Raft
    var liveness: NodeLiveness
    var now = Instant(nanoseconds: 1_000_000_000_000)
    var effects = Effects()
    /// What became of changes of membership, so far.
    private(set) var outcomes: [ChangeOutcome] = []
    /// Everything sent so far, before and after the disk.
    private(set) var sent: [Outbound] = []
    /// The nodes of the other members and of neighbours; all of them can be reached.
    let others: [NodeAddress]
    /// Requests of the node that wait for an answer.
    private var pings: [(to: NodeAddress, request: NodeLiveness.Request)] = []

    /// A replica whose log holds entries of these terms behind `base`, applied at least up to there.
    init(
        id: PeerID = a, terms: [Int64] = [], term: Int64? = nil, vote: PeerID? = nil, members: [PeerID] = [a, b, c],
        learners: [PeerID] = [], neighbours: [PeerID] = [], base: LogPosition = .zero, applied: Int64 = 0,
        debt: LogPosition? = nil, followedForeigners: Bool = false,
        settings: RaftSettings = RaftSettings(), isQuiet: Bool = false, starts: Bool = true
    ) {
        var runs: [LogPosition] = []
        for (offset, term) in terms.enumerated() where runs.last?.term.rawValue != term {
            runs.append(position(base.index.rawValue + Int64(offset) + 1, term: term))
        }
        let membership = Configuration(peers: members, learners: learners)
        raft = Raft(
            id: id, hardState: HardState(term: Term(term ?? terms.last ?? base.term.rawValue), vote: vote),
            base: base, termRuns: runs, lastIndex: base.index.advanced(by: terms.count),
            configurations: [PlacedConfiguration(index: base.index, configuration: membership)],
            applied: max(base.index, index(applied)), debt: debt, followedForeigners: followedForeigners,
            settings: settings, seed: 7)
        var livenessSettings = NodeLiveness.Settings()
        livenessSettings.startupQuiet = isQuiet
        liveness = NodeLiveness(node: id.address, runNumber: 1, settings: livenessSettings, startedAt: now)
        others = (membership.members + neighbours).filter { $0 != id }.map(\.address).sorted()
        exchange(with: others, granting: false)
        if starts { step(.started) }
    }

    @discardableResult
    mutating func step(_ event: Event) -> Effects {
        effects.removeAll()
        raft.step(event, now: now, liveness: liveness, into: &effects)
        outcomes += effects.finishedChanges.map(\.outcome)
        sent += effects.messages + effects.durableMessages
        return effects
    }

    @discardableResult
    mutating func receive(
        _ message: Message, from sender: PeerID, run: UInt64 = 0, isForeign: Bool = false
    ) -> Effects {
        step(.received(message, from: sender, run: run, isForeign: isForeign))
    }

    /// Time passes up to the replica's deadline, which it must have.
    @discardableResult
    mutating func reachDeadline() -> Effects {
        now = max(now, raft.deadline!)
        return step(.deadlineReached)
    }

    mutating func wait(milliseconds: Int) { now = now + .milliseconds(milliseconds) }

    /// Everything written is durable.
    @discardableResult
    mutating func persist() -> Effects { step(.persisted(raft.durableMark)) }

    /// This node promises its support to the node of `peer`.
    mutating func promise(to peer: PeerID, run: UInt64 = 1) {
        var ignored = NodeLiveness.Effects()
        let request = NodeLiveness.Request(runNumber: run, sequence: 1, asks: true)
        liveness.step(.received(request, from: peer.address, wallClock: 0), now: now, into: &ignored)
    }

    /// The nodes of `supporters` promise their support to this one; the replica hears of it.
    mutating func gainSupport(from supporters: [PeerID], tells: Bool = true) {
        exchange(with: supporters.map(\.address), granting: true)
        if tells { for supporter in supporters { step(.livenessChanged(supporter.address)) } }
    }

    /// The nodes answer what they are asked, up to a promise or without one.
    private mutating func exchange(with nodes: [NodeAddress], granting: Bool) {
        var drained = NodeLiveness.Effects()
        liveness.step(.vitalsConfirmed(startedAt: now), now: now, into: &drained)
        liveness.step(.track(others), now: now, into: &drained)
        for _ in 0..<4 {
            let requests = drained.requests + pings
            pings = []
            drained.removeAll()
            for (node, request) in requests {
                guard nodes.contains(node), granting || !request.asks else {
                    pings.append((node, request))
                    continue
                }
                let reply = NodeLiveness.Reply(
                    sequence: request.sequence, granted: request.asks, epoch: 1, runNumber: 1,
                    wallClockMilliseconds: 0)
                liveness.step(.answered(reply, from: node), now: now, into: &drained)
            }
            liveness.step(.vitalsConfirmed(startedAt: now), now: now, into: &drained)
        }
    }

    /// Wins the next election with these votes; returns what the leader says first.
    @discardableResult
    mutating func lead(with voters: [PeerID] = [b]) -> Effects {
        reachDeadline()
        answerVotes(voters)
        persist()
        return answerVotes(voters)
    }

    @discardableResult
    mutating func answerVotes(_ voters: [PeerID], granted: Bool = true) -> Effects {
        let isPreVote = raft.role == .preCandidate
        let asked = isPreVote ? raft.term.next : raft.term
        var last = Effects()
        for voter in voters {
            let reply = VoteReply(isPreVote: isPreVote, requestTerm: asked, term: raft.term, granted: granted)
            last = receive(.voteReply(reply), from: voter)
        }
        return last
    }

    /// `sender` answers this append.
    @discardableResult
    mutating func answer(
        _ ticket: AppendTicket, from sender: PeerID, success: Bool = true, hint: Int64? = nil, term: Int64? = nil
    ) -> Effects {
        let reply = AppendReply(
            ticket: ticket, term: term.map { Term($0) } ?? raft.term, success: success,
            lastIndex: hint.map { LogIndex($0) })
        return receive(.appendReply(reply), from: sender)
    }

    func ticket(after previous: Int64, count: Int, round: UInt64 = 0) -> AppendTicket {
        AppendTicket(term: raft.term, previous: index(previous), count: count, round: round)
    }

    /// `sender` says that it leads `term`, and what its log is.
    @discardableResult
    mutating func hear(
        from sender: PeerID, term: Int64, after previous: (index: Int64, term: Int64) = (0, 0), terms: [Int64] = [],
        commit: Int64 = 0, run: UInt64 = 0, isForeign: Bool = false
    ) -> Effects {
        let request = AppendRequest(
            term: Term(term), previous: position(previous.index, term: previous.term),
            entries: terms.map { EntryHeader(term: Term($0), kind: .data) }, commit: index(commit))
        return receive(.appendRequest(request), from: sender, run: run, isForeign: isForeign)
    }

    /// `asker` asks for a vote.
    @discardableResult
    mutating func hearVote(
        from asker: PeerID, term: Int64, last: LogPosition, isPreVote: Bool = false, handOver: TermLeader? = nil,
        isForeign: Bool = false
    ) -> Effects {
        receive(
            .voteRequest(VoteRequest(isPreVote: isPreVote, term: Term(term), last: last, handOver: handOver)),
            from: asker, isForeign: isForeign)
    }

    /// The terms of the log's entries.
    var terms: [Int64] {
        guard raft.lastIndex > .zero else { return [] }
        return (1...raft.lastIndex.rawValue).map { raft.term(at: LogIndex($0))!.rawValue }
    }
}

extension Effects {
    /// The vote or pre-vote answered, wherever the answer waits.
    var voteReply: VoteReply? {
        if case .voteReply(let reply) = reply ?? acknowledgement { return reply }
        return nil
    }
    var appendReply: AppendReply? {
        if case .appendReply(let reply) = reply ?? acknowledgement { return reply }
        return nil
    }
    /// The appends sent to `peer`.
    func appends(to peer: PeerID) -> [AppendTicket] {
        messages.compactMap {
            guard $0.to == peer, case .append(let ticket, _, _) = $0.body else { return nil }
            return ticket
        }
    }
    var timeoutsNow: [PeerID] {
        messages.compactMap {
            if case .timeoutNow = $0.body { return $0.to }
            return nil
        }
    }
}

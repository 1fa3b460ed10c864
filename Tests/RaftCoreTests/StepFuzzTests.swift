import Testing

@testable import RaftCore

/// Arbitrary events, legal and illegal, from a seed. A host keeps its own promises; peers may say anything.
private struct Storm {
    var random: SeededRandom
    var stage: Stage
    private var marks: [DurableMark] = []
    private var wanted: [SnapshotMeta] = []
    private var tickets: [AppendTicket] = []
    private var applicable = LogIndex.zero
    private var votes: [Term: PeerID] = [:]
    private let everybody = [a, b, c, d, e]

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        var settings = RaftSettings()
        settings.maxEntriesPerAppend = 3
        settings.maxEntriesInFlight = 7
        settings.catchUpMargin = 2
        settings.electionPriority = Int(random.number(in: 0..<5))
        let members = [
            [a, b, c], [a], [a, b, c, d, e], [], [b, c], [a, b, PeerID(address: c.address, role: .witness)],
        ]
        let base = random.number(in: 0..<2) == 0 ? LogPosition.zero : position(3, term: 1)
        stage = Stage(
            terms: [[], [1, 1], [1, 2, 2, 4]][Int(random.number(in: 0..<3))],
            members: members[Int(random.number(in: 0..<6))], learners: random.number(in: 0..<3) == 0 ? [e] : [],
            neighbours: everybody, base: base, settings: settings, isQuiet: random.number(in: 0..<4) == 0)
        applicable = base.index
    }

    /// One more event, and what must hold after every one.
    mutating func blow() {
        let before = (term: stage.raft.term, commit: stage.raft.commitIndex)
        let event = arbitraryEvent()
        stage.step(event)
        collect()
        let raft = stage.raft
        #expect(raft.term >= before.term && raft.commitIndex >= before.commit, "went back")
        if let vote = raft.vote {
            #expect(votes[raft.term] == nil || votes[raft.term] == vote, "two votes in term \(raft.term)")
            votes[raft.term] = vote
        }
        if case .deadlineReached = event, let deadline = raft.deadline {
            #expect(deadline > stage.now, "due again at once: \(raft.role)")
        }
        expectAwake()
    }

    /// No replica sleeps for ever without a leader that it is promised to.
    private func expectAwake() {
        let raft = stage.raft
        guard raft.role == .follower, raft.mayCampaign, raft.electionDeadline == nil else { return }
        let around = Surroundings(now: stage.now, liveness: stage.liveness, senderRun: 0)
        let canAsk = raft.configuration.hasMajority { $0 == raft.id || around.isReachable($0) }
        #expect(!canAsk || (raft.leader != nil && raft.isPledged(around)), "sleeps without a leader")
    }

    private mutating func collect() {
        let effects = stage.effects
        if effects.hardState != nil || effects.logChange != nil || effects.install != nil {
            marks.append(stage.raft.durableMark)
        }
        if let meta = effects.snapshotWanted { wanted.append(meta) }
        if let index = effects.applicable { applicable = index }
        if let install = effects.install { applicable = install.meta.last.index }
        for message in effects.messages {
            if case .append(let ticket, _, _) = message.body { tickets.append(ticket) }
        }
        if tickets.count > 20 { tickets.removeFirst(10) }
    }

    // MARK: chance

    private mutating func flip(_ sides: Int64 = 2) -> Bool { random.number(in: 0..<sides) == 0 }
    private mutating func pick<T>(_ all: [T]) -> T { all[Int(random.number(in: 0..<Int64(all.count)))] }
    private mutating func someone() -> PeerID { pick(everybody) }

    /// Mostly near what the replica knows, sometimes absurd.
    private mutating func someTerm() -> Term {
        if flip(60) { return Term(pick([-1, 0, .max, .min, 1 << 61, 1 << 62])) }
        return Term(max(0, min(stage.raft.term.rawValue, 1 << 40) + pick([-2, -1, 0, 0, 0, 0, 0, 1])))
    }

    private mutating func someIndex() -> LogIndex {
        if flip(60) { return LogIndex(pick([-1, 0, .max, .min, 1 << 61])) }
        return LogIndex(max(0, min(stage.raft.lastIndex.rawValue, 1 << 40) + random.number(in: -6..<4)))
    }

    private mutating func somePosition() -> LogPosition {
        let index = someIndex()
        if !flip(4), let term = stage.raft.term(at: index) { return LogPosition(term: term, index: index) }
        return LogPosition(term: someTerm(), index: index)
    }

    private mutating func someConfiguration() -> Configuration {
        func some(_ storm: inout Storm) -> [PeerID] { storm.everybody.filter { _ in storm.flip() } }
        return Configuration(
            peers: some(&self), oldPeers: flip(5) ? some(&self) : [], learners: flip(3) ? some(&self) : [])
    }

    private mutating func someTicket() -> AppendTicket {
        if !flip(6), !tickets.isEmpty { return pick(tickets) }
        return AppendTicket(
            term: someTerm(), previous: someIndex(), count: Int(random.number(in: -1..<5)),
            round: UInt64(random.number(in: 0..<9)))
    }

    // MARK: events

    private mutating func arbitraryEvent() -> Event {
        switch random.number(in: 0..<40) {
        case 0..<20: return .received(arbitraryMessage(), from: someone())
        case 20..<23: return .proposed(count: Int(random.number(in: 0..<6)))
        case 23..<27: return marks.isEmpty ? .persisted(stage.raft.durableMark) : .persisted(marks.removeFirst())
        case 27: return .readRequested(random.next(), lease: flip())
        case 28..<31:
            if let deadline = stage.raft.deadline, !flip(3) { pass(until: deadline) }
            return .deadlineReached
        case 31: return .connectionLost(someone().address)
        case 32: return .appendFailed(someTicket(), peer: someone())
        case 33..<35: return arbitraryLiveness()
        case 35: return flip() ? .transferRequested(flip() ? nil : someone()) : .stepDownRequested
        case 36: return .membershipRequested(random.next(), someConfiguration())
        case 37: return flip(6) ? .resetRequested(random.next(), someConfiguration()) : .deadlineReached
        case 38:
            guard applicable <= stage.raft.commitIndex else { return .deadlineReached }
            return .compacted(through: applicable)
        default:
            if flip(), !wanted.isEmpty { return .snapshotReceived(wanted.removeFirst()) }
            return .snapshotSent(to: someone(), installed: flip() ? someIndex() : nil)
        }
    }

    /// Time passes; the replica hears of every promise that lapses meanwhile.
    private mutating func pass(until instant: Instant) {
        stage.now = max(stage.now, instant)
        var effects = NodeLiveness.Effects()
        stage.liveness.step(.deadlineReached, now: stage.now, into: &effects)
        tell(effects.changed)
    }

    private mutating func tell(_ nodes: [NodeAddress]) {
        for node in nodes {
            stage.step(.livenessChanged(node))
            collect()
        }
    }

    /// Time passes, and a node promises, supports, starts anew or turns out to be foreign; the replica hears of it.
    private mutating func arbitraryLiveness() -> Event {
        let peer = someone()
        pass(until: stage.now + .milliseconds(Int(random.number(in: 0..<400))))
        var effects = NodeLiveness.Effects()
        switch random.number(in: 0..<5) {
        case 0, 1:
            let supporters = everybody.filter { _ in flip() }
            stage.gainSupport(from: supporters, tells: false)
            tell(supporters.map(\.address))
        case 2: stage.liveness.step(.foreign(peer.address), now: stage.now, into: &effects)
        default:
            let run = stage.liveness.runNumber(of: peer.address) ?? 1
            let request = NodeLiveness.Request(runNumber: flip(5) ? run + 1 : run, sequence: 1, asks: true)
            stage.liveness.step(.received(request, from: peer.address, wallClock: 0), now: stage.now, into: &effects)
        }
        tell(effects.changed)
        return .livenessChanged(peer.address)
    }

    private mutating func arbitraryMessage() -> Message {
        switch random.number(in: 0..<14) {
        case 0, 1:
            let handOver = flip(4) ? TermLeader(leader: someone(), term: someTerm()) : nil
            return .voteRequest(
                VoteRequest(isPreVote: flip(), term: someTerm(), last: somePosition(), handOver: handOver))
        case 2, 3:
            let isPreVote = stage.raft.role == .preCandidate
            let term = isPreVote && stage.raft.term < Term(1 << 40) ? stage.raft.term.next : stage.raft.term
            return .voteReply(
                VoteReply(
                    isPreVote: flip(9) ? flip() : isPreVote, requestTerm: flip(5) ? someTerm() : term,
                    term: flip(5) ? someTerm() : stage.raft.term, granted: !flip(4)))
        case 4, 5, 6: return .appendRequest(arbitraryAppend())
        case 7, 8, 9:
            let stamp = SupportStamp(epoch: UInt64(random.number(in: 0..<3)), supporterRun: 1, askerRun: 1)
            return .appendReply(
                AppendReply(
                    ticket: someTicket(), term: flip(8) ? someTerm() : stage.raft.term, success: !flip(3),
                    lastIndex: flip() ? someIndex() : nil, lastTerm: flip() ? someTerm() : nil,
                    support: flip() ? stamp : nil))
        case 10:
            return flip()
                ? .timeoutNowRequest(TimeoutNowRequest(term: someTerm(), oldLeaderSteppedDown: flip()))
                : .timeoutNowReply(TimeoutNowReply(term: someTerm(), success: flip()))
        case 11:
            return flip()
                ? .releaseRequest(ReleaseRequest(term: someTerm())) : .releaseReply(ReleaseReply(term: someTerm()))
        case 12:
            return flip()
                ? .readIndexRequest(ReadIndexRequest(term: someTerm(), sequence: random.next()))
                : .readIndexReply(ReadIndexReply(sequence: UInt64(random.number(in: 0..<4)), index: someIndex()))
        default:
            let meta = SnapshotMeta(last: somePosition(), configuration: someConfiguration())
            return flip(4)
                ? .snapshotReply(SnapshotReply(term: someTerm(), success: flip()))
                : .snapshotRequest(SnapshotRequest(term: someTerm(), meta: meta))
        }
    }

    private mutating func arbitraryAppend() -> AppendRequest {
        let previous = somePosition()
        var request = AppendRequest(term: someTerm(), previous: previous, commit: someIndex())
        var term = previous.term
        for offset in 0..<random.number(in: 0..<5) {
            if flip(3) { term = someTerm() }
            let kind: EntryKind = flip(5) ? .configuration : .data
            request.entries.append(EntryHeader(term: term, kind: kind))
            guard kind == .configuration, !flip(20), previous.index < LogIndex(1 << 61) else { continue }
            request.configurations.append(
                PlacedConfiguration(
                    index: previous.index.advanced(by: Int(offset) + 1), configuration: someConfiguration()))
        }
        return request
    }
}

@Suite("Whatever comes, no replica traps")
struct StepFuzzTests {
    @Test(
        "arbitrary events neither trap a replica, nor turn term or commit back, nor let it vote twice or sleep for ever",
        arguments: 0..<16 as Range<UInt64>)
    func arbitrary(part: UInt64) {
        for life in 0..<40 as Range<UInt64> {
            var storm = Storm(seed: part * 1000 + life)
            for _ in 0..<400 { storm.blow() }
        }
    }
}

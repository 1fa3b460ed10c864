import Testing

@testable import RaftCore

@Suite("Refusals: no message traps")
struct RefusalTests {
    @Test("an append that no leader can have sent is refused and changes nothing")
    func badAppends() {
        func data(_ term: Int64) -> EntryHeader { EntryHeader(term: Term(term), kind: .data) }
        let placed = PlacedConfiguration(index: index(2), configuration: Configuration(peers: [a]))
        let bad: [(AppendRequest, Refusal)] = [
            (AppendRequest(term: Term(-1), previous: .zero, commit: .zero), .malformed),
            (AppendRequest(term: Term(.max), previous: .zero, commit: .zero), .malformed),
            (AppendRequest(term: Term(5), previous: position(.max, term: 1), commit: .zero), .malformed),
            (AppendRequest(term: Term(5), previous: position(3, term: 0), commit: .zero), .malformed),
            (AppendRequest(term: Term(5), previous: .zero, commit: index(-1)), .malformed),
            (AppendRequest(term: Term(5), previous: position(1, term: 6), commit: .zero), .termsOutOfOrder),
            (
                AppendRequest(term: Term(5), previous: .zero, entries: [data(2), data(1)], commit: .zero),
                .termsOutOfOrder
            ),
            (AppendRequest(term: Term(5), previous: .zero, entries: [data(6)], commit: .zero), .termsOutOfOrder),
            (AppendRequest(term: Term(5), previous: .zero, entries: [data(0)], commit: .zero), .malformed),
            (
                AppendRequest(
                    term: Term(5), previous: .zero, entries: [data(1)], configurations: [placed], commit: .zero),
                .malformed
            ),
            (
                AppendRequest(
                    term: Term(5), previous: .zero, entries: [EntryHeader(term: Term(1), kind: .configuration)],
                    commit: .zero), .malformed
            ),
        ]
        for (request, refusal) in bad {
            var stage = Stage(terms: [1, 1])
            let effects = stage.receive(.appendRequest(request), from: b)
            #expect(effects.refusal == refusal, "\(request)")
            #expect(effects.appendReply?.success == false && stage.raft.term == Term(1) && stage.raft.leader == nil)
        }
    }

    @Test("answers from nobody, to nothing asked, or beyond all bounds are refused")
    func badReplies() {
        var stage = Stage()
        stage.lead()
        #expect(stage.answer(stage.ticket(after: 0, count: 1), from: e).refusal == .unknownPeer)
        #expect(stage.answer(stage.ticket(after: 0, count: 9), from: b).refusal == .acknowledgedTooMuch)
        #expect(stage.answer(stage.ticket(after: 0, count: 1, round: 9), from: b).refusal == .unexpectedReply)
        #expect(stage.answer(stage.ticket(after: 0, count: 1), from: b, term: 7).refusal == .unexpectedReply)
        let reply = VoteReply(isPreVote: false, requestTerm: Term(1), term: Term(.max), granted: true)
        #expect(stage.receive(.voteReply(reply), from: b).refusal == .malformed)
        #expect(stage.hear(from: a, term: 1).refusal == .malformed)
        #expect(stage.raft.isLeader)
    }

    @Test("whoever denies even the place before the log is tried again later, and then gets everything")
    func denialOfTheStart() throws {
        var settings = RaftSettings()
        settings.retryInterval = .milliseconds(500)
        var stage = Stage(settings: settings)
        stage.lead()
        stage.gainSupport(from: [b, c])
        for hint in [nil, 0, 7] as [Int64?] {
            let effects = stage.answer(stage.ticket(after: 0, count: 1), from: b, success: false, hint: hint)
            #expect(effects.refusal == .unexpectedReply)
            #expect(effects.appends(to: b).isEmpty, "an answer at once would be a loop")
            let progress = try #require(stage.raft.progress(of: b))
            #expect(progress.match == .zero && progress.next == index(1))
        }
        #expect(stage.reachDeadline().appends(to: b).map(\.previous) == [.zero])
        stage.answer(stage.ticket(after: 0, count: 1), from: b)
        #expect(stage.raft.progress(of: b)?.match == index(1))
    }

    @Test("an append that contradicts what a snapshot stands for is refused, also when it begins before it")
    func contradictsBase() {
        var stage = Stage(base: position(5, term: 3))
        let effects = stage.hear(from: b, term: 4, after: (2, 1), terms: [1, 1, 1, 1, 1])
        #expect(effects.refusal == .conflictsWithCommitted && effects.logChange == nil)
        #expect(effects.appendReply?.success == false && effects.appendReply?.lastIndex == index(5))
        #expect(stage.hear(from: b, term: 4, after: (2, 1), terms: [1, 1, 3, 3]).logChange?.first == index(6))
    }
}

/// A message that breaks the protocol in one way, and a replica to hear it.
private struct Offence {
    var what: String
    var stage: Stage
    var message: Message
    var sender = b
}

@Suite("Refusals: every one has its name")
struct RefusalTableTests {
    /// Below nothing, and what a field reads as that was meant to be the largest unsigned number.
    private static let minusOne = Int64(bitPattern: UInt64.max)
    private static let beyond: Int64 = 1 << 62

    /// A follower of `b` in term 3 that rests; its log is 2, 2, 3, of which two entries are committed.
    private static func follower() -> Stage {
        var stage = Stage.resting()
        stage.hear(from: b, term: 3, terms: [2, 2, 3], commit: 2)
        stage.persist()
        return stage
    }

    private static func leader() -> Stage { Stage.settled(terms: [1, 1]) }

    private static func append(
        _ what: String, term: Int64 = 3, after previous: (Int64, Int64) = (0, 0), terms: [Int64] = [],
        kind: EntryKind = .data, configurations: [PlacedConfiguration] = [], commit: Int64 = 0, from sender: PeerID = b
    ) -> Offence {
        let request = AppendRequest(
            term: Term(term), previous: position(previous.0, term: previous.1),
            entries: terms.map { EntryHeader(term: Term($0), kind: kind) }, configurations: configurations,
            commit: index(commit))
        return Offence(
            what: "append: \(what)", stage: follower(), message: .appendRequest(request), sender: sender)
    }

    private static func vote(_ what: String, term: Int64 = 4, last: (Int64, Int64) = (0, 0)) -> Offence {
        let request = VoteRequest(isPreVote: false, term: Term(term), last: position(last.0, term: last.1))
        return Offence(what: "vote: \(what)", stage: follower(), message: .voteRequest(request), sender: b)
    }

    private static func reply(
        _ what: String, after previous: Int64 = 2, count: Int = 1, round: UInt64 = 0, term: Int64? = nil,
        success: Bool = true, lastIndex: Int64? = nil, lastTerm: Int64? = nil, from sender: PeerID = b
    ) -> Offence {
        let stage = leader()
        let reply = AppendReply(
            ticket: stage.ticket(after: previous, count: count, round: round), term: term.map { Term($0) } ?? Term(2),
            success: success, lastIndex: lastIndex.map { index($0) }, lastTerm: lastTerm.map { Term($0) })
        return Offence(what: "answer: \(what)", stage: stage, message: .appendReply(reply), sender: sender)
    }

    private static func snapshot(
        _ what: String, last: (Int64, Int64), term: Int64 = 3, members: [PeerID] = [a, b, c], from sender: PeerID = b
    ) -> Offence {
        let meta = SnapshotMeta(last: position(last.0, term: last.1), configuration: Configuration(peers: members))
        let request = SnapshotRequest(term: Term(term), meta: meta)
        return Offence(
            what: "snapshot: \(what)", stage: follower(), message: .snapshotRequest(request), sender: sender)
    }

    /// What provokes `refusal`, and nothing else. A case without a row does not compile, or fails.
    private static func offences(_ refusal: Refusal) -> [Offence] {
        switch refusal {
        case .twoLeadersInOneTerm:
            return [
                append("another leader of the term", terms: [3], from: c),
                snapshot("another leader of the term", last: (9, 3), from: c),
            ]
        case .conflictsWithCommitted:
            return [
                append("other entries than those committed", terms: [1]),
                append("an entry that overlaps the committed ones", after: (1, 2), terms: [3, 3], commit: 3),
                append("a commit index beyond all", terms: [2, 3, 3], commit: .max),
            ]
        case .termsOutOfOrder:
            return [
                append("entries whose terms go back", terms: [3, 2]),
                append("an entry older than the one before", after: (3, 3), terms: [2]),
                append("an entry newer than the leader", terms: [4]),
                append("a place newer than the leader", after: (3, 4)),
            ]
        case .malformed:
            return malformedRequests + malformedReplies
        case .unexpectedReply:
            return [
                reply("of a round that never was", round: 99),
                reply("a success in a later term", term: 3),
                reply("a success in an earlier term", term: 1),
                Offence(
                    what: "a snapshot's, which is the host's matter", stage: leader(),
                    message: .snapshotReply(SnapshotReply(term: Term(2), success: true))),
            ]
        case .unknownPeer:
            let vote = VoteReply(isPreVote: false, requestTerm: Term(2), term: Term(2), granted: true)
            let question = ReadIndexRequest(term: Term(2), sequence: 1)
            return [
                reply("a stranger's", from: e),
                Offence(what: "a stranger's vote", stage: leader(), message: .voteReply(vote), sender: e),
                Offence(what: "a stranger's read", stage: leader(), message: .readIndexRequest(question), sender: e),
            ]
        case .acknowledgedTooMuch:
            return [
                reply("one entry more than there are", after: 3, count: 1),
                reply("the last place of all", after: beyond - 1, count: Int(beyond - 1)),
            ]
        case .conflictingSnapshot:
            return [snapshot("another entry than the one committed", last: (2, 3))]
        }
    }

    private static var malformedRequests: [Offence] {
        let elsewhere = PlacedConfiguration(index: index(2), configuration: Configuration(peers: [a]))
        let empty = PlacedConfiguration(index: index(1), configuration: .empty)
        var requests = [
            append("from the replica itself", from: a),
            append("a commit index below zero", commit: minusOne),
            append("a place without a term", after: (3, 0)),
            append("a term before the log", after: (0, 3)),
            append("an entry of term zero", terms: [0]),
            append("an entry of term zero behind others", after: (1, 2), terms: [0]),
            append("a configuration without its entry", terms: [3], configurations: [elsewhere]),
            append("an entry without its configuration", terms: [3], kind: .configuration),
            append("a configuration of nobody", terms: [3], kind: .configuration, configurations: [empty]),
            append("a configuration of another entry", terms: [3], kind: .configuration, configurations: [elsewhere]),
            vote("a last entry without a term", last: (9, 0)),
            vote("a last term without an entry", last: (0, 3)),
            vote("a last entry newer than the candidate", last: (9, 5)),
            snapshot("of nothing", last: (0, 0)),
            snapshot("of an entry newer than the leader", last: (9, 4)),
            snapshot("without a membership", last: (9, 3), members: []),
        ]
        for term in [minusOne, 0, beyond, .max] {
            requests += [
                append("term \(term)", term: term), vote("term \(term)", term: term),
                snapshot("term \(term)", last: (9, 3), term: term),
            ]
            let others: [Message] = [
                .timeoutNowRequest(TimeoutNowRequest(term: Term(term), oldLeaderSteppedDown: false)),
                .releaseRequest(ReleaseRequest(term: Term(term))),
                .readIndexRequest(ReadIndexRequest(term: Term(term), sequence: 1)),
            ]
            requests += others.map { Offence(what: "\($0)", stage: follower(), message: $0) }
        }
        for number in [minusOne, beyond, .max] {
            requests += [
                append("place \(number)", after: (number, 1)), append("its term \(number)", after: (1, number)),
                vote("place \(number)", last: (number, 3)), vote("its term \(number)", last: (9, number)),
                snapshot("place \(number)", last: (number, 3)),
            ]
            let vote = VoteRequest(
                isPreVote: false, term: Term(4), last: .zero, handOver: TermLeader(leader: c, term: Term(number)))
            requests.append(Offence(what: "\(vote)", stage: follower(), message: .voteRequest(vote)))
        }
        return requests
    }

    private static var malformedReplies: [Offence] {
        var replies: [Offence] = [
            reply("fewer entries than none", count: -1), reply("more than all entries", count: Int(beyond)),
        ]
        for number in [minusOne, beyond, .max] {
            replies += [
                reply("place \(number)", after: number), reply("term \(number)", term: number),
                reply("hint \(number)", success: false, lastIndex: number),
                reply("its term \(number)", success: false, lastIndex: 1, lastTerm: number),
            ]
            let others: [Message] = [
                .voteReply(VoteReply(isPreVote: true, requestTerm: Term(2), term: Term(number), granted: true)),
                .voteReply(VoteReply(isPreVote: true, requestTerm: Term(number), term: Term(2), granted: true)),
                .timeoutNowReply(TimeoutNowReply(term: Term(number), success: false)),
                .releaseReply(ReleaseReply(term: Term(number))),
                .readIndexReply(ReadIndexReply(sequence: 1, index: index(number))),
                .snapshotReply(SnapshotReply(term: Term(number), success: true)),
            ]
            replies += others.map { Offence(what: "\($0)", stage: leader(), message: $0) }
        }
        return replies
    }

    @Test("a bad message is counted under exactly its name, and changes nothing", arguments: Refusal.allCases)
    func table(_ refusal: Refusal) {
        let offences = RefusalTableTests.offences(refusal)
        #expect(!offences.isEmpty, "nothing provokes it")
        for offence in offences {
            var stage = offence.stage
            let effects = stage.receive(offence.message, from: offence.sender)
            #expect(effects.refusal == refusal, "\(offence.what)")
            #expect(isAnsweredInTheNegative(offence.message, effects), "\(offence.what)")
            if refusal == .twoLeadersInOneTerm {
                // it leaves the term, to be rid of both
                #expect(stage.raft.term == offence.stage.raft.term.next && stage.raft.leader == nil)
                #expect(stage.terms == offence.stage.terms && effects.logChange == nil)
                #expect(stage.raft.commitIndex == offence.stage.raft.commitIndex)
            } else {
                #expect("\(stage.raft)" == "\(offence.stage.raft)", "\(offence.what)")
                #expect(doesNothing(effects), "\(offence.what)")
            }
        }
    }

    /// Besides an answer.
    private func doesNothing(_ effects: Effects) -> Bool {
        effects.messages.isEmpty && effects.hardState == nil && effects.logChange == nil && effects.install == nil
            && effects.acknowledgement == nil && effects.durableMessages.isEmpty && effects.applicable == nil
            && effects.snapshotWanted == nil && effects.readyReads.isEmpty && effects.failedReads.isEmpty
            && effects.readIndexReplies.isEmpty && effects.finishedChanges.isEmpty && !effects.statusChanged
            && !effects.peersChanged
    }

    /// A request is refused, an answer is not answered.
    private func isAnsweredInTheNegative(_ message: Message, _ effects: Effects) -> Bool {
        switch (message, effects.reply) {
        case (.voteRequest, .voteReply(let reply)): return !reply.granted
        case (.appendRequest, .appendReply(let reply)): return !reply.success
        case (.timeoutNowRequest, .timeoutNowReply(let reply)): return !reply.success
        case (.readIndexRequest, .readIndexReply(let reply)): return reply.index == nil
        case (.snapshotRequest, .snapshotReply(let reply)): return !reply.success
        case (.releaseRequest, .releaseReply): return true
        case (.voteReply, nil), (.appendReply, nil), (.timeoutNowReply, nil), (.releaseReply, nil),
            (.readIndexReply, nil), (.snapshotReply, nil):
            return true
        default: return false
        }
    }

    @Test("numbers just below the bound are taken for what they are, and trap nothing")
    func largest() {
        let last = RefusalTableTests.beyond - 1
        var stage = RefusalTableTests.follower()
        let effects = stage.hear(from: b, term: last, after: (last, last), terms: [last], commit: .max)
        #expect(effects.refusal == nil && effects.appendReply?.success == false)
        #expect(effects.appendReply?.lastIndex == index(3) && stage.raft.term == Term(last))
        #expect(stage.hearVote(from: c, term: last, last: position(last, term: last)).refusal == nil)
    }

    @Test("nobody follows, votes for, or campaigns at the word of somebody in term zero")
    func termZero() {
        let timeout = TimeoutNowRequest(term: .zero, oldLeaderSteppedDown: true)
        let vote = VoteRequest(isPreVote: false, term: .zero, last: .zero)
        let append = AppendRequest(term: .zero, previous: .zero, commit: .zero)
        for message in [Message.timeoutNowRequest(timeout), .voteRequest(vote), .appendRequest(append)] {
            var stage = Stage()
            #expect(stage.receive(message, from: b).refusal == .malformed)
            #expect(stage.raft.role == .follower && stage.raft.leader == nil && stage.raft.vote == nil)
        }
    }
}

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

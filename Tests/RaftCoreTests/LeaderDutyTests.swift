import Testing

@testable import RaftCore

/// A leader of three whose first entry is committed; both others hold everything and support it.
private func settledLeader() -> Stage {
    var stage = Stage()
    stage.lead()
    stage.gainSupport(from: [b, c])
    stage.persist()
    for peer in [b, c] {
        for ticket in stage.answer(stage.ticket(after: 0, count: 1), from: peer).appends(to: peer) {
            stage.answer(ticket, from: peer)
        }
    }
    return stage
}

@Suite("§3.10 Leadership transfer")
struct TransferTests {
    @Test("the target is told when it holds the whole log; meanwhile nothing is proposed")
    func waitsForTarget() {
        var stage = settledLeader()
        let ticket = stage.step(.proposed(count: 1)).appends(to: b)[0]
        #expect(stage.step(.transferRequested(b)).timeoutsNow.isEmpty)
        #expect(stage.raft.isTransferring && !stage.raft.acceptsProposals)
        #expect(stage.step(.proposed(count: 1)).logChange == nil)
        #expect(stage.answer(ticket, from: b).timeoutsNow == [b])
        #expect(stage.answer(ticket, from: b).timeoutsNow.isEmpty, "once")
    }

    @Test("without a name it goes to the most up-to-date member that supports us")
    func picksBest() {
        var stage = settledLeader()
        let ticket = stage.step(.proposed(count: 1)).appends(to: c)[0]
        stage.answer(ticket, from: c)
        #expect(stage.step(.transferRequested(nil)).timeoutsNow == [c])
    }

    @Test("it is given up after an election timeout, and the leader leads on", arguments: [false, true])
    func givenUp(isRefused: Bool) {
        var stage = settledLeader()
        stage.step(.transferRequested(b))
        if isRefused {
            stage.receive(.timeoutNowReply(TimeoutNowReply(term: stage.raft.term, success: false)), from: b)
        } else {
            stage.wait(milliseconds: 900)
            stage.gainSupport(from: [b, c])
            stage.reachDeadline()
        }
        #expect(stage.raft.acceptsProposals)
    }

    @Test("strangers and followers do not take part")
    func refused() {
        var stage = settledLeader()
        stage.step(.transferRequested(e))
        stage.step(.transferRequested(a))
        #expect(!stage.raft.isTransferring)
        var follower = Stage()
        #expect(follower.step(.transferRequested(b)).messages.isEmpty)
    }

    @Test("a leader votes for the one it hands over to, in spite of its majority")
    func leaderVotes() {
        var stage = settledLeader()
        stage.step(.transferRequested(b))
        let last = LogPosition(term: stage.raft.lastTerm, index: stage.raft.lastIndex)
        #expect(stage.hearVote(from: c, term: 2, last: last).voteReply?.granted == false)
        #expect(stage.hearVote(from: b, term: 2, last: last).voteReply?.granted == true)
    }

    @Test("told to, a follower campaigns at once, in its leader's name, and answers with the term before")
    func campaignsNow() {
        var stage = Stage()
        stage.promise(to: b)
        stage.hear(from: b, term: 3)
        let request = TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)
        let effects = stage.receive(.timeoutNowRequest(request), from: b)
        #expect(effects.reply == .timeoutNowReply(TimeoutNowReply(term: Term(3), success: true)))
        #expect(stage.raft.role == .candidate && stage.raft.term == Term(4))
        guard case .vote(let vote) = effects.durableMessages[0].body else { return #expect(Bool(false)) }
        #expect(vote.handOver == TermLeader(leader: b, term: Term(3)) && !vote.isPreVote)
    }

    @Test("of another term, or from somebody else than the leader, it is refused", arguments: [2, 4] as [Int64])
    func wrongTerm(term: Int64) {
        var stage = Stage()
        stage.hear(from: b, term: 3)
        let request = TimeoutNowRequest(term: Term(term), oldLeaderSteppedDown: false)
        stage.receive(.timeoutNowRequest(request), from: b)
        #expect(stage.raft.role == .follower && stage.raft.term == Term(max(3, term)))
        let current = TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)
        stage.receive(.timeoutNowRequest(current), from: c)
        #expect(stage.raft.role == .follower)
    }
}

@Suite("§6.4 ReadIndex")
struct ReadTests {
    @Test("a read is ready when a majority answered a round begun after it came")
    func round() {
        var stage = settledLeader()
        let effects = stage.step(.readRequested(1, lease: false))
        let ticket = effects.appends(to: b)[0]
        #expect(effects.readyReads.isEmpty && effects.appends(to: c) == [ticket] && ticket.count == 0)
        let ready = stage.answer(ticket, from: b).readyReads
        #expect(ready.map(\.read) == [1] && ready.map(\.index) == [index(1)])
    }

    @Test("an answer to something sent before the read proves nothing")
    func oldAnswer() {
        var stage = settledLeader()
        let before = stage.step(.proposed(count: 1)).appends(to: b)[0]
        stage.step(.readRequested(1, lease: false))
        #expect(stage.answer(before, from: b).readyReads.isEmpty)
    }

    @Test("reads that come during a round share the next")
    func batches() {
        var stage = settledLeader()
        let first = stage.step(.readRequested(1, lease: false)).appends(to: b)[0]
        #expect(stage.step(.readRequested(2, lease: false)).messages.isEmpty)
        stage.step(.readRequested(3, lease: false))
        let effects = stage.answer(first, from: b)
        #expect(effects.readyReads.map(\.read) == [1])
        let second = effects.appends(to: c)[0]
        #expect(stage.answer(second, from: c).readyReads.map(\.read) == [2, 3])
    }

    @Test("a mismatch of this term is an answer too")
    func mismatch() {
        var stage = settledLeader()
        let ticket = stage.step(.readRequested(1, lease: false)).appends(to: b)[0]
        #expect(stage.answer(ticket, from: b, success: false, hint: 0).readyReads.map(\.read) == [1])
    }

    @Test("a new leader answers none before an entry of its term is committed")
    func waitsForCommit() {
        var stage = Stage()
        stage.lead()
        #expect(stage.step(.readRequested(1, lease: false)).messages.isEmpty)
        stage.persist()
        let effects = stage.answer(stage.ticket(after: 0, count: 1), from: b)
        #expect(stage.raft.commitIndex == index(1) && effects.readyReads.isEmpty)
        #expect(stage.answer(effects.appends(to: b)[0], from: b).readyReads.map(\.index) == [index(1)])
    }

    @Test("without leadership reads fail, those waiting too")
    func fails() {
        var stage = settledLeader()
        stage.step(.readRequested(1, lease: false))
        stage.step(.readRequested(2, lease: false))
        #expect(stage.hear(from: b, term: 5).failedReads == [1, 2])
    }

    @Test("the only voter needs to ask nobody")
    func single() {
        var stage = Stage(members: [a])
        stage.step(.deadlineReached)
        #expect(stage.step(.readRequested(1, lease: false)).readyReads.isEmpty)
        #expect(stage.persist().readyReads.map(\.read) == [1])
        #expect(stage.step(.readRequested(2, lease: false)).readyReads.map(\.read) == [2])
    }

    @Test("a round that stays unanswered is sent again")
    func retried() {
        var stage = settledLeader()
        stage.step(.readRequested(1, lease: false))
        stage.wait(milliseconds: 900)
        stage.gainSupport(from: [b, c], tells: false)
        let ticket = stage.reachDeadline().appends(to: b)[0]
        #expect(stage.answer(ticket, from: b).readyReads.map(\.read) == [1])
    }
}

import Testing

@testable import RaftCore

extension Stage {
    /// A replica that held entries up to 5 of term 2, and has two of term 1 left.
    fileprivate static func damaged(members: [PeerID] = [a, b, c]) -> Stage {
        Stage(terms: [1, 1], term: 2, members: members, debt: position(5, term: 2))
    }

    /// Puts a replica in the place of this stage's, with two entries of term 1 left and a debt to the fifth.
    fileprivate mutating func replace(taking succeeds: Bool) {
        let former = raft
        let membership = PlacedConfiguration(index: .zero, configuration: former.configuration)
        raft = Raft(
            id: former.id, hardState: HardState(term: former.term, vote: former.vote),
            termRuns: [position(1, term: 1)], lastIndex: index(2), configurations: [membership], applied: .zero,
            debt: position(5, term: 1), settings: former.settings, seed: 7)
        if succeeds { raft.succeed(former) }
        step(.started)
    }
}

@Suite("A replica in debt votes as if its log had never been damaged (§5.4.1)")
struct DebtTests {
    @Test(
        "it grants votes and pre-votes to candidates at least as up to date as the debt, and to no others",
        arguments: [
            (position(2, term: 1), false), (position(9, term: 1), false), (position(4, term: 2), false),
            (position(5, term: 2), true), (position(6, term: 2), true), (position(1, term: 3), true),
        ])
    func votes(last: LogPosition, isFit: Bool) {
        for isPreVote in [true, false] {
            var stage = Stage.damaged()
            let effects = stage.hearVote(from: b, term: 4, last: last, isPreVote: isPreVote)
            #expect(effects.voteReply?.granted == isFit)
        }
    }

    @Test("its own log counts where it is better than the debt: that is none then")
    func none() {
        for (terms, owed) in [([1, 1], position(2, term: 1)), ([1, 2], position(9, term: 1)), ([1], .zero)] {
            let stage = Stage(terms: terms.map(Int64.init), debt: owed)
            #expect(stage.raft.debt == nil)
        }
        #expect(Stage(terms: [1, 1], debt: position(3, term: 1)).raft.debt == position(3, term: 1))
    }

    @Test("it asks, so that it is heard of, but stands for no election, whoever would elect it")
    func campaign() {
        var stage = Stage.damaged()
        for _ in 0..<3 {
            #expect(stage.reachDeadline().messages.count == 2 && stage.raft.role == .preCandidate)
            stage.answerVotes([b, c])
            #expect(stage.raft.role == .preCandidate && stage.raft.term == Term(2) && stage.raft.vote == nil)
        }
    }

    @Test("a sole voter has nobody to ask, and rests")
    func alone() {
        var stage = Stage.damaged(members: [a])
        stage.wait(milliseconds: 60_000)
        let effects = stage.step(.deadlineReached)
        #expect(stage.raft.deadline == nil && effects.messages.isEmpty && effects.hardState == nil)
        #expect(stage.raft.role == .follower && stage.raft.term == Term(2))
    }

    @Test("a sole voter that has what it owes after all campaigns")
    func aloneAndPaid() {
        var stage = Stage.damaged(members: [a])
        // of a leader that its log knows nothing of, for what was lost made it a member
        stage.hear(from: b, term: 2, after: (2, 1), terms: [2, 2, 2])
        stage.receive(.releaseRequest(ReleaseRequest(term: Term(2))), from: b)
        #expect(stage.raft.debt != nil && stage.raft.deadline == nil)
        stage.persist()
        #expect(stage.raft.debt == nil && stage.raft.deadline != nil)
        stage.reachDeadline()
        #expect(stage.raft.isLeader)
    }

    @Test("nor when a leader hands over")
    func handOver() {
        var stage = Stage.damaged()
        stage.hear(from: b, term: 2, after: (2, 1))
        stage.receive(
            .timeoutNowRequest(TimeoutNowRequest(term: Term(2), oldLeaderSteppedDown: false)), from: b)
        #expect(
            stage.effects.reply == .timeoutNowReply(TimeoutNowReply(term: Term(2), success: false))
                && stage.raft.role == .follower)
    }

    @Test("it acknowledges what it really holds: the leader is told where its log ends")
    func acknowledges() {
        var stage = Stage.damaged()
        #expect(stage.hear(from: b, term: 2, after: (5, 2)).appendReply?.lastIndex == index(2))
        #expect(stage.effects.appendReply?.success == false)
        #expect(stage.hear(from: b, term: 2, after: (2, 1), terms: [2, 2]).appendReply?.success == true)
        #expect(stage.effects.reply == nil, "not before it is durable")
    }

    @Test("the debt is paid when the durable log is as up to date, not when entries are under way")
    func paid() {
        var stage = Stage.damaged()
        stage.hear(from: b, term: 2, after: (2, 1), terms: [2, 2, 2])
        #expect(stage.raft.debt == position(5, term: 2))
        stage.step(.persisted(DurableMark(term: Term(2), index: index(4))))
        #expect(stage.raft.debt == position(5, term: 2))
        stage.persist()
        #expect(stage.raft.debt == nil)
        stage.reachDeadline()
        stage.answerVotes([b])
        #expect(stage.raft.role == .candidate)
    }

    @Test("a shorter log of a later term pays it")
    func paidByTerm() {
        var stage = Stage.damaged()
        stage.hear(from: b, term: 3, after: (2, 1), terms: [3])
        stage.persist()
        #expect(stage.raft.debt == nil && stage.raft.lastIndex == index(3))
    }

    @Test("a snapshot pays it as soon as it is durable, if it goes as far", arguments: [4, 5, 7])
    func snapshot(through last: Int64) {
        var stage = Stage.damaged()
        stage.install(last: position(last, term: 2), term: 2)
        #expect(stage.raft.debt != nil)
        stage.persist()
        #expect((stage.raft.debt == nil) == (last >= 5))
    }

    @Test("an operator who gives a lost majority up voids it")
    func reset() {
        var stage = Stage.damaged()
        stage.step(.resetRequested(1, Configuration(peers: [a])))
        #expect(stage.raft.debt == nil && stage.effects.hardState?.term == Term(3))
        stage.reachDeadline()
        #expect(stage.raft.isLeader)
    }

    @Test("the log may begin behind what the store has applied, with nothing in it and a debt beyond")
    func emptyLog() {
        var stage = Stage(term: 2, base: position(3, term: 2), debt: position(5, term: 2))
        #expect(stage.raft.lastIndex == index(3) && stage.raft.commitIndex == index(3))
        #expect(stage.raft.debt == position(5, term: 2))
        #expect(stage.hear(from: b, term: 2, after: (5, 2)).appendReply?.lastIndex == index(3))
        stage.hear(from: b, term: 2, after: (3, 2), terms: [2, 2], commit: 5)
        stage.persist()
        #expect(stage.raft.debt == nil && stage.raft.commitIndex == index(5))
    }
}

@Suite("A replica whose log was damaged takes another's place while its node goes on")
struct SuccessionTests {
    @Test("loyalty stays owed: a leader's lease may count on it", arguments: [true, false])
    func loyalty(succeeds: Bool) {
        var stage = Stage.resting()
        stage.replace(taking: succeeds)
        let effects = stage.hearVote(from: c, term: 4, last: position(9, term: 3))
        #expect(effects.voteReply?.granted == !succeeds)
    }

    @Test("news of a lost leadership is still spread")
    func release() {
        var stage = Stage.settled()
        stage.step(.stepDownRequested)
        stage.replace(taking: true)
        stage.wait(milliseconds: 1000, supportedBy: [b, c])
        #expect(Set(stage.step(.deadlineReached).releases) == [b, c])
    }

    @Test("what was not durable when it took over is not, until a write of its own is", arguments: [1, 2, 4])
    func durable(through last: Int64) {
        var stage = Stage(members: [a, b, c])
        stage.hear(from: b, term: 1, terms: [1, 1, 1, 1, 1])
        stage.step(.persisted(DurableMark(term: Term(1), index: index(last))))
        stage.replace(taking: true)
        #expect(stage.raft.durableIndex == index(min(last, 2)) && stage.raft.lastIndex == index(2))
        // a heartbeat that fits vouches for nothing that a crash might take
        let effects = stage.hear(from: b, term: 1, after: (2, 1))
        #expect((effects.reply != nil) == (last >= 2) && effects.appendReply?.success == true)
        stage.persist()
        #expect(stage.raft.durableIndex == index(2))
    }

    @Test("nor is its term: an answer in it waits") func durableTerm() {
        var stage = Stage(terms: [1, 1], members: [a, b, c])
        stage.hear(from: b, term: 3, after: (2, 1))
        #expect(stage.effects.hardState?.term == Term(3))
        stage.replace(taking: true)
        let effects = stage.hear(from: b, term: 3, after: (2, 1))
        #expect(effects.reply == nil && effects.appendReply?.success == true)
    }

    @Test("a late answer to a question of the former replica is none to one of its own")
    func readIndex() {
        var stage = Stage.resting()
        stage.step(.readRequested(1, lease: false))
        stage.replace(taking: true)
        stage.hear(from: b, term: 3)
        stage.step(.readRequested(2, lease: false))
        stage.receive(.readIndexReply(ReadIndexReply(sequence: 1, index: index(1))), from: b)
        #expect(stage.effects.readyReads.isEmpty)
        stage.receive(.readIndexReply(ReadIndexReply(sequence: 2, index: index(4))), from: b)
        #expect(stage.effects.readyReads.map(\.index) == [index(4)])
    }
}

@Suite("A leader whose follower's log was damaged (§5.3)")
struct DeniedMatchTests {
    /// A leader of five entries, all committed and acknowledged by `b`.
    private static func leader(members: [PeerID] = [a, b, c]) -> Stage {
        .settled(terms: [1, 1, 1, 1], members: members)
    }

    /// `b` denies all but the first two entries; returns what it is sent last.
    private static func deny(_ stage: inout Stage) -> AppendTicket {
        var ticket = stage.ticket(after: 5, count: 0, round: stage.raft.leadership!.round)
        for _ in 0..<4 {
            guard let next = stage.answer(ticket, from: b, success: false, hint: 2).appends(to: b).last else { break }
            ticket = next
            if ticket.previous == index(2) { break }
        }
        return ticket
    }

    @Test("the match goes back, the commit index does not, and the entries are sent again")
    func goesBack() {
        var stage = Self.leader()
        #expect(stage.raft.progress(of: b)?.match == index(5))
        let ticket = Self.deny(&stage)
        #expect(ticket.previous == index(2) && ticket.count == 3)
        #expect(stage.raft.progress(of: b)?.match == index(2) && stage.raft.commitIndex == index(5))
        stage.answer(ticket, from: b)
        #expect(stage.raft.progress(of: b)?.match == index(5))
    }

    @Test("a new entry is committed by the real acknowledgement alone")
    func newEntries() {
        var stage = Self.leader()
        let ticket = Self.deny(&stage)
        stage.step(.proposed(count: 1))
        stage.persist()
        #expect(stage.raft.commitIndex == index(5))
        let next = stage.answer(ticket, from: b).appends(to: b)
        #expect(stage.raft.commitIndex == index(5) && next.map(\.previous) == [index(5)])
        stage.answer(next[0], from: b)
        #expect(stage.raft.commitIndex == index(6))
    }

    @Test("a success from before the loss that arrives after the denial counts for nothing")
    func lateSuccess() {
        var stage = Self.leader(members: [a, b, c, d, e])
        stage.step(.proposed(count: 2))
        stage.persist()
        let before = stage.ticket(after: 5, count: 2, round: stage.raft.leadership!.round)
        let ticket = Self.deny(&stage)
        stage.answer(before, from: b)
        stage.answer(before, from: c)
        #expect(stage.raft.progress(of: b)?.match == index(2) && stage.raft.commitIndex == index(5))
        stage.answer(ticket, from: b)
        #expect(stage.raft.progress(of: b)?.match == index(7) && stage.raft.commitIndex == index(7))
    }

    @Test("who lost a part of its log asks for votes that it does not count, and the leader sends a probe")
    func probe() {
        var stage = Self.leader()
        let effects = stage.hearVote(from: b, term: 2, last: position(2, term: 1), isPreVote: true)
        #expect(effects.voteReply?.granted == false)
        #expect(effects.appends(to: b).map(\.previous) == [index(5)])
    }

    @Test("a hand-over to who cannot stand for election ends")
    func handOver() {
        var stage = Self.leader()
        #expect(stage.step(.transferRequested(b)).timeoutsNow == [b])
        stage.receive(.timeoutNowReply(TimeoutNowReply(term: stage.raft.term, success: false)), from: b)
        #expect(!stage.raft.isTransferring)
    }
}

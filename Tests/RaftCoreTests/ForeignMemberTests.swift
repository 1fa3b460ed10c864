import Testing

@testable import RaftCore

@Suite("A leader and its foreign members")
struct ForeignMemberTests {
    /// A leader of three, of which `c` is foreign and has everything.
    private func settled(maxEntries: Int = 2) -> Stage {
        var settings = RaftSettings()
        settings.maxEntriesPerAppend = maxEntries
        var stage = Stage.settled(settings: settings)
        stage.makeForeign(c)
        stage.catchUp([b, c])
        return stage
    }

    @Test("it has one append with entries under way, however many wait; ours has several")
    func oneAtATime() throws {
        var stage = settled()
        var effects = stage.step(.proposed(count: 5))
        #expect(effects.appends(to: b).map(\.count) == [2, 2, 1])
        #expect(effects.appends(to: c).map(\.count) == [2])
        #expect(stage.step(.proposed(count: 1)).appends(to: c).isEmpty)
        let first = try #require(effects.appends(to: c).first)
        effects = stage.answer(first, from: c)
        #expect(effects.appends(to: c).map(\.count) == [2])
        #expect(effects.appends(to: c).first?.previous == first.previous.advanced(by: 2))
    }

    @Test(
        "after an error it gets entries again a heartbeat later, after EBUSY a second later", arguments: [false, true])
    func pause(isBusy: Bool) throws {
        var stage = settled()
        let lost = try #require(stage.step(.proposed(count: 1)).appends(to: c).first)
        #expect(stage.step(.appendFailed(lost, peer: c, isBusy: isBusy)).appends(to: c).isEmpty)
        let began = stage.now
        var waited = Interval(nanoseconds: 0)
        for _ in 0..<40 {
            stage.gainSupport(from: [b], tells: false)
            let effects = stage.reachDeadline()
            if effects.appends(to: c).contains(where: { $0.count > 0 }) { break }
            waited = stage.now - began
            for ticket in effects.appends(to: c) {
                // heartbeats are answered all the time, as a braft that installs a snapshot does
                let entries = stage.answer(ticket, from: c).appends(to: c).filter { $0.count > 0 }
                if !entries.isEmpty { waited = stage.now - began }
                if !entries.isEmpty { return check(waited, isBusy) }
            }
        }
        check(stage.now - began, isBusy)
    }

    private func check(_ waited: Interval, _ isBusy: Bool) {
        if isBusy {
            #expect(waited >= .milliseconds(1000) && waited <= .milliseconds(1200))
        } else {
            #expect(waited >= .milliseconds(100) && waited <= .milliseconds(300))
        }
    }

    @Test("heartbeats that are answered do not put off the probe that an error has put off", arguments: [false, true])
    func probeIsDue(isBusy: Bool) throws {
        var stage = Stage(terms: [1, 1, 1])
        stage.lead()
        stage.gainSupport(from: [b])
        stage.makeForeign(c)
        // the leader's own entry is the next one, and nothing is known of what the foreign member has
        let probe = stage.ticket(after: 3, count: 1)
        stage.step(.appendFailed(probe, peer: c, isBusy: isBusy))
        let began = stage.now
        var probed: Interval?
        for _ in 0..<40 where probed == nil {
            stage.gainSupport(from: [b], tells: false)
            for ticket in stage.reachDeadline().appends(to: c) {
                if ticket.previous == index(3) { probed = stage.now - began }
                if ticket.previous == .zero { stage.answer(ticket, from: c) }
            }
            stage.catchUp([b])
        }
        let waited = try #require(probed)
        #expect(waited <= .milliseconds(isBusy ? 1200 : 300) && waited >= .milliseconds(isBusy ? 1000 : 100))
    }

    @Test("a new connection to it is used for a probe at once")
    func reconnected() throws {
        var stage = settled()
        let lost = try #require(stage.step(.proposed(count: 1)).appends(to: c).first)
        stage.step(.connectionLost(c.address))
        stage.step(.appendFailed(lost, peer: c))
        #expect(!stage.step(.livenessChanged(c.address)).appends(to: c).isEmpty)
    }

    @Test("leadership goes to one of ours, though a foreign member has as much; to that one only if there is no other")
    func successor() {
        var stage = Stage.settled(members: [a, b, c])
        stage.makeForeign(b)
        stage.catchUp([b, c])
        #expect(stage.step(.stepDownRequested).timeoutsNow == [c])

        stage = Stage.settled(members: [a, b])
        stage.makeForeign(b)
        stage.catchUp([b])
        #expect(stage.step(.stepDownRequested).timeoutsNow == [b])
    }

    @Test("no learners beside it, for braft knows none")
    func learners() {
        var stage = settled()
        stage.step(.membershipRequested(1, Configuration(peers: [a, b, c], learners: [d])))
        #expect(stage.outcomes == [.refused(.foreignWithLearners)])
        stage.step(.membershipRequested(2, Configuration(peers: [a, b], learners: [d])))
        #expect(stage.outcomes.count == 1, "without it they may come")
    }
}

@Suite("Elections with foreign members")
struct ForeignElectionTests {
    @Test(
        "a foreign candidate is told that only the lease stands against it, and gets the vote when it names the leader")
    func leaseRejection() throws {
        var stage = Stage.resting(under: b)
        stage.makeForeign(c)
        var reply = try #require(stage.hearVote(from: c, term: 4, last: position(9, term: 3)).voteReply)
        #expect(!reply.granted && reply.term == Term(3))
        #expect(
            reply.details == VoteDetails(isDisrupted: false, previousTerm: Term(3), isRejectedByLease: true))
        let named = TermLeader(leader: b, term: Term(3))
        reply = try #require(
            stage.hearVote(from: c, term: 4, last: position(9, term: 3), handOver: named).voteReply)
        #expect(reply.granted && reply.term == Term(4))
        #expect(
            reply.details == VoteDetails(isDisrupted: false, previousTerm: Term(3), isRejectedByLease: false))
    }

    @Test("a lease is no excuse for a candidate whose log is too short")
    func shortLog() throws {
        var stage = Stage.resting(under: b)
        stage.hear(from: b, term: 3, terms: [3, 3])
        stage.makeForeign(c)
        let reply = try #require(stage.hearVote(from: c, term: 4, last: position(1, term: 3)).voteReply)
        #expect(!reply.granted && reply.details?.isRejectedByLease == false)
    }

    @Test("a leader that hands over tells a foreign candidate of its end; one that stays does not")
    func disrupted() throws {
        var stage = Stage.settled()
        stage.makeForeign(c)
        stage.catchUp([b, c])
        var reply = try #require(stage.hearVote(from: c, term: 2, last: position(9, term: 1)).voteReply)
        #expect(!reply.granted && stage.raft.isLeader && reply.details?.isDisrupted == false)
        stage.step(.transferRequested(c))
        #expect(stage.effects.timeoutsNow == [c])
        reply = try #require(stage.hearVote(from: c, term: 2, last: position(9, term: 1)).voteReply)
        #expect(reply.granted)
        #expect(reply.details == VoteDetails(isDisrupted: true, previousTerm: Term(1), isRejectedByLease: false))
    }

    @Test("a lease once given is kept, though its leader is gone from the group, or something else is at its address")
    func keptLease() {
        var stage = Stage()
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        var ignored = NodeLiveness.Effects()
        stage.liveness.step(.familiar(b.address), now: stage.now, into: &ignored)
        stage.step(.livenessChanged(b.address))
        #expect(stage.raft.deadline != nil, "awake")
        stage.wait(milliseconds: 1999)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == false)
        stage.reachDeadline()
        #expect(stage.raft.deadline != nil || stage.raft.role != .follower)
        stage.wait(milliseconds: 1)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test(
        "told to campaign by a foreign leader that may go on leading, it names it only once that one says it has gone")
    func foreignHandOver() throws {
        var stage = Stage(members: [a, b, c, d])
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        let request = TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)
        stage.receive(.timeoutNowRequest(request), from: b)
        var asked = stage.effects.durableMessages
        #expect(asked.count == 3)
        for message in asked {
            guard case .vote(let vote) = message.body else { Issue.record("no vote"); continue }
            #expect(vote.handOver == nil)
        }
        stage.persist()
        let gone = VoteDetails(isDisrupted: true, previousTerm: Term(3), isRejectedByLease: false)
        let reply = VoteReply(isPreVote: false, requestTerm: Term(4), term: Term(4), granted: true, details: gone)
        asked = stage.receive(.voteReply(reply), from: b).messages
        #expect(asked.map(\.to) == [c, d])
        for message in asked {
            guard case .vote(let vote) = message.body else { Issue.record("no vote"); continue }
            #expect(vote.handOver == TermLeader(leader: b, term: Term(3)))
        }
        stage.answerVotes([c])
        #expect(stage.raft.isLeader)
        // one that has stepped down is named at once
        stage = Stage(members: [a, b, c, d])
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: true)), from: b)
        guard case .vote(let vote)? = stage.effects.durableMessages.first?.body else { Issue.record("no vote"); return }
        #expect(vote.handOver == TermLeader(leader: b, term: Term(3)))
    }

    @Test("between our nodes nothing of it is said")
    func ours() throws {
        var stage = Stage.resting(under: b)
        let reply = try #require(stage.hearVote(from: c, term: 4, last: position(9, term: 3)).voteReply)
        #expect(!reply.granted && reply.details == nil)
    }

    @Test("a candidate asks those again whom only a lease holds, once another says that it led and leads no more")
    func asksAgain() throws {
        var stage = Stage(term: 3, members: [a, b, c, d, e])
        for foreign in [b, c, d] { stage.makeForeign(foreign) }
        stage.wait(milliseconds: 3000)
        stage.reachDeadline()
        stage.answerVotes([b, c])
        stage.persist()
        #expect(stage.raft.role == .candidate && stage.raft.term == Term(4))
        func answer(_ voter: PeerID, _ granted: Bool, _ details: VoteDetails) -> [Outbound] {
            let reply = VoteReply(
                isPreVote: false, requestTerm: Term(4), term: Term(granted ? 4 : 3), granted: granted,
                details: details)
            return stage.receive(.voteReply(reply), from: voter).messages
        }
        let held = VoteDetails(isDisrupted: false, previousTerm: Term(3), isRejectedByLease: true)
        let gone = VoteDetails(isDisrupted: true, previousTerm: Term(3), isRejectedByLease: false)
        #expect(answer(c, false, held).isEmpty && stage.raft.role == .candidate)
        let again = answer(b, true, gone)
        let request = VoteRequest(
            isPreVote: false, term: Term(4), last: .zero, handOver: TermLeader(leader: b, term: Term(3)))
        #expect(again == [c, d, e].map { Outbound(to: $0, body: .vote(request)) }, "whoever has not granted yet")
        #expect(answer(d, false, held).isEmpty, "nobody is asked a third time")
    }
}

@Suite("Liveness rule 6: foreign nodes are left alone")
struct ForeignLivenessTests {
    @Test("a foreign node is asked for nothing until it is familiar again, and then at once")
    func notAsked() {
        var stage = LivenessStage.supported()
        #expect(stage.step(.foreign(stage.other), at: 50).changed == [stage.other])
        stage.wait(until: 5000)
        #expect(stage.effects.requests.isEmpty && stage.liveness.isReachable(stage.other))
        let effects = stage.step(.familiar(stage.other), at: 5001)
        #expect(effects.changed == [stage.other] && effects.requests.map(\.to) == [stage.other])
        #expect(!stage.liveness.isForeign(stage.other) && !stage.liveness.isReachable(stage.other))
    }

    @Test("one that shares no group is known as foreign until it is nobody's concern any more")
    func untracked() {
        var stage = LivenessStage()
        stage.step(.foreign(c.address), at: 10)
        stage.step(.track([stage.other]), at: 20)
        #expect(stage.liveness.isForeign(c.address))
        stage.step(.familiar(c.address), at: 30)
        #expect(!stage.liveness.isForeign(c.address) && !stage.liveness.isReachable(c.address))
    }

    @Test("who is foreign is looked up only while somebody is, whatever made them familiar")
    func nobody() {
        var stage = LivenessStage()
        for address in [c.address, d.address, c.address, stage.other] { stage.step(.foreign(address), at: 10) }
        #expect(stage.liveness.foreigners == 3)
        stage.step(.familiar(c.address), at: 20)
        stage.step(.familiar(c.address), at: 20)
        stage.hear(from: d, at: 30)
        #expect(stage.liveness.foreigners == 1 && stage.liveness.isForeign(stage.other))
        stage.step(.familiar(stage.other), at: 40)
        #expect(stage.liveness.foreigners == 0)
    }
}

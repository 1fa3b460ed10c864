import Testing

@testable import RaftCore

@Suite("§5.1 Terms")
struct TermTests {
    @Test("a higher term is adopted, durably, and ends leading")
    func higherTerm() {
        var stage = Stage()
        stage.lead()
        stage.hear(from: b, term: 9)
        #expect(stage.raft.role == .follower && stage.raft.term == Term(9) && stage.raft.leader == b)
        #expect(stage.effects.hardState == HardState(term: Term(9), vote: nil))
        #expect(stage.effects.statusChanged)
    }

    @Test("a higher term in an answer ends a candidacy")
    func higherTermInReply() {
        var stage = Stage()
        stage.reachDeadline()
        let reply = VoteReply(isPreVote: true, requestTerm: Term(1), term: Term(4), granted: false)
        stage.receive(.voteReply(reply), from: b)
        #expect(stage.raft.role == .follower && stage.raft.term == Term(4))
        #expect(stage.raft.deadline != nil)
    }

    @Test("a request of an old term is refused and changes nothing")
    func oldTerm() {
        var stage = Stage(terms: [5])
        let effects = stage.hear(from: b, term: 4, after: (1, 4), terms: [4])
        #expect(effects.appendReply?.success == false && effects.appendReply?.term == Term(5))
        #expect(stage.raft.leader == nil && stage.terms == [5])
    }

    @Test("a second leader in one term is refused, and the term left behind")
    func twoLeaders() {
        var stage = Stage()
        stage.hear(from: b, term: 3)
        let effects = stage.hear(from: c, term: 3)
        #expect(effects.refusal == .twoLeadersInOneTerm)
        #expect(effects.appendReply?.success == false && effects.appendReply?.term == Term(4))
        #expect(effects.hardState?.term == Term(4))
    }
}

@Suite("§5.2 Leader election")
struct ElectionTests {
    @Test("a started member waits a random while, then asks")
    func startsAwake() {
        var stage = Stage()
        let delay = stage.raft.deadline! - stage.now
        #expect(delay.nanoseconds > 0 && delay <= RaftSettings().electionJitter)
        let effects = stage.reachDeadline()
        #expect(effects.messages.map(\.to) == [b, c] && stage.raft.role == .preCandidate)
    }

    @Test("whoever is no member never campaigns", arguments: [[], [b, c]])
    func strangersRest(members: [PeerID]) {
        let stage = Stage(members: members)
        #expect(stage.raft.deadline == nil)
    }

    @Test("a candidate votes for itself in a new term; its requests wait for the disk")
    func candidate() {
        var stage = Stage()
        stage.reachDeadline()
        let effects = stage.answerVotes([b])
        #expect(stage.raft.role == .candidate)
        #expect(effects.hardState == HardState(term: Term(1), vote: a))
        #expect(effects.messages.isEmpty && effects.durableMessages.map(\.to) == [b, c])
    }

    @Test("a majority of votes makes a leader; one voter counts once")
    func majorityWins() {
        var stage = Stage(members: [a, b, c, d, e])
        stage.reachDeadline()
        stage.answerVotes([b, b])
        #expect(stage.raft.role == .preCandidate)
        stage.answerVotes([c])
        stage.answerVotes([b, b])
        #expect(stage.raft.role == .candidate)
        stage.answerVotes([d])
        #expect(stage.raft.role == .leader && stage.raft.leader == a)
    }

    @Test("while joint, both majorities must grant (§6)")
    func jointMajorities() {
        var stage = Stage(members: [a, b, c, d, e])
        let joint = Configuration(peers: [a, d, e], oldPeers: [a, b, c])
        stage.raft.adopt(PlacedConfiguration(index: .zero, configuration: joint))
        stage.reachDeadline()
        stage.answerVotes([b, c])
        #expect(stage.raft.role == .preCandidate)
        stage.answerVotes([d])
        #expect(stage.raft.role == .candidate)
    }

    @Test("the only voter leads at once, and commits when its disk has the entry")
    func singleVoter() {
        var stage = Stage(members: [a])
        let effects = stage.step(.deadlineReached)
        #expect(stage.raft.isLeader && effects.hardState != nil && effects.logChange?.count == 1)
        #expect(stage.raft.commitIndex == .zero && effects.applicable == nil)
        #expect(stage.persist().applicable == index(1))
        #expect(stage.raft.deadline == nil)
    }

    @Test("an undecided election ends, and is tried again with a pre-vote")
    func splitVote() {
        var stage = Stage()
        stage.reachDeadline()
        stage.answerVotes([b])
        stage.reachDeadline()
        #expect(stage.raft.role == .preCandidate && stage.raft.term == Term(1))
    }

    @Test("a candidate follows the leader that its term has got")
    func candidateYields() {
        var stage = Stage()
        stage.reachDeadline()
        stage.answerVotes([b])
        stage.hear(from: c, term: 1)
        #expect(stage.raft.role == .follower && stage.raft.leader == c)
    }

    @Test("one vote per term, told when durable, and again to whoever has it")
    func oneVote() {
        var stage = Stage()
        let first = stage.hearVote(from: b, term: 2, last: .zero)
        #expect(first.reply == nil && first.voteReply?.granted == true)
        #expect(first.hardState == HardState(term: Term(2), vote: b))
        #expect(stage.hearVote(from: c, term: 2, last: .zero).voteReply?.granted == false)
        let repeated = stage.hearVote(from: b, term: 2, last: .zero)
        #expect(repeated.reply == nil && repeated.voteReply?.granted == true && repeated.hardState == nil)
    }

    @Test("a vote given before a restart still counts")
    func voteSurvives() {
        var stage = Stage(term: 2, vote: b)
        #expect(stage.hearVote(from: c, term: 2, last: .zero).voteReply?.granted == false)
    }
}

@Suite("§5.4.1 Election restriction")
struct ElectionRestrictionTests {
    @Test(
        "only an up-to-date candidate gets a vote, but its term is adopted",
        arguments: [
            (position(3, term: 2), true), (position(4, term: 2), true), (position(1, term: 3), true),
            (position(2, term: 2), false), (position(9, term: 1), false),
        ])
    func upToDate(last: LogPosition, granted: Bool) {
        for isPreVote in [false, true] {
            var stage = Stage(terms: [1, 1, 2])
            let effects = stage.hearVote(from: b, term: 7, last: last, isPreVote: isPreVote)
            #expect(effects.voteReply?.granted == granted)
            #expect(stage.raft.term == Term(isPreVote ? 2 : 7))
        }
    }
}

@Suite("§9.6 Pre-vote, §4.2.3 disruptive servers, and promises")
struct StickinessTests {
    private func follower() -> Stage {
        var stage = Stage()
        stage.promise(to: b)
        stage.hear(from: b, term: 3)
        return stage
    }

    @Test("a pre-vote changes nothing")
    func preVoteIsFree() {
        var stage = Stage(terms: [1])
        let before = stage.raft.deadline
        let effects = stage.hearVote(from: b, term: 2, last: position(1, term: 1), isPreVote: true)
        #expect(effects.reply != nil && effects.voteReply?.granted == true && effects.hardState == nil)
        #expect(stage.raft.term == Term(1) && stage.raft.vote == nil && stage.raft.deadline == before)
    }

    @Test("without pre-votes nobody's term rises")
    func noPreVoteNoTerm() {
        var stage = Stage()
        for _ in 0..<5 {
            stage.reachDeadline()
            stage.answerVotes([b, c], granted: false)
        }
        #expect(stage.raft.term == .zero && stage.raft.role == .preCandidate)
    }

    @Test("a follower rests under a standing promise and hears nobody else", arguments: [false, true])
    func loyalFollower(isPreVote: Bool) {
        var stage = follower()
        #expect(stage.raft.deadline == nil)
        let effects = stage.hearVote(from: c, term: 9, last: position(9, term: 9), isPreVote: isPreVote)
        #expect(effects.voteReply?.granted == false && effects.voteReply?.term == Term(3))
        #expect(stage.raft.term == Term(3) && stage.raft.deadline == nil)
    }

    @Test("a follower without a promise stays awake and hears others")
    func awakeFollower() {
        var stage = Stage()
        stage.hear(from: b, term: 3)
        #expect(stage.raft.deadline != nil)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test("a lapsed promise wakes a resting follower; under a new one it rests when it has heard its leader again")
    func wakes() {
        var stage = follower()
        stage.wait(milliseconds: 1000)
        stage.step(.livenessChanged(c.address))
        #expect(stage.raft.deadline == nil)
        stage.step(.livenessChanged(b.address))
        #expect(stage.raft.deadline! - stage.now <= RaftSettings().electionJitter)
        stage.promise(to: b)
        stage.step(.livenessChanged(b.address))
        #expect(stage.raft.deadline != nil)
        stage.hear(from: b, term: 3)
        #expect(stage.raft.deadline == nil)
    }

    @Test("a new promise to the node of a leader that is over binds nobody")
    func newPromise() {
        var stage = follower()
        stage.wait(milliseconds: 1000)
        stage.step(.livenessChanged(b.address))
        stage.promise(to: b)
        stage.step(.livenessChanged(b.address))
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test("a voter that a former leader did not count on is released as soon as it supports the node again")
    func lateRelease() {
        var stage = Stage(terms: [1], term: 1)
        stage.gainSupport(from: [b, c])
        stage.lead()
        stage.wait(milliseconds: 960)
        #expect(stage.step(.stepDownRequested).releases.isEmpty)
        stage.gainSupport(from: [b])
        #expect(stage.reachDeadline().releases == [b])
    }

    @Test("a hand-over by exactly this leader and term is heard")
    func handOver() {
        for (leader, term, granted) in [(b, 3, true), (d, 3, false), (b, 2, false)] as [(PeerID, Int64, Bool)] {
            var stage = follower()
            let handOver = TermLeader(leader: leader, term: Term(term))
            let effects = stage.hearVote(from: c, term: 4, last: .zero, handOver: handOver)
            #expect(effects.voteReply?.granted == granted)
        }
    }

    @Test("the leader itself is considered, and asking proves that it leads no longer")
    func fallenLeader() {
        var stage = follower()
        let effects = stage.hearVote(from: b, term: 4, last: .zero, isPreVote: true)
        #expect(effects.voteReply?.granted == true && stage.raft.leader == nil && stage.raft.deadline != nil)
        #expect(stage.raft.term == Term(3))
    }

    @Test("a leader with its majority refuses, and shows itself to the asker")
    func loyalLeader() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b])
        let effects = stage.hearVote(from: c, term: 9, last: position(9, term: 9))
        #expect(effects.voteReply?.granted == false && stage.raft.isLeader)
        #expect(effects.appends(to: c).count == 1)
    }

    @Test("a quiet node neither votes nor campaigns, but appends")
    func quiet() {
        var stage = Stage(isQuiet: true)
        #expect(stage.raft.deadline! >= stage.liveness.quietUntil)
        for isPreVote in [false, true] {
            let effects = stage.hearVote(from: b, term: 4, last: .zero, isPreVote: isPreVote)
            #expect(effects.voteReply?.granted == false && stage.raft.term == .zero)
        }
        #expect(stage.hear(from: b, term: 4, terms: [4]).appendReply?.success == true)
        let asked = TimeoutNowRequest(term: Term(4), oldLeaderSteppedDown: false)
        stage.receive(.timeoutNowRequest(asked), from: b)
        #expect(stage.effects.reply == .timeoutNowReply(TimeoutNowReply(term: Term(4), success: false)))
    }

    @Test("a leader steps down when the support of a majority is gone, but not before it could have it")
    func checkQuorum() {
        var stage = Stage()
        stage.lead()
        stage.step(.livenessChanged(c.address))
        #expect(stage.raft.isLeader)
        stage.gainSupport(from: [b])
        #expect(stage.raft.isLeader)
        stage.wait(milliseconds: 950)
        stage.step(.livenessChanged(b.address))
        #expect(stage.raft.role == .follower && stage.raft.leader == nil && stage.raft.term == Term(1))
        #expect(stage.raft.deadline! - stage.now >= RaftSettings().electionTimeout)
    }

    @Test("a leader that never gets a majority's support gives up after one promise")
    func graceEnds() {
        var stage = Stage()
        stage.lead()
        let elected = stage.now
        stage.reachDeadline()
        #expect(stage.now - elected == NodeLiveness.Settings().promise && stage.raft.role == .follower)
    }
}

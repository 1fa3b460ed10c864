import Testing

@testable import RaftCore

@Suite("Priorities")
struct PriorityTests {
    @Test("each step of priority below the highest waits for one more span of the random delay", arguments: 1...4)
    func delays(priority: Int) {
        var settings = RaftSettings()
        settings.electionPriority = priority
        let stage = Stage(settings: settings)
        let delay = (stage.raft.deadline! - stage.now).nanoseconds
        let span = settings.electionJitter.nanoseconds
        let steps = Int64(RaftSettings.highestPriority - priority)
        #expect(delay > steps * span && delay <= (steps + 1) * span)
    }

    @Test("a replica of priority zero votes, but never campaigns of its own accord")
    func never() {
        var settings = RaftSettings()
        settings.electionPriority = 0
        var stage = Stage(settings: settings)
        #expect(stage.raft.deadline == nil)
        #expect(stage.hearVote(from: b, term: 2, last: .zero).voteReply?.granted == true)
        #expect(stage.raft.deadline == nil)
    }

    @Test("a replica that would not campaign but was told to gives up in the end, and rests")
    func toldToCampaign() {
        var settings = RaftSettings()
        settings.electionPriority = 0
        var stage = Stage(settings: settings)
        stage.hear(from: b, term: 3)
        #expect(stage.raft.deadline == nil)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)), from: b)
        #expect(stage.raft.role == .candidate)
        stage.reachDeadline()
        #expect(stage.raft.role == .follower && stage.raft.deadline == nil && stage.raft.leader == nil)
    }
}

@Suite("Learners")
struct LearnerTests {
    @Test("a learner gets the log like everybody, but its acknowledgements neither commit nor confirm anything")
    func doesNotCount() {
        var stage = Stage.settled(learners: [d, e])
        let tickets = stage.step(.proposed(count: 1)).appends(to: d)
        #expect(tickets.map(\.count) == [1])
        stage.persist()
        for learner in [d, e] { stage.answer(tickets[0], from: learner) }
        #expect(stage.raft.commitIndex == index(1) && stage.raft.progress(of: d)?.match == index(2))
        let round = stage.step(.readRequested(1, lease: false)).appends(to: d)
        for learner in [d, e] { #expect(stage.answer(round[0], from: learner).readyReads.isEmpty) }
    }

    @Test("its promise supports no leader and no lease")
    func noLease() {
        var stage = Stage(learners: [d, e])
        stage.lead()
        stage.gainSupport(from: [d, e])
        stage.persist()
        stage.catchUp([b, c], isStamped: false)
        stage.catchUp([d, e])
        #expect(!stage.raft.holdsLease(of: Term(1), now: stage.now, liveness: stage.liveness))
        stage.reachDeadline()
        #expect(!stage.raft.isLeader)
    }

    @Test("a learner's vote is refused by a candidate, and it is asked for none")
    func isNotAsked() {
        var stage = Stage(learners: [d])
        #expect(stage.reachDeadline().messages.map(\.to) == [b, c])
        #expect(stage.answerVotes([d]).refusal == .unknownPeer && stage.raft.role == .preCandidate)
    }

    @Test("a learner never campaigns, not even when told to")
    func rests() {
        var stage = Stage(id: d, members: [a, b, c], learners: [d])
        #expect(stage.raft.deadline == nil)
        stage.hear(from: b, term: 3)
        #expect(stage.raft.deadline == nil)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)), from: b)
        #expect(stage.effects.reply == .timeoutNowReply(TimeoutNowReply(term: Term(3), success: false)))
    }

    @Test("a hand-over to it is not begun")
    func noTransfer() {
        var stage = Stage.settled(learners: [d])
        stage.step(.transferRequested(d))
        #expect(!stage.raft.isTransferring)
    }

    @Test("promoted, it counts from the entry of its promotion on")
    func promotion() {
        var stage = Stage.settled(members: [a, b], learners: [c])
        stage.step(.membershipRequested(1, Configuration(peers: [a, b, c])))
        #expect(stage.raft.configuration == Configuration(peers: [a, b, c]), "it has caught up long ago")
        stage.persist()
        stage.catchUp([c])
        #expect(stage.outcomes == [.done(index(2))])
    }

    @Test("a learner is added at once: nobody waits for it")
    func addition() {
        var stage = Stage.settled(neighbours: [d])
        stage.step(.membershipRequested(1, Configuration(peers: [a, b, c], learners: [d])))
        #expect(stage.raft.configuration.learners == [d] && !stage.raft.configuration.isJoint)
        #expect(stage.effects.appends(to: d).count == 1)
    }

    @Test("a voter made a learner counts no more")
    func demotion() {
        var stage = Stage.settled()
        stage.step(.membershipRequested(1, Configuration(peers: [a, b], learners: [c])))
        stage.persist()
        stage.catchUp([c])
        #expect(stage.raft.commitIndex == index(1))
        stage.catchUp([b])
        #expect(stage.outcomes == [.done(index(2))])
    }

    @Test("a leader made a learner steps down when that is committed")
    func demotedLeader() {
        var stage = Stage.settled()
        stage.step(.membershipRequested(1, Configuration(peers: [b, c], learners: [a])))
        stage.persist()
        stage.catchUp([b, c])
        #expect(!stage.raft.isLeader && stage.outcomes == [.done(index(2))])
    }
}

@Suite("Witnesses")
struct WitnessTests {
    private let witness = PeerID(address: c.address, role: .witness)

    @Test("a witness votes and its acknowledgements commit")
    func counts() {
        var stage = Stage.settled(members: [a, b, witness])
        stage.step(.proposed(count: 1))
        stage.persist()
        stage.catchUp([c])
        #expect(stage.raft.commitIndex == index(2))
        var voter = Stage(id: witness, members: [a, b, witness])
        #expect(voter.hearVote(from: a, term: 1, last: .zero).voteReply?.granted == true)
    }

    @Test("it gets nothing that the leader's disk does not have: after a crash it could let nobody lead")
    func afterTheDisk() {
        var stage = Stage.settled(members: [a, b, witness])
        let proposal = stage.step(.proposed(count: 2))
        #expect(proposal.appends(to: b).map(\.count) == [2] && proposal.appends(to: c).isEmpty)
        #expect(stage.persist().appends(to: c).map(\.count) == [2])
    }

    @Test("a newcomer that is to be one gets no more than that either")
    func newcomer() {
        let newcomer = PeerID(address: d.address, role: .witness)
        var stage = Stage.settled(neighbours: [d])
        stage.step(.membershipRequested(1, Configuration(peers: [a, b, c, newcomer])))
        stage.answer(stage.ticket(after: 0, count: 1), from: d)
        #expect(!stage.raft.configuration.contains(d) && stage.raft.isWitness(d))
        let proposal = stage.step(.proposed(count: 2))
        #expect(proposal.appends(to: b).map(\.count) == [2] && proposal.appends(to: d).isEmpty)
        #expect(stage.persist().appends(to: d).map(\.count) == [2])
    }

    @Test("it never campaigns, not even when told to, and nobody hands over to it")
    func neverLeads() {
        var stage = Stage(id: witness, members: [a, b, witness])
        #expect(stage.raft.deadline == nil)
        stage.hear(from: b, term: 3)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)), from: b)
        #expect(stage.raft.role == .follower && stage.raft.deadline == nil)
        var leader = Stage.settled(members: [a, b, witness])
        leader.step(.transferRequested(c))
        #expect(!leader.raft.isTransferring)
        leader.step(.stepDownRequested)
        #expect(leader.effects.timeoutsNow == [b])
    }
}

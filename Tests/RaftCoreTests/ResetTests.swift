import Testing

@testable import RaftCore

@Suite("Forced reset of a group that lost its quorum")
struct ResetTests {
    @Test("the new membership is in force at once, in a new term, and the replica leads it alone")
    func alone() {
        var stage = Stage(terms: [1, 1], applied: 1)
        stage.step(.resetRequested(1, Configuration(peers: [a])))
        #expect(stage.outcomes == [.done(index(1))] && stage.raft.term == Term(2))
        #expect(stage.effects.hardState?.term == Term(2))
        stage.reachDeadline()
        #expect(stage.raft.isLeader && stage.effects.logChange?.source == .configuration(Configuration(peers: [a])))
        stage.persist()
        #expect(stage.raft.commitIndex == index(3) && stage.raft.configuration == Configuration(peers: [a]))
    }

    @Test("a change under way ends as unknown, and so does the joint stage")
    func change() {
        var stage = Stage.settled(members: [a, b, c, d])
        stage.step(.membershipRequested(1, Configuration(peers: [a, b])))
        stage.wait(milliseconds: 950)
        stage.step(.resetRequested(2, Configuration(peers: [a])))
        #expect(stage.outcomes == [.unknown, .done(index(1))])
        #expect(stage.raft.configuration == Configuration(peers: [a]) && !stage.raft.isLeader)
    }

    @Test("it is refused where this replica would not be a voter with a state, and of a joint membership")
    func notApplicable() {
        let witness = PeerID(address: a.address, role: .witness)
        for target in [
            Configuration(peers: [b]), Configuration(peers: [witness, b]), Configuration(peers: [b], learners: [a]),
            Configuration(peers: [a], oldPeers: [a, b]),
        ] {
            var stage = Stage()
            stage.step(.resetRequested(1, target))
            #expect(stage.outcomes == [.refused(.notApplicable)] && stage.raft.term == .zero)
        }
    }

    @Test("it is refused while a leader has its majority, or this replica's promise to one stands")
    func served() {
        var leader = Stage.settled()
        leader.step(.resetRequested(1, Configuration(peers: [a])))
        #expect(leader.outcomes == [.refused(.notApplicable)] && leader.raft.isLeader)
        var follower = Stage.resting()
        follower.step(.resetRequested(1, Configuration(peers: [a])))
        follower.receive(
            .voteReply(VoteReply(isPreVote: false, requestTerm: Term(2), term: Term(5), granted: false)), from: c)
        #expect(follower.raft.leader == nil)
        follower.step(.resetRequested(1, Configuration(peers: [a])))
        #expect(follower.outcomes == [.refused(.notApplicable), .refused(.notApplicable)])
    }
}

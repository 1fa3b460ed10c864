import Testing

@testable import RaftCore

@Suite("Liveness of a group: loyalty while a promise stands")
struct LoyaltyTests {
    @Test("a term that a follower hears of does not end its loyalty to the leader it accepted before")
    func acrossTerms() {
        var stage = Stage.resting()
        stage.receive(
            .voteReply(VoteReply(isPreVote: false, requestTerm: Term(2), term: Term(7), granted: false)), from: c)
        #expect(stage.raft.term == Term(7) && stage.raft.leader == nil)
        #expect(stage.hearVote(from: c, term: 9, last: .zero).voteReply?.granted == false)
        #expect(stage.raft.term == Term(7))
    }

    @Test("loyal, it asks whether it could be elected so that it is heard of, but does not stand for election")
    func onlyAsks() {
        var stage = Stage.resting()
        stage.receive(
            .voteReply(VoteReply(isPreVote: false, requestTerm: Term(2), term: Term(7), granted: false)), from: c)
        stage.reachDeadline()
        stage.answerVotes([c])
        #expect(stage.raft.role == .preCandidate && stage.raft.term == Term(7))
    }

    @Test("loyalty is owed to the run that led: once the leader's node runs anew it is over")
    func newRun() {
        var stage = Stage.resting()
        var ignored = NodeLiveness.Effects()
        let request = NodeLiveness.Request(runNumber: 2, sequence: 1, asks: true)
        stage.liveness.step(.received(request, from: b.address, wallClock: 0), now: stage.now, into: &ignored)
        stage.step(.livenessChanged(b.address))
        #expect(stage.raft.deadline != nil)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test("an old vote request of the leader, from before it led, does not end loyalty")
    func oldRequest() {
        var stage = Stage.resting()
        stage.hearVote(from: b, term: 3, last: .zero)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == false)
    }

    @Test("told by its leader to campaign, it may although its promise stands; told by another it may not")
    func handOver() {
        for (sender, campaigns) in [(b, true), (c, false)] {
            var stage = Stage.resting()
            stage.receive(
                .timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: true)), from: sender)
            #expect((stage.raft.role == .candidate) == campaigns)
        }
    }
}

@Suite("Liveness of a group: release")
struct ReleaseTests {
    @Test("only the leader that it stands by sets a follower free, and not for a term that it led before")
    func whoseRelease() {
        for (sender, term, frees) in [(b, 3, true), (c, 3, false), (b, 2, false)] as [(PeerID, Int64, Bool)] {
            var stage = Stage.resting(under: b)
            stage.receive(.releaseRequest(ReleaseRequest(term: Term(term))), from: sender)
            let vote = stage.hearVote(from: c, term: 4, last: .zero)
            #expect(vote.voteReply?.granted == frees, "\(sender) of term \(term)")
        }
    }

    @Test("a leader that steps down tells every voter whose node supports it, and again until each has answered")
    func retried() {
        var stage = Stage.settled()
        #expect(stage.step(.stepDownRequested).releases == [b, c])
        stage.receive(.releaseReply(ReleaseReply(term: Term(1))), from: b)
        stage.wait(milliseconds: 1000, supportedBy: [b, c])
        #expect(stage.step(.deadlineReached).releases == [c])
        stage.receive(.releaseReply(ReleaseReply(term: Term(0))), from: c)
        stage.wait(milliseconds: 1000, supportedBy: [b, c])
        #expect(stage.step(.deadlineReached).releases == [c], "the answer to another release")
        stage.receive(.releaseReply(ReleaseReply(term: Term(1))), from: c)
        stage.wait(milliseconds: 1000, supportedBy: [b, c])
        #expect(stage.step(.deadlineReached).releases.isEmpty)
    }

    @Test("so does one that finds a higher term, and names its own")
    func higherTerm() {
        var stage = Stage.settled()
        let effects = stage.hear(from: b, term: 5)
        #expect(effects.messages.contains { $0 == Outbound(to: c, body: .release(ReleaseRequest(term: Term(1)))) })
    }

    @Test("a released voter wakes, is free to vote, and answers")
    func freed() {
        var stage = Stage.resting()
        let effects = stage.receive(.releaseRequest(ReleaseRequest(term: Term(3))), from: b)
        #expect(effects.reply == .releaseReply(ReleaseReply(term: Term(3))))
        #expect(stage.raft.deadline != nil && stage.raft.leader == nil)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test("of an earlier term, or from somebody else, it frees nobody but is answered")
    func others() {
        for (sender, term) in [(b, 2), (c, 3)] as [(PeerID, Int64)] {
            var stage = Stage.resting()
            let effects = stage.receive(.releaseRequest(ReleaseRequest(term: Term(term))), from: sender)
            #expect(effects.reply == .releaseReply(ReleaseReply(term: Term(term))))
            #expect(stage.raft.deadline == nil && stage.raft.leader == b)
        }
    }

    @Test("a release that comes after the follower has gone on to another term frees it all the same")
    func late() {
        var stage = Stage.resting()
        stage.receive(
            .voteReply(VoteReply(isPreVote: false, requestTerm: Term(2), term: Term(7), granted: false)), from: c)
        stage.receive(.releaseRequest(ReleaseRequest(term: Term(3))), from: b)
        #expect(stage.hearVote(from: c, term: 8, last: .zero).voteReply?.granted == true)
    }
}

@Suite("Liveness of a group: a leader that gets nothing done resigns")
struct StallTests {
    private func stall(_ stage: inout Stage) {
        let others = stage.raft.peers
        stage.wait(milliseconds: 2100, supportedBy: others)
        stage.step(.deadlineReached)
    }

    @Test("a proposal without a majority for two promises ends the leadership, with a release and a hand-over")
    func proposal() {
        var stage = Stage.settled()
        stage.step(.proposed(count: 1))
        stage.wait(milliseconds: 1900, supportedBy: [b, c])
        stage.step(.deadlineReached)
        #expect(stage.raft.isLeader)
        stage.wait(milliseconds: 200, supportedBy: [b, c])
        stage.step(.deadlineReached)
        #expect(!stage.raft.isLeader && stage.effects.releases == [b, c] && stage.effects.timeoutsNow == [b])
    }

    @Test("so does a read")
    func read() {
        var stage = Stage.settled()
        stage.step(.readRequested(1, lease: false))
        stall(&stage)
        #expect(!stage.raft.isLeader && stage.effects.failedReads == [1])
    }

    @Test("its own disk alone does not end it: a majority of others commits")
    func ownDisk() {
        var stage = Stage.settled()
        stage.step(.proposed(count: 1))
        stage.catchUp([b, c])
        stall(&stage)
        #expect(stage.raft.isLeader)
    }

    @Test("what gets on is given new time")
    func progress() {
        var stage = Stage.settled()
        for _ in 0..<4 {
            stage.step(.proposed(count: 1))
            stage.wait(milliseconds: 1500, supportedBy: [b, c])
            stage.step(.proposed(count: 1))
            stage.persist()
            stage.catchUp([b])
        }
        #expect(stage.raft.isLeader)
    }

    @Test("a voter that is far behind and gets nearer is given new time, until it stands still")
    func approach() {
        var settings = RaftSettings()
        settings.maxEntriesPerAppend = 2
        settings.maxEntriesInFlight = 2
        var stage = Stage.settled(settings: settings)
        stage.step(.proposed(count: 20))
        stage.persist()
        for index in stride(from: Int64(1), through: 7, by: 2) {
            stage.wait(milliseconds: 1500, supportedBy: [b, c])
            stage.answer(stage.ticket(after: index, count: 2), from: b, success: true)
            #expect(stage.raft.isLeader)
        }
        // the first two entries were committed long ago; from here on it is one that nobody gets near to
        stage.wait(milliseconds: 1500, supportedBy: [b, c])
        stage.step(.deadlineReached)
        #expect(stage.raft.isLeader)
        stall(&stage)
        #expect(!stage.raft.isLeader)
    }

    @Test("without anything to do nothing stalls")
    func idle() {
        var stage = Stage.settled()
        #expect(stage.raft.deadline == nil)
        stall(&stage)
        #expect(stage.raft.isLeader)
    }

    @Test("a snapshot under way excuses a leader only if a majority needs its receiver")
    func snapshots() {
        for (isNeeded, leads) in [(true, true), (false, false)] {
            // of a, b, c the last one, or a learner beside them
            let receiver = isNeeded ? c : d
            var stage = Stage.settled(members: isNeeded ? [a, c] : [a, b, c], learners: isNeeded ? [] : [d])
            stage.step(.proposed(count: 3))
            stage.persist()
            stage.catchUp(isNeeded ? [c] : [b, c])
            stage.step(.compacted(through: index(4)))
            if isNeeded {
                let ticket = stage.step(.proposed(count: 1)).appends(to: c)[0]
                stage.answer(ticket, from: c, success: false, hint: 0)
                let probe = stage.effects.appends(to: c)
                stage.answer(probe.first ?? ticket, from: c, success: false, hint: 0)
            } else {
                stage.step(.connectionLost(d.address))
                stage.wait(milliseconds: 1000, supportedBy: stage.raft.peers)
                stage.step(.deadlineReached)
                stage.step(.proposed(count: 1))
            }
            #expect(stage.raft.progress(of: receiver)?.isInstalling == true)
            stall(&stage)
            #expect(stage.raft.isLeader == leads, "needed: \(isNeeded)")
        }
    }
}

@Suite("Liveness of a group: resting and waking")
struct RestTests {
    @Test("without a majority of reachable nodes nobody campaigns, and news of one wakes")
    func unreachable() {
        var stage = Stage.resting()
        var ignored = NodeLiveness.Effects()
        stage.wait(milliseconds: 5000)
        stage.liveness.step(.deadlineReached, now: stage.now, into: &ignored)
        stage.wait(milliseconds: 5000)
        stage.liveness.step(.deadlineReached, now: stage.now, into: &ignored)
        stage.step(.livenessChanged(b.address))
        #expect(stage.reachDeadline().messages.isEmpty && stage.raft.role == .follower)
        #expect(stage.raft.deadline == nil && stage.raft.leader == nil)
        stage.promise(to: c)
        stage.step(.livenessChanged(c.address))
        #expect(stage.raft.deadline != nil)
    }

    @Test("a new epoch of a supporter makes its leader probe there, once")
    func probe() {
        var stage = Stage.settled()
        #expect(stage.step(.livenessChanged(b.address)).appends(to: b).map(\.count) == [0])
        #expect(stage.effects.appends(to: c).isEmpty)
    }

    @Test("a group rests when everybody has acknowledged everything; what one of them missed keeps its leader awake")
    func group() {
        var stage = Stage.settled()
        #expect(stage.raft.deadline == nil)
        stage.step(.proposed(count: 1))
        stage.persist()
        stage.catchUp([b])
        #expect(stage.raft.deadline != nil)
        stage.catchUp([c])
        #expect(stage.raft.deadline == nil)
    }

    @Test("a member whose node is dead keeps nobody awake")
    func deadNode() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b])
        stage.persist()
        stage.catchUp([b])
        #expect(stage.raft.deadline == nil && stage.raft.progress(of: c)?.match == .zero)
    }
}

@Suite("Liveness of a group: foreign members")
struct ForeignTests {
    private func settled() -> Stage {
        var stage = Stage.settled()
        stage.makeForeign(c)
        return stage
    }

    @Test("a foreign member gets heartbeats, others do not")
    func heartbeats() {
        var stage = settled()
        for _ in 0..<3 {
            let effects = stage.reachDeadline()
            #expect(effects.appends(to: c).map(\.count) == [0] && effects.appends(to: b).isEmpty)
            stage.gainSupport(from: [b], tells: false)
            stage.answer(effects.appends(to: c)[0], from: c)
        }
        #expect(stage.raft.deadline! <= stage.now + RaftSettings().heartbeatInterval)
    }

    @Test("it counts for commits and rounds of reads, but never for a lease")
    func counts() {
        var stage = settled()
        stage.step(.proposed(count: 1))
        stage.persist()
        stage.catchUp([c])
        #expect(stage.raft.commitIndex == index(2))
        let ticket = stage.step(.readRequested(1, lease: false)).appends(to: c)[0]
        #expect(stage.answer(ticket, from: c).readyReads.map(\.read) == [1])
        #expect(stage.raft.holdsLease(of: Term(1), now: stage.now, liveness: stage.liveness), "by b")
        stage.makeForeign(b)
        #expect(!stage.raft.holdsLease(of: Term(1), now: stage.now, liveness: stage.liveness))
    }

    @Test("it supports a leader by answering, for one election timeout")
    func support() {
        var stage = settled()
        stage.makeForeign(b)
        stage.catchUp([b, c])
        stage.wait(milliseconds: 999)
        stage.step(.deadlineReached)
        #expect(stage.raft.isLeader)
        stage.wait(milliseconds: 1)
        stage.step(.deadlineReached)
        #expect(!stage.raft.isLeader)
    }

    @Test("towards a foreign leader a follower keeps braft's lease: election timeout and clock drift, awake")
    func lease() {
        var stage = Stage()
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        #expect(stage.raft.deadline != nil)
        stage.wait(milliseconds: 1999)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == false)
        stage.wait(milliseconds: 1)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test(
        "the lease runs from the start of the process too, for the run before may have given it to whoever it was",
        arguments: [false, true])
    func leaseAtStart(isKnown: Bool) {
        var stage = Stage(term: 3, followedForeigners: true, isQuiet: true)
        if isKnown { stage.makeForeign(c) }
        stage.wait(milliseconds: 1999)
        let reply = stage.hearVote(from: c, term: 4, last: .zero).voteReply
        #expect(reply?.granted == false && reply?.details?.isRejectedByLease == (isKnown ? true : nil))
        #expect(stage.hearVote(from: c, term: 4, last: .zero, isPreVote: true).voteReply?.granted == false)
        stage.step(.livenessChanged(b.address))
        stage.step(.deadlineReached)
        #expect(stage.raft.role == .follower && stage.raft.deadline! > stage.now)
        stage.wait(milliseconds: 1)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test("who followed no foreign leader before its start waits for none, though there are foreign voters")
    func noLeaseAtStart() {
        for (term, followed) in [(3, false), (0, true)] as [(Int64, Bool)] {
            var stage = Stage(term: term, followedForeigners: followed, isQuiet: true)
            stage.makeForeign(b)
            stage.wait(milliseconds: 1000)
            #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
            stage = Stage(term: term, followedForeigners: followed, isQuiet: true)
            #expect(stage.raft.deadline! - stage.now <= .milliseconds(1300))
        }
    }

    @Test("a hand-over ends it only if that leader's term is the last one known here, or a later one")
    func handOverAtStart() {
        for (term, granted) in [(2, false), (3, true), (5, true)] as [(Int64, Bool)] {
            var stage = Stage(term: 3, followedForeigners: true, isQuiet: true)
            stage.makeForeign(b)
            stage.makeForeign(c)
            stage.wait(milliseconds: 1500)
            let handOver = TermLeader(leader: b, term: Term(term))
            let reply = stage.hearVote(from: c, term: 6, last: .zero, handOver: handOver).voteReply
            #expect(reply?.granted == granted, "of term \(term)")
        }
    }

    @Test("whoever is heard as a leader in this run takes its place")
    func successorAtStart() {
        var stage = Stage(term: 3, followedForeigners: true)
        stage.wait(milliseconds: 500)
        stage.hear(from: b, term: 4, run: 1)
        #expect(stage.hearVote(from: c, term: 5, last: .zero).voteReply?.granted == true)
    }

    @Test("a replica that is made anew in the same run owes what the one before it owed, and no longer")
    func leaseOfTheFormer() {
        var stage = Stage(term: 3, followedForeigners: true)
        stage.wait(milliseconds: 1500)
        var next = Stage(term: 3, followedForeigners: true, starts: false)
        next.now = stage.now
        next.raft.succeed(stage.raft)
        next.step(.started)
        next.wait(milliseconds: 499)
        #expect(next.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == false)
        next.wait(milliseconds: 1)
        #expect(next.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    @Test("a foreign leader of which nothing but its message is known is owed the same")
    func unknownLeader() {
        var stage = Stage()
        stage.hear(from: e, term: 3, isForeign: true)
        #expect(!stage.liveness.isForeign(e.address))
        stage.wait(milliseconds: 1999)
        let reply = stage.hearVote(from: d, term: 4, last: .zero, isForeign: true).voteReply
        #expect(reply?.granted == false && reply?.details?.isRejectedByLease == true)
        stage.wait(milliseconds: 1)
        #expect(stage.hearVote(from: d, term: 4, last: .zero, isForeign: true).voteReply?.granted == true)
    }

    @Test("whoever has but the name of a node with a promise is owed the same, not that promise")
    func borrowedName() {
        var stage = Stage()
        stage.promise(to: b)
        stage.hear(from: b, term: 3, isForeign: true)
        for _ in 0..<7 {
            stage.wait(milliseconds: 300)
            stage.promise(to: b)
        }
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
    }

    /// What the settings say where no braft has leases.
    private var withoutLeases: RaftSettings {
        var settings = RaftSettings()
        settings.foreignLeases = false
        return settings
    }

    @Test("towards one that has no leases only pre-votes are refused, and for as long")
    func withoutALease() {
        var stage = Stage(settings: withoutLeases)
        stage.makeForeign(b)
        stage.makeForeign(c)
        stage.hear(from: b, term: 3)
        stage.wait(milliseconds: 1999)
        let asked = stage.hearVote(from: c, term: 4, last: .zero, isPreVote: true).voteReply
        #expect(asked?.granted == false && asked?.details?.isRejectedByLease == true)
        stage.step(.deadlineReached)
        #expect(stage.raft.role == .follower, "nor does it campaign itself")
        var other = stage
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
        other.wait(milliseconds: 1)
        #expect(other.hearVote(from: c, term: 4, last: .zero, isPreVote: true).voteReply?.granted == true)
    }

    @Test("without leases nothing is owed at the start, nor when a leader that it helped to elect hands over")
    func freeWithoutLeases() {
        var stage = Stage(term: 3, followedForeigners: true, settings: withoutLeases, isQuiet: true)
        stage.wait(milliseconds: 1000)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
        stage = Stage(settings: withoutLeases)
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == true)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(4), oldLeaderSteppedDown: false)), from: c)
        #expect(stage.raft.role == .candidate && stage.raft.term == Term(5))
    }

    @Test("a leader of ours is owed its followers' votes whatever is said of foreign ones")
    func ours() {
        var stage = Stage.resting(under: b, settings: withoutLeases)
        stage.makeForeign(c)
        stage.wait(milliseconds: 900)
        #expect(stage.hearVote(from: c, term: 4, last: .zero).voteReply?.granted == false)
    }

    @Test("a hand-over by a foreign leader ends its lease")
    func handOver() {
        var stage = Stage()
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        let handOver = TermLeader(leader: b, term: Term(3))
        #expect(stage.hearVote(from: c, term: 4, last: .zero, handOver: handOver).voteReply?.granted == true)
    }
}

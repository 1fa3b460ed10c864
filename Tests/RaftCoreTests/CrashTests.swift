import Testing

@testable import RaftCore

@Suite("§5.5 Follower and candidate crashes")
struct CrashTests {
    @Test("a vote answered before the crash is answered again after it, to the same candidate only")
    func votesAgain() {
        var cluster = TraceCluster.free(size: 3)
        cluster.elect(1, with: [3])
        #expect(cluster.isLeader(1) && cluster[3].disk.hardState == HardState(term: Term(1), vote: a))
        cluster.crash(3)
        cluster.restart(3)
        let before = cluster[3].disk
        for (candidate, granted) in [(a, true), (b, false)] {
            var effects = Effects()
            let request = VoteRequest(isPreVote: false, term: Term(1), last: .zero)
            cluster[3].raft.step(
                .received(.voteRequest(request), from: candidate), now: cluster.now, liveness: cluster[3].liveness,
                into: &effects)
            #expect(effects.voteReply?.granted == granted && effects.hardState == nil)
        }
        #expect(cluster[3].disk.hardState == before.hardState)
    }

    @Test("a vote that was not durable before the crash was not answered either, and may go to another")
    func lostVote() {
        var cluster = TraceCluster.free(size: 3)
        cluster[3].isSlow = true
        cluster.campaign(1)
        cluster.talk(1, with: [3])
        #expect(cluster[1].raft.role == .candidate && cluster[3].raft.vote == a)
        cluster.crash(3)
        cluster.restart(3)
        cluster[3].isSlow = false
        cluster.loseAll()
        cluster.elect(2, with: [3])
        #expect(cluster.isLeader(2) && cluster.violations == [])
    }

    @Test("an append that was executed but not answered is ignored when it comes again, and answered with success")
    func appendsAgain() throws {
        var cluster = TraceCluster.free(size: 3)
        cluster.elect(1, with: [3])
        cluster.step(1, .proposed(count: 2))
        cluster.talk(1, with: [3])
        let disk = cluster[3].disk
        #expect(disk.log.entries.count == 3)
        cluster.crash(3)
        cluster.restart(3)
        for count in 0...3 {
            // the same again, and every part of it that may have been sent alone
            let headers = (0..<count).map { _ in EntryHeader(term: Term(1), kind: .data) }
            let request = AppendRequest(term: Term(1), previous: .zero, entries: headers, commit: .zero)
            var (raft, effects) = (cluster[3].raft, Effects())
            raft.step(
                .received(.appendRequest(request), from: a), now: cluster.now, liveness: cluster[3].liveness,
                into: &effects)
            if count > 0 {
                raft.step(.persisted(raft.durableMark), now: cluster.now, liveness: cluster[3].liveness, into: &effects)
            }
            #expect(effects.logChange == nil && effects.appendReply?.success == true && raft.lastIndex == index(3))
        }
    }

    @Test("a restarted follower has term, vote and log as they were, follows nobody, and gets what it missed")
    func restartedFollower() {
        var cluster = TraceCluster(TraceCluster.Options())
        cluster.elect(1, with: [2, 3])
        cluster.settle()
        cluster.step(1, .proposed(count: 1))
        cluster.settle()
        cluster.crash(3)
        cluster.step(1, .proposed(count: 3))
        cluster.settle()
        #expect(cluster[1].raft.commitIndex == index(5), "two of three go on")
        cluster.restart(3)
        let restarted = cluster[3].raft
        #expect(restarted.term == Term(1) && restarted.vote == a && restarted.leader == nil)
        #expect(restarted.lastIndex == index(2) && restarted.role == .follower)
        for _ in 0..<10 {
            cluster.advance(milliseconds: 300)
            cluster.settle()
        }
        #expect(cluster.terms(3) == cluster.terms(1) && cluster[3].applied == index(5))
        #expect(cluster.isLeader(1) && cluster.violations == [])
    }

    @Test("a leader sends again what was lost, for as long as the follower's node is there, without being asked")
    func retriesForEver() {
        var cluster = TraceCluster(TraceCluster.Options())
        cluster.elect(1, with: [2, 3])
        cluster.settle()
        cluster.step(1, .proposed(count: 1))
        cluster.talk(1, with: [2])
        for _ in 0..<20 {
            #expect(cluster.network.contains { $0.from == 1 && $0.to == 3 })
            cluster.loseAll()
            cluster.advance(milliseconds: 1200)
            cluster.talk(1, with: [2])
        }
        cluster.talk(1, with: [3])
        #expect(cluster.terms(3) == cluster.terms(1) && cluster.isLeader(1) && cluster.violations == [])
    }

    @Test("a candidate that crashes comes back as a follower of nobody, with its vote for itself")
    func candidate() {
        var cluster = TraceCluster.free(size: 3)
        cluster.campaign(1)
        cluster.deliver(TraceFilter(from: 1, to: 2, kind: "pre-vote"))
        cluster.deliver(TraceFilter(from: 2, to: 1))
        #expect(cluster[1].raft.role == .candidate)
        cluster.crash(1)
        cluster.restart(1)
        #expect(cluster[1].raft.role == .follower && cluster[1].raft.vote == a && cluster[1].raft.term == Term(1))
        // answers to the run before do not reach this one, and it votes for nobody else in that term
        cluster.settle()
        #expect(cluster[1].raft.role == .follower)
        var effects = Effects()
        let request = VoteRequest(isPreVote: false, term: Term(1), last: .zero)
        cluster[1].raft.step(
            .received(.voteRequest(request), from: b), now: cluster.now, liveness: cluster[1].liveness, into: &effects)
        #expect(effects.voteReply?.granted == false && cluster.violations == [])
    }

    @Test("a candidate that crashes before its vote for itself is durable has asked nobody")
    func candidateBeforeDisk() {
        var cluster = TraceCluster.free(size: 3)
        cluster[1].isSlow = true
        cluster.campaign(1)
        cluster.talk(1, with: [2])
        #expect(cluster[1].raft.role == .candidate && cluster[1].raft.term == Term(1))
        #expect(!cluster.network.contains(where: TraceFilter(from: 1, kind: "vote").matches))
        cluster.crash(1)
        cluster.restart(1)
        #expect(cluster[1].raft.term == .zero && cluster[1].raft.vote == nil)
    }

    @Test("a cluster in which everybody crashed at once has all that was committed")
    func everybody() {
        var cluster = TraceCluster.free(size: 3)
        cluster.lead(1, with: [2], proposing: 3)
        let committed = cluster[1].log.entries
        for node in 1...3 { cluster.crash(node) }
        for node in 1...3 { cluster.restart(node) }
        cluster.elect(3, with: [1, 2])
        #expect(!cluster.isLeader(3), "it never had them")
        cluster.lead(2, with: [3])
        #expect(cluster[3].log.entries.starts(with: committed) && cluster[3].applied >= index(4))
        #expect(cluster.violations == [])
    }
}

import Testing

@testable import RaftCore

@Suite("§5.6 Timing and availability")
struct TimingTests {
    /// Everything that may happen to five nodes, at any moment and in any order.
    private static func storm(seed: UInt64, steps: Int) -> TraceCluster {
        var random = SeededRandom(seed: seed)
        var cluster = TraceCluster.free()
        func pick(_ count: Int) -> Int { Int(random.number(in: 0..<Int64(count))) }
        for _ in 0..<steps {
            let node = pick(5) + 1
            switch pick(20) {
            case 0: cluster[node].isUp ? cluster.campaign(node) : cluster.restart(node)
            case 1: if cluster[node].isUp { cluster.step(node, .proposed(count: 1 + pick(3))) }
            case 2 where cluster[node].isUp && cluster.nodes.count(where: \.isUp) > 3: cluster.crash(node)
            case 3 where !cluster.network.isEmpty: cluster.network.remove(at: pick(cluster.network.count))
            case 4 where !cluster.network.isEmpty: cluster.network.append(cluster.network[pick(cluster.network.count)])
            default:
                guard !cluster.network.isEmpty else { continue }
                // whoever waits longest may be overtaken by everybody
                let packet = cluster.network.remove(at: pick(cluster.network.count))
                let waiting = cluster.network
                cluster.network = [packet]
                cluster.deliver(TraceFilter())
                cluster.network = waiting + cluster.network
            }
        }
        return cluster
    }

    @Test("safety does not depend on timing: with any delays, losses, repetitions and crashes nothing goes wrong")
    func safety() {
        var (committed, terms) = (0, 0)
        for seed in 1...40 as ClosedRange<UInt64> {
            let cluster = TimingTests.storm(seed: seed, steps: 600)
            #expect(cluster.violations == [], "seed \(seed)")
            committed += cluster.nodes.map { Int($0.raft.commitIndex.rawValue) }.max()!
            terms += cluster.nodes.map { Int($0.raft.term.rawValue) }.max()!
        }
        #expect(committed > 100 && terms > 100, "something must have happened: \(committed) entries, \(terms) terms")
    }

    @Test("as soon as messages arrive in time again a leader is elected, and everybody gets what is committed")
    func availability() throws {
        for seed in 1...20 as ClosedRange<UInt64> {
            var cluster = TimingTests.storm(seed: seed, steps: 300)
            for node in 1...5 where !cluster[node].isUp { cluster.restart(node) }
            cluster.settle()
            // who leads already would send what was lost only after a while
            for node in 1...5 where !cluster.isLeader(node) {
                // the delays end one after another, and each campaign has ended before the next one begins
                cluster.campaign(node)
                cluster.settle()
                if cluster.isLeader(node) { break }
            }
            let leader = try #require(cluster.nodes.filter(\.raft.isLeader).max { $0.raft.term < $1.raft.term })
            #expect(leader.raft.commitIndex == leader.raft.lastIndex, "seed \(seed)")
            #expect(cluster.nodes.allSatisfy { $0.applied == leader.applied && $0.raft.leader == leader.id })
            #expect(cluster.violations == [], "seed \(seed)")
        }
    }

    @Test(
        "messages that take longer than an election are refused by those who went on, and nothing is committed by them")
    func delayedBeyondElections() {
        var cluster = TraceCluster.free()
        cluster.lead(1, with: [2, 3])
        cluster.step(1, .proposed(count: 2))
        let late = cluster.take(TraceFilter(from: 1))
        #expect(late.count == 2, "to those whose answers came; the others are probed first")
        cluster.stand(2, with: [3, 4, 5])
        cluster.step(2, .proposed(count: 1))
        cluster.talk(2, with: [3, 4, 5])
        let committed = cluster[2].log.entries
        #expect(cluster[2].raft.commitIndex == cluster[2].raft.lastIndex)
        cluster.network = late
        cluster.settle()
        #expect(cluster[1].raft.role == .follower && cluster[1].raft.commitIndex == index(1))
        #expect(cluster[2].log.entries == committed && cluster[3].log.entries == committed)
        #expect(cluster.violations == [])
    }

    @Test("votes that come when the candidate's patience is over elect nobody: broadcast time ≪ election timeout")
    func lateVotes() {
        var stage = Stage(members: [a, b, c, d, e])
        stage.reachDeadline()
        stage.answerVotes([b, c])
        #expect(stage.raft.role == .candidate && stage.raft.term == Term(1))
        stage.reachDeadline()
        #expect(stage.raft.role == .preCandidate)
        for voter in [b, c, d] {
            let vote = VoteReply(isPreVote: false, requestTerm: Term(1), term: Term(1), granted: true)
            stage.receive(.voteReply(vote), from: voter)
        }
        #expect(stage.raft.role == .preCandidate && stage.raft.leader == nil)
        // nor do they count for the next attempt, in another term
        stage.answerVotes([b, c])
        #expect(stage.raft.role == .candidate && stage.raft.term == Term(2))
        for voter in [b, c, d] {
            let vote = VoteReply(isPreVote: false, requestTerm: Term(1), term: Term(1), granted: true)
            stage.receive(.voteReply(vote), from: voter)
        }
        #expect(stage.raft.role == .candidate)
    }

    @Test("a candidate waits a whole election timeout for its votes, and then a random while")
    func patience() {
        for seed in 1...20 as ClosedRange<UInt64> {
            var stage = Stage()
            stage.raft.random = SeededRandom(seed: seed)
            stage.reachDeadline()
            let wait = stage.raft.deadline! - stage.now
            let settings = RaftSettings()
            #expect(wait > settings.electionTimeout)
            #expect(wait.nanoseconds <= settings.electionTimeout.nanoseconds + settings.electionJitter.nanoseconds)
        }
    }

    @Test("delays are random, so that one replica nearly always asks before the others, and anew for each attempt")
    func randomised() {
        var delays: [Int64] = []
        for seed in 1...200 as ClosedRange<UInt64> {
            var stage = Stage(starts: false)
            stage.raft.random = SeededRandom(seed: seed)
            stage.step(.started)
            delays.append((stage.raft.deadline! - stage.now).nanoseconds)
        }
        let jitter = RaftSettings().electionJitter.nanoseconds
        #expect(delays.allSatisfy { (1...jitter).contains($0) } && Set(delays).count == delays.count)
        for third in 0..<3 {
            let part = (jitter / 3 * Int64(third)..<jitter / 3 * Int64(third + 1))
            #expect(delays.count { part.contains($0) } > 40, "they use the whole of it")
        }
        var stage = Stage()
        var waits: Set<Int64> = []
        for _ in 0..<10 {
            stage.reachDeadline()
            waits.insert((stage.raft.deadline! - stage.now).nanoseconds)
        }
        #expect(waits.count == 10)
    }

    @Test("a steady leader needs no timing at all: a group whose promises are renewed never holds another election")
    func steady() {
        var cluster = TraceCluster(TraceCluster.Options())
        cluster.elect(1, with: [2, 3])
        cluster.settle()
        for _ in 0..<100 {
            cluster.advance(milliseconds: 700)
            cluster.settle()
        }
        #expect(cluster.isLeader(1) && cluster.nodes.allSatisfy { $0.raft.term == Term(1) })
    }
}

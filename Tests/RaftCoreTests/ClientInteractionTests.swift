import Testing

@testable import RaftCore

/// What the core contributes; that a command is executed once is the matter of sessions in the state machine.
@Suite("§8 Client interaction")
struct ClientInteractionTests {
    /// Node 1 has committed entries 1 to 3 with nodes 2 and 3, who do not know yet, and is gone.
    private func orphaned() -> TraceCluster {
        var cluster = TraceCluster.free()
        cluster.elect(1, with: [2, 3])
        cluster.step(1, .proposed(count: 2))
        while cluster[1].raft.commitIndex < index(3) {
            for node in [2, 3] {
                cluster.deliver(TraceFilter(from: 1, to: node, count: 1))
                cluster.deliver(TraceFilter(from: node, to: 1))
            }
        }
        cluster.crash(1)
        cluster.loseAll()
        return cluster
    }

    private func served(_ cluster: TraceCluster) -> [String] {
        cluster.record.lines.filter { $0.contains("serves read") }
    }

    @Test("whoever does not lead proposes nothing, and names the leader it heard last")
    func redirects() {
        var stage = Stage.resting()
        #expect(!stage.raft.acceptsProposals && stage.raft.leader == b)
        #expect(stage.step(.proposed(count: 1)).logChange == nil && stage.raft.lastIndex == .zero)
        stage.hear(from: c, term: 4)
        #expect(stage.raft.leader == c)
    }

    @Test("a client that asks again after a crash is executed twice by the log: every proposal is an entry of its own")
    func retriesAreEntries() {
        var stage = Stage.settled()
        stage.step(.proposed(count: 1))
        stage.step(.proposed(count: 1))
        #expect(stage.raft.lastIndex == index(3))
    }

    @Test("a new leader holds all that is committed, but does not know how much that is before an entry of its own")
    func commitIndexUnknown() {
        var cluster = orphaned()
        cluster.stand(2, with: [3, 4])
        #expect(cluster.isLeader(2) && cluster[2].raft.lastIndex == index(4))
        #expect(cluster[2].raft.commitIndex < index(3))
        cluster.talk(2, with: [3, 4])
        #expect(cluster[2].raft.commitIndex == index(4))
    }

    @Test("so the first thing it appends, at the start of its term, is an entry that means nothing to clients")
    func firstEntry() {
        var cluster = orphaned()
        cluster.stand(2, with: [3, 4])
        let first = cluster.entry(2, at: 4)
        #expect(first?.kind == .configuration && first?.term == cluster[2].raft.term)
        #expect(first?.configuration == cluster[2].raft.configuration, "nothing changes by it")
    }

    @Test("until that is committed it answers no read, however many voters it hears from")
    func readsWait() {
        var cluster = orphaned()
        cluster.stand(2, with: [3, 4])
        let first = cluster.take(TraceFilter(from: 2))
        cluster.step(2, .readRequested(1, lease: false))
        cluster.step(2, .readRequested(2, lease: true))
        cluster.talk(2, with: [3, 4, 5])
        #expect(served(cluster).isEmpty)
        cluster.network = first
        cluster.talk(2, with: [3, 4, 5])
        #expect(served(cluster).count == 2 && served(cluster).allSatisfy { $0.contains("index 4") })
    }

    @Test("a leader exchanges messages with a majority before it answers a read")
    func asksMajority() {
        var cluster = TraceCluster.free()
        cluster.elect(1, with: [2, 3])
        cluster.talk(1, with: [2, 3, 4, 5])
        cluster.step(1, .readRequested(1, lease: false))
        cluster.talk(1, with: [2])
        #expect(served(cluster).isEmpty, "two of five")
        cluster.talk(1, with: [3])
        #expect(served(cluster).count == 1)
    }

    @Test("a deposed leader that does not know it yet answers no read, and says so when it hears of the new one")
    func deposed() {
        var cluster = TraceCluster.free()
        cluster.lead(1, with: [2, 3, 4, 5])
        cluster.stand(3, with: [4, 5])
        cluster.step(3, .proposed(count: 1))
        cluster.talk(3, with: [4, 5])
        #expect(cluster.isLeader(1) && cluster.isLeader(3))
        cluster.step(1, .readRequested(1, lease: false))
        cluster.step(1, .readRequested(2, lease: true))
        cluster.talk(1, with: [2])
        #expect(served(cluster).isEmpty)
        cluster.settle()
        #expect(served(cluster).isEmpty && !cluster.isLeader(1))
        #expect(cluster.record.lines.contains { $0.contains("read") && $0.contains("fail") })
        #expect(cluster.violations == [])
    }

    @Test("what a read sees includes all that was answered to anybody before it was asked")
    func recent() {
        var cluster = TraceCluster.free()
        cluster.elect(1, with: [2, 3])
        cluster.talk(1, with: [2, 3])
        for round in 1...5 as ClosedRange<UInt64> {
            cluster.step(1, .proposed(count: 1))
            cluster.talk(1, with: [2, 3])
            let answered = cluster[1].applied
            #expect(answered == index(Int64(round) + 1))
            cluster.step(1, .readRequested(round, lease: false))
            cluster.talk(1, with: [2, 3])
            #expect(served(cluster).last?.hasSuffix("index \(answered)") == true)
        }
    }

    @Test("a majority's promises stand for the exchange, as long as they stand")
    func lease() {
        var cluster = TraceCluster(TraceCluster.Options())
        cluster.elect(1, with: [2, 3])
        cluster.settle()
        cluster.step(1, .readRequested(1, lease: true))
        cluster.serveReads(1, withLease: true)
        #expect(served(cluster).count == 1 && served(cluster)[0].contains("by lease") && cluster.network.isEmpty)
        cluster.step(1, .readRequested(2, lease: true))
        for other in [2, 3] { cluster.withheld.insert([other, 1]) }
        cluster.advance(milliseconds: 1000)
        cluster.serveReads(1, withLease: true)
        #expect(served(cluster).count == 1, "judged when the state has been read")
    }
}

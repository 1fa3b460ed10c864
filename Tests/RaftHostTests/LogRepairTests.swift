import RaftCore
import RaftStorage
import Simulator
import Testing
import Transport

@testable import RaftHost

@Suite("Logs that lost entries")
struct LogRepairTests {
    private func cluster(
        seed: UInt64, flushesOneOf: Int64, _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.flushesOneOf = flushesOneOf
        plan.settings.tailBytes = 1 << 10
        plan.log.segmentBytes = 1 << 20
        change(&plan)
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    private func payload(_ tag: UInt64) -> Bytes { Command.payload(tag: tag &* 0x9e37_79b9_7f4a_7c15, byteCount: 200) }

    private func write(_ tags: ClosedRange<UInt64>, _ cluster: HostCluster) throws {
        let leader = try #require(cluster.leader(of: 0))
        for tag in tags { #expect(cluster.propose(payload(tag), on: leader)?.position != nil) }
    }

    private func isCaughtUp(_ node: SimulatedNode, _ cluster: HostCluster) -> Bool {
        node.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
    }

    /// Turns a bit in the middle of `payload`, wherever the log keeps it.
    private func rot(_ disk: MemoryDisk, at payload: Bytes) throws {
        let pattern = payload.array
        for name in try disk.list() {
            guard let content = disk.contents(name) else { continue }
            var start = 0
            while start + pattern.count <= content.count {
                if content[start] == pattern[0], Array(content[start..<start + pattern.count]) == pattern {
                    return disk.flipBit(name, offset: start + pattern.count / 2)
                }
                start += 1
            }
        }
        Issue.record("it is not in the log")
    }

    @Test("Found at the start: the replica says what it owes, votes by it, and is healed by its leader")
    func damagedAtStart() throws {
        let cluster = try cluster(seed: 1, flushesOneOf: .max)
        try write(1...20, cluster)
        cluster.run(.milliseconds(500))
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        let last = cluster.histories[0].lastPosition
        hurt.crash()
        try rot(hurt.logDisk, at: payload(5))
        try hurt.start()
        let status = try #require(hurt.status(0))
        #expect(status.debt == last && status.lastIndex < last.index, "\(status)")
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster) && hurt.status(0)?.debt == nil })
        // nothing of it is left for the next start
        cluster.run(.milliseconds(500))
        hurt.crash()
        try hurt.start()
        #expect(hurt.status(0)?.debt == nil && hurt.status(0)?.lastIndex == cluster.histories[0].lastIndex)
        try write(21...25, cluster)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test("Found at the start, and the state holds it: the log begins behind the state, and nothing is owed")
    func coveredAtStart() throws {
        let cluster = try cluster(seed: 2, flushesOneOf: 1)
        try write(1...20, cluster)
        cluster.run(.milliseconds(500))
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        let last = cluster.histories[0].lastIndex
        #expect(hurt.stores[0].durable.index == last)
        hurt.crash()
        try rot(hurt.logDisk, at: payload(5))
        try hurt.start()
        #expect(hurt.status(0)?.debt == nil && hurt.host.raft(of: "g0")?.base.index == last)
        try write(21...25, cluster)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test(
        "Found by a leader that is asked for it: it leads no more, and the log is healed, by state or successor",
        arguments: [1, .max])
    func damagedWhileRunning(flushesOneOf: Int64) throws {
        let cluster = try cluster(seed: 3, flushesOneOf: flushesOneOf)
        let late = try #require(cluster.nodes.first { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        try write(1...30, cluster)
        cluster.run(.milliseconds(500))
        let hurt = try #require(cluster.leader(of: 0))
        try rot(hurt.logDisk, at: payload(5))
        try late.start()
        #expect(cluster.run(limit: 60_000) { cluster.nodes.allSatisfy { isCaughtUp($0, cluster) } })
        cluster.awaitLeaders()
        try write(31...35, cluster)
        #expect(
            cluster.run(limit: 60_000) {
                cluster.nodes.allSatisfy {
                    isCaughtUp($0, cluster) && $0.status(0)?.debt == nil && $0.status(0)?.problem == nil
                }
            })
        // what was damaged is gone, one way or the other: a restart finds nothing wrong
        hurt.crash()
        try hurt.start()
        #expect(hurt.status(0)?.debt == nil && hurt.status(0)?.state != "damaged")
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster) })
        #expect(cluster.allViolations == [])
    }

    /// Has `node` give up what nobody else has.
    private func reset(_ node: SimulatedNode, _ cluster: HostCluster) -> ChangeOutcome? {
        var outcome: ChangeOutcome?
        node.lane.post { [host = node.host!] in
            host.resetMembership(of: "g0", to: Configuration(peers: [node.peer])) { outcome = $0 }
        }
        cluster.run(limit: 10_000) { outcome != nil }
        return outcome
    }

    @Test(
        "The only voter: it owes what nobody else has, and rests, in this life and the next, until an operator gives it up",
        arguments: [20, 1000])
    func soleVoter(electionTimeout: Int) throws {
        let cluster = try cluster(seed: 5, flushesOneOf: .max) {
            $0.size = 1
            $0.settings.raft.electionTimeout = .milliseconds(electionTimeout)
            $0.settings.raft.electionJitter = .milliseconds(electionTimeout)
        }
        try write(1...20, cluster)
        cluster.run(.milliseconds(500))
        let hurt = cluster.nodes[0]
        let last = cluster.histories[0].lastPosition
        try rot(hurt.logDisk, at: payload(5))
        // it leads again while its log is read
        hurt.recording.worker("maintenance").hangs = true
        hurt.lane.post { [host = hurt.host!] in host.repairLog(of: host.replicas[0], from: LogIndex(2), "told so") }
        cluster.run(.milliseconds(3000))
        #expect(hurt.leads(0) && hurt.status(0)?.debt == nil)
        hurt.recording.worker("maintenance").hangs = false
        cluster.run(.milliseconds(1000))
        // with an entry for each term
        let debt = try #require(hurt.status(0)?.debt)
        let term = try #require(hurt.status(0)?.term)
        #expect(debt >= last && debt.index.rawValue <= last.index.rawValue + 50)
        #expect(reset(hurt, cluster) == .refused(.notApplicable), "the state in memory is ahead of the log")
        for _ in 0..<2 {
            cluster.run(.milliseconds(10_000))
            #expect(hurt.status(0)?.debt == debt && hurt.status(0)?.term == term && hurt.status(0)?.state == "follower")
            #expect(hurt.host.raft(of: "g0")?.deadline == nil)
            hurt.crash()
            try hurt.start()
        }
        #expect(cluster.allViolations == [])
        guard case .done? = reset(hurt, cluster) else {
            Issue.record("the debt is not given up")
            return
        }
        #expect(cluster.run(limit: 10_000) { hurt.leads(0) })
        #expect(hurt.status(0)?.debt == nil)
    }

    @Test("Found at a start that forgets a fence as well: the log is repaired before anything is said of the state")
    func fencedAtStart() throws {
        let cluster = try cluster(seed: 6, flushesOneOf: .max) { $0.size = 1 }
        try write(1...20, cluster)
        let hurt = cluster.nodes[0]
        hurt.host.store = nil
        hurt.lane.post { [host = hurt.host!] in
            host.fence(host.replicas[0], Fence(index: LogIndex(15), problem: "told so"))
        }
        cluster.run(.milliseconds(1000))
        #expect(hurt.status(0)?.problem == "told so")
        hurt.crash()
        try rot(hurt.logDisk, at: payload(5))
        for _ in 0..<2 {
            try hurt.start()
            cluster.run(.milliseconds(1000))
            #expect(hurt.failure == nil && hurt.status(0)?.debt != nil && hurt.host.replicas[0].fence == nil)
            hurt.crash()
        }
        #expect(cluster.allViolations == [])
    }

    @Test("A device that fails a few reads has lost nothing") func transient() throws {
        let cluster = try cluster(seed: 4, flushesOneOf: .max)
        let late = try #require(cluster.nodes.first { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        try write(1...30, cluster)
        let leader = try #require(cluster.leader(of: 0))
        let first = try #require(leader.host.raft(of: "g0")?.lastIndex)
        leader.logDisk.failReads(3)
        try late.start()
        #expect(cluster.run(limit: 60_000) { cluster.nodes.allSatisfy { isCaughtUp($0, cluster) } })
        #expect(try #require(leader.host.raft(of: "g0")?.lastIndex) >= first)
        #expect(cluster.nodes.allSatisfy { $0.status(0)?.debt == nil && $0.status(0)?.problem == nil })
        #expect(cluster.allViolations == [])
    }
}

import RaftCore
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

/// Replicas whose state machines do not do the same.
@Suite("Replicas are compared while they run")
struct ComparingTests {
    private func makeCluster(
        size: Int = 3, _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.size = size
        plan.flushesOneOf = 1
        change(&plan)
        let cluster = HostCluster(seed: 77, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    private func fenced(_ cluster: HostCluster) -> [Int] {
        cluster.nodes.filter { $0.status(0)?.problem != nil }.map(\.number)
    }

    /// Has `node` go wrong at the next command, and the leader propose it.
    private func diverge(_ node: SimulatedNode, _ cluster: HostCluster) throws -> LogIndex {
        let leader = try #require(cluster.leader(of: 0))
        let index = try #require(leader.status(0)).lastIndex.next
        node.machines[0].isWrongAt = index
        #expect(cluster.propose(Command.payload(tag: 6, byteCount: 8), on: leader)?.position?.index == index)
        return index
    }

    @Test("A follower that differs from a majority fences itself, and stays so until it gets another state")
    func follower() throws {
        let cluster = try makeCluster()
        let leader = try #require(cluster.leader(of: 0))
        let wrong = try #require(cluster.nodes.first { $0 !== leader })
        // nothing that a snapshot could be put into, in this life
        wrong.host.store = nil
        let index = try diverge(wrong, cluster)
        #expect(cluster.run(limit: 3000) { fenced(cluster) == [wrong.number] })
        let status = try #require(wrong.status(0))
        #expect(status.problem == "its state differs from \(leader.peer)'s at index \(index)")
        #expect(status.state == "damaged")

        // it acknowledges and applies nothing
        let applied = status.appliedIndex
        let position = cluster.propose(Command.payload(tag: 8, byteCount: 8), on: leader)?.position
        cluster.run(.milliseconds(2000))
        #expect(wrong.status(0)?.lastIndex == position?.index && wrong.status(0)?.appliedIndex == applied)

        wrong.crash()
        try wrong.start()
        #expect(wrong.status(0)?.problem == status.problem)
        // the leader has a better one
        #expect(
            cluster.run(limit: 10_000) { fenced(cluster).isEmpty && wrong.status(0)?.appliedIndex == position?.index })
        wrong.crash()
        try wrong.start()
        #expect(wrong.status(0)?.problem == nil)
        #expect(cluster.propose(Command.payload(tag: 9, byteCount: 8), on: leader)?.position != nil)
        cluster.run(.milliseconds(3000))
        #expect(fenced(cluster) == [] && cluster.allViolations == [])
        #expect(wrong.machines[0].latestHash != nil && wrong.machines[0].latestHash == leader.machines[0].latestHash)
    }

    /// A follower that was fenced, and could get no other state in this life.
    private func fencedFollower(_ cluster: HostCluster) throws -> SimulatedNode {
        let wrong = try #require(cluster.nodes.first { !$0.leads(0) })
        wrong.host.store = nil
        _ = try diverge(wrong, cluster)
        #expect(cluster.run(limit: 3000) { fenced(cluster) == [wrong.number] })
        cluster.run(.milliseconds(500))
        return wrong
    }

    @Test("A fence does not outlive the state it stands for: one that is made again from the log is never taken for it")
    func rebuilt() throws {
        let cluster = try makeCluster()
        let wrong = try fencedFollower(cluster)
        let number = wrong.host.records[0].store
        wrong.crash()
        (wrong.stores[0].durable, wrong.stores[0].configuration) = (.zero, .empty)
        wrong.stores[0].hash = AppliedHashTrail().value
        try wrong.start()
        #expect(wrong.status(0)?.problem?.hasPrefix("made anew, and not compared yet") == true)
        #expect(cluster.run(limit: 10_000) { wrong.stores[0].durable == cluster.histories[0].lastPosition })
        #expect(fenced(cluster) == [wrong.number], "nobody has compared it")
        #expect(cluster.run(limit: 10_000) { fenced(cluster) == [] })
        #expect(cluster.propose(Command.payload(tag: 9, byteCount: 8), on: try #require(cluster.leader(of: 0))) != nil)
        #expect(cluster.run(limit: 10_000) { wrong.stores[0].durable == cluster.histories[0].lastPosition })
        wrong.crash()
        try wrong.start()
        cluster.run(.milliseconds(500))
        #expect(fenced(cluster) == [] && wrong.host.records[0].store == number)
        #expect(cluster.allViolations == [])
    }

    @Test("A state that is made anew and wrong again never serves; it gets another one") func wrongAgain() throws {
        let cluster = try makeCluster()
        let wrong = try #require(cluster.nodes.first { !$0.leads(0) })
        wrong.host.store = nil
        let index = try diverge(wrong, cluster)
        #expect(cluster.run(limit: 3000) { fenced(cluster) == [wrong.number] })
        cluster.run(.milliseconds(500))
        let number = wrong.host.records[0].store
        wrong.crash()
        (wrong.stores[0].durable, wrong.stores[0].configuration) = (.zero, .empty)
        wrong.stores[0].hash = AppliedHashTrail().value
        try wrong.start()
        wrong.machines[0].isWrongAt = index
        var hasServed = false
        let isReplaced = cluster.run(limit: 60_000) {
            hasServed = hasServed || (wrong.status(0)?.problem == nil && wrong.host.records[0].store == number)
            return wrong.host.records[0].store != number
        }
        #expect(isReplaced && !hasServed)
        #expect(cluster.run(limit: 10_000) { fenced(cluster) == [] })
        #expect(cluster.allViolations == [])
    }

    @Test("A state on trial that is being replaced is not found right any more: the other one's record stays")
    func replacedOnTrial() throws {
        let cluster = try makeCluster {
            // the leader remembers its hash at the fence's entry, and has compacted that
            $0.settings.compactionEntries = 4
            $0.settings.keptEntries = 1
            $0.settings.keptBytes = 100
            $0.settings.compactionPace = .milliseconds(100)
        }
        let wrong = try fencedFollower(cluster)
        let number = wrong.host.records[0].store
        wrong.crash()
        (wrong.stores[0].durable, wrong.stores[0].configuration) = (.zero, .empty)
        wrong.stores[0].hash = AppliedHashTrail().value
        try wrong.start()
        wrong.host.nextTrial = .distantFuture
        #expect(cluster.run(limit: 10_000) { wrong.stores[0].durable == cluster.histories[0].lastPosition })
        let others = cluster.nodes.filter { $0 !== wrong }
        for other in others {
            cluster.world.cut(from: other.address, to: wrong.address)
            cluster.world.cut(from: wrong.address, to: other.address)
        }
        cluster.run(.milliseconds(3000))
        let leader = try #require(others.first { $0.leads(0) })
        for tag in 0..<8 as Range<UInt64> {
            _ = cluster.propose(Command.payload(tag: tag, byteCount: 200), on: leader)
        }
        #expect(cluster.run(limit: 5000) { leader.host.replicas[0].raft.base.index > wrong.host.replicas[0].applied })
        // what is under way goes as well
        for other in others { cluster.world.breakConnections(between: other.address, and: wrong.address) }
        cluster.world.healAll()
        let replica = wrong.host.replicas[0]
        #expect(cluster.run(limit: 20_000) { replica.incoming?.isBeingInstalled == true })

        // the question is under way when the other state comes into force
        wrong.logWorker.hangs = true
        cluster.world.pause(leader.address, for: .milliseconds(100))
        wrong.host.nextTrial = .distantPast
        wrong.lane.post { [host = wrong.host!] in host.lane.requestTurn() }
        #expect(cluster.run(limit: 90) { replica.isSwitching })
        #expect(wrong.host.nextTrial > .distantPast)
        cluster.run(.milliseconds(500))
        #expect(replica.isSwitching && replica.trial != nil)
        wrong.logWorker.hangs = false
        #expect(cluster.run(limit: 10_000) { fenced(cluster) == [] && wrong.host.records[0].store != number })
        cluster.run(.milliseconds(500))
        wrong.crash()
        try wrong.start()
        #expect(wrong.host.records[0].store != number && fenced(cluster) == [])
        #expect(cluster.run(limit: 10_000) { wrong.stores[0].durable == cluster.histories[0].lastPosition })
        #expect(cluster.allViolations == [])
    }

    @Test("A fence outlives a start at which nothing of the state could be read") func unreadable() throws {
        let cluster = try makeCluster()
        let wrong = try fencedFollower(cluster)
        let problem = try #require(wrong.status(0)?.problem)
        wrong.crash()
        wrong.recording.isUnreadable = true
        try wrong.start()
        wrong.host.store = nil
        #expect(wrong.status(0)?.problem == "told to be unreadable")
        cluster.run(.milliseconds(100))
        wrong.crash()
        wrong.recording.isUnreadable = false
        try wrong.start()
        #expect(wrong.status(0)?.problem == problem)
        #expect(cluster.allViolations == [])
    }

    @Test("A leader in the minority fences itself and hands over")
    func leader() throws {
        let cluster = try makeCluster()
        let wrong = try #require(cluster.leader(of: 0))
        _ = try diverge(wrong, cluster)
        #expect(cluster.run(limit: 3000) { fenced(cluster) == [wrong.number] })
        #expect(cluster.run(limit: 3000) { cluster.leader(of: 0).map { $0 !== wrong } ?? false })
        let next = try #require(cluster.leader(of: 0))
        #expect(cluster.propose(Command.payload(tag: 8, byteCount: 8), on: next)?.position != nil)
        #expect(cluster.run(limit: 10_000) { fenced(cluster).isEmpty })
        #expect(cluster.run(limit: 3000) { wrong.machines[0].latestHash == next.machines[0].latestHash })
        #expect(cluster.allViolations == [])
    }

    @Test("Two that differ are both left alone: nobody knows who is right")
    func noMajority() throws {
        let cluster = try makeCluster(size: 2)
        let leader = try #require(cluster.leader(of: 0))
        _ = try diverge(try #require(cluster.nodes.first { $0 !== leader }), cluster)
        cluster.run(.milliseconds(3000))
        #expect(fenced(cluster) == [])
        #expect(cluster.propose(Command.payload(tag: 8, byteCount: 8), on: leader)?.position != nil)
    }

    @Test("One that comes back later is compared as soon as it has applied the same")
    func lateComer() throws {
        let cluster = try makeCluster()
        let leader = try #require(cluster.leader(of: 0))
        let wrong = try #require(cluster.nodes.first { $0 !== leader })
        wrong.crash()
        cluster.run(.milliseconds(5000))
        let next = try #require(cluster.leader(of: 0))
        for tag in 0..<600 as Range<UInt64> {
            _ = cluster.propose(Command.payload(tag: tag, byteCount: 8), on: next)
        }
        try wrong.start()
        wrong.host.store = nil
        wrong.machines[0].isWrongAt = try #require(wrong.status(0)).lastIndex.advanced(by: 5)
        cluster.run(.milliseconds(3000))
        _ = cluster.propose(Command.payload(tag: 8, byteCount: 8), on: next)
        #expect(cluster.run(limit: 5000) { fenced(cluster) == [wrong.number] })
    }

    @Test("Equal replicas are compared once after each change, and then there is silence")
    func silence() throws {
        let cluster = try makeCluster()
        let leader = try #require(cluster.leader(of: 0))
        _ = cluster.propose(Command.payload(tag: 8, byteCount: 8), on: leader)
        #expect(leader.host.nextComparison != nil)
        #expect(cluster.run(limit: 3000) { leader.host.nextComparison == nil && leader.host.comparing == nil })
        #expect(leader.host.toCompare.isEmpty && leader.host.comparisonDue == nil)
        cluster.run(.milliseconds(10_000))
        #expect(leader.host.nextComparison == nil && fenced(cluster) == [])
        #expect(cluster.allViolations == [])
    }
}

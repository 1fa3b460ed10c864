import RaftCore
import Simulator
import Testing

@testable import RaftHost

@Suite("State machines that keep their states by themselves, and take none")
struct SelfKeptTests {
    private func cluster(seed: UInt64, takesNone: Bool = true) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.flushesOneOf = 2
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.log.segmentBytes = 8 << 10
        let cluster = HostCluster(seed: seed, plan: plan)
        for node in cluster.nodes { node.recording.keepsStatesItself = takesNone }
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    private func write(_ count: Int, _ cluster: HostCluster) {
        for tag in 0..<count {
            guard let leader = cluster.leader(of: 0) else { continue }
            let (host, payload) = (leader.host!, Command.payload(tag: UInt64(tag + 1), byteCount: 200))
            leader.lane.post { host.propose(payload, to: "g0") { _ in } }
            cluster.run(.milliseconds(20))
        }
    }

    private func base(_ node: SimulatedNode) -> LogIndex { node.host.raft(of: "g0")?.base.index ?? .zero }

    private func isCaughtUp(_ node: SimulatedNode, _ cluster: HostCluster) -> Bool {
        node.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
    }

    /// A follower that is down while much is written.
    private func away(_ cluster: HostCluster) throws -> SimulatedNode {
        let away = try #require(cluster.nodes.last { !$0.leads(0) })
        away.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        write(150, cluster)
        return away
    }

    @Test("A leader keeps the log for who is away, however long, and compacts it when he is back") func logIsKept()
        throws
    {
        let cluster = try cluster(seed: 1)
        let last = cluster.histories[0].lastIndex
        let away = try away(cluster)
        cluster.run(.milliseconds(1000))
        let leader = try #require(cluster.leader(of: 0))
        #expect(base(leader) <= last)
        try away.start()
        #expect(cluster.run(limit: 20_000) { isCaughtUp(away, cluster) })
        write(50, cluster)
        cluster.run(.milliseconds(1000))
        #expect(try base(#require(cluster.leader(of: 0))) > LogIndex(100))
        #expect(away.host.receiving.piecesAsked == 0 && cluster.allViolations == [])
    }

    @Test("For want of room the log is kept for nobody, and never again for who lacks its beginning by then")
    func logIsGivenUp() throws {
        let cluster = try cluster(seed: 4)
        let last = cluster.histories[0].lastIndex
        _ = try away(cluster)
        let leader = try #require(cluster.leader(of: 0))
        #expect(base(leader) <= last)
        // as if the disk had little room, and nobody looked again
        (leader.host.hasLittleRoom, leader.host.isCheckingFreeSpace) = (true, true)
        leader.lane.post { [host = leader.host!] in host.lane.requestTurn() }
        #expect(cluster.run(limit: 5000) { base(leader) > LogIndex(100) })
        (leader.host.hasLittleRoom, leader.host.isCheckingFreeSpace) = (false, false)
        let given = base(leader)
        write(150, cluster)
        #expect(cluster.run(limit: 5000) { base(leader) > given.advanced(by: 100) })
        #expect(leader.leads(0) && cluster.allViolations == [])
    }

    @Test("An offer that cannot be taken is refused before anything is fetched, and the replica says so")
    func offerRefused() throws {
        let cluster = try cluster(seed: 2, takesNone: false)
        let away = try away(cluster)
        let leader = try #require(cluster.leader(of: 0))
        #expect(base(leader) > LogIndex(60))
        away.recording.keepsStatesItself = true
        try away.start()
        #expect(cluster.run(limit: 20_000) { away.status(0)?.problem?.contains("takes no snapshot") == true })
        cluster.run(.milliseconds(20_000))
        #expect(away.host.receiving.piecesAsked == 0 && away.status(0)?.state == "follower")
        // nobody else is kept from anything
        #expect(cluster.propose(Command.payload(tag: 9, byteCount: 100), on: leader)?.position != nil)
        away.crash()
        away.recording.keepsStatesItself = false
        try away.start()
        #expect(cluster.run(limit: 60_000) { isCaughtUp(away, cluster) })
        #expect(away.status(0)?.problem == nil && cluster.allViolations == [])
    }

    @Test("A state that the log does not continue is not applied to, and asks for nothing") func lostState() throws {
        let cluster = try cluster(seed: 3)
        write(150, cluster)
        let node = try #require(cluster.nodes.last { !$0.leads(0) })
        #expect(cluster.run(limit: 10_000) { base(node) > LogIndex(60) })
        node.crash()
        (node.stores[0].durable, node.stores[0].configuration) = (.zero, .empty)
        try node.start()
        cluster.run(.milliseconds(10_000))
        #expect(node.status(0)?.problem?.contains("the log begins behind") == true)
        #expect(node.machines[0].appliedPosition == .zero && node.host.receiving.piecesAsked == 0)
        let leader = try #require(cluster.leader(of: 0))
        #expect(cluster.propose(Command.payload(tag: 9, byteCount: 100), on: leader)?.position != nil)
        #expect(cluster.allViolations == [])
    }
}

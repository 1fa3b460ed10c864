import RaftCore
import ShardMap
import Testing

@testable import raftctl

extension SmallCluster {
    fileprivate var facts: WhyFacts {
        var facts = WhyFacts(state: state, earlier: state)
        facts.operations = []
        return facts
    }
}

@Suite("Why: what is said of a cluster") struct WhyReportTests {
    private func troubles(_ subject: WhyReport.Subject, _ facts: WhyFacts) -> [String] {
        WhyReport(subject, facts).links.filter { $0.finding == .trouble }.map(\.text)
    }

    @Test("all is well from the key to the disks")
    func well() {
        var facts = SmallCluster().facts
        facts.read = .done(milliseconds: 2)
        let report = WhyReport(.key(Bytes("k")), facts)
        #expect(report.isWell, "\(report.text)")
        #expect(
            report.links.map(\.name) == [
                "map", "key", "shard 1", "group g1", "replica 127.0.0.1:8101:0:0", "replica 127.0.0.1:8102:0:0",
                "replica 127.0.0.1:8103:0:0", "leader", "log", "node 127.0.0.1:8101", "node 127.0.0.1:8102",
                "node 127.0.0.1:8103", "read",
            ])
        facts.read = .failed("it did not work")
        #expect(!WhyReport(.key(Bytes("k")), facts).isWell)
    }

    @Test("a node that is gone, and one that hangs")
    func down() {
        var world = SmallCluster()
        world.down(2)
        var facts = world.facts
        #expect(troubles(.group("g1"), facts) == ["its node does not run"])
        facts.hanging = [SmallCluster.addresses[2]]
        #expect(troubles(.shard(1), facts) == ["its node takes connections and does not answer, or cannot be reached"])
    }

    @Test("no quorum names the way by force, and the controller's own")
    func quorum() throws {
        var world = SmallCluster()
        world.down(1, 2)
        let report = WhyReport(.group("g1"), world.facts)
        let leader = try #require(report.links.first { $0.name == "leader" })
        #expect(leader.text == "nobody leads: 1 of 3 voters are there, and 2 are needed")
        #expect(leader.advice?.contains("raftctl group reset-peer g1 PEER,… --plan") == true)
        let controller = WhyReport(.group("controller"), world.facts)
        #expect(controller.links.contains { $0.advice?.contains("raftctl controller reset-peer") == true })
    }

    @Test("without a map the controller's chain is shown as well")
    func noMap() {
        var world = SmallCluster()
        world.isKnown = false
        let report = WhyReport(.key(Bytes("k")), world.facts)
        #expect(!report.isWell && report.links.contains { $0.name == "group controller" })
        #expect(report.links.contains { $0.name == "key" && $0.finding == .unknown })
        #expect(WhyReport(.group("g1"), world.facts).links.contains { $0.name == "group g1" && $0.finding == .ok })
    }

    @Test("disk, room and network, and who is down is not missed twice")
    func nodes() {
        var world = SmallCluster()
        world.nodes[0]?.stallMilliseconds = 5000
        world.nodes[1]?.refusal = "it is full"
        world.nodes[1]?.unheard = [SmallCluster.addresses[0]]
        let found = troubles(.group("g1"), world.facts)
        #expect(found.count == 3, "\(found)")
        #expect(found.contains("it refuses writes: it is full") && found.contains("it does not hear 127.0.0.1:8101"))
        world = SmallCluster()
        world.down(2)
        world.nodes[0]?.unheard = [SmallCluster.addresses[2]]
        #expect(troubles(.group("g1"), world.facts) == ["its node does not run"])
    }

    @Test("what stands still is told from what gets on")
    func log() {
        var earlier = SmallCluster()
        earlier.nodes[2]?.replicas[1].appliedIndex = 10
        var later = earlier
        var facts = later.facts
        facts.earlier = earlier.state
        #expect(troubles(.group("g1"), facts) == ["40 entries behind, and it stands still"])
        later.nodes[2]?.replicas[1].appliedIndex = 30
        facts.state = later.state
        #expect(WhyReport(.group("g1"), facts).isWell)
        #expect(WhyReport(.group("g1"), facts).links.contains { $0.finding == .busy })
        earlier = SmallCluster()
        earlier.nodes[0]?.replicas[1].lastIndex = 60
        facts.state = earlier.state
        facts.earlier = earlier.state
        #expect(
            troubles(.group("g1"), facts).first?.contains("10 entries at 127.0.0.1:8101 wait for a majority") == true)
    }

    @Test("operations on it are busy, or in trouble")
    func operations() {
        let move = MoveOperation(shard: 1, epoch: 1, source: "g1", destination: "g2")
        var report = OperationReport(operation: ClusterOperation(id: 7, kind: .move(move), begunMilliseconds: 0))
        var facts = SmallCluster().facts
        facts.operations = [report]
        #expect(WhyReport(.shard(1), facts).isWell && WhyReport(.group("g1"), facts).links.count == 10)
        #expect(WhyReport(.shard(1), facts).links.contains { $0.name == "operation 7" && $0.finding == .busy })
        report.problem = "nobody is there"
        facts.operations = [report]
        #expect(troubles(.shard(1), facts).first?.hasSuffix("begun: nobody is there") == true)
        facts.operations = nil
        #expect(!WhyReport(.shard(1), facts).isWell)
    }
}

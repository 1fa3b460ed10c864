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

    @Test("a foreign member is judged by what the leader says, and counts for the majority")
    func foreignMembers() throws {
        let braft = try #require(PeerID("10.9.9.9:8100:7:0"))
        func facts(_ told: ForeignStatus, down: Int..., led: Bool = true) -> WhyFacts {
            var world = SmallCluster()
            for number in 0..<3 {
                for position in world.nodes[number]!.replicas.indices
                where world.nodes[number]!.replicas[position].group == "g1" {
                    world.nodes[number]!.replicas[position].peers = SmallCluster.peers + [braft]
                    world.nodes[number]!.replicas[position].foreign = [
                        number == 0 && led ? told : ForeignStatus(peer: braft)
                    ]
                    if !led { world.nodes[number]!.replicas[position].state = "candidate" }
                }
                // who hears it is the leader
                world.nodes[number]!.unheard = [braft.address]
            }
            for number in down { world.nodes[number] = nil }
            return world.facts
        }
        let well = facts(ForeignStatus(peer: braft, isReachable: true, matchIndex: 50))
        let report = WhyReport(.group("g1"), well)
        #expect(report.isWell, "\(report.text)")
        #expect(report.text.contains("a braft in touch with the leader, acknowledged up to 50"))
        let silent = facts(ForeignStatus(peer: braft, isReachable: false, matchIndex: 50))
        #expect(
            troubles(.group("g1"), silent)
                == ["a braft that the leader is not in touch with, acknowledged up to 50"])
        #expect(WhyReport(.group("g1"), silent).text.contains("raftctl group remove-peer g1 10.9.9.9:8100"))
        // it may be what is missing: nothing is to be done by force before that is known
        let unknown = facts(ForeignStatus(peer: braft), down: 2, led: false)
        let leader = try #require(WhyReport(.group("g1"), unknown).links.first { $0.name == "leader" })
        #expect(leader.text.contains("2 of 4 voters are there, of 1 brafts nobody knows, and 3 are needed"))
        #expect(leader.advice?.contains("reset-peer") == false)
        let lost = facts(ForeignStatus(peer: braft), down: 1, 2, led: false)
        let last = try #require(WhyReport(.group("g1"), lost).links.first { $0.name == "leader" })
        #expect(last.text == "nobody leads: 1 of 4 voters are there, and 3 are needed")
        #expect(last.advice?.contains("raftctl group reset-peer g1") == true)
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

import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    /// What the controller's leader does by itself, sped up.
    @Suite("A cluster that is kept spread") struct SchedulerTests {
        private static let quick = ["--scheduler-cooldown", "2"]

        /// How many members each node has.
        private static func replicas(_ map: ClusterMap) -> [Int] {
            map.nodes.map { node in
                map.groups.count { group in group.peers.contains { $0.address == node.address } }
            }
        }

        @Test func aNodeIsDrainedUnderWritesAndRemoved() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, joining: 1, groups: 6, replicas: 3, flags: Self.quick)
            let operators = Operator(cluster: cluster)
            let clients = try (0..<2).map { _ in try cluster.makeClient() }
            defer { for client in clients { client.close() } }
            try await operators.order("rebalance", "off")
            let early = try await operators.attempt("node", "drain", cluster.addresses[0].description)
            #expect(early.status == 1 && early.output.contains("start another node"), "\(early.output)")
            try cluster.start(3)
            try await Wait.until("the new node has joined") { try await clients[0].clusterMap().nodes.count == 4 }
            // the hardest one: it leads the controller
            let leader = try #require(await cluster.probe.leader(of: ClusterMap.controllerGroup))
            let address = cluster.addresses[leader]
            let load = Load()
            try await load.run(through: clients) {
                let drained = try await operators.order("node", "drain", address.description, timeout: .seconds(120))
                #expect(drained.contains("is empty") && drained.contains("raftctl node remove"), "\(drained)")
                try await Wait.until("everybody knows") {
                    let groups = try await clients[0].clusterMap().groups
                    return !groups.contains { $0.peers.contains { $0.address == address } }
                }
                try await Wait.until("the replicas are deleted") {
                    await cluster.probe.status(of: address)?.replicas.isEmpty == true
                }
                let decisions = try await operators.order("rebalance", "status")
                #expect(decisions.contains("rebalancing is off") && decisions.contains("is draining"), "\(decisions)")
                try await operators.order("node", "remove", address.description)
                let acknowledged = load.acknowledged
                try await Wait.until("writes go on") { load.acknowledged > acknowledged + 100 }
            }
            try await Wait.until("the node is gone") { try await clients[0].clusterMap().nodes.count == 3 }
            try await load.check(through: clients[1])
            try await operators.verifyEveryGroup(try await clients[0].clusterMap())
        }

        @Test func replicasAreSpreadOnceOverANewNode() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, joining: 1, groups: 7, replicas: 3, flags: Self.quick)
            let operators = Operator(cluster: cluster)
            let client = try cluster.makeClient()
            defer { client.close() }
            try await operators.order("rebalance", "off")
            try cluster.start(3)
            try await Wait.until("the new node has joined") { try await client.clusterMap().nodes.count == 4 }
            let end = try await operators.order("rebalance", "--once", timeout: .seconds(180))
            #expect(end.contains("everything is spread"), "\(end)")
            let map = try await client.clusterMap()
            // 8 groups, 3 replicas each
            #expect(Self.replicas(map).allSatisfy { (5...7).contains($0) }, "\(Self.replicas(map))")
            let report = try await operators.order("-o", "json", "rebalance")
            #expect(report.contains("\"rebalancing\":\"off\""), "\(report)")
            try await operators.waitForOperations()
            // at rest
            try await Task.sleep(for: .seconds(5))
            let later = try await client.clusterMap()
            #expect(later.groups.map(\.peers) == map.groups.map(\.peers))
            try await operators.verifyEveryGroup(later)
        }

        @Test func whetherItIsSpreadSurvivesTheControllersLeader() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            let operators = Operator(cluster: cluster)
            #expect(try await operators.order("rebalance").contains("rebalancing is on"))
            try await operators.order("rebalance", "off")
            let leader = try #require(await cluster.probe.leader(of: ClusterMap.controllerGroup))
            try await cluster.kill(leader)
            try await Wait.until("another one leads the controller") {
                guard let next = await cluster.probe.leader(of: ClusterMap.controllerGroup) else { return false }
                return next != leader
            }
            #expect(try await operators.order("rebalance", "status").contains("rebalancing is off"))
            // two of three nodes are left: another one would be missed
            for other in cluster.addresses where other != cluster.addresses[leader] {
                let safety = try await operators.attempt("node", "safe-to-stop", other.description)
                #expect(safety.status == 1 && safety.output.contains("would lose its quorum"), "\(safety.output)")
            }
            try cluster.start(leader)
            try await cluster.probe.waitUntilLed()
            try await Wait.until("one can be spared again") {
                try await operators.attempt("node", "safe-to-stop", cluster.addresses[leader].description).status == 0
            }
        }

        @Test func aShardIsSplitWhenItIsAskedForTooMuch() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, groups: 1, replicas: 3, flags: Self.quick + ["--split-operations", "100"])
            let operators = Operator(cluster: cluster)
            let clients = try (0..<2).map { _ in try cluster.makeClient() }
            defer { for client in clients { client.close() } }
            let load = Load()
            try await load.run(through: clients) {
                try await Wait.until("the shard is split", timeout: .seconds(60)) {
                    try await clients[0].clusterMap().shards.count > 1
                }
                let report = try await operators.order("rebalance")
                #expect(report.contains("split: shard 1 has"), "\(report)")
                try await Wait.until("both are listed with their load") {
                    let lines = try await operators.order("shard", "list", "--hot").split(separator: "\n")
                    return lines.count > 2 && lines[0].contains("OPS/S") && lines[0].contains("BYTES")
                }
            }
            try await operators.order("rebalance", "off")
            try await operators.waitForOperations()
            let before = try await clients[0].clusterMap().shards
            // by hand, where the scheduler would
            var refusal = ""
            try await Wait.until("a key is known") {
                let split = try await operators.attempt("shard", "split", "--shard", "\(before[0].id)")
                refusal = split.output
                return split.status == 0
            }
            #expect(try await clients[0].clusterMap().shards.count == before.count + 1, "\(refusal)")
            try await load.check(through: clients[1])
        }
    }
}

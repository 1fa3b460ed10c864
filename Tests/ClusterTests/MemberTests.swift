import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("Groups whose members change") struct MemberTests {
        @Test func allMembersGiveWayUnderLoadAndADeadNodeIsReplaced() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, joining: 2, groups: 2, replicas: 3)
            let operators = Operator(cluster: cluster)
            let clients = try (0..<2).map { _ in try cluster.makeClient() }
            defer { for client in clients { client.close() } }
            for node in 3..<5 { try cluster.start(node) }
            try await Wait.until("the new nodes have joined") { try await clients[0].clusterMap().nodes.count == 5 }
            let load = Load()
            try await load.run(through: clients) {
                let newcomers = Self.peers([0, 3, 4], of: cluster)
                try await operators.order("group", "change-peers", "g1", newcomers)
                try await operators.order("controller", "change-peers", newcomers)
                for node in [1, 2] { try await Self.waitUntilGone(["g1", "controller"], from: node, of: cluster) }
                try await cluster.probe.waitUntilLed()

                try await Self.replaceDeadNode(4, by: 1, of: cluster, clients[0])
            }
            try await operators.waitForOperations()
            let reader = try cluster.makeClient()
            defer { reader.close() }
            try await load.check(through: reader)
            try await operators.verifyEveryGroup(try await reader.clusterMap())
        }

        /// A node that is a member of `g1` and the controller dies for good; another one takes its place, and what
        /// comes with an empty directory at its address is a new node.
        private static func replaceDeadNode(
            _ node: Int, by other: Int, of cluster: ProcessCluster, _ client: Client
        ) async throws {
            let operators = Operator(cluster: cluster)
            let address = cluster.addresses[node]
            let former = try #require(try await client.clusterMap().node(at: address)?.id)
            try await cluster.kill(node)
            let early = try await operators.attempt("node", "remove", address.description)
            #expect(early.status == 1 && early.output.contains("has replicas of controller, g1"), "\(early.output)")
            let remaining = peers([0, 3, other], of: cluster)
            try await operators.order("controller", "change-peers", remaining)
            try await operators.order("group", "change-peers", "g1", remaining)
            try await operators.order("node", "remove", address.description)

            TemporaryDirectory.remove(cluster.dataDirectory(node))
            try cluster.start(node)
            try await Wait.until("there is a new node at \(address)") {
                try await client.clusterMap().node(at: address).map { $0.id != former } ?? false
            }
            try await operators.order("group", "add-peer", "g1", address.description)
            try await Wait.until("its replica serves") {
                guard let replica = await cluster.probe.status(of: address)?.replica(of: "g1") else { return false }
                return ["follower", "leader"].contains(replica.state) && replica.members.count == 4
            }
        }

        private static func peers(_ nodes: [Int], of cluster: ProcessCluster) -> String {
            nodes.map { cluster.addresses[$0].description }.joined(separator: ",")
        }

        private static func waitUntilGone(_ groups: [String], from node: Int, of cluster: ProcessCluster) async throws {
            try await Wait.until("node \(node) has dropped \(groups)") {
                guard let status = await cluster.probe.status(of: cluster.addresses[node]) else { return false }
                return groups.allSatisfy { status.replica(of: $0) == nil }
            }
        }
    }
}

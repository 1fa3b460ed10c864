import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import Testing

extension Clusters {
    @Suite("A node without a majority") struct LoneNodeTests {
        @Test func itIsShownWithWhatItKnowsOfItsReplicas() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            try await cluster.kill(0, 1, 2)
            try cluster.start(1)
            let address = cluster.addresses[1]
            try await cluster.probe.wait(for: "the node answers") { await cluster.probe.status(of: address) != nil }

            let outcome = try await Tools.run(
                Tools.raftctl, ["--cluster", address.description, "group", "show", "g1"])
            let lines = outcome.output.split(separator: "\n")
            #expect(outcome.status == 0 && lines.contains { $0.contains("the controller's map is not known") })
            #expect(lines.count { $0.contains(" down ") } == 2, "\(outcome.output)")
            let own = try #require(lines.first { $0.hasPrefix(address.description) })
            #expect(own.contains("follower") || own.contains("candidate"), "\(own)")
        }
    }
}

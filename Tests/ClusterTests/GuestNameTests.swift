import ClusterProcesses
import FlotillaTestSupport
import NodeRuntime
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    /// A node that is a guest of another program's group can have no replica of a group of the map that is called the same.
    @Suite("A guest's name") struct GuestNameTests {
        @Test("An operation that wants a replica beside a guest of that name ends, and says why")
        func refused() async throws {
            let cluster = try await TestCluster(nodes: 4, groups: 1, replicas: 3) { configuration in
                configuration.controllers = Array(configuration.controllers.prefix(3))
            }
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            let members = try #require(try await client.clusterMap().group("g1")).peers
            let outsider = try #require(
                cluster.addresses.indices.first { node in
                    !members.contains { $0.address == cluster.addresses[node] }
                })
            let node = cluster.addresses[outsider]
            cluster.stop(outsider)
            try cluster.restart(outsider) { configuration in
                configuration.guests = ["g1", "other"].map { GuestGroup(group: $0) }
            }
            try await cluster.waitUntilLed()
            let seeds = cluster.addresses.map(\.description).joined(separator: ",")
            func raftctl(_ words: String...) async throws -> Tools.Outcome {
                try await Tools.run(Tools.raftctl, ["--cluster", seeds] + words, timeout: .seconds(120))
            }
            for (words, advice) in [
                (["add-peer", "g1", "\(node)"], "name another node"),
                (["create", "other", "--peers", "\(node)"], "choose another name"),
            ] {
                let outcome = try await Tools.run(
                    Tools.raftctl, ["--cluster", seeds, "group"] + words, timeout: .seconds(60))
                #expect(outcome.status == 1, "\(outcome.output)")
                #expect(outcome.output.contains("\(node) is a guest of another program's group"), "\(outcome.output)")
                #expect(outcome.output.contains(advice), "\(outcome.output)")
            }
            // to braft's clients, which wait for the end, it is a refusal like others
            let leader = try #require(await cluster.leader(of: "g1"))
            let leaderPeer = try #require(members.first { $0.address == cluster.addresses[leader] })
            let answer = try HttpCall.cli(
                leaderPeer.address, "add_peer", ("group_id", "g1"), ("leader_id", .text("\(leaderPeer)")),
                ("peer_id", .text("\(node)")))
            #expect(answer.status != 200 && answer.body.contains("is a guest of another"), "\(answer)")
            let list = try await raftctl("operation", "list")
            #expect(list.status == 0 && !list.output.contains("begun"), "\(list.output)")
            let map = try await client.clusterMap()
            #expect(map.group("g1")?.peers.sorted() == members.sorted() && map.group("other") == nil)
            // the scheduler knows, and looks elsewhere: there is nowhere else
            let drained = try #require(members.first { $0 != leaderPeer }).address
            #expect(try await raftctl("node", "drain", "\(drained)", "--no-wait").status == 0)
            try await Wait.until("the drain is said to be blocked", timeout: .seconds(60)) {
                try await raftctl("rebalance").output.contains("or of another program's group of that name")
            }
            let operations = try await raftctl("operation", "list", "--all")
            #expect(
                !operations.output.split(separator: "\n").contains {
                    $0.contains("change the members of group g1") && !$0.contains("cancelled")
                }, "\(operations.output)")
        }
    }
}

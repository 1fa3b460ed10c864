import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("A cluster that loses two of three disks") struct ResetTests {
        @Test func goesOnWithTheSurvivorAndGetsNewMembers() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            let operators = Operator(cluster: cluster)
            let client = try cluster.makeClient()
            defer { client.close() }
            for number in 0..<50 { try await client.put(Bytes("before\(number)"), Bytes("\(number)")) }
            let survivor = cluster.addresses[0].description
            let lost = cluster.addresses[1...].map(\.description)
            let early = try await operators.attempt("group", "reset-peer", "g1", survivor, "--unsafe")
            #expect(early.status == 1 && early.output.contains("so it has its majority"), "\(early.output)")

            try await cluster.kill(1, 2)
            for node in 1...2 { TemporaryDirectory.remove(cluster.dataDirectory(node)) }
            try await Wait.until("nobody leads", timeout: .seconds(30)) {
                guard let status = await cluster.probe.status(of: cluster.addresses[0]) else { return false }
                return ["controller", "g1", "g2"].allSatisfy { status.replica(of: $0)?.state != "leader" }
            }
            try await Self.refuse(["group", "reset-peer", "g1", survivor], "do it with --unsafe", operators)
            try await Self.refuse(["group", "reset-peer", "g1", lost[0], "--unsafe"], "none of the members", operators)
            try await Self.refuse(["group", "reset-peer", "g1", "127.0.0.1:9", "--unsafe"], "is no member", operators)
            let plan = try await operators.order("controller", "reset-peer", survivor, "--plan")
            for words in ["lost is what", "before", "after", "--token"] { #expect(plan.contains(words), "\(plan)") }
            let token = plan.split(separator: " ").last.map { String($0.filter { $0 != "\n" }) } ?? ""
            try await Self.refuse(
                ["group", "reset-peer", "g1", survivor, "--unsafe", "--token", token], "that of another command",
                operators)
            try await operators.order("controller", "reset-peer", survivor, "--unsafe", "--token", token)
            for group in ["g1", "g2"] { try await operators.order("group", "reset-peer", group, survivor, "--unsafe") }
            // once more does no harm
            try await operators.order("group", "reset-peer", "g2", survivor, "--unsafe")

            let map = try await client.clusterMap()
            #expect(map.groups.allSatisfy { $0.peers.map(\.address) == [cluster.addresses[0]] }, "\(map.groups)")
            try await client.put(Bytes("after"), Bytes("the loss"))
            for number in 0..<50 { #expect(try await client.get(Bytes("before\(number)")) == Bytes("\(number)")) }

            for address in lost { try await operators.order("node", "remove", address) }
            for node in 1...2 { try cluster.start(node) }
            try await Wait.until("two new nodes have joined") { try await client.clusterMap().nodes.count == 3 }
            for group in ["g1", "g2"] {
                for address in lost { try await operators.order("group", "add-peer", group, address) }
            }
            for address in lost { try await operators.order("controller", "add-peer", address) }
            try await operators.verifyEveryGroup(try await client.clusterMap())
            #expect(try await client.get(Bytes("after")) == Bytes("the loss"))
            #expect(try await operators.order("group", "show", "g1").contains("\(lost[0]):1:0"))
        }

        private static func refuse(_ order: [String], _ words: String, _ operators: Operator) async throws {
            let outcome = try await Tools.run(Tools.raftctl, operators.seeds + order)
            #expect(outcome.status == 1 && outcome.output.contains(words), "\(order): \(outcome.output)")
        }
    }
}

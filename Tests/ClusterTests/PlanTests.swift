import ClusterProcesses
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("Orders that are planned first") struct PlanTests {
        @Test func aPlanChangesNothingAndItsTokenDoesExactlyThat() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            let operators = Operator(cluster: cluster)
            let client = try cluster.makeClient()
            defer { client.close() }
            try await Wait.until("all groups are born") {
                let map = try await client.clusterMap()
                return map.shards.count == 2 && map.groups.allSatisfy(\.isBorn)
            }
            let node = cluster.addresses[2].description
            let version = try await operators.mapVersion()
            let orders = [
                ["shard", "split", "b"], ["shard", "move", "1", "--to", "g2"], ["group", "remove-peer", "g1", node],
                ["controller", "remove-peer", node],
                ["group", "create", "g3", "--peers", cluster.addresses[0].description],
            ]
            var tokens: [String] = []
            for order in orders {
                let plan = try await operators.plan(order)
                #expect(
                    plan.output.contains("plan: ") && plan.output.contains("nothing has been done"), "\(plan.output)")
                tokens.append(plan.token)
            }
            #expect(Set(tokens).count == orders.count)
            #expect(try await operators.mapVersion() == version)
            #expect(try await operators.isAtRest())
            let refused = try await operators.attempt("shard", "move", "1", "--to", "g1", "--plan")
            #expect(refused.status == 1 && refused.output.contains("shard 1 is at g1 already"), "\(refused.output)")

            try await Self.expectRefusal(of: orders[0], tokens[1], "that of another command", operators)
            try await Self.expectRefusal(of: orders[0], String(tokens[0].dropLast()), "is no token", operators)
            #expect(try await operators.mapVersion() == version)
            #expect(try await operators.isAtRest())
            // the world moves with the first one
            try await operators.order(words: orders[2] + ["--token", tokens[2]])
            #expect(try await operators.order("group", "show", "g1").contains(node) == false)
            for (order, token) in zip(orders, tokens) where order != orders[2] {
                try await Self.expectRefusal(of: order, token, "plan it again with --plan", operators)
            }
            try await operators.order(words: orders[1] + ["--token", try await operators.plan(orders[1]).token])
            #expect(try await operators.group(of: 1) == "g2")
            let first = try await operators.order("rebalance", "--once", "--plan")
            #expect(first.contains("nothing has been done") && !first.contains("--token"), "\(first)")
            let json = try await operators.order("-o", "json", "group", "add-peer", "g1", node, "--plan")
            for words in [#""token":""#, #""quorums":[{"#, #""stage":"before","voters":2,"needed":2"#] {
                #expect(json.contains(words), "\(json)")
            }
        }

        private static func expectRefusal(
            of order: [String], _ token: String, _ words: String, _ operators: Operator
        ) async throws {
            let outcome = try await Tools.run(Tools.raftctl, operators.seeds + order + ["--token", token])
            #expect(outcome.status == 1 && outcome.output.contains(words), "\(order): \(outcome.output)")
        }
    }
}

extension Operator {
    /// A plan as it is printed, and its token.
    fileprivate func plan(_ words: [String]) async throws -> (output: String, token: String) {
        let output = try await order(words: words + ["--plan"])
        return (output, output.split(separator: " ").last.map { String($0.filter { $0 != "\n" }) } ?? "")
    }

    /// Whether no operation is under way.
    fileprivate func isAtRest() async throws -> Bool {
        try await order("operation", "list").split(separator: "\n").count == 1
    }
}

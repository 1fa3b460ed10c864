import ClusterProcesses
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    /// Each refusal says why, and what can be done; nothing has changed afterwards.
    @Suite("Operations that are refused") struct RefusedOperationTests {
        @Test func eachNamesTheReasonAndTheWayOut() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 3, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            let nodes = cluster.addresses.map(\.description)
            let all = nodes.joined(separator: ",")
            try await Wait.until("all groups are born") {
                let map = try await client.clusterMap()
                return map.shards.count == 3 && map.groups.allSatisfy(\.isBorn)
            }
            let operators = Operator(cluster: cluster)
            let version = try await operators.mapVersion()
            let boundary = try await client.clusterMap().shards[1].range.start.text
            let refusals: [(order: [String], says: [String])] = [
                (["shard", "move", "1", "--to", "g9"], ["there is no group g9", "raftctl group list"]),
                (["shard", "move", "99", "--to", "g1"], ["there is no shard 99", "raftctl shard list"]),
                (["shard", "move", "1", "--to", "g1"], ["shard 1 is at g1 already", "name another group"]),
                (["shard", "move", "1", "--to", "controller"], ["holds no shards", "name a data group"]),
                (["shard", "split", boundary], ["does not cut shard 2", "name a key behind its first one"]),
                (["shard", "merge", "1", "3"], ["shard 3 does not follow shard 1", "its right neighbour is shard 2"]),
                (["shard", "merge", "2", "2"], ["shard 2 does not follow shard 2", "its right neighbour is shard 3"]),
                (["shard", "merge", "1", "2"], ["shard 1 is at g1", "raftctl shard move 2 --to g1"]),
                (["group", "delete", "g1"], ["group g1 owns shard 1", "raftctl shard move 1 --to GROUP"]),
                (["group", "delete", "controller"], ["cannot be deleted"]),
                (["group", "create", "g1", "--peers", all], ["there is a group g1 already", "choose another name"]),
                (["group", "create", "a b", "--peers", all], ["letters, digits, - and _"]),
                (["group", "create", "g9", "--peers", "127.0.0.1:9"], ["there is no node", "start raftd there"]),
                (["group", "create", "g9", "--peers", "\(nodes[0]),\(nodes[0])"], ["is named twice"]),
                (["group", "add-peer", "g1", nodes[0]], ["is a member already"]),
                (["group", "remove-peer", "g1", "127.0.0.1:9"], ["is no member"]),
                (["group", "remove-peer", "g1", all], ["at least one voting member"]),
                (["group", "change-peers", "g1", all], ["has these members already"]),
                (["group", "change-peers", "g9", all], ["there is no group 'g9'", "raftctl group list"]),
                (["group", "transfer-leader", "g1", "127.0.0.1:9"], ["no voter", "its members are"]),
                (["controller", "remove-peer", all], ["at least one voting member"]),
                (["node", "drain", nodes[0]], ["2 nodes would be left", "start another node"]),
                (["node", "drain", "99"], ["there is no node '99'", "raftctl node list"]),
                (["node", "remove", nodes[0]], ["has replicas of controller, g1, g2, g3", "raftctl node drain"]),
                (["operation", "show", "99"], ["there is no operation 99", "raftctl operation list --all"]),
                (["operation", "wait", "99"], ["there is no operation 99", "raftctl operation list --all"]),
                (["operation", "cancel", "99"], ["there is no operation 99", "raftctl operation list --all"]),
            ]
            for (order, says) in refusals { try await Self.expectRefusal(of: order, says, operators) }
            #expect(try await operators.mapVersion() == version)
            try await Self.refuseWhatIsInAnOperation(operators)
        }

        /// While a group waits for a member that is not there, nothing else may be done to its members; that it waits can
        /// be taken back.
        private static func refuseWhatIsInAnOperation(_ operators: Operator) async throws {
            let cluster = operators.cluster
            let dead = cluster.addresses[2].description
            try await operators.order("group", "remove-peer", "g1", dead)
            try await cluster.kill(2)
            let operation = try await operators.begin("group", "add-peer", "g1", dead)
            let version = try await operators.mapVersion()
            let way = "raftctl operation wait \(operation)"
            try await expectRefusal(
                of: ["group", "remove-peer", "g1", cluster.addresses[1].description],
                ["group g1 is in operation \(operation)", way], operators)
            #expect(try await operators.mapVersion() == version)
            // the member does not come, and nobody waits for it any longer
            try await operators.order("operation", "cancel", operation)
            #expect(try await operators.order("group", "show", "g1").contains(dead) == false)
            try await expectRefusal(
                of: ["operation", "cancel", operation], ["operation \(operation)", "is cancelled"], operators)
            try cluster.start(2)
            try await operators.order("group", "add-peer", "g1", dead)
            #expect(try await operators.order("group", "show", "g1").contains(dead))
        }

        private static func expectRefusal(of order: [String], _ says: [String], _ operators: Operator) async throws {
            let outcome = try await Tools.run(Tools.raftctl, operators.seeds + order)
            let name = order.joined(separator: " ")
            #expect(outcome.status == 1, "\(name): \(outcome.output)")
            #expect(outcome.output.split(separator: "\n").count == 1, "\(name): \(outcome.output)")
            // once: what is said in detail stands for itself
            #expect(outcome.output.split(separator: says[0]).count <= 2, "\(name): \(outcome.output)")
            for words in says { #expect(outcome.output.contains(words), "\(name): \(outcome.output)") }
        }
    }
}

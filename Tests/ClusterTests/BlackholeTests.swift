import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing
import Transport

extension Clusters {
    @Suite("Ways between nodes that are blocked") struct BlackholeTests {
        /// In the first and in the last place of every shard: written, and gone again.
        private static func write(toEveryGroupOf map: ClusterMap, through client: Client) async throws {
            for shard in map.shards {
                let key = Bytes((shard.range.start.isEmpty ? [0x20] : shard.range.start.array) + Array("passing".utf8))
                try await client.put(key, Bytes("by"))
                #expect(try await client.delete(key))
            }
        }

        @Test(arguments: BlockedWay.allCases)
        func aLeaderThatIsCutOffOneWayIsReplaced(way: BlockedWay) async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, groups: 3, replicas: 3,
                flags: ["--test-faults", "--liveness-promise-ms", "500"])
            let clients = try (0..<2).map { _ in try cluster.makeClient() }
            defer { for client in clients { client.close() } }
            let map = try await clients[0].clusterMap()
            let load = Load()
            try await load.run(through: clients) {
                try await cluster.probe.wait(for: "a hundred writes") { load.acknowledged > 100 }
                let victim = try #require(await cluster.probe.leader(of: "g1"))
                let address = cluster.addresses[victim]
                try await cluster.block(way, of: victim)
                // each group has another leader, and the one that is cut off is not asked who that is
                try await cluster.probe.wait(for: "leaders elsewhere", timeout: .seconds(15)) {
                    let leaders = await cluster.probe.leaders()
                    return (["controller"] + map.groups.map(\.id)).allSatisfy { group in
                        leaders[group].map { $0 != address } ?? false
                    }
                }
                let before = load.acknowledged
                try await Self.write(toEveryGroupOf: map, through: clients[0])
                try await cluster.probe.wait(for: "a hundred writes more") { load.acknowledged > before + 100 }
                try await cluster.unblock()
                try await cluster.probe.waitUntilLed()
                let after = load.acknowledged
                try await cluster.probe.wait(for: "a hundred writes afterwards") { load.acknowledged > after + 100 }
            }
            try await load.check(through: clients[0])
            // what was held back for so long has made no difference between the replicas
            try await Operator(cluster: cluster).verifyEveryGroup(map)
        }

        @Test func bothWaysOfOnePairAreNothingToTheThird() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, groups: 3, replicas: 3,
                flags: ["--test-faults", "--liveness-promise-ms", "500"])
            let client = try cluster.makeClient()
            defer { client.close() }
            let map = try await client.clusterMap()
            for (node, other) in [(0, 1), (1, 0)] {
                try await cluster.probe.set(
                    LinkFaults(outgoing: .held, incoming: .held), at: cluster.addresses[node],
                    of: cluster.addresses[other])
            }
            try await cluster.probe.wait(for: "both notice") {
                let answers = [(0, 1), (1, 0)].map { node, other in
                    let why = try? HttpCall.post("/ClusterService/status", "", to: cluster.addresses[node])
                    return why.map { $0.body.contains("\"unheard\":[\"\(cluster.addresses[other])\"]") } ?? false
                }
                return answers.allSatisfy { $0 }
            }
            try await cluster.probe.waitUntilLed()
            for _ in 0..<10 { try await Self.write(toEveryGroupOf: map, through: client) }
            try await cluster.unblock()
            try await cluster.probe.wait(for: "each hears the other") {
                cluster.addresses.allSatisfy { node in
                    let status = try? HttpCall.post("/ClusterService/status", "", to: node)
                    return status.map { $0.status == 200 && !$0.body.contains("\"unheard\":[\"") } ?? false
                }
            }
            try await Self.write(toEveryGroupOf: map, through: client)
            try await Operator(cluster: cluster).verifyEveryGroup(map)
        }

        @Test func aDelayIsWhatAWriteTakesLonger() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, groups: 1, replicas: 3,
                flags: ["--test-faults", "--liveness-promise-ms", "10000"])
            let client = try cluster.makeClient()
            defer { client.close() }
            func takesLonger() async throws -> Bool {
                let start = ContinuousClock.now
                try await client.put(Bytes("k"), Bytes("v"))
                return ContinuousClock.now - start >= .milliseconds(400)
            }
            try await Wait.until("a quick write") { try await !takesLonger() }
            let leader = try #require(await cluster.probe.leader(of: "g1"))
            for other in cluster.addresses where other != cluster.addresses[leader] {
                try await cluster.probe.set(
                    LinkFaults(outgoing: .delayed(.milliseconds(400))), at: cluster.addresses[leader], of: other)
            }
            for _ in 0..<3 { #expect(try await takesLonger()) }
            #expect(await cluster.probe.leader(of: "g1") == leader)
            try await cluster.unblock()
            try await Wait.until("a quick write again") { try await !takesLonger() }
        }

        @Test func ordersAreCheckedAndShown() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 1, groups: 1, replicas: 1, flags: ["--test-faults"])
            let node = cluster.addresses[0]
            for order in [
                "", "{}", "{\"node\":\"elsewhere\",\"hold_to\":true}", "{\"node\":\"\(node)\",\"hold_to\":true}",
                "{\"node\":\"127.0.0.1:1\",\"hold_to\":true,\"delay_to_ms\":5}",
                "{\"node\":\"127.0.0.1:1\",\"delay_from_ms\":600001}",
            ] {
                let answer = try HttpCall.post("/FaultService/set", order, to: node)
                #expect(answer.status == 400, "\(order): \(answer)")
            }
            let order = "{\"node\":\"127.0.0.1:1\",\"hold_to\":true,\"delay_from_ms\":5}"
            let set = try HttpCall.post("/flotilla.FaultService/set", order, to: node)
            let listed = try HttpCall.post("/FaultService/list", "", to: node)
            #expect(set.status == 200 && set.body == listed.body)
            for part in ["\"node\":\"127.0.0.1:1\"", "\"hold_to\":true", "\"delay_from_ms\":5", "\"waiting_bytes\":"] {
                #expect(listed.body.contains(part), "\(listed)")
            }
            #expect(!listed.body.contains("hold_from") && !listed.body.contains("delay_to_ms"))
            #expect(try HttpCall.post("/FaultService/set", "{\"node\":\"127.0.0.1:1\"}", to: node).status == 200)
            #expect(try !HttpCall.post("/FaultService/list", "", to: node).body.contains("127.0.0.1:1"))
        }

        @Test func withoutTheFlagNobodyTakesOrders() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 1, groups: 1, replicas: 1)
            let node = cluster.addresses[0]
            for method in ["set", "list"] {
                let answer = try HttpCall.post("/FaultService/\(method)", "{\"node\":\"127.0.0.1:1\"}", to: node)
                #expect(answer.status == 404, "\(answer)")
            }
            await #expect(throws: TestClusterError.self) {
                try await cluster.probe.set(
                    LinkFaults(outgoing: .held), at: node, of: NodeAddress(ip: 127 << 24 | 1, port: 1))
            }
            #expect(try !HttpCall.get("/list", from: node).body.contains("FaultService"))
        }

        @Test func whoIsReachedFromElsewhereTakesNoOrders() async throws {
            let directory = TemporaryDirectory()
            let port = LoopbackPorts.take(1)[0].port
            for addresses in [
                ["--listen", "0.0.0.0:\(port)", "--advertise", "127.0.0.1:\(port)"],
                ["--listen", "127.0.0.1:\(port)", "--advertise", "10.0.0.1:\(port)"],
            ] {
                let outcome = try await Tools.run(
                    Tools.raftd, addresses + ["--data-dir", directory.path + "/data", "--test-faults"])
                #expect(outcome.status == 2 && outcome.output.contains("--test-faults"), "\(outcome)")
            }
        }
    }
}

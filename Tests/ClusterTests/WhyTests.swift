import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("Whoever asks why") struct WhyTests {
        @Test func hearsWhatIsWrongAndWhatToDo() async throws {
            let cluster = try await ProcessCluster(
                Tools.raftd, nodes: 3, groups: 2, replicas: 3, flags: ["--snapshot-rate", "\(2 << 20)"])
            let operators = Operator(cluster: cluster)
            let client = try cluster.makeClient()
            defer { client.close() }
            for number in 0..<100 {
                try await client.put(Bytes("~\(number)"), Bytes([UInt8](repeating: 65, count: 64 << 10)))
            }
            let shard = try #require(try await client.clusterMap().shard(owning: Bytes("~")))
            try await Self.expectWell(
                ["~1"], ["shard \(shard.id)", "group \(shard.group)", "leader", "read"], operators)
            try await Self.expectWell(["key", "g1"], ["is in shard"], operators)
            try await Self.expectWell(["\(shard.id)"], ["at group \(shard.group)"], operators)
            try await Self.expectWell(["group", "controller"], ["members"], operators)

            let destination = shard.group == "g1" ? "g2" : "g1"
            let move = try await operators.begin("shard", "move", "\(shard.id)", "--to", destination)
            try await Self.expectWell(
                ["shard", "\(shard.id)"], ["BUSY", "operation \(move)", "move shard"], operators)
            try await operators.order("operation", "wait", move)

            try await cluster.kill(2)
            let dead = cluster.addresses[2].description
            try await Self.expectTrouble("g1", ["its node does not run", "start raftd at \(dead)"], operators)
            try await Self.expectTrouble("~1", ["its node does not run"], operators)
            try cluster.start(2)
            try await Self.expectWell(["g1"], ["leader"], operators)

            cluster.suspend(2)
            try await Self.expectTrouble("g1", ["does not answer", "Else restart it"], operators)
            cluster.resume(2)
            try await Self.expectWell(["g1"], ["leader"], operators)

            try await cluster.kill(1, 2)
            try await Self.expectTrouble(
                "g1", ["nobody leads: 1 of 3 voters are there, and 2 are needed", "group reset-peer g1"], operators)
            try await Self.expectTrouble("controller", ["controller reset-peer"], operators)
            try await cluster.kill(0)
            #expect(try await operators.attempt("why", "g1").status == 3)
        }

        /// What goes on may take a moment to be well again.
        private static func expectWell(_ what: [String], _ words: [String], _ operators: Operator) async throws {
            var last = Tools.Outcome(status: 0, output: "")
            do {
                try await Wait.until("all is well with \(what)") {
                    last = try await Tools.run(Tools.raftctl, operators.seeds + ["why"] + what)
                    return last.status == 0
                }
            } catch {
                throw Failed("\(error): \(last.output)")
            }
            for word in words { #expect(last.output.contains(word), "\(what): \(last.output)") }
        }

        private static func expectTrouble(_ what: String, _ words: [String], _ operators: Operator) async throws {
            var last = Tools.Outcome(status: 0, output: "")
            do {
                try await Wait.until("it is known what is wrong with \(what)") {
                    last = try await operators.attempt("why", what)
                    return last.status == 1 && words.allSatisfy(last.output.contains)
                }
            } catch {
                throw Failed("\(error): \(last.output)")
            }
            let json = try await operators.attempt("-o", "json", "why", what)
            #expect(json.status == 1 && json.output.contains(#""well":false"#), "\(json.output)")
        }
    }
}

import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

/// All tests that start nodes, one after the other: each of them keeps the machine busy alone.
@Suite("Clusters", .serialized, .timeLimit(.minutes(2))) enum Clusters {}

extension Clusters {
    @Suite("A cluster and its faults") struct FaultTests {
        /// Keys all over the printable first bytes, so that every group gets some.
        private static let keys = (0x21...0x7e).map { Bytes([UInt8($0)] + Array("-key".utf8)) }

        private static func store(_ tag: String, through client: Client) async throws {
            for result in try await client.execute(keys.map { KeyOperation(.set, key: $0, value: Bytes(tag)) }) {
                try #require(result.error == nil, "\(result)")
            }
        }

        private static func expect(_ tag: String, through client: Client) async throws {
            let results = try await client.execute(keys.map { KeyOperation(.get, key: $0) })
            #expect(results.allSatisfy { $0.value == Bytes(tag) }, "\(results.compactMap { $0.error })")
        }

        @Test func everyNodeServesEveryGroup() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 4, replicas: 3)
            defer { cluster.close() }
            #expect(await cluster.probe.groups() == ["controller", "g1", "g2", "g3", "g4"])
            let clients = try cluster.addresses.map { try Client(seeds: [$0]) }
            defer { for client in clients { client.close() } }

            try await Self.store("1", through: clients[0])
            for client in clients { try await Self.expect("1", through: client) }
            #expect(try await clients[1].count() == Int64(Self.keys.count))

            #expect(try await clients[1].delete(Self.keys[0]))
            #expect(try await clients[2].delete(Self.keys[0]) == false)
            #expect(try await clients[0].get(Self.keys[0]) == nil)

            var scanned: [Bytes] = []
            var start = Bytes()
            while true {
                let page = try await clients[2].scan(from: start, limit: 10)
                scanned += page.pairs.map(\.key)
                guard let next = page.next else { break }
                start = next
            }
            #expect(scanned == Array(Self.keys.dropFirst()))
        }

        @Test func aKilledNodeIsNotMissedAndCatchesUp() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 4, replicas: 3)
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            try await Self.store("before", through: client)
            for node in 0..<3 {
                cluster.kill(node)
                try await Self.store("without \(node)", through: client)
                try await Self.expect("without \(node)", through: client)
                try cluster.restart(node)
                try await cluster.waitUntilCaughtUp()
                let status = try #require(await cluster.probe.status(of: cluster.addresses[node]))
                #expect(status.runNumber == 2 && status.state == "serving")
            }
            try await cluster.waitUntilLed()
            try await Self.expect("without 2", through: client)
        }

        @Test func allNodesKilledRememberEverything() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3)
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            for round in 0..<2 {
                try await Self.store("\(round)", through: client)
                for node in 0..<3 { cluster.kill(node) }
                for node in 0..<3 { try cluster.restart(node) }
                try await cluster.waitUntilLed()
                try await Self.expect("\(round)", through: client)
            }
        }

        @Test func aLeaderCutOffIsReplaced() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3)
            defer { cluster.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            let key = Bytes("k")
            try await client.put(key, Bytes("old"))
            let leader = try #require(await cluster.leader(of: "g1"))
            cluster.isolate(leader)
            try await cluster.probe.wait(for: "another leader") {
                guard let other = await cluster.leader(of: "g1") else { return false }
                return other != leader
            }
            try await client.put(key, Bytes("new"))
            // whoever asks the old leader first gets the new value all the same, or nothing
            let stale = try Client(seeds: [cluster.addresses[leader]])
            defer { stale.close() }
            #expect(try await stale.get(key) == Bytes("new"))
            cluster.heal()
            try await cluster.waitUntilCaughtUp()
            #expect(try await client.get(key) == Bytes("new"))
        }

        @Test func aMinorityServesNobody() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3)
            defer { cluster.close() }
            var settings = Client.Settings()
            settings.timeout = .milliseconds(4000)
            let client = try cluster.makeClient(settings)
            defer { client.close() }
            try await client.put(Bytes("k"), Bytes("v"))
            for node in 0..<2 { cluster.kill(node) }
            // a leader may serve reads under its lease until the promises of the dead are over
            try await cluster.probe.wait(for: "the end of the last lease") {
                do throws(ClientError) { _ = try await client.get(Bytes("k")) } catch { return true }
                return false
            }
            await #expect(throws: ClientError.self) { try await client.get(Bytes("k")) }
            for node in 0..<2 { try cluster.restart(node) }
            try await cluster.waitUntilLed()
            #expect(try await client.get(Bytes("k")) == Bytes("v"))
        }
    }
}

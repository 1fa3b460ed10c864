import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("The Redis protocol, by its own tools") struct RedisTests {
        private static let benchmark = Tools.installed("redis-benchmark")
        private static let python = Tools.installed("python3")

        /// Whether Debian's python3 finds redis-py.
        private static func hasRedisPy() async throws -> Bool {
            guard let python else { return false }
            return try await Tools.run(python, ["-c", "import redis"]).status == 0
        }

        @Test(.enabled("redis-py is not installed: apt-get install python3-redis") { try await hasRedisPy() })
        func everyCommandThroughRedisPy() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 4, replicas: 3)
            let script = Tools.sources + "/Scripts/redis_face.py"
            let ports = cluster.addresses.map { "\($0.port)" }
            let outcome = try await Tools.run(try #require(Self.python), [script, "127.0.0.1", ports[0], ports[1]])
            #expect(outcome.status == 0 && outcome.output.hasSuffix("redis-py: done\n"), "\(outcome.output)")
        }

        @Test(.enabled("redis-benchmark is not installed: apt-get install redis-tools") { benchmark != nil })
        func redisBenchmarkFindsNoError() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 4, replicas: 3)
            let tool = try #require(Self.benchmark)
            for depth in ["1", "16"] {
                let outcome = try await Tools.run(
                    tool,
                    [
                        "-p", "\(cluster.addresses[0].port)", "-t", "set,get", "-n", "20000", "-c", "64", "-d", "128",
                        "-r", "10000", "-P", depth, "--csv",
                    ], timeout: .seconds(90))
                #expect(outcome.status == 0, "\(outcome.output)")
                #expect(!outcome.output.lowercased().contains("error"), "\(outcome.output)")
                #expect(outcome.output.contains("\"SET\"") && outcome.output.contains("\"GET\""), "\(outcome.output)")
            }
            for node in 0..<3 { #expect(cluster.runs(node)) }
        }

        @Test func answersLargerThanAnyReply() async throws {
            let cluster = try await TestCluster(nodes: 1, groups: 1, replicas: 1)
            defer { cluster.close() }
            let connection = try RawConnection(to: cluster.addresses[0])
            let keys = (0..<5).map { "key\($0)" }
            let value = String(repeating: "x", count: 7_000_000)
            for key in keys { #expect(try connection.redis("SET", key, value) == "+OK") }
            // 35 MB, of which one reply of a group holds 16 MiB and a value
            let client = try cluster.makeClient()
            defer { client.close() }
            let results = try await client.execute(keys.map { KeyOperation(.get, key: Bytes($0)) })
            #expect(results.map(\.error) == [NamedError?](repeating: nil, count: 5))
            #expect(results.allSatisfy { $0.value?.count == value.utf8.count })
            let old = try await client.execute(
                keys.map { KeyOperation(.set, key: Bytes($0), value: Bytes("y"), returnsOldValue: true) })
            #expect(old.allSatisfy { $0.value?.count == value.utf8.count })
            #expect(try connection.redis("GET", keys[4]) == "y")
        }

        @Test func keysExpireAcrossLeaders() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3)
            defer { cluster.close() }
            let leader = try #require(await cluster.leader(of: "g1"))
            let survivors = (0..<3).filter { $0 != leader }
            #expect(try RawConnection(to: cluster.addresses[leader]).redis("SET", "long", "v", "PX", "60000") == "+OK")
            #expect(try RawConnection(to: cluster.addresses[leader]).redis("SET", "short", "v", "PX", "4000") == "+OK")
            cluster.kill(leader)
            let connections = try survivors.map { try RawConnection(to: cluster.addresses[$0]) }
            for connection in connections {
                let left = try connection.redis("PTTL", "long")
                #expect(Int(left.dropFirst()).map { (40_000...60_000).contains($0) } == true, "\(left)")
            }
            try await Wait.until("the key has expired") { try connections[0].redis("GET", "short") == "$-1" }
            // gone for one, gone for all
            #expect(try connections[1].redis("EXISTS", "short") == ":0")
            try cluster.restart(leader)
            #expect(try RawConnection(to: cluster.addresses[leader]).redis("GET", "short") == "$-1")
            #expect(try connections[1].redis("GET", "long") == "v")
        }
    }
}

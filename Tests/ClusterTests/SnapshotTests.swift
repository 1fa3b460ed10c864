import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("Logs that are compacted, and nodes that fall behind them") struct SnapshotTests {
        /// 32 MiB of log in segments of 4 MiB, and snapshots slow enough to be interrupted.
        private static let flags = ["--log-space", "\(32 << 20)", "--snapshot-rate", "\(2 << 20)"]

        /// Bytes that do not compress, told from `seed`.
        private static func noise(_ seed: Int) -> Bytes {
            var random = SeededRandom(seed: UInt64(seed))
            var bytes: [UInt8] = []
            for _ in 0..<512 {
                let word = random.next()
                for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: word >> UInt64(8 * shift))) }
            }
            return Bytes(bytes)
        }

        private static func key(_ number: Int) -> Bytes { Bytes("key\(number % 2000)") }

        /// Writes `numbers`, 64 at a time.
        private static func write(_ numbers: Range<Int>, through client: Client) async throws {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for writer in 0..<64 {
                    group.addTask {
                        for number in stride(from: numbers.lowerBound + writer, to: numbers.upperBound, by: 64) {
                            try await client.put(key(number), noise(number))
                        }
                    }
                }
                try await group.waitForAll()
            }
        }

        private func waitForLine(_ text: String, _ count: Int, of node: Int, _ cluster: ProcessCluster) async throws {
            try await cluster.probe.wait(for: "\(text) on node \(node)", timeout: .seconds(60)) {
                ((try? cluster.log(of: node)) ?? "").split(separator: "\n").count { $0.contains(text) } >= count
            }
        }

        private func waitUntilEqual(_ cluster: ProcessCluster) async throws {
            try await cluster.probe.wait(for: "all replicas to have applied the same", timeout: .seconds(60)) {
                var applied: [Set<LogIndex>] = [[], [], []]
                for address in cluster.addresses {
                    guard let status = await cluster.probe.status(of: address) else { return false }
                    for (position, group) in ["controller", "g1", "g2"].enumerated() {
                        guard let replica = status.replica(of: group), replica.problem == nil else { return false }
                        applied[position].insert(replica.appliedIndex)
                    }
                }
                return applied.allSatisfy { $0.count == 1 }
            }
        }

        @Test func aNodeFarBehindIsCaughtUpUnderLoadWhoeverIsKilledMeanwhile() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3, flags: Self.flags)
            let client = try cluster.makeClient()
            defer { client.close() }
            let late = 2
            try await cluster.kill(late)
            try await cluster.probe.waitUntilLed()
            // 48 MB, more than the log may ever hold; 8 MB of state
            try await Self.write(0..<12_000, through: client)
            for node in 0..<2 {
                let bytes = try cluster.segments(of: node).reduce(0) { try $0 + Files.read($1).count }
                #expect(bytes <= 32 << 20, "\(bytes) bytes of log on node \(node)")
            }

            try cluster.start(late)
            try await waitForLine("snapshot wanted", 1, of: late, cluster)
            try await Task.sleep(for: .milliseconds(500))
            try await cluster.kill(late)
            try cluster.start(late)
            try await waitForLine("snapshot wanted", 3, of: late, cluster)
            // whoever sends: one of the two
            try await cluster.kill(0)
            try cluster.start(0)
            try await cluster.probe.waitUntilLed()
            try await Self.write(12_000..<14_000, through: client)
            try await waitUntilEqual(cluster)
            #expect(try cluster.log(of: late).contains("snapshot installed"))
            #expect(try Files.list(cluster.dataDirectory(late) + "/snapshots").isEmpty)

            // it holds what the others hold: without one of them it is needed for everything
            try await cluster.kill(0)
            try await cluster.probe.waitUntilLed()
            for number in stride(from: 12_000, to: 14_000, by: 37) {
                #expect(try await client.get(Self.key(number)) == Self.noise(number))
            }
            try await Self.write(14_000..<14_100, through: client)
        }
    }
}

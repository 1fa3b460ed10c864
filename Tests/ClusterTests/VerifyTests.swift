import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import RocksEngine
import ShardClient
import ShardKV
import Testing

extension Clusters {
    @Suite("Replicas that hold something else") struct VerifyTests {
        /// Some keys of `g1`.
        private static func fill(_ client: Client) async throws {
            for number in 0..<600 { try await client.put(Bytes("key\(number)"), Bytes("value of \(number)")) }
        }

        /// Changes the last byte of the value whose key ends with `key` in a store that nobody has open.
        private static func corrupt(_ store: String, key: Bytes) throws {
            let engine = try RocksEngine(directory: store)
            defer { engine.close() }
            var found: (key: Bytes, value: Bytes)?
            try engine.scan(from: Bytes([0]), to: Bytes([UInt8](repeating: 0xff, count: 16))) { candidate, value in
                if candidate.count >= key.count, candidate.suffix(from: candidate.count - key.count) == key {
                    found = (candidate, value)
                }
                return found == nil
            }
            let (place, value) = try #require(found)
            var bytes = value.withUnsafeBytes { Array($0) }
            bytes[bytes.count - 1] ^= 1
            try engine.write([.put(place, Bytes(bytes))])
            try engine.flush()
        }

        private static func verify(_ cluster: ProcessCluster, _ options: [String] = []) async throws -> Tools.Outcome {
            let nodes = cluster.addresses.map(\.description).joined(separator: ",")
            return try await Tools.run(Tools.raftctl, ["--cluster", nodes] + options + ["group", "verify", "g1"])
        }

        @Test func aKeyThatADiskChangedIsNamedAndItsReplicaGetsAnotherState() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            try await Self.fill(client)
            let before = try await Self.verify(cluster)
            #expect(before.status == 0, "\(before.output)")

            let victim = 1
            // in order, so that everything is in the store
            _ = try await cluster.terminate(victim)
            try Self.corrupt(cluster.dataDirectory(victim) + "/store", key: Bytes("key77"))
            let absent = try await Self.verify(cluster)
            #expect(absent.status == 1 && absent.output.contains("its node does not answer"), "\(absent.output)")

            try cluster.start(victim)
            try await cluster.probe.waitUntilLed()
            let address = cluster.addresses[victim]
            try await cluster.probe.wait(for: "the victim to follow") {
                guard let status = await cluster.probe.status(of: address)?.replica(of: "g1") else { return false }
                return status.leader != nil && status.appliedIndex >= status.commitIndex
            }
            var found = absent
            // the leader's way to a node that has just come back opens in its time
            try await cluster.probe.wait(for: "an answer of the victim") {
                guard let outcome = try? await Self.verify(cluster) else { return false }
                found = outcome
                return !outcome.output.contains("its node does not answer")
            }
            #expect(found.status == 1, "\(found.output)")
            let row = try #require(
                found.output.split(separator: "\n").first { $0.hasPrefix("\(address)") }, "\(found.output)")
            #expect(row.contains("differs") && row.contains("key77") && row.hasSuffix("yes"), "\(found.output)")
            // it is out of service, with the reason in its log, until the leader has given it another state
            try await cluster.probe.wait(for: "the victim to be healed") {
                guard let log = try? cluster.log(of: victim), log.contains("the state differs from the others'"),
                    log.contains("snapshot installed"),
                    let status = await cluster.probe.status(of: address)?.replica(of: "g1")
                else { return false }
                return status.problem == nil && status.appliedIndex >= status.commitIndex
            }
            let line = try cluster.log(of: victim).split(separator: "\n").first { $0.contains("the state differs") }
            #expect(line?.contains("key77") == true, "\(line ?? "")")
            try await client.put(Bytes("key78"), Bytes("after"))
            let healed = try await Self.verify(cluster, ["-o", "json"])
            #expect(healed.status == 0 && healed.output.contains("\"equal\":true"), "\(healed.output)")
        }

        @Test func statesAreComparedWhileTheyChange() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            let isOver = Flag()
            let load = Task {
                var number = 0
                while !isOver.isSet {
                    try await client.put(Bytes("load\(number % 100)"), Bytes("\(number)"))
                    number += 1
                }
                return number
            }
            for _ in 0..<5 {
                let outcome = try await Self.verify(cluster)
                #expect(outcome.status == 0, "\(outcome.output)")
            }
            isOver.set()
            #expect(try await load.value > 0)
        }
    }
}

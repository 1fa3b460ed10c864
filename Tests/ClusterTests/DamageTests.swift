import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("A log that was hurt") struct DamageTests {
        /// A value that is found again in a file of the log.
        private static let marker = "a value that nobody else would write"
        /// One on each of two groups.
        private static let keys = [Bytes("!k"), Bytes("~k")]

        /// The file and the offset at which the marker stands in a log.
        private static func findMarker(in segments: [String]) throws -> (file: String, offset: Int)? {
            let bytes = Array(marker.utf8)
            for file in segments {
                let content = try Files.read(file)
                let place = content.withUnsafeBufferPointer { content in
                    (0..<max(0, content.count - bytes.count)).first { offset in
                        content[offset] == bytes[0] && content[offset..<offset + bytes.count].elementsEqual(bytes)
                    }
                }
                if let place { return (file, place) }
            }
            return nil
        }

        @Test func aFlippedBitCostsItsGroupAndNothingElse() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            for key in Self.keys { try await client.put(key, Bytes("before")) }
            try await client.put(Self.keys[0], Bytes(Self.marker))
            // what stands behind it proves that it was whole once
            for key in Self.keys { for value in 0..<5 { try await client.put(key, Bytes("\(value)")) } }
            let map = try await client.clusterMap()
            let group = try #require(map.shard(owning: Self.keys[0])?.group)
            let other = try #require(map.shard(owning: Self.keys[1])?.group)
            let victim = 1
            try await Task.sleep(for: .milliseconds(500))
            try await cluster.kill(victim)

            let found = try #require(try Self.findMarker(in: cluster.segments(of: victim)))
            try Files.overwrite(found.file, at: found.offset, with: [UInt8(ascii: "a") ^ 0x10])
            try cluster.start(victim)
            try await cluster.probe.wait(for: "the victim serves again") {
                await cluster.probe.status(of: cluster.addresses[victim])?.state == "serving"
            }

            let name = try #require(found.file.split(separator: "/").last)
            let log = try cluster.log(of: victim)
            let line = try #require(
                log.split(separator: "\n").first { $0.contains("the log has lost entries") }, "\(log)")
            #expect(line.contains("group=\(group)") && line.contains(name) && line.contains("offset"), "\(line)")

            try await cluster.probe.waitUntilLed()
            let status = try #require(await cluster.probe.status(of: cluster.addresses[victim]))
            for whole in [other, ClusterMap.controllerGroup] {
                #expect(["leader", "follower"].contains(status.replica(of: whole)?.state))
            }
            // its leader sends it again what it lost
            let last = try #require(await cluster.probe.status(of: cluster.addresses[0])?.replica(of: group)?.lastIndex)
            try await cluster.probe.wait(for: "the victim to be healed") {
                let healed = await cluster.probe.status(of: cluster.addresses[victim])?.replica(of: group)
                return (healed?.appliedIndex ?? .zero) >= last && healed?.problem == nil
            }

            // the other members serve the group, whoever is asked
            let through = try Client(seeds: [cluster.addresses[victim]])
            defer { through.close() }
            for key in Self.keys {
                #expect(try await through.get(key) == Bytes("4"))
                try await through.put(key, Bytes("after"))
                #expect(try await client.get(key) == Bytes("after"))
            }
        }

        @Test(arguments: ["MANIFEST-", ".sst", "CURRENT"])
        func aCorruptStoreIsNamedAndRebuiltFromTheLog(file: String) async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 1, groups: 2, replicas: 1)
            let client = try cluster.makeClient()
            defer { client.close() }
            for key in Self.keys { try await client.put(key, Bytes("kept")) }
            // in order, so that everything is flushed
            _ = try await cluster.terminate(0)

            let store = cluster.dataDirectory(0) + "/store"
            let hurt = try #require(try Files.list(store).first { $0.contains(file) })
            try Files.write(Array("no file of RocksDB".utf8), to: "\(store)/\(hurt)")
            let outcome = try await Tools.run(Tools.raftd, cluster.arguments(0))
            #expect(outcome.status == 1)
            let lines = outcome.output.split(separator: "\n").filter { $0.hasPrefix("raftd: ") }
            #expect(lines.count == 1 && lines[0].contains("the store in \(store) is damaged"), "\(outcome.output)")
            #expect(
                lines[0].contains("remove that directory: it is rebuilt from the log, and from the other members"))

            // the way out that it names
            TemporaryDirectory.remove(store)
            try cluster.start(0)
            try await cluster.probe.waitUntilLed()
            for key in Self.keys { #expect(try await client.get(key) == Bytes("kept")) }
        }

        @Test func aBlockThatOnlyReadsMeetCostsLeadershipAndThenTheState() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            var random = SeededRandom(seed: 5)
            // nothing that can be compressed, so that it stands in the file as it is; and in a block of its own
            let values = (0..<30).map { _ in (0..<8192).map { _ in UInt8(truncatingIfNeeded: random.next()) } }
            for (number, value) in values.enumerated() { try await client.put(Bytes("k\(100 + number)"), Bytes(value)) }
            let (key, value) = (Bytes("k115"), values[15])
            let operators = Operator(cluster: cluster)
            let victim = 1
            let address = cluster.addresses[victim]
            // in order, so that everything is flushed
            _ = try await cluster.terminate(victim)
            let store = cluster.dataDirectory(victim) + "/store"
            let tables = try Files.list(store).filter { $0.hasSuffix(".sst") }.map { "\(store)/\($0)" }
            let hurt = try #require(
                try tables.lazy.compactMap { table -> (file: String, offset: Int)? in
                    let content = try Files.read(table)
                    let start = content.indices.dropLast(64).first { content[$0..<$0 + 64].elementsEqual(value[..<64]) }
                    return start.map { (table, $0 + 2000) }
                }.first)
            try Files.overwrite(hurt.file, at: hurt.offset, with: [value[2000] ^ 0x10])
            try cluster.start(victim)

            for round in 1...3 {
                try await cluster.probe.wait(for: "the victim leads, round \(round)") {
                    let replica = await cluster.probe.status(of: address)?.replica(of: "g1")
                    if replica?.state == "leader", replica?.problem == nil { return true }
                    if replica?.state == "follower", replica?.problem == nil {
                        _ = try? await operators.attempt("group", "transfer-leader", "g1", "\(address)")
                    }
                    return false
                }
                // the answer comes within the client's deadline, from whoever can read it
                #expect(try await client.get(key) == Bytes(value))
                let log = try cluster.log(of: victim)
                if round < 3 {
                    #expect(log.ranges(of: "the state could not be read").count == round, "\(log)")
                    #expect(log.contains("block checksum mismatch"))
                }
                if round == 2 {
                    try await cluster.probe.wait(for: "the victim has another state") {
                        (try? cluster.log(of: victim).contains("snapshot installed")) ?? false
                    }
                }
            }
            // the last one was read here
            #expect(try cluster.log(of: victim).ranges(of: "the state could not be read").count == 2)
            #expect(await cluster.probe.status(of: address)?.replica(of: "g1")?.problem == nil)
        }

        @Test func aTornLastRecordIsCut() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            for value in 0..<5 { try await client.put(Self.keys[0], Bytes("\(value)")) }
            let victim = 2
            try await cluster.kill(victim)

            // the last batch of the log loses its second half
            let file = try #require(try cluster.segments(of: victim).last)
            let content = try Files.read(file)
            let magic = Array("FLOTBTCH".utf8)
            let batch = try #require(
                stride(from: content.count / 8 * 8 - 8, through: 0, by: -8).first {
                    content[$0] == magic[0] && content[$0..<$0 + 8].elementsEqual(magic)
                })
            let end = try #require(content.lastIndex { $0 != 0 }) + 1
            let middle = batch + (end - batch) / 2
            try Files.overwrite(file, at: middle, with: [UInt8](repeating: 0, count: end - middle))

            try cluster.start(victim)
            try await cluster.probe.wait(for: "the victim has caught up") {
                let replicas = await cluster.probe.statuses().compactMap { $0.replica(of: "g1") }
                guard replicas.count == 3, let newest = replicas.map(\.commitIndex).max() else { return false }
                return replicas.allSatisfy { $0.appliedIndex >= newest }
            }
            let name = try #require(file.split(separator: "/").last)
            let lines = try cluster.log(of: victim).split(separator: "\n")
            #expect(
                lines.contains {
                    $0.contains("event=tail-cut") && $0.contains(name) && $0.contains("offset=\(batch)")
                }, "\(lines)")
            #expect(try await client.get(Self.keys[0]) == Bytes("4"))
        }
    }
}

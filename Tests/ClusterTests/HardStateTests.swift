import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("A vote that nobody can read any more") struct HardStateTests {
        /// Where a hard state stands in a segment: crc, length, group, term, index 0, kind 1, three zeros.
        private static func hardStates(in content: [UInt8]) -> [Int] {
            let end: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
            return content.indices.dropLast(36).filter { place in
                content[place + 32] == 1 && content[place + 24..<place + 36].elementsEqual(end)
                    && content[place + 5..<place + 8].allSatisfy { $0 == 0 } && content[place + 4] < 64
            }
        }

        @Test func itsReplicaTakesNoPartAndIsShownAndTheOthersServe() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 1, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            try await client.put(Bytes("k"), Bytes("before"))
            // a seal proves what was written last
            try await Task.sleep(for: .milliseconds(500))
            let victim = 1
            try await cluster.kill(victim)
            let file = try #require(try cluster.segments(of: victim).first)
            let content = try Files.read(file)
            let places = Self.hardStates(in: content)
            let last = try #require(places.last)
            let group = content[last + 8..<last + 16]
            for place in places where content[place + 8..<place + 16].elementsEqual(group) {
                try Files.overwrite(file, at: place + 16, with: [content[place + 16] ^ 0x40])
            }

            try cluster.start(victim)
            try await cluster.probe.wait(for: "the victim shows what it has lost") {
                await cluster.probe.status(of: cluster.addresses[victim])?.replicas.contains { $0.state == "damaged" }
                    ?? false
            }
            try await cluster.probe.waitUntilLed()
            let replicas = try #require(await cluster.probe.status(of: cluster.addresses[victim])).replicas
            let hurt = try #require(replicas.first { $0.state == "damaged" }).group
            #expect(replicas.count { $0.state == "damaged" } == 1 && replicas.count == 2)

            let outcome = try await Tools.run(
                Tools.raftctl, ["--cluster", cluster.addresses[0].description, "group", "show", hurt])
            let line = try #require(
                outcome.output.split(separator: "\n").first { $0.contains(cluster.addresses[victim].description) })
            #expect(outcome.status == 0 && line.contains("damaged") && line.contains(" at offset "), "\(line)")

            try await client.put(Bytes("k"), Bytes("after"))
            #expect(try await client.get(Bytes("k")) == Bytes("after"))
        }
    }
}

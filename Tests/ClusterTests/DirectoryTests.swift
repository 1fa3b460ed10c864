import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import ShardClient
import ShardMap
import Testing

extension Clusters {
    @Suite("Disks that are wiped, and disks of other nodes") struct DirectoryTests {
        private static let key = Bytes("k")

        private func hasWritten(_ text: String, through client: Client) async -> Bool {
            do throws(ClientError) { try await client.put(Self.key, Bytes(text)) } catch { return false }
            return true
        }

        @Test func aWipedNodeNeitherVotesNorAcknowledgesAndSaysWhy() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            var settings = Client.Settings()
            settings.timeout = .milliseconds(3000)
            let client = try cluster.makeClient(settings)
            defer { client.close() }
            try await client.put(Self.key, Bytes("before"))
            let wiped = 2
            try await cluster.kill(wiped)
            TemporaryDirectory.remove(cluster.dataDirectory(wiped))
            try cluster.start(wiped)

            let line = "the cluster knows another data directory under this address"
            try await cluster.probe.wait(for: "the wiped node to say why it is not taken in") {
                (try? cluster.log(of: wiped).contains(line)) ?? false
            }
            try await cluster.probe.waitUntilLed()
            try await cluster.probe.wait(for: "the wiped node to answer, without a place in the cluster") {
                guard let status = await cluster.probe.status(of: cluster.addresses[wiped]) else { return false }
                return status.replicas.isEmpty && status.id == 0
            }
            try await cluster.probe.wait(for: "a write by the two others") {
                await hasWritten("by two", through: client)
            }

            // with one of the two gone, it would take the wiped node's vote to go on
            try await cluster.kill(0)
            try await cluster.probe.wait(for: "the end of all leaderships") {
                !(await hasWritten("by one", through: client))
            }
            for _ in 0..<2 { #expect(!(await hasWritten("by one", through: client))) }
            try cluster.start(0)
            try await cluster.probe.waitUntilLed()
            try await cluster.probe.wait(for: "writes again") { await hasWritten("after", through: client) }
            #expect(try await client.get(Self.key) == Bytes("after"))
        }

        @Test func directoriesOfTwoNodesExchangedAreBothRefusedAndWorkWhenTheyAreBack() async throws {
            let cluster = try await ProcessCluster(Tools.raftd, nodes: 3, groups: 2, replicas: 3)
            let client = try cluster.makeClient()
            defer { client.close() }
            try await client.put(Self.key, Bytes("kept"))
            try await cluster.kill(0, 1)
            try exchange(cluster)
            for (node, owner) in [(0, 1), (1, 0)] {
                let outcome = try await Tools.run(Tools.raftd, cluster.arguments(node))
                #expect(outcome.status == 1)
                let lines = outcome.output.split(separator: "\n").filter { $0.hasPrefix("raftd: ") }
                let says = "belongs to the node \(cluster.addresses[owner]), not \(cluster.addresses[node])"
                #expect(lines.count == 1 && lines[0].contains(says), "\(outcome.output)")
            }
            try exchange(cluster)
            for node in [0, 1] { try cluster.start(node) }
            try await cluster.probe.waitUntilLed()
            #expect(try await client.get(Self.key) == Bytes("kept"))
        }

        private func exchange(_ cluster: ProcessCluster) throws {
            let (one, other) = (cluster.dataDirectory(0), cluster.dataDirectory(1))
            for (from, to) in [(one, one + ".away"), (other, one), (one + ".away", other)] {
                try #require(rename(from, to) == 0)
            }
        }
    }
}

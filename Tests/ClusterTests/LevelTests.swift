import ClusterProcesses
import CMessages
import FlotillaTestSupport
import NodeRuntime
import RaftCore
import ShardClient
import ShardMap
import Testing
import WireMessages

extension Clusters {
    /// Nodes that play programs of different ages, by the level that they are told to know.
    @Suite("Clusters of old and new programs") struct LevelTests {
        private static let newer = { @Sendable (configuration: inout NodeConfiguration) in configuration.knownLevel = 2
        }
        /// One from before there were foreign members.
        private static let older = { @Sendable (configuration: inout NodeConfiguration) in configuration.knownLevel = 1
        }

        /// What the node knows of the cluster: its level, and those of the nodes.
        private static func levels(_ cluster: TestCluster, at node: Int) async throws -> [UInt32] {
            let client = try Client(seeds: [cluster.addresses[node]])
            defer { client.close() }
            let arena = Arena()
            let body = arena.pack(arena.make(flotilla__get_map_request__init))
            let answer = try await client.call(
                cluster.addresses[node], service: "flotilla.ClusterService", method: "get_map", body: body,
                timeout: .milliseconds(2000))
            let reply = arena.unpack(flotilla__get_map_reply__init, answer)?.pointee
            guard let map = reply?.map.flatMap({ ClusterMap($0.pointee) }) else { return [] }
            return [map.level] + map.nodes.map(\.level)
        }

        private static func wait(
            _ goal: String, for levels: [UInt32], at nodes: [Int], _ cluster: TestCluster
        ) async throws {
            var found: [[UInt32]] = []
            do {
                try await Wait.until(goal) {
                    found = []
                    for node in nodes { found.append(try await Self.levels(cluster, at: node)) }
                    return found.allSatisfy { $0 == levels }
                }
            } catch {
                throw Failed("\(error): \(found)")
            }
        }

        private static func raftctl(_ cluster: TestCluster, _ words: String...) async throws -> Tools.Outcome {
            let seeds = cluster.addresses.map(\.description).joined(separator: ",")
            return try await Tools.run(Tools.raftctl, ["--cluster", seeds] + words)
        }

        /// Has the leader of g1 open a session, with a command that says it needs level 2.
        private static func openSession(_ cluster: TestCluster) async throws -> NamedError? {
            try await cluster.waitUntilLed()
            let client = try cluster.makeClient()
            defer { client.close() }
            guard let shard = try await client.clusterMap().shards.first(where: { $0.group == "g1" }),
                let leader = await cluster.leader(of: "g1")
            else { throw Failed("g1 is not there") }
            let arena = Arena()
            let open = GroupCommand.openSession(shard: shard.id, epoch: shard.epoch, nonce: 5)
            var command = open.encoded(arena).withUnsafeBytes { Array($0) }
            guard command.starts(with: [0x08, 1]) else { throw Failed("the format comes first") }
            command[1] = 2
            let request = ExecuteRequest(group: "g1", shard: shard.id, epoch: shard.epoch)
            let connection = try RawConnection(to: cluster.addresses[leader])
            let body = try connection.call(
                service: "flotilla.KvService", method: "execute",
                body: request.packed(arena).withUnsafeBytes { Array($0) },
                attachment: command)
            guard let reply = ExecuteReply(Bytes(body), arena) else { throw Failed("no reply to execute") }
            return reply.error
        }

        @Test("The level is raised when the last node knows it, not before, and for good")
        func upgrade() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3, configure: Self.older)
            defer { cluster.close() }
            for node in 0..<2 {
                cluster.stop(node)
                try cluster.restart(node, configure: Self.newer)
                try await cluster.waitUntilLed()
            }
            try await Self.wait("the new programs are known", for: [1, 2, 2, 1], at: [0, 1, 2], cluster)
            // whoever leads: the old program does not know such a command at all
            let refusal = try await Self.openSession(cluster)
            #expect(refusal == .levelTooLow || refusal == .unknownFormat)
            let old = "node 3 (\(cluster.addresses[2]), up to 1)"
            let status = try await Self.raftctl(cluster, "cluster", "status")
            #expect(status.status == 0 && status.output.contains("at level 1\n"), "\(status.output)")
            #expect(status.output.contains(old), "\(status.output)")
            for words in [[], ["--plan"]] {
                let refused = try await Tools.run(
                    Tools.raftctl, ["--cluster", cluster.addresses[2].description, "cluster", "upgrade"] + words)
                #expect(refused.status == 1 && refused.output.contains(old), "\(refused.output)")
                #expect(refused.output.contains("start a newer raftd there"), "\(refused.output)")
            }
            #expect(try await Self.levels(cluster, at: 0) == [1, 2, 2, 1])

            cluster.stop(2)
            try cluster.restart(2, configure: Self.newer)
            try await Self.wait("all programs are new", for: [1, 2, 2, 2], at: [0, 1, 2], cluster)
            #expect(try await Self.openSession(cluster) == .levelTooLow, "new programs alone do not raise it")
            let plan = try await Self.raftctl(cluster, "cluster", "upgrade", "--plan")
            #expect(plan.status == 0 && plan.output.contains("from 1 to 2"), "\(plan.output)")
            #expect(try await Self.levels(cluster, at: 0) == [1, 2, 2, 2])
            let done = try await Self.raftctl(cluster, "-o", "json", "cluster", "upgrade")
            #expect(done.status == 0 && done.output.contains(#""level":2,"before":1"#), "\(done.output)")
            try await Self.wait("the level is known", for: [2, 2, 2, 2], at: [0, 1, 2], cluster)
            #expect(try await Self.openSession(cluster) == nil)
            let again = try await Self.raftctl(cluster, "cluster", "upgrade")
            #expect(again.status == 0 && again.output.contains("at level 2"), "\(again.output)")
            let lowered = try await Self.raftctl(cluster, "cluster", "upgrade", "--to", "1")
            #expect(lowered.status == 1 && lowered.output.contains("never lowered"), "\(lowered.output)")

            for node in 0..<3 { cluster.kill(node) }
            for node in 0..<3 { try cluster.restart(node, configure: Self.newer) }
            try await cluster.waitUntilLed()
            try await Self.wait("the level is still there", for: [2, 2, 2, 2], at: [0, 1, 2], cluster)
            #expect(try await Self.openSession(cluster) == nil)

            cluster.stop(1)
            #expect {
                try cluster.restart(1, configure: Self.older)
            } throws: { error in
                let words = ["the cluster is at level 2", "up to 1 only", "start a newer raftd"]
                return words.allSatisfy { "\(error)".contains($0) }
            }
        }

        @Test(
            "Other programs' members come with level 2: refused before, also in a plan, then taken in and shown")
        func foreignMembers() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3, configure: Self.older)
            defer { cluster.close() }
            let braft = ScriptedBraft(at: LoopbackPorts.take(1)[0])
            defer { braft.close() }
            let name = "\(braft.address):7"
            for node in 0..<3 {
                cluster.stop(node)
                try cluster.restart(node, configure: Self.newer)
                try await cluster.waitUntilLed()
            }
            try await Self.wait("the new programs are known", for: [1, 2, 2, 2], at: [0, 1, 2], cluster)
            for more in [[], ["--plan"]] {
                let refused = try await Tools.run(
                    Tools.raftctl,
                    ["--cluster", cluster.addresses[0].description, "group", "add-peer", "g1", name, "--foreign"] + more
                )
                #expect(
                    refused.status == 1 && refused.output.contains("raftctl cluster upgrade"), "\(refused.output)")
            }
            #expect(braft.calls.isEmpty)
            let upgrade = try await Self.raftctl(cluster, "cluster", "upgrade")
            #expect(upgrade.status == 0 && upgrade.output.contains("2"), "\(upgrade.output)")
            let added = try await Self.raftctl(cluster, "group", "add-peer", "g1", name, "--foreign")
            #expect(added.status == 0, "\(added.output)")
            let client = try cluster.makeClient()
            defer { client.close() }
            try await client.put(Bytes("k"), Bytes("v"))

            func show(_ words: String...) async throws -> String {
                try await Tools.run(
                    Tools.raftctl,
                    ["--cluster", cluster.addresses.map(\.description).joined(separator: ",")] + words
                ).output
            }
            func line() async throws -> String {
                try await show("group", "show", "g1").split(separator: "\n").first { $0.contains("\(braft.address)") }
                    .map(String.init) ?? ""
            }
            try await Wait.until("the braft is shown with nothing lacking") {
                let words = try await line().split(separator: " ")
                return words.count >= 3 && words[1] == "braft" && words.last == "0"
            }
            try await Wait.until("all is well") {
                try await show("why", "group", "g1").contains("a braft in touch with the leader")
            }
            // its state means nothing to us, and says nothing against the others
            try await Wait.until("the others are equal") {
                let verified = try await Self.raftctl(cluster, "group", "verify", "g1")
                return verified.status == 0 && verified.output.contains("not checked")
                    && verified.output.contains("it runs another program")
            }
            // with it, three of four are left; without it none could be missed
            try await Wait.until("a node may stop") {
                try await show("node", "safe-to-stop", "1").contains("node 1 can be stopped")
            }
            // nobody else comes in under its address
            let stranger = TemporaryDirectory()
            braft.close()
            try await Wait.until("the braft is missed") { try await line().contains("braft, silent") }
            let why = try await show("why", "group", "g1")
            #expect(why.contains("a braft that the leader is not in touch with"), "\(why)")
            try await Wait.until("a node may not stop") {
                try await show("node", "safe-to-stop", "1").contains("group g1 would lose its quorum: 2 of its 4")
            }
            let output = stranger.path + "/output"
            let node = try ChildProcess(
                Tools.raftd,
                [
                    "--data-dir", stranger.path + "/node", "--listen", braft.address.description, "--controllers",
                    cluster.addresses.map(\.description).joined(separator: ","),
                ], output: output)
            defer { node.signal(9) }
            try await Wait.until("the newcomer is refused") {
                let text = try Files.text(output)
                return text.contains("the cluster does not take this node in")
                    && text.contains("group g1 has a member at \(braft.address)")
            }
            #expect(try await client.clusterMap().nodes.count == 3)
        }

        @Test(
            "A node that was away while the level went up ends when it comes back old, and heals when it comes back new"
        )
        func leftBehind() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 2, replicas: 3, configure: Self.newer)
            defer { cluster.close() }
            // all of them know it from the beginning
            try await Self.wait("the first level", for: [2, 2, 2, 2], at: [0, 1, 2], cluster)
            let third = { @Sendable (configuration: inout NodeConfiguration) in configuration.knownLevel = 3 }
            for node in 0..<3 {
                cluster.stop(node)
                try cluster.restart(node, configure: third)
                try await cluster.waitUntilLed()
            }
            try await Self.wait("all programs are new", for: [2, 3, 3, 3], at: [0, 1, 2], cluster)
            cluster.kill(2)
            try await cluster.waitUntilLed()
            let done = try await Self.raftctl(cluster, "cluster", "upgrade")
            #expect(done.status == 0, "\(done.output)")
            let client = try cluster.makeClient()
            defer { client.close() }
            try await client.put(Bytes("k"), Bytes("v"))
            // its own state does not say yet that the level was raised
            try cluster.restart(2, configure: Self.newer)
            try await Wait.until("the old program ends") {
                await cluster.probe.status(of: cluster.addresses[2]) == nil
            }
            cluster.kill(2)
            try cluster.restart(2, configure: third)
            try await cluster.waitUntilCaughtUp()
            #expect(try await client.get(Bytes("k")) == Bytes("v"))
            for group in ["controller", "g1", "g2"] {
                // the leader may not reach yet who has just come back
                try await Wait.until("\(group) is equal everywhere") {
                    (try? await Self.raftctl(cluster, "group", "verify", group))?.status == 0
                }
            }
        }
    }
}

extension RawConnection {
    /// Calls a method by baidu_std and returns the reply's body: `"PRPC" bodySize:u32 metaSize:u32 meta body attachment`.
    fileprivate func call(service: String, method: String, body: [UInt8], attachment: [UInt8]) throws -> [UInt8] {
        func field(_ number: UInt8, _ content: [UInt8]) -> [UInt8] {
            [number << 3 | 2, UInt8(content.count)] + content
        }
        func size(_ count: Int) -> [UInt8] { [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: count >> $0) } }
        let request = field(1, Array(service.utf8)) + field(2, Array(method.utf8))
        let meta = field(1, request) + [0x20, 7, 0x28, UInt8(attachment.count)]
        let payload = meta + body + attachment
        send(Array("PRPC".utf8) + size(payload.count) + size(meta.count) + payload)
        var reply: [UInt8] = []
        func number(at position: Int) -> Int { reply[position..<position + 4].reduce(0) { $0 << 8 | Int($1) } }
        while reply.count < 12 || reply.count < 12 + number(at: 4) {
            guard let more = receive() else { throw Failed("no reply to \(method)") }
            reply += more
        }
        return Array(reply[(12 + number(at: 8))..<(12 + number(at: 4))])
    }
}

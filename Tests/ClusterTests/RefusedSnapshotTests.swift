import FlotillaTestSupport
import RaftCore
import ShardClient
import Testing

extension Clusters {
    @Suite("Brafts that do not take our snapshot") struct RefusedSnapshotTests {
        @Test("One that is to be added is named, with its words, until the change is taken back")
        func isShown() async throws {
            let cluster = try await TestCluster(nodes: 3, groups: 1, replicas: 3) {
                $0.host.compactionEntries = 40
                $0.host.keptEntries = 10
                $0.host.keptBytes = 4 << 10
                $0.host.compactionPace = .milliseconds(100)
            }
            defer { cluster.close() }
            // a braft with an empty disk, and no place for snapshots
            let braft = ScriptedBraft(at: LoopbackPorts.take(1)[0]) { call in
                let term = call.message.integer(4) ?? 0
                switch call.method {
                case "append_entries" where call.message.integer(6) ?? 0 > 0:
                    return ScriptedBraft.mismatch(term: term, lastIndex: 0)
                case "install_snapshot": return .failure(22, "Not support snapshot")
                default: return ScriptedBraft.obedient(call)
                }
            }
            defer { braft.close() }
            let client = try cluster.makeClient()
            defer { client.close() }
            for number in 0..<300 { try await client.put(Bytes("key\(number)"), Bytes("value")) }

            let seeds = ["--cluster", cluster.addresses.map(\.description).joined(separator: ",")]
            func raftctl(_ words: String...) async throws -> Tools.Outcome {
                try await Tools.run(Tools.raftctl, seeds + words)
            }
            let begun = try await raftctl("group", "add-peer", "g1", "\(braft.address):7", "--foreign", "--no-wait")
            #expect(begun.status == 0, "\(begun.output)")
            let words = "the braft \(braft.address):7:0 does not take the snapshot that it needs: "
            for command in [["group", "show", "g1"], ["why", "group", "g1"]] {
                try await Wait.until("\(command[0]) names it", timeout: .seconds(40)) {
                    let text = try await Tools.run(Tools.raftctl, seeds + command).output
                    return text.contains(words) && text.contains("Not support snapshot")
                }
            }
            let operation = try #require(begun.output.split { !$0.isNumber }.first.map(String.init))
            let cancelled = try await raftctl("operation", "cancel", operation)
            #expect(cancelled.status == 0, "\(cancelled.output)")
            try await Wait.until("nothing is wrong any more") {
                try await !raftctl("group", "show", "g1").output.contains("snapshot")
            }
        }
    }
}

import FlotillaTestSupport
import Flotilla
import RaftCore
import RaftHost
import Synchronization
import Testing

extension Conformance {
    /// A node leads a braft that was added as a witness.
    @Suite("A braft as a witness") struct WitnessTests {
        /// Answers as a follower whose log ends at `last`.
        private final class Follower: Sendable {
            let last = Mutex<Int64>(0)

            func answer(_ call: ScriptedBraft.Call) -> ScriptedBraft.Answer {
                switch call.method {
                case "install_snapshot": return .later
                case "append_entries": break
                default: return BraftStage.loyal(call)
                }
                let message = call.message
                let previous = message.integer(6) ?? 0
                return last.withLock { last in
                    guard previous <= last else {
                        return ScriptedBraft.mismatch(term: message.integer(4) ?? 0, lastIndex: last)
                    }
                    last = max(last, previous + Int64(message.messages(7).count))
                    return ScriptedBraft.appended(call)
                }
            }
        }

        private func begin(_ stage: BraftStage, writes: Int) async throws {
            try await stage.until("the node leads") { $0.state == "leader" && $0.commitIndex >= LogIndex(1) }
            for number in 0..<writes { _ = try await stage.node.start(Bytes("entry \(number)"), on: BraftStage.group) }
        }

        private func name(_ stage: BraftStage) -> String {
            PeerID(address: stage.addresses[3], role: .witness).description
        }

        private func addition(_ stage: BraftStage) -> WireFields {
            WireFields().text(1, BraftStage.group).text(2, "").text(3, name(stage))
        }

        /// What it was sent: the entries, and whether any bytes came with them.
        private func entries(_ calls: [ScriptedBraft.Call]) -> (all: [WireFields], haveBytes: Bool) {
            let appends = calls.filter { $0.method == "append_entries" }
            return (appends.flatMap { $0.message.messages(7) }, appends.contains { !$0.frame.attachment.isEmpty })
        }

        @Test("It gets no payloads, also of what was written before it was a member") func noPayloads() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await begin(stage, writes: 5)
                let follower = Follower()
                let witness = ScriptedBraft(at: stage.addresses[3]) { follower.answer($0) }
                defer { witness.close() }
                let added = try stage.connect().call("add_peer", of: "braft.CliService", addition(stage))
                #expect(added.errorCode == 0, "\(added.errorText)")
                #expect(try await stage.state().configuration.voters.contains { $0.description == name(stage) })
                _ = try await stage.node.start(Bytes("later"), on: BraftStage.group)
                let last = try await stage.state().lastIndex.rawValue
                let calls = try #require(await witness.wait { _ in follower.last.withLock { $0 } >= last })
                let sent = entries(calls)
                #expect(sent.all.count { $0.integer(2) == 2 } >= 6)
                // not even how long they are
                #expect(sent.all.allSatisfy { $0.integer(4) == nil } && !sent.haveBytes)
            }
        }

        @Test("Where the log begins later it is offered a list without files, and goes on behind that")
        func laterLog() async throws {
            try await BraftStage.run(script: BraftStage.loyal, change: { ($0.keptEntries, $0.keptBytes) = (1, 1) }) {
                stage in
                try await begin(stage, writes: 40)
                let order = WireFields().text(1, BraftStage.group).text(2, stage.peer(0))
                let saved = try stage.connect().call("snapshot", of: "braft.CliService", order)
                #expect(saved.errorCode == 0, "\(saved.errorText)")
                let follower = Follower()
                let witness = ScriptedBraft(at: stage.addresses[3]) { follower.answer($0) }
                defer { witness.close() }
                let operators = try stage.connect()
                let question = operators.send(
                    service: "braft.CliService", method: "add_peer", body: addition(stage).encoded)
                let calls = try #require(await witness.wait { $0.contains { $0.method == "install_snapshot" } })
                let offer = try #require(calls.first { $0.method == "install_snapshot" })
                let index = try #require(offer.message.messages(5).first?.integer(1))
                let uri = try #require(offer.message.text(6))
                let reader = try #require(uri.split(separator: "/").last.flatMap { Int64($0) }, "\(uri)")
                #expect(uri == "remote://\(stage.addresses[0])/\(reader)" && index > 1)

                let listed = WireFields().number(1, reader).text(2, "__raft_snapshot_meta").number(3, 1 << 20)
                    .number(4, 0).flag(5, true)
                let reply = try stage.connect().call("get_file", of: "braft.FileService", listed)
                #expect(reply.errorCode == 0, "\(reply.errorText)")
                let list = try #require(WireFields(Array(reply.attachment.dropFirst(12))))
                #expect(list.messages(1).first?.integer(1) == index && list.messages(2).isEmpty)

                follower.last.withLock { $0 = index }
                let term = offer.message.integer(4) ?? 0
                witness.answer(offer, with: .message(WireFields().number(1, term).flag(2, true)))
                let added = try operators.answer(to: question)
                #expect(added.errorCode == 0, "\(added.errorText)")
                let last = try await stage.state().lastIndex.rawValue
                #expect(await witness.wait { _ in follower.last.withLock { $0 } >= last } != nil)
            }
        }
    }
}

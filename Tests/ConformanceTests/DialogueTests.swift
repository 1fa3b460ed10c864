import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import RaftHost
import Testing

extension Conformance {
    /// The same requests that a real braft was asked, one after the other, and what it answered to each.
    @Suite("A dialogue with a real braft, repeated") struct DialogueTests {
        private struct Step {
            var text = ""
            var service = ""
            var method = ""
            var body: [UInt8] = []
            var attachment: [UInt8] = []
            var answer: Answer?
            /// What ours says instead, if it is to.
            var deviation: Answer?
            /// In milliseconds, before it.
            var pause = 0
        }

        private struct Answer: Equatable, CustomStringConvertible {
            var code: Int64
            /// Fields that are zero are as good as absent.
            var fields: [Int: Int64] = [:]
            var description: String {
                code == 0 ? "\(fields.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" })" : "error \(code)"
            }

            init(code: Int64, body: [UInt8]) {
                self.code = code
                for field in WireFields(body)?.fields ?? [] {
                    if case .number(let number) = field.value, number != 0 {
                        fields[field.number] = Int64(bitPattern: number)
                    }
                }
            }
        }

        /// The steps in the file; ports there have five digits, as they have here, and are replaced by ours.
        private func steps(_ stage: BraftStage) throws -> [Step] {
            let folder = String(#filePath.dropLast("DialogueTests.swift".count)) + "Golden/"
            var steps: [Step] = []
            var pause = 0
            for line in try Files.text(folder + "Dialogue.txt").split(separator: "\n") where !line.hasPrefix("#") {
                let words = line.split(separator: " ")
                func answer() throws -> Answer {
                    let body = words.count > 2 && words[1] == "0" || words[0] == "<" && words.count > 2 ? words[2] : ""
                    return Answer(code: try #require(Int64(words[1])), body: Hex.bytes(body))
                }
                switch words[0] {
                case ">":
                    let name = words[1].dropLast().split(separator: ".")
                    steps.append(
                        Step(
                            text: words.dropFirst(2).joined(separator: " "),
                            service: name.dropLast().joined(separator: "."), method: String(try #require(name.last)),
                            pause: pause))
                    pause = 0
                case "+": steps[steps.count - 1].attachment = Hex.bytes(words[1])
                case "<": steps[steps.count - 1].answer = try answer()
                case "=": steps[steps.count - 1].deviation = try answer()
                case "pause": pause = try #require(Int(words[1]))
                default: steps[steps.count - 1].body = replacingPorts(Hex.bytes(words[0]), stage)
                }
            }
            return steps
        }

        private func replacingPorts(_ bytes: [UInt8], _ stage: BraftStage) -> [UInt8] {
            var result = bytes
            for (number, address) in stage.addresses.enumerated() {
                let (old, new) = (Array("\(19100 + number)".utf8), Array("\(address.port)".utf8))
                precondition(old.count == new.count, "ports of five digits")
                for start in bytes.indices.dropLast(old.count - 1) where bytes[start...].starts(with: old) {
                    result.replaceSubrange(start..<start + old.count, with: new)
                }
            }
            return result
        }

        @Test("Every answer is the one that the braft gave, or the stricter one that stands beside it")
        func dialogue() async throws {
            let change: (inout RaftHost.Settings) -> Void = {
                $0.raft.electionTimeout = .milliseconds(2000)
                $0.raft.maxClockDrift = .milliseconds(1000)
            }
            try await BraftStage.run(change: change) { stage in
                let caller = try stage.connect()
                try await stage.until("both members are known") { _ in
                    !stage.a.calls("pre_vote").isEmpty && !stage.b.calls("pre_vote").isEmpty
                }
                // a leader's first words are answered 11 until they are noted; of term 0 they change nothing else
                _ = try await stage.send(term: 0, on: caller)
                let steps = try steps(stage)
                #expect(steps.count > 70)
                for step in steps {
                    if step.pause > 0 { try await Task.sleep(for: .milliseconds(step.pause)) }
                    var frame = BraftFrame(
                        service: step.service, method: step.method, correlationID: 1, body: step.body,
                        attachment: step.attachment)
                    if step.text.hasPrefix("an attachment larger") { frame.meta = frame.meta.number(5, 999) }
                    caller.send(frame.encoded)
                    let reply = try caller.answer(to: 1)
                    let ours = Answer(code: reply.errorCode, body: reply.body)
                    let expected = try #require(step.deviation ?? step.answer, "\(step.text)")
                    #expect(ours == expected, "\(step.method): \(step.text)")
                    #expect(reply.errorCode == 0 || reply.body.isEmpty)
                }
            }
        }
    }
}

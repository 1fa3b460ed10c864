import FlotillaTestSupport
import Flotilla
import RaftCore
import RaftHost
import Synchronization
import Testing

extension Conformance {
    /// A node leads scripted brafts: what it makes of their answers.
    @Suite("Appends, sent to brafts") struct LeaderTests {
        /// A follower's log, in so far as a script needs one.
        private final class Script: Sendable {
            let last = Mutex<Int64>(0)
            /// Answers as a follower whose log ends at `last`.
            func answer(_ call: ScriptedBraft.Call) -> ScriptedBraft.Answer {
                guard call.method == "append_entries" else { return BraftStage.loyal(call) }
                let message = call.message
                let previous = message.integer(6) ?? 0
                let term = message.integer(4) ?? 0
                return last.withLock { last in
                    guard previous <= last else { return ScriptedBraft.mismatch(term: term, lastIndex: last) }
                    last = max(last, previous + Int64(message.messages(7).count))
                    return ScriptedBraft.appended(call)
                }
            }
        }

        private func lead(_ stage: BraftStage) async throws {
            try await stage.until("the node leads") { $0.state == "leader" && $0.commitIndex >= LogIndex(1) }
        }

        private func write(_ stage: BraftStage, _ text: String) async throws {
            _ = try await stage.node.start(Bytes(text), on: BraftStage.group)
        }

        private func appends(_ member: ScriptedBraft) -> [ScriptedBraft.Call] { member.calls("append_entries") }

        @Test("The first entry of a term is the configuration; data follows in the attachment, cut by data_len")
        func firstEntry() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                try await write(stage, "hello")
                try await write(stage, "")
                let calls = try #require(
                    await stage.a.wait { calls in
                        calls.contains { call in
                            call.message.messages(7).contains { $0.integer(2) == 2 && $0.integer(4) == 0 }
                        }
                    })
                let requests = calls.filter { $0.method == "append_entries" && !$0.message.messages(7).isEmpty }
                let first = try #require(requests.first?.message.messages(7).first)
                #expect(first.integer(2) == 3 && Set(first.texts(3)) == Set((0..<3).map(stage.peer)))
                #expect(first.texts(5).isEmpty && first.integer(4) == 0 && first.integer(1) == first.integer(1))
                #expect(requests.first?.message.integer(5) == 0 && requests.first?.message.integer(6) == 0)
                let data = try #require(requests.first { !$0.frame.attachment.isEmpty })
                #expect(String(decoding: data.frame.attachment, as: UTF8.self) == "hello")
                #expect(data.message.messages(7).reduce(0) { $0 + ($1.integer(4) ?? 0) } == 5)
                for call in requests {
                    #expect(call.message.text(2) == stage.peer(0) && call.message.text(3) == stage.peer(1))
                    #expect(call.message.integer(4) == (try await stage.state().term).rawValue)
                }
            }
        }

        @Test("No request names an index with term 0, and none a term without an index") func previous() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                for number in 0..<20 { try await write(stage, "\(number)") }
                for call in appends(stage.a) + appends(stage.b) {
                    #expect((call.message.integer(5) == 0) == (call.message.integer(6) == 0))
                }
            }
        }

        @Test("Every braft gets heartbeats, also when nothing is to be said") func heartbeats() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                let before = (appends(stage.a).count, appends(stage.b).count)
                try await Task.sleep(for: .milliseconds(1000))
                let after = (appends(stage.a).count, appends(stage.b).count)
                #expect(after.0 >= before.0 + 4 && after.1 >= before.1 + 4, "\(before) \(after)")
                #expect(try #require(appends(stage.a).last).message.messages(7).isEmpty)
            }
        }

        @Test("One append with entries at a time is under way to a braft") func stopAndWait() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                let held = Mutex<[ScriptedBraft.Call]>([])
                stage.a.follow { call in
                    guard call.method == "append_entries", !call.message.messages(7).isEmpty else {
                        return BraftStage.loyal(call)
                    }
                    held.withLock { $0.append(call) }
                    return .later
                }
                for number in 0..<5 { try await write(stage, "\(number)") }
                try await Task.sleep(for: .milliseconds(200))
                #expect(held.withLock { $0.count } == 1)
                for _ in 0..<5 {
                    let call = held.withLock { $0.isEmpty ? nil : $0.removeFirst() }
                    if let call { stage.a.answer(call, with: ScriptedBraft.appended(call)) }
                    try await Task.sleep(for: .milliseconds(60))
                }
                let sent = appends(stage.a).flatMap { $0.message.messages(7) }.count
                #expect(sent >= 6, "all of it comes in the end")
            }
        }

        @Test("A mismatch leads back to the follower's last index, and from there on everything comes")
        func mismatch() async throws {
            let script = Script()
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                for number in 0..<10 { try await write(stage, "\(number)") }
                try await stage.until("the follower has been sent everything") { status in
                    appends(stage.a).contains {
                        let previous = $0.message.integer(6) ?? 0
                        return LogIndex(previous + Int64($0.message.messages(7).count)) >= status.lastIndex
                    }
                }
                // a follower that has lost all but the first three entries
                script.last.withLock { $0 = 3 }
                stage.a.hangUp()
                stage.a.follow { script.answer($0) }
                try await write(stage, "last")
                try await stage.until("the follower has everything") { status in
                    script.last.withLock { LogIndex($0) } >= status.lastIndex
                }
                let refilled = appends(stage.a).last { $0.message.integer(6) == 3 && !$0.message.messages(7).isEmpty }
                #expect(refilled?.message.messages(7).isEmpty == false, "sent anew behind index 3")
            }
        }

        @Test("A mismatch without last_log_index leads back to the beginning") func mismatchWithoutIndex() async throws
        {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                for number in 0..<5 { try await write(stage, "\(number)") }
                let isEmpty = Mutex(true)
                stage.a.hangUp()
                stage.a.follow { call in
                    guard call.method == "append_entries" else { return BraftStage.loyal(call) }
                    let isRefused = isEmpty.withLock { isEmpty in
                        if call.message.integer(6) == 0, !call.message.messages(7).isEmpty { isEmpty = false }
                        return isEmpty && call.message.integer(6) != 0
                    }
                    return isRefused
                        ? ScriptedBraft.mismatch(term: call.message.integer(4) ?? 0, lastIndex: nil)
                        : ScriptedBraft.appended(call)
                }
                try await write(stage, "last")
                try await stage.until("it begins anew") { _ in !isEmpty.withLock { $0 } }
            }
        }

        @Test("A refusal with a newer term ends the leadership") func newerTerm() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                let term = try await stage.state().term.rawValue
                stage.b.follow(ScriptedBraft.obedient)
                stage.a.follow { call in
                    call.method == "append_entries"
                        ? ScriptedBraft.mismatch(term: term + 5, lastIndex: nil) : ScriptedBraft.obedient(call)
                }
                try await stage.until("it steps down to the newer term") {
                    $0.state != "leader" && $0.term.rawValue >= term + 5
                }
            }
        }

        @Test("A success in another term stalls nothing for good") func successInAnotherTerm() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                let term = try await stage.state().term.rawValue
                let isWrong = Mutex(true)
                stage.a.follow { call in
                    guard call.method == "append_entries", !call.message.messages(7).isEmpty else {
                        return BraftStage.loyal(call)
                    }
                    let answersWrong = isWrong.withLock { isWrong in
                        defer { isWrong = false }
                        return isWrong
                    }
                    return answersWrong
                        ? .message(WireFields().number(1, term - 1).flag(2, true)) : ScriptedBraft.appended(call)
                }
                try await write(stage, "x")
                let index = try await stage.state().lastIndex.rawValue
                let reached = await stage.a.wait { calls in
                    calls.count {
                        $0.message.integer(6) == index - 1 && !$0.message.messages(7).isEmpty
                    } >= 2
                }
                #expect(reached != nil, "the entry is sent again")
                #expect(try await stage.state().state == "leader")
            }
        }

        @Test("16 buys the follower a pause, another error a shorter one; then everything goes on")
        func errors() async throws {
            try await BraftStage.run(
                script: BraftStage.loyal, change: { $0.raft.retryInterval = .milliseconds(1000) }
            ) { stage in
                try await lead(stage)
                for (code, least, most) in [(16, 900, 4000), (5, 50, 4000)] as [(Int64, Int, Int)] {
                    let refused = Mutex<ContinuousClock.Instant?>(nil)
                    let resumed = Mutex<ContinuousClock.Instant?>(nil)
                    stage.a.follow { call in
                        guard call.method == "append_entries", !call.message.messages(7).isEmpty else {
                            return BraftStage.loyal(call)
                        }
                        let isFirst = refused.withLock { refused in
                            defer { refused = refused ?? .now }
                            return refused == nil
                        }
                        if isFirst { return .failure(code, "told to") }
                        resumed.withLock { $0 = $0 ?? .now }
                        return ScriptedBraft.appended(call)
                    }
                    try await write(stage, "x")
                    try await stage.until("it goes on after \(code)") { _ in resumed.withLock { $0 != nil } }
                    let begin = try #require(refused.withLock { $0 })
                    let pause = try #require(resumed.withLock { $0 }) - begin
                    #expect(
                        pause >= .milliseconds(least) && pause <= .milliseconds(most), "error \(code): \(pause)")
                }
            }
        }

        @Test("A follower that never answers holds up nobody else") func silence() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                stage.a.follow { call in
                    call.method == "append_entries" && !call.message.messages(7).isEmpty
                        ? .later : BraftStage.loyal(call)
                }
                for number in 0..<10 { try await write(stage, "\(number)") }
                #expect(stage.applied.all.suffix(10) == (0..<10).map(String.init)[...])
                #expect(try await stage.state().state == "leader")
            }
        }

        @Test("Answers in another order than the requests are told apart") func outOfOrder() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                let held = Mutex<[ScriptedBraft.Call]>([])
                stage.a.follow { call in
                    held.withLock { $0.append(call) }
                    return .later
                }
                stage.b.follow(stage.a.isSilent)
                let writing = Task { try await stage.node.start(Bytes("late"), on: BraftStage.group) }
                try await stage.until("several requests wait") { _ in held.withLock { $0.count } >= 2 }
                for call in held.withLock({ $0 }).reversed() {
                    stage.a.answer(call, with: BraftStage.loyal(call))
                }
                stage.a.follow(BraftStage.loyal)
                stage.b.follow(BraftStage.loyal)
                _ = try? await writing.value
                try await stage.until("it leads on, and commits") { status in
                    status.state == "leader" && status.commitIndex == status.lastIndex
                }
            }
        }

        @Test("A connection that breaks is made anew, and everything goes on; others do not notice") func brokenLink()
            async throws
        {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                for number in 0..<3 {
                    stage.a.hangUp()
                    try await write(stage, "\(number)")
                }
                let index = try await stage.state().lastIndex.rawValue
                let all = await stage.a.wait { calls in
                    calls.contains { call in
                        (call.message.integer(6) ?? 0) + Int64(call.message.messages(7).count) == index
                    }
                }
                #expect(all != nil)
            }
        }

        @Test("Answers that are none, or lie, end nothing") func nonsense() async throws {
            try await BraftStage.run(script: BraftStage.loyal) { stage in
                try await lead(stage)
                let kind = Mutex(0)
                stage.a.follow { call in
                    guard call.method == "append_entries" else { return BraftStage.loyal(call) }
                    let turn = kind.withLock { kind in
                        kind += 1
                        return kind
                    }
                    let term = call.message.integer(4) ?? 0
                    switch turn % 8 {
                    case 0: return .message(WireFields())
                    case 1: return .message(WireFields().text(1, "no number").text(2, "no flag"))
                    case 2: return ScriptedBraft.mismatch(term: term, lastIndex: .max)
                    case 3: return ScriptedBraft.mismatch(term: term, lastIndex: -7)
                    case 4: return .failure(0x7fff_ffff, "what is this")
                    case 5: return .message(WireFields().number(1, term).flag(2, true), attachment: [1, 2, 3])
                    case 6: return .message(WireFields().number(1, .max).flag(2, true))
                    default: return .hangUp
                    }
                }
                for number in 0..<10 {
                    try await write(stage, "\(number)")
                    try await Task.sleep(for: .milliseconds(100))
                }
                #expect(kind.withLock { $0 } >= 8)
                stage.a.follow(BraftStage.loyal)
                try await stage.until("it leads on") { $0.state == "leader" && $0.commitIndex == $0.lastIndex }
            }
        }

        @Test("A node that ends hands over: timeout_now to a member, with its term") func handOver() async throws {
            let stage = try BraftStage(script: BraftStage.loyal)
            defer {
                stage.a.close()
                stage.b.close()
            }
            try await lead(stage)
            let term = try await stage.state().term.rawValue
            // it waits for the successor, which never comes
            stage.node.stop()
            let calls = stage.a.calls("timeout_now") + stage.b.calls("timeout_now")
            let call = try #require(calls.first, "nobody is told")
            #expect(call.message.integer(4) == term && call.message.text(2) == stage.peer(0))
            #expect(call.message.isSet(5) != nil)
        }
    }
}

extension ScriptedBraft {
    /// A script by which nothing is ever answered.
    var isSilent: @Sendable (Call) -> Answer { { _ in .later } }
}

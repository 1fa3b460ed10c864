import FlotillaTestSupport
import RaftCore
import RaftHost
import Testing

extension Conformance {
    /// A scripted braft leads, a node follows: the receiver's steps of append_entries.
    @Suite("Appends, received") struct AppendReceiverTests {
        private func members(_ stage: BraftStage) -> [String] { (0..<3).map(stage.peer) }

        /// Makes the scripted member the leader of term 10, with a configuration and two commands, the first committed.
        private func lead(_ stage: BraftStage, on caller: RawCaller) async throws {
            let reply = try await stage.send(
                [.configuration(10, members(stage)), .data(10, "one"), .data(10, "two")], term: 10, commit: 2,
                on: caller)
            #expect(reply == WireFields().number(1, 10).flag(2, true), "\(reply)")
        }

        @Test("Step 3: an older term is refused with the newer one, and nothing else") func olderTerm() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let reply = try await stage.send([.data(9, "x")], term: 9, after: (10, 3), from: 2, on: caller)
                #expect(reply == WireFields().number(1, 10).flag(2, false), "\(reply)")
                #expect(try await stage.state().lastIndex == LogIndex(3))
            }
        }

        @Test("Step 4: a newer term is adopted, and the sender is the leader") func newerTerm() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                #expect(try await stage.state().leader?.description == stage.peer(1))
                #expect(try await stage.state().term == Term(10))
                let reply = try await stage.send(term: 12, after: (10, 3), from: 2, on: caller)
                #expect(reply.integer(1) == 12 && reply.isSet(2) == true)
                #expect(try await stage.state().leader?.description == stage.peer(2))
            }
        }

        @Test("Step 5: of two leaders in a term neither stays: the answer's term is the request's and one")
        func twoLeaders() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let reply = try await stage.send(term: 10, after: (10, 3), from: 2, on: caller)
                #expect(reply.integer(1) == 11 && reply.isSet(2) == false)
                try await stage.until("both are gone") { $0.term >= Term(11) && $0.leader == nil }
            }
        }

        @Test("Step 6: what fails for its predecessor renews the lease all the same") func leaseOfAMismatch()
            async throws
        {
            let patient: (inout RaftHost.Settings) -> Void = { $0.raft.electionTimeout = .milliseconds(1500) }
            try await BraftStage.run(change: patient) { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                for _ in 0..<25 {
                    try await Task.sleep(for: .milliseconds(100))
                    let reply = try await stage.send(term: 10, after: (10, 99), on: caller)
                    #expect(reply.isSet(2) == false)
                }
                let vote = try await stage.ask("pre_vote", stage.vote(term: 11, last: (10, 3), from: 2), on: caller)
                let answer = try #require(WireFields(vote.body))
                #expect(answer.isSet(2) == false && answer.isSet(5) == true, "\(answer)")
                #expect(try await stage.state().leader?.description == stage.peer(1))
            }
        }

        @Test("Step 8: a predecessor that is not there is answered with the own last index") func mismatch()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                for entries in [[], [BraftStage.Entry.data(10, "x")]] {
                    let reply = try await stage.send(entries, term: 10, after: (10, 7), on: caller)
                    #expect(reply == WireFields().number(1, 10).flag(2, false).number(3, 3), "\(reply)")
                }
                #expect(try await stage.state().lastIndex == LogIndex(3))
            }
        }

        @Test("Step 8: where terms differ, the hint is the last entry before the run in conflict, not below the commit")
        func conflict() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let more = (0..<5).map { BraftStage.Entry.data(11, "\($0)") }
                _ = try await stage.send(more, term: 11, after: (10, 3), commit: 2, on: caller)
                let reply = try await stage.send(term: 13, after: (12, 7), from: 2, on: caller)
                #expect(reply == WireFields().number(1, 13).flag(2, false).number(3, 3), "\(reply)")
            }
        }

        @Test("Step 9: an empty request succeeds with the last index, and commits no further than its predecessor")
        func empty() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let reply = try await stage.send(term: 10, after: (10, 2), commit: 3, on: caller)
                #expect(reply.integer(1) == 10 && reply.isSet(2) == true && reply.integer(3) == 3)
                #expect(reply.isSet(4) != true, "it is not read only")
                #expect(try await stage.state().commitIndex == LogIndex(2))
                _ = try await stage.send(term: 10, after: (10, 3), commit: 99, on: caller)
                #expect(try await stage.state().commitIndex == LogIndex(3))
                try await stage.until("both are applied") { _ in stage.applied.all == ["one", "two"] }
            }
        }

        @Test("A heartbeat after (0, 0) always matches and commits nothing") func originMatches() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let reply = try await stage.send(term: 10, after: (0, 0), commit: 3, on: caller)
                #expect(reply.isSet(2) == true && reply.integer(3) == 3)
                #expect(try await stage.state().commitIndex == LogIndex(2))
            }
        }

        @Test("An index with term 0, which no leader sends, is refused and commits nothing") func termZero()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let reply = try await stage.send(term: 10, after: (0, 90), commit: 90, on: caller)
                #expect(reply.isSet(2) == false)
                #expect(try await stage.state().commitIndex == LogIndex(2))
            }
        }

        @Test("Step 10: a repeated request changes nothing, also behind what is applied") func duplicates()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                _ = try await stage.send(term: 10, after: (10, 3), commit: 3, on: caller)
                try await stage.until("all is applied") { $0.appliedIndex == LogIndex(3) }
                for _ in 0..<4 { try await lead(stage, on: caller) }
                let reply = try await stage.send([.data(10, "one")], term: 10, after: (10, 1), on: caller)
                #expect(reply == WireFields().number(1, 10).flag(2, true))
                #expect(try await stage.state().lastIndex == LogIndex(3))
                #expect(stage.applied.all == ["one", "two"])
            }
        }

        @Test("Step 10: an overlap keeps what is the same, and cuts from the first entry that differs")
        func overlap() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                _ = try await stage.send(
                    [.data(10, "three"), .data(10, "four")], term: 10, after: (10, 3), on: caller)
                #expect(try await stage.state().lastIndex == LogIndex(5))
                let reply = try await stage.send(
                    [.data(10, "two"), .data(11, "other")], term: 11, after: (10, 2), commit: 4, from: 2, on: caller)
                #expect(reply == WireFields().number(1, 11).flag(2, true))
                #expect(try await stage.state().lastIndex == LogIndex(4))
                try await stage.until("it is applied") { $0.appliedIndex == LogIndex(4) }
                #expect(stage.applied.all == ["one", "two", "other"])
            }
        }

        @Test("Step 10: what is committed is never cut") func committedStays() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                _ = try await stage.send(term: 10, after: (10, 3), commit: 3, on: caller)
                let reply = try await stage.send(
                    [.data(12, "wrong")], term: 12, after: (10, 2), commit: 3, from: 2, on: caller)
                #expect(reply.isSet(2) == false)
                #expect(try await stage.state().lastIndex == LogIndex(3))
                try await stage.until("all is applied") { $0.appliedIndex == LogIndex(3) }
                #expect(stage.applied.all == ["one", "two"])
            }
        }

        @Test("A configuration is in force when it is appended, and not any more when it is cut") func configurations()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let four = members(stage) + [stage.peer(3)]
                _ = try await stage.send([.configuration(10, four)], term: 10, after: (10, 3), commit: 2, on: caller)
                #expect(try await stage.state().configuration.peers.count == 4)
                let two = Array(members(stage).prefix(2))
                _ = try await stage.send(
                    [.configuration(10, two, old: four)], term: 10, after: (10, 4), commit: 2, on: caller)
                let joint = try await stage.state().configuration
                #expect(joint.isJoint && joint.peers.count == 2 && joint.oldPeers.count == 4)
                #expect(try await stage.state().commitIndex == LogIndex(2))
                _ = try await stage.send([.data(11, "x")], term: 11, after: (10, 3), commit: 2, from: 2, on: caller)
                #expect(try await stage.state().configuration.peers.count == 3)
            }
        }

        @Test("Step 11: success echoes the request's term, says no last index, and commits through its last entry")
        func success() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let reply = try await stage.send([.data(10, "three")], term: 10, after: (10, 3), commit: 99, on: caller)
                #expect(reply == WireFields().number(1, 10).flag(2, true))
                #expect(try await stage.state().commitIndex == LogIndex(4))
                #expect(try await stage.state().durableIndex == LogIndex(4), "it answers when it is durable")
            }
        }

        @Test("Payloads are cut by data_len; one without takes nothing, and more than there is belongs to nobody")
        func payloads() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let silent = BraftStage.Entry(meta: WireFields().number(1, 10).number(2, 2))
                let answer = try await stage.ask(
                    "append_entries",
                    stage.append(
                        term: 10, previous: (10, 3), entries: [.data(10, "ab"), silent, .data(10, ""), .data(10, "c")],
                        commit: 7),
                    attachment: Array("abcsurplus".utf8), on: caller)
                #expect(answer.errorCode == 0 && WireFields(answer.body)?.isSet(2) == true)
                try await stage.until("all is applied") { $0.appliedIndex == LogIndex(7) }
                #expect(stage.applied.all == ["one", "two", "ab", "", "", "c"])
            }
        }

        @Test("A NO_OP is taken and skipped when it is applied") func noOp() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let noOp = BraftStage.Entry(meta: WireFields().number(1, 10).number(2, 1).number(4, 0))
                _ = try await stage.send([noOp, .data(10, "x")], term: 10, after: (10, 3), commit: 5, on: caller)
                try await stage.until("all is applied") { $0.appliedIndex == LogIndex(5) }
                #expect(stage.applied.all == ["one", "two", "x"])
            }
        }

        @Test("What a braft only asserts is refused with 1003: short attachments, peers where none belong, or bad ones")
        func assertions() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let withPeers = BraftStage.Entry(
                    meta: WireFields().number(1, 10).number(2, 2).text(3, stage.peer(0)).number(4, 0))
                let negative = BraftStage.Entry(meta: WireFields().number(1, 10).number(2, 2).number(4, -5))
                let huge = BraftStage.Entry(meta: WireFields().number(1, 10).number(2, 2).number(4, .max))
                let cases: [(String, [BraftStage.Entry], [UInt8])] = [
                    ("attachment cut short", [.data(10, "abcdef")], Array("abc".utf8)),
                    ("negative data_len", [negative], []), ("huge data_len", [huge], Array("abc".utf8)),
                    ("peers in a command", [withPeers], []),
                    ("nobody in a configuration", [.configuration(10, [])], []),
                    ("a bad peer", [.configuration(10, [stage.peer(0), "host:1:0"])], []),
                    ("a bad old peer", [.configuration(10, [stage.peer(0)], old: ["1.1.1.1::"])], []),
                ]
                for (what, entries, attachment) in cases {
                    let answer = try await stage.ask(
                        "append_entries",
                        stage.append(term: 10, previous: (10, 3), entries: entries, commit: 3), attachment: attachment,
                        on: caller)
                    #expect(answer.errorCode == 1003, "\(what)")
                }
                #expect(try await stage.state().lastIndex == LogIndex(3))
            }
        }

        @Test("Numbers out of every range are refused, and nothing ends") func wildNumbers() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                for number in [Int64.max, .max - 1, .min, -1, 1 << 62] {
                    for message in [
                        stage.append(term: number, previous: (10, 3)), stage.append(term: 10, previous: (number, 3)),
                        stage.append(term: 10, previous: (10, number)),
                        stage.append(term: 10, previous: (10, 3), entries: [.data(number, "")]),
                        stage.append(term: 10, previous: (10, 3), commit: number),
                    ] {
                        let answer = try caller.call("append_entries", message)
                        #expect(
                            answer.errorCode != 0 || WireFields(answer.body)?.isSet(2) != nil, "\(number): \(message)")
                    }
                    for message in [
                        stage.vote(term: number), stage.vote(term: 10, last: (number, 3)),
                        stage.vote(term: 10, last: (10, number)),
                    ] {
                        for method in ["pre_vote", "request_vote"] {
                            let answer = try caller.call(method, message)
                            #expect(answer.errorCode != 0 || WireFields(answer.body)?.isSet(2) == false)
                        }
                    }
                    _ = try caller.call("timeout_now", stage.addressing().number(4, number))
                }
                #expect(try await stage.state().lastIndex == LogIndex(3))
                #expect(try await stage.state().term < Term(1000))
                let reply = try await stage.send(term: 2000, after: (10, 3), on: caller)
                #expect(reply.isSet(2) == true, "it goes on")
            }
        }

        @Test("Whoever a configuration has brought is heard from then on, and obeyed") func newMember() async throws {
            try await BraftStage.run { stage in
                let newcomer = ScriptedBraft(at: stage.addresses[3])
                defer { newcomer.close() }
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let early = try caller.call("append_entries", stage.append(term: 50, previous: (10, 3), from: 3))
                #expect(early.errorCode == 1)
                let four = members(stage) + [stage.peer(3)]
                _ = try await stage.send([.configuration(10, four)], term: 10, after: (10, 3), commit: 2, on: caller)
                let reply = try await stage.send([.data(50, "x")], term: 50, after: (10, 4), from: 3)
                #expect(reply == WireFields().number(1, 50).flag(2, true))
                #expect(try await stage.state().leader?.description == stage.peer(3))
            }
        }
    }
}

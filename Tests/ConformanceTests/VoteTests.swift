import FlotillaTestSupport
import RaftCore
import RaftHost
import Testing

extension Conformance {
    /// Scripted brafts ask a node for votes, and tell it to campaign.
    @Suite("Votes and hand-overs, received") struct VoteTests {
        /// A log of three entries of term 10, whose leader was the first scripted member, and is silent from now on.
        private func follow(_ stage: BraftStage, on caller: RawCaller) async throws {
            let entries: [BraftStage.Entry] = [
                .configuration(10, (0..<3).map(stage.peer)), .data(10, "one"), .data(10, "two"),
            ]
            #expect(try await stage.send(entries, term: 10, commit: 3, on: caller).isSet(2) == true)
        }

        /// The same, and the leader's lease is over.
        private func forget(_ stage: BraftStage, on caller: RawCaller) async throws {
            try await follow(stage, on: caller)
            try await stage.until("the leader is given up") { $0.leader == nil }
        }

        private func ask(
            _ method: String, _ stage: BraftStage, _ message: WireFields, on caller: RawCaller
        ) async throws -> WireFields {
            let answer = try await stage.ask(method, message, on: caller)
            #expect(answer.errorCode == 0, "\(answer.errorText)")
            return try #require(WireFields(answer.body))
        }

        @Test("pre_vote: not for an older term, nor for a shorter log; otherwise yes, and nothing changes by it")
        func preVote() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                for (term, last, granted) in [
                    (9, (9, 99), false), (11, (9, 99), false), (11, (10, 2), false), (11, (10, 3), true),
                    (12, (10, 4), true), (11, (11, 1), true), (10, (10, 3), true),
                ] as [(Int64, (Int64, Int64), Bool)] {
                    let reply = try await ask(
                        "pre_vote", stage, stage.vote(term: term, last: last, from: 2), on: caller)
                    #expect(reply.isSet(2) == granted, "term \(term), last \(last)")
                    #expect(reply.integer(1) == 10 && reply.integer(4) == 10 && reply.isSet(3) == false)
                }
                #expect(try await stage.state().term == Term(10))
            }
        }

        @Test("request_vote: an older term is refused with the newer one") func olderTerm() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                let reply = try await ask("request_vote", stage, stage.vote(term: 9, last: (10, 3)), on: caller)
                #expect(reply.isSet(2) == false && reply.integer(1) == 10)
            }
        }

        @Test("request_vote: a newer term is adopted, also if the log is then found wanting") func termIsAdopted()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                let reply = try await ask("request_vote", stage, stage.vote(term: 20, last: (10, 2)), on: caller)
                #expect(reply.isSet(2) == false && reply.integer(1) == 20 && reply.integer(4) == 10, "\(reply)")
                #expect(try await stage.state().term >= Term(20))
            }
        }

        @Test("request_vote: one vote in a term; the same candidate gets it again") func oneVote() async throws {
            try await BraftStage.run(change: { $0.raft.electionTimeout = .milliseconds(1500) }) { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                let first = try await ask("request_vote", stage, stage.vote(term: 20, last: (10, 3)), on: caller)
                #expect(first.isSet(2) == true && first.integer(1) == 20 && first.integer(4) == 10)
                let other = try await ask(
                    "request_vote", stage, stage.vote(term: 20, last: (10, 9), from: 2), on: caller)
                #expect(other.isSet(2) == false && other.integer(1) == 20)
                let again = try await ask("request_vote", stage, stage.vote(term: 20, last: (10, 3)), on: caller)
                #expect(again.isSet(2) == true && again.integer(4) == 20, "\(again)")
            }
        }

        @Test("While the lease of a leader lasts its followers refuse others, by lease, and stay in their term")
        func lease() async throws {
            try await BraftStage.run(change: { $0.raft.electionTimeout = .milliseconds(3000) }) { stage in
                let caller = try stage.connect()
                try await follow(stage, on: caller)
                for method in ["pre_vote", "request_vote"] {
                    let reply = try await ask(method, stage, stage.vote(term: 11, last: (10, 3), from: 2), on: caller)
                    #expect(reply.isSet(2) == false && reply.isSet(5) == true && reply.integer(1) == 10, "\(method)")
                    let shorter = try await ask(method, stage, stage.vote(term: 11, last: (10, 2), from: 2), on: caller)
                    #expect(shorter.isSet(2) == false && shorter.isSet(5) == false, "\(method) of a shorter log")
                }
                #expect(try await stage.state().term == Term(10))
                #expect(try await stage.state().leader?.description == stage.peer(1))
            }
        }

        @Test("Where no braft has leases a vote is granted while the leader is there, and a pre-vote is not")
        func withoutLeases() async throws {
            let change: (inout RaftHost.Settings) -> Void = {
                $0.raft.electionTimeout = .milliseconds(3000)
                $0.raft.foreignLeases = false
            }
            try await BraftStage.run(change: change) { stage in
                let caller = try stage.connect()
                try await follow(stage, on: caller)
                let message = stage.vote(term: 11, last: (10, 3), from: 2)
                let asked = try await ask("pre_vote", stage, message, on: caller)
                #expect(asked.isSet(2) == false && asked.isSet(5) == true && asked.integer(1) == 10, "\(asked)")
                let shorter = try await ask(
                    "request_vote", stage, stage.vote(term: 11, last: (10, 2), from: 2), on: caller)
                #expect(shorter.isSet(2) == false && shorter.isSet(5) == false, "\(shorter)")
                let reply = try await ask("request_vote", stage, message, on: caller)
                #expect(reply.isSet(2) == true && reply.integer(1) == 11, "\(reply)")
            }
        }

        @Test("A disrupted leader, if it is the one followed in the term of now, ends the lease") func disrupted()
            async throws
        {
            try await BraftStage.run(change: { $0.raft.electionTimeout = .milliseconds(3000) }) { stage in
                let caller = try stage.connect()
                try await follow(stage, on: caller)
                func vote(_ leader: String, _ term: Int64) async throws -> WireFields {
                    let message = stage.vote(term: 11, last: (10, 3), from: 2)
                        .message(7, WireFields().text(1, leader).number(2, term))
                    return try await ask("request_vote", stage, message, on: caller)
                }
                #expect(try await vote(stage.peer(1), 9).isSet(2) == false, "another term")
                #expect(try await vote(stage.peer(3), 10).isSet(2) == false, "another leader")
                #expect(try await vote("nonsense", 10).isSet(2) == false, "no leader")
                #expect(try await stage.state().term == Term(10))
                let reply = try await vote(stage.peer(1), 10)
                #expect(reply.isSet(2) == true && reply.integer(1) == 11)
            }
        }

        @Test("A vote that was answered is there after a sudden end of the process") func votesLast() async throws {
            let change: (inout RaftHost.Settings) -> Void = { $0.raft.electionTimeout = .milliseconds(1500) }
            let stage = try BraftStage(change)
            defer {
                stage.a.close()
                stage.b.close()
            }
            try await stage.until("there is a replica") { _ in true }
            let caller = try stage.connect()
            try await forget(stage, on: caller)
            let first = try await ask("request_vote", stage, stage.vote(term: 20, last: (10, 3)), on: caller)
            #expect(first.isSet(2) == true)
            try await stage.restart(change)
            defer { stage.node.kill() }
            try await stage.until("there is a replica") { _ in true }
            // it votes for nobody before its own promises, and the leases it may owe, are over
            let again = try stage.connect()
            let end = ContinuousClock.now + .seconds(20)
            while try await ask("pre_vote", stage, stage.vote(term: 30, last: (10, 3)), on: again).isSet(2) != true {
                try #require(ContinuousClock.now < end, "it never votes")
                try await Task.sleep(for: .milliseconds(50))
            }
            let other = try await ask("request_vote", stage, stage.vote(term: 20, last: (10, 3), from: 2), on: again)
            #expect(other.isSet(2) == false && other.integer(1) == 20, "\(other)")
            let same = try await ask("request_vote", stage, stage.vote(term: 20, last: (10, 3)), on: again)
            #expect(same.isSet(2) == true && same.integer(1) == 20, "\(same)")
        }

        @Test("timeout_now: another term is refused, a newer one adopted") func handOverOfAnotherTerm() async throws {
            try await BraftStage.run(change: { $0.raft.electionTimeout = .milliseconds(3000) }) { stage in
                let caller = try stage.connect()
                try await follow(stage, on: caller)
                let older = try await ask("timeout_now", stage, stage.addressing().number(4, 9), on: caller)
                #expect(older == WireFields().number(1, 10).flag(2, false), "\(older)")
                let newer = try await ask("timeout_now", stage, stage.addressing().number(4, 15), on: caller)
                #expect(newer.isSet(2) == false && newer.integer(1) == 15, "\(newer)")
                #expect(stage.a.calls("request_vote").isEmpty)
            }
        }

        @Test("timeout_now of the leader: a real election at once, without a pre-vote, in the name of the old leader")
        func handOver() async throws {
            try await BraftStage.run(change: { $0.raft.electionTimeout = .milliseconds(3000) }) { stage in
                let caller = try stage.connect()
                try await follow(stage, on: caller)
                let asked = stage.a.calls("pre_vote").count
                let reply = try await ask(
                    "timeout_now", stage, stage.addressing().number(4, 10).flag(5, true), on: caller)
                // the term before the campaign: the old leader must not step down before it has voted
                #expect(reply == WireFields().number(1, 10).flag(2, true), "\(reply)")
                let calls = try #require(
                    await stage.b.wait { calls in calls.contains { $0.method == "request_vote" } }, "no election")
                let vote = try #require(calls.first { $0.method == "request_vote" }).message
                #expect(vote.integer(4) == 11 && vote.integer(5) == 10 && vote.integer(6) == 3)
                #expect(vote.text(2) == stage.peer(0) && vote.text(3) == stage.peer(2))
                #expect(vote.messages(7) == [WireFields().text(1, stage.peer(1)).number(2, 10)])
                #expect(stage.a.calls("pre_vote").count == asked)
            }
        }

        @Test("timeout_now of one who is not the leader is refused while the leader's lease lasts")
        func handOverByAnother() async throws {
            try await BraftStage.run(change: { $0.raft.electionTimeout = .milliseconds(3000) }) { stage in
                let caller = try stage.connect()
                try await follow(stage, on: caller)
                let message = stage.addressing(from: stage.peer(2)).number(4, 10)
                let reply = try await ask("timeout_now", stage, message, on: caller)
                #expect(reply == WireFields().number(1, 10).flag(2, false))
            }
        }

        @Test("Asking: a pre-vote of the next term with term and index of the last entry, from every member")
        func asking() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                for member in [stage.a, stage.b] {
                    let calls = try #require(
                        await member.wait { calls in
                            calls.contains { $0.method == "pre_vote" && $0.message.integer(4) == 11 }
                        }, "nobody is asked")
                    let vote = try #require(
                        calls.first { $0.method == "pre_vote" && $0.message.integer(4) == 11 }
                    ).message
                    #expect(vote.text(1) == BraftStage.group && vote.text(2) == stage.peer(0))
                    #expect(vote.text(3) == PeerID(address: member.address).description)
                    #expect(vote.integer(5) == 10 && vote.integer(6) == 3 && vote.messages(7).isEmpty)
                }
                #expect(try await stage.state().term == Term(10), "a pre-vote raises no term")
            }
        }

        @Test("Asking: an answer with a newer term is adopted, and what is refused counts for nothing")
        func answersToAsking() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                stage.a.follow { call in
                    call.method == "pre_vote"
                        ? ScriptedBraft.vote(term: 31, granted: true) : ScriptedBraft.obedient(call)
                }
                try await stage.until("the newer term is adopted") { $0.term == Term(31) }
                #expect(stage.a.calls("request_vote").isEmpty && stage.b.calls("request_vote").isEmpty)
            }
        }

        @Test("Asking: who stands by a lease is asked again when a voter says that it was the leader and has gone")
        func setAside() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await forget(stage, on: caller)
                stage.a.follow { call in
                    let term = call.message.integer(4) ?? 0
                    return switch call.method {
                    case "pre_vote": ScriptedBraft.vote(term: term - 1, granted: true)
                    case "request_vote" where call.message.messages(7).isEmpty:
                        ScriptedBraft.vote(term: term - 1, granted: false, byLease: true)
                    case "request_vote": ScriptedBraft.vote(term: term, granted: true)
                    default: ScriptedBraft.obedient(call)
                    }
                }
                stage.b.follow { call in
                    let term = call.message.integer(4) ?? 0
                    return switch call.method {
                    case "pre_vote": ScriptedBraft.vote(term: term - 1, granted: true, disrupted: true)
                    // it stepped down for the candidate, and found its log wanting
                    case "request_vote":
                        ScriptedBraft.vote(term: term, granted: false, disrupted: true, previousTerm: 10)
                    default: ScriptedBraft.obedient(call)
                    }
                }
                try await stage.until("it is elected") { $0.state == "leader" }
                let again = stage.a.calls("request_vote").filter { !$0.message.messages(7).isEmpty }
                #expect(again.first?.message.messages(7) == [WireFields().text(1, stage.peer(2)).number(2, 10)])
            }
        }
    }
}

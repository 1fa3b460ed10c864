import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

/// What the dissertation demands of the state machine for commands to seem executed once, at one moment between request
/// and answer; claim by claim, and in the log's own terms: several proposals of one request are several entries.
@Suite("Dissertation §6.3 Linearizable semantics")
struct LinearizableSemanticsTests {
    private static func increment(
        _ sequence: UInt64, floor: UInt64 = 0, session: UInt64 = Replica.token
    ) -> GroupCommand {
        SessionTests.write(sequence, floor: floor, session: session, .increment("a", by: 1))
    }

    private func value(_ replica: Replica) throws -> KeyResult { try replica.result(.get("a")) }

    @Test("the log alone gives at-least-once semantics; with sessions the entries of one request are executed once")
    func onceForAllEntries() throws {
        let replica = try Replica()
        for _ in 0..<5 { #expect(try replica.apply(LinearizableSemanticsTests.increment(1)).results == [.integer(1)]) }
        #expect(try value(replica) == .value("1"))
    }

    @Test("two requests that say the same are two: what counts is the serial number that the client gave")
    func serialNumbers() throws {
        let replica = try Replica()
        _ = try replica.apply((1...3).map { LinearizableSemanticsTests.increment($0) })
        #expect(try value(replica) == .value("3"))
    }

    @Test("a repeated request gets the answer of its first execution, though the state has changed since")
    func firstAnswer() throws {
        let replica = try Replica()
        let first = try replica.apply(LinearizableSemanticsTests.increment(1))
        _ = try replica.apply(LinearizableSemanticsTests.increment(2))
        _ = try replica.apply(SessionTests.write(3, .set("a", "100")))
        #expect(try replica.apply(LinearizableSemanticsTests.increment(1)) == first)
        #expect(try value(replica) == .value("100"))
    }

    @Test("each client gets an identity of its own through the log; equal serial numbers of two clients do not meet")
    func registration() throws {
        let replica = try Replica()
        let tokens = try (0..<10).map { try replica.openSession(nonce: UInt64($0 % 2)) }
        #expect(Set(tokens + [Replica.token]).count == 11)
        for token in tokens { _ = try replica.apply(LinearizableSemanticsTests.increment(1, session: token)) }
        #expect(try value(replica) == .value("10"))
    }

    @Test("a client may have several requests under way; they may arrive in any order, and each is executed once")
    func concurrentRequests() throws {
        let replica = try Replica()
        let arrivals: [UInt64] = [3, 1, 3, 4, 1, 2, 4, 2, 3]
        for sequence in arrivals { _ = try replica.apply(LinearizableSemanticsTests.increment(sequence)) }
        #expect(try value(replica) == .value("4"))
    }

    @Test("with each request a client says which answers it has; those are forgotten, and asked for again not executed")
    func lowestUnanswered() throws {
        let replica = try Replica()
        _ = try replica.apply([
            LinearizableSemanticsTests.increment(1), LinearizableSemanticsTests.increment(2),
            LinearizableSemanticsTests.increment(3, floor: 2),
        ])
        #expect(try replica.apply(LinearizableSemanticsTests.increment(1)).error == .sequenceTooOld)
        #expect(try replica.apply(LinearizableSemanticsTests.increment(2)).results == [.integer(2)])
        #expect(try value(replica) == .value("3"))
    }

    @Test(
        "replicas agree on which session expires: it follows from the log, with restarts and other batches or without")
    func expiryIsDeterministic() throws {
        let limits = KeyValueStateMachine.Limits(sessionsPerShard: 4)
        let left = try Replica(limits: limits)
        let right = try Replica(limits: limits)
        var random = SeededRandom(seed: 5)
        var tokens = [Replica.token]
        var waiting: [GroupCommand] = []
        for round in 1...200 as ClosedRange<UInt64> {
            let command =
                random.number(in: 0..<3) == 0
                ? SessionTests.open(round)
                : LinearizableSemanticsTests.increment(
                    round, floor: round, session: tokens[Int(random.number(in: 0..<Int64(tokens.count)))])
            let reply = try left.apply(command)
            if let token = reply.session { tokens.append(token) }
            waiting.append(command)
            guard random.number(in: 0..<8) == 0 else { continue }
            _ = try right.apply(waiting)
            waiting = []
            try right.restart()
        }
        if !waiting.isEmpty { _ = try right.apply(waiting) }
        #expect(tokens.count > 20 && left.machine.appliedPosition == right.machine.appliedPosition)
        #expect(try contents(left.engine) == contents(right.engine))
    }

    @Test("an expired session's request is an error, never executed and never a new session: it may have been executed")
    func expiredSession() throws {
        let replica = try Replica(limits: .init(sessionsPerShard: 2))
        #expect(try replica.apply(LinearizableSemanticsTests.increment(1)).error == nil)
        _ = try replica.openSession(nonce: 1)
        _ = try replica.openSession(nonce: 2)
        for sequence in [1, 2] as [UInt64] {
            #expect(try replica.apply(LinearizableSemanticsTests.increment(sequence)).error == .sessionExpired)
        }
        #expect(try value(replica) == .value("1"))
    }

    @Test("a session in use outlives those that are not: the client keeps it alive through the log")
    func keptAlive() throws {
        let replica = try Replica(limits: .init(sessionsPerShard: 2))
        for round in 1...10 as ClosedRange<UInt64> {
            _ = try replica.openSession(nonce: round)
            let reply = try replica.apply(LinearizableSemanticsTests.increment(round, floor: round))
            #expect(reply.results == [.integer(Int64(round))])
        }
    }

    @Test("the table is part of the state: after a restart a repetition is known as before")
    func partOfTheState() throws {
        let replica = try Replica()
        let replies = try (1...3).map { try replica.apply(LinearizableSemanticsTests.increment($0)) }
        try replica.restart()
        for (sequence, reply) in zip(1...3 as ClosedRange<UInt64>, replies) {
            #expect(try replica.apply(LinearizableSemanticsTests.increment(sequence)) == reply)
        }
        #expect(try value(replica) == .value("3"))
    }

    @Test("reads need no session and leave nothing behind: they are not in the log")
    func reads() throws {
        let replica = try Replica()
        _ = try replica.apply(LinearizableSemanticsTests.increment(1))
        let before = try contents(replica.engine)
        for _ in 0..<3 { #expect(try value(replica) == .value("1")) }
        #expect(try contents(replica.engine) == before)
    }
}

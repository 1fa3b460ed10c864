import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

extension Replica {
    func step(_ operation: UInt64, _ action: ShardStep.Action, shard: UInt64 = 1, epoch: UInt64 = 1) throws
        -> NamedError?
    {
        try apply(.step(ShardStep(operation: operation, shard: shard, epoch: epoch, action: action))).error
    }

    /// The write of a session on any shard.
    func write(
        _ sequence: UInt64, shard: UInt64 = 1, epoch: UInt64 = 1, token: UInt64 = Replica.token,
        _ operations: KeyOperation...
    ) throws -> ExecuteReply {
        try apply(
            .write(
                SessionWrite(
                    shard: shard, epoch: epoch, session: token, sequence: sequence, floor: 1, operations: operations)))
    }

    /// Copies what there is to copy of shard 1 to `other`; the last answer.
    func copy(_ operation: UInt64, to other: Replica, bytes: Int = 300) throws -> ReadMoveReply {
        var reply = ReadMoveReply()
        repeat {
            let staging = try #require(other.machine.moves.first?.staging)
            reply = try machine.readMove(
                ReadMoveRequest(
                    group: "g1", operation: operation, shard: 1, epoch: 1, cursor: staging.cursor, tail: staging.tail,
                    bytes: bytes))
            #expect(reply.error == nil)
            #expect(try other.step(operation, .stage(reply.chunk(staging.nextChunk))) == nil)
        } while reply.cursor != nil || reply.bytesLeft != 0
        return reply
    }
}

/// A suite for each rule of the article on moving shards, under its number and title there; the whole table of steps and
/// phases is that of `StepOrderTests`.
@Suite("The rules of moving shards") enum StepTests {
    static let moved = Shard(id: 1, range: KeyRange(start: Bytes(), end: Bytes()), group: "g2", epoch: 2)

    static func rawPairs(_ replica: Replica, _ kinds: KeyKind...) throws -> [[Bytes]] {
        try contents(replica.engine).filter { kinds.map(\.rawValue).contains($0[0][8]) }
    }

    @Suite("1. One operation at a time") struct Rule1 {
        @Test("A step of another operation changes nothing while one is under way") func another() throws {
            let replica = try Replica()
            #expect(try replica.step(4, .open) == nil)
            #expect(try replica.step(3, .freeze) == .staleOperation)
            #expect(try replica.step(5, .freeze) == .refused)
            #expect(try replica.step(5, .open) == .refused)
            #expect(try replica.step(5, .split(key: Bytes("m"), newShard: 2)) == .refused)
            #expect(replica.machine.moves.map(\.phase) == [.open])
            try replica.restart()
            #expect(try replica.step(3, .open) == .staleOperation)
            #expect(try replica.step(4, .freeze) == nil)
        }
    }

    @Suite("2. The epoch never goes back") struct Rule2 {
        @Test("A late install does not bring back a shard that has moved away") func lateInstall() throws {
            let replica = try Replica()
            _ = try replica.step(3, .open)
            _ = try replica.step(3, .freeze)
            _ = try replica.step(3, .release)
            #expect(try replica.apply(.install([Replica.shard])).error == nil)
            #expect(replica.machine.ownedShards.isEmpty)
            try replica.restart()
            #expect(try replica.apply(.install([Replica.shard])).error == nil)
            #expect(replica.machine.ownedShards.isEmpty)
        }

        @Test("A shard is neither opened nor received below the epoch of its fence") func belowTheFence() throws {
            let (source, other) = (try Replica(), try Replica(shards: []))
            #expect(try source.step(3, .resume) == nil)
            #expect(try source.step(4, .open) == .staleOperation)
            #expect(source.machine.ownedShards.map(\.epoch) == [2])
            #expect(try other.step(3, .discard, epoch: 5) == nil)
            #expect(try other.step(4, .receive(StepTests.moved)) == .staleOperation)
            #expect(other.machine.moves.isEmpty)
        }
    }

    @Suite("3. Ends are always applied") struct Rule3 {
        @Test("An end is applied by a group that has heard nothing, and what comes late is stale")
        func endsUnheard() throws {
            let (source, other) = (try Replica(), try Replica(shards: []))
            #expect(try source.step(3, .resume) == nil)
            #expect(source.machine.ownedShards.map(\.epoch) == [2])
            #expect(try source.step(3, .open) == .staleOperation)
            #expect(try source.step(3, .freeze) == .staleOperation)
            #expect(try source.step(2, .open, epoch: 2) == .staleOperation)
            #expect(try other.step(3, .discard) == nil)
            #expect(try other.step(3, .receive(StepTests.moved)) == .staleOperation)
            try source.restart()
            #expect(try source.step(3, .open) == .staleOperation)
            #expect(try source.step(4, .open, epoch: 2) == nil)
        }
    }

    @Suite("4. Nothing comes too early, and nothing happens twice") struct Rule4 {
        @Test("A step without its predecessor is refused, and a repeated one is answered as the first time")
        func order() throws {
            let (source, other) = (try Replica(), try Replica(shards: []))
            #expect(try source.step(3, .freeze) == .refused)
            #expect(try other.step(3, .adopt) == .refused)
            #expect(source.machine.ownedShards == [Replica.shard] && other.machine.ownedShards.isEmpty)
            for _ in 0..<2 { #expect(try source.step(3, .open) == nil) }
            for _ in 0..<2 { #expect(try other.step(3, .receive(StepTests.moved)) == nil) }
            for _ in 0..<2 { #expect(try source.step(3, .freeze) == nil) }
            _ = try source.copy(3, to: other)
            for _ in 0..<2 {
                #expect(try other.step(3, .adopt) == nil)
                #expect(try source.step(3, .release) == nil)
                try source.restart()
                try other.restart()
            }
            #expect(source.machine.ownedShards.isEmpty && other.machine.ownedShards == [StepTests.moved])
        }
    }

    @Suite("5. Everything moves") struct Rule5 {
        @Test("A shard moves with its sessions, its expiries and its time", arguments: [false, true])
        func aMove(_ restarts: Bool) throws {
            let (source, other) = (try Replica(), try Replica(shards: []))
            _ = try source.apply(.time(500))
            _ = try source.write(1, .set("a", "1"), .set("b", "2", expiresIn: 100))
            let large = String(repeating: "L", count: 5000)
            _ = try source.write(2, .set("large", large))
            #expect(try source.step(3, .open) == nil)
            #expect(try other.step(3, .receive(StepTests.moved)) == nil)
            _ = try source.copy(3, to: other)
            let changed = try source.write(
                3, .increment("a", by: 5), .append("large", "!"), .delete("b"), .set("c", "new"))
            if restarts { try source.restart(); try other.restart() }
            #expect(source.machine.moves.map(\.phase) == [.open] && other.machine.moves.map(\.phase) == [.receiving])
            #expect(try other.step(3, .adopt) == .refused)
            #expect(try source.step(3, .freeze) == nil)
            #expect(try source.copy(3, to: other).isComplete)
            if restarts { try other.restart() }
            #expect(other.machine.moves.map(\.phase) == [.complete] && other.machine.ownedShards.isEmpty)
            #expect(try other.step(3, .adopt) == nil)
            #expect(try source.step(3, .release) == nil)
            if restarts { try other.restart() }
            #expect(other.machine.ownedShards == [StepTests.moved] && other.machine.replicatedTime == 500)
            #expect(source.machine.ownedShards.isEmpty && source.machine.moves.isEmpty && other.machine.moves.isEmpty)
            #expect(
                try other.write(
                    3, epoch: 2, .increment("a", by: 5), .append("large", "!"), .delete("b"), .set("c", "new"))
                    == changed)
            #expect(
                try other.write(4, epoch: 2, .get("a"), .stringLength("large"), .get("b"), .get("c")).results == [
                    .value("6"), .integer(5001), KeyResult(), .value("new"),
                ])
            #expect(try StepTests.rawPairs(source, .data, .sessions, .replies, .changes, .shards).isEmpty)
            #expect(try StepTests.rawPairs(other, .staging, .parts).isEmpty)
        }

        @Test("A value that changes while it is on its way arrives as it is in the end")
        func changedOnItsWay() throws {
            let (source, other) = (try Replica(), try Replica(shards: []))
            #expect(try source.step(3, .open) == nil)
            #expect(try other.step(3, .receive(StepTests.moved)) == nil)
            _ = try source.copy(3, to: other)
            _ = try source.write(1, .set("large", String(repeating: "1", count: 5000)))
            // a part of it goes
            var part = ReadMoveReply()
            for _ in 0..<10 where part.pairs.last?.continues != true {
                let staging = try #require(other.machine.moves.first?.staging)
                part = try source.machine.readMove(
                    ReadMoveRequest(
                        group: "g1", operation: 3, shard: 1, epoch: 1, cursor: staging.cursor, tail: staging.tail,
                        bytes: 3000))
                #expect(try other.step(3, .stage(part.chunk(staging.nextChunk))) == nil)
            }
            #expect(part.pairs.last?.continues == true)
            let last = String(repeating: "2", count: 5000)
            _ = try source.write(2, .set("large", last))
            #expect(try source.step(3, .freeze) == nil)
            // both changes lie in one page
            #expect(try source.copy(3, to: other, bytes: 100_000).isComplete)
            #expect(try other.step(3, .adopt) == nil)
            let reply = ExecuteReply(results: [KeyResult(value: Bytes(last))])
            #expect(try other.read(.get("large"), epoch: 2) == .reply(reply))
        }

        @Test("A frozen source is copied only when its last changes are, too") func tail() throws {
            let replica = try Replica()
            _ = try replica.step(3, .open)
            _ = try replica.write(1, .set("a", "1"))
            _ = try replica.step(3, .freeze)
            func read(tail: LogIndex = .zero) throws -> ReadMoveReply {
                try replica.machine.readMove(
                    ReadMoveRequest(group: "g1", operation: 3, shard: 1, epoch: 1, tail: tail))
            }
            let scanned = try read()
            #expect(scanned.cursor == nil && scanned.tail > .zero && scanned.bytesLeft != 0 && !scanned.isComplete)
            let rest = try read(tail: scanned.tail)
            #expect(rest.bytesLeft == 0 && rest.isComplete && !rest.pairs.isEmpty)
        }
    }

    @Suite("6. From FREEZE on the source answers nothing of the shard") struct Rule6 {
        @Test("A frozen shard answers nothing") func frozen() throws {
            let replica = try Replica()
            let first = try replica.write(1, .set("a", "1"))
            _ = try replica.step(3, .open)
            #expect(try replica.write(1, .set("a", "1")) == first)
            _ = try replica.step(3, .freeze)
            #expect(try replica.write(1, .set("a", "1")).error == .shardFrozen)
            #expect(try replica.write(2, .set("a", "1")).error == .shardFrozen)
            #expect(try replica.apply(SessionTests.open(5)).error == .shardFrozen)
            #expect(try replica.read(.get("a")) == .reply(ExecuteReply(error: .shardFrozen)))
            #expect(try replica.read(.get("a"), epoch: 2) == .reply(ExecuteReply(error: .wrongShard)))
            #expect(try replica.step(3, .resume) == nil)
            #expect(try replica.write(2, .set("a", "2")).error == .wrongShard)
            #expect(try replica.write(1, epoch: 2, .set("a", "1")) == first)
            #expect(try replica.read(.get("a"), epoch: 2) == .reply(ExecuteReply(results: [.value("1")])))
        }
    }

    @Suite("7. Chunks come in order, once and whole") struct Rule7 {
        @Test("Chunks come in order, once, and whole") func chunks() throws {
            let replica = try Replica(shards: [])
            func pair(_ key: String, _ value: String?, continues: Bool = false) -> StagedPair {
                StagedPair(
                    key: Bytes([KeyKind.data.rawValue] + Array(key.utf8)),
                    value: value.map { StoredValue(Bytes($0)).encoded }, continues: continues)
            }
            func chunk(_ number: UInt64, _ pairs: StagedPair..., complete: Bool = false) -> ShardStep.Action {
                .stage(
                    StagedChunk(
                        number: number, pairs: pairs, cursor: nil, tail: LogIndex(5), isComplete: complete,
                        replicatedTime: 7))
            }
            #expect(try replica.step(3, chunk(0)) == .refused)
            let range = KeyRange(start: Bytes("a"), end: Bytes("m"))
            let moved = Shard(id: 1, range: range, group: "g2", epoch: 2)
            #expect(try replica.step(3, .receive(moved), epoch: 7) == .badRequest)
            #expect(try replica.step(3, .receive(moved)) == nil)
            let before = try StepTests.rawPairs(replica, .data, .staging, .parts)
            #expect(try replica.step(3, chunk(1, pair("b", "1"))) == .refused)
            #expect(try replica.step(3, chunk(0, pair("b", "1"), pair("x", "1"))) == .badRequest)
            #expect(try replica.step(3, chunk(0, pair("b", "1", continues: true), pair("c", "1"))) == .badRequest)
            let malformed = StagedPair(key: pair("b", "").key, value: Bytes([1]))
            #expect(try replica.step(3, chunk(0, malformed)) == .badRequest)
            #expect(try replica.step(3, chunk(0, pair("b", "1", continues: true), complete: true)) == .badRequest)
            #expect(try StepTests.rawPairs(replica, .data, .staging, .parts) == before)
            #expect(try replica.step(3, chunk(0, pair("b", "1"))) == nil)
            #expect(try replica.step(3, chunk(0, pair("b", "1"))) == nil)
            #expect(try replica.step(3, chunk(0, pair("b", "2"))) == .staleOperation)
            #expect(try replica.step(3, chunk(1, pair("b", nil), pair("c", "3"), complete: true)) == nil)
            #expect(try replica.step(3, chunk(0, pair("b", "1"))) == .staleOperation)
            #expect(try replica.step(3, chunk(2)) == .refused)
            #expect(try StepTests.rawPairs(replica, .data).count == 1)
            // nothing else comes to where it is staged
            #expect(try replica.apply(.install([ShardTests.shard(9, "l", "z")])).error == .refused)
            #expect(try replica.step(2, .receive(ShardTests.shard(8, "l", "z", epoch: 2)), shard: 8) == .staleOperation)
            // a newer operation's shard takes the place
            #expect(try replica.step(4, .receive(ShardTests.shard(8, "l", "z", epoch: 2)), shard: 8) == nil)
            #expect(try replica.step(3, .adopt) == .staleOperation)
            #expect(try StepTests.rawPairs(replica, .data).isEmpty)
        }
    }

    @Suite("8. A session is asked before the range") struct Rule8 {
        @Test("A split answers what was executed before it, and refuses for ever what was not") func split() throws {
            let replica = try Replica()
            let first = try replica.write(1, .increment("a", by: 1), .increment("x", by: 2))
            #expect(try replica.step(3, .split(key: Bytes("m"), newShard: 2), epoch: 7) == .wrongShard)
            #expect(try replica.step(3, .split(key: Bytes(), newShard: 2)) == .refused)
            #expect(try replica.step(3, .split(key: Bytes("m"), newShard: 2)) == nil)
            #expect(try replica.step(3, .split(key: Bytes("m"), newShard: 2)) == nil)
            #expect(
                replica.machine.ownedShards == [
                    ShardTests.shard(1, "", "m", epoch: 2), ShardTests.shard(2, "m", "", epoch: 2),
                ])
            #expect(try replica.write(1, epoch: 2, .increment("a", by: 1), .increment("x", by: 2)) == first)
            #expect(try replica.write(1, shard: 2, epoch: 2, .increment("a", by: 1), .increment("x", by: 2)) == first)
            #expect(try replica.write(2, epoch: 2, .increment("a", by: 1), .increment("x", by: 2)).error == .wrongShard)
            try replica.restart()
            #expect(try replica.write(1, shard: 2, epoch: 2, .increment("a", by: 1), .increment("x", by: 2)) == first)
            #expect(try replica.write(3, shard: 2, epoch: 2, .get("x")).results == [.value("2")])
            #expect(try replica.step(4, .merge(right: 2, rightEpoch: 1), epoch: 2) == .staleOperation)
            #expect(try replica.step(4, .merge(right: 2, rightEpoch: 2), epoch: 2) == nil)
            #expect(replica.machine.ownedShards == [ShardTests.shard(1, "", "", epoch: 3)])
            #expect(try replica.write(3, epoch: 3, .get("x")).results == [.value("2")])
            #expect(try StepTests.rawPairs(replica, .sessions).count == 1)
        }
    }

    @Suite("9. A merge revives nobody") struct Rule9 {
        @Test("A merge does not bring an evicted session back", arguments: [false, true])
        func evictedOnOneSide(_ restarts: Bool) throws {
            let replica = try Replica(limits: .init(sessionsPerShard: 2))
            _ = try replica.step(3, .split(key: Bytes("m"), newShard: 2))
            // executed on the left, whose session then has to go; the right still has its copy
            #expect(try replica.write(1, epoch: 2, .increment("a", by: 1)).error == nil)
            for nonce: UInt64 in 1...2 { _ = try replica.apply(.openSession(shard: 1, epoch: 2, nonce: nonce)) }
            let fresh = try #require(try replica.apply(.openSession(shard: 2, epoch: 2, nonce: 9)).session)
            if restarts { try replica.restart() }
            #expect(try replica.step(4, .merge(right: 2, rightEpoch: 2), epoch: 2) == nil)
            if restarts { try replica.restart() }
            #expect(try replica.write(1, epoch: 3, .increment("a", by: 1)).error == .sessionExpired)
            // one that was never on the left is kept
            #expect(try replica.write(1, epoch: 3, token: fresh, .get("a")).results == [.value("1")])
        }
    }

    @Suite("10. What is left behind means nothing") struct Rule10 {
        @Test("What a moved shard left in the expiry index removes nothing") func orphans() throws {
            let replica = try Replica()
            _ = try replica.write(1, .set("a", "old", expiresIn: 50))
            _ = try replica.step(3, .open)
            _ = try replica.step(3, .freeze)
            _ = try replica.step(3, .release)
            #expect(replica.machine.mayHoldExpiringKeys)
            // it comes back with another expiry
            let key = Bytes([KeyKind.data.rawValue])
            let pairs = ["a": Int64(500), "b": 50].sorted { $0.key < $1.key }.map { name, expiry in
                StagedPair(
                    key: Bytes(key.array + Array(name.utf8)), value: StoredValue(Bytes("new"), expiry: expiry).encoded)
            }
            let back = Shard(id: 1, range: Replica.shard.range, group: "g1", epoch: 4)
            #expect(try replica.step(5, .receive(back), epoch: 3) == nil)
            let chunk = StagedChunk(
                number: 0, pairs: pairs, cursor: nil, tail: LogIndex(1), isComplete: true, replicatedTime: 10)
            #expect(try replica.step(5, .stage(chunk), epoch: 3) == nil)
            #expect(try replica.step(5, .adopt, epoch: 3) == nil)
            _ = try replica.apply(.time(60))
            #expect(try StepTests.rawPairs(replica, .data).map { $0[0].suffix(from: 9).text } == ["a"])
            #expect(replica.machine.mayHoldExpiringKeys)
            _ = try replica.apply(.time(600))
            #expect(try StepTests.rawPairs(replica, .data, .expiry).isEmpty)
            #expect(!replica.machine.mayHoldExpiringKeys)
        }
    }

    @Suite("Why any replica of the source may answer") struct AskingTests {
        @Test func onlyWhoHasOpenedAnswers() throws {
            let replica = try Replica()
            func read(_ operation: UInt64, cursor: Bytes? = nil, tail: Int64 = 0) throws -> ReadMoveReply {
                try replica.machine.readMove(
                    ReadMoveRequest(
                        group: "g1", operation: operation, shard: 1, epoch: 1, cursor: cursor, tail: LogIndex(tail)))
            }
            #expect(try read(3).error == .refused)
            _ = try replica.step(3, .open)
            #expect(try read(2).error == .staleOperation && read(4).error == .refused)
            #expect(try read(3, cursor: Bytes("?")).error == .badRequest)
            #expect(try read(3, tail: .max).error == .badRequest)
            let farthest = MoveCursor(.changes(LogIndex(.max), position: .max >> 32)).encoded
            #expect(try read(3, cursor: farthest, tail: .max - 1).pairs.isEmpty)
            let scanned = try read(3)
            #expect(
                scanned.tail == replica.machine.appliedPosition.index && scanned.bytesLeft == 0 && !scanned.isComplete)
            // caught up to the last entry of all, which is a change
            _ = try replica.write(1, .set("a", "1"))
            let last = try read(3, tail: scanned.tail.rawValue)
            #expect(!last.pairs.isEmpty && last.tail == replica.machine.appliedPosition.index)
            #expect(try read(3, tail: last.tail.rawValue).bytesLeft == 0)
            // one that has not come as far knows nothing new, and says nothing of how much is left
            let ahead = try read(3, tail: 1000)
            #expect(ahead == ReadMoveReply(tail: LogIndex(1000), replicatedTime: 0))
            _ = try replica.step(3, .resume)
            #expect(try read(3).error == .staleOperation)
        }
    }
}

import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("The formats of moving shards")
struct MoveFormatTests {
    private static func hex(_ bytes: Bytes) -> String {
        bytes.array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    @Test func steps() throws {
        let arena = Arena()
        let chunk = StagedChunk(
            number: 3,
            pairs: [
                StagedPair(key: Bytes("a"), value: Bytes(), continues: true), StagedPair(key: Bytes("b"), value: nil),
            ],
            cursor: Bytes("c"), tail: LogIndex(9), isComplete: true, replicatedTime: -1)
        let actions: [ShardStep.Action] = [
            .split(key: Bytes("m"), newShard: 2), .merge(right: 2, rightEpoch: 7), .open, .freeze, .release, .resume,
            .receive(Replica.shard), .stage(chunk), .adopt, .discard,
        ]
        for action in actions {
            let command = GroupCommand.step(ShardStep(operation: 5, shard: 1, epoch: 2, action: action))
            let packed = command.encoded(arena)
            #expect(try GroupCommand.decoded(packed, arena) == command)
            #expect(CommandPeek(packed)?.kind == .other)
        }
        let request = ReadMoveRequest(
            group: "g1", operation: 1, shard: 2, epoch: 3, cursor: Bytes("x"), tail: LogIndex(4), bytes: 5)
        #expect(ReadMoveRequest(request.packed(arena), arena) == request)
        let reply = ReadMoveReply(
            error: .refused, message: "no", pairs: chunk.pairs, cursor: Bytes(), tail: LogIndex(4), isComplete: true,
            replicatedTime: 8, bytesLeft: 9)
        #expect(ReadMoveReply(reply.packed(arena), arena) == reply)
        #expect(ReadMoveReply(ReadMoveReply().packed(arena), arena) == ReadMoveReply())
        #expect(ReadMoveReply(Bytes([0xff]), arena) == nil && ReadMoveRequest(Bytes([0xff]), arena) == nil)
    }

    @Test func storedRecordsAreTheSameForEver() throws {
        let fence = ShardFence(operation: 5, phase: .frozen, epoch: 2, openedAt: LogIndex(9))
        #expect(
            MoveFormatTests.hex(fence.encoded) == "0100000000000000050400000000000000020000000000000009")
        #expect(try ShardFence(stored: fence.encoded) == fence)
        let changes = ChangeRecord(bytes: 3, keys: [Bytes("a"), Bytes("bc")])
        #expect(MoveFormatTests.hex(changes.encoded) == "0100000000000000030000000161000000026263")
        #expect(try ChangeRecord(stored: changes.encoded) == changes)
        let session = Session(
            token: 1, opened: SessionUse(epoch: 1, index: LogIndex(2)),
            lastUse: SessionUse(epoch: 3, index: LogIndex(4)), floor: 5)
        #expect(
            MoveFormatTests.hex(session.encoded)
                == "02" + [3, 4, 5, 1, 2].map { "000000000000000\($0)" }.joined())
        #expect(MoveFormatTests.hex(session.lastUse.encoded) == "0200000000000000030000000000000004")
        var staged = StagedShard(ShardTests.shard(1, "a", "b", epoch: 2), operation: 3)
        staged.nextChunk = 4
        staged.cursor = Bytes("c")
        staged.openValue = StagedShard.OpenValue(key: Bytes("k"), parts: 2, bytes: 9)
        let stored = try StagedShard(stored: staged.encoded(Arena()), Arena())
        #expect(stored.move == staged.move && stored.openValue == staged.openValue)
        #expect(MoveFormatTests.hex(staged.encoded(Arena())).hasPrefix("01000000000000000300000000000000040000"))
        for cut in 0..<staged.encoded(Arena()).count {
            #expect(throws: StateMachineError.self) {
                try StagedShard(stored: staged.encoded(Arena()).slice(from: 0, count: cut), Arena())
            }
        }
    }

    @Test func aSessionOfTheFirstFormatIsRead() throws {
        let old = ByteWriter.bytes(17) { writer in
            writer.put(UInt8(1))
            writer.put(UInt64(9))
            writer.put(UInt64(5))
        }
        let session = try Session(token: 3, stored: old)
        #expect(session.lastUse == SessionUse(epoch: 0, index: LogIndex(9)) && session.floor == 5)
        #expect(session.opened == .never)
        let key = Bytes([KeyKind.sessions.rawValue])
        let new = Session(token: 3, opened: .never, lastUse: SessionUse(epoch: 1, index: LogIndex(9)), floor: 5)
        #expect(StateDigest.hash(key, old) == StateDigest.hash(key, new.encoded))
    }

    @Test func cursors() {
        for cursor in [
            MoveCursor(.scan(Bytes())), MoveCursor(.scan(Bytes("abc")), sent: .init(offset: 5, hash: 7)),
            MoveCursor(.changes(LogIndex(3), position: 4)),
            MoveCursor(.changes(LogIndex(3), position: 4), sent: .init(offset: 5, hash: 7)),
        ] {
            #expect(MoveCursor(cursor.encoded) == cursor)
        }
        #expect(MoveCursor(Bytes()) == nil && MoveCursor(Bytes([9])) == nil && MoveCursor(Bytes([2, 1])) == nil)
    }

    @Test(arguments: EngineTests.Kind.allCases) func aDeletedRangeIsGoneWithinItsBatch(_ kind: EngineTests.Kind) throws
    {
        let world = try EngineWorld(kind)
        let engine = try world.engine()
        defer { withExtendedLifetime(world) {} }
        let store = ReplicaStore(engine: engine, replicaNumber: 1)
        func key(_ name: String) -> Bytes { store.layout.key(.data, rest: Bytes(name)) }
        func found() throws -> [String] {
            var found: [String] = []
            try store.scan(.data) { key, value in
                found.append("\(KeyLayout.rest(of: key))=\(value)")
                return true
            }
            return found
        }
        for name in ["a", "b", "c", "d"] { store.put(key(name), Bytes("1")) }
        try store.commit()
        store.put(key("bb"), Bytes("2"))
        store.deleteRange((key("b"), key("d")))
        store.put(key("c"), Bytes("3"))
        let expected = ["a=1", "c=3", "d=1"]
        #expect(try found() == expected)
        #expect(try store.get(key("b")) == nil && store.get(key("bb")) == nil && store.get(key("c")) == Bytes("3"))
        try store.commit()
        #expect(try found() == expected)
        try store.commit()
        #expect(try found() == expected)
    }
}

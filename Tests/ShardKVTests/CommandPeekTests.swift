import CMessages
import RaftCore
import ShardMap
import Testing
import WireMessages

@Suite("What a leader sees of a command before it proposes it")
struct CommandPeekTests {
    private let arena = Arena()

    private func write(_ operations: [KeyOperation]) -> Bytes {
        GroupCommand.write(
            SessionWrite(shard: 1, epoch: 1, session: 7, sequence: 300, floor: 299, operations: operations)
        ).encoded(arena)
    }

    @Test func kindsAndCounts() throws {
        let plain = try #require(CommandPeek(write([KeyOperation(.set, key: Bytes("a"), value: Bytes("b"))])))
        #expect(plain.kind == .write && !plain.setsExpiry && plain.operationCount == 1)
        #expect(plain.format == UInt64(MessageFormat.current))
        let open = try #require(CommandPeek(GroupCommand.openSession(shard: 1, epoch: 1, nonce: 9).encoded(arena)))
        #expect(open.kind == .openSession)
        // what clients may not send
        #expect(CommandPeek(GroupCommand.time(5).encoded(arena))?.kind == .other)
        #expect(CommandPeek(GroupCommand.install([]).encoded(arena))?.kind == .other)
    }

    @Test(arguments: [
        KeyOperation(.set, key: Bytes("a"), value: Bytes("b"), expiresInMilliseconds: 1),
        KeyOperation(.expire, key: Bytes("a"), number: 10),
    ]) func expiryIsSeen(_ operation: KeyOperation) {
        let get = KeyOperation(.get, key: Bytes("k"))
        #expect(CommandPeek(write([get, operation, get]))?.setsExpiry == true)
    }

    /// Once committed, a command of a newer format stops its group on every replica, and again after every restart.
    @Test func aNewerFormatIsSeen() {
        let newer = arena.scope { arena in
            let open = arena.make(flotilla__open_session__init)
            let message = arena.make(flotilla__group_command__init)
            message.pointee.format = MessageFormat.current + 1
            message.pointee.open_session = open
            return arena.pack(message)
        }
        #expect(CommandPeek(newer)?.format == UInt64(MessageFormat.current + 1))
    }

    @Test func whatIsCutOffOrMixedIsNone() {
        let whole = write([KeyOperation(.set, key: Bytes("a"), value: Bytes("b"), expiresInMilliseconds: 1)])
        for count in 0..<whole.count { #expect(CommandPeek(whole.slice(from: 0, count: count)) == nil) }
        let open = GroupCommand.openSession(shard: 1, epoch: 1, nonce: 9).encoded(arena)
        #expect(CommandPeek(Bytes(whole.array + open.array)) == nil, "two commands in one")
        var random = SeededRandom(seed: 1)
        for _ in 0..<20_000 {
            var bytes = whole.array
            bytes[Int(random.number(in: 0..<Int64(bytes.count)))] = UInt8(truncatingIfNeeded: random.next())
            _ = CommandPeek(Bytes(bytes))
        }
    }
}

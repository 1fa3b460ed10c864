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
        #expect(plain.format == UInt64(MessageFormat.current) && plain.shard == 1)
        let large = GroupCommand.write(
            SessionWrite(
                shard: .max - 1, epoch: 1, session: 7, sequence: 3, floor: 2,
                operations: [KeyOperation(.get, key: Bytes("first")), KeyOperation(.get, key: Bytes("second"))])
        ).encoded(arena)
        #expect(CommandPeek(large)?.shard == UInt64.max - 1)
        #expect(CommandPeek.firstKey(of: large) == Bytes("first"))
        let open = try #require(CommandPeek(GroupCommand.openSession(shard: 1, epoch: 1, nonce: 9).encoded(arena)))
        #expect(open.kind == .openSession && open.shard == 0)
        #expect(CommandPeek.firstKey(of: GroupCommand.time(5).encoded(arena)) == nil)
        #expect(CommandPeek.firstKey(of: Bytes([0x12, 0x7f])) == nil)
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

    /// Protobuf reads 32 bits of the number and drops what stands above; a leader that did not would propose what it
    /// has not seen, or refuse what every replica can apply.
    @Test(arguments: [UInt64(0), 1 << 32, 1 << 63, .max << 32])
    func aNumberIsReadAsTheReplicasReadIt(above: UInt64) throws {
        func packed(format: UInt64, code: KeyOperation.Code) -> Bytes {
            let operation: [UInt8] =
                [0x08] + varint(above | UInt64(code.rawValue)) + [0x12, 1, UInt8(ascii: "k"), 0x38, 10]
            let write: [UInt8] =
                [0x08, 1, 0x10, 1, 0x18, 7, 0x20, 3, 0x28, 2, 0x32, UInt8(operation.count)] + operation
            return Bytes([0x08] + varint(above | format) + [0x12, UInt8(write.count)] + write)
        }
        let current = UInt64(MessageFormat.current)
        for code in [KeyOperation.Code.get, .expire] {
            let command = packed(format: current, code: code)
            guard case .write(let write) = try GroupCommand.decoded(command, arena) else {
                Issue.record("no write")
                continue
            }
            #expect(write.operations.map(\.code) == [code])
            let peek = try #require(CommandPeek(command))
            #expect(peek.kind == .write && peek.operationCount == 1)
            #expect(peek.setsExpiry == (code == .expire))
            #expect(peek.format == current)
        }
        let next = UInt64(ClusterLevel.newest) + 1
        let newer = packed(format: next, code: .get)
        #expect {
            try GroupCommand.decoded(newer, arena)
        } throws: { error in
            let error = error as? NamedErrorThrown
            return error?.error == .unknownFormat && error?.message?.contains("cluster level \(next)") == true
        }
        #expect(CommandPeek(newer)?.format == next && CommandPeek(newer)?.level == next)
        #expect(CommandPeek(packed(format: 0, code: .get))?.level == UInt64(ClusterLevel.first))
    }

    private func varint(_ number: UInt64) -> [UInt8] {
        var (bytes, rest) = ([UInt8](), number)
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        return bytes + [UInt8(rest)]
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

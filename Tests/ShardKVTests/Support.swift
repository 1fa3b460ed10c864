import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

/// A replica with a log: applies commands one entry each, and can be started again on the same engine.
final class Replica {
    static let number: UInt64 = 7
    static let shard = Shard(id: 1, range: KeyRange(start: Bytes(), end: Bytes()), group: "g1", epoch: 1)
    /// Of the session that the second entry opens.
    static let token = SessionTable().freeToken(of: 0xabc, openedAt: LogIndex(2))

    let engine: any KeyValueEngine
    let limits: KeyValueStateMachine.Limits
    private(set) var machine: KeyValueStateMachine
    private let arena = Arena()
    private var sequence: UInt64 = 0

    init(
        engine: any KeyValueEngine = MemoryEngine(), limits: KeyValueStateMachine.Limits = .init(),
        shards: [Shard] = [Replica.shard]
    ) throws {
        self.engine = engine
        self.limits = limits
        machine = try KeyValueStateMachine(engine: engine, replicaNumber: Replica.number, limits: limits)
        if !shards.isEmpty {
            #expect(try apply(.install(shards)).error == nil)
            let open = GroupCommand.openSession(shard: shards[0].id, epoch: shards[0].epoch, nonce: 0xabc)
            let token = SessionTable().freeToken(of: 0xabc, openedAt: LogIndex(2), epoch: shards[0].epoch)
            #expect(try apply(open) == ExecuteReply(session: token))
        }
    }

    func restart() throws {
        machine = try KeyValueStateMachine(engine: engine, replicaNumber: Replica.number, limits: limits)
    }

    func apply(_ command: GroupCommand) throws -> ExecuteReply { try apply([command])[0] }

    /// Applies the commands as one batch.
    func apply(_ commands: [GroupCommand]) throws -> [ExecuteReply] {
        let first = machine.appliedPosition.index.next
        let entries = commands.enumerated().map { entry(first.advanced(by: $0.offset), $0.element.encoded(arena)) }
        return try machine.apply(entries).map { try #require(ExecuteReply($0, arena)) }
    }

    /// Opens a session on shard 1; its token.
    func openSession(nonce: UInt64 = 1) throws -> UInt64 {
        try #require(try apply(.openSession(shard: 1, epoch: 1, nonce: nonce)).session)
    }

    /// Executes operations as the replica's own client, in one request.
    func execute(_ operations: KeyOperation...) throws -> [KeyResult] {
        let reply = try apply(write(operations))
        #expect(reply.error == nil)
        return reply.results
    }

    /// The client's next write.
    func write(_ operations: [KeyOperation]) -> GroupCommand {
        sequence += 1
        return .write(
            SessionWrite(
                shard: 1, epoch: 1, session: Replica.token, sequence: sequence, floor: sequence, operations: operations)
        )
    }

    func read(_ operations: KeyOperation..., epoch: UInt64 = 1, wallClock: Int64 = 0) throws
        -> KeyValueStateMachine.ReadOutcome
    {
        try machine.read(
            ExecuteRequest(group: "g1", shard: 1, epoch: epoch, reads: operations), wallClock: wallClock)
    }

    func result(_ operation: KeyOperation, wallClock: Int64 = 0) throws -> KeyResult {
        guard case .reply(let reply) = try read(operation, wallClock: wallClock) else {
            Issue.record("the read needs time")
            return KeyResult()
        }
        return try #require(reply.results.first)
    }
}

func entry(_ index: LogIndex, term: Int64 = 1, kind: EntryKind = .data, _ payload: Bytes) -> CommittedEntry {
    CommittedEntry(position: LogPosition(term: Term(term), index: index), kind: kind, payload: payload)
}

func configurationEntry(_ index: LogIndex, _ configuration: Configuration) -> CommittedEntry {
    CommittedEntry(
        position: LogPosition(term: Term(1), index: index), kind: .configuration, payload: Bytes(),
        configuration: configuration)
}

/// Everything an engine holds, in order.
func contents(_ engine: any KeyValueEngine) throws -> [[Bytes]] {
    var pairs: [[Bytes]] = []
    try engine.scan(from: Bytes(), to: Bytes()) { key, value in
        pairs.append([key, value])
        return true
    }
    return pairs
}

extension KeyOperation {
    static func get(_ key: String) -> KeyOperation { KeyOperation(.get, key: Bytes(key)) }
    static func set(_ key: String, _ value: String, expiresIn: Int64? = nil) -> KeyOperation {
        KeyOperation(.set, key: Bytes(key), value: Bytes(value), expiresInMilliseconds: expiresIn)
    }
    static func set(_ key: String, _ value: String, at moment: Int64) -> KeyOperation {
        KeyOperation(.set, key: Bytes(key), value: Bytes(value), expiresAtMilliseconds: moment)
    }
    static func delete(_ key: String) -> KeyOperation { KeyOperation(.delete, key: Bytes(key)) }
    static func increment(_ key: String, by number: Int64) -> KeyOperation {
        KeyOperation(.increment, key: Bytes(key), number: number)
    }
    static func append(_ key: String, _ value: String) -> KeyOperation {
        KeyOperation(.append, key: Bytes(key), value: Bytes(value))
    }
    static func expire(_ key: String, in milliseconds: Int64) -> KeyOperation {
        KeyOperation(.expire, key: Bytes(key), number: milliseconds)
    }
    static func expire(_ key: String, at moment: Int64) -> KeyOperation {
        KeyOperation(.expire, key: Bytes(key), expiresAtMilliseconds: moment)
    }
    static func persist(_ key: String) -> KeyOperation { KeyOperation(.persist, key: Bytes(key)) }
    static func exists(_ key: String) -> KeyOperation { KeyOperation(.exists, key: Bytes(key)) }
    static func stringLength(_ key: String) -> KeyOperation { KeyOperation(.stringLength, key: Bytes(key)) }
    static func timeToLive(_ key: String) -> KeyOperation { KeyOperation(.timeToLive, key: Bytes(key)) }
    static func scan(_ from: String, to end: String = "", limit: Int64 = 0) -> KeyOperation {
        KeyOperation(.scan, key: Bytes(from), value: Bytes(end), number: limit)
    }
    static var count: KeyOperation { KeyOperation(.count, key: Bytes()) }
}

extension KeyResult {
    static func value(_ text: String) -> KeyResult { KeyResult(value: Bytes(text)) }
    static func integer(_ number: Int64) -> KeyResult { KeyResult(integer: number) }
    static func pairs(_ pairs: [(String, String)], more: Bool) -> KeyResult {
        KeyResult(integer: more ? 1 : 0, pairs: pairs.map { Pair(key: Bytes($0.0), value: Bytes($0.1)) })
    }
}

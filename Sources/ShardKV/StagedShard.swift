import CMessages
import RaftCore
import ShardMap
import WireMessages

/// A shard on its way to this group. Its pairs lie in the store where they will be used; here is how far they have come.
///
///     operation (8)  next chunk (8)  hash of the last chunk (8)  tail (8)  time (8)  bytes staged (8)
///     parts of the value that is not whole (8)  their bytes (8)
///     flags (1): 1 complete, 2 cursor, 4 a value is not whole
///     length of the ShardRecord (4)  of the cursor (4)  of the key of the value that is not whole (4)  these three
struct StagedShard: Sendable {
    /// A value whose end has not come yet; its bytes are in the store.
    struct OpenValue: Equatable, Sendable {
        /// Raw, without replica number.
        var key: Bytes
        var parts: UInt64 = 0
        var bytes: UInt64 = 0
    }

    /// As it will be.
    let shard: Shard
    let operation: UInt64
    var nextChunk: UInt64 = 0
    /// Of the chunk before the next one, to know it again.
    var lastHash: UInt64 = 0
    var tail = LogIndex.zero
    var cursor: Bytes?
    /// Not below the source's wherever something was read.
    var replicatedTime: Int64 = 0
    var bytesStaged: UInt64 = 0
    var isComplete = false
    var openValue: OpenValue?
    /// Once it is complete; not stored here, but read from the sessions' own pairs.
    var sessions: SessionTable?

    /// Longest stored value taken in; no reply and no value of a client is as long.
    static let valueBytes: UInt64 = 64 << 20

    init(_ shard: Shard, operation: UInt64) {
        self.shard = shard
        self.operation = operation
    }

    var move: ShardMove {
        ShardMove(
            operation: operation, shard: shard.id, epoch: shard.epoch - 1, phase: isComplete ? .complete : .receiving,
            staging: ShardMove.Staging(
                shard: shard, nextChunk: nextChunk, cursor: cursor, tail: tail, isComplete: isComplete,
                bytesStaged: bytesStaged))
    }

    /// Whether the raw `key` belongs to the shard.
    func covers(_ key: Bytes) -> Bool {
        var reader = ByteReader(key)
        switch reader.byte().flatMap({ KeyKind(rawValue: $0) }) {
        case .data: return shard.range.contains(reader.rest)
        case .sessions: return reader.number() == shard.id && reader.rest.count == 8
        case .replies: return reader.number() == shard.id && reader.rest.count == 16
        default: return false
        }
    }
}

// MARK: as it is stored

extension StagedShard {
    func encoded(_ arena: Arena) -> Bytes {
        let record = arena.scope { arena in shard.encoded(arena).map { arena.pack($0) } ?? Bytes() }
        let (cursorBytes, keyBytes) = (cursor ?? Bytes(), openValue?.key ?? Bytes())
        return ByteWriter.bytes(78 + record.count + cursorBytes.count + keyBytes.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(operation)
            writer.put(nextChunk)
            writer.put(lastHash)
            writer.put(tail.rawValue)
            writer.put(replicatedTime)
            writer.put(bytesStaged)
            writer.put(openValue?.parts ?? 0)
            writer.put(openValue?.bytes ?? 0)
            writer.put(UInt8((isComplete ? 1 : 0) | (cursor == nil ? 0 : 2) | (openValue == nil ? 0 : 4)))
            for part in [record, cursorBytes, keyBytes] { writer.put(UInt32(part.count)) }
            for part in [record, cursorBytes, keyBytes] { writer.put(part) }
        }
    }

    init(stored value: Bytes, _ arena: Arena) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .staging)
        guard let operation = reader.number(), let nextChunk = reader.number(), let hash = reader.number(),
            let tail = reader.signedNumber(), let time = reader.signedNumber(), let bytes = reader.number(),
            let parts = reader.number(), let partBytes = reader.number(), let flags = reader.byte(), tail >= 0,
            let recordBytes = reader.shortNumber(), let cursorBytes = reader.shortNumber(),
            let keyBytes = reader.shortNumber(), let record = reader.bytes(Int(recordBytes)),
            let cursor = reader.bytes(Int(cursorBytes)), let key = reader.bytes(Int(keyBytes)), reader.isAtEnd,
            let shard = Shard(record: record, arena), shard.epoch > 0
        else { throw StoreFormat.damaged(.staging) }
        self.init(shard, operation: operation)
        self.nextChunk = nextChunk
        lastHash = hash
        self.tail = LogIndex(tail)
        replicatedTime = time
        bytesStaged = bytes
        isComplete = flags & 1 != 0
        self.cursor = flags & 2 != 0 ? cursor.compacted : nil
        if flags & 4 != 0 { openValue = OpenValue(key: key.compacted, parts: parts, bytes: partBytes) }
    }

    /// Everything that is being staged, with the sessions of what is complete.
    static func load(_ store: ReplicaStore) throws(StateMachineError) -> [StagedShard] {
        let arena = Arena()
        var found: [StagedShard] = []
        try store.scan(.staging) { (key, value) throws(StateMachineError) in
            let staged = try StagedShard(stored: value, arena)
            guard key == store.layout.key(.staging, staged.shard.id) else { throw StoreFormat.damaged(.staging) }
            found.append(staged)
            return true
        }
        for position in found.indices where found[position].isComplete {
            found[position].sessions = try SessionTable(of: found[position].shard.id, in: store)
        }
        return found
    }
}

extension Shard {
    /// The shard of a packed record; nil if it is malformed.
    init?(record: Bytes, _ arena: Arena) {
        let shard = arena.scope { arena in
            arena.unpack(flotilla__shard_record__init, record).map { Shard($0.pointee) }
        }
        guard let shard else { return nil }
        self = shard
    }
}

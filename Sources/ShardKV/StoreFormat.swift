import RaftCore
import ShardMap

// How a replica's state lies in the engine:
//
//     key    = replica number (8, big-endian)  kind (1)  rest
//     value  = format version (1)  body
//
//     kind       rest                               body
//     meta       -                                  term (8) index (8) replicated time (8) expiring keys (8)
//                                                   hash version (1) hash (8) configuration
//     map        -                                  packed ClusterMap
//     shards     shard (8)                          packed ShardRecord
//     sessions   shard (8) token (8)                epoch (8) and index (8) of last use, floor (8),
//                                                   epoch (8) and index (8) of its opening
//                shard (8) 0                        epoch (8) and index (8): no evicted session was used later
//     replies    shard (8) token (8) sequence (8)   request hash (8) packed ExecuteReply
//     expiry     expiry (8) user key                -
//     data       user key                           flags (1) [expiry (8)] payload
//     fences     shard (8)                          operation (8) phase (1) epoch (8) index of OPEN (8)
//     staging    shard (8)                          as StagedShard says
//     parts      shard (8) number (8)               the next bytes of the value that is being staged
//     changes    shard (8) index (8)                bytes (8), then each: length (4) key without replica number
//
// Pairs of a shard that is being staged lie where they will be used: under sessions, replies, expiry and data. Whoever
// looks for what the group owns begins with its shards, and so does not meet them.
//
// and of the controller, besides the map:
//
//     operations     operation (8)                  packed OperationRecord
//     counters       -                              next operation (8) next node (8) next shard (8)
//     deletedGroups  name                           -
//     removedNodes   node (8)                       incarnation (8)
//     settings       -                              rebalancing (1: 0 off, 1 once, 2 on); absent: on
//     history        version of the map (8)         what leads back to it from the next version:
//                                                   records (1: 1 nodes, 2 groups, 3 shards, 4 level)
//                                                   position (4) count (4)
//                                                   packed ClusterMap of the records that were there
//
//     configuration = members (4) old voters (4), then each: IPv4 (4) port (4) idx (4) role (1)
//
// Everything lies under the number, so a replica's state can be copied under another one by its keys alone.

/// Kinds of keys; the byte after the replica number. Numbers never change their meaning.
enum KeyKind: UInt8 {
    case meta = 1
    case map = 2
    case shards = 3
    case sessions = 4
    case replies = 5
    case expiry = 6
    case data = 7
    case fences = 8
    case staging = 9
    case parts = 10
    case changes = 11
    case operations = 16
    case counters = 17
    case deletedGroups = 18
    case removedNodes = 19
    case history = 20
    case settings = 21
}

/// The version written before every value; a newer one is refused, never guessed at.
enum StoreFormat {
    /// Of every kind but those below.
    static let current: UInt8 = 1
    /// Of the meta record. Version 1 ended before the hash.
    static let meta: UInt8 = 2
    /// Of sessions. Version 1 had neither an epoch, which is read as 0, nor anything behind the floor.
    static let session: UInt8 = 2

    static func newest(_ kind: KeyKind) -> UInt8 {
        switch kind {
        case .meta: meta
        case .sessions: session
        default: current
        }
    }

    /// A reader behind the version of `value`, or the reason why it cannot be read.
    static func open(_ value: Bytes, _ kind: KeyKind) throws(StateMachineError) -> ByteReader {
        var reader = ByteReader(value)
        guard let version = reader.byte() else { throw damaged(kind) }
        guard version <= newest(kind) else {
            throw StateMachineError(
                "stored \(kind) have format \(version), this version reads up to \(newest(kind)); upgrade",
                needsNewerProgram: true)
        }
        return reader
    }

    static func damaged(_ kind: KeyKind) -> StateMachineError { StateMachineError("stored \(kind) are damaged") }
}

/// The keys of one replica.
struct KeyLayout: Sendable {
    /// Never reused on a node, so a replica never meets what another one left behind.
    let replicaNumber: UInt64
    /// Bytes before the rest of a key.
    static let prefixBytes = 9

    func key(_ kind: KeyKind, rest: Bytes) -> Bytes {
        ByteWriter.bytes(KeyLayout.prefixBytes + rest.count) { writer in
            writer.put(replicaNumber)
            writer.put(kind.rawValue)
            writer.put(rest)
        }
    }

    func key(_ kind: KeyKind, _ numbers: UInt64...) -> Bytes {
        ByteWriter.bytes(KeyLayout.prefixBytes + 8 * numbers.count) { writer in
            writer.put(replicaNumber)
            writer.put(kind.rawValue)
            for number in numbers { writer.put(number) }
        }
    }

    /// Key of the expiry index; entries lie in the order in which they are due.
    func expiryKey(_ expiry: Int64, _ userKey: Bytes) -> Bytes {
        ByteWriter.bytes(KeyLayout.prefixBytes + 8 + userKey.count) { writer in
            writer.put(replicaNumber)
            writer.put(KeyKind.expiry.rawValue)
            writer.put(expiry)
            writer.put(userKey)
        }
    }

    /// The first key behind all keys of `kind`.
    func end(of kind: KeyKind) -> Bytes {
        ByteWriter.bytes(KeyLayout.prefixBytes) { writer in
            writer.put(replicaNumber)
            writer.put(kind.rawValue + 1)
        }
    }

    /// The keys of `kind` that belong to `shard`, where the shard is the first thing they say.
    func keys(of kind: KeyKind, _ shard: UInt64) -> (start: Bytes, end: Bytes) {
        (key(kind, shard), shard == .max ? end(of: kind) : key(kind, shard + 1))
    }

    /// The keys under which user keys of `range` are stored.
    func dataKeys(of range: KeyRange) -> (start: Bytes, end: Bytes) {
        (key(.data, rest: range.start), range.end.isEmpty ? end(of: .data) : key(.data, rest: range.end))
    }

    /// Whether `key` holds a session or what one remembers.
    static func isOfSessionTable(_ key: Bytes) -> Bool {
        key.count >= prefixBytes
            && [KeyKind.sessions.rawValue, KeyKind.replies.rawValue].contains(key[ReplicaKeys.prefixBytes])
    }

    /// What `key` is for; nil if this version does not know.
    static func kind(of key: Bytes) -> KeyKind? {
        key.count >= prefixBytes ? KeyKind(rawValue: key[ReplicaKeys.prefixBytes]) : nil
    }

    /// What follows the prefix.
    static func rest(of key: Bytes) -> Bytes { key.suffix(from: prefixBytes) }
}

/// How far a replica has come, and what of its state has no key of its own. Rewritten by every batch.
struct MetaRecord: Equatable, Sendable {
    /// What has been applied.
    var log = AppliedLog()
    /// Milliseconds since 1970; never goes back.
    var replicatedTime: Int64 = 0
    /// Entries of the expiry index.
    var expiringKeys: UInt64 = 0

    init() {}

    /// Of a replica that has applied nothing.
    init(birth: Configuration) { log.adopt(birth) }

    init(_ value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .meta)
        guard let term = reader.signedNumber(), let index = reader.signedNumber(), let time = reader.signedNumber(),
            let expiring = reader.number(), index >= 0
        else { throw StoreFormat.damaged(.meta) }
        let position = LogPosition(term: Term(term), index: LogIndex(index))
        replicatedTime = time
        expiringKeys = expiring
        guard value[0] > 1 else {
            log = AppliedLog(position, .empty, hashVersion: 0, hash: 0)
            return
        }
        guard let version = reader.byte(), let hash = reader.number(),
            let configuration = Configuration(stored: reader.rest)
        else { throw StoreFormat.damaged(.meta) }
        log = AppliedLog(position, configuration, hashVersion: version, hash: hash)
    }

    var encoded: Bytes {
        ByteWriter.bytes(42 + log.storedConfiguration.count) { writer in
            writer.put(StoreFormat.meta)
            writer.put(log.position.term.rawValue)
            writer.put(log.position.index.rawValue)
            writer.put(replicatedTime)
            writer.put(expiringKeys)
            writer.put(log.storedHash.version)
            writer.put(log.storedHash.value)
            writer.put(log.storedConfiguration)
        }
    }
}

/// A value as it is stored.
struct StoredValue: Equatable, Sendable {
    /// Milliseconds since 1970; the key is expired once replicated time has reached it.
    var expiry: Int64?
    /// The client's bytes.
    var payload: Bytes

    private static let hasExpiry: UInt8 = 1

    init(_ payload: Bytes, expiry: Int64? = nil) {
        self.payload = payload
        self.expiry = expiry
    }

    init(stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .data)
        guard let flags = reader.byte(), flags & ~StoredValue.hasExpiry == 0 else { throw StoreFormat.damaged(.data) }
        if flags & StoredValue.hasExpiry != 0 {
            guard let time = reader.signedNumber() else { throw StoreFormat.damaged(.data) }
            expiry = time
        }
        payload = reader.rest
    }

    var encoded: Bytes {
        ByteWriter.bytes(2 + (expiry == nil ? 0 : 8) + payload.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(expiry == nil ? 0 : StoredValue.hasExpiry)
            if let expiry { writer.put(expiry) }
            writer.put(payload)
        }
    }
}

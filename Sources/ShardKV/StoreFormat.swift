import RaftCore

// How a replica's state lies in the engine:
//
//     key    = replica number (8, big-endian)  kind (1)  rest
//     value  = format version (1)  body
//
//     kind       rest                               body
//     meta       -                                  term (8) index (8) replicated time (8) expiring keys (8)
//     map        -                                  packed ClusterMap
//     shards     shard (8)                          packed ShardRecord
//     sessions   shard (8) token (8)                index of last use (8) floor (8)
//     replies    shard (8) token (8) sequence (8)   request hash (8) packed ExecuteReply
//     expiry     expiry (8) user key                -
//     data       user key                           flags (1) [expiry (8)] payload

/// Kinds of keys; the byte after the replica number. Numbers never change their meaning.
enum KeyKind: UInt8 {
    case meta = 1
    case map = 2
    case shards = 3
    case sessions = 4
    case replies = 5
    case expiry = 6
    case data = 7
}

/// The version written before every value; a newer one is refused, never guessed at.
enum StoreFormat {
    static let current: UInt8 = 1

    /// A reader behind the version of `value`, or the reason why it cannot be read.
    static func open(_ value: Bytes, _ kind: KeyKind) throws(StateMachineError) -> ByteReader {
        var reader = ByteReader(value)
        guard let version = reader.byte() else { throw damaged(kind) }
        guard version <= current else {
            throw StateMachineError(
                "stored \(kind) have format \(version), this version reads up to \(current); upgrade")
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

    /// What follows the prefix.
    static func rest(of key: Bytes) -> Bytes { key.suffix(from: prefixBytes) }
}

/// How far a replica has come, and what of its state has no key of its own. Rewritten by every batch.
struct MetaRecord: Equatable, Sendable {
    /// The last applied entry.
    var applied = LogPosition.zero
    /// Milliseconds since 1970; never goes back.
    var replicatedTime: Int64 = 0
    /// Entries of the expiry index.
    var expiringKeys: UInt64 = 0

    init() {}

    init(_ value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .meta)
        guard let term = reader.signedNumber(), let index = reader.signedNumber(), let time = reader.signedNumber(),
            let expiring = reader.number()
        else { throw StoreFormat.damaged(.meta) }
        applied = LogPosition(term: Term(term), index: LogIndex(index))
        replicatedTime = time
        expiringKeys = expiring
    }

    var encoded: Bytes {
        ByteWriter.bytes(33) { writer in
            writer.put(StoreFormat.current)
            writer.put(applied.term.rawValue)
            writer.put(applied.index.rawValue)
            writer.put(replicatedTime)
            writer.put(expiringKeys)
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

import RaftCore
import ShardMap

/// Where a source goes on with what it sends of a shard. The destination keeps it and gives it back; any replica of the
/// source understands it.
///
///     place (1): 1 scan, 2 changes; + 2 in the middle of a value
///     in the middle of a value: offset (8) hash of the whole value (8)
///     scan: raw key, without replica number
///     changes: index of their entry (8)  position in its list (4)
struct MoveCursor: Equatable {
    enum Place: Equatable {
        /// At this key, or the next one there is.
        case scan(Bytes)
        /// At this key of an entry's changes.
        case changes(LogIndex, position: Int)
    }

    /// How much of a value has been sent.
    struct Sent: Equatable {
        var offset: Int
        /// Tells whether the value is still the same.
        var hash: UInt64
    }

    var place: Place
    var sent: Sent?

    init(_ place: Place, sent: Sent? = nil) {
        self.place = place
        self.sent = sent
    }

    var encoded: Bytes {
        let (kind, rest): (UInt8, Bytes) =
            switch place {
            case .scan(let key): (1, key)
            case .changes(let index, let position):
                (
                    2,
                    ByteWriter.bytes(12) { writer in
                        writer.put(index.rawValue)
                        writer.put(UInt32(position))
                    }
                )
            }
        return ByteWriter.bytes(1 + (sent == nil ? 0 : 16) + rest.count) { writer in
            writer.put(sent == nil ? kind : kind + 2)
            if let sent {
                writer.put(UInt64(sent.offset))
                writer.put(sent.hash)
            }
            writer.put(rest)
        }
    }

    init?(_ bytes: Bytes) {
        var reader = ByteReader(bytes)
        guard let kind = reader.byte(), (1...4).contains(kind) else { return nil }
        if kind > 2 {
            guard let offset = reader.number().flatMap({ Int(exactly: $0) }), let hash = reader.number() else {
                return nil
            }
            sent = Sent(offset: offset, hash: hash)
        }
        if kind % 2 == 1 {
            place = .scan(reader.rest)
            return
        }
        guard let index = reader.signedNumber(), index > 0, let position = reader.shortNumber(), reader.isAtEnd else {
            return nil
        }
        place = .changes(LogIndex(index), position: Int(position))
    }
}

/// Fills an answer of a source up to its length.
struct MovePage {
    private(set) var pairs: [StagedPair] = []
    private(set) var bytesLeft: Int

    /// What became of a key.
    enum Added: Equatable {
        case whole
        /// A part of it; the rest goes into the next answer.
        case part(MoveCursor.Sent)
        /// Nothing: the answer is full.
        case none
    }

    /// What a pair costs besides its bytes; bounds the number of keys that are looked at.
    static let pairBytes = 32
    /// Of a value that does not fit, at least this much is sent.
    static let partBytes = 64

    init(bytes: Int) { bytesLeft = bytes }

    /// Adds what `key` holds, from where an earlier answer has stopped.
    mutating func add(_ key: Bytes, _ value: Bytes?, from sent: MoveCursor.Sent? = nil) -> Added {
        if !pairs.isEmpty && bytesLeft <= 0 { return .none }
        guard let value else {
            append(key, nil)
            return .whole
        }
        if let sent, sent.offset >= value.count || hash(value) != sent.hash {
            // It has changed since its beginning was read, so there is a change to be sent later, or it has expired.
            // What was sent of it is void.
            append(key, nil)
            return .whole
        }
        let rest = value.suffix(from: sent?.offset ?? 0)
        let room = bytesLeft - key.count - MovePage.pairBytes
        if rest.count <= room {
            append(key, rest)
            return .whole
        }
        guard pairs.isEmpty else { return .none }
        let count = max(room, MovePage.partBytes)
        guard count < rest.count else {
            append(key, rest)
            return .whole
        }
        append(key, rest.slice(from: 0, count: count), continues: true)
        return .part(MoveCursor.Sent(offset: value.count - rest.count + count, hash: sent?.hash ?? hash(value)))
    }

    private mutating func append(_ key: Bytes, _ value: Bytes?, continues: Bool = false) {
        pairs.append(StagedPair(key: key, value: value, continues: continues))
        bytesLeft -= key.count + (value?.count ?? 0) + MovePage.pairBytes
    }

    private func hash(_ value: Bytes) -> UInt64 {
        var hash = RollingHash()
        hash.combine(value)
        return hash.value
    }
}

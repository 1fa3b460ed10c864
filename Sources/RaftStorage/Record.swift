import RaftCore

/// What a record says; the numbers are part of the format.
enum RecordKind: UInt8 {
    case hardState = 1
    case truncate = 2
    case data = 3
    case noOp = 4
    case configuration = 5
    case note = 6
    case compact = 7
    case reset = 8
    case debt = 9
    case debtPaid = 10
    case promisesLost = 11
    case dropped = 12

    init(_ kind: EntryKind) {
        switch kind {
        case .data: self = .data
        case .noOp: self = .noOp
        case .configuration: self = .configuration
        }
    }

    /// What kind of entry the record holds; nil if it holds none.
    var entryKind: EntryKind? {
        switch self {
        case .data: .data
        case .noOp: .noOp
        case .configuration: .configuration
        case .hardState, .truncate, .note, .compact, .reset, .debt, .debtPaid, .promisesLost, .dropped: nil
        }
    }

    var inSummary: RecordKinds { RecordKinds(rawValue: 1 << UInt32(rawValue)) }
}

/// The smallest thing in the log that has an owner: 36 bytes with a checksum over them and the payload, then the
/// payload. Unused fields are zero.
struct Record {
    static let headByteCount = 36

    var kind: RecordKind
    var group: LogGroup
    /// Of an entry, its own; of a hard state, its term; of a truncation, the last entry that stays; of a new beginning,
    /// the last entry that is gone; of a debt, the last entry ever held.
    var position: LogPosition
    /// Points into what was decoded.
    var payload: UnsafeRawBufferPointer

    var byteCount: Int { Record.headByteCount + payload.count }
    /// Whether term and index are such as counting reaches.
    var hasCountedPosition: Bool {
        let counted = 0..<Int64(LogFormat.countBound)
        return counted.contains(position.term.rawValue) && counted.contains(position.index.rawValue)
    }

    /// Appends the record to `scratch`, checksum included.
    func encode(into scratch: Scratch) {
        let bytes = scratch.extend(by: byteCount)
        storeHead(in: bytes)
        UnsafeMutableRawBufferPointer(rebasing: bytes[Record.headByteCount...]).copyMemory(from: payload)
        bytes.store(Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[4...])), at: 0)
    }

    /// Appends the head alone, checksum included; the payload goes wherever the caller puts it.
    func encodeHead(into scratch: Scratch) {
        let bytes = scratch.extend(by: Record.headByteCount)
        storeHead(in: bytes)
        var checksum = Checksum()
        checksum.update(UnsafeRawBufferPointer(rebasing: bytes[4...]))
        checksum.update(payload)
        bytes.store(checksum.value, at: 0)
    }

    /// All of the head but the checksum.
    private func storeHead(in bytes: UnsafeMutableRawBufferPointer) {
        bytes.store(UInt32(payload.count), at: 4)
        bytes.store(group, at: 8)
        bytes.store(position.term.rawValue, at: 16)
        bytes.store(position.index.rawValue, at: 24)
        bytes.store(UInt32(kind.rawValue), at: 32)
    }

    /// The record at the start of `bytes`; nil if there is none that fits in or its kind is unknown. The checksum
    /// is not looked at.
    static func decode(_ bytes: UnsafeRawBufferPointer) -> Record? {
        guard bytes.count >= headByteCount, let kind = RecordKind(rawValue: bytes[32]) else { return nil }
        let payloadCount = Int(bytes.little(UInt32.self, at: 4))
        guard payloadCount <= bytes.count - headByteCount else { return nil }
        return Record(
            kind: kind, group: bytes.little(at: 8),
            position: LogPosition(term: Term(bytes.little(at: 16)), index: LogIndex(bytes.little(at: 24))),
            payload: bytes.part(headByteCount..<headByteCount + payloadCount))
    }

    /// Whether the record that fills `bytes` is what was written.
    static func isIntact(_ bytes: UnsafeRawBufferPointer) -> Bool {
        bytes.count >= headByteCount && Checksum.of(bytes.part(4..<bytes.count)) == bytes.little(at: 0)
    }
}

/// Payloads that the log itself understands.
enum RecordPayload {
    /// Nobody: nothing; otherwise the peer's text.
    static func vote(_ bytes: UnsafeRawBufferPointer) -> PeerID?? {
        guard !bytes.isEmpty else { return .some(nil) }
        guard let peer = PeerID(String(decoding: bytes, as: UTF8.self)) else { return nil }
        return .some(peer)
    }

    /// Two lists, the peers with the learners and the old peers; each a count and that many texts, every text behind its length.
    static func append(_ configuration: Configuration, to scratch: Scratch) {
        for list in [configuration.listed, configuration.oldPeers] {
            scratch.append(UInt32(list.count))
            for peer in list {
                let text = peer.description
                scratch.append(UInt32(text.utf8.count))
                scratch.append(text: text)
            }
        }
    }

    /// Where the damage is, and what: the offset, then two texts, each behind its length.
    static func append(_ damage: Damage, to scratch: Scratch) {
        scratch.append(UInt64(damage.offset))
        for text in [damage.file, damage.reason] {
            scratch.append(UInt32(text.utf8.count))
            scratch.append(text: text)
        }
    }

    /// The damage in `bytes`; nil if they are none.
    static func damage(_ bytes: UnsafeRawBufferPointer) -> Damage? {
        guard bytes.count >= 8, let place = Int(exactly: bytes.little(UInt64.self, at: 0)) else { return nil }
        var offset = 8
        func text() -> String? {
            guard bytes.count - offset >= 4 else { return nil }
            let length = Int(bytes.little(UInt32.self, at: offset))
            guard length <= bytes.count - offset - 4 else { return nil }
            defer { offset += 4 + length }
            return String(decoding: bytes.part(offset + 4..<offset + 4 + length), as: UTF8.self)
        }
        guard let file = text(), let reason = text(), offset == bytes.count else { return nil }
        return Damage(file: file, offset: place, reason: reason)
    }

    /// The configuration in `bytes`; nil if they are none.
    static func configuration(_ bytes: UnsafeRawBufferPointer) -> Configuration? {
        var offset = 0
        func number() -> Int? {
            guard bytes.count - offset >= 4 else { return nil }
            defer { offset += 4 }
            return Int(bytes.little(UInt32.self, at: offset))
        }
        func peers() -> [PeerID]? {
            guard let count = number() else { return nil }
            var peers: [PeerID] = []
            for _ in 0..<count {
                guard let length = number(), length <= bytes.count - offset else { return nil }
                let text = String(decoding: bytes.part(offset..<offset + length), as: UTF8.self)
                guard let peer = PeerID(text) else { return nil }
                peers.append(peer)
                offset += length
            }
            return peers
        }
        guard let new = peers(), let old = peers(), offset == bytes.count else { return nil }
        return Configuration(peers: new, oldPeers: old)
    }
}

/// Decodes payloads that the log understands, each text but once: many groups have the same members.
final class PayloadReader {
    /// What is remembered is bounded; the rest is decoded every time.
    private static let knownCountMax = 4096

    private var votes: [Bytes: PeerID?] = [:]
    private var configurations: [Bytes: Configuration] = [:]

    /// As ``RecordPayload/vote(_:)``.
    func vote(_ bytes: UnsafeRawBufferPointer) -> PeerID?? {
        let text = Bytes(copying: bytes)
        if let vote = votes[text] { return .some(vote) }
        guard let vote = RecordPayload.vote(bytes) else { return nil }
        if votes.count < PayloadReader.knownCountMax { votes[text] = .some(vote) }
        return .some(vote)
    }

    /// As ``RecordPayload/configuration(_:)``.
    func configuration(_ bytes: UnsafeRawBufferPointer) -> Configuration? {
        let text = Bytes(copying: bytes)
        if let configuration = configurations[text] { return configuration }
        guard let configuration = RecordPayload.configuration(bytes) else { return nil }
        if configurations.count < PayloadReader.knownCountMax { configurations[text] = configuration }
        return configuration
    }
}

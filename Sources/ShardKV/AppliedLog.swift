import RaftCore
import ShardMap

/// The log as a state machine remembers it: the last entry applied, the membership in force there, and the hash of
/// all entries and results up to it.
struct AppliedLog: Sendable {
    /// The last applied entry.
    private(set) var position = LogPosition.zero
    /// Nil if the state was stored by a version that counted no hash, or another one; then it stays unknown.
    private var trail: AppliedHashTrail? = AppliedHashTrail()
    /// Empty as long as no entry has told it, unless the replica was born with one.
    private(set) var configuration = Configuration.empty
    /// ``configuration`` as it is stored; encoded when it changes and not for each batch.
    private(set) var storedConfiguration = Configuration.empty.stored

    init() {}

    /// As it was stored; `hashVersion` says which hash `hash` is.
    init(_ position: LogPosition, _ configuration: Configuration, hashVersion: UInt8, hash: UInt64) {
        self.position = position
        trail = hashVersion == RollingHash.version ? AppliedHashTrail(at: position.index, value: hash) : nil
        adopt(configuration)
    }

    /// Adds the result of the entry at ``position``, as far as it is the same on every replica.
    mutating func finish(_ entry: CommittedEntry, result: Bytes) { trail?.add(entry, result: result) }

    /// The hash as it is stored, with its version; zero is none.
    var storedHash: (version: UInt8, value: UInt64) { trail.map { (RollingHash.version, $0.value) } ?? (0, 0) }

    /// The hash at `index`, if it is remembered.
    func hash(at index: LogIndex) -> AppliedHash? {
        trail?.value(at: index).map { AppliedHash(version: RollingHash.version, index: index, value: $0) }
    }

    mutating func adopt(_ configuration: Configuration) {
        self.configuration = configuration
        storedConfiguration = configuration.stored
    }

    /// What a snapshot of the state would stand for; nil before the first entry, or while nobody has said who the
    /// members are.
    var meta: SnapshotMeta? {
        guard position.index > .zero, !configuration.isEmpty else { return nil }
        return SnapshotMeta(last: position, configuration: configuration)
    }
}

extension AppliedLog: Equatable {
    static func == (left: AppliedLog, right: AppliedLog) -> Bool {
        left.position == right.position && left.configuration == right.configuration
            && left.storedHash == right.storedHash
    }
}

/// What a committed entry holds for a state machine; every one of this module decides alike about it.
enum EntryContent<Command> {
    /// No command.
    case nothing
    case command(Command)
    /// What no replica can read; its proposer hears why.
    case malformed(NamedError)
}

extension AppliedLog {
    /// Moves from the last applied entry on to `entry` and looks into it; ``finish(_:result:)`` must follow. Nil for an
    /// entry applied before, which changes nothing.
    ///
    /// Throws at a format newer than this version: a replica that skipped what it does not understand would differ from
    /// those that do.
    mutating func advance<Command>(
        to entry: CommittedEntry, decoding decode: (Bytes) throws(NamedErrorThrown) -> Command
    ) throws(StateMachineError) -> EntryContent<Command>? {
        guard entry.position.index > position.index else { return nil }
        precondition(
            entry.position.index == position.index.next, "entry \(entry.position) is applied after \(position)")
        position = entry.position
        if entry.kind == .configuration, let configuration = entry.configuration { adopt(configuration) }
        guard entry.kind == .data else { return .nothing }
        do throws(NamedErrorThrown) {
            return .command(try decode(entry.payload))
        } catch {
            guard error.error != .unknownFormat else {
                let detail = error.message.map { " (\($0))" } ?? ""
                throw StateMachineError(
                    "entry \(entry.position): \(error.error.sentence)\(detail)", needsNewerProgram: true)
            }
            return .malformed(error.error)
        }
    }
}

extension Configuration {
    private static let memberBytes = 13

    /// The members as they lie in the meta record.
    fileprivate var stored: Bytes {
        ByteWriter.bytes(8 + Configuration.memberBytes * (listed.count + oldPeers.count)) { writer in
            writer.put(UInt32(listed.count))
            writer.put(UInt32(oldPeers.count))
            for member in listed + oldPeers {
                writer.put(member.address.ip)
                writer.put(UInt32(member.address.port))
                writer.put(UInt32(bitPattern: member.idx))
                writer.put(UInt8(truncatingIfNeeded: member.role.rawValue))
            }
        }
    }

    /// Reads exactly what ``stored`` wrote.
    init?(stored bytes: Bytes) {
        var reader = ByteReader(bytes)
        guard let listed = reader.shortNumber(), let old = reader.shortNumber(),
            bytes.count == 8 + Configuration.memberBytes * (Int(listed) + Int(old))
        else { return nil }
        var members: [PeerID] = []
        for _ in 0..<Int(listed) + Int(old) {
            guard let ip = reader.shortNumber(), let port = reader.shortNumber().flatMap({ UInt16(exactly: $0) }),
                let idx = reader.shortNumber(), let role = reader.byte().flatMap({ PeerID.Role(rawValue: Int32($0)) })
            else { return nil }
            members.append(
                PeerID(address: NodeAddress(ip: ip, port: port), idx: Int32(bitPattern: idx), role: role))
        }
        self.init(peers: Array(members[..<Int(listed)]), oldPeers: Array(members[Int(listed)...]))
    }
}

public import RaftCore

/// A group's number in the log: small and node-local, given when the replica is created, never reused. Number 0 is
/// the node itself.
public typealias LogGroup = UInt64

/// An entry with everything that belongs to it.
public struct LogEntry: Sendable {
    /// Index, and the term it was created in.
    public var position: LogPosition
    /// What it is.
    public var kind: EntryKind
    /// The proposer's bytes; empty unless ``kind`` is data.
    public var payload: Bytes
    /// The membership, if ``kind`` is configuration.
    public var configuration: Configuration?
    /// An entry.
    public init(position: LogPosition, kind: EntryKind, payload: Bytes, configuration: Configuration? = nil) {
        self.position = position
        self.kind = kind
        self.payload = payload
        self.configuration = configuration
    }
}

/// What one group adds to a batch; several of one group stand in order.
public struct LogWrite: Sendable {
    /// Whose.
    public var group: LogGroup
    /// New hard state.
    public var hardState: HardState?
    /// First remove this entry and everything behind it.
    public var truncateFrom: LogIndex?
    /// Then append these, contiguous.
    public var entries: [LogEntry]
    /// An opaque record that replaces the previous one of this group (the node's own state, a tombstone).
    public var note: Bytes?
    /// A write.
    public init(
        group: LogGroup, hardState: HardState? = nil, truncateFrom: LogIndex? = nil, entries: [LogEntry] = [],
        note: Bytes? = nil
    ) {
        self.group = group
        self.hardState = hardState
        self.truncateFrom = truncateFrom
        self.entries = entries
        self.note = note
    }
}

/// What the log holds of a group after a restart.
public struct RecoveredGroup: Sendable {
    /// Last hard state.
    public var hardState: HardState
    /// Runs of entries of one term: the term and the first index of each, ascending. Empty: no entries.
    public var termRuns: [LogPosition]
    /// Last index; zero if there are no entries.
    public var lastIndex: LogIndex
    /// Configuration entries, ascending.
    public var configurations: [PlacedConfiguration]
    /// Last note.
    public var note: Bytes?
    /// If set, the group may not be served: which file and offset is damaged, for an operator.
    public var damage: String?
    /// What is recovered.
    public init(
        hardState: HardState = .initial, termRuns: [LogPosition] = [], lastIndex: LogIndex = .zero,
        configurations: [PlacedConfiguration] = [], note: Bytes? = nil, damage: String? = nil
    ) {
        self.hardState = hardState
        self.termRuns = termRuns
        self.lastIndex = lastIndex
        self.configurations = configurations
        self.note = note
        self.damage = damage
    }
}

/// Why the log cannot do as asked.
public enum StorageError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The disk failed.
    case disk(DiskError)
    /// The log was written in a format newer than this program knows.
    case newerFormat(file: String, found: Int, known: Int)
    /// Bytes that were durable are not what was written.
    case damaged(file: String, offset: Int, reason: String)
    /// The log refused a write because an earlier sync failed; the process must stop.
    case failed(String)

    /// One sentence.
    public var description: String {
        switch self {
        case .disk(let error): error.description
        case .newerFormat(let file, let found, let known):
            "\(file) has format \(found), this version reads up to \(known): upgrade before opening this directory"
        case .damaged(let file, let offset, let reason): "\(file) is damaged at offset \(offset): \(reason)"
        case .failed(let reason): reason
        }
    }
}

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

/// What stands in front of a log whose beginning is gone.
public struct LogBase: Equatable, Sendable {
    /// The last entry that is gone.
    public var position: LogPosition
    /// The membership in force there.
    public var configuration: Configuration
    /// The base of a log that begins behind `position`.
    public init(position: LogPosition, configuration: Configuration) {
        self.position = position
        self.configuration = configuration
    }
}

/// A new beginning of a log.
public enum LogStart: Equatable, Sendable {
    /// The log holds the base's entry: the entries up to it go, those behind stay. Or it begins behind it already:
    /// nothing happens.
    case compact(LogBase)
    /// All entries go; the log begins behind the base. A base at position zero: it begins with entry 1.
    case reset(LogBase)
}

/// What one group adds to a batch; several of one group stand in order. Behind one that drops it there is none.
public struct LogWrite: Sendable {
    /// Whose.
    public var group: LogGroup
    /// New hard state.
    public var hardState: HardState?
    /// The last entry that the group ever held, when part of its log is lost; zero: what was lost has been made good.
    public var debt: LogPosition?
    /// First give the log a new beginning.
    public var start: LogStart?
    /// Then remove this entry and everything behind it.
    public var truncateFrom: LogIndex?
    /// Then append these, contiguous.
    public var entries: [LogEntry]
    /// An opaque record that replaces the previous one of this group (the node's own state, a tombstone).
    public var note: Bytes?
    /// The group goes, with everything it holds; nothing else is said. Its number is not used again.
    public private(set) var drops = false
    /// Nobody knows any more what the group promised: says so to every later start.
    var loss: Damage?
    /// A write.
    public init(
        group: LogGroup, hardState: HardState? = nil, debt: LogPosition? = nil, start: LogStart? = nil,
        truncateFrom: LogIndex? = nil, entries: [LogEntry] = [], note: Bytes? = nil
    ) {
        self.group = group
        self.hardState = hardState
        self.debt = debt
        self.start = start
        self.truncateFrom = truncateFrom
        self.entries = entries
        self.note = note
    }

    /// Removes a group, whole or damaged.
    public init(dropping group: LogGroup) {
        self.init(group: group)
        drops = true
    }

    /// Whether it says everything anew that a group may have promised.
    var makesAllPromises: Bool {
        guard case .reset = start else { return false }
        return hardState != nil && debt != nil && note != nil
    }
}

/// What rot has cost a group; the file and offset in `reason` are for an operator.
public enum GroupDamage: Equatable, Sendable {
    /// Entries were lost, and nothing else: the hard state is known. What is recovered of the log is whole; `debt` is the
    /// last entry the group ever held, as far as the log tells. The group's next write must carry a debt or reset the
    /// log; when it is durable the damage is settled for later starts too.
    case entries(debt: LogPosition, reason: String)
    /// The hard state, the note or the debt was lost, or nobody can tell what: the group may not be served, now or after
    /// any restart. Only a write that drops it is taken, or one that says everything anew (hard state, debt, reset, note).
    case promises(reason: String)

    /// What is damaged, where.
    public var reason: String {
        switch self {
        case .entries(_, let reason), .promises(let reason): reason
        }
    }
}

/// What the log holds of a group after a restart.
public struct RecoveredGroup: Sendable {
    /// Last hard state.
    public var hardState: HardState
    /// What the log begins behind; nil: it begins with entry 1.
    public var base: LogBase?
    /// Runs of entries of one term: the term and the first index of each, ascending. Empty: no entries.
    public var termRuns: [LogPosition]
    /// Last index; without entries that of the base, or zero.
    public var lastIndex: LogIndex
    /// Configuration entries, ascending.
    public var configurations: [PlacedConfiguration]
    /// Last note.
    public var note: Bytes?
    /// The last entry the group ever held, if part of its log was lost and that has not been made good.
    public var debt: LogPosition?
    /// What was lost since; nil: nothing.
    public var damage: GroupDamage?
    /// What is recovered.
    public init(
        hardState: HardState = .initial, base: LogBase? = nil, termRuns: [LogPosition] = [],
        lastIndex: LogIndex = .zero, configurations: [PlacedConfiguration] = [], note: Bytes? = nil,
        debt: LogPosition? = nil, damage: GroupDamage? = nil
    ) {
        self.hardState = hardState
        self.base = base
        self.termRuns = termRuns
        self.lastIndex = lastIndex
        self.configurations = configurations
        self.note = note
        self.debt = debt
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

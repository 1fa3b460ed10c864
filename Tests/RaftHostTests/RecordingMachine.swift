import RaftCore
import RaftStorage

/// What one group's replicas have applied, index by index. The first to apply an entry writes it down; whoever
/// applies another one at that index later, in whatever life, is caught.
final class AppliedHistory: @unchecked Sendable {
    struct Entry: Equatable {
        var term: Term
        var kind: EntryKind
        var byteCount: Int
        var checksum: UInt32
        /// Of the command; 0 for what is none.
        var tag: UInt64
    }

    let group: String
    private(set) var entries: [Entry] = []
    private(set) var violations: [String] = []

    init(group: String) { self.group = group }

    var lastIndex: LogIndex { LogIndex(Int64(entries.count)) }
    var lastPosition: LogPosition { LogPosition(term: entries.last?.term ?? .zero, index: lastIndex) }

    func entry(at index: LogIndex) -> Entry? {
        index > .zero && index <= lastIndex ? entries[Int(index.rawValue) - 1] : nil
    }

    fileprivate func note(_ committed: CommittedEntry, tag: UInt64, after position: LogPosition, by node: Int) {
        let index = committed.position.index
        let entry = Entry(
            term: committed.position.term, kind: committed.kind, byteCount: committed.payload.count,
            checksum: CRC32C.checksum(committed.payload), tag: tag)
        if index != position.index.next || committed.position.term < position.term {
            violations.append("\(group): node \(node) applied \(committed.position) after \(position)")
        }
        if let known = self.entry(at: index) {
            if known != entry { violations.append("\(group): node \(node) applied another entry at \(index)") }
        } else if index == lastIndex.next {
            entries.append(entry)
        } else {
            violations.append("\(group): node \(node) applied \(index), the last known is \(lastIndex)")
        }
    }
}

/// What a machine's state is after a loss of power.
final class MachineStore: @unchecked Sendable {
    var durable = LogPosition.zero
    /// The membership in force there.
    var configuration = Configuration.empty
    /// Of everything applied up to there; nil: unknown.
    var hash: UInt64? = AppliedHashTrail().value
    /// Those of the snapshot it came with.
    var files: [String: Bytes] = [:]
}

/// A state machine that only counts, and tells the group's history what it applies. From time to time it flushes,
/// as a store does: after a restart it begins with what was flushed last.
final class RecordingMachine: SnapshotStateMachine, HashedStateMachine, @unchecked Sendable {
    private let node: Int
    private let history: AppliedHistory
    private let store: MachineStore
    private var random: SeededRandom
    private let flushesOneOf: Int64
    private(set) var appliedPosition: LogPosition
    private var configuration: Configuration
    private var trail: AppliedHashTrail?
    /// Bytes of its snapshots.
    var snapshotBytes = 100_000
    /// Applying this index fails, if set.
    var failsAt: LogIndex?
    /// Nothing is wrong there: the machine does not know what it is.
    var isOutdatedThere = false
    /// Answers a command with itself instead of its tag and position.
    var repeatsPayload = false
    /// What comes of this index is wrong in one bit, if set.
    var isWrongAt: LogIndex?

    init(node: Int, history: AppliedHistory, store: MachineStore, seed: UInt64, flushesOneOf: Int64) {
        self.node = node
        self.history = history
        self.store = store
        self.random = SeededRandom(seed: seed)
        self.flushesOneOf = flushesOneOf
        self.appliedPosition = store.durable
        self.configuration = store.configuration
        self.trail = store.hash.map { AppliedHashTrail(at: store.durable.index, value: $0) }
    }

    var latestHash: AppliedHash? { appliedHash(at: appliedPosition.index) }

    func appliedHash(at index: LogIndex) -> AppliedHash? {
        trail?.value(at: index).map { AppliedHash(version: RollingHash.version, index: index, value: $0) }
    }

    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        var replies: [Bytes] = []
        for entry in entries {
            if entry.position.index == failsAt {
                throw StateMachineError("told to fail at \(entry.position)", needsNewerProgram: isOutdatedThere)
            }
            let tag = Command.tag(of: entry.payload)
            history.note(entry, tag: tag, after: appliedPosition, by: node)
            appliedPosition = entry.position
            if let membership = entry.configuration { configuration = membership }
            let result = tag ^ (entry.position.index == isWrongAt ? 1 : 0)
            trail?.add(entry, result: Bytes("\(result)"))
            replies.append(repeatsPayload ? entry.payload : Bytes("\(result)@\(entry.position)"))
        }
        if random.number(in: 0..<flushesOneOf) == 0 { flush() }
        return replies
    }

    /// The last index applied, in decimal.
    func read(_ query: Bytes) -> Bytes { Bytes("\(appliedPosition.index)") }

    func flush() {
        store.durable = appliedPosition
        store.configuration = configuration
        store.hash = trail?.value
    }

    // MARK: snapshots

    func durableMeta() -> SnapshotMeta? {
        store.durable == .zero ? nil : SnapshotMeta(last: store.durable, configuration: store.configuration)
    }

    func freeze() -> any FrozenState {
        RecordedState(
            meta: SnapshotMeta(last: appliedPosition, configuration: configuration), byteCount: snapshotBytes,
            hash: trail?.value)
    }
}

/// A picture of a ``RecordingMachine``: two files of filler, and one that says for which number they are.
final class RecordedState: FrozenState, Sendable {
    let meta: SnapshotMeta
    fileprivate let byteCount: Int
    private let hash: UInt64?

    init(meta: SnapshotMeta, byteCount: Int, hash: UInt64?) {
        self.meta = meta
        self.hash = hash
        self.byteCount = byteCount
    }

    func writer(to folder: any SnapshotFolder, as number: UInt64) -> any SnapshotWriter {
        RecordedStateWriter(self, folder, number)
    }

    fileprivate func writeEnd(to folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        let last = meta.last
        let peers = meta.configuration.listed.map(\.description).joined(separator: ",")
        try folder.append(Bytes("\(number) \(last.index) \(last.term) \(peers) \(hash ?? 0)"), to: "state")
        try folder.append(Bytes(), to: "empty")
    }

    /// What is in the store when the folder was taken into it; the files must be those written for `number`.
    static func install(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) -> MachineStore {
        let names = try folder.fileNames()
        // a braft's files are for no number, and may be more
        let isOfBraft = names.contains(BraftSnapshot.listName)
        let number = isOfBraft ? 0 : number
        let own = ["empty", "first", "second", "state"]
        guard names == own || (isOfBraft && Set(names).isSuperset(of: own)) else {
            throw StateMachineError("other files: \(names)")
        }
        for name in ["first", "second"] where Command.tag(of: try folder.contents(of: name)) != number {
            throw StateMachineError("\(name) is not for number \(number)")
        }
        let words = try folder.contents(of: "state").text.split(separator: " ")
        guard words.count == 5, UInt64(words[0]) == number, let index = Int64(words[1]), let term = Int64(words[2])
        else {
            throw StateMachineError("not a state for number \(number): \(words)")
        }
        let store = MachineStore()
        for name in names { store.files[name] = try folder.contents(of: name) }
        store.hash = UInt64(words[4]).flatMap { $0 == 0 ? nil : $0 }
        store.durable = LogPosition(term: Term(term), index: LogIndex(index))
        store.configuration = Configuration(peers: words[3].split(separator: ",").compactMap { PeerID(String($0)) })
        return store
    }
}

/// Writes a ``RecordedState`` a few bytes at a time.
private final class RecordedStateWriter: SnapshotWriter, @unchecked Sendable {
    private let state: RecordedState
    private let folder: any SnapshotFolder
    private let number: UInt64
    private let filler: Bytes
    private var offset = 0

    init(_ state: RecordedState, _ folder: any SnapshotFolder, _ number: UInt64) {
        (self.state, self.folder, self.number) = (state, folder, number)
        filler = Command.payload(tag: number, byteCount: state.byteCount / 2)
    }

    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep {
        guard offset < 2 * filler.count else {
            try state.writeEnd(to: folder, as: number)
            return SnapshotStep(bytes: 0, isLast: true)
        }
        let start = offset % filler.count
        let count = min(bytes, filler.count - start)
        try folder.append(
            filler.slice(from: start, count: count), to: offset < filler.count ? "first" : "second")
        offset += count
        return SnapshotStep(bytes: count, isLast: false)
    }
}

/// A payload that can be told from all others: its tag in eight bytes, then filler.
enum Command {
    static func payload(tag: UInt64, byteCount: Int) -> Bytes {
        Bytes(count: max(byteCount, 8)) { buffer in
            for position in 0..<8 { buffer[position] = UInt8(truncatingIfNeeded: tag >> UInt64(8 * position)) }
            guard buffer.count > 8 else { return }
            let filler = UnsafeMutableRawBufferPointer(rebasing: buffer[8...])
            filler.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: tag))
        }
    }

    static func tag(of payload: Bytes) -> UInt64 {
        guard payload.count >= 8 else { return 0 }
        return (0..<8).reduce(0) { $0 | UInt64(payload[$1]) << UInt64(8 * $1) }
    }
}

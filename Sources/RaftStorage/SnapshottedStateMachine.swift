public import RaftCore

/// Makes a state machine that can be frozen, saved, compacted and compared of one that lives in memory. ``SavedStates``
/// makes it.
///
/// What it hashes of an entry is the entry and its reply, which is the same on every replica: so replicas are compared by
/// what they answered, ever since the group began.
///
/// Threads: ``durableMeta()``, ``latestHash`` and ``appliedHash(at:)`` any; the rest as `StateMachine` says.
public final class SnapshottedStateMachine: SnapshotStateMachine, HashedStateMachine, @unchecked Sendable {
    private let machine: any VolatileStateMachine
    private let group: String
    private let number: UInt64
    private let states: SavedStates
    /// The last applied entry, and the membership in force there.
    private var meta: SnapshotMeta
    /// Its state is that of no entry any more.
    private var hasFailed = false
    private let lock = Lock()
    /// Nil if the state was saved by a version that did not hash. Under the lock.
    private var trail: AppliedHashTrail?

    /// `hash` is that of everything up to `meta`, if it is known.
    init(
        _ machine: any VolatileStateMachine, group: String, number: UInt64, states: SavedStates, meta: SnapshotMeta,
        hash: UInt64?
    ) {
        self.machine = machine
        self.group = group
        self.number = number
        self.states = states
        self.meta = meta
        trail = hash.map { AppliedHashTrail(at: meta.last.index, value: $0) }
    }

    /// The hash at the last applied entry; nil if what was saved was not hashed from the group's first entry on.
    public var latestHash: AppliedHash? { lock.withLock { trail.flatMap { hash(at: $0.last, in: $0) } } }

    /// The hash at `index`, if it is remembered.
    public func appliedHash(at index: LogIndex) -> AppliedHash? {
        lock.withLock { trail.flatMap { hash(at: index, in: $0) } }
    }

    private func hash(at index: LogIndex, in trail: AppliedHashTrail) -> AppliedHash? {
        trail.value(at: index).map { AppliedHash(version: RollingHash.version, index: index, value: $0) }
    }

    /// The last entry whose effects the state holds.
    public var appliedPosition: LogPosition { meta.last }

    /// Applies committed entries in order.
    public func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        let replies: [Bytes]
        do throws(StateMachineError) { replies = try machine.apply(entries) } catch {
            hasFailed = true
            throw error
        }
        for entry in entries {
            if let configuration = entry.configuration { meta.configuration = configuration }
            meta.last = entry.position
        }
        lock.withLock { for (entry, reply) in zip(entries, replies) { trail?.add(entry, result: reply) } }
        return replies
    }

    /// Answers a read.
    public func read(_ query: Bytes) throws(StateMachineError) -> Bytes {
        // it may have stopped in the middle of an entry
        guard !hasFailed else { throw StateMachineError("the state machine has failed") }
        return try machine.read(query)
    }

    /// Does nothing: what is not saved is in the log.
    public func flush() {}

    /// What the state saved last stands for.
    public func durableMeta() -> SnapshotMeta? { states.durableMeta(of: number) }

    /// Freezes the state as applied, for another node.
    public func freeze() throws(StateMachineError) -> any FrozenState {
        VolatilePicture(head: StateHead(meta: meta, group: group, hash: hash), pieces: try frozenPieces())
    }

    /// Freezes the state as applied, to be saved on this one. Called between two calls of ``apply(_:)``.
    public func beginSave() throws(StateMachineError) -> StateSave {
        StateSave(
            StateHead(meta: meta, group: group, hash: hash), try frozenPieces(), as: number, in: states)
    }

    private var hash: UInt64? { lock.withLock { trail?.value } }

    private func frozenPieces() throws(StateMachineError) -> any StatePieces {
        guard !hasFailed else { throw StateMachineError("the state machine has failed") }
        guard meta.last.index > .zero, !meta.configuration.isEmpty else {
            throw StateMachineError("there is no state yet: entry \(meta.last) is applied")
        }
        return try machine.frozen()
    }
}

/// A volatile state as it was at one entry, for another node.
private final class VolatilePicture: FrozenState {
    private let head: StateHead
    private let pieces: any StatePieces

    init(head: StateHead, pieces: any StatePieces) {
        self.head = head
        self.pieces = pieces
    }

    var meta: SnapshotMeta { head.meta }

    /// The file is the same whatever the number.
    func writer(to folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) -> any SnapshotWriter {
        VolatilePictureWriter(StateFileEncoder(head, pieces: pieces), folder)
    }
}

/// Writes the picture's one file.
private final class VolatilePictureWriter: SnapshotWriter, @unchecked Sendable {
    private var encoder: StateFileEncoder
    private let folder: any SnapshotFolder

    init(_ encoder: StateFileEncoder, _ folder: any SnapshotFolder) {
        self.encoder = encoder
        self.folder = folder
    }

    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep {
        var written = 0
        repeat {
            try encoder.fill()
            try folder.append(Bytes(copying: encoder.block.bytes), to: StateFile.name)
            written += encoder.block.count
            encoder.block.removeAll()
        } while written < bytes && !encoder.isAtEnd
        return SnapshotStep(bytes: written, isLast: encoder.isAtEnd)
    }
}

/// A frozen state on its way to the disk. It ends with ``write(atLeast:)`` returning true, or with ``abandon()``.
///
/// One thread at a time, which waits for the disk.
public final class StateSave: @unchecked Sendable {
    /// What is saved.
    public var meta: SnapshotMeta { head.meta }
    /// Bytes written so far.
    public private(set) var byteCount = 0
    private let head: StateHead
    private var encoder: StateFileEncoder
    private let number: UInt64
    private let states: SavedStates
    private var file: (any DiskFile)?

    init(_ head: StateHead, _ pieces: any StatePieces, as number: UInt64, in states: SavedStates) {
        self.head = head
        self.number = number
        self.states = states
        encoder = StateFileEncoder(head, pieces: pieces)
    }

    deinit { file?.close() }

    /// Writes `count` bytes more, or a little more than that; true when the whole state is durable and the one that
    /// counts. A save that throws must be abandoned.
    public func write(atLeast count: Int) throws(StateMachineError) -> Bool {
        let end = byteCount + count
        repeat {
            try encoder.fill()
            do throws(DiskError) { try writeBlock() } catch { throw StateMachineError(error.description) }
        } while byteCount < end && !encoder.isAtEnd
        guard encoder.isAtEnd else { return false }
        try states.publish(number, meta)
        return true
    }

    /// Writes all that is left.
    func finish() throws(StateMachineError) {
        while try !write(atLeast: StateFile.blockBytes) {}
    }

    /// The last block makes the file durable.
    private func writeBlock() throws(DiskError) {
        if file == nil {
            let name = states.draftName(of: number)
            // one that was given up and could not be removed
            if states.disk.exists(name) { try states.disk.remove(name) }
            file = try states.disk.create(name)
        }
        try file?.write([encoder.block.bytes], at: byteCount)
        byteCount += encoder.block.count
        encoder.block.removeAll()
        guard encoder.isAtEnd else { return }
        try file?.sync()
        file?.close()
        file = nil
    }

    /// Gives it up; what counted before goes on counting.
    public func abandon() {
        file?.close()
        file = nil
        states.remove(states.draftName(of: number))
    }
}

/// Where a snapshot's files lie: a folder of its own, empty before it is written.
///
/// One thread at a time.
public protocol SnapshotFolder: AnyObject, Sendable {
    /// The folder in the file system, for libraries that read and write files by themselves; nil where there is none,
    /// as in a simulation.
    var directory: String? { get }
    /// Names of its files, ascending by their bytes: see ``FileNames``.
    func fileNames() throws(StateMachineError) -> [String]
    /// Adds `bytes` to the end of a file, which is created if missing.
    func append(_ bytes: Bytes, to name: String) throws(StateMachineError)
    /// Everything in a file.
    func contents(of name: String) throws(StateMachineError) -> Bytes
    /// Up to `count` bytes of a file from `offset` on; fewer only at its end.
    func read(_ name: String, at offset: Int, count: Int) throws(StateMachineError) -> Bytes
}

/// A state as it was at one entry, held for as long as the object lives while the state machine goes on.
public protocol FrozenState: AnyObject, Sendable {
    /// The last applied entry, and the membership in force there.
    var meta: SnapshotMeta { get }
    /// What writes the state into `folder`, for a replica that will keep it under `number` (node-local, never reused; the
    /// receiver chooses a fresh one). Nothing is written yet. Any thread but a lane.
    func writer(
        to folder: any SnapshotFolder, as number: UInt64
    ) throws(StateMachineError) -> any SnapshotWriter
}

/// Writes a frozen state in steps, as fast as whoever drives it allows; holds the state for as long as it lives. Any
/// thread but a lane, one at a time.
public protocol SnapshotWriter: AnyObject, Sendable {
    /// Writes on, until `bytes` are reached or passed, or the state ends: `isLast`, and the folder is complete. Not to be
    /// called after that, nor after it has thrown.
    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep
}

/// One step of a ``SnapshotWriter``.
public struct SnapshotStep: Equatable, Sendable {
    /// Bytes of the state that it wrote.
    public var bytes: Int
    /// Whether all is written.
    public var isLast: Bool
    /// A step.
    public init(bytes: Int, isLast: Bool) {
        self.bytes = bytes
        self.isLast = isLast
    }
}

extension SnapshotWriter {
    /// Writes everything at once, for whoever keeps nobody waiting.
    public func writeAll() throws(StateMachineError) {
        while try !write(about: 1 << 20).isLast {}
    }
}

/// Takes a snapshot's files into a store in steps: what waits for the same thread gets its turn between two of them. Any
/// thread but a lane, one at a time.
public protocol SnapshotInstaller: AnyObject, Sendable {
    /// Goes on by about `bytes`. Throws, and leaves nothing, where `StateMachineStore.install(_:as:group:kind:expecting:)`
    /// would; not to be called after that, nor after the last step.
    ///
    /// After a crash before the last step there is nothing of it; after one in it, nothing or all.
    func advance(about bytes: Int) throws(StateMachineError) -> SnapshotInstallStep
}

/// One step of a ``SnapshotInstaller``.
public enum SnapshotInstallStep: Sendable {
    /// So many bytes were taken in, and more is to come.
    case took(Int)
    /// That was the last: everything is there, durably.
    case done(any SnapshotStateMachine)
}

/// A state machine whose state, or a picture of it, can take the place of the log's beginning (§7). The log of any
/// other is never compacted.
public protocol SnapshotStateMachine: StateMachine {
    /// What the state would be after a crash now, without the log: the last entry whose effects are durable, and the
    /// membership in force there. Nil: nothing. The log may be compacted up to there. Any thread.
    func durableMeta() throws(StateMachineError) -> SnapshotMeta?
    /// Freezes the state as applied, quickly. Called between two calls of ``StateMachine/apply(_:)``.
    func freeze() throws(StateMachineError) -> any FrozenState
}

public import RaftCore

/// A change of the engine.
public enum EngineChange: Sendable {
    /// Stores a value.
    case put(Bytes, Bytes)
    /// Stores a value under a key that the engine does not have: whoever removes it before it went any further has
    /// nothing to leave behind. It must be true.
    case putNew(Bytes, Bytes)
    /// Removes a key.
    case delete(Bytes)
    /// Removes every key of `[start, end)`.
    case deleteRange(Bytes, Bytes)
}

/// The seam to the store: an ordered map of bytes. `RocksEngine` in a process, `MemoryEngine` in tests and where state
/// may be lost. Its keys are shared by the replicas of a node as ``ReplicaKeys`` says.
///
/// The batches of a replica become durable in the order they were written, each whole or not at all, at a time the
/// engine chooses or at ``flush()``: after a crash the engine holds a prefix of them, and everything that was ingested. A
/// batch is of one replica; different ones may be found at different times.
///
/// Threads: one at a time writes, ingests or drops for each replica number. Everything else is for any thread at any
/// time; so is a view.
public protocol KeyValueEngine: AnyObject, Sendable {
    /// The value of `key`.
    func get(_ key: Bytes) throws(StateMachineError) -> Bytes?
    /// Applies all of `changes` or none.
    func write(_ changes: [EngineChange]) throws(StateMachineError)
    /// Visits keys of `[start, end)` in ascending order until `visit` returns false; an empty `end` is no bound.
    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError)
    /// Makes everything written before the call durable, whichever replica wrote it; waits for the disk. Not for a
    /// thread that applies.
    func flush() throws(StateMachineError)
    /// The value of `key` in what is durable already.
    func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes?
    /// What each of `ranges` takes, `[start, end)` with `start` below `end`, about; what was written of late may be
    /// missing. Costs a few searches for each, not a scan.
    func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64]

    /// Everything as it is now, held for as long as the view lives; quick.
    func freeze() throws(StateMachineError) -> any EngineView
    /// Everything of the replica `number` as it is now; others may be seen as they were a while ago. Quick.
    func freeze(_ number: UInt64) throws(StateMachineError) -> any EngineView
    /// Takes in what a view of an engine of the same kind exported as `number`, whole and durably; nothing if it throws.
    /// There must be nothing under `number` yet. Afterwards the files may be gone.
    func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError)
    /// Removes every key of `number`, which nobody uses any more; like a batch, it becomes durable later.
    func drop(_ number: UInt64) throws(StateMachineError)
    /// The replica numbers under which there are keys, ascending; costs a seek for each, not a scan.
    func numbers() throws(StateMachineError) -> [UInt64]
}

extension KeyValueEngine {
    /// Everything as it is now, unless an engine says otherwise.
    public func freeze(_ number: UInt64) throws(StateMachineError) -> any EngineView { try freeze() }
}

/// An engine as it was when it was frozen. Any thread; not to be used after the engine was closed.
public protocol EngineView: AnyObject, Sendable {
    /// The value of `key`.
    func get(_ key: Bytes) throws(StateMachineError) -> Bytes?
    /// Visits keys of `[start, end)` in ascending order until `visit` returns false; an empty `end` is no bound.
    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError)
    /// What writes all keys of `replica` into `folder`, as those of `number`, for ``KeyValueEngine/ingest(_:as:)``; it
    /// throws in the end unless there is one at least. Reads and writes all of the replica's data, a step at a time.
    func export(
        _ replica: UInt64, as number: UInt64, into folder: any SnapshotFolder
    ) throws(StateMachineError) -> any SnapshotWriter
}

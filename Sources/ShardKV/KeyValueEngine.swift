public import RaftCore

/// A change of the engine.
public enum EngineChange: Sendable {
    /// Stores a value.
    case put(Bytes, Bytes)
    /// Removes a key.
    case delete(Bytes)
    /// Removes every key of `[start, end)`.
    case deleteRange(Bytes, Bytes)
}

/// The seam to the store: an ordered map of bytes. `RocksEngine` in a process, `MemoryEngine` in tests and where state
/// may be lost. Written by one thread; reads may come from another.
///
/// Batches become durable in the order they were written, each whole or not at all, at a time the engine chooses or
/// at ``flush()``: after a crash the engine holds a prefix of the batches.
public protocol KeyValueEngine: AnyObject, Sendable {
    /// The value of `key`.
    func get(_ key: Bytes) throws(StateMachineError) -> Bytes?
    /// Applies all of `changes` or none.
    func write(_ changes: [EngineChange]) throws(StateMachineError)
    /// Visits keys of `[start, end)` in ascending order until `visit` returns false; an empty `end` is no bound.
    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError)
    /// Makes everything written durable.
    func flush() throws(StateMachineError)
    /// The value of `key` in what is durable already.
    func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes?
}

public import RaftCore
import Synchronization

/// A ``KeyValueEngine`` in memory: for tests and simulations, and for groups whose state may be lost.
///
/// It forgets like a disk does: ``crash()`` goes back to what was durable at the last flush. Any thread may use it.
public final class MemoryEngine: KeyValueEngine {
    private struct State: Sendable {
        var live = SortedBytesMap()
        var durable = SortedBytesMap()
    }

    private let state = Mutex(State())

    /// An empty engine.
    public init() {}

    /// Loses every batch written since the last flush, as a power failure may.
    public func crash() { state.withLock { $0.live = $0.durable } }

    /// Number of keys stored.
    public var count: Int { state.withLock { $0.live.count } }

    /// The value of `key`.
    public func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { state.withLock { $0.live[key] } }

    /// The value of `key` as of the last flush.
    public func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes? { state.withLock { $0.durable[key] } }

    /// Applies all of `changes`, in their order, or none.
    public func write(_ changes: [EngineChange]) throws(StateMachineError) {
        state.withLock { state in
            for change in changes {
                switch change {
                // memory of its own: a small value must not keep a received message alive
                case .put(let key, let value): state.live[key.compacted] = value.compacted
                case .delete(let key): state.live[key] = nil
                case .deleteRange(let start, let end): state.live.removeRange(from: start, to: end)
                }
            }
        }
    }

    /// Visits the keys of `[start, end)` as of now, in order, until `visit` returns false; an empty `end` is no bound.
    public func scan(
        from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool
    ) throws(StateMachineError) {
        // over a copy, so that the visitor may use the engine
        state.withLock { $0.live }.visit(from: start, to: end, visit)
    }

    /// Makes everything written durable.
    public func flush() throws(StateMachineError) { state.withLock { $0.durable = $0.live } }
}

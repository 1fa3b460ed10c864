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
                case .putNew(let key, let value):
                    assert(state.live[key] == nil, "what is stored as new is there already")
                    state.live[key.compacted] = value.compacted
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

    /// Bytes of the keys and values of each of `ranges`.
    public func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        let map = state.withLock { $0.live }
        return ranges.map { UInt64(map.bytes(from: $0.start, to: $0.end)) }
    }

    /// Everything as it is now; a copy that costs nothing until the engine changes.
    public func freeze() throws(StateMachineError) -> any EngineView { MemoryView(state.withLock { $0.live }) }

    /// Takes in what a view of a memory engine exported as `number`.
    public func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        let pairs = try PairFiles.read(folder, number: number)
        let isFree = state.withLock { state in
            guard !state.live.holds(number), !state.durable.holds(number) else { return false }
            for (key, value) in pairs {
                state.live[key] = value
                state.durable[key] = value
            }
            return true
        }
        guard isFree else { throw StateMachineError("replica number \(number) is in use already") }
    }

    /// Removes every key of `number`.
    public func drop(_ number: UInt64) throws(StateMachineError) {
        try write([.deleteRange(ReplicaKeys.start(of: number), ReplicaKeys.end(of: number))])
    }

    /// The replica numbers under which there are keys, ascending.
    public func numbers() throws(StateMachineError) -> [UInt64] {
        let map = state.withLock { $0.live }
        var numbers: [UInt64] = []
        var start = Bytes()
        while let number = map.firstNumber(from: start) {
            numbers.append(number)
            start = ReplicaKeys.end(of: number)
        }
        return numbers
    }
}

/// A ``MemoryEngine`` as it was.
private final class MemoryView: EngineView {
    private let map: SortedBytesMap

    init(_ map: SortedBytesMap) { self.map = map }

    func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { map[key] }

    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError) {
        map.visit(from: start, to: end, visit)
    }

    func export(
        _ replica: UInt64, as number: UInt64, into folder: any SnapshotFolder
    ) throws(StateMachineError) -> any SnapshotWriter {
        PairExport(of: replica, in: map, as: number, into: folder)
    }
}

extension SortedBytesMap {
    fileprivate func firstNumber(from start: Bytes) -> UInt64? {
        var first: UInt64?
        visit(from: start, to: Bytes()) { key, _ in
            first = ReplicaKeys.number(of: key)
            return first == nil
        }
        return first
    }

    fileprivate func holds(_ number: UInt64) -> Bool { firstNumber(from: ReplicaKeys.start(of: number)) == number }
}

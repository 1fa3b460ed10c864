import RaftCore

/// One replica's part of the engine, with the changes of the batch being applied on top.
///
/// Nothing reaches the engine before ``commit()``, which writes everything at once; reads see it at once. When the engine
/// hands it to a disk is its own business (``CollectingEngine``).
final class ReplicaStore {
    let layout: KeyLayout
    private let engine: any KeyValueEngine
    /// In the order of their first change; nil removes the key. The engine does not have those that are new.
    private var pending: [(key: Bytes, value: Bytes?, isNew: Bool)] = []
    /// Position in ``pending`` once there are more than ``few``; for lookup only, its order reaches nothing.
    private var positions: [Bytes: Int] = [:]
    /// Changes that are found faster by comparing than by hashing: about what a request of one write makes.
    private static let few = 8
    /// Written before ``pending``, which holds what was changed in them afterwards.
    private var deletedRanges: [(start: Bytes, end: Bytes)] = []
    private var isTracking = false
    private var tracked: [Bytes] = []

    init(engine: any KeyValueEngine, replicaNumber: UInt64) {
        self.engine = engine
        layout = KeyLayout(replicaNumber: replicaNumber)
    }

    func get(_ key: Bytes) throws(StateMachineError) -> Bytes? {
        if let position = position(of: key) { return pending[position].value }
        return isInDeletedRange(key) ? nil : try engine.get(key)
    }

    func put(_ key: Bytes, _ value: Bytes) { change(key, value) }

    /// Stores a value under a key that is not there.
    func putNew(_ key: Bytes, _ value: Bytes) { change(key, value, isNew: true) }

    func delete(_ key: Bytes) { change(key, nil) }

    /// Removes every key of `[start, end)`; what is put there afterwards stays.
    func deleteRange(_ range: (start: Bytes, end: Bytes)) {
        guard range.start < range.end else { return }
        for position in pending.indices where range.start <= pending[position].key && pending[position].key < range.end
        {
            pending[position].value = nil
        }
        deletedRanges.append(range)
    }

    private func isInDeletedRange(_ key: Bytes) -> Bool {
        !deletedRanges.isEmpty && deletedRanges.contains { $0.start <= key && key < $0.end }
    }

    /// Remembers which keys are changed from here on, until ``endTracking()``.
    func beginTracking() { isTracking = true }

    /// The keys changed since ``beginTracking()``, ascending, each once.
    func endTracking() -> [Bytes] {
        isTracking = false
        defer { tracked.removeAll(keepingCapacity: true) }
        return tracked.sorted().reduce(into: []) { keys, key in
            if keys.last != key { keys.append(key) }
        }
    }

    private func change(_ key: Bytes, _ value: Bytes?, isNew: Bool = false) {
        if isTracking { tracked.append(key) }
        if let position = position(of: key) {
            pending[position].value = value
            return
        }
        pending.append((key, value, isNew))
        if pending.count == ReplicaStore.few + 1 {
            for position in pending.indices { positions[pending[position].key] = position }
        } else if pending.count > ReplicaStore.few {
            positions[key] = pending.count - 1
        }
    }

    private func position(of key: Bytes) -> Int? {
        guard pending.count <= ReplicaStore.few else { return positions[key] }
        return pending.firstIndex { $0.key == key }
    }

    /// Writes all pending changes as one batch.
    func commit() throws(StateMachineError) {
        guard !pending.isEmpty || !deletedRanges.isEmpty else { return }
        var changes = deletedRanges.map { EngineChange.deleteRange($0.start, $0.end) }
        changes.reserveCapacity(changes.count + pending.count)
        for change in pending {
            switch (change.value, change.isNew) {
            case (let value?, false): changes.append(.put(change.key, value))
            case (let value?, true): changes.append(.putNew(change.key, value))
            case (nil, false): changes.append(.delete(change.key))
            // come and gone
            case (nil, true): break
            }
        }
        try engine.write(changes)
        deletedRanges.removeAll()
        pending.removeAll(keepingCapacity: true)
        if !positions.isEmpty { positions.removeAll(keepingCapacity: true) }
    }

    func flush() throws(StateMachineError) { try engine.flush() }

    // MARK: what any thread may ask, of what is in the engine

    func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        try engine.approximateBytes(of: ranges)
    }

    /// Visits the keys of `[start, end)` in order, until `visit` returns false.
    func scanEngine(from start: Bytes, to end: Bytes, _ visit: (Bytes) -> Bool) throws(StateMachineError) {
        try engine.scan(from: start, to: end) { key, _ in visit(key) }
    }

    /// What the durable part of the engine says about the replica; nil if there is nothing yet.
    func durableMeta() throws(StateMachineError) -> MetaRecord? {
        try engine.durableGet(layout.key(.meta)).map { (value) throws(StateMachineError) in try MetaRecord(value) }
    }

    /// What the engine says about the replica; nil if there is nothing yet.
    func meta() throws(StateMachineError) -> MetaRecord? {
        try get(layout.key(.meta)).map { (value) throws(StateMachineError) in try MetaRecord(value) }
    }

    /// The replica as the engine has it now; nothing may be pending.
    func freeze(_ log: AppliedLog) throws(StateMachineError) -> FrozenReplica {
        precondition(pending.isEmpty && deletedRanges.isEmpty, "a state is frozen in the middle of a batch")
        guard let meta = log.meta else {
            throw StateMachineError(
                "there is no state to make a snapshot of: entry \(log.position) is applied, members \(log.configuration)"
            )
        }
        let number = layout.replicaNumber
        return FrozenReplica(meta: meta, view: try engine.freeze(number), replicaNumber: number)
    }

    /// As ``freeze(_:)``; that it cannot be done is no trouble of the state machine.
    func hold(_ log: AppliedLog) -> Result<FrozenReplica, StateMachineError> {
        do throws(StateMachineError) {
            return .success(try freeze(log))
        } catch {
            return .failure(error)
        }
    }

    /// Visits every key of `kind` in order; what `visit` throws ends the scan.
    func scan(
        _ kind: KeyKind, _ visit: (Bytes, Bytes) throws(StateMachineError) -> Bool
    ) throws(StateMachineError) {
        try scan(from: layout.key(kind), to: layout.end(of: kind), visit)
    }

    /// Visits the keys of `[start, end)` in order, as they will be after the commit, until `visit` returns false.
    func scan(
        from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) throws(StateMachineError) -> Bool
    ) throws(StateMachineError) {
        let changed = pending.filter { !($0.key < start) && $0.key < end }.sorted { $0.key < $1.key }
        var next = 0
        var failure: StateMachineError?
        func goesOn(_ key: Bytes, _ value: Bytes) -> Bool {
            do throws(StateMachineError) {
                return try visit(key, value)
            } catch {
                failure = error
                return false
            }
        }
        /// Visits changed keys before `bound`; nil is behind every key.
        func visitChanged(before bound: Bytes?) -> Bool {
            while next < changed.count, bound.map({ changed[next].key < $0 }) ?? true {
                defer { next += 1 }
                if let value = changed[next].value, !goesOn(changed[next].key, value) { return false }
            }
            return true
        }
        var isWanted = true
        try engine.scan(from: start, to: end) { key, value in
            isWanted = visitChanged(before: key)
            guard isWanted else { return false }
            // a changed key shows its new value, in its turn above
            if next < changed.count, changed[next].key == key { return true }
            if isInDeletedRange(key) { return true }
            isWanted = goesOn(key, value)
            return isWanted
        }
        if isWanted { _ = visitChanged(before: nil) }
        if let failure { throw failure }
    }
}

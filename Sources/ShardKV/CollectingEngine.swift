public import RaftCore
import Synchronization

/// An engine that collects what replicas write and hands it to another one in few, large, ordered batches.
///
/// The log of a group is what makes its writes durable, so nothing needs them in the engine below at once. What is
/// written again and again (how far a replica has come, the use of a session) so gets there once for many entries, what
/// is stored and soon removed not at all, and what does get there comes sorted.
///
/// 1. Reads and scans see everything that was written, collected or not.
/// 2. What is collected of a replica goes to the engine below whole, as one batch, and in the order of the replica's
///    batches. So after a crash that engine holds the state of each replica at some batch; of different replicas at
///    different ones.
/// 3. ``flush()``, ``freeze(_:)``, a range to be removed and the limits hand on what is collected; reading hands on
///    only where that is cheaper than to look through it, and never fails because of it.
/// 4. What cannot be handed on stays collected and readable, and nothing more is taken in than the limits allow: the
///    write that found no room fails, and has changed nothing.
/// 5. A write holds the one lock for as long as handing on takes. No visitor is called under it.
///
/// Threads as ``KeyValueEngine`` says. A scan of a replica while another thread writes to it sees each key as it was at
/// some time in between.
public final class CollectingEngine: KeyValueEngine, @unchecked Sendable {
    /// How much is collected. Keys and values count with what it costs to keep them.
    public struct Limits: Sendable {
        /// Of one replica, in bytes. The more lies in order, the less the engine below has to search; the longer whoever
        /// waits for the next entry may have to wait.
        public var replicaBytes = 512 << 10
        /// Of all replicas, in bytes; beyond it those go first that have waited longest.
        public var bytes = 16 << 20
        /// What is handed on at once when all replicas together have collected too much, in bytes: of many replicas
        /// that write little, one batch for all of them.
        public var batchBytes = 256 << 10
        /// Changes that a scan looks through; beyond that they are handed on first.
        public var scannedChanges = 64
        /// Sensible values for thousands of replicas.
        public init() {}
    }

    /// What is to become of a key.
    private struct Change {
        /// Nil removes it.
        var value: Bytes?
        /// The engine below does not have the key.
        var isNew: Bool
    }

    /// Of one replica. Used under the lock only.
    private final class Collected: @unchecked Sendable {
        /// For lookup; their order reaches nothing.
        private(set) var changes: [Bytes: Change] = [:]
        private(set) var bytes = 0
        /// When it began to wait, as a number in a row.
        let ticket: UInt64

        init(ticket: UInt64) { self.ticket = ticket }

        var sorted: [EngineChange] {
            changes.sorted { $0.key < $1.key }.map { key, change in
                guard let value = change.value else { return .delete(key) }
                return change.isNew ? .putNew(key, value) : .put(key, value)
            }
        }

        func add(_ change: EngineChange) {
            switch change {
            case .put(let key, let value): put(key, value, isNew: false)
            case .putNew(let key, let value): put(key, value, isNew: true)
            case .delete(let key): delete(key)
            case .deleteRange: preconditionFailure("ranges are not collected")
            }
        }

        private func put(_ key: Bytes, _ value: Bytes, isNew: Bool) {
            bytes += value.count
            // memory of its own: a small value must not keep a received message alive
            let change = Change(value: value.compacted, isNew: isNew)
            guard let old = changes.updateValue(change, forKey: key.compacted) else {
                bytes += key.count + CollectingEngine.changeBytes
                return
            }
            bytes -= old.value?.count ?? 0
            // what the engine below has is not changed by what is collected
            if old.isNew != isNew { changes[key]?.isNew = old.isNew }
        }

        private func delete(_ key: Bytes) {
            guard let position = changes.index(forKey: key) else {
                changes[key.compacted] = Change(value: nil, isNew: false)
                bytes += key.count + CollectingEngine.changeBytes
                return
            }
            bytes -= changes.values[position].value?.count ?? 0
            if changes.values[position].isNew {
                changes.remove(at: position)
                bytes -= key.count + CollectingEngine.changeBytes
            } else {
                changes.values[position].value = nil
            }
        }
    }

    private typealias Part = (number: UInt64, collected: Collected)

    private struct State: Sendable {
        var collected: [UInt64: Collected] = [:]
        /// Of all replicas.
        var bytes = 0
        /// Who waits, in that order; whoever has another ticket by now is not meant.
        var queue: [(number: UInt64, ticket: UInt64)] = []
        /// Those before it in ``queue`` are done with.
        var queueStart = 0
        var nextTicket: UInt64 = 1
    }

    /// What a collected change costs besides the bytes of key and value.
    private static let changeBytes = 192

    private let base: any KeyValueEngine
    private let limits: Limits
    private let state: Mutex<State>

    /// Collects for `base`, which nobody else uses.
    public init(over base: any KeyValueEngine, limits: Limits = Limits()) {
        self.base = base
        self.limits = limits
        state = Mutex(State())
    }

    /// What is collected at the moment, in bytes.
    public var collectedBytes: Int { state.withLock { $0.bytes } }

    // MARK: KeyValueEngine

    /// The value of `key`.
    public func get(_ key: Bytes) throws(StateMachineError) -> Bytes? {
        if let number = ReplicaKeys.number(of: key),
            let change = state.withLock({ $0.collected[number]?.changes[key] })
        {
            return change.value
        }
        return try base.get(key)
    }

    /// Applies all of `changes`, in their order, or none.
    public func write(_ changes: [EngineChange]) throws(StateMachineError) {
        guard let first = changes.first else { return }
        guard let number = ReplicaKeys.number(of: first.firstKey) else { return try writeOfMany(changes) }
        var bytes = 0
        var hasRange = false
        for change in changes {
            bytes += change.byteCount + CollectingEngine.changeBytes
            if change.isRange {
                hasRange = true
                guard change.numbers == number...number else { return try writeOfMany(changes) }
            } else if ReplicaKeys.number(of: change.firstKey) != number {
                return try writeOfMany(changes)
            }
        }
        let limit = limit(of: number)
        if hasRange { return try writeThrough(changes, of: number) }
        if bytes > limit {
            let batch = Collected(ticket: 0)
            for change in changes { batch.add(change) }
            return try writeThrough(batch.sorted, of: number)
        }
        try withState { (state) throws(StateMachineError) in
            if let collected = state.collected[number], collected.bytes + bytes > limit {
                try handOn([(number, collected)], in: &state)
            }
            while state.bytes + bytes > limits.bytes, state.bytes > 0 { try handOnOldest(&state) }
            collect(changes, of: number, in: &state)
        }
    }

    /// Visits the keys of `[start, end)`, in order, until `visit` returns false; an empty `end` is no bound.
    public func scan(
        from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool
    ) throws(StateMachineError) {
        let changed = collectedChanges(from: start, to: end)
        guard !changed.isEmpty else { return try base.scan(from: start, to: end, visit) }
        var next = 0
        /// Visits changed keys before `bound`; nil is behind every key.
        func visitChanged(before bound: Bytes?) -> Bool {
            while next < changed.count, bound.map({ changed[next].key < $0 }) ?? true {
                defer { next += 1 }
                if let value = changed[next].value, !visit(changed[next].key, value) { return false }
            }
            return true
        }
        var isWanted = true
        try base.scan(from: start, to: end) { key, value in
            isWanted = visitChanged(before: key)
            guard isWanted else { return false }
            // a changed key shows its new value, in its turn above
            if next < changed.count, changed[next].key == key { return true }
            isWanted = visit(key, value)
            return isWanted
        }
        if isWanted { _ = visitChanged(before: nil) }
    }

    /// Makes everything written before the call durable; waits for the disk.
    public func flush() throws(StateMachineError) {
        try handOnAll()
        try base.flush()
    }

    /// The value of `key` in what is durable already.
    public func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes? { try base.durableGet(key) }

    /// What each of `ranges` takes in the engine below, about.
    public func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        try base.approximateBytes(of: ranges)
    }

    /// Everything as it is now; hands on all that is collected, which takes its time.
    public func freeze() throws(StateMachineError) -> any EngineView {
        try handOnAll()
        return try base.freeze()
    }

    /// Everything of `number` as it is now.
    public func freeze(_ number: UInt64) throws(StateMachineError) -> any EngineView {
        try withState { (state) throws(StateMachineError) in
            if let collected = state.collected[number] { try handOn([(number, collected)], in: &state) }
        }
        return try base.freeze(number)
    }

    /// Takes in what a view of the engine below exported as `number`.
    public func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        guard state.withLock({ $0.collected[number] == nil }) else {
            throw StateMachineError("replica number \(number) is in use already")
        }
        try base.ingest(folder, as: number)
    }

    /// Removes every key of `number`.
    public func drop(_ number: UInt64) throws(StateMachineError) {
        state.withLock { state in
            guard let collected = state.collected.removeValue(forKey: number) else { return }
            state.bytes -= collected.bytes
        }
        try base.drop(number)
    }

    /// The replica numbers under which there are keys, ascending.
    public func numbers() throws(StateMachineError) -> [UInt64] {
        // in this order: what is handed on in between is then in both
        let collected = state.withLock { state in
            state.collected.filter { $0.value.changes.contains { $0.value.value != nil } }.map(\.key)
        }
        return try Set(base.numbers()).union(collected).sorted()
    }

    // MARK: collecting, under the lock

    private func withState<R: Sendable>(
        _ body: (inout State) throws(StateMachineError) -> R
    ) throws(StateMachineError) -> R {
        try state.withLock { (state) throws(StateMachineError) in try body(&state) }
    }

    private func collect(_ changes: [EngineChange], of number: UInt64, in state: inout State) {
        let collected: Collected
        if let waiting = state.collected[number] {
            collected = waiting
        } else {
            collected = Collected(ticket: state.nextTicket)
            state.nextTicket += 1
            state.collected[number] = collected
            state.queue.append((number, collected.ticket))
        }
        let before = collected.bytes
        for change in changes { collected.add(change) }
        state.bytes += collected.bytes - before
    }

    /// Writes what is collected of all `parts`, and `changes` behind it, as one batch; they collect nothing any more then.
    private func handOn(
        _ parts: [Part], followedBy changes: [EngineChange] = [], in state: inout State
    ) throws(StateMachineError) {
        // numbers are what keys begin with, so all of it is in order
        try base.write(parts.sorted { $0.number < $1.number }.flatMap(\.collected.sorted) + changes)
        for part in parts {
            state.collected[part.number] = nil
            state.bytes -= part.collected.bytes
        }
        // those that went before their turn
        if state.queue.count > 4 * state.collected.count + 64 {
            state.queue.removeAll { [collected = state.collected] in collected[$0.number]?.ticket != $0.ticket }
            state.queueStart = 0
        }
    }

    /// Makes room for one batch at least, and some more.
    private func handOnOldest(_ state: inout State, through last: UInt64 = .max) throws(StateMachineError) {
        var parts: [Part] = []
        var bytes = 0
        var position = state.queueStart
        while position < state.queue.count, bytes < limits.batchBytes {
            let (number, ticket) = state.queue[position]
            guard ticket <= last else { break }
            position += 1
            guard let collected = state.collected[number], collected.ticket == ticket else { continue }
            parts.append((number, collected))
            bytes += collected.bytes
        }
        // before the position moves: whoever cannot be handed on now keeps its place
        if !parts.isEmpty {
            let queued = state.queue.count
            try handOn(parts, in: &state)
            guard state.queue.count == queued else { return }
        }
        state.queueStart = position
        if state.queueStart > 64, 2 * state.queueStart > state.queue.count {
            state.queue.removeFirst(state.queueStart)
            state.queueStart = 0
        }
    }

    private func handOnAll() throws(StateMachineError) {
        let last = state.withLock { $0.nextTicket - 1 }
        var isMore = true
        while isMore {
            // others get the lock in between
            isMore = try withState { (state) throws(StateMachineError) in
                try handOnOldest(&state, through: last)
                return state.queueStart < state.queue.count && state.queue[state.queueStart].ticket <= last
            }
        }
    }

    /// Not the same for all: of many that write alike, all would be handed on at about the same time.
    private func limit(of number: UInt64) -> Int {
        limits.replicaBytes - Int(number % 8) * (limits.replicaBytes / 16)
    }

    /// Changes that are not collected go behind everything collected of their replica, and together with it.
    private func writeThrough(_ changes: [EngineChange], of number: UInt64) throws(StateMachineError) {
        try withState { (state) throws(StateMachineError) in
            try handOn(state.collected[number].map { [(number, $0)] } ?? [], followedBy: changes, in: &state)
        }
    }

    /// As ``writeThrough(_:of:)``, of any replicas, and keys that are no replica's; looks at all that is collected.
    private func writeOfMany(_ changes: [EngineChange]) throws(StateMachineError) {
        let numbers = changes.map(\.numbers)
        try withState { (state) throws(StateMachineError) in
            let parts = state.collected.filter { part in numbers.contains { $0.contains(part.key) } }
                .map { (number: $0.key, collected: $0.value) }
            try handOn(parts, followedBy: changes, in: &state)
        }
    }

    /// What is collected of the keys of `[start, end)`, in order; nothing where it could be handed on instead.
    private func collectedChanges(from start: Bytes, to end: Bytes) -> [(key: Bytes, value: Bytes?)] {
        state.withLock { state in
            let numbers = EngineChange.deleteRange(start, end).numbers
            let parts: [Part]
            if numbers.lowerBound == numbers.upperBound {
                parts = state.collected[numbers.lowerBound].map { [(numbers.lowerBound, $0)] } ?? []
            } else {
                parts = state.collected.filter { numbers.contains($0.key) }.map { ($0.key, $0.value) }
            }
            var found: [(key: Bytes, value: Bytes?)] = []
            for part in parts {
                for (key, change) in part.collected.changes where !(key < start) && (end.isEmpty || key < end) {
                    found.append((key, change.value))
                }
            }
            guard found.count > limits.scannedChanges else { return found.sorted { $0.key < $1.key } }
            do throws(StateMachineError) {
                try handOn(parts, in: &state)
                return []
            } catch {
                // to read is no reason to fail
                return found.sorted { $0.key < $1.key }
            }
        }
    }
}

extension EngineChange {
    /// The key, or where the range begins.
    fileprivate var firstKey: Bytes {
        switch self {
        case .put(let key, _), .putNew(let key, _), .delete(let key), .deleteRange(let key, _): key
        }
    }

    fileprivate var byteCount: Int {
        switch self {
        case .put(let key, let value), .putNew(let key, let value), .deleteRange(let key, let value):
            key.count + value.count
        case .delete(let key): key.count
        }
    }

    fileprivate var isRange: Bool {
        if case .deleteRange = self { true } else { false }
    }

    /// The replicas whose keys it can change, and maybe their neighbours; keys that are no replica's count to all.
    fileprivate var numbers: ClosedRange<UInt64> {
        let first = ReplicaKeys.number(of: firstKey) ?? 0
        guard case .deleteRange(_, let end) = self else {
            return first...(ReplicaKeys.number(of: firstKey) ?? .max)
        }
        guard let last = ReplicaKeys.number(of: end) else { return first ... .max }
        // the end of a replica's keys is where those of the next one begin
        let isBehind = end.count == ReplicaKeys.prefixBytes && last > first
        return first...max(first, isBehind ? last - 1 : last)
    }
}

public import RaftCore
public import ShardMap
import Synchronization
import WireMessages

/// The state machine of the controller group: the cluster's map.
///
/// The map and the applied position move in one batch of the engine. Every change raises the map's version; a command
/// that changes nothing is answered with the version there is. One thread at a time applies, reads and freezes; the
/// properties, ``durableMeta()`` and ``flush()`` may be used from any.
public final class ControllerStateMachine: SnapshotStateMachine, HashedStateMachine, @unchecked Sendable {
    /// What other threads see; moves after the batch that changed it has been written.
    private struct Published: Sendable {
        var log: AppliedLog
        var map: ClusterMap?
        var onChange: (@Sendable (ClusterMap) -> Void)?
    }

    private let store: ReplicaStore
    private let arena = Arena()
    private var current: ClusterMap?
    private var log: AppliedLog
    private var failure: StateMachineError?
    /// Called on the worker with the state behind an entry that asks to hold it; set before the first entry is applied.
    public var onHold: HeldStateReceiver?
    /// Asked for by the entry applied last.
    private var holdNumber: UInt64?
    private let published: Mutex<Published>

    /// Loads what `engine` holds under `replicaNumber`; nothing at all is a fresh replica, whose members are those of
    /// `birth` until an entry says otherwise. Empty: it learns of them from the log.
    public init(
        engine: any KeyValueEngine, replicaNumber: UInt64, birth: Configuration = .empty
    ) throws(StateMachineError) {
        store = ReplicaStore(engine: engine, replicaNumber: replicaNumber)
        let meta = try store.meta() ?? MetaRecord(birth: birth)
        log = meta.log
        current = try ControllerStateMachine.loadMap(store, arena)
        published = Mutex(Published(log: meta.log, map: current))
    }

    // MARK: what any thread may ask

    /// The last entry in the engine, durable or not.
    public var appliedPosition: LogPosition { published.withLock { $0.log.position } }

    /// The map; nil before the cluster is initialized.
    public var map: ClusterMap? { published.withLock { $0.map } }

    /// Called on the worker after each batch that changed the map, with the map behind the batch.
    public var onChange: (@Sendable (ClusterMap) -> Void)? {
        get { published.withLock { $0.onChange } }
        set { published.withLock { $0.onChange = newValue } }
    }

    /// The last entry whose effects are durable, as the engine itself says, and the members there.
    public func durableMeta() throws(StateMachineError) -> SnapshotMeta? { try store.durableMeta()?.log.meta }

    /// The hash at the last applied entry; nil if what is stored was not hashed from the group's first entry on.
    public var latestHash: AppliedHash? { published.withLock { $0.log.hash(at: $0.log.position.index) } }

    /// The hash at `index`, if it is remembered.
    public func appliedHash(at index: LogIndex) -> AppliedHash? { published.withLock { $0.log.hash(at: index) } }

    // MARK: StateMachine

    /// Applies entries in order; each gets a packed ``ControllerReply``, except that entries that carry no command, and
    /// entries applied before, get none (no bytes).
    public func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        if let failure { throw failure }
        do throws(StateMachineError) {
            return try applyBatch(entries)
        } catch {
            // memory may be ahead of the engine from here on
            failure = error
            throw error
        }
    }

    /// The packed map, whatever the query says; no bytes before the cluster is initialized.
    public func read(_ query: Bytes) throws(StateMachineError) -> Bytes {
        if let failure { throw failure }
        return current?.packed(arena) ?? Bytes()
    }

    /// Makes what is applied durable, of every replica on the engine: waits for the disk.
    public func flush() throws(StateMachineError) { try store.flush() }

    /// The state as applied, held while this one goes on.
    public func freeze() throws(StateMachineError) -> any FrozenState {
        if let failure { throw failure }
        return try store.freeze(log)
    }

    private func applyBatch(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        var replies: [Bytes] = []
        var before = (position: log.position, map: current)
        for entry in entries {
            replies.append(try apply(entry))
            guard let number = holdNumber else { continue }
            holdNumber = nil
            try commit(after: before)
            before = (log.position, current)
            onHold?(number, store.hold(log))
        }
        try commit(after: before)
        return replies
    }

    private func commit(after before: (position: LogPosition, map: ClusterMap?)) throws(StateMachineError) {
        guard log.position != before.position else { return }
        var meta = MetaRecord()
        meta.log = log
        store.put(store.layout.key(.meta), meta.encoded)
        if current != before.map, let current { store.put(store.layout.key(.map), stored(current)) }
        try store.commit()
        let onChange = published.withLock { published in
            published.log = log
            published.map = current
            return published.onChange
        }
        if current != before.map, let current { onChange?(current) }
    }

    private func apply(_ entry: CommittedEntry) throws(StateMachineError) -> Bytes {
        let content = try log.advance(to: entry) { (payload) throws(NamedErrorThrown) in
            try ControllerCommand.decoded(payload, arena)
        }
        guard let content else { return Bytes() }
        var reply: ControllerReply?
        switch content {
        case .nothing: break
        case .malformed(let error): reply = ControllerReply(error: error, version: current?.version)
        case .command(let command): reply = apply(command)
        }
        let result = reply?.packed(arena) ?? Bytes()
        // the words of a refusal may differ between versions, what it means may not
        reply?.message = nil
        log.finish(entry, result: reply?.packed(arena) ?? Bytes())
        return result
    }
}

// MARK: the commands

extension ControllerStateMachine {
    private func apply(_ command: ControllerCommand) -> ControllerReply {
        switch command {
        case .initialize(let record): initialize(record)
        case .join(let address, let incarnation): join(address, incarnation)
        case .groupBorn(let group): markBorn(group)
        case .verify(let number): hold(number)
        }
    }

    private func hold(_ number: UInt64) -> ControllerReply {
        holdNumber = number
        return ControllerReply(version: current?.version)
    }

    /// Nodes of a cluster at most, against strangers that announce themselves under ever new addresses. Replicated
    /// behaviour: changing it needs a new format.
    private static let nodesMax = 4096

    private func initialize(_ record: BootstrapRecord) -> ControllerReply {
        if let current { return ControllerReply(version: current.version) }
        guard record.hasAscendingBoundaries else {
            return ControllerReply(error: .badRequest, message: "boundaries must be ascending and not empty")
        }
        current = record.initialMap
        return ControllerReply(version: current?.version)
    }

    private func join(_ address: NodeAddress, _ incarnation: UInt64) -> ControllerReply {
        guard var map = current else { return ControllerReply(error: .notInitialized) }
        if let node = map.node(at: address) {
            guard node.incarnation == incarnation else {
                return ControllerReply(
                    error: .wrongIdentity, message: "\(address) is node \(node.id) with another data directory",
                    version: map.version)
            }
            return ControllerReply(nodeID: node.id, version: map.version)
        }
        guard map.nodes.count < ControllerStateMachine.nodesMax else {
            return ControllerReply(
                error: .refused, message: "the cluster has \(map.nodes.count) nodes, the most it takes",
                version: map.version)
        }
        let id = (map.nodes.last?.id ?? 0) + 1
        map.nodes.append(Node(id: id, address: address, incarnation: incarnation))
        map.version += 1
        current = map
        return ControllerReply(nodeID: id, version: map.version)
    }

    private func markBorn(_ group: String) -> ControllerReply {
        guard var map = current else { return ControllerReply(error: .notInitialized) }
        guard let position = map.groups.firstIndex(where: { $0.id == group }) else {
            return ControllerReply(error: .noSuchGroup, message: group, version: map.version)
        }
        guard !map.groups[position].isBorn else { return ControllerReply(version: map.version) }
        map.groups[position].isBorn = true
        map.version += 1
        current = map
        return ControllerReply(version: map.version)
    }

    private func stored(_ map: ClusterMap) -> Bytes {
        let packed = map.packed(arena)
        return ByteWriter.bytes(1 + packed.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(packed)
        }
    }

    private static func loadMap(_ store: ReplicaStore, _ arena: Arena) throws(StateMachineError) -> ClusterMap? {
        guard let value = try store.get(store.layout.key(.map)) else { return nil }
        guard let map = ClusterMap(try StoreFormat.open(value, .map).rest, arena) else {
            throw StoreFormat.damaged(.map)
        }
        return map
    }
}

extension BootstrapRecord {
    /// Whether the boundaries cut the keys into ranges that are not empty.
    fileprivate var hasAscendingBoundaries: Bool {
        let starts = [Bytes()] + boundaries
        return zip(starts, starts.dropFirst()).allSatisfy { $0 < $1 }
    }
}

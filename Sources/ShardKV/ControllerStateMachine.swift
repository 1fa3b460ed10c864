import CMessages
public import RaftCore
public import ShardMap
import Synchronization
import WireMessages

/// The state machine of the controller group: a ``ControllerState`` in an engine.
///
/// The state and the applied position move in one batch of the engine. Every change of the map raises its version; a
/// command that changes nothing is answered with the version there is. One thread at a time applies, reads and freezes; the
/// properties, ``durableMeta()`` and ``flush()`` may be used from any.
public final class ControllerStateMachine: SnapshotStateMachine, HashedStateMachine, @unchecked Sendable {
    /// What other threads see; moves after the batch that changed it has been written.
    private struct Published: Sendable {
        var log: AppliedLog
        var map: ClusterMap?
        var operations: [ClusterOperation]
        var rebalancing: Rebalancing
        var onChange: (@Sendable (ClusterMap) -> Void)?
    }

    /// The highest level of which this program knows the commands.
    private let knownLevel: UInt32
    private let store: ReplicaStore
    private let arena = Arena()
    private(set) var state: ControllerState
    private var log: AppliedLog
    private var failure: StateMachineError?
    /// Called on the worker with the state behind an entry that asks to hold it; set before the first entry is applied.
    public var onHold: HeldStateReceiver?
    /// Asked for by the entry applied last.
    private var holdNumber: UInt64?
    private let published: Mutex<Published>

    /// Loads what `engine` holds under `replicaNumber`; nothing at all is a fresh replica, whose members are those of
    /// `birth` until an entry says otherwise. Empty: it learns of them from the log. It stops at a command that needs a
    /// higher level than `knownLevel`, and at an entry that raises the cluster to one.
    public init(
        engine: any KeyValueEngine, replicaNumber: UInt64, birth: Configuration = .empty,
        knowing knownLevel: UInt32 = ClusterLevel.newest
    ) throws(StateMachineError) {
        self.knownLevel = knownLevel
        store = ReplicaStore(engine: engine, replicaNumber: replicaNumber)
        let meta = try store.meta() ?? MetaRecord(birth: birth)
        log = meta.log
        state = try ControllerState(store, arena)
        published = Mutex(
            Published(
                log: meta.log, map: state.map, operations: state.operations, rebalancing: state.rebalancing))
    }

    // MARK: what any thread may ask

    /// The last entry in the engine, durable or not.
    public var appliedPosition: LogPosition { published.withLock { $0.log.position } }

    /// The map; nil before the cluster is initialized.
    public var map: ClusterMap? { published.withLock { $0.map } }

    /// The operations under way, and those that have ended as far as they are remembered, ascending by id.
    public var operations: [ClusterOperation] { published.withLock { $0.operations } }

    /// The map with the operations behind the same entry.
    public var mapAndOperations: (map: ClusterMap, operations: [ClusterOperation])? {
        published.withLock { published in published.map.map { ($0, published.operations) } }
    }

    /// Whether the cluster is to be kept spread.
    public var rebalancing: Rebalancing { published.withLock { $0.rebalancing } }

    /// Called on the worker after each batch that changed the map or an operation, with the map behind the batch.
    /// Whoever then asks for ``map`` or ``operations`` finds those behind it.
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

    /// The packed map that a packed GetMapRequest asks for: of the version that it names, else the newest one. No bytes
    /// if there is none: the cluster is not initialized, or the version is forgotten or still to come.
    public func read(_ query: Bytes) throws(StateMachineError) -> Bytes {
        if let failure { throw failure }
        let version = arena.scope { arena -> UInt64? in
            guard let request = arena.unpack(flotilla__get_map_request__init, query)?.pointee else { return nil }
            return request.has_version != 0 ? request.version : nil
        }
        guard let version else { return state.map?.packed(arena) ?? Bytes() }
        return try map(at: version)?.packed(arena) ?? Bytes()
    }

    /// The map as it was at `version`: the newest one or one of the ``ControllerState/Limits/mapVersions`` before it. Nil
    /// for any other. On the worker, like reads.
    public func map(at version: UInt64) throws(StateMachineError) -> ClusterMap? {
        if let failure { throw failure }
        return try state.map(at: version, store, arena)
    }

    /// What a command would come to as the next entry: the answer, and the map before and behind it. Nothing changes. On
    /// the worker, like reads.
    public func preview(_ command: ControllerCommand) throws(StateMachineError) -> ControllerPreview {
        if let failure { throw failure }
        let (reply, map) = state.previewing(command)
        return ControllerPreview(reply: reply, before: state.map, after: map)
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
        var before = (position: log.position, version: state.map?.version)
        for entry in entries {
            replies.append(try apply(entry))
            guard let number = holdNumber else { continue }
            holdNumber = nil
            try commit(after: before)
            before = (log.position, state.map?.version)
            onHold?(number, store.hold(log))
        }
        try commit(after: before)
        return replies
    }

    private func commit(after before: (position: LogPosition, version: UInt64?)) throws(StateMachineError) {
        guard log.position != before.position else { return }
        var meta = MetaRecord()
        meta.log = log
        store.put(store.layout.key(.meta), meta.encoded)
        let changes = state.takeChanges()
        let isChanged = state.map?.version != before.version || changes != ControllerState.Changes()
        if isChanged { state.put(changes, to: store, arena) }
        try store.commit()
        let onChange = published.withLock { published in
            published.log = log
            guard isChanged else { return nil as (@Sendable (ClusterMap) -> Void)? }
            published.map = state.map
            published.operations = state.operations
            published.rebalancing = state.rebalancing
            return published.onChange
        }
        if let map = state.map { onChange?(map) }
    }

    private func apply(_ entry: CommittedEntry) throws(StateMachineError) -> Bytes {
        let content = try log.advance(to: entry) { (payload) throws(NamedErrorThrown) in
            try ControllerCommand.decoded(payload, arena, knowing: knownLevel)
        }
        guard let content else { return Bytes() }
        var reply: ControllerReply?
        switch content {
        case .nothing: break
        case .malformed(let error): reply = ControllerReply(error: error, version: state.map?.version)
        case .command(let command):
            if case .verify(let number) = command { holdNumber = number }
            reply = state.apply(command)
            try checkLevel(behind: entry)
        }
        let result = reply?.packed(arena) ?? Bytes()
        // the words of a refusal may differ between versions, what it means may not
        reply?.message = nil
        log.finish(entry, result: reply?.packed(arena) ?? Bytes())
        return result
    }

    /// The cluster has just left this program behind: the map behind this entry is for newer ones.
    private func checkLevel(behind entry: CommittedEntry) throws(StateMachineError) {
        guard let level = state.map?.level, level > knownLevel else { return }
        throw StateMachineError(
            "entry \(entry.position): \(NamedError.programTooOld.sentence) (behind it the cluster is at level "
                + "\(level), and this raftd knows up to \(knownLevel))", needsNewerProgram: true)
    }
}

/// What a command would come to.
public struct ControllerPreview: Sendable {
    /// The answer to it.
    public var reply: ControllerReply
    /// The map as it is.
    public var before: ClusterMap?
    /// The map that the command would leave behind.
    public var after: ClusterMap?
}

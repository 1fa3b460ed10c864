public import RaftCore
public import ShardMap
import Synchronization
import WireMessages

/// The state machine of a data group: shards, the sessions that make writes exactly-once, and the keys themselves.
///
/// 1. The engine's state and the applied position move in one batch; after a restart the log's entries from there on
///    are applied to exactly the state they were applied to before. The engine may collect batches before it stores
///    them (``CollectingEngine``).
/// 2. Ownership, expiry and sessions are judged when an entry is applied or a read is evaluated, never before.
/// 3. Within the log only replicated time counts. It does not go back.
/// 4. After an error nothing is applied or read any more; a new state machine on the same engine starts again from
///    what the engine holds.
///
/// One thread at a time calls ``apply(_:)``, ``read(_:)``, ``read(_:wallClock:)``, ``readMove(_:)`` and ``freeze()``;
/// properties, ``durableMeta()`` and ``flush()`` may be used from any.
public final class KeyValueStateMachine: SnapshotStateMachine, HashedStateMachine, @unchecked Sendable {
    /// What is bounded, and by how much. The limits decide about replies and evictions, so they belong to the
    /// replicated rules: every replica of a group must have the same.
    public struct Limits: Sendable {
        /// Sessions of a shard; beyond it the least recently used one is evicted.
        public var sessionsPerShard: Int
        /// Unanswered requests of a session: how far above its floor a sequence may be.
        public var windowPerSession: Int
        /// Stored replies of a session in bytes, exceeded by one reply at most.
        public var replyBytesPerSession: Int
        /// Expired keys removed by one time entry.
        public var expiredKeysPerTime: Int
        /// Pairs of one scan.
        public var scanLimit: Int
        /// Keys and values of one scan in bytes, exceeded by one pair at most.
        public var scanBytes: Int
        /// What one request returns in bytes, exceeded by one value or scan at most; the operations behind that are not
        /// executed but `refused`.
        public var replyBytes: Int

        /// Limits.
        public init(
            sessionsPerShard: Int = 10_000, windowPerSession: Int = 1024, replyBytesPerSession: Int = 16 << 20,
            expiredKeysPerTime: Int = 100, scanLimit: Int = 10_000, scanBytes: Int = 4 << 20,
            replyBytes: Int = 16 << 20
        ) {
            precondition(
                sessionsPerShard > 0 && windowPerSession > 0 && replyBytesPerSession > 0 && expiredKeysPerTime > 0
                    && scanLimit > 0 && scanBytes > 0 && replyBytes > 0)
            self.sessionsPerShard = sessionsPerShard
            self.windowPerSession = windowPerSession
            self.replyBytesPerSession = replyBytesPerSession
            self.expiredKeysPerTime = expiredKeysPerTime
            self.scanLimit = scanLimit
            self.scanBytes = scanBytes
            self.replyBytes = replyBytes
        }
    }

    /// A shard owned here and the sessions opened on it.
    struct OwnedShard: Sendable {
        var shard: Shard
        var sessions = SessionTable()
        var phase = ServingPhase.serving
    }

    /// What other threads see; moves after the batch that changed it has been written.
    private struct Published: Sendable {
        var meta: MetaRecord
        var shards: [Shard]
        var moves: [ShardMove]
    }

    let limits: Limits
    /// The highest level of which this program knows the commands.
    private let knownLevel: UInt32
    let store: ReplicaStore
    let arena = Arena()
    var keyspace: Keyspace
    /// Ascending by id.
    var shards: [OwnedShard] = []
    private var log: AppliedLog
    /// Whether ``shards`` has changed since it was published.
    var hasNewShards = false
    /// The last operation on each shard; for lookup only, its order reaches nothing.
    var fences: [UInt64: ShardFence] = [:]
    /// Shards on their way to here, ascending by id.
    var staging: [StagedShard] = []
    /// Whether ``fences`` or ``staging`` have changed since they were published.
    var hasNewMoves = false
    private var failure: StateMachineError?
    /// Called on the worker with the state behind an entry that asks to hold it; set before the first entry is applied.
    public var onHold: HeldStateReceiver?
    /// Asked for by the entry applied last.
    private var holdNumber: UInt64?
    /// What the entry being applied was answered, if it was a step that was refused.
    private var refusedStep: NamedError?
    private let published: Mutex<Published>

    /// Loads what `engine` holds under `replicaNumber`; nothing at all is a fresh replica, whose members are those of
    /// `birth` until an entry says otherwise. Empty: it learns of them from the log. It stops at a command that needs a
    /// higher level than `knownLevel`.
    public init(
        engine: any KeyValueEngine, replicaNumber: UInt64, birth: Configuration = .empty, limits: Limits = Limits(),
        knowing knownLevel: UInt32 = ClusterLevel.newest
    ) throws(StateMachineError) {
        self.limits = limits
        self.knownLevel = knownLevel
        store = ReplicaStore(engine: engine, replicaNumber: replicaNumber)
        let meta = try store.meta() ?? MetaRecord(birth: birth)
        log = meta.log
        keyspace = Keyspace(store: store, meta: meta)
        let (fences, staging) = (try ShardFence.load(store), try StagedShard.load(store))
        let loaded = try KeyValueStateMachine.loadShards(store, fences)
        shards = loaded
        self.fences = fences
        self.staging = staging
        published = Mutex(
            Published(
                meta: meta, shards: loaded.map(\.shard),
                moves: KeyValueStateMachine.moves(loaded, fences, staging)))
    }

    // MARK: what any thread may ask

    /// The last entry in the engine, durable or not.
    public var appliedPosition: LogPosition { published.withLock { $0.meta.log.position } }

    /// Milliseconds since 1970 as the log says; does not go back.
    public var replicatedTime: Int64 { published.withLock { $0.meta.replicatedTime } }

    /// Whether a key with an expiry is stored. While there is, or while a write that sets one is on its way, replicated
    /// time should be moved on before writes, so that they see due keys as expired and count new expiries from now.
    public var mayHoldExpiringKeys: Bool { published.withLock { $0.meta.expiringKeys > 0 } }

    /// The shards owned, ascending by id.
    public var ownedShards: [Shard] { published.withLock { $0.shards } }

    /// The moves under way in which the group takes part, ascending by shard. A destination's next question is found
    /// here; a new leader asks it once an entry of its own term is applied, and not before.
    public var moves: [ShardMove] { published.withLock { $0.moves } }

    /// The last entry whose effects are durable, as the engine itself says, and the members there.
    public func durableMeta() throws(StateMachineError) -> SnapshotMeta? { try store.durableMeta()?.log.meta }

    /// The hash at the last applied entry; nil if what is stored was not hashed from the group's first entry on.
    public var latestHash: AppliedHash? { published.withLock { $0.meta.log.hash(at: $0.meta.log.position.index) } }

    /// The hash at `index`, if it is remembered.
    public func appliedHash(at index: LogIndex) -> AppliedHash? {
        published.withLock { $0.meta.log.hash(at: index) }
    }

    // MARK: applying

    /// Applies entries in order; each gets a packed ``ShardMap/ExecuteReply``, except that entries that carry no
    /// command, and entries applied before, get none (no bytes).
    public func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        try stoppingOnFailure { () throws(StateMachineError) in
            var replies: [Bytes] = []
            replies.reserveCapacity(entries.count)
            for entry in entries {
                replies.append(try apply(entry))
                guard let number = holdNumber else { continue }
                holdNumber = nil
                try commit()
                onHold?(number, store.hold(log))
            }
            try commit()
            return replies
        }
    }

    private func commit() throws(StateMachineError) {
        var meta = MetaRecord()
        meta.log = log
        meta.replicatedTime = keyspace.replicatedTime
        meta.expiringKeys = keyspace.expiringKeys
        if meta != published.withLock({ $0.meta }) { store.put(store.layout.key(.meta), meta.encoded) }
        try store.commit()
        publish(meta)
    }

    /// Makes what is applied durable, of every replica on the engine: waits for the disk.
    public func flush() throws(StateMachineError) { try store.flush() }

    /// The state as applied, held while this one goes on.
    public func freeze() throws(StateMachineError) -> any FrozenState {
        if let failure { throw failure }
        return try store.freeze(log)
    }

    private func apply(_ entry: CommittedEntry) throws(StateMachineError) -> Bytes {
        let content = try log.advance(to: entry) { (payload) throws(NamedErrorThrown) in
            try GroupCommand.decoded(payload, arena, knowing: knownLevel)
        }
        guard let content else { return Bytes() }
        let reply = try reply(to: content)
        // the words of a refused step may differ between versions, what it means may not
        log.finish(entry, result: refusedStep.map { refusal($0) } ?? reply)
        refusedStep = nil
        return reply
    }

    private func reply(to content: EntryContent<GroupCommand>) throws(StateMachineError) -> Bytes {
        switch content {
        case .nothing: return Bytes()
        case .malformed(let error): return refusal(error)
        case .command(.write(let write)): return try apply(write)
        case .command(.openSession(let shard, let epoch, let nonce)): return try open(nonce, shard, epoch)
        case .command(.install(let shards)): return install(shards)
        case .command(.time(let milliseconds)):
            try keyspace.advance(to: milliseconds, removingAtMost: limits.expiredKeysPerTime)
            return ExecuteReply().packed(arena)
        case .command(.verify(let number)):
            holdNumber = number
            return ExecuteReply().packed(arena)
        case .command(.step(let step)):
            guard let refusal = try apply(step) else { return ExecuteReply().packed(arena) }
            refusedStep = refusal.error
            return ExecuteReply(error: refusal.error, message: refusal.reason).packed(arena)
        }
    }

    private func publish(_ meta: MetaRecord) {
        let changed = hasNewShards ? shards.map(\.shard) : nil
        let moves = hasNewMoves ? KeyValueStateMachine.moves(shards, fences, staging) : nil
        (hasNewShards, hasNewMoves) = (false, false)
        published.withLock { published in
            published.meta = meta
            if let changed { published.shards = changed }
            if let moves { published.moves = moves }
        }
    }

    /// Runs `body`; once it has failed, memory may be ahead of the engine and nothing may be run on it again.
    func stoppingOnFailure<R>(_ body: () throws(StateMachineError) -> R) throws(StateMachineError) -> R {
        if let failure { throw failure }
        do throws(StateMachineError) {
            return try body()
        } catch {
            failure = error
            throw error
        }
    }

    // MARK: helpers of the parts of this type

    var lastApplied: LogIndex { log.position.index }

    func refusal(_ error: NamedError) -> Bytes { ExecuteReply(error: error).packed(arena) }

    /// What a request hears that knows the shard's epoch and names keys outside its range.
    func refusal(outOf shard: Shard) -> ExecuteReply { ExecuteReply(error: .wrongShard, route: shard) }

    /// Position in ``shards`` of `id`, if it is owned under exactly this epoch.
    func position(of id: UInt64, epoch: UInt64) -> Int? {
        let position = partitionPoint(shards.count) { shards[$0].shard.id >= id }
        guard position < shards.count, shards[position].shard.id == id, shards[position].shard.epoch == epoch else {
            return nil
        }
        return position
    }
}

extension KeyRange {
    /// Whether every key that `operations` name lies in the range. Scans and counts are cut to the range instead.
    func containsKeys(of operations: [KeyOperation]) -> Bool {
        operations.allSatisfy { operation in
            switch operation.code {
            case .scan, .count: true
            default: contains(operation.key)
            }
        }
    }
}

import RaftCore
import ShardMap

// The group's part in the controller's operations: splits, merges, and the source's side of a move. The controller's log
// is the only judge; a group does what it is told, once, and never by itself.

extension KeyValueStateMachine {
    /// Whether and what a shard that is owned answers.
    enum ServingPhase: Sendable {
        case serving
        /// It moves: what changes is remembered.
        case open
        /// It moves: it answers nothing.
        case frozen
    }

    /// Applies a step. What it throws as a refusal has changed nothing.
    func apply(_ step: ShardStep) throws(StateMachineError) -> StepRefusal? {
        guard step.epoch < .max else { return StepRefusal(.badRequest, "there is no next epoch") }
        switch step.verdict(after: fences[step.shard]) {
        case .refuse(let refusal): return refusal
        case .repeated: return nil
        case .apply: break
        }
        switch step.action {
        case .split(let key, let newShard): return try split(step, at: key, newShard)
        case .merge(let right, let rightEpoch): return try merge(step, right, rightEpoch)
        case .open: return openShard(step)
        case .freeze: return freezeShard(step)
        case .release: return release(step)
        case .resume: return resume(step)
        case .receive(let shard): return receive(step, shard)
        case .stage(let chunk): return try stage(step, chunk)
        case .adopt: return adopt(step)
        case .discard: return discard(step)
        }
    }

    private func split(
        _ step: ShardStep, at key: Bytes, _ newShard: UInt64
    ) throws(StateMachineError) -> StepRefusal? {
        guard let position = position(of: step.shard, epoch: step.epoch) else { return notOwned(step) }
        var (left, right) = (shards[position], shards[position])
        guard left.shard.range.contains(key), left.shard.range.start < key else {
            return StepRefusal(.refused, "\(key) does not cut the shard \(left.shard.range) in two")
        }
        guard fences[newShard] == nil, !shards.contains(where: { $0.shard.id == newShard }), newShard != step.shard
        else {
            return StepRefusal(.refused, "there has been a shard \(newShard) before")
        }
        left.shard.epoch += 1
        left.shard.range.end = key
        right.shard = Shard(
            id: newShard, range: KeyRange(start: key, end: right.shard.range.end), group: left.shard.group,
            epoch: left.shard.epoch)
        try copySessions(left.sessions, of: step.shard, to: newShard)
        own(left)
        own(right)
        for shard in [step.shard, newShard] { fence(shard, step, .split, epoch: left.shard.epoch) }
        return nil
    }

    private func merge(
        _ step: ShardStep, _ right: UInt64, _ rightEpoch: UInt64
    ) throws(StateMachineError) -> StepRefusal? {
        let rightStep = ShardStep(operation: step.operation, shard: right, epoch: rightEpoch, action: step.action)
        if case .refuse(let refusal) = rightStep.verdict(after: fences[right]) { return refusal }
        guard rightEpoch < .max else { return StepRefusal(.badRequest, "there is no next epoch") }
        guard let leftPosition = position(of: step.shard, epoch: step.epoch) else { return notOwned(step) }
        guard let rightPosition = position(of: right, epoch: rightEpoch) else { return notOwned(rightStep) }
        var (united, taken) = (shards[leftPosition], shards[rightPosition])
        guard !united.shard.range.end.isEmpty, united.shard.range.end == taken.shard.range.start else {
            return StepRefusal(.refused, "shard \(right) does not begin where \(step.shard) ends")
        }
        let table = united.sessions.united(with: taken.sessions, limit: limits.sessionsPerShard)
        try joinSessions(table, of: united, and: taken)
        disown(right)
        united.shard.range.end = taken.shard.range.end
        united.shard.epoch = max(step.epoch, rightEpoch) + 1
        united.sessions = table
        own(united)
        for shard in [step.shard, right] { fence(shard, step, .merged, epoch: united.shard.epoch) }
        return nil
    }

    // MARK: the source of a move

    private func openShard(_ step: ShardStep) -> StepRefusal? {
        guard let position = position(of: step.shard, epoch: step.epoch) else { return notOwned(step) }
        shards[position].phase = .open
        fence(step.shard, step, .open, epoch: step.epoch, openedAt: lastApplied)
        return nil
    }

    private func freezeShard(_ step: ShardStep) -> StepRefusal? {
        guard let position = position(of: step.shard, epoch: step.epoch), let fence = fences[step.shard] else {
            return notOwned(step)
        }
        shards[position].phase = .frozen
        self.fence(step.shard, step, .frozen, epoch: step.epoch, openedAt: fence.openedAt)
        return nil
    }

    private func release(_ step: ShardStep) -> StepRefusal? {
        endMove(of: step.shard)
        if let position = position(of: step.shard, epoch: step.epoch) {
            keyspace.deleteAll(of: shards[position].shard.range)
            deleteSessions(of: step.shard)
            disown(step.shard)
        }
        fence(step.shard, step, .released, epoch: step.epoch + 1)
        return nil
    }

    private func resume(_ step: ShardStep) -> StepRefusal? {
        endMove(of: step.shard)
        if let position = position(of: step.shard, epoch: step.epoch) {
            var shard = shards[position]
            if !planted("an-abort-leaves-the-epoch") { shard.shard.epoch += 1 }
            shard.phase = .serving
            own(shard)
        }
        fence(step.shard, step, .resumed, epoch: step.epoch + 1)
        return nil
    }

    // MARK: helpers of all steps

    func notOwned(_ step: ShardStep) -> StepRefusal {
        StepRefusal(.wrongShard, "shard \(step.shard) is not owned here under epoch \(step.epoch)")
    }

    /// Forgets what a move of `shard` has gathered: changes, or what was staged.
    func endMove(of shard: UInt64) {
        guard let fence = fences[shard], fence.phase.isUnderway else { return }
        if fence.phase == .receiving {
            deleteStaged(shard)
        } else {
            store.deleteRange(store.layout.keys(of: .changes, shard))
        }
    }

    func fence(
        _ shard: UInt64, _ step: ShardStep, _ phase: ShardFence.Phase, epoch: UInt64, openedAt: LogIndex = .zero
    ) {
        let fence = ShardFence(
            operation: step.operation, phase: phase, epoch: max(epoch, fences[shard]?.epoch ?? 0), openedAt: openedAt)
        fences[shard] = fence
        store.put(store.layout.key(.fences, shard), fence.encoded)
        hasNewMoves = true
    }

    /// Takes `owned` into ``shards``, in place of what is known under its id.
    func own(_ owned: OwnedShard) {
        let position = partitionPoint(shards.count) { shards[$0].shard.id >= owned.shard.id }
        if position < shards.count, shards[position].shard.id == owned.shard.id {
            shards[position] = owned
        } else {
            shards.insert(owned, at: position)
        }
        store.put(store.layout.key(.shards, owned.shard.id), stored(owned.shard))
        hasNewShards = true
    }

    private func disown(_ shard: UInt64) {
        shards.removeAll { $0.shard.id == shard }
        store.delete(store.layout.key(.shards, shard))
        hasNewShards = true
    }

    // MARK: changes

    /// Runs `body` for a shard that is open and remembers which of its pairs the entry changes: keys alone, for their
    /// states are read when they are sent.
    func rememberingChanges(
        of shard: UInt64, _ body: () throws(StateMachineError) -> Bytes
    ) throws(StateMachineError) -> Bytes {
        store.beginTracking()
        let reply = try body()
        var bytes = 0
        var keys: [Bytes] = []
        for key in store.endTracking() where KeyLayout.kind(of: key) != .expiry {
            bytes += key.count + (try store.get(key)?.count ?? 0)
            keys.append(key.suffix(from: ReplicaKeys.prefixBytes))
        }
        guard !keys.isEmpty, !planted("changes-are-not-remembered") else { return reply }
        let record = ChangeRecord(bytes: UInt64(bytes), keys: keys)
        store.put(store.layout.key(.changes, shard, UInt64(bitPattern: lastApplied.rawValue)), record.encoded)
        return reply
    }
}

/// What one entry has changed of an open shard.
struct ChangeRecord: Equatable {
    /// Of the keys and what they held then.
    var bytes: UInt64
    /// Ascending, without replica number.
    var keys: [Bytes]

    init(bytes: UInt64, keys: [Bytes]) {
        self.bytes = bytes
        self.keys = keys
    }

    var encoded: Bytes {
        ByteWriter.bytes(9 + keys.reduce(0) { $0 + 4 + $1.count }) { writer in
            writer.put(StoreFormat.current)
            writer.put(bytes)
            for key in keys {
                writer.put(UInt32(key.count))
                writer.put(key)
            }
        }
    }

    init(stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .changes)
        guard let bytes = reader.number() else { throw StoreFormat.damaged(.changes) }
        self.init(bytes: bytes, keys: [])
        while !reader.isAtEnd {
            guard let count = reader.shortNumber(), let key = reader.bytes(Int(count)), count > 0 else {
                throw StoreFormat.damaged(.changes)
            }
            keys.append(key)
        }
    }
}

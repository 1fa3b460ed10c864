import RaftCore
import ShardMap

// The destination's side of a move. What is staged lies where it will be used; nobody reads it, for the group does not own
// the shard before ADOPT, which then has nothing left to do that grows with the data.

extension KeyValueStateMachine {
    func receive(_ step: ShardStep, _ shard: Shard) -> StepRefusal? {
        guard shard.id == step.shard, shard.epoch == step.epoch + 1,
            shard.range.end.isEmpty || shard.range.start < shard.range.end
        else { return StepRefusal(.badRequest, "the shard to receive is not the step's under its next epoch") }
        if let owned = shards.first(where: { $0.shard.id == shard.id || $0.shard.range.overlaps(shard.range) }) {
            return StepRefusal(.refused, "shard \(owned.shard.id) is owned here, and in the way")
        }
        let others = staging.filter { $0.shard.range.overlaps(shard.range) || $0.shard.id == shard.id }
        if let newer = others.first(where: { $0.operation > step.operation }) {
            return StepRefusal(.staleOperation, "operation \(newer.operation) stages these keys")
        }
        for other in others {
            deleteStaged(other.shard.id)
            guard other.shard.id != shard.id, let old = fences[other.shard.id] else { continue }
            let end = ShardStep(
                operation: other.operation, shard: other.shard.id, epoch: old.epoch, action: .discard)
            fence(other.shard.id, end, .discarded, epoch: other.shard.epoch)
        }
        keyspace.deleteAll(of: shard.range)
        deleteSessions(of: shard.id)
        stage(StagedShard(shard, operation: step.operation))
        fence(shard.id, step, .receiving, epoch: step.epoch)
        return nil
    }

    func stage(_ step: ShardStep, _ chunk: StagedChunk) throws(StateMachineError) -> StepRefusal? {
        guard let position = staging.firstIndex(where: { $0.shard.id == step.shard }) else {
            throw StoreFormat.damaged(.staging)
        }
        var staged = staging[position]
        let hash = chunk.hash
        let isRepeated = chunk.number < staged.nextChunk && chunk.number + 1 == staged.nextChunk
        if isRepeated && hash == staged.lastHash { return nil }
        guard chunk.number == staged.nextChunk else {
            return StepRefusal(
                chunk.number < staged.nextChunk ? .staleOperation : .refused,
                "chunk \(chunk.number) is not the next one, \(staged.nextChunk)")
        }
        guard !staged.isComplete else { return StepRefusal(.refused, "everything is staged already") }
        var joiner = ValueJoiner(staged, store)
        for pair in chunk.pairs {
            if let refusal = try joiner.add(pair) { return refusal }
        }
        if chunk.isComplete && (joiner.openValue != nil || chunk.cursor != nil || chunk.replicatedTime == nil) {
            return StepRefusal(.badRequest, "the last chunk is not whole")
        }
        for (key, value) in joiner.pairs { try stage(key, value) }
        joiner.writeParts()
        staged.openValue = joiner.openValue
        staged.nextChunk = chunk.number + 1
        staged.lastHash = hash
        staged.cursor = chunk.cursor?.compacted
        staged.tail = max(staged.tail, chunk.tail)
        staged.replicatedTime = max(staged.replicatedTime, chunk.replicatedTime ?? 0)
        staged.bytesStaged += UInt64(chunk.pairs.reduce(0) { $0 + $1.key.count + ($1.value?.count ?? 0) })
        if chunk.isComplete {
            staged.sessions = try SessionTable(of: step.shard, in: store)
            staged.isComplete = true
        }
        stage(staged)
        return nil
    }

    func adopt(_ step: ShardStep) -> StepRefusal? {
        guard let staged = staging.first(where: { $0.shard.id == step.shard }), staged.isComplete,
            let sessions = staged.sessions
        else { return StepRefusal(.refused, "not everything is staged") }
        store.delete(store.layout.key(.staging, step.shard))
        staging.removeAll { $0.shard.id == step.shard }
        own(OwnedShard(shard: staged.shard, sessions: sessions))
        keyspace.catchUp(to: staged.replicatedTime)
        fence(step.shard, step, .adopted, epoch: staged.shard.epoch)
        return nil
    }

    func discard(_ step: ShardStep) -> StepRefusal? {
        endMove(of: step.shard)
        fence(step.shard, step, .discarded, epoch: step.epoch + 1)
        return nil
    }

    /// Forgets that `shard` is being staged, and everything that is.
    func deleteStaged(_ shard: UInt64) {
        guard let position = staging.firstIndex(where: { $0.shard.id == shard }) else { return }
        let range = staging[position].shard.range
        staging.remove(at: position)
        store.delete(store.layout.key(.staging, shard))
        store.deleteRange(store.layout.keys(of: .parts, shard))
        keyspace.deleteAll(of: range)
        deleteSessions(of: shard)
    }

    /// Notes how far a shard has come.
    private func stage(_ staged: StagedShard) {
        let position = partitionPoint(staging.count) { staging[$0].shard.id >= staged.shard.id }
        if position < staging.count, staging[position].shard.id == staged.shard.id {
            staging[position] = staged
        } else {
            staging.insert(staged, at: position)
        }
        store.put(store.layout.key(.staging, staged.shard.id), staged.encoded(arena))
        hasNewMoves = true
    }

    /// Stores a pair of a shard on its way as its source has it.
    private func stage(_ key: Bytes, _ value: Bytes?) throws(StateMachineError) {
        let stored = ReplicaKeys.key(of: store.layout.replicaNumber, key)
        if KeyLayout.kind(of: stored) == .data {
            try keyspace.stage(KeyLayout.rest(of: stored), value)
        } else if let value {
            store.put(stored, value)
        } else {
            store.delete(stored)
        }
    }
}

extension StagedChunk {
    /// Tells a repeated chunk from another one under its number.
    fileprivate var hash: UInt64 {
        var hash = RollingHash()
        for pair in pairs {
            hash.combine(pair.key)
            hash.combine((pair.value == nil ? 0 : 1) | (pair.continues ? 2 : 0))
            hash.combine(pair.value ?? Bytes())
        }
        hash.combine(cursor.map { UInt64($0.count) } ?? .max)
        hash.combine(cursor ?? Bytes())
        hash.combine(UInt64(bitPattern: tail.rawValue))
        hash.combine(isComplete ? 1 : 0)
        hash.combine(UInt64(bitPattern: replicatedTime ?? 0))
        return hash.value
    }
}

/// Puts values together that come in parts, and checks every pair before any is stored.
private struct ValueJoiner {
    private let staged: StagedShard
    private let store: ReplicaStore
    /// Whole ones, in order.
    private(set) var pairs: [(key: Bytes, value: Bytes?)] = []
    private(set) var openValue: StagedShard.OpenValue?
    /// Of the open value, those that are not stored yet.
    private var newParts: [Bytes] = []

    init(_ staged: StagedShard, _ store: ReplicaStore) {
        self.staged = staged
        self.store = store
        openValue = staged.openValue
    }

    mutating func add(_ pair: StagedPair) throws(StateMachineError) -> StepRefusal? {
        guard staged.covers(pair.key) else {
            return StepRefusal(.badRequest, "a pair is not of shard \(staged.shard.id)")
        }
        if let openValue, openValue.key != pair.key {
            return StepRefusal(.badRequest, "the rest of a value is missing")
        }
        guard let value = pair.value else {
            // void: what came of the value was of a state that has changed since
            guard !pair.continues else { return StepRefusal(.badRequest, "nothing is to be continued") }
            openValue = nil
            newParts = []
            pairs.append((pair.key, nil))
            return nil
        }
        guard openValue != nil || pair.continues else { return try append(pair.key, value) }
        var grown = openValue ?? StagedShard.OpenValue(key: pair.key)
        grown.parts += 1
        grown.bytes += UInt64(value.count)
        guard grown.bytes <= StagedShard.valueBytes else { return StepRefusal(.badRequest, "a value is too long") }
        newParts.append(value)
        openValue = grown
        if pair.continues { return nil }
        let whole = try joined(grown)
        openValue = nil
        newParts = []
        return try append(pair.key, whole)
    }

    /// Stores the parts of a value that is still open, or removes those of one that no longer is.
    func writeParts() {
        if let stored = staged.openValue, openValue.map({ $0.parts - UInt64(newParts.count) }) != stored.parts {
            // one by one: marks of ranges, one for each long value, would be in the way of every read of the store
            for number in 0..<stored.parts { store.delete(store.layout.key(.parts, staged.shard.id, number)) }
        }
        guard let openValue else { return }
        for (offset, part) in newParts.enumerated() {
            let number = openValue.parts - UInt64(newParts.count) + UInt64(offset)
            let value = ByteWriter.bytes(1 + part.count) { writer in
                writer.put(StoreFormat.current)
                writer.put(part)
            }
            store.put(store.layout.key(.parts, staged.shard.id, number), value)
        }
    }

    private func joined(_ value: StagedShard.OpenValue) throws(StateMachineError) -> Bytes {
        var parts: [Bytes] = []
        for number in 0..<value.parts - UInt64(newParts.count) {
            guard let part = try store.get(store.layout.key(.parts, staged.shard.id, number)) else {
                throw StoreFormat.damaged(.parts)
            }
            parts.append(try StoreFormat.open(part, .parts).rest)
        }
        parts += newParts
        return ByteWriter.bytes(parts.reduce(0) { $0 + $1.count }) { writer in
            for part in parts { writer.put(part) }
        }
    }

    /// Throws at a format newer than this version, for another replica may be able to take in what this one is not.
    private mutating func append(_ key: Bytes, _ value: Bytes) throws(StateMachineError) -> StepRefusal? {
        guard let kind = KeyKind(rawValue: key[0]), !value.isEmpty else { return malformed }
        _ = try StoreFormat.open(value, kind)
        do throws(StateMachineError) {
            switch kind {
            case .sessions where ByteReader(key).isOfNoSession: _ = try SessionUse(stored: value)
            case .sessions: _ = try Session(token: 0, stored: value)
            case .replies: _ = try StoredReply(value)
            default: _ = try StoredValue(stored: value)
            }
        } catch {
            return malformed
        }
        pairs.append((key, value))
        return nil
    }

    private var malformed: StepRefusal { StepRefusal(.badRequest, "a value is malformed") }
}

extension ByteReader {
    /// Whether the raw key of a session is that of what the table as a whole remembers.
    fileprivate var isOfNoSession: Bool {
        var reader = self
        return reader.byte() != nil && reader.number() != nil && reader.number() == SessionTable.noToken
    }
}

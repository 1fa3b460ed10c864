import RaftCore
import ShardMap
import WireMessages

// Which shards are owned here, and how the group came by them.

extension KeyValueStateMachine {
    /// Takes shards over: all of them or, when one contradicts what is owned, none. A shard known under the same or a
    /// higher epoch is left alone, owned or not, so repeating an install changes nothing, also when the shard has moved
    /// away since.
    func install(_ installed: [Shard]) -> Bytes {
        var owned = shards
        var accepted: [Shard] = []
        for shard in installed {
            guard shard.range.end.isEmpty || shard.range.start < shard.range.end else { return refusal(.badRequest) }
            let position = partitionPoint(owned.count) { owned[$0].shard.id >= shard.id }
            let isKnown = position < owned.count && owned[position].shard.id == shard.id
            if isKnown && owned[position].shard.epoch > shard.epoch { continue }
            if isKnown && owned[position].shard == shard { continue }
            if !isKnown, let fence = fences[shard.id], fence.epoch >= shard.epoch { continue }
            // an epoch stands for one range and one owner for ever, and no key has two owners
            let contradicts = isKnown && owned[position].shard.epoch == shard.epoch
            let overlaps = owned.contains { $0.shard.id != shard.id && $0.shard.range.overlaps(shard.range) }
            let isInTheWay = staging.contains { $0.shard.range.overlaps(shard.range) }
            // nor does the range change under a move
            let moves = isKnown && owned[position].phase != .serving
            guard !contradicts, !overlaps, !isInTheWay, !moves else { return refusal(.refused) }
            if isKnown {
                owned[position].shard = shard
            } else {
                owned.insert(OwnedShard(shard: shard), at: position)
            }
            accepted.append(shard)
        }
        for shard in accepted { store.put(store.layout.key(.shards, shard.id), stored(shard)) }
        shards = owned
        hasNewShards = hasNewShards || !accepted.isEmpty
        return ExecuteReply().packed(arena)
    }

    func stored(_ shard: Shard) -> Bytes {
        let record = arena.scope { arena in
            shard.encoded(arena).map { arena.pack($0) } ?? Bytes()
        }
        return ByteWriter.bytes(1 + record.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(record)
        }
    }

    /// The shards in the engine with their sessions, ascending by id.
    static func loadShards(
        _ store: ReplicaStore, _ fences: [UInt64: ShardFence]
    ) throws(StateMachineError) -> [OwnedShard] {
        let arena = Arena()
        var owned: [OwnedShard] = []
        try store.scan(.shards) { (_, value) throws(StateMachineError) in
            guard let shard = Shard(record: try StoreFormat.open(value, .shards).rest, arena) else {
                throw StoreFormat.damaged(.shards)
            }
            owned.append(OwnedShard(shard: shard))
            return true
        }
        for position in owned.indices {
            let shard = owned[position].shard.id
            owned[position].sessions = try SessionTable(of: shard, in: store)
            switch fences[shard]?.phase {
            case .open: owned[position].phase = .open
            case .frozen: owned[position].phase = .frozen
            default: break
            }
        }
        return owned
    }

    /// The moves that the group takes part in, ascending by shard.
    static func moves(
        _ shards: [OwnedShard], _ fences: [UInt64: ShardFence], _ staging: [StagedShard]
    ) -> [ShardMove] {
        let leaving = shards.compactMap { owned -> ShardMove? in
            guard owned.phase != .serving, let fence = fences[owned.shard.id] else { return nil }
            return ShardMove(
                operation: fence.operation, shard: owned.shard.id, epoch: fence.epoch,
                phase: owned.phase == .open ? .open : .frozen)
        }
        return (leaving + staging.map(\.move)).sorted { $0.shard < $1.shard }
    }
}

extension KeyRange {
    /// Whether a key lies in both.
    func overlaps(_ other: KeyRange) -> Bool {
        (end.isEmpty || other.start < end) && (other.end.isEmpty || start < other.end)
    }
}

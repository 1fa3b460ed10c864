import CMessages
import RaftCore
import ShardMap
import WireMessages

// Which shards are owned here, and how the group came by them.

extension KeyValueStateMachine {
    /// Takes shards over: all of them or, when one contradicts what is owned, none. A shard known under the same or a
    /// higher epoch is left alone, so repeating an install changes nothing.
    func install(_ installed: [Shard]) -> Bytes {
        var owned = shards
        var accepted: [Shard] = []
        for shard in installed {
            guard shard.range.end.isEmpty || shard.range.start < shard.range.end else { return refusal(.badRequest) }
            let position = partitionPoint(owned.count) { owned[$0].shard.id >= shard.id }
            let isKnown = position < owned.count && owned[position].shard.id == shard.id
            if isKnown && owned[position].shard.epoch > shard.epoch { continue }
            if isKnown && owned[position].shard == shard { continue }
            // an epoch stands for one range and one owner for ever, and no key has two owners
            let contradicts = isKnown && owned[position].shard.epoch == shard.epoch
            let overlaps = owned.contains { $0.shard.id != shard.id && $0.shard.range.overlaps(shard.range) }
            guard !contradicts, !overlaps else { return refusal(.refused) }
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

    private func stored(_ shard: Shard) -> Bytes {
        let record = arena.scope { arena in
            shard.encoded(arena).map { arena.pack($0) } ?? Bytes()
        }
        return ByteWriter.bytes(1 + record.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(record)
        }
    }

    /// The shards in the engine with their sessions, ascending by id.
    static func loadShards(_ store: ReplicaStore) throws(StateMachineError) -> [OwnedShard] {
        let arena = Arena()
        var owned: [OwnedShard] = []
        try store.scan(.shards) { (_, value) throws(StateMachineError) in
            let record = try StoreFormat.open(value, .shards).rest
            let shard = arena.scope { arena in
                arena.unpack(flotilla__shard_record__init, record).map { Shard($0.pointee) }
            }
            guard let shard else { throw StoreFormat.damaged(.shards) }
            owned.append(OwnedShard(shard: shard))
            return true
        }
        try loadSessions(store, into: &owned)
        return owned
    }
}

extension KeyRange {
    /// Whether a key lies in both.
    fileprivate func overlaps(_ other: KeyRange) -> Bool {
        (end.isEmpty || other.start < end) && (other.end.isEmpty || start < other.end)
    }
}

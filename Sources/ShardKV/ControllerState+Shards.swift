import RaftCore
import ShardMap

// Splits, merges and moves. A shard is in one operation at a time, so whatever one has fixed holds until it ends.

extension ControllerState {
    func fixed(_ split: SplitOperation, _ map: ClusterMap) throws(ControllerRefusal) -> SplitOperation {
        let shard = try freeShard(split.shard, map)
        guard split.key.count <= KeyLimits.keyBytes else {
            throw ControllerRefusal(.keyTooLarge, NamedError.keyTooLarge.sentence)
        }
        guard shard.range.start < split.key, shard.range.contains(split.key) else {
            throw ControllerRefusal(
                .refused,
                "\(split.key.abbreviated) does not cut shard \(shard.id), which is \(shard.range.abbreviated); "
                    + "name a key behind its first one and before its end")
        }
        guard map.shards.count < Limits.shards else {
            throw ControllerRefusal(
                .refused, "there are \(map.shards.count) shards, the most there may be; merge some first")
        }
        return SplitOperation(
            shard: shard.id, epoch: shard.epoch, key: split.key, newShard: counters.shard, group: shard.group)
    }

    func fixed(_ merge: MergeOperation, _ map: ClusterMap) throws(ControllerRefusal) -> MergeOperation {
        let left = try freeShard(merge.left, map)
        let right = try freeShard(merge.right, map)
        guard !left.range.end.isEmpty, left.range.end == right.range.start else {
            throw ControllerRefusal(
                .refused, "shard \(right.id) does not follow shard \(left.id): \(left.mergeHint(map))")
        }
        guard left.group == right.group else {
            throw ControllerRefusal(
                .refused,
                "shard \(left.id) is at \(left.group) and shard \(right.id) at \(right.group); "
                    + "move one of them first: raftctl shard move \(right.id) --to \(left.group)")
        }
        return MergeOperation(
            left: left.id, leftEpoch: left.epoch, right: right.id, rightEpoch: right.epoch, group: left.group)
    }

    func fixed(_ move: MoveOperation, _ map: ClusterMap) throws(ControllerRefusal) -> MoveOperation {
        let shard = try freeShard(move.shard, map)
        guard move.destination != ClusterMap.controllerGroup else {
            throw ControllerRefusal(.refused, "the controller group holds no shards; name a data group")
        }
        let destination = try bornGroup(move.destination, map)
        guard destination.id != shard.group else {
            throw ControllerRefusal(.refused, "shard \(shard.id) is at \(shard.group) already; name another group")
        }
        if let operation = pending.first(where: { $0.kind == .deleteGroup(DeleteGroupOperation(group: destination.id)) }
        ) {
            throw ControllerRefusal(operation, has: "group \(destination.id)")
        }
        return MoveOperation(
            shard: shard.id, epoch: shard.epoch, source: shard.group, destination: destination.id)
    }

    /// A shard that no operation has, of a group that can act.
    private func freeShard(_ id: UInt64, _ map: ClusterMap) throws(ControllerRefusal) -> Shard {
        guard let position = map.shardPosition(id) else {
            throw ControllerRefusal(.noSuchShard, "there is no shard \(id); see raftctl shard list")
        }
        if let operation = pending.first(where: { $0.kind.shards.contains(id) }) {
            throw ControllerRefusal(operation, has: "shard \(id)")
        }
        _ = try bornGroup(map.shards[position].group, map)
        return map.shards[position]
    }

    // MARK: ends

    mutating func finish(_ split: SplitOperation) {
        replaceShard(split.shard) { shard in
            let left = Shard(
                id: shard.id, range: KeyRange(start: shard.range.start, end: split.key), group: shard.group,
                epoch: split.epoch + 1)
            let right = Shard(
                id: split.newShard, range: KeyRange(start: split.key, end: shard.range.end), group: shard.group,
                epoch: split.epoch + 1)
            return [left, right]
        }
    }

    mutating func finish(_ merge: MergeOperation) {
        guard let map, let position = map.shardPosition(merge.left) else { return }
        precondition(map.shards[position + 1].id == merge.right, "the neighbours of a merge are no neighbours any more")
        var shard = map.shards[position]
        shard.range.end = map.shards[position + 1].range.end
        shard.epoch = max(merge.leftEpoch, merge.rightEpoch) + 1
        replaceShards(position..<position + 2, by: [shard])
    }

    mutating func enter(_ state: ClusterOperation.State, _ move: MoveOperation) {
        guard state == .switched || state == .aborted else { return }
        replaceShard(move.shard) { shard in
            let group = state == .switched ? move.destination : move.source
            return [Shard(id: shard.id, range: shard.range, group: group, epoch: move.epoch + 1)]
        }
    }

    private mutating func replaceShard(_ id: UInt64, _ shards: (Shard) -> [Shard]) {
        guard let map, let position = map.shardPosition(id) else {
            preconditionFailure("shard \(id) went while an operation had it")
        }
        replaceShards(position..<position + 1, by: shards(map.shards[position]))
    }
}

extension Shard {
    /// With which shard this one can be merged.
    fileprivate func mergeHint(_ map: ClusterMap) -> String {
        guard let position = map.shardPosition(id), position + 1 < map.shards.count else {
            return "that is the last one; name its left neighbour first"
        }
        return "its right neighbour is shard \(map.shards[position + 1].id)"
    }
}

extension KeyRange {
    fileprivate var abbreviated: String {
        "[\(start.abbreviated), \(end.isEmpty ? "∞" : end.abbreviated))"
    }
}

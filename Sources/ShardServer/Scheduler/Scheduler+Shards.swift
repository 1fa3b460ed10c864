import RaftCore
import ShardMap

// Rules 6 and 7: no shard too large or too hot, and as much load on each group.

extension Scheduler {
    /// Whether no shard is to be split, now or after its cooldown: until then there is no telling what to move.
    mutating func splitShards(_ round: inout Round) -> Bool {
        let shards = round.outlook.shards
        func excess(_ shard: Int) -> Double {
            guard let average = shards[shard].average else { return 0 }
            return max(average.bytes / Double(settings.splitBytes), average.operations / settings.splitOperations)
        }
        let large = shards.indices.filter { excess($0) > 1 }.sorted { (-excess($0), $0) < (-excess($1), $1) }
        var room = settings.shards - shards.count
        var isDone = !round.outlook.isSplitting
        for position in large where room > 0 {
            let shard = shards[position].shard
            guard let average = shards[position].average, let key = average.splitKey, shard.range.contains(key),
                key != shard.range.start, let group = shards[position].group, isLed(group, round.outlook)
            else { continue }
            isDone = false
            guard round.operationsLeft > 0, mayChange(position, round), mayTakePart(group, round.outlook) else {
                continue
            }
            room -= 1
            let reason =
                "split: shard \(shard.id) has \(Int(average.bytes) >> 20) MiB and \(Int(average.operations)) "
                + "operations per second"
            let operation = SplitOperation(shard: shard.id, epoch: shard.epoch, key: key, group: shard.group)
            order(.begin(.split(operation), reason: reason), &round)
        }
        return isDone
    }

    mutating func moveShards(_ round: inout Round) {
        let shares = shardShares(round.outlook)
        while round.operationsLeft > 0, let move = bestMove(shares, scale: isMovingShards ? 0.5 : 1, round) {
            let groups = round.outlook.groups
            let shard = round.outlook.shards[move.shard].shard
            isMovingShards = true
            let reason =
                "load: group \(groups[move.from].name) has \(percent(move.load)) of the mean and group "
                + "\(groups[move.to].name) \(percent(move.loadThere)); shard \(shard.id) is \(percent(move.share))"
            let operation = MoveOperation(
                shard: shard.id, epoch: shard.epoch, source: shard.group, destination: groups[move.to].name)
            order(.begin(.move(operation), reason: reason), &round)
        }
    }

    /// A shard's move, with loads as parts of the mean of all groups.
    private struct Move {
        var shard: Int
        var from: Int
        var to: Int
        var share: Double
        var load: Double
        var loadThere: Double
    }

    /// Each shard's part of everything, all together 1.
    private func shardShares(_ outlook: Outlook) -> [Double] {
        let operations = outlook.shards.map { ($0.average?.operations ?? 0) + settings.operationsOfEveryShard }
        let bytes = outlook.shards.map { ($0.average?.bytes ?? 0) + settings.bytesOfEveryShard }
        let allOperations = operations.reduce(0, +)
        let allBytes = bytes.reduce(0, +)
        return zip(operations, bytes).map { operations, bytes in
            settings.operationsWeight * operations / allOperations + (1 - settings.operationsWeight) * bytes / allBytes
        }
    }

    /// The best move from the most loaded group that has one to the least loaded group.
    private func bestMove(_ shares: [Double], scale: Double, _ round: Round) -> Move? {
        let outlook = round.outlook
        let data = outlook.groups.indices.filter { group in
            outlook.groups[group].isBorn && outlook.groups[group].name != ClusterMap.controllerGroup
        }
        guard data.count > 1 else { return nil }
        var loads = Array(repeating: 0.0, count: outlook.groups.count)
        // in units of the mean
        for (shard, share) in zip(outlook.shards, shares) {
            if let group = shard.group { loads[group] += share * Double(data.count) }
        }
        let able = data.filter { mayTakePart($0, outlook) }
        let byLoad = data.sorted { (loads[$0], $0) < (loads[$1], $1) }
        // the least loaded one may be busy; one above the mean is no substitute
        guard let to = byLoad.first(where: able.contains), to == byLoad[0] || loads[to] < 1 else { return nil }
        let crowded = able.filter { loads[$0] > 1 + settings.imbalance * scale }
        for from in crowded.sorted(by: { (-loads[$0], $0) < (-loads[$1], $1) }) where from != to {
            var best: (shard: Int, higher: Double)?
            for (position, shard) in outlook.shards.enumerated() where shard.group == from {
                let share = shares[position] * Double(data.count)
                let higher = max(loads[from] - share, loads[to] + share)
                if higher < best?.higher ?? (loads[from] - settings.gain * scale), mayMove(position, round) {
                    best = (position, higher)
                }
            }
            if let best {
                return Move(
                    shard: best.shard, from: from, to: to, share: shares[best.shard] * Double(data.count),
                    load: loads[from], loadThere: loads[to])
            }
        }
        return nil
    }

    private func mayChange(_ shard: Int, _ round: Round) -> Bool {
        let shard = round.outlook.shards[shard]
        return !shard.isInOperation && shard.average != nil
            && !memory.isResting(shard: shard.shard.id, settings.cooldown, round.now)
    }

    /// Who found a place of late is not moved on for what is left over.
    private func mayMove(_ shard: Int, _ round: Round) -> Bool {
        mayChange(shard, round)
            && !memory.isResting(placeOf: round.outlook.shards[shard].shard.id, settings.stay, round.now)
    }

    private func isLed(_ group: Int, _ outlook: Outlook) -> Bool {
        outlook.groups[group].isBorn && outlook.isLed(group)
    }

    /// Whether `group` can act, and nothing else is under way there.
    private func mayTakePart(_ group: Int, _ outlook: Outlook) -> Bool {
        isLed(group, outlook) && !outlook.groups[group].isInOperation
    }

    private func percent(_ part: Double) -> String { "\(Int((part * 100).rounded())) %" }
}

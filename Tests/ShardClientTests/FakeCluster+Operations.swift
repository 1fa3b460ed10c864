import RaftCore
import ShardMap

// What happens to shards: at the groups first and in the map a while later, or the other way round, as the protocol
// has it.

extension FakeCluster {
    /// Something changes in the cluster.
    func disturb() {
        let shard = map.shards[Int(number(0..<Int64(map.shards.count)))]
        switch number(0..<10) {
        case 0..<3: leaders[shard.group] = .n(Int(number(1..<4)))
        case 3:
            owned[shard.id]?.sessions = [:]
            owned[shard.id]?.hasEvicted = true
        default: reshape(shard)
        }
    }

    /// An operation of the controller begins, unless one is going on with the shard.
    func reshape(_ shard: Shard) {
        guard !inOperation.contains(shard.id) else { return }
        switch number(0..<3) {
        case 0: split(shard)
        case 1: merge(shard)
        default: move(shard)
        }
    }

    private func begin(_ shards: UInt64...) { inOperation.formUnion(shards) }

    private func end(_ name: String, _ shards: UInt64...) {
        changes[name, default: 0] += 1
        inOperation.subtract(shards)
    }

    private func split(_ shard: Shard) {
        let middle = Bytes([UInt8(number(0x61..<0x7b))])
        guard shard.range.start < middle, shard.range.end.isEmpty || middle < shard.range.end else { return }
        lastShard += 1
        var (left, right) = (shard, shard)
        (left.range.end, left.epoch) = (middle, shard.epoch + 1)
        (right.id, right.range.start, right.epoch) = (lastShard, middle, shard.epoch + 1)
        begin(left.id, right.id)
        later(upTo: 30) { [self] in
            guard let whole = owned[left.id] else { return }
            owned[left.id] = Owned(shard: left, sessions: whole.sessions, hasEvicted: whole.hasEvicted)
            owned[right.id] = Owned(shard: right, sessions: whole.sessions, hasEvicted: whole.hasEvicted)
            later(upTo: 100) { [self] in
                publish { map in
                    guard let position = map.shards.firstIndex(where: { $0.id == left.id }) else { return }
                    map.shards.replaceSubrange(position...position, with: [left, right])
                }
                end("split", left.id, right.id)
            }
        }
    }

    private func merge(_ left: Shard) {
        guard let position = map.shards.firstIndex(of: left), position + 1 < map.shards.count else { return }
        let right = map.shards[position + 1]
        guard right.group == left.group, !inOperation.contains(right.id) else { return }
        var union = left
        (union.range.end, union.epoch) = (right.range.end, max(left.epoch, right.epoch) + 1)
        begin(left.id, right.id)
        later(upTo: 30) { [self] in
            guard let one = owned[left.id], let other = owned.removeValue(forKey: right.id) else { return }
            owned[left.id] = Owned(
                shard: union, sessions: FakeCluster.unite(one, other), hasEvicted: one.hasEvicted || other.hasEvicted)
            later(upTo: 100) { [self] in
                publish { map in
                    map.shards.removeAll { $0.id == right.id }
                    guard let position = map.shards.firstIndex(where: { $0.id == left.id }) else { return }
                    map.shards[position] = union
                }
                end("merge", left.id, right.id)
            }
        }
    }

    /// A session that only one table has may have been evicted from the other: it must not come back without the
    /// replies that went with it.
    private static func unite(_ one: Owned, _ other: Owned) -> [UInt64: Session] {
        var sessions = other.hasEvicted ? [:] : one.sessions.filter { other.sessions[$0.key] == nil }
        for (token, session) in other.sessions {
            if let known = one.sessions[token] {
                sessions[token] = Session(
                    floor: max(session.floor, known.floor),
                    replies: session.replies.merging(known.replies) { reply, _ in reply })
            } else if !one.hasEvicted {
                sessions[token] = session
            }
        }
        return sessions
    }

    /// Freeze, the controller's judgement, and then what it says at the group that owns the shard from then on.
    private func move(_ shard: Shard) {
        var moved = shard
        let isAborted = chance(4)
        moved.epoch += 1
        if !isAborted { moved.group = "g\(number(1..<4))" }
        begin(shard.id)
        later(upTo: 30) { [self] in
            owned[shard.id]?.isFrozen = true
            later(upTo: 60) { [self] in
                publish { map in
                    guard let position = map.shards.firstIndex(where: { $0.id == shard.id }) else { return }
                    map.shards[position] = moved
                }
                later(upTo: 60) { [self] in
                    owned[shard.id]?.shard = moved
                    owned[shard.id]?.isFrozen = false
                    end(isAborted ? "abort" : "move", shard.id)
                }
            }
        }
    }
}

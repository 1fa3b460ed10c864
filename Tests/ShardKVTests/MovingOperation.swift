import RaftCore
import ShardMap

@testable import ShardKV

/// An operation of the model's controller, driven in any order that the protocol allows.
struct MovingOperation {
    enum Kind {
        case split(Shard, key: Bytes, new: UInt64)
        case merge(Shard, Shard)
        case move(Shard, to: String)
    }
    enum State { case begun, switched, aborted }

    let id: UInt64
    let kind: Kind
    var state = State.begun
    /// Ends that are applied: of the source, of the destination.
    var ended = (source: false, destination: false)
    /// Chance of an abort is taken once in a while only.
    var isDoomed: Bool

    var shards: [UInt64] {
        switch kind {
        case .split(let shard, _, _): [shard.id]
        case .merge(let left, let right): [left.id, right.id]
        case .move(let shard, _): [shard.id]
        }
    }
}

extension MovingCluster {
    /// Begins what is possible at the moment, if anything is.
    func beginOperation() {
        let busy = operations.flatMap(\.shards)
        let free = map.filter { !busy.contains($0.id) }
        guard operations.count < 2, let shard = free.isEmpty ? nil : free[roll(free.count)] else { return }
        let id = nextOperation
        var kind: MovingOperation.Kind?
        switch roll(6) {
        case 0:
            let key = Bytes(keys[roll(keys.count)])
            if map.count < 6, shard.range.contains(key), shard.range.start < key {
                kind = .split(shard, key: key, new: nextShard)
                nextShard += 1
            }
        case 1, 2:
            let next = free.first { $0.range.start == shard.range.end && !shard.range.end.isEmpty }
            if let next, next.group == shard.group { kind = .merge(shard, next) }
        default: kind = .move(shard, to: shard.group == "g1" ? "g2" : "g1")
        }
        guard let kind else { return }
        nextOperation += 1
        operations.append(MovingOperation(id: id, kind: kind, isDoomed: roll(3) == 0))
    }

    /// Takes one step of the operation at `position`; removes it when it is over.
    func drive(_ position: Int) throws {
        var operation = operations[position]
        let isOver =
            switch operation.kind {
            case .split(let shard, let key, let new): try split(operation, shard, key, new)
            case .merge(let left, let right): try merge(operation, left, right)
            case .move(let shard, let destination): try move(&operation, shard, destination)
            }
        operations[position] = operation
        if isOver { operations.remove(at: position) }
    }

    private func split(_ operation: MovingOperation, _ shard: Shard, _ key: Bytes, _ new: UInt64) throws -> Bool {
        try order(shard.group, operation, shard, .split(key: key, newShard: new))
        var (left, right) = (shard, shard)
        left.range.end = key
        right.range.start = key
        right.id = new
        replace([shard.id], by: [left, right], epoch: shard.epoch + 1)
        return true
    }

    private func merge(_ operation: MovingOperation, _ left: Shard, _ right: Shard) throws -> Bool {
        try order(left.group, operation, left, .merge(right: right.id, rightEpoch: right.epoch))
        var united = left
        united.range.end = right.range.end
        replace([left.id, right.id], by: [united], epoch: max(left.epoch, right.epoch) + 1)
        return true
    }

    private func move(_ operation: inout MovingOperation, _ shard: Shard, _ destination: String) throws -> Bool {
        switch operation.state {
        case .begun:
            if operation.isDoomed, roll(8) == 0 {
                operation.state = .aborted
                replace([shard.id], by: [shard], epoch: shard.epoch + 1)
                return false
            }
            var next = shard
            (next.group, next.epoch) = (destination, shard.epoch + 1)
            if try copy(operation, shard, next) {
                operation.state = .switched
                replace([shard.id], by: [next], epoch: next.epoch)
            }
        case .switched:
            if roll(2) == 0 {
                try order(destination, operation, shard, .adopt)
                operation.ended.destination = true
            } else if roll(4) == 0 {
                try order(shard.group, operation, shard, .release)
                operation.ended.source = true
            }
        case .aborted:
            if roll(2) == 0 {
                try order(destination, operation, shard, .discard)
                operation.ended.destination = true
            } else if roll(2) == 0 {
                try order(shard.group, operation, shard, .resume)
                operation.ended.source = true
            }
        }
        return operation.ended == (true, true)
    }

    /// One step of the copying; whether everything is staged.
    private func copy(_ operation: MovingOperation, _ shard: Shard, _ next: Shard) throws -> Bool {
        guard let (source, destination) = groups[shard.group].flatMap({ s in groups[next.group].map { (s, $0) } })
        else { throw ModelFailure("no such group") }
        guard let leaving = source.machine.moves.first(where: { $0.shard == shard.id }) else {
            try order(shard.group, operation, shard, .open)
            return false
        }
        guard let coming = destination.machine.moves.first(where: { $0.shard == shard.id }),
            let staging = coming.staging
        else {
            try order(next.group, operation, shard, .receive(next))
            return false
        }
        if staging.isComplete { return true }
        switch roll(10) {
        case 0: try order(shard.group, operation, shard, .open)
        case 1: try order(next.group, operation, shard, .receive(next))
        case 2 where staging.tail > .zero || roll(10) == 0:
            try order(shard.group, operation, shard, .freeze)
        case _ where leaving.phase == .open && roll(3) == 0: break
        default:
            // any replica of the source, however far it has come
            let member = source.members[roll(3)].machine
            let reply = try member.readMove(
                ReadMoveRequest(
                    group: shard.group, operation: operation.id, shard: shard.id, epoch: shard.epoch,
                    cursor: staging.cursor, tail: staging.tail, bytes: pageBytes))
            guard reply.error == nil else { return false }
            let chunk = reply.chunk(staging.nextChunk)
            try order(next.group, operation, shard, .stage(chunk))
            if roll(4) == 0 { try order(next.group, operation, shard, .stage(chunk)) }
        }
        return false
    }

    /// Orders a step, which must be accepted, and may arrive again at any time.
    private func order(
        _ group: String, _ operation: MovingOperation, _ shard: Shard, _ action: ShardStep.Action
    ) throws {
        let step = ShardStep(operation: operation.id, shard: shard.id, epoch: shard.epoch, action: action)
        if roll(3) == 0 { delay(group, .step(step)) }
        guard let reply = try groups[group]?.propose(.step(step)) else { throw ModelFailure("no group \(group)") }
        if let error = reply.error {
            throw ModelFailure("\(group) refuses \(action): \(error) \(reply.message ?? "")")
        }
    }

    private func replace(_ ids: [UInt64], by shards: [Shard], epoch: UInt64) {
        var next = map.filter { !ids.contains($0.id) }
        next += shards.map { Shard(id: $0.id, range: $0.range, group: $0.group, epoch: epoch) }
        map = next.sorted { $0.range.start < $1.range.start }
    }
}

import RaftCore
import ShardMap

/// One thing that has to happen for an operation to get on.
enum OperationOrder: Equatable {
    /// The leader of `group` proposes the step, and it is applied.
    case step(ShardStep, group: String)
    /// So little of a move is left at its source that the freeze would be short.
    case awaitCatchUp(group: String)
    /// The source is frozen, and everything is staged at `group`.
    case awaitComplete(group: String)
    /// A node creates a replica that is to become a member.
    case create(PeerID, group: String)
    /// The leader of `group` makes these its members.
    case change(group: String, from: [PeerID], to: [PeerID])
    /// A new group has its members and its first entry.
    case awaitBirth(group: String)
    /// The controller records the operation's next state.
    case record(ClusterOperation.State)
}

extension ClusterOperation {
    /// What leads from the operation's recorded state to the next one, in order; nothing once it is over.
    ///
    /// The list follows from the record and the map alone, and each order is idempotent: whoever comes to lead the
    /// controller begins at the first one, whatever an earlier leader has got done. `map` is one in which the operation
    /// has begun.
    func orders(_ map: ClusterMap) -> [OperationOrder] {
        func step(_ shard: UInt64, _ epoch: UInt64, _ action: ShardStep.Action, _ group: String) -> OperationOrder {
            .step(ShardStep(operation: id, shard: shard, epoch: epoch, action: action), group: group)
        }
        switch (kind, state) {
        case (_, .done), (_, .cancelled): return []
        case (.split(let split), _):
            let action = ShardStep.Action.split(key: split.key, newShard: split.newShard)
            return [step(split.shard, split.epoch, action, split.group), .record(.done)]
        case (.merge(let merge), _):
            let action = ShardStep.Action.merge(right: merge.right, rightEpoch: merge.rightEpoch)
            return [step(merge.left, merge.leftEpoch, action, merge.group), .record(.done)]
        case (.move(let move), .begun):
            guard let range = map.shards.first(where: { $0.id == move.shard })?.range else { return [] }
            let moved = Shard(id: move.shard, range: range, group: move.destination, epoch: move.epoch + 1)
            return [
                step(move.shard, move.epoch, .open, move.source),
                step(move.shard, move.epoch, .receive(moved), move.destination),
                .awaitCatchUp(group: move.destination),
                step(move.shard, move.epoch, .freeze, move.source),
                .awaitComplete(group: move.destination),
                .record(.switched),
            ]
        case (.move(let move), .switched):
            return [
                step(move.shard, move.epoch, .adopt, move.destination),
                step(move.shard, move.epoch, .release, move.source),
                .record(.done),
            ]
        case (.move(let move), .aborted):
            return [
                step(move.shard, move.epoch, .resume, move.source),
                step(move.shard, move.epoch, .discard, move.destination),
                .record(.cancelled),
            ]
        case (.createGroup, .aborted): return [.record(.cancelled)]
        case (.changePeers(let change), .aborted):
            return [.change(group: change.group, from: change.to, to: change.from), .record(.cancelled)]
        case (.createGroup(let creation), _): return [.awaitBirth(group: creation.group), .record(.done)]
        case (.deleteGroup, _): return [.record(.done)]
        case (.changePeers(let change), _):
            // a foreign one has its replica from whoever runs it
            let newcomers = change.to.filter { !change.from.contains($0) && map.node(at: $0.address) != nil }
            return newcomers.map { .create($0, group: change.group) }
                + [.change(group: change.group, from: change.from, to: change.to), .record(.done)]
        }
    }
}

/// How far the controller's leader has come with an operation, since it began to lead or the recorded state changed.
struct OperationRun {
    var operation: ClusterOperation
    let orders: [OperationOrder]
    /// Orders carried out.
    private(set) var position = 0
    /// Number of the order whose answer is awaited: answers to earlier ones say nothing any more.
    private(set) var ticket: UInt64?
    /// When the next order may be given.
    private(set) var due = Instant.distantPast
    private var failures = 0
    /// Why the order at hand could not be carried out the last time.
    private(set) var problem: String?
    /// Of a move: staged, and left at the source, as its destination said last. Of a change of members: of the snapshots
    /// that the leader sends.
    var bytesDone: UInt64?
    var bytesLeft: UInt64?

    init(_ operation: ClusterOperation, _ map: ClusterMap) {
        self.operation = operation
        orders = operation.orders(map)
    }

    /// Whether the answer to an order is awaited.
    var isUnderWay: Bool { ticket != nil }

    /// The order at hand; nil while an answer is awaited, or if all are carried out.
    var next: OperationOrder? { isUnderWay || position == orders.count ? nil : orders[position] }

    /// Whether it is a move that has begun to copy and has not come to its switch.
    var isCopying: Bool { position > 0 && isCopy }

    /// Whether it is the first part of a move.
    var isCopy: Bool { if case .move = operation.kind { operation.state == .begun } else { false } }

    /// The order at hand is given, under this number.
    mutating func give(_ ticket: UInt64) { self.ticket = ticket }

    /// It is carried out.
    mutating func carriedOut() {
        ticket = nil
        position += 1
        failures = 0
        problem = nil
    }

    /// It is not carried out yet, and nothing is wrong: ask again then.
    mutating func waits(until due: Instant) {
        ticket = nil
        failures = 0
        problem = nil
        self.due = due
    }

    /// It could not be carried out: try again after a pause that doubles up to two seconds.
    mutating func failed(_ problem: String, now: Instant) {
        ticket = nil
        self.problem = problem
        due = now + .milliseconds(min(2000, 50 << Int64(min(failures, 6))))
        failures += 1
    }
}

extension OperationOrder {
    /// The order in words, as an operator reads it.
    var words: String {
        switch self {
        case .step(let step, let group): "\(step.action.name) at \(group)"
        case .awaitCatchUp(let group): "copy to \(group)"
        case .awaitComplete(let group): "last changes to \(group)"
        case .create(let peer, _): "create replica \(peer)"
        case .change(let group, _, let to): "members of \(group) become \(to.map(\.description).joined(separator: ","))"
        case .awaitBirth(let group): "birth of \(group)"
        case .record(let state): "record: \(state)"
        }
    }
}

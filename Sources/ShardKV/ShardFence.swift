import RaftCore
import ShardMap

/// Why a step is refused; it has changed nothing.
struct StepRefusal: Error, Equatable {
    let error: NamedError
    /// For people: replicas of different versions may put it differently.
    let reason: String

    init(_ error: NamedError, _ reason: String) {
        self.error = error
        self.reason = reason
    }
}

/// What a group remembers of the last operation on a shard that it has or had to do with. It outlives the shard, so that
/// a step that comes late is known as such.
struct ShardFence: Equatable, Sendable {
    /// How far the group's part of the operation has come. The numbers are stored.
    enum Phase: UInt8, CaseIterable, Sendable {
        case split = 1
        case merged = 2
        case open = 3
        case frozen = 4
        case released = 5
        case resumed = 6
        case receiving = 7
        case adopted = 8
        case discarded = 9

        /// Whether the group waits for a further step.
        var isUnderway: Bool { self == .open || self == .frozen || self == .receiving }
    }

    /// The controller's operation.
    var operation: UInt64
    /// How far it has come here.
    var phase: Phase
    /// The highest epoch known of the shard; it never goes back.
    var epoch: UInt64
    /// The entry of OPEN, from which on changes are remembered; zero in the other phases.
    var openedAt = LogIndex.zero
}

/// What is to be done about a step, by what is known of its shard.
enum StepVerdict: Equatable {
    case apply
    /// It was applied before, and is answered as then.
    case repeated
    case refuse(StepRefusal)
}

extension ShardStep {
    /// The rules of ``ShardFence``: who comes when.
    func verdict(after fence: ShardFence?) -> StepVerdict {
        guard let fence, fence.operation >= operation else { return firstVerdict(after: fence) }
        guard fence.operation == operation else {
            return .refuse(
                StepRefusal(.staleOperation, "operation \(operation) is older than \(fence.operation)"))
        }
        switch (action, fence.phase) {
        case (.split, .split), (.merge, .merged), (.open, .open), (.open, .frozen), (.freeze, .frozen),
            (.release, .released), (.resume, .resumed), (.receive, .receiving), (.adopt, .adopted),
            (.discard, .discarded):
            return .repeated
        case (.freeze, .open), (.release, .open), (.release, .frozen), (.resume, .open), (.resume, .frozen),
            (.stage, .receiving), (.adopt, .receiving), (.discard, .receiving):
            return .apply
        default:
            guard fence.phase.isUnderway else {
                return .refuse(StepRefusal(.staleOperation, "operation \(operation) is over here: \(fence.phase)"))
            }
            return .refuse(StepRefusal(.refused, "no step for a shard that is \(fence.phase)"))
        }
    }

    /// For a step of an operation that the group has not heard of.
    private func firstVerdict(after fence: ShardFence?) -> StepVerdict {
        switch action {
        case .freeze, .stage, .adopt:
            return .refuse(StepRefusal(.refused, "operation \(operation) has not begun here"))
        // The controller has decided. Whatever was ordered before and is still on its way must find it done.
        case .release, .resume, .discard: return .apply
        case .split, .merge, .open, .receive:
            if let fence, epoch < fence.epoch {
                return .refuse(StepRefusal(.staleOperation, "epoch \(epoch) is over, \(fence.epoch) is known"))
            }
            // what an operation of before has staged is thrown away; what has changed since it began is not
            if let fence, fence.phase == .open || fence.phase == .frozen {
                return .refuse(StepRefusal(.refused, "operation \(fence.operation) has not ended here"))
            }
            return .apply
        }
    }
}

// MARK: as it is stored

extension ShardFence {
    var encoded: Bytes {
        ByteWriter.bytes(26) { writer in
            writer.put(StoreFormat.current)
            writer.put(operation)
            writer.put(phase.rawValue)
            writer.put(epoch)
            writer.put(openedAt.rawValue)
        }
    }

    init(stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .fences)
        guard let operation = reader.number(), let phase = reader.byte().flatMap({ Phase(rawValue: $0) }),
            let epoch = reader.number(), let openedAt = reader.signedNumber(), openedAt >= 0, reader.isAtEnd
        else { throw StoreFormat.damaged(.fences) }
        self.init(operation: operation, phase: phase, epoch: epoch, openedAt: LogIndex(openedAt))
    }

    /// All fences of `store`.
    static func load(_ store: ReplicaStore) throws(StateMachineError) -> [UInt64: ShardFence] {
        var fences: [UInt64: ShardFence] = [:]
        try store.scan(.fences) { (key, value) throws(StateMachineError) in
            var place = ByteReader(key, from: KeyLayout.prefixBytes)
            guard let shard = place.number(), place.isAtEnd else { throw StoreFormat.damaged(.fences) }
            fences[shard] = try ShardFence(stored: value)
            return true
        }
        return fences
    }
}

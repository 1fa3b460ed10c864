internal import RaftCore
public import ShardMap

/// A shard is served by one group at a time, under epochs that only rise (the rules of moving shards): what a group
/// does is judged in the order in which the entries are applied for the first time anywhere.
public struct OneOwner: Sendable {
    /// Who holds a shard, as far as its group has said.
    private struct Holding {
        var shard: Shard
        /// Frozen, it answers nothing.
        var serves: Bool
    }

    /// A step that was taken: repeating it says nothing new.
    private struct Taken: Hashable {
        var group: String
        var operation: UInt64
        var name: String
    }

    /// By shard.
    private var holdings: [UInt64: Holding] = [:]
    private var taken: Set<Taken> = []
    /// Moves that were adopted.
    public private(set) var moves = 0
    /// Splits and merges.
    public private(set) var cuts = 0

    /// Nobody has a shard yet.
    public init() {}

    /// The shards that are held, ascending by start.
    public var held: [Shard] { holdings.values.map(\.shard).sorted { $0.range.start < $1.range.start } }

    /// A group has taken its first shards over.
    public mutating func installed(_ shards: [Shard], in group: String) -> Violation? {
        for shard in shards where holdings[shard.id] == nil {
            if let violation = overlap(shard, in: group) { return violation }
            holdings[shard.id] = Holding(shard: shard, serves: true)
        }
        return nil
    }

    /// A write was executed.
    public func executed(_ write: SessionWrite, in group: String) -> Violation? {
        guard let holding = holdings[write.shard] else {
            return Violation("OneOwner", group: group, "wrote to shard \(write.shard), which nobody has")
        }
        let shard = holding.shard
        guard shard.group == group, shard.epoch == write.epoch, holding.serves else {
            return Violation(
                "OneOwner", group: group,
                "wrote to shard \(write.shard) under epoch \(write.epoch); \(shard.group) has it under \(shard.epoch)"
                    + (holding.serves ? "" : ", frozen"))
        }
        return nil
    }

    /// A step of an operation was carried out in `group`.
    public mutating func stepped(_ step: ShardStep, in group: String) -> Violation? {
        let name = step.action.name
        if case .stage = step.action { return nil }
        guard taken.insert(Taken(group: group, operation: step.operation, name: name)).inserted else { return nil }
        func violation(_ text: String) -> Violation {
            Violation("OneOwner", group: group, "operation \(step.operation), \(name): \(text)")
        }
        guard var holding = holdings[step.shard] else { return violation("nobody has shard \(step.shard)") }
        let isOwn = holding.shard.group == group
        switch step.action {
        case .split(let key, let newShard):
            guard isOwn, holding.shard.range.contains(key) else { return violation("there is nothing to split") }
            guard holdings[newShard] == nil else { return violation("there is a shard \(newShard) already") }
            var right = holding.shard
            right.id = newShard
            right.range.start = key
            right.epoch = step.epoch + 1
            holding.shard.range.end = key
            holding.shard.epoch = step.epoch + 1
            holdings[step.shard] = holding
            holdings[newShard] = Holding(shard: right, serves: holding.serves)
            cuts += 1
        case .merge(let right, _):
            guard isOwn, let neighbour = holdings.removeValue(forKey: right), neighbour.shard.group == group else {
                return violation("there is nothing to merge")
            }
            holding.shard.range.end = neighbour.shard.range.end
            holding.shard.epoch = max(holding.shard.epoch, neighbour.shard.epoch) + 1
            holdings[step.shard] = holding
            cuts += 1
        case .freeze:
            guard isOwn else { return violation("the shard is \(holding.shard.group)'s") }
            holdings[step.shard]?.serves = false
        case .resume:
            guard isOwn else { return violation("the shard is \(holding.shard.group)'s") }
            guard step.epoch + 1 > holding.shard.epoch else { return violation("the epoch does not rise") }
            holdings[step.shard]?.serves = true
            holdings[step.shard]?.shard.epoch = step.epoch + 1
        case .adopt:
            guard !isOwn, !holding.serves else { return violation("\(holding.shard.group) still serves it") }
            guard step.epoch + 1 > holding.shard.epoch else { return violation("the epoch does not rise") }
            holding.shard.group = group
            holding.shard.epoch = step.epoch + 1
            holding.serves = true
            holdings[step.shard] = holding
            moves += 1
        case .release:
            if isOwn, !holding.serves { return violation("it is deleted where it still belongs") }
        case .open, .receive, .discard, .stage: break
        }
        return nil
    }

    private func overlap(_ shard: Shard, in group: String) -> Violation? {
        let other = holdings.values.first { other in
            other.shard.id != shard.id
                && (other.shard.range.end.isEmpty || shard.range.start < other.shard.range.end)
                && (shard.range.end.isEmpty || other.shard.range.start < shard.range.end)
        }
        return other.map {
            Violation("OneOwner", group: group, "shards \(shard.id) and \($0.shard.id) have keys in common")
        }
    }
}

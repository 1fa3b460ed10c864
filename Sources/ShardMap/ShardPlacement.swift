/// Which shards have to move so that every group owns about as many as the others.
///
/// A function of the map alone: everybody who asks gets the same answer. The moves are the fewest that there are: a
/// shard moves only if its group is leaving or owns too many.
public enum ShardPlacement {
    /// A shard that is to get another owner.
    public struct Move: Equatable, Sendable {
        /// The shard.
        public var shard: UInt64
        /// The owner to be.
        public var destination: String
        /// A move.
        public init(shard: UInt64, destination: String) {
            self.shard = shard
            self.destination = destination
        }
    }

    /// The moves, ascending by shard, after which no group owns over one shard more than another, and those of `leaving`
    /// own none. Born data groups take part; what belongs to one that is not born stays where it is, and does not
    /// count. No moves if no group would be left.
    public static func moves(_ map: ClusterMap, leaving: [String] = []) -> [Move] {
        let names = map.groups.filter { group in
            group.isBorn && group.id != ClusterMap.controllerGroup && !leaving.contains(group.id)
        }.map(\.id).sorted()
        guard !names.isEmpty else { return [] }

        let unborn = Set(map.groups.lazy.filter { !$0.isBorn }.map(\.id))
        let shards = map.shards.filter { !unborn.contains($0.group) }
        var owned: [String: [UInt64]] = [:]
        var homeless: [UInt64] = []
        for name in names { owned[name] = [] }
        for shard in shards {
            if owned[shard.group]?.append(shard.id) == nil { homeless.append(shard.id) }
        }
        // who owns most keeps most: that moves the fewest
        let byCount = names.map { (name: $0, shards: owned[$0]!.sorted()) }.sorted { left, right in
            left.shards.count != right.shards.count
                ? left.shards.count > right.shards.count : left.name < right.name
        }
        let (share, extra) = shards.count.quotientAndRemainder(dividingBy: names.count)
        var wanting: [(name: String, shards: Int)] = []
        for (rank, group) in byCount.enumerated() {
            let target = share + (rank < extra ? 1 : 0)
            homeless += group.shards.dropFirst(target)
            if group.shards.count < target { wanting.append((group.name, target - group.shards.count)) }
        }
        let destinations = wanting.sorted { $0.name < $1.name }.flatMap { Array(repeating: $0.name, count: $0.shards) }
        precondition(destinations.count == homeless.count, "shards to move and room for them differ")
        return zip(homeless.sorted(), destinations).map { Move(shard: $0, destination: $1) }
    }
}

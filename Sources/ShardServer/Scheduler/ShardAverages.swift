import RaftCore
import ShardMap

/// The loads of shards with their noise averaged away: the mean of what was told at first, exponential from then on.
struct ShardAverages: Sendable {
    struct Average: Sendable {
        var operations: Double
        var bytes: Double
        var splitKey: Bytes?
        /// A split or merge changes what a shard has to do: then the average begins anew.
        fileprivate var range: KeyRange
        fileprivate var samples = 1.0
        fileprivate var last: Instant
    }

    private var averages: [UInt64: Average] = [:]

    /// The average load of `shard`; nil if nobody ever told of it.
    subscript(_ shard: UInt64) -> Average? { averages[shard] }

    /// Takes in what was told, and forgets shards that are gone or have other keys.
    mutating func add(_ loads: [ClusterLoad.ShardLoad], of map: ClusterMap, at now: Instant, over time: Interval) {
        let ranges = Dictionary(map.shards.map { ($0.id, $0.range) }) { first, _ in first }
        averages = averages.filter { ranges[$0.key] == $0.value.range }
        for load in loads {
            guard let range = ranges[load.shard] else { continue }
            // whatever a node tells can be counted with
            let operations = load.operationsPerSecond.isFinite ? min(max(load.operationsPerSecond, 0), 1e15) : 0
            let bytes = min(Double(load.bytes), 1e18)
            guard var average = averages[load.shard] else {
                averages[load.shard] = Average(
                    operations: operations, bytes: bytes, splitKey: load.splitKey, range: range, last: now)
                continue
            }
            let passed = Double((now - average.last).nanoseconds)
            guard passed > 0 else { continue }
            average.samples += 1
            let weight = max(1 / average.samples, passed / (passed + Double(time.nanoseconds)))
            average.operations += (operations - average.operations) * weight
            average.bytes += (bytes - average.bytes) * weight
            average.splitKey = load.splitKey
            average.last = now
            averages[load.shard] = average
        }
    }
}

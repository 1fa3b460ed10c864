public import RaftCore

/// What the scheduler may be told to do otherwise. <doc:Scheduler> says which rule looks at what.
public struct SchedulerSettings: Equatable, Sendable {
    /// A node silent for longer loses its replicas.
    public var repairAfter = Interval.milliseconds(30 * 60_000)
    /// After a start nothing is decided for so long: the nodes have to be heard of first.
    public var settle = Interval.milliseconds(10_000)
    /// What was decided and is not to be seen yet counts as under way for so long; then it may be decided again.
    public var retry = Interval.milliseconds(30_000)
    /// For so long after a change of a shard, or of the members or the leader of a group, rebalancing leaves it alone;
    /// after a start it leaves everything alone.
    public var cooldown = Interval.milliseconds(5 * 60_000)
    /// A shard or a replica that was moved, by whomever, is not moved on for so long by rules 4 and 7.
    public var stay = Interval.milliseconds(60 * 60_000)
    /// The load of a shard is its average over about so long.
    public var averaging = Interval.milliseconds(5 * 60_000)

    /// Most operations under way at a time, an operator's included.
    public var operations = 4
    /// Most transfers of leadership ordered and not yet seen.
    public var transfers = 16
    /// The scheduler makes no more shards than this by splitting.
    public var shards = 65_536

    /// Replicas move between two nodes if one has at least so many more.
    public var replicaDifference = 2
    /// Leaderships move between two nodes if one has at least so many more …
    public var leadershipDifference = 2
    /// … and more than this part of a node's mean.
    public var leadershipShare = 0.1

    /// A shard with more bytes is split.
    public var splitBytes: UInt64 = 1 << 30
    /// A shard with more operations per second is split.
    public var splitOperations = 20_000.0

    /// Shards begin to move if a group has this part more than the mean …
    public var imbalance = 0.2
    /// … and a move lowers the higher load of the two groups by more than this part of the mean. Once begun, they go on
    /// moving down to half of both.
    public var gain = 0.1
    /// How much of a load its operations are, from 0 to 1; the rest is its bytes.
    public var operationsWeight = 0.5
    /// Counted on top for every shard, so that idle ones are spread by their number, and noise is not load.
    public var operationsOfEveryShard = 100.0
    /// Counted on top for every shard, likewise.
    public var bytesOfEveryShard = 16.0 * 1_048_576

    /// The defaults.
    public init() {}

    /// Makes everything about rebalancing that takes time faster or slower, as the cooldown.
    public mutating func scale(toCooldown new: Interval) {
        func scaled(_ interval: Interval) -> Interval {
            .milliseconds(Int(Double(interval.milliseconds) / Double(cooldown.milliseconds) * Double(new.milliseconds)))
        }
        (averaging, stay, settle) = (scaled(averaging), scaled(stay), min(settle, new))
        cooldown = new
    }
}

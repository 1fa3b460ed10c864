internal import RaftCore
internal import ShardMap

/// When to ask for the cluster's map, and whom: one question at a time, any node, with doubling pauses while nothing
/// new is learnt.
struct MapRefresh {
    /// Whether somebody waits for a look at the map.
    var isWanted = false
    /// Number of the question under way.
    private(set) var attempt: UInt64?
    /// End of the question under way, or of the pause before the next.
    private var due = Instant.distantPast
    private var failures = 0
    private let seeds: [NodeAddress]
    private var nodes: [NodeAddress]
    private var position = 0

    init(seeds: [NodeAddress]) {
        self.seeds = seeds
        nodes = seeds
    }

    /// When it has to be looked at again without an answer.
    var nextDue: Instant { isWanted || attempt != nil ? due : .distantFuture }

    /// Whether a question may be put now; true also ends an unanswered one.
    func isDue(now: Instant) -> Bool { isWanted && !nodes.isEmpty && due <= now }

    /// Puts the question `attempt`, to be answered before `due`; whom to ask.
    mutating func ask(_ attempt: UInt64, until due: Instant) -> NodeAddress {
        defer { position = (position + 1) % nodes.count }
        self.attempt = attempt
        self.due = due
        return nodes[position]
    }

    /// The question is over; the next one waits for a pause, longer each time that it brought nothing new.
    mutating func answered(new: Bool, now: Instant, pause: Interval, longest: Interval) {
        attempt = nil
        failures = new ? 0 : failures + 1
        due = now + Interval.backoff(failures, first: pause, longest: longest)
    }

    /// The nodes of `map` are asked from now on, the seeds after them.
    mutating func learn(_ map: ClusterMap) {
        var addresses = map.nodes.map(\.address)
        for seed in seeds where !addresses.contains(seed) { addresses.append(seed) }
        guard addresses != nodes else { return }
        nodes = addresses
        position = 0
    }
}

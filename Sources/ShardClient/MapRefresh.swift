internal import RaftCore
internal import ShardMap

/// When to ask for the cluster's map, and whom: any node, and the next one too as long as the answer does not come,
/// with doubling pauses while nothing new is learnt.
struct MapRefresh {
    /// Whether somebody waits for a look at the map.
    var isWanted = false
    /// Numbers of the first and the last question since a map came; the answer to any of them counts.
    private var asked: ClosedRange<UInt64>?
    /// When the next question may be put.
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
    var nextDue: Instant { isWanted ? due : .distantFuture }

    /// Whether a question may be put now.
    func isDue(now: Instant) -> Bool { isWanted && !nodes.isEmpty && due <= now }

    /// Puts the question `attempt`; another one may follow at `due`. Whom to ask.
    mutating func ask(_ attempt: UInt64, next due: Instant) -> NodeAddress {
        defer { position = (position + 1) % nodes.count }
        asked = (asked?.lowerBound ?? attempt)...attempt
        self.due = due
        return nodes[position]
    }

    /// Whether the answer to `attempt` says anything: a map does, and that the node asked last has none.
    func counts(_ attempt: UInt64, hasMap: Bool) -> Bool {
        guard let asked, asked.contains(attempt) else { return false }
        return hasMap || attempt == asked.upperBound
    }

    /// An answer that counts has come; the next question waits for a pause, longer each time that it brought nothing
    /// new. Without a map in it, questions to others are still open.
    mutating func answered(hasMap: Bool, new: Bool, now: Instant, pause: Interval, longest: Interval) {
        if hasMap { asked = nil }
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

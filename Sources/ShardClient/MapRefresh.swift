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
    /// What each of ``nodes`` has said lately; nil: it was not asked.
    private var answers: [Answer?]

    private enum Answer {
        case noCluster
        /// It belongs to a cluster.
        case cluster
        /// Also as long as it owes its answer.
        case silence
    }

    /// That all nodes were asked, and none belongs to a cluster: how many, and how many of them say nothing.
    struct NoCluster {
        var asked: Int
        var silent: Int
    }

    init(seeds: [NodeAddress]) {
        var distinct: [NodeAddress] = []
        for seed in seeds where !distinct.contains(seed) { distinct.append(seed) }
        self.seeds = distinct
        nodes = distinct
        answers = [Answer?](repeating: nil, count: distinct.count)
    }

    /// When it has to be looked at again without an answer.
    var nextDue: Instant { isWanted ? due : .distantFuture }

    /// Whether a question may be put now.
    func isDue(now: Instant) -> Bool { isWanted && !nodes.isEmpty && due <= now }

    /// Puts the question `attempt`; another one may follow at `due`. Whom to ask.
    mutating func ask(_ attempt: UInt64, next due: Instant) -> NodeAddress {
        defer { position = (position + 1) % nodes.count }
        answers[position] = answers[position] ?? .silence
        asked = (asked?.lowerBound ?? attempt)...attempt
        self.due = due
        return nodes[position]
    }

    /// `node` has answered, in time or not.
    mutating func note(_ answer: MapAnswer, of node: NodeAddress) {
        guard let place = nodes.firstIndex(of: node), answers[place] != nil else { return }
        answers[place] =
            switch answer {
            case .map, .noMap: .cluster
            case .noCluster: .noCluster
            case .silence: .silence
            }
    }

    /// Not nil if all have been asked, some belong to no cluster, and the others say nothing. To be read when the next
    /// question may be put: until then the last one asked may still answer.
    var findsNoCluster: NoCluster? {
        let silent = answers.count { $0 == .silence }
        let strangers = answers.count { $0 == .noCluster }
        guard strangers > 0, strangers + silent == answers.count else { return nil }
        return NoCluster(asked: answers.count, silent: silent)
    }

    /// Nobody waits any more: whoever comes next asks everybody again.
    mutating func forgetAnswers() { for place in answers.indices { answers[place] = nil } }

    /// Who waited has heard that there is no cluster; who comes next hears as soon.
    mutating func restart() {
        forgetAnswers()
        failures = 0
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
        answers = [Answer?](repeating: nil, count: addresses.count)
        position = 0
    }
}

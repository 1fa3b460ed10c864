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

    /// Whether the last question lets the node hold its answer.
    private var isWatching = false

    /// That a node was asked for its map.
    struct Question {
        /// Ascending.
        let number: UInt64
        let node: NodeAddress
        let time: Instant
        /// For how long it may hold the answer.
        let patience: Interval
    }

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

    /// Somebody wants to know what the map is now: an answer that may be held is not waited for.
    mutating func want() {
        isWanted = true
        if isWatching { due = .distantPast }
    }

    /// Puts the question `number`; another one may follow at `due`.
    mutating func ask(_ number: UInt64, at now: Instant, patience: Interval, next due: Instant) -> Question {
        defer { position = (position + 1) % nodes.count }
        answers[position] = answers[position] ?? .silence
        asked = (asked?.lowerBound ?? number)...number
        isWatching = patience.nanoseconds > 0
        self.due = due
        return Question(number: number, node: nodes[position], time: now, patience: patience)
    }

    /// `node` has answered, in time or not.
    mutating func note(_ answer: MapAnswer, of node: NodeAddress) {
        guard let place = nodes.firstIndex(of: node), answers[place] != nil else { return }
        answers[place] =
            switch answer {
            case .map, .unchanged, .noMap: .cluster
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

    /// Whether the answer to `question` says anything: a map does, and that the node asked last has none.
    func counts(_ question: Question, hasMap: Bool) -> Bool {
        guard let asked, asked.contains(question.number) else { return false }
        return hasMap || question.number == asked.upperBound
    }

    /// An answer that counts has come; the next question waits for a pause, longer each time that it brought nothing
    /// new, unless the node took its time to say so. Without a map in it, questions to others are still open.
    mutating func answered(
        _ question: Question, hasMap: Bool, new: Bool, now: Instant, pause: Interval, longest: Interval
    ) {
        if hasMap {
            asked = nil
            isWatching = false
        }
        // half of it, for clocks differ
        let patience = question.patience.nanoseconds
        let wasHeld = hasMap && patience > 0 && (now - question.time).nanoseconds >= patience / 2
        failures = new || wasHeld ? 0 : failures + 1
        due = wasHeld ? now : now + Interval.backoff(failures, first: pause, longest: longest)
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

import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// The controller's leader asks every node for its load, round after round. A round is over when all have answered or
// have had their time; then the scheduler is asked.

/// What the controller's leader has collected, and is collecting.
struct LoadCollection {
    static let waitingMax = 1024

    /// When the next round begins.
    var next = Instant.distantPast
    /// Of the round that is under way, or over.
    var round: UInt64 = 0
    /// Nodes whose answers are awaited.
    var awaited = 0
    /// What came in this round, by node.
    var reports: [UInt64: [ReportedGroup]] = [:]
    /// Nodes that answered in this round.
    var answered: Set<UInt64> = []
    /// When each node was last heard.
    var heard: [UInt64: Instant] = [:]
    /// What the last round that is over has brought.
    var load = ClusterLoad()
    /// Those who want what a round brings that begins after they asked.
    var waiting: [(round: UInt64, done: () -> Void)] = []

    var isUnderWay: Bool { awaited > 0 }
}

extension ShardServer {
    private static let patience = Interval.milliseconds(2500)

    /// What the nodes last told of themselves, their groups and their shards, a few seconds ago at most; empty unless
    /// this node leads the controller and has done so for that long.
    public var clusterLoad: ClusterLoad { collection.load }

    /// Calls `done` when there is a load that was asked for after this call; at once if this node does not lead the
    /// controller, or too many wait already.
    func withFreshLoad(_ done: @escaping () -> Void) {
        guard host.leads(ClusterMap.controllerGroup), controller?.map != nil,
            collection.waiting.count < LoadCollection.waitingMax
        else { return done() }
        let next = collection.round + 1
        collection.waiting.append((next, done))
        collection.next = .distantPast
        lane.requestTurn()
    }

    /// Called when this node begins or ceases to lead the controller.
    func restartCollecting() {
        let waiting = collection.waiting
        let round = collection.round
        collection = LoadCollection()
        // answers to what was asked before mean nothing
        collection.round = round + 1
        for waiting in waiting { waiting.done() }
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func collectTurn(_ now: Instant) -> Instant? {
        guard host.leads(ClusterMap.controllerGroup), let map = controller?.map else { return nil }
        guard !collection.isUnderWay else { return nil }
        guard collection.next <= now else { return collection.next }
        collection.next = now + settings.loadPace
        collection.round += 1
        (collection.reports, collection.answered) = ([:], [])
        collection.awaited = map.nodes.count
        let round = collection.round
        for node in map.nodes { ask(node, after: nil, [], round, until: now + ShardServer.patience) }
        return collection.isUnderWay ? nil : collection.next
    }

    private func ask(
        _ node: Node, after name: String?, _ former: [ReportedGroup], _ round: UInt64, until deadline: Instant
    ) {
        func take(_ page: LoadPage?, wasHeard: Bool) {
            guard collection.round == round, collection.isUnderWay else { return }
            if wasHeard { collection.answered.insert(node.id) }
            if let page, page.hasMore, let last = page.groups.last {
                return ask(node, after: last.group, former + page.groups, round, until: deadline)
            }
            if let page { collection.reports[node.id] = former + page.groups }
            collection.awaited -= 1
            if !collection.isUnderWay { finishRound() }
        }
        guard node.address != address else { return take(loadPage(after: name), wasHeard: true) }
        let body = arena.scope { arena in
            let message = arena.make(flotilla__load_request__init)
            if let name { message.pointee.after = arena.string(name) }
            return arena.pack(message)
        }
        channel(to: node.address).call(
            service: Services.cluster, method: "load", body: body, attachment: [], deadline: deadline
        ) { [self] result in
            lane.requestTurn()
            switch result {
            case .reply(let reply): take(LoadPage(reply.body, arena), wasHeard: true)
            // an older version, which is up all the same
            case .failed(let error): take(nil, wasHeard: error.code == RpcCode.noMethod)
            }
        }
    }

    private func finishRound() {
        guard let map = controller?.map else { return }
        let now = lane.clock.now
        var load = ClusterLoad()
        // the newest leader of a group tells the truth; there may be one that does not know yet
        var told: [String: (term: Term, node: UInt64)] = [:]
        for node in map.nodes {
            let isUp = collection.answered.contains(node.id)
            // one that hangs may still stand by others
            if isUp || host.liveness.isReachable(node.address) { collection.heard[node.id] = now }
            load.nodes.append(.init(node: node.id, isUp: isUp, lastHeard: collection.heard[node.id]))
            for group in collection.reports[node.id] ?? [] where group.term > told[group.group]?.term ?? .zero {
                told[group.group] = (group.term, node.id)
            }
        }
        // who owned a shard before may not know yet that it does no more
        let owners = Dictionary(map.shards.map { ($0.id, $0.group) }) { first, _ in first }
        for node in map.nodes {
            for group in collection.reports[node.id] ?? [] where told[group.group]?.node == node.id {
                load.groups.append(
                    .init(
                        group: group.group, leader: group.leader, caughtUp: [group.leader] + group.caughtUp,
                        bytes: group.bytes))
                load.shards += group.shards.filter { owners[$0.shard] == group.group }.map {
                    $0.load(settings.scheduler)
                }
            }
        }
        collection.load = load
        collection.reports = [:]
        let round = collection.round
        let over = collection.waiting.filter { $0.round <= round }
        collection.waiting.removeAll { $0.round <= round }
        for waiting in over { waiting.done() }
        if !collection.waiting.isEmpty { collection.next = .distantPast }
        decide(now)
        lane.requestTurn()
    }
}

extension ReportedGroup.ReportedShard {
    /// With the key at which to split for what there is too much of.
    fileprivate func load(_ settings: SchedulerSettings) -> ClusterLoad.ShardLoad {
        let excess = operations / settings.splitOperations
        let splitKey =
            if excess <= Double(bytes) / Double(settings.splitBytes) {
                middleKey ?? busyKey
            } else {
                // with one busy key no cut would help
                excess > 1 ? busyKey : busyKey ?? middleKey
            }
        return ClusterLoad.ShardLoad(
            shard: shard, bytes: bytes, operationsPerSecond: operations, splitKey: splitKey)
    }
}

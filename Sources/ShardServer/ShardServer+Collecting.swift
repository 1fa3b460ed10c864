import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// The controller's leader asks every node for its load, round after round. A round is over when all have answered or
// have had their time; then what came is put together and the scheduler is asked, apart from the lane.

/// What the controller's leader has collected, and is collecting.
struct LoadCollection {
    static let waitingMax = 1024

    /// When the round that is under way, or over, began.
    var began = Instant.distantPast
    /// When the next round begins.
    var next = Instant.distantPast
    /// Of the round that is under way, or over.
    var round: UInt64 = 0
    /// Nodes whose answers are awaited.
    var awaited = 0
    /// Behind which group this node's own next page begins; nil: it has no next one.
    var ownPage: OwnPage?
    /// Whether what a round has brought is being put together.
    var isFinishing = false
    /// What came in this round.
    var pages: [(node: UInt64, groups: [ReportedGroup])] = []
    var guests: [UInt64: [String]] = [:]
    /// Nodes that answered in this round.
    var answered: Set<UInt64> = []
    /// When each node was last heard.
    var heard: [UInt64: Instant] = [:]
    /// What the last round that is over has brought.
    var load = ClusterLoad()
    /// Those who want what a round brings that begins after they asked.
    var waiting: [(round: UInt64, done: () -> Void)] = []

    struct OwnPage {
        var node: Node
        var name: String?
    }

    var isUnderWay: Bool { awaited > 0 || isFinishing }
}

extension ShardServer {
    private static let patience = Interval.milliseconds(2500)
    /// Between the beginnings of rounds, however many ask for one.
    private static let leastPace = Interval.milliseconds(250)

    /// What the nodes last told of themselves, their groups and their shards, a few seconds ago at most; empty unless
    /// this node leads the controller and has done so for that long.
    public var clusterLoad: ClusterLoad { collection.load }

    /// Calls `done` when there is a load that was asked for after this call; at once if this node does not lead the
    /// controller, or too many wait already.
    func withFreshLoad(_ done: @escaping () -> Void) {
        guard host.leads(ClusterMap.controllerGroup), controller?.map != nil,
            collection.waiting.count < LoadCollection.waitingMax
        else { return done() }
        let round = collection.round + 1
        collection.waiting.append((round, done))
        collection.next = collection.began + ShardServer.leastPace
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
        if let own = collection.ownPage {
            collection.ownPage = nil
            take(loadPage(after: own.name), of: own.node, collection.round, wasHeard: true)
        }
        guard !collection.isUnderWay else { return nil }
        guard collection.next <= now else { return collection.next }
        collection.began = now
        // many groups may take their time
        collection.next = now + settings.loadPace + .milliseconds(map.groups.count)
        collection.round += 1
        (collection.pages, collection.guests, collection.answered) = ([], [:], [])
        collection.awaited = map.nodes.count
        let round = collection.round
        for node in map.nodes { ask(node, after: nil, round) }
        return nil
    }

    private func ask(_ node: Node, after name: String?, _ round: UInt64) {
        guard node.address != address else {
            // a page each turn
            collection.ownPage = LoadCollection.OwnPage(node: node, name: name)
            return lane.requestTurn()
        }
        let body = arena.scope { arena in
            let message = arena.make(flotilla__load_request__init)
            if let name { message.pointee.after = arena.string(name) }
            return arena.pack(message)
        }
        channel(to: node.address).call(
            service: Services.cluster, method: "load", body: body, attachment: [],
            deadline: lane.clock.now + ShardServer.patience
        ) { [self] result in
            lane.requestTurn()
            switch result {
            case .reply(let reply): take(LoadPage(reply.body, arena), of: node, round, wasHeard: true)
            // an older version, which is up all the same
            case .failed(let error): take(nil, of: node, round, wasHeard: error.code == RpcCode.noMethod)
            }
        }
    }

    /// Takes a page; whatever came of a node before its last page counts, should that not come.
    private func take(_ page: LoadPage?, of node: Node, _ round: UInt64, wasHeard: Bool) {
        guard collection.round == round, collection.awaited > 0 else { return }
        if wasHeard { collection.answered.insert(node.id) }
        if let page { collection.pages.append((node.id, page.groups)) }
        if let page, !page.guests.isEmpty { collection.guests[node.id] = page.guests }
        if let page, page.hasMore, let last = page.groups.last { return ask(node, after: last.group, round) }
        collection.awaited -= 1
        if !collection.isUnderWay { finishRound() }
    }

    private func finishRound() {
        guard let recorded = controller?.mapAndOperations else { return }
        let now = lane.clock.now
        var nodes: [ClusterLoad.NodeLoad] = []
        for node in recorded.map.nodes {
            let isUp = collection.answered.contains(node.id)
            // one that hangs may still stand by others
            if isUp || host.liveness.isReachable(node.address) { collection.heard[node.id] = now }
            nodes.append(
                .init(
                    node: node.id, isUp: isUp, lastHeard: collection.heard[node.id],
                    guests: collection.guests[node.id] ?? []))
        }
        collection.isFinishing = true
        let pages = collection.pages
        collection.pages = []
        let round = collection.round
        let question = nextQuestion(recorded.map, recorded.operations, now)
        host.runAside { [settings = settings.scheduler, nodes] in
            let load = ClusterLoad(nodes, pages, of: recorded.map, settings)
            return (load, question?.answer(load))
        } completion: { [self] load, answer in
            guard collection.round == round, collection.isFinishing else { return }
            collection.isFinishing = false
            collection.load = load
            let over = collection.waiting.filter { $0.round <= round }
            collection.waiting.removeAll { $0.round <= round }
            if !collection.waiting.isEmpty { collection.next = collection.began + ShardServer.leastPace }
            for waiting in over { waiting.done() }
            followResets(load)
            if let question, let answer { take(answer, to: question) }
            lane.requestTurn()
        }
    }
}

extension ClusterLoad {
    /// What `pages` tell, of the groups and shards of `map`.
    fileprivate init(
        _ nodes: [NodeLoad], _ pages: [(node: UInt64, groups: [ReportedGroup])], of map: ClusterMap,
        _ settings: SchedulerSettings
    ) {
        self.init(nodes: nodes)
        // the newest leader of a group tells the truth; there may be one that does not know yet
        var told: [String: (term: Term, node: UInt64)] = [:]
        for (node, groups) in pages {
            for group in groups where group.term > told[group.group]?.term ?? .zero {
                told[group.group] = (group.term, node)
            }
        }
        // who owned a shard before may not know yet that it does no more
        let owners = Dictionary(map.shards.map { ($0.id, $0.group) }) { first, _ in first }
        for (node, reported) in pages {
            for group in reported where told[group.group]?.node == node {
                groups.append(
                    GroupLoad(
                        group: group.group, leader: group.leader, caughtUp: [group.leader] + group.caughtUp,
                        bytes: group.bytes, members: group.members))
                shards += group.shards.filter { owners[$0.shard] == group.group }.map { $0.load(settings) }
            }
        }
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

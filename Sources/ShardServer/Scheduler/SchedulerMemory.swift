import RaftCore
import ShardMap

/// What the scheduler ordered of late and what was changed of late, by whomever.
struct SchedulerMemory: Sendable {
    struct Order: Sendable {
        var decision: Scheduler.Decision
        var at: Instant
    }

    struct Replica: Hashable, Sendable {
        var group: String
        var address: NodeAddress
    }

    /// Ordered, and neither under way nor to be seen in the map yet.
    private(set) var orders: [Order] = []
    private var membersChanged: [String: Instant] = [:]
    private var replicaCame: [Replica: Instant] = [:]
    private var transferred: [String: Instant] = [:]
    private var shardChanged: [UInt64: Instant] = [:]
    private var shardMoved: [UInt64: Instant] = [:]

    var transfersOrdered: Int { orders.count { if case .transfer = $0.decision { true } else { false } } }
    var operationsOrdered: Int { orders.count - transfersOrdered }

    /// Whether another leader of `group` was ordered and is not seen yet.
    func isTransferring(_ group: String) -> Bool {
        orders.contains { order in
            if case .transfer(group, _, _) = order.decision { true } else { false }
        }
    }

    mutating func note(_ decision: Scheduler.Decision, _ now: Instant) {
        orders.append(Order(decision: decision, at: now))
        switch decision {
        case .begin(let kind, _): note(kind, now)
        case .transfer(let group, _, _): transferred[group] = now
        }
    }

    private mutating func note(_ kind: ClusterOperation.Kind, _ now: Instant) {
        for shard in kind.shards { shardChanged[shard] = now }
        if case .move(let move) = kind { shardMoved[move.shard] = now }
        if case .changePeers(let change) = kind {
            for newcomer in change.to where !change.from.contains(newcomer) {
                replicaCame[Replica(group: change.group, address: newcomer.address)] = now
            }
        }
        if let group = kind.memberGroup { membersChanged[group] = now }
    }

    /// Notes what is under way, and forgets what has come about, what never did, and what is long ago.
    mutating func look(
        _ map: ClusterMap, _ pending: [ClusterOperation], _ load: ClusterLoad, _ now: Instant,
        _ settings: SchedulerSettings
    ) {
        for operation in pending { note(operation.kind, now) }
        orders.removeAll { order in
            guard now - order.at < settings.retry else { return true }
            switch order.decision {
            case .begin(let kind, _):
                return kind.isDone(in: map) || pending.contains { $0.kind.conflicts(with: kind) }
            case .transfer(let group, let peer, _):
                return load.groups.contains { $0.group == group && $0.leader == peer }
            }
        }
        let longest = max(settings.cooldown, settings.retry, settings.stay)
        membersChanged = membersChanged.filter { !(longest < now - $0.value) }
        replicaCame = replicaCame.filter { !(longest < now - $0.value) }
        transferred = transferred.filter { !(longest < now - $0.value) }
        shardChanged = shardChanged.filter { !(longest < now - $0.value) }
        shardMoved = shardMoved.filter { !(longest < now - $0.value) }
    }

    func isResting(members group: String, _ interval: Interval, _ now: Instant) -> Bool {
        membersChanged[group].map { now - $0 < interval } ?? false
    }
    func isResting(leaderOf group: String, _ interval: Interval, _ now: Instant) -> Bool {
        transferred[group].map { now - $0 < interval } ?? false
    }
    func isResting(placeOf peer: PeerID, in group: String, _ interval: Interval, _ now: Instant) -> Bool {
        replicaCame[Replica(group: group, address: peer.address)].map { now - $0 < interval } ?? false
    }
    func isResting(placeOf shard: UInt64, _ interval: Interval, _ now: Instant) -> Bool {
        shardMoved[shard].map { now - $0 < interval } ?? false
    }
    func isResting(shard: UInt64, _ interval: Interval, _ now: Instant) -> Bool {
        shardChanged[shard].map { now - $0 < interval } ?? false
    }
}

extension ClusterOperation.Kind {
    /// Whether the controller would refuse one of them while the other is under way.
    fileprivate func conflicts(with other: ClusterOperation.Kind) -> Bool {
        if let group = memberGroup, group == other.memberGroup { return true }
        // what was ordered has no number for a new shard yet
        return shards.contains { $0 != 0 && other.shards.contains($0) }
    }

    /// Whether the map is as an ordered operation would have it.
    fileprivate func isDone(in map: ClusterMap) -> Bool {
        switch self {
        case .changePeers(let change):
            map.group(change.group)?.peers.map(\.address).sorted() == change.to.map(\.address).sorted()
        case .move(let move):
            map.shardPosition(move.shard).map { map.shards[$0].group == move.destination } ?? true
        case .split(let split):
            map.shardPosition(split.shard).map { !map.shards[$0].range.contains(split.key) } ?? true
        case .merge, .createGroup, .deleteGroup:
            true
        }
    }
}

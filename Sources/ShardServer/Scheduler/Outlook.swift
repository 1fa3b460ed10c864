import RaftCore
import ShardMap

/// The cluster as it will be once everything that is under way or ordered has come about: each rule decides on that,
/// so that no two decisions answer the same need.
struct Outlook {
    struct NodeOutlook {
        var node: Node
        var isUp: Bool
        /// How long it has not been heard; zero for one that is up.
        var silence: Interval
        /// Names under which it can have no replica, for it is a guest of another program's group called so.
        var guests: [String] = []
        var replicas = 0
        var leaderships = 0

        /// Whether it may get anything.
        var isUsable: Bool { isUp && !node.isDraining }
    }

    struct GroupOutlook {
        var name: String
        /// As the map has them now: what a change of members has to name.
        var peers: [PeerID]
        /// As they will be.
        var members: [PeerID]
        var leader: PeerID?
        var caughtUp: [PeerID]
        var bytes: UInt64
        var isBorn: Bool
        /// Whether its members are under change, or it comes or goes.
        var isChanging = false
        /// Whether any operation has it.
        var isInOperation = false
    }

    struct ShardOutlook {
        var shard: Shard
        /// The position of its owner; nil only for a group that is not in the map.
        var group: Int?
        var average: ShardAverages.Average?
        var isInOperation = false
    }

    /// Ascending by id.
    private(set) var nodes: [NodeOutlook]
    /// In the map's order.
    private(set) var groups: [GroupOutlook]
    /// In the map's order.
    private(set) var shards: [ShardOutlook]
    private(set) var isSplitting = false
    private(set) var isChangingMembers = false

    private let nodePositions: [NodeAddress: Int]
    private let groupPositions: [String: Int]
    private let shardPositions: [UInt64: Int]

    init(
        _ map: ClusterMap, _ load: ClusterLoad, _ averages: ShardAverages, heardSince began: Instant, _ now: Instant
    ) {
        let nodeLoads = Dictionary(load.nodes.map { ($0.node, $0) }) { $1 }
        let groupLoads = Dictionary(load.groups.map { ($0.group, $0) }) { $1 }
        nodes = map.nodes.sorted { $0.id < $1.id }.map { node in
            let heard = nodeLoads[node.id]
            let isUp = heard?.isUp ?? false
            return NodeOutlook(
                node: node, isUp: isUp,
                silence: isUp ? Interval(nanoseconds: 0) : now - max(heard?.lastHeard ?? began, .distantPast),
                guests: heard?.guests ?? [])
        }
        nodePositions = Dictionary(nodes.enumerated().map { ($1.node.address, $0) }) { first, _ in first }
        groups = map.groups.map { group in
            GroupOutlook(
                name: group.id, peers: group.peers, members: group.peers, leader: groupLoads[group.id]?.leader,
                caughtUp: groupLoads[group.id]?.caughtUp ?? [], bytes: groupLoads[group.id]?.bytes ?? 0,
                isBorn: group.isBorn, isChanging: !group.isBorn)
        }
        let groupPositions = Dictionary(groups.enumerated().map { ($1.name, $0) }) { first, _ in first }
        self.groupPositions = groupPositions
        shards = map.shards.map {
            ShardOutlook(shard: $0, group: groupPositions[$0.group], average: averages[$0.id])
        }
        shardPositions = Dictionary(shards.enumerated().map { ($1.shard.id, $0) }) { first, _ in first }
        for group in groups.indices { count(group, 1) }
    }

    /// The position of the node that `peer` is on.
    func node(of peer: PeerID) -> Int? { nodePositions[peer.address] }
    /// Whether a member of `group` is up: its node, or, of a foreign one, as the group's leader says.
    func isUp(_ peer: PeerID, in group: Int) -> Bool {
        node(of: peer).map { nodes[$0].isUp } ?? groups[group].caughtUp.contains(peer)
    }
    /// Whether `group` has members that run another program.
    func hasForeigners(_ group: Int) -> Bool { groups[group].members.contains { node(of: $0) == nil } }
    func zone(of peer: PeerID) -> String { node(of: peer).map { nodes[$0].node.zone } ?? "" }

    // MARK: what is to come

    mutating func expect(_ decision: Scheduler.Decision) {
        switch decision {
        case .begin(let kind, _): expect(kind)
        case .transfer(let name, let peer, _):
            guard let group = groupPositions[name], groups[group].members.contains(peer) else { return }
            update(group) { $0.leader = peer }
        }
    }

    mutating func expect(_ kind: ClusterOperation.Kind, isAborted: Bool = false) {
        for name in kind.groups {
            if let group = groupPositions[name] { groups[group].isInOperation = true }
        }
        for shard in kind.shards {
            if let position = shardPositions[shard] { shards[position].isInOperation = true }
        }
        switch kind {
        case .split, .merge:
            isSplitting = true
        case .move(let move):
            guard !isAborted, let position = shardPositions[move.shard] else { return }
            shards[position].group = groupPositions[move.destination]
        case .createGroup(let creation):
            expectMembers(creation.peers, of: creation.group)
        case .deleteGroup(let deletion):
            expectMembers([], of: deletion.group)
        case .changePeers(let change):
            expectMembers(change.to, of: change.group)
        }
    }

    private mutating func expectMembers(_ members: [PeerID], of name: String) {
        isChangingMembers = true
        guard let group = groupPositions[name] else { return }
        update(group) { group in
            group.isChanging = true
            group.members = members
            if let leader = group.leader, !members.contains(leader) { group.leader = nil }
        }
    }

    private mutating func update(_ group: Int, _ body: (inout GroupOutlook) -> Void) {
        count(group, -1)
        body(&groups[group])
        count(group, 1)
    }

    private mutating func count(_ group: Int, _ step: Int) {
        for peer in groups[group].members {
            if let node = node(of: peer) { nodes[node].replicas += step }
        }
        if let node = groups[group].leader.flatMap(node(of:)) { nodes[node].leaderships += step }
    }
}

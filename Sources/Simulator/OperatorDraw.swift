public import RaftCore
public import ShardMap

/// Draws what an operator may ask the controller for.
public struct OperatorDraw: Sendable {
    private let map: ClusterMap
    private let operations: [ClusterOperation]
    private let replicas: Int
    private let sound: [NodeAddress]
    private let changesGroups: Bool

    /// Draws for a cluster.
    ///
    /// - Parameters:
    ///   - map: what the controller's leader has.
    ///   - operations: its record.
    ///   - replicas: of a new group.
    ///   - sound: the nodes that will not lose data for good; only they become members, so that every change ends.
    ///   - changesGroups: whether groups may be deleted and given other members; not while somebody else gives them
    ///     members that the map does not know.
    public init(
        map: ClusterMap, operations: [ClusterOperation], replicas: Int, sound: [NodeAddress], changesGroups: Bool
    ) {
        (self.map, self.operations, self.replicas) = (map, operations, replicas)
        (self.sound, self.changesGroups) = (sound, changesGroups)
    }

    /// The most groups that are made, and shards.
    private static let groupsMax = 6
    private static let shardsMax = 40

    /// Something that the map makes possible, whether the controller likes it or not; nil if there is nothing.
    public func command(_ random: inout SeededRandom) -> ControllerCommand? {
        let kind: ClusterOperation.Kind?
        switch random.number(in: 0..<16) {
        case 0..<6: kind = move(&random)
        case 6..<8: kind = split(&random)
        case 8..<10: kind = merge(&random)
        case 10: return cancellation(&random)
        case 11: kind = creation(&random)
        case 12: kind = changesGroups ? deletion(&random) : split(&random)
        case 13: kind = changesGroups ? controllersMembers(&random) : conflict(&random)
        default: kind = changesGroups ? pick(groups, &random).flatMap { members(of: $0, &random) } : move(&random)
        }
        return kind.map { .begin($0, expectedVersion: nil, wallClock: 0) }
    }

    private var groups: [Group] { map.groups.filter { $0.id != ClusterMap.controllerGroup } }

    private func pick<Item>(_ items: [Item], _ random: inout SeededRandom) -> Item? {
        items.isEmpty ? nil : items[Int(random.number(in: 0..<Int64(items.count)))]
    }

    // MARK: shards

    private func move(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        guard let shard = pick(map.shards, &random), let group = pick(groups, &random) else { return nil }
        return .move(MoveOperation(shard: shard.id, destination: group.id))
    }

    private func split(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        let key = Bytes([UInt8(random.number(in: 0x21..<0x7f)), UInt8(random.number(in: 0x21..<0x7f))])
        guard map.shards.count < OperatorDraw.shardsMax, let shard = map.shard(owning: key) else { return nil }
        return .split(SplitOperation(shard: shard.id, key: key))
    }

    private func merge(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        let pairs = zip(map.shards, map.shards.dropFirst()).filter { $0.group == $1.group }
        guard let (left, right) = pick(pairs, &random) else { return nil }
        return .merge(MergeOperation(left: left.id, right: right.id))
    }

    private func cancellation(_ random: inout SeededRandom) -> ControllerCommand? {
        guard let operation = pick(operations.filter({ $0.state == .begun }), &random) else { return nil }
        return .step(operation: operation.id, to: .aborted, reason: "an operator's wish", wallClock: 0)
    }

    // MARK: groups

    private func creation(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        guard groups.count < OperatorDraw.groupsMax else { return nil }
        var rest = map.nodes.map { PeerID(address: $0.address) }
        var peers: [PeerID] = []
        while peers.count < replicas, let peer = pick(rest, &random) {
            peers.append(peer)
            rest.removeAll { $0 == peer }
        }
        guard peers.allSatisfy({ sound.contains($0.address) }) else { return nil }
        return .createGroup(CreateGroupOperation(group: "x\(map.version)", peers: peers))
    }

    /// What a group owns has to be moved away first; until it is deleted, anybody may move something to it again.
    private func deletion(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        guard groups.count > 1, let group = pick(groups, &random) else { return nil }
        guard let shard = map.shards.first(where: { $0.group == group.id }) else {
            return .deleteGroup(DeleteGroupOperation(group: group.id))
        }
        guard let destination = pick(groups.filter({ $0.id != group.id }), &random) else { return nil }
        return .move(MoveOperation(shard: shard.id, destination: destination.id))
    }

    /// The controller's own members change now and then; otherwise something is wanted that another operation has.
    private func controllersMembers(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        guard random.number(in: 0..<2) == 0, let group = map.group(ClusterMap.controllerGroup) else {
            return conflict(&random)
        }
        return members(of: group, &random)
    }

    /// What an operation under way forbids.
    private func conflict(_ random: inout SeededRandom) -> ClusterOperation.Kind? {
        guard let operation = pick(operations.filter({ !$0.state.isOver }), &random) else { return nil }
        guard let shard = pick(operation.kind.shards, &random) else {
            return operation.kind.memberGroup.map { .deleteGroup(DeleteGroupOperation(group: $0)) }
        }
        let position = map.shardPosition(shard)
        switch (random.number(in: 0..<3), position) {
        case (0, let position?) where position + 1 < map.shards.count:
            return .merge(MergeOperation(left: shard, right: map.shards[position + 1].id))
        case (1, let position?):
            let key = Bytes(map.shards[position].range.start.withUnsafeBytes { Array($0) } + [0x50])
            return .split(SplitOperation(shard: shard, key: key))
        default: return pick(groups, &random).map { .move(MoveOperation(shard: shard, destination: $0.id)) }
        }
    }

    private func members(of group: Group, _ random: inout SeededRandom) -> ClusterOperation.Kind? {
        guard let leader = pick(group.peers, &random) else { return nil }
        let present = Configuration(peers: group.peers)
        // the controller gives a newcomer the idx that it needs
        let strangers = map.nodes.map(\.address).filter { address in
            !group.peers.contains { $0.address == address }
        }
        let everybody =
            group.peers.map { PeerID(address: $0.address, idx: $0.idx) } + strangers.map { PeerID(address: $0) }
        let draw = MembershipDraw(
            everybody: everybody, sound: everybody.filter { sound.contains($0.address) }, inMap: everybody)
        guard let drawn = draw.next(after: present, leader: leader, &random) else { return nil }
        let isReachable = drawn.listed.allSatisfy { peer in
            sound.contains(peer.address) || (present.isVoter(peer) && drawn.isVoter(peer))
        }
        guard isReachable else { return nil }
        return .changePeers(ChangePeersOperation(group: group.id, from: group.peers, to: drawn.listed))
    }
}

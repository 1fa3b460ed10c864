import RaftCore
public import ShardMap

/// Answers for an operator who wants to take a node away, for a while or for good.
public enum StopSafety {
    /// Why `node` should not be stopped now, one sentence for each thing that would be lost; empty: it is safe.
    ///
    /// A group keeps its quorum if a majority of its voters (while its members change, of the present and of the future
    /// ones) is up, has nearly all of the log, and is not on `node`. What nobody has told of counts as lost. A foreign
    /// member counts for the majority if the leader is in touch with it, and serves nobody.
    public static func reasonsNotToStop(_ node: UInt64, _ map: ClusterMap, _ load: ClusterLoad) -> [String] {
        guard let node = map.node(node) else { return ["there is no node \(node); see raftctl node list"] }
        let up = Set(load.nodes.filter(\.isUp).map(\.node))
        func isServing(_ peer: PeerID) -> Bool { map.node(at: peer.address) != nil }
        /// Of a foreign one nobody but the group's leader tells, whom it follows.
        func isUp(_ peer: PeerID) -> Bool { map.node(at: peer.address).map { up.contains($0.id) } ?? true }
        let states = Dictionary(load.groups.map { ($0.group, $0) }) { first, _ in first }
        var reasons: [String] = []
        for group in map.groups {
            let futures = group.joining.isEmpty ? [group.peers] : [group.peers, group.joining]
            guard futures.contains(where: { $0.contains { $0.address == node.address } }) else { continue }
            guard let state = states[group.id], state.leader.map(isUp) == true else {
                reasons.append(
                    "group \(group.id) has no leader that is known, so nobody knows who has its log: "
                        + "raftctl why \(group.id)")
                continue
            }
            func remains(_ peer: PeerID) -> Bool {
                peer.address != node.address && isUp(peer) && state.caughtUp.contains(peer)
            }
            let losses = futures.lazy.compactMap { lossWithout(node, of: $0, group.id, remains, isServing) }
            if let lost = losses.first {
                reasons.append(lost)
            }
        }
        return reasons
    }

    private static func lossWithout(
        _ node: Node, of peers: [PeerID], _ group: String, _ remains: (PeerID) -> Bool,
        _ isServing: (PeerID) -> Bool
    ) -> String? {
        let voters = peers.filter { $0.role != .learner }
        if !peers.contains(where: { $0.address != node.address && $0.role != .witness && isServing($0) }) {
            return "node \(node.id) has the only copy of group \(group)"
        }
        let remaining = voters.count(where: remains)
        let quorum = voters.count / 2 + 1
        if remaining < quorum {
            return "group \(group) would lose its quorum: \(remaining) of its \(voters.count) voters would be up and "
                + "caught up, and it needs \(quorum)"
        }
        if !voters.contains(where: { $0.role == .replica && remains($0) && isServing($0) }) {
            return "group \(group) would have no voter left that can lead: the others are witnesses or foreign"
        }
        return nil
    }
}

/// How far a node that drains has come.
public struct DrainProgress: Equatable, Sendable {
    /// Groups that still have a replica there, in the map's order.
    public var replicas: [String]
    /// Those of them that it leads.
    public var leaderships: [String]
    /// Operations under way that take a replica away from it.
    public var operations: [UInt64]
    /// What keeps replicas there.
    public var blocked: [Scheduler.Blocked]
    /// Whether the node may be removed.
    public var isDone: Bool { replicas.isEmpty && operations.isEmpty }

    /// The progress of `node`; `blocked` is the scheduler's.
    public init(
        of node: UInt64, _ map: ClusterMap, pending: [ClusterOperation], load: ClusterLoad,
        blocked: [Scheduler.Blocked]
    ) {
        let address = map.node(node)?.address
        replicas = map.groups.filter { $0.peers.contains { $0.address == address } }.map(\.id)
        let led = Set(load.groups.filter { $0.leader?.address == address }.map(\.group))
        leaderships = address == nil ? [] : replicas.filter { led.contains($0) }
        operations = pending.filter { operation in
            guard !operation.state.isOver, case .changePeers(let change) = operation.kind else { return false }
            return change.from.contains { $0.address == address } && !change.to.contains { $0.address == address }
        }.map(\.id)
        self.blocked = blocked.filter { $0.node == node }
    }
}

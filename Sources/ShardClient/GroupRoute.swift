internal import RaftCore
internal import ShardMap

/// Whom to ask in one group: the leader as it was last named, else the replicas in turn. Members at addresses where the map
/// has no node run another program, and are not asked: they do not know the question.
final class GroupRoute {
    let id: String
    private var candidates: [NodeAddress] = []
    private var candidate = 0
    private var leader: NodeAddress?
    /// Of other programs' members.
    private var foreigners: [NodeAddress] = []

    init(_ id: String) { self.id = id }

    /// The map says something new about the group; its nodes are at `nodes`.
    func update(_ group: Group, nodes: Set<NodeAddress>) {
        var addresses: [NodeAddress] = []
        // a witness has no state and never leads
        for peer in group.peers where peer.role == .replica && !addresses.contains(peer.address) {
            addresses.append(peer.address)
        }
        foreigners = addresses.filter { !nodes.contains($0) }
        if let named = leader, foreigners.contains(named) { leader = nil }
        addresses.removeAll { foreigners.contains($0) }
        guard addresses != candidates else { return }
        candidates = addresses
        candidate = 0
    }

    /// The node to ask; nil if the map names none.
    var target: NodeAddress? { leader ?? (candidates.isEmpty ? nil : candidates[candidate]) }

    /// Whether it has members, all of another program.
    var isForeign: Bool { candidates.isEmpty && !foreigners.isEmpty }

    /// `node` did not answer or does not lead: somebody else is to be asked. Only the first to say so about the present
    /// target is heard, so that many failures at once do not run past the next candidate.
    func avoid(_ node: NodeAddress) {
        guard target == node else { return }
        leader = nil
        pass(node)
    }

    /// `node` named the leader; false if that one cannot be asked. Should it be wrong, `node` is not the next to be asked: it
    /// would say the same again.
    func follow(_ leader: NodeAddress, namedBy node: NodeAddress) -> Bool {
        guard !foreigners.contains(leader) else { return false }
        self.leader = leader
        pass(node)
        return true
    }

    private func pass(_ node: NodeAddress) {
        if !candidates.isEmpty && candidates[candidate] == node { candidate = (candidate + 1) % candidates.count }
    }
}

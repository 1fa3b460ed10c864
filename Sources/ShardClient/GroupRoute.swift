internal import RaftCore
internal import ShardMap

/// Whom to ask in one group: the leader as it was last named, else the replicas in turn.
final class GroupRoute {
    let id: String
    private var candidates: [NodeAddress] = []
    private var candidate = 0
    private var leader: NodeAddress?

    init(_ group: Group) {
        id = group.id
        update(group)
    }

    /// The map says something new about the group.
    func update(_ group: Group) {
        var addresses: [NodeAddress] = []
        // a witness has no state and never leads
        for peer in group.peers where peer.role == .replica && !addresses.contains(peer.address) {
            addresses.append(peer.address)
        }
        guard addresses != candidates else { return }
        candidates = addresses
        candidate = 0
    }

    /// The node to ask; nil if the map names none.
    var target: NodeAddress? { leader ?? (candidates.isEmpty ? nil : candidates[candidate]) }

    /// `node` did not answer or does not lead: somebody else is to be asked. Only the first to say so about the present
    /// target is heard, so that many failures at once do not run past the next candidate.
    func avoid(_ node: NodeAddress) {
        guard target == node else { return }
        leader = nil
        pass(node)
    }

    /// `node` named the leader. Should that be wrong, `node` is not the next to be asked: it would say the same again.
    func follow(_ leader: NodeAddress, namedBy node: NodeAddress) {
        self.leader = leader
        pass(node)
    }

    private func pass(_ node: NodeAddress) {
        if !candidates.isEmpty && candidates[candidate] == node { candidate = (candidate + 1) % candidates.count }
    }
}

import RaftCore
import ShardMap

// What every rule about members asks: whether a group can change them, and who would be the best newcomer.

extension Outlook {
    /// How many voters `group` has, and how many of them are up.
    func voters(of group: Int) -> (all: Int, up: Int) {
        let voters = groups[group].members.filter { $0.role != .learner }
        return (voters.count, voters.count { isUp($0, in: group) })
    }

    /// Whether `group` may be changed for the sake of balance alone: nothing is under way there, and nobody lags.
    func isCalm(_ position: Int) -> Bool {
        let group = groups[position]
        return group.isBorn && !group.isInOperation && !group.isChanging && isLed(position)
            && group.members.allSatisfy { isUp($0, in: position) && group.caughtUp.contains($0) }
    }

    /// Whether `group` has a leader that is up.
    func isLed(_ group: Int) -> Bool { groups[group].leader.map { isUp($0, in: group) } == true }

    /// Whether a member of `group` could come to the node at position `node`.
    func mayHold(_ group: Int, _ node: Int) -> Bool {
        nodes[node].isUsable && member(of: group, on: node) == nil
            && !nodes[node].guests.contains(groups[group].name)
    }

    /// Members of `group` on the node at position `node`; one, as a rule.
    func member(of group: Int, on node: Int) -> PeerID? {
        groups[group].members.first { $0.address == nodes[node].node.address }
    }

    /// How many of `peers` are in the zone of the node at position `node`.
    func sharingZone(_ peers: [PeerID], with node: Int) -> Int {
        let zone = nodes[node].node.zone
        return zone.isEmpty ? 0 : peers.count { self.zone(of: $0) == zone }
    }

    /// The best node for a member in the place of `leaver`: in a zone that the others leave free, if there is one, with
    /// the fewest replicas, of the lowest id.
    func bestNode(for group: Int, insteadOf leaver: PeerID) -> Int? {
        let others = groups[group].members.filter { $0 != leaver }
        return nodes.indices.filter { mayHold(group, $0) }.min { left, right in
            (sharingZone(others, with: left), nodes[left].replicas, left)
                < (sharingZone(others, with: right), nodes[right].replicas, right)
        }
    }

    /// The best of those to whom the leadership of `group` could go: caught up, with the fewest leaderships, of the
    /// lowest id.
    func bestLeader(for group: Int) -> PeerID? {
        let group = groups[group]
        let able = group.members.compactMap { peer in
            node(of: peer).flatMap { nodes[$0].isUsable && peer.role == .replica ? (peer: peer, node: $0) : nil }
        }
        return able.filter { $0.peer != group.leader }.min { left, right in
            (group.caughtUp.contains(left.peer) ? 0 : 1, nodes[left.node].leaderships, left.node)
                < (group.caughtUp.contains(right.peer) ? 0 : 1, nodes[right.node].leaderships, right.node)
        }?.peer
    }

    /// The change that puts a member on the node at position `node` in the place of `leaver`.
    func replacement(of leaver: PeerID, in group: Int, by node: Int) -> ClusterOperation.Kind {
        let group = groups[group]
        // the controller gives it an idx that was never used there
        let newcomer = PeerID(address: nodes[node].node.address, role: leaver.role)
        return .changePeers(
            ChangePeersOperation(
                group: group.name, from: group.peers, to: group.peers.map { $0 == leaver ? newcomer : $0 }))
    }

    /// `node 5 (zone b, 12 replicas)`.
    func described(_ node: Int) -> String {
        let zone = nodes[node].node.zone
        let replicas = nodes[node].replicas
        return "node \(nodes[node].node.id) (\(zone.isEmpty ? "" : "zone \(zone), ")"
            + "\(replicas) \(replicas == 1 ? "replica" : "replicas"))"
    }
}

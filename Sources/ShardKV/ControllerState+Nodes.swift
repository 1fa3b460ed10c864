import RaftCore
import ShardMap

// Nodes come by announcing themselves; they go by an operator's order, once nothing is left on them.

extension ControllerState {
    /// Takes a node in, or answers one that is in with its number; its zone becomes the one that it tells, if it does, and
    /// its level what it tells.
    mutating func join(
        _ address: NodeAddress, _ incarnation: UInt64, _ zone: String?, _ level: UInt32
    ) throws(ControllerRefusal) -> ControllerReply {
        let map = try initializedMap()
        if let zone { try check(zone: zone) }
        if let position = map.nodes.firstIndex(where: { $0.address == address }) {
            var node = map.nodes[position]
            guard node.incarnation == incarnation else {
                throw ControllerRefusal(.wrongIdentity, "\(address) is node \(node.id) with another data directory")
            }
            try check(level: level, of: address, map)
            node.zone = zone ?? node.zone
            node.level = level
            if node != map.nodes[position] { replaceNodes(position..<position + 1, by: [node]) }
            return ControllerReply(nodeID: node.id)
        }
        if let removed = removedNodes.first(where: { $0.incarnation == incarnation }) {
            throw ControllerRefusal(
                .wrongIdentity,
                "this data directory is that of node \(removed.id), which was removed; to join again, stop raftd and "
                    + "start it with an empty data directory")
        }
        guard map.nodes.count < Limits.nodes else {
            throw ControllerRefusal(.refused, "the cluster has \(map.nodes.count) nodes, the most it takes")
        }
        try check(level: level, of: address, map)
        if let refusal = map.refusal(ofNewNodeAt: address) { throw ControllerRefusal(.refused, refusal) }
        let node = Node(
            id: counters.node, address: address, incarnation: incarnation, zone: zone ?? "", level: level)
        counters.node += 1
        replaceNodes(map.nodes.count..<map.nodes.count, by: [node])
        return ControllerReply(nodeID: node.id)
    }

    mutating func apply(_ change: NodeChange, _ version: UInt64?) throws(ControllerRefusal) -> ControllerReply {
        let map = try initializedMap()
        try expect(version, map)
        guard let position = map.nodes.firstIndex(where: { $0.id == change.node }) else {
            throw ControllerRefusal(.noSuchNode, "there is no node \(change.node); see raftctl node list")
        }
        var node = map.nodes[position]
        if change.isRemoved {
            try checkIsEmpty(node, map)
            replaceNodes(position..<position + 1, by: [])
            remember(RemovedNode(id: node.id, incarnation: node.incarnation))
            return ControllerReply(nodeID: node.id)
        }
        if let zone = change.zone { try check(zone: zone) }
        if change.isDraining == true, !node.isDraining { try checkCanDrain(node, map) }
        node.zone = change.zone ?? node.zone
        node.isDraining = change.isDraining ?? node.isDraining
        if node != map.nodes[position] { replaceNodes(position..<position + 1, by: [node]) }
        return ControllerReply(nodeID: node.id)
    }

    private func check(zone: String) throws(ControllerRefusal) {
        guard zone.isEmpty || zone.isName else {
            throw ControllerRefusal(
                .refused, "a zone's name is made of at most \(Limits.nameBytes) letters, digits, - and _")
        }
    }

    private func checkIsEmpty(_ node: Node, _ map: ClusterMap) throws(ControllerRefusal) {
        let groups = map.groups.filter { $0.has(node) }
        guard groups.isEmpty else {
            throw ControllerRefusal(
                .refused,
                "node \(node.id) has replicas of \(listed(groups.map(\.id))); have them moved away first: "
                    + "raftctl node drain \(node.id)")
        }
    }

    /// A drain that can never end is refused: each replica needs another node that has none of its group.
    private func checkCanDrain(_ node: Node, _ map: ClusterMap) throws(ControllerRefusal) {
        // a foreign member takes nobody's place
        func size(_ group: Group) -> Int { group.peers.count { map.node(at: $0.address) != nil } }
        let others = map.nodes.count { !$0.isDraining && $0.id != node.id }
        guard others > 0 else {
            throw ControllerRefusal(
                .refused,
                "node \(node.id) is the last one that is not draining; start another node, or end the drain of one: "
                    + "raftctl node resume NODE")
        }
        guard let largest = map.groups.filter({ $0.has(node) }).max(by: { size($0) < size($1) }),
            size(largest) > others
        else { return }
        let remove =
            largest.id == ClusterMap.controllerGroup ? "controller remove-peer" : "group remove-peer \(largest.id)"
        throw ControllerRefusal(
            .refused,
            "group \(largest.id) has \(size(largest)) members and \(others) "
                + "\(others == 1 ? "node" : "nodes") would be left for them; start another node, or take a member away: "
                + "raftctl \(remove) PEER")
    }

    private mutating func remember(_ node: RemovedNode) {
        removedNodes.insert(node, at: removedNodes.firstIndex { $0.id > node.id } ?? removedNodes.count)
        changes.removedNodes.append(node)
        if removedNodes.count > Limits.removedNodes { changes.forgottenNodes.append(removedNodes.removeFirst().id) }
    }
}

extension Group {
    /// Whether it has, or is to have, a member on `node`.
    fileprivate func has(_ node: Node) -> Bool { (peers + joining).contains { $0.address == node.address } }
}

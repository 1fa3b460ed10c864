import RaftCore
import ShardMap

// Groups come, go and change their members; one operation at a time does that to a group.

extension ControllerState {
    /// The name of a deleted group is not given to another one: late messages of the old one would be taken for its own.
    func fixed(_ creation: CreateGroupOperation, _ map: ClusterMap) throws(ControllerRefusal) -> CreateGroupOperation {
        let name = creation.group
        guard name.isName else {
            throw ControllerRefusal(
                .refused, "a group's name is made of 1 to \(Limits.nameBytes) letters, digits, - and _")
        }
        guard name != ClusterMap.controllerGroup else {
            throw ControllerRefusal(.refused, "\(name) is the name of the controller's group; choose another name")
        }
        guard map.group(name) == nil else {
            throw ControllerRefusal(.conflict, "there is a group \(name) already; choose another name")
        }
        guard !deletedGroups.contains(name) else {
            throw ControllerRefusal(
                .refused, "there was a group \(name), and names are not used again; choose another name")
        }
        guard map.groups.count < Limits.groups else {
            throw ControllerRefusal(
                .refused, "there are \(map.groups.count) groups, the most there may be; delete some first")
        }
        let peers = creation.peers.map { PeerID(address: $0.address, idx: 0, role: $0.role) }
        try check(peers, newcomers: peers, foreign: [], map)
        return CreateGroupOperation(group: name, peers: peers)
    }

    func checked(_ deletion: DeleteGroupOperation, _ map: ClusterMap) throws(ControllerRefusal) -> DeleteGroupOperation
    {
        let name = deletion.group
        guard name != ClusterMap.controllerGroup else {
            throw ControllerRefusal(.refused, "the controller group holds the map; it cannot be deleted")
        }
        guard map.group(name) != nil else { throw ControllerRefusal(noGroup: name) }
        if let operation = pending.first(where: { $0.kind.groups.contains(name) }) {
            throw ControllerRefusal(operation, has: "group \(name)")
        }
        _ = try bornGroup(name, map)
        let shards = map.shards.filter { $0.group == name }
        guard shards.isEmpty else {
            throw ControllerRefusal(
                .refused,
                "group \(name) owns \(shards.count == 1 ? "shard" : "shards") \(listed(shards.map(\.id))); "
                    + "move what it owns first: raftctl shard move \(shards[0].id) --to GROUP")
        }
        guard deletedGroups.count < Limits.deletedGroups else {
            throw ControllerRefusal(
                .refused, "\(deletedGroups.count) groups have been deleted, the most that are remembered; keep this one"
            )
        }
        return deletion
    }

    /// All members may change at once: old and new ones decide together until the change is committed, whatever its
    /// size. Whether those that remain are alive is for the driver to know.
    func fixed(_ change: ChangePeersOperation, _ map: ClusterMap) throws(ControllerRefusal) -> ChangePeersOperation {
        guard map.group(change.group) != nil else { throw ControllerRefusal(noGroup: change.group) }
        if let operation = pending.first(where: { $0.kind.memberGroup == change.group }) {
            throw ControllerRefusal(operation, has: "group \(change.group)")
        }
        let group = try bornGroup(change.group, map)
        guard change.from.sorted() == group.peers.sorted() else {
            throw ControllerRefusal(
                .conflict,
                "the members of group \(group.id) are \(listed(group.peers)), not \(listed(change.from)); "
                    + "plan the change again")
        }
        var to: [PeerID] = []
        for peer in change.to { to.append(try member(peer, of: group, map)) }
        let foreign = to.filter { map.node(at: $0.address) == nil }
        let newcomers = to.filter { !group.peers.contains($0) }
        try check(
            to, newcomers: newcomers,
            foreign: change.allowsForeign ? foreign : foreign.filter { !newcomers.contains($0) }, map)
        try checkForeign(foreign, in: to, of: group)
        for peer in to
        where group.peers.contains(where: { $0 == peer && ($0.role == .witness) != (peer.role == .witness) }) {
            throw ControllerRefusal(
                .refused,
                "\(peer.address) cannot become or cease to be a witness of group \(group.id) in place; "
                    + "remove it and add it again, in a change each")
        }
        guard !to.hasSameMembers(as: group.peers) else {
            throw ControllerRefusal(.refused, "group \(group.id) has these members already")
        }
        return ChangePeersOperation(
            group: group.id, from: group.peers, to: to, allowsForeign: change.allowsForeign)
    }

    /// What only foreign members hold nobody here can serve, and while one of them leads nobody serves at all: so they are
    /// few, and of the controller none.
    private func checkForeign(
        _ foreign: [PeerID], in peers: [PeerID], of group: Group
    ) throws(ControllerRefusal) {
        guard let first = foreign.first else { return }
        guard group.id != ClusterMap.controllerGroup else {
            throw ControllerRefusal(
                .refused, "\(first.address) is no node of this cluster, and only nodes can be members of the controller"
            )
        }
        guard !peers.contains(where: { $0.role == .learner }) else {
            throw ControllerRefusal(
                .refused, "a group with a foreign member, here \(first), cannot have learners: braft knows none")
        }
        guard foreign.count * 2 < peers.count else {
            throw ControllerRefusal(
                .refused,
                "\(foreign.count) of \(peers.count) voters of group \(group.id) would be foreign (\(listed(foreign))); "
                    + "more than half must be nodes of this cluster")
        }
    }

    /// The peer that is meant: who is a member keeps its idx, a newcomer gets one that the group never had there.
    private func member(_ peer: PeerID, of group: Group, _ map: ClusterMap) throws(ControllerRefusal) -> PeerID {
        let present = group.peers.first { $0.address == peer.address }
        let retired = group.retired.first { $0.address == peer.address }
        // a foreign one knows its idx itself; but whoever was a member may have voted, and must not forget that
        if map.node(at: peer.address) == nil, present == nil {
            let least = retired.map { $0.idx + 1 } ?? 0
            guard peer.idx >= least, peer.idx < Limits.foreignIdx else {
                throw ControllerRefusal(
                    .conflict,
                    "\(peer) cannot be a member of group \(group.id): the next member at \(peer.address) needs an idx from "
                        + "\(least) to \(Limits.foreignIdx - 1)")
            }
            return peer
        }
        let idx = present?.idx ?? retired.map { $0.idx + 1 } ?? 0
        guard peer.idx == idx || peer.idx == 0 else {
            let reason =
                present.map { "\($0) is a member; remove it first, in a change of its own" }
                ?? "the next member there is \(PeerID(address: peer.address, idx: idx))"
            throw ControllerRefusal(.conflict, "\(peer) cannot be a member of group \(group.id): \(reason)")
        }
        return PeerID(address: peer.address, idx: idx, role: peer.role)
    }

    /// Whether a group can have these members, of which `newcomers` are not there yet.
    private func check(
        _ peers: [PeerID], newcomers: [PeerID], foreign: [PeerID], _ map: ClusterMap
    ) throws(ControllerRefusal) {
        guard peers.contains(where: { $0.role == .replica }) else {
            throw ControllerRefusal(.refused, "a group needs at least one voting member that holds its data")
        }
        guard peers.count <= Limits.peers else {
            throw ControllerRefusal(.refused, "a group has at most \(Limits.peers) members")
        }
        let addresses = peers.map(\.address).sorted()
        for (address, next) in zip(addresses, addresses.dropFirst()) where address == next {
            throw ControllerRefusal(.refused, "\(address) is named twice; a group has one member on a node")
        }
        for peer in peers where map.node(at: peer.address) == nil && !foreign.contains(peer) {
            throw ControllerRefusal(
                .noSuchNode,
                "there is no node at \(peer.address); start raftd there, see raftctl node list, or say --foreign if a "
                    + "braft is meant")
        }
        for peer in newcomers {
            guard let node = map.node(at: peer.address), node.isDraining else { continue }
            throw ControllerRefusal(
                .refused,
                "node \(node.id) at \(node.address) is draining and takes no new replica; "
                    + "name another one, or end that: raftctl node resume \(node.id)")
        }
    }

    /// A group that can act.
    func bornGroup(_ name: String, _ map: ClusterMap) throws(ControllerRefusal) -> Group {
        guard let group = map.group(name) else { throw ControllerRefusal(noGroup: name) }
        guard group.isBorn else {
            throw ControllerRefusal(
                .refused,
                "group \(name) is not born yet; wait until its members have taken it over: raftctl why \(name)")
        }
        return group
    }

    mutating func markBorn(_ name: String) throws(ControllerRefusal) -> ControllerReply {
        guard let group = try initializedMap().group(name) else { throw ControllerRefusal(noGroup: name) }
        if !group.isBorn { update(name) { $0.isBorn = true } }
        return ControllerReply()
    }

    // MARK: ends

    mutating func finish(_ deletion: DeleteGroupOperation) {
        guard let position = map?.groups.firstIndex(where: { $0.id == deletion.group }) else { return }
        replaceGroups(position..<position + 1, by: [])
        deletedGroups.insert(deletion.group)
        changes.deletedGroups.append(deletion.group)
    }

    /// A group that is given up before its birth goes at once; nothing has been in it.
    mutating func enter(
        _ state: ClusterOperation.State, _ creation: CreateGroupOperation, _ operation: ClusterOperation
    ) throws(ControllerRefusal) {
        let isBorn = map?.group(creation.group)?.isBorn == true
        switch state {
        case .done where !isBorn:
            throw ControllerRefusal(
                .conflict, "group \(creation.group) is not born yet; wait until its members have taken it over",
                operation: operation)
        case .aborted where isBorn:
            throw ControllerRefusal(
                .conflict, "group \(creation.group) is born; to be rid of it: raftctl group delete \(creation.group)",
                operation: operation)
        case .aborted: finish(DeleteGroupOperation(group: creation.group))
        default: break
        }
    }

    /// While a change is taken back its newcomers stay in the map, for they may be members already; then they are
    /// former ones.
    mutating func enter(_ state: ClusterOperation.State, _ change: ChangePeersOperation) {
        guard state != .aborted else { return }
        replaceMembers(of: change.group, by: state == .done ? change.to : change.from)
    }

    // MARK: force

    /// Follows a forced reset, which has happened: refused only where it cannot have. Where the members are those that the
    /// map has anyway, a change of them that is under way goes on: it has not begun, or its first step is to come again.
    mutating func resetMembers(
        of name: String, to peers: [PeerID], _ version: UInt64?, _ wallClock: Int64
    ) throws(ControllerRefusal) -> ControllerReply {
        let map = try initializedMap()
        try expect(version, map)
        let group = try bornGroup(name, map)
        let sorted = peers.sorted()
        let present = (group.peers + group.joining).filter { peers.contains($0) }
        let isDistinct = zip(sorted, sorted.dropFirst()).allSatisfy { $0 < $1 }
        guard isDistinct, present.count == peers.count, present.contains(where: { $0.role == .replica }) else {
            throw ControllerRefusal(
                .conflict,
                "the members of group \(name) are \(listed(group.peers + group.joining)); name some of them, one that "
                    + "votes and holds the data among them")
        }
        guard !present.hasSameMembers(as: group.peers) else { return ControllerReply() }
        for var operation in pending {
            guard case .changePeers(let change) = operation.kind, change.group == name else { continue }
            (operation.state, operation.endedMilliseconds) = (.cancelled, wallClock)
            operation.reason = "the members of \(name) were reset by force"
            record(operation)
        }
        replaceMembers(of: name, by: present)
        return ControllerReply()
    }

    private mutating func replaceMembers(of name: String, by present: [PeerID]) {
        update(name) { group in
            let leavers = (group.peers + group.joining).filter { !present.contains($0) }
            let former = group.retired.filter { old in !leavers.contains { $0.address == old.address } }
            group.retired = (former + leavers).sorted()
            group.peers = present
            group.joining = []
        }
    }

    mutating func update(_ name: String, _ body: (inout Group) -> Void) {
        guard let map, let position = map.groups.firstIndex(where: { $0.id == name }) else {
            preconditionFailure("group \(name) went while an operation had it")
        }
        var group = map.groups[position]
        body(&group)
        replaceGroups(position..<position + 1, by: [group])
    }
}

extension ControllerRefusal {
    fileprivate init(noGroup name: String) {
        self.init(.noSuchGroup, "there is no group \(name.prefix(64)); see raftctl group list")
    }
}

extension Array where Element == PeerID {
    /// Whether both name the same members in the same roles, in whatever order.
    fileprivate func hasSameMembers(as other: [PeerID]) -> Bool {
        sorted().map(\.description) == other.sorted().map(\.description)
    }
}

extension String {
    /// Whether it can name a group or a zone.
    var isName: Bool {
        let isPlain = utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                true
            default: false
            }
        }
        return !isEmpty && isPlain && utf8.count <= ControllerState.Limits.nameBytes
    }
}

/// The first few of `things`, for a sentence.
func listed(_ things: [some CustomStringConvertible]) -> String {
    let shown = things.prefix(8).map(\.description).joined(separator: ", ")
    return things.count > 8 ? "\(shown) and \(things.count - 8) more" : shown
}

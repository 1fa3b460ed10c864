import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// Replicas come to this node on an order of the controller, and go when the map does not want them any more: the map is
// the order. An order names the version of the map that wants the replica, so that no older one speaks against it.

/// Replicas held here that the map does not want.
struct UnwantedReplicas {
    /// Removals under way at a time.
    static let atOnce = 4
    /// Those that wait for their turn.
    var waiting: [ReplicaRecord] = []
    var underWay = 0
}

/// Why a node has no replica that it was ordered to create.
struct CreationProblem {
    var text: String
    /// The order has no prospect: it is not to be repeated.
    var isFinal = false
}

extension ShardServer {
    // MARK: creating

    /// The controller's order, carried out here: a replica of `group` that begins with `peers` at the group's birth, or
    /// without any with nothing, until a leader tells it of its members. `done` gets nil once it is durable, or was
    /// there already, or why there is none.
    func createReplica(
        _ group: String, _ peer: PeerID, _ peers: [PeerID], mapVersion: UInt64,
        _ done: @escaping (CreationProblem?) -> Void
    ) {
        guard peer.address == address, peers.isEmpty || peers.contains(peer) else {
            return done(CreationProblem(text: "the order is for \(peer), this node is \(address)"))
        }
        // an order may come late
        if let map, map.version >= mapVersion, !map.wants(peer, in: group) {
            return done(
                CreationProblem(text: "version \(map.version) of the map wants no replica \(peer) of \(group)"))
        }
        // a node has one replica under a name, and its operator alone decides how long it keeps this one
        guard !host.records.contains(where: { $0.group == group && $0.kind == ReplicaKind.guest }) else {
            let text =
                "\(address) is a guest of another program's group that is called \(group) as well; name another node, or "
                + "start that one once with --drop-guest-group \(group)"
            return done(CreationProblem(text: text, isFinal: true))
        }
        let kind = group == ClusterMap.controllerGroup ? ReplicaKind.controller : ReplicaKind.keyValue
        create(group, peer, Configuration(peers: peers), kind, mapVersion: mapVersion) { problem in
            done(problem.map { CreationProblem(text: $0) })
        }
    }

    private func create(
        _ group: String, _ peer: PeerID, _ birth: Configuration, _ kind: String, mapVersion: UInt64,
        _ done: @escaping (String?) -> Void
    ) {
        host.create(
            group: group, peer: peer, birth: birth, kind: kind, mapVersion: mapVersion
        ) { [self] (number) throws(StateMachineError) in
            try makeStateMachine(group, kind, number, birth)
        } completion: { problem in
            done(problem)
        }
    }

    /// Creates an empty replica of `group`, a group of the map, for a change of membership that is about to make this
    /// node a member, and that the map does not learn of: so no map speaks against the replica. It knows nobody, and
    /// neither votes nor campaigns until a leader has told it of its members. On the lane; `done` gets nil once the
    /// replica is durable, or was there already, or why there is none.
    public func createNewcomer(of group: String, _ done: @escaping (String?) -> Void) {
        guard map?.groups.contains(where: { $0.id == group && $0.isBorn }) == true else {
            return done("the map known here has no group \(group) that is born")
        }
        create(group, PeerID(address: address), .empty, ReplicaKind.keyValue, mapVersion: .max, done)
    }

    func answerCreateReplica(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (group: String, peer: PeerID, peers: [PeerID], mapVersion: UInt64)? in
            guard let message = arena.unpack(flotilla__create_replica_request__init, request.body)?.pointee,
                let peer = PeerID(String(field: message.peer)),
                let peers = PeerID.decoded(message.peers, count: message.n_peers)
            else { return nil }
            return (String(field: message.group), peer, peers, message.map_version)
        }
        guard let parsed else { return request.responder.fail(RpcCode.badRequest, "malformed order") }
        createReplica(parsed.group, parsed.peer, parsed.peers, mapVersion: parsed.mapVersion) { [self] problem in
            arena.scope { arena in
                let reply = arena.make(flotilla__create_replica_reply__init)
                let error: NamedError? = problem.map { $0.isFinal ? .conflict : .refused }
                reply.pointee.error = error?.rawValue ?? 0
                if let problem { reply.pointee.message = arena.string(problem.text) }
                request.responder.reply(reply)
            }
        }
    }

    // MARK: removing

    /// Called with every newer map.
    func findUnwantedReplicas(_ map: ClusterMap) {
        // for look-up only
        let groups = Dictionary(map.groups.map { ($0.id, $0) }) { first, _ in first }
        unwanted.waiting = host.records.filter { record in
            guard [ReplicaKind.controller, ReplicaKind.keyValue].contains(record.kind),
                record.mapVersion ?? 0 <= map.version
            else { return false }
            guard let group = groups[record.group] else { return true }
            return !group.wants(record.peer)
        }
    }

    /// Called once a turn: removes what the map does not want, a few at a time.
    func removeUnwantedReplicas() {
        while unwanted.underWay < UnwantedReplicas.atOnce, let record = unwanted.waiting.popLast() {
            unwanted.underWay += 1
            host.remove(group: record.group, peer: record.peer) { [self] problem in
                unwanted.underWay -= 1
                lane.requestTurn()
                if let problem {
                    complain(
                        "a replica could not be removed", about: record.group,
                        [("group", record.group), ("peer", record.peer.description), ("problem", problem)])
                }
                // another one may have come to be meanwhile
                guard !host.records.contains(where: { $0.group == record.group }) else { return }
                machines[record.group] = nil
                if record.kind == ReplicaKind.controller { controller = nil }
            }
        }
    }
}

extension ClusterMap {
    /// Whether `peer` is a member of `group`, or about to become one.
    fileprivate func wants(_ peer: PeerID, in group: String) -> Bool {
        self.group(group)?.wants(peer) ?? false
    }
}

extension Group {
    /// Whether `peer` is a member, or about to become one.
    fileprivate func wants(_ peer: PeerID) -> Bool { peers.contains(peer) || joining.contains(peer) }
}

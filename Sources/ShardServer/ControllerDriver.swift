import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

/// What the controller's leader does about groups that are in the map and not born yet: it orders their replicas, has
/// each group take its first shards, and records the birth. Every step is idempotent, so a new leader starts over.
struct ControllerDriver {
    /// Next look.
    var next = Instant.distantPast
    var isInitializing = false
    /// Replicas ordered and confirmed, and requests under way.
    var created: Set<String> = []
    var underWay: Set<String> = []
    var birthsProposed: Set<String> = []
}

/// The controller's order to a node.
struct CreateReplicaOrder {
    var group: String
    var peer: PeerID
    /// The group's first members; none for a newcomer, which learns of them from a leader.
    var peers: [PeerID]
    /// Of the map that wants the replica.
    var mapVersion: UInt64
}

extension ShardServer {
    /// One look at what is not born yet, if this node leads the controller group.
    func driveGroups(_ now: Instant) -> Instant? {
        guard host.leads(ClusterMap.controllerGroup), let bootstrap else { return nil }
        let unborn = map?.groups.filter { !$0.isBorn } ?? []
        guard map == nil || !unborn.isEmpty else { return nil }
        guard now >= driver.next else { return driver.next }
        driver.next = now + settings.pace
        guard let map else {
            initializeMap(bootstrap)
            return driver.next
        }
        for group in unborn {
            let missing = group.peers.filter { !driver.created.contains("\(group.id) \($0)") }
            if missing.isEmpty {
                install(group, map)
            } else {
                for peer in missing { orderReplica(of: group, peer, map.version) }
            }
        }
        return driver.next
    }

    private func initializeMap(_ record: BootstrapRecord) {
        guard !driver.isInitializing else { return }
        driver.isInitializing = true
        propose(.initialize(record)) { [self] _ in
            driver.isInitializing = false
        }
    }

    // MARK: replicas

    private func orderReplica(of group: Group, _ peer: PeerID, _ mapVersion: UInt64) {
        let key = "\(group.id) \(peer)"
        guard driver.underWay.insert(key).inserted else { return }
        let done = { [self] (problem: CreationProblem?) in
            driver.underWay.remove(key)
            guard let problem else {
                driver.created.insert(key)
                return
            }
            complain(
                "a replica could not be created", about: key,
                [("group", group.id), ("peer", peer.description), ("problem", problem.text)])
            guard problem.isFinal else { return }
            // a group of the first hour has no operation, and waits for its operator
            let creation = controller?.operations.first { $0.state == .begun && $0.kind.creates(group.id) }
            if let creation { giveUp(creation, because: problem.text) }
        }
        orderReplica(
            CreateReplicaOrder(group: group.id, peer: peer, peers: group.peers, mapVersion: mapVersion), done)
    }

    /// Has a node create a replica; `done` gets nil once it is durable there, or why there is none.
    func orderReplica(_ order: CreateReplicaOrder, _ done: @escaping (CreationProblem?) -> Void) {
        if order.peer.address == address {
            return createReplica(order.group, order.peer, order.peers, mapVersion: order.mapVersion, done)
        }
        let body = arena.scope { arena in
            let message = arena.make(flotilla__create_replica_request__init)
            message.pointee.group = arena.string(order.group)
            message.pointee.peer = arena.string(order.peer.description)
            message.pointee.n_peers = order.peers.count
            message.pointee.peers = arena.strings(order.peers.map(\.description))
            message.pointee.has_map_version = 1
            message.pointee.map_version = order.mapVersion
            return arena.pack(message)
        }
        channel(to: order.peer.address).call(
            service: Services.cluster, method: "create_replica", body: body, attachment: [],
            deadline: lane.clock.now + .milliseconds(5000)
        ) { [self] result in
            lane.requestTurn()
            switch result {
            case .failed(let error): done(CreationProblem(text: error.text))
            case .reply(let reply):
                let problem = arena.scope { arena -> CreationProblem? in
                    guard let message = arena.unpack(flotilla__create_replica_reply__init, reply.body)?.pointee else {
                        return CreationProblem(text: "malformed reply")
                    }
                    guard message.error != 0 else { return nil }
                    return CreationProblem(
                        text: String(field: message.message), isFinal: message.error == NamedError.conflict.rawValue)
                }
                done(problem)
            }
        }
    }

    // MARK: shards

    /// Asks every member; whoever leads the group answers with success.
    private func install(_ group: Group, _ map: ClusterMap) {
        let shards = map.shards.filter { $0.group == group.id }
        for peer in group.peers {
            let key = "\(group.id) install \(peer)"
            guard driver.underWay.insert(key).inserted else { continue }
            let done = { [self] (installed: Bool) in
                driver.underWay.remove(key)
                if installed { recordBirth(of: group.id) }
            }
            if peer.address == address {
                installShards(group.id, shards) { done($0 == nil) }
                continue
            }
            let body = arena.scope { arena in
                let message = arena.make(flotilla__install_shards_request__init)
                message.pointee.group = arena.string(group.id)
                message.pointee.n_shards = shards.count
                message.pointee.shards = arena.array(shards.map { $0.encoded(arena) })
                return arena.pack(message)
            }
            channel(to: peer.address).call(
                service: Services.cluster, method: "install_shards", body: body, attachment: [],
                deadline: lane.clock.now + .milliseconds(5000)
            ) { [self] result in
                guard case .reply(let reply) = result else { return done(false) }
                done(
                    arena.scope { arena in
                        arena.unpack(flotilla__install_shards_reply__init, reply.body)?.pointee.error == 0
                    })
            }
        }
    }

    private func recordBirth(of group: String) {
        guard driver.birthsProposed.insert(group).inserted else { return }
        propose(.groupBorn(group)) { [self] outcome in
            if case .applied = outcome { return }
            driver.birthsProposed.remove(group)
        }
    }

    /// The controller's order, carried out by the group's leader.
    func installShards(_ group: String, _ shards: [Shard], _ done: @escaping (NamedError?) -> Void) {
        propose(.install(shards), to: group) { [self] outcome in
            switch outcome {
            case .applied(let reply, _): done(ExecuteReply(reply, arena)?.error)
            case .notLeader: done(.notLeader)
            case .refused(let refusal): done(refusal.namedError)
            case .unknown: done(.outcomeUnknown)
            }
        }
    }

    func answerInstallShards(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (String, [Shard])? in
            guard let message = arena.unpack(flotilla__install_shards_request__init, request.body)?.pointee,
                let shards = Shard.decoded(message.shards, count: message.n_shards)
            else { return nil }
            return (String(field: message.group), shards)
        }
        guard let (group, shards) = parsed else {
            return request.responder.fail(RpcCode.badRequest, "malformed order")
        }
        installShards(group, shards) { [self] error in
            arena.scope { arena in
                let reply = arena.make(flotilla__install_shards_reply__init)
                reply.pointee.error = error?.rawValue ?? 0
                if let error { reply.pointee.message = arena.string(error.sentence) }
                request.responder.reply(reply)
            }
        }
    }
}

extension ClusterOperation.Kind {
    fileprivate func creates(_ group: String) -> Bool {
        if case .createGroup(let creation) = self { creation.group == group } else { false }
    }
}

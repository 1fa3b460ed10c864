import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

/// What the controller's leader does about groups that are in the map and not born yet: it orders their replicas, has
/// each group take its first shards, and records the birth. Every step is idempotent, so a new leader starts over.
///
/// There may be thousands of them. Orders for some only are under way at a time, so that each is answered before it is
/// given again and no node is kept from its other duties; the groups take turns, for some may wait long for a node that is
/// down. Births are recorded together, for each new version of a large map is packed, sent and taken over by every node.
struct ControllerDriver {
    /// Orders that are under way at a time, or a few more.
    static let ordersAtOnce = 768
    /// So many births are recorded as they come.
    static let birthsAtOnce = 16

    /// Next look, and next record of births.
    var next = Instant.distantPast
    var nextBirths = Instant.distantPast
    var isInitializing = false
    /// The version of the map that the next two are of.
    var version: UInt64?
    var unborn: [Group] = []
    /// Whose turn is next among those that wait.
    var turn = 0
    /// Shards by group, for those; for lookup only.
    var shards: [String: [Shard]] = [:]
    /// Replicas ordered and confirmed, and requests under way.
    var created: Set<String> = []
    var underWay: Set<String> = []
    /// Groups that have their shards, and those of them whose birth is on its way into the map.
    var installed: [String] = []
    var births: Set<String> = []

    /// Takes over what `map` says.
    mutating func look(at map: ClusterMap) {
        guard version != map.version else { return }
        version = map.version
        unborn = map.groups.filter { !$0.isBorn }
        let names = Set(unborn.map(\.id))
        births.formIntersection(names)
        installed.removeAll { !names.contains($0) }
        shards = names.isEmpty ? [:] : Dictionary(grouping: map.shards.filter { names.contains($0.group) }, by: \.group)
    }
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
        if let map { driver.look(at: map) }
        guard map == nil || !driver.unborn.isEmpty else { return nil }
        if now >= driver.nextBirths { recordBirths(now) }
        guard now >= driver.next else { return nextDrive }
        driver.next = now + settings.pace
        guard let map else {
            initializeMap(bootstrap)
            return driver.next
        }
        let installed = Set(driver.installed)
        let waiting = driver.unborn.filter { !installed.contains($0.id) && !driver.births.contains($0.id) }
        for _ in waiting.indices where driver.underWay.count < ControllerDriver.ordersAtOnce {
            driver.turn = (driver.turn + 1) % waiting.count
            let group = waiting[driver.turn]
            let missing = self.missing(of: group)
            if missing.isEmpty { install(group) }
            for peer in missing { orderReplica(of: group, peer, map.version) }
        }
        return nextDrive
    }

    private var nextDrive: Instant {
        driver.installed.isEmpty ? driver.next : min(driver.next, driver.nextBirths)
    }

    private func missing(of group: Group) -> [PeerID] {
        group.peers.filter { !driver.created.contains("\(group.id) \($0)") }
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
                if missing(of: group).isEmpty { install(group) }
                return
            }
            complain(
                "a replica could not be created", about: key,
                [("group", group.id), ("peer", peer.description), ("problem", problem.text)])
            guard problem.isFinal else { return }
            // a group of the first hour has no operation, and waits for its operator
            let creation = controller?.operations.first { $0.state == .begun && $0.kind.creates(group.id) }
            if let creation {
                let reason = "\(peer.address) is a guest of another program's group of that name; choose another name"
                giveUp(creation, because: reason)
            }
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
    private func install(_ group: Group) {
        let shards = driver.shards[group.id] ?? []
        for peer in group.peers {
            let key = "\(group.id) install \(peer)"
            guard driver.underWay.insert(key).inserted else { continue }
            let done = { [self] (installed: Bool) in
                driver.underWay.remove(key)
                if installed { noteInstalled(group.id) }
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

    private func noteInstalled(_ group: String) {
        guard !driver.births.contains(group), !driver.installed.contains(group) else { return }
        driver.installed.append(group)
        if driver.unborn.count <= ControllerDriver.birthsAtOnce { driver.nextBirths = .distantPast }
        lane.requestTurn()
    }

    private func recordBirths(_ now: Instant) {
        guard let map, !driver.installed.isEmpty else { return }
        driver.nextBirths = now + settings.pace + .milliseconds(map.groups.count / 10)
        let groups = driver.installed
        driver.installed.removeAll()
        for group in groups {
            driver.births.insert(group)
            propose(.groupBorn(group)) { [self] outcome in
                if case .applied = outcome { return }
                driver.births.remove(group)
            }
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

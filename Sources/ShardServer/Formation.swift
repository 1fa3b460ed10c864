import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// How a cluster comes to be. A node without a cluster announces itself to the seeds. `init`, wherever it is asked, goes
// to the first of them, which writes the bootstrap record durably and once, and spreads it until every node named in it
// holds it; a repeated, concurrent or half-finished init finds that record and converges. A node that comes later is
// taken in by the controller group.

extension ShardServer {
    private static let heardRecently = Interval.milliseconds(3000)

    var address: NodeAddress { directory.identity.address }
    private var isFirstController: Bool { settings.controllers.first == address }

    /// Announces, spreads the record, and starts the controller's replica, as far as each is due.
    func formationTurn(_ now: Instant) -> Instant? {
        let belongs = directory.identity.clusterID != 0
        // a node with guests only looks for no cluster
        guard belongs || !settings.controllers.isEmpty else { return nil }
        let spreads = belongs && isFirstController && (bootstrap.map { confirmed.count < $0.nodes.count } ?? false)
        guard !belongs || spreads || isOtherwise else { return nil }
        guard now >= nextFormation else { return nextFormation }
        nextFormation = now + settings.pace
        if spreads { spreadBootstrap(now) } else { announce(now) }
        return nextFormation
    }

    /// Whether the map has this node in another zone than it was started in, or with the level of another program.
    private var isOtherwise: Bool {
        guard let node = map?.node(at: address) else { return false }
        return settings.zone.map { $0 != node.zone } ?? false || node.level != settings.knownLevel
    }

    /// Starts what the record asks of this node; called at the start too, for a crash may have come in between.
    func startControllerReplica() {
        guard let bootstrap, let peer = bootstrap.controllerPeers.first(where: { $0.address == address }),
            // a directory that came later knows nothing of what the first one under this address has promised
            bootstrap.nodes.contains(where: {
                $0.address == address && $0.incarnation == directory.identity.incarnation
            }),
            !host.holds(ClusterMap.controllerGroup),
            // the record says who was there first; the map, who is
            host.removedReplica(of: ClusterMap.controllerGroup) == nil
        else { return }
        let birth = Configuration(peers: bootstrap.controllerPeers)
        host.create(
            group: ClusterMap.controllerGroup, peer: peer, birth: birth, kind: ReplicaKind.controller
        ) { [self] (number) throws(StateMachineError) in
            try makeStateMachine(ClusterMap.controllerGroup, ReplicaKind.controller, number, birth)
        } completion: { [self] problem in
            if let problem { logger.log(.error, "the controller's replica cannot be created", [("problem", problem)]) }
        }
    }

    // MARK: announcing and joining

    private func announce(_ now: Instant) {
        var seeds = settings.controllers.filter { $0 != address }
        if seeds.isEmpty, belongsToCluster { seeds = [address] }
        if isFirstController { heard(address, directory.identity.incarnation, settings.knownLevel) }
        guard !seeds.isEmpty else { return }
        // the first one forms the cluster; the others can take us in once there is one
        let target = announcements % 2 == 0 ? seeds[0] : seeds[announcements / 2 % seeds.count]
        announcements += 1
        let body = arena.scope { arena in
            let message = arena.make(flotilla__announce_request__init)
            message.pointee.address = arena.string(address.description)
            message.pointee.incarnation = directory.identity.incarnation
            if let zone = settings.zone { message.pointee.zone = arena.string(zone) }
            (message.pointee.has_level, message.pointee.level) = (1, settings.knownLevel)
            return arena.pack(message)
        }
        strangerChannel(to: target).call(
            service: Services.cluster, method: "announce", body: body, attachment: [],
            deadline: now + .milliseconds(2000)
        ) { [self] result in
            guard case .reply(let reply) = result, directory.identity.clusterID == 0 else { return }
            let received = arena.scope { arena -> (UInt64, BootstrapRecord)? in
                guard let message = arena.unpack(flotilla__announce_reply__init, reply.body)?.pointee else {
                    return nil
                }
                if message.error == NamedError.wrongIdentity.rawValue { complainOfOwnIdentity(to: target) }
                if [NamedError.programTooOld, .refused].map(\.rawValue).contains(message.error) {
                    complain(
                        "the cluster does not take this node in", about: address.description,
                        [("said_by", target.description), ("problem", String(field: message.message))])
                }
                guard message.error == 0, message.has_node_id != 0,
                    let record = message.record.flatMap({ BootstrapRecord($0.pointee) })
                else { return nil }
                return (message.node_id, record)
            }
            if let (nodeID, record) = received { _ = join(record, nodeID: nodeID) }
        }
    }

    /// The cluster knows another data directory under this address: this one is new, or was put here instead of that.
    private func complainOfOwnIdentity(to node: NodeAddress) {
        complain(
            "the cluster knows another data directory under this address, and does not take this one in",
            about: address.description,
            [
                ("said_by", node.description),
                ("way_out", "bring the former directory back; without it the replicas on this node are lost"),
            ])
    }

    /// Answers an announcement: remembers it, or has the controller take the node in.
    func answerAnnounce(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (NodeAddress, UInt64, String?, UInt32)? in
            arena.unpack(flotilla__announce_request__init, request.body).flatMap { message in
                let zone = message.pointee.zone.map { String(cString: $0) }
                let level = message.pointee.has_level != 0 ? message.pointee.level : ClusterLevel.first
                return NodeAddress(String(field: message.pointee.address)).map {
                    ($0, message.pointee.incarnation, zone, max(level, ClusterLevel.first))
                }
            }
        }
        guard let (node, incarnation, zone, level) = parsed else {
            return request.responder.fail(RpcCode.badRequest, "malformed announcement")
        }
        guard let bootstrap else {
            heard(node, incarnation, level)
            return replyToAnnounce(request, .notInitialized, nil)
        }
        // the record says who was there first; the map, who is
        let known = map?.node(at: node) ?? bootstrap.nodes.first { map == nil && $0.address == node }
        if let known, known.incarnation == incarnation, zone == nil || known.zone == zone, known.level == level {
            return replyToAnnounce(request, nil, known.id)
        }
        guard host.leads(ClusterMap.controllerGroup) else { return passAnnouncementOn(request) }
        let join = ControllerCommand.join(address: node, incarnation: incarnation, zone: zone, level: level)
        // it asks again and again, and what it is refused for needs no entry each time
        if let refusal = map?.refusal(ofProgramAt: node, knowing: level) {
            return replyToAnnounce(request, .programTooOld, nil, refusal)
        }
        if let refusal = map?.refusal(ofNewNodeAt: node) { return replyToAnnounce(request, .refused, nil, refusal) }
        propose(join) { [self] outcome in
            guard case .applied(let packed, _) = outcome, let reply = ControllerReply(packed, arena) else {
                return replyToAnnounce(request, .noLeader, nil)
            }
            replyToAnnounce(request, reply.error, reply.nodeID, reply.message)
        }
    }

    /// The seeds need not be members of the controller group any more. An announcement is passed on once, to its leader,
    /// or to its members in turn where that is not known: whoever announces itself does so until it is taken in. The turns
    /// are not those of this node's own announcements: nodes that announce themselves to each other would keep in step,
    /// and never ask a third one.
    private func passAnnouncementOn(_ request: RpcRequest) {
        let nodes = controllerNodes.filter { $0 != address }
        guard !host.isKnownPeer(request.connection), !nodes.isEmpty else {
            return replyToAnnounce(request, .notLeader, nil)
        }
        announcementsPassedOn += 1
        let target = controllerLeader.flatMap { $0 == address ? nil : $0 }
        channel(to: target ?? nodes[announcementsPassedOn % nodes.count]).call(
            service: Services.cluster, method: "announce", body: request.body, attachment: [],
            deadline: lane.clock.now + .milliseconds(1000)
        ) { [self] result in
            switch result {
            case .reply(let reply): request.responder.reply(body: reply.body)
            case .failed: replyToAnnounce(request, .notLeader, nil)
            }
        }
    }

    private func replyToAnnounce(
        _ request: RpcRequest, _ error: NamedError?, _ nodeID: UInt64?, _ text: String? = nil
    ) {
        arena.scope { arena in
            let reply = arena.make(flotilla__announce_reply__init)
            reply.pointee.error = error?.rawValue ?? 0
            if let error { reply.pointee.message = arena.string(text ?? error.sentence) }
            if error == nil, let bootstrap, let nodeID {
                reply.pointee.record = bootstrap.encoded(arena)
                reply.pointee.has_node_id = 1
                reply.pointee.node_id = nodeID
            }
            request.responder.reply(reply)
        }
    }

    private func heard(_ node: NodeAddress, _ incarnation: UInt64, _ level: UInt32) {
        announced.removeAll { $0.node == node }
        announced.append((node, incarnation, level, lane.clock.now))
        // a bound, against strangers
        if announced.count > 4096 { announced.removeFirst() }
    }

    /// Takes the record over, durably; nil, or why not.
    private func join(_ record: BootstrapRecord, nodeID: UInt64) -> String? {
        let packed = arena.scope { $0.pack(record.encoded($0)) }
        do throws(DirectoryError) {
            try directory.join(clusterID: record.clusterID, nodeID: nodeID, bootstrap: packed)
        } catch {
            logger.log(.error, "the node cannot join", [("problem", error.description)])
            return error.description
        }
        bootstrap = record
        host.join(clusterID: record.clusterID, nodeID: nodeID)
        logger.log(.info, "joined", [("cluster", "\(record.clusterID)"), ("node", "\(nodeID)")])
        startControllerReplica()
        lane.requestTurn()
        return nil
    }

    // MARK: init

    /// Answers `init`: passes it on to the first controller, or forms the cluster.
    func answerInit(_ request: RpcRequest) {
        guard !isFirstController else { return answerForm(request) }
        guard let first = settings.controllers.first else {
            return replyToInit(request, .refused, "this node has no --controllers")
        }
        // sooner than raftctl's patience ends
        strangerChannel(to: first).call(
            service: Services.cluster, method: "form", body: request.body, attachment: [],
            deadline: lane.clock.now + .milliseconds(4000)
        ) { [self] result in
            switch result {
            case .reply(let reply): request.responder.reply(body: reply.body)
            case .failed:
                replyToInit(request, .unreachable, "the first controller, \(first), cannot be reached; start it")
            }
        }
    }

    /// Answers an `init` that another node has passed on. It goes no further: nodes that do not agree about the first
    /// controller would pass it on for ever.
    func answerForm(_ request: RpcRequest) {
        guard isFirstController else {
            let first = settings.controllers.first.map { "\($0)" } ?? "none"
            return replyToInit(
                request, .refused,
                "the nodes disagree about the first controller, to \(address) it is \(first); "
                    + "start all with the same --controllers")
        }
        let parsed = arena.scope { arena -> InitParameters? in
            arena.unpack(flotilla__init_request__init, request.body).map { message in
                InitParameters(
                    groups: Int(message.pointee.groups), replicas: Int(message.pointee.replicas),
                    boundaries: (0..<message.pointee.n_boundaries).map { Bytes(message.pointee.boundaries[$0]) },
                    nodes: message.pointee.has_nodes != 0 ? Int(message.pointee.nodes) : 0)
            }
        }
        guard let parsed else { return request.responder.fail(RpcCode.badRequest, "malformed init") }
        let existed = bootstrap != nil
        if !existed, let problem = form(parsed) {
            return replyToInit(request, .refused, problem)
        }
        arena.scope { arena in
            let reply = arena.make(flotilla__init_reply__init)
            reply.pointee.error = 0
            reply.pointee.has_existed = 1
            reply.pointee.existed = existed ? 1 : 0
            reply.pointee.has_done = 1
            reply.pointee.done = map?.groups.allSatisfy(\.isBorn) == true ? 1 : 0
            reply.pointee.has_cluster_id = 1
            reply.pointee.cluster_id = bootstrap?.clusterID ?? 0
            request.responder.reply(reply)
        }
    }

    private func replyToInit(_ request: RpcRequest, _ error: NamedError, _ message: String) {
        arena.scope { arena in
            let reply = arena.make(flotilla__init_reply__init)
            reply.pointee.error = error.rawValue
            reply.pointee.message = arena.string(message)
            request.responder.reply(reply)
        }
    }

    /// Creates the record durably; nil, or why not.
    private func form(_ parameters: InitParameters) -> String? {
        let (groups, replicas, boundaries) = (parameters.groups, parameters.replicas, parameters.boundaries)
        heard(address, directory.identity.incarnation, settings.knownLevel)
        let since = lane.clock.now
        let present = announced.filter { since - $0.at <= ShardServer.heardRecently }
        for controller in settings.controllers where !present.contains(where: { $0.node == controller }) {
            return "the controller \(controller) has not been heard of; start it and repeat init"
        }
        guard present.count >= parameters.nodes else {
            return
                "only \(present.count) of \(parameters.nodes) nodes have been heard of; start the others and repeat init"
        }
        guard groups >= 1, groups <= 100_000 else { return "--groups must be 1 to 100000" }
        guard replicas >= 1, replicas <= present.count else {
            return "--replicas must be 1 to \(present.count), the number of nodes heard of"
        }
        guard groups <= 20_000 || !boundaries.isEmpty else { return "more than 20000 groups need --boundaries" }
        let keys = boundaries.isEmpty ? BootstrapRecord.evenBoundaries(groups: groups) : boundaries
        for (left, right) in zip(keys, keys.dropFirst()) where !(left < right) {
            return "the boundaries must ascend: \(left) is not below \(right)"
        }
        if boundaries.first?.isEmpty == true { return "a boundary must not be empty" }
        guard boundaries.allSatisfy({ $0.count <= KeyLimits.keyBytes }) else {
            return "a boundary is longer than a key"
        }
        guard boundaries.isEmpty || boundaries.count >= groups - 1 else {
            return "\(groups) groups need at least \(groups - 1) boundaries, or none"
        }
        // controllers first, in the order of the flag, then the others by address
        let others = present.map(\.node).filter { !settings.controllers.contains($0) }.sorted()
        var nodes: [Node] = []
        for (number, node) in (settings.controllers + others).enumerated() {
            guard let known = present.first(where: { $0.node == node }) else { continue }
            nodes.append(
                Node(id: UInt64(number + 1), address: node, incarnation: known.incarnation, level: known.level))
        }
        let record = BootstrapRecord(
            clusterID: random.next() | 1, nodes: nodes,
            controllerPeers: settings.controllers.map { PeerID(address: $0) }, groups: groups, replicas: replicas,
            boundaries: keys)
        guard let own = nodes.first(where: { $0.address == address }) else {
            return "this node, \(address), is not among its own --controllers"
        }
        if let problem = join(record, nodeID: own.id) { return problem }
        confirmed = [address]
        return nil
    }

    private func spreadBootstrap(_ now: Instant) {
        guard let bootstrap else { return }
        confirmed.insert(address)
        let body = arena.scope { arena in
            let message = arena.make(flotilla__bootstrap_request__init)
            message.pointee.record = bootstrap.encoded(arena)
            return arena.pack(message)
        }
        for node in bootstrap.nodes.map(\.address)
        where !confirmed.contains(node) && !formationUnderWay.contains(node) {
            formationUnderWay.insert(node)
            strangerChannel(to: node).call(
                service: Services.cluster, method: "bootstrap", body: body, attachment: [],
                deadline: now + .milliseconds(5000)
            ) { [self] result in
                formationUnderWay.remove(node)
                guard case .reply(let reply) = result else { return }
                let outcome = arena.scope { arena -> (UInt32, String)? in
                    arena.unpack(flotilla__bootstrap_reply__init, reply.body).map {
                        ($0.pointee.error, String(field: $0.pointee.message))
                    }
                }
                guard let (error, text) = outcome else { return }
                if error == 0 {
                    confirmed.insert(node)
                } else {
                    complain(
                        "the bootstrap record was refused", about: node.description,
                        [("node", node.description), ("problem", text)])
                }
            }
        }
    }

    /// Takes the record of a new cluster, if this node is named in it and belongs to none.
    func answerBootstrap(_ request: RpcRequest) {
        let record = arena.scope { arena in
            arena.unpack(flotilla__bootstrap_request__init, request.body)?.pointee.record.flatMap {
                BootstrapRecord($0.pointee)
            }
        }
        guard let record else { return request.responder.fail(RpcCode.badRequest, "malformed record") }
        var problem: String?
        if directory.identity.clusterID != 0 {
            if directory.identity.clusterID != record.clusterID { problem = "the node belongs to another cluster" }
        } else if let own = record.nodes.first(where: { $0.address == address }) {
            problem =
                own.incarnation == directory.identity.incarnation
                ? join(record, nodeID: own.id) : "the node's data directory is not the one that was announced"
        } else {
            problem = "the record does not name \(address)"
        }
        arena.scope { arena in
            let reply = arena.make(flotilla__bootstrap_reply__init)
            reply.pointee.error = problem == nil ? 0 : NamedError.wrongIdentity.rawValue
            if let problem { reply.pointee.message = arena.string(problem) }
            request.responder.reply(reply)
        }
    }

    /// A connection without a hello: between nodes that share no cluster yet.
    private func strangerChannel(to node: NodeAddress) -> RpcChannel {
        if let channel = strangers[node] { return channel }
        let channel = host.makeStrangerChannel(to: node)
        strangers[node] = channel
        strangerOrder.append(node)
        return channel
    }
}

/// What an operator asks of a new cluster.
private struct InitParameters {
    var groups: Int
    var replicas: Int
    var boundaries: [Bytes]
    /// Nodes that must have been heard of.
    var nodes: Int
}

import CMessages
import RaftCore
import RaftHost
import ShardMap
public import Transport
import WireMessages

extension ShardServer {
    /// Makes `server` answer the cluster's and the store's services.
    public func register(on server: RpcServer) {
        server.register(Services.keyValue) { [self] method, request in
            guard method == "execute" else { return false }
            answerExecute(request)
            return true
        }
        server.register(Services.cluster) { [self] method, request in
            if host.isOnItsOwn, ["announce", "init", "form", "bootstrap", "create_replica"].contains(method) {
                request.responder.fail(1, "this node is in no cluster and looks for none: start it with --controllers")
                return true
            }
            switch method {
            case "announce": answerAnnounce(request)
            case "init": answerInit(request)
            case "form": answerForm(request)
            case "bootstrap": answerBootstrap(request)
            case "get_map": answerGetMap(request)
            case "status": answerStatus(request)
            case "metrics": answerMetrics(request)
            case "verify_group": answerVerifyGroup(request)
            case "transfer": answerTransfer(request)
            case "operate": answerOperate(request)
            case "list_operations": answerListOperations(request)
            case "plan": answerPlan(request)
            case "save_replica": answerSaveReplica(request)
            case "reset_replica": answerResetReplica(request)
            case "schedule": answerSchedule(request)
            case "create_replica", "install_shards", "digest", "order", "move_status", "read_move", "change_peers",
                "load":
                // orders of the controller, and questions of a group's leader: from a node of this cluster only
                guard host.isKnownPeer(request.connection) else {
                    request.responder.fail(1, "say hello first (flotilla.NodeService)")
                    return true
                }
                switch method {
                case "create_replica": answerCreateReplica(request)
                case "install_shards": answerInstallShards(request)
                case "order": answerOrder(request)
                case "move_status": answerMoveStatus(request)
                case "read_move": answerReadMove(request)
                case "change_peers": answerChangePeers(request)
                case "load": answerLoad(request)
                default: answerDigest(request)
                }
            default: return false
            }
            return true
        }
    }

    private func answerExecute(_ request: RpcRequest) {
        guard let message = ExecuteRequest(request.body, arena) else {
            return request.responder.fail(RpcCode.badRequest, "malformed execute request")
        }
        execute(message, command: request.attachment.isEmpty ? nil : request.attachment) { reply in
            request.responder.reply(body: reply)
        }
    }

    private func answerStatus(_ request: RpcRequest) {
        let identity = directory.identity
        let uptime = lane.clock.now - startedAt
        let state =
            if isStopping {
                "stopping"
            } else if !belongsToCluster, !host.isOnItsOwn {
                "uninitialized"
            } else {
                host.refusesWrites ? "read_only" : "serving"
            }
        arena.scope { arena in
            let reply = arena.make(flotilla__status_reply__init)
            reply.pointee.node_id = identity.nodeID
            reply.pointee.address = arena.string(identity.address.description)
            reply.pointee.incarnation = identity.incarnation
            reply.pointee.run_number = identity.runNumber
            reply.pointee.cluster_id = identity.clusterID
            reply.pointee.state = arena.string(state)
            let groups = host.status().sorted { $0.group < $1.group }
            reply.pointee.n_groups = groups.count
            reply.pointee.groups = arena.array(groups.map { encode($0, arena) })
            reply.pointee.has_log_bytes = 1
            reply.pointee.log_bytes = UInt64(host.logBytes)
            reply.pointee.has_log_space = 1
            reply.pointee.log_space = UInt64(host.logSpace)
            reply.pointee.has_uptime_ms = 1
            reply.pointee.uptime_ms = UInt64(max(0, uptime.milliseconds))
            reply.pointee.version = arena.string(settings.version)
            (reply.pointee.has_level, reply.pointee.level) = (1, settings.knownLevel)
            reply.pointee.has_stall_ms = 1
            reply.pointee.stall_ms = UInt64(max(0, host.stall.milliseconds))
            if let refusal = host.writeRefusal { reply.pointee.refusal = arena.string(refusal) }
            let unheard = host.unheardNodes.map(\.description)
            reply.pointee.n_unheard = unheard.count
            reply.pointee.unheard = arena.strings(unheard)
            request.responder.reply(reply)
        }
    }

    private func answerMetrics(_ request: RpcRequest) {
        arena.scope { arena in
            let reply = arena.make(flotilla__metrics_reply__init)
            reply.pointee.text = arena.string(metricsPage())
            request.responder.reply(reply)
        }
    }

    private func encode(_ status: ReplicaStatus, _ arena: Arena) -> UnsafeMutablePointer<Flotilla__GroupStatus>? {
        let message = arena.make(flotilla__group_status__init)
        message.pointee.id = arena.string(status.group)
        message.pointee.peer = arena.string(status.peer.description)
        message.pointee.state = arena.string(status.state)
        message.pointee.kind = arena.string(status.kind)
        message.pointee.term = status.term.rawValue
        if let leader = status.leader { message.pointee.leader = arena.string(leader.description) }
        message.pointee.commit_index = status.commitIndex.rawValue
        message.pointee.applied_index = status.appliedIndex.rawValue
        message.pointee.last_index = status.lastIndex.rawValue
        message.pointee.durable_index = status.durableIndex.rawValue
        let peers = status.configuration.members.map(\.description)
        message.pointee.n_peers = peers.count
        message.pointee.peers = arena.strings(peers)
        if let debt = status.debt {
            message.pointee.has_debt_index = 1
            message.pointee.debt_index = debt.index.rawValue
        }
        let problem = status.problem ?? refusalWords(status.group)
        if let problem { message.pointee.problem = arena.string(problem) }
        let foreign = status.configuration.members.filter { isForeign($0, of: status) }
        if !foreign.isEmpty {
            message.pointee.n_foreign = foreign.count
            message.pointee.foreign = arena.array(foreign.map { encode($0, status, arena) })
        }
        return message
    }

    /// Which brafts the replica cannot bring back; nil if there are none.
    private func refusalWords(_ group: String) -> String? {
        let refusals = host.snapshotRefusals(of: group)
        guard !refusals.isEmpty else { return nil }
        return refusals.map { "the braft \($0.peer) does not take the snapshot that it needs: \($0.text)" }
            .joined(separator: "; ")
    }

    /// Whether a member runs another program. Of groups of the map that is whoever is at no node's address; of guests, who
    /// has shown it.
    func isForeign(_ peer: PeerID, of status: ReplicaStatus) -> Bool {
        if status.kind == ReplicaKind.guest { return host.liveness.isForeign(peer.address) }
        guard let map, status.kind == ReplicaKind.keyValue else { return false }
        if mapIndex.version != map.version { mapIndex = MapIndex(map) }
        return !mapIndex.nodes.contains(peer.address)
    }

    private func encode(
        _ foreign: PeerID, _ status: ReplicaStatus, _ arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__ForeignMember>? {
        let message = arena.make(flotilla__foreign_member__init)
        message.pointee.peer = arena.string(foreign.description)
        guard let progress = host.raft(of: status.group)?.progress(of: foreign) else { return message }
        message.pointee.has_reachable = 1
        message.pointee.reachable = host.hearsForeigner(at: foreign.address) ? 1 : 0
        (message.pointee.has_match_index, message.pointee.match_index) = (1, progress.match.rawValue)
        return message
    }
}

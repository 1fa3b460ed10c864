import CMessages
import RaftCore
import ShardKV
import ShardMap
import ShardServer
import Transport
import WireMessages

// Operators: they have shards split, merged and moved while everything else goes on, and take some of it back.

extension Simulation {
    /// An operator asks the controller's leader for something that its map makes possible.
    func operate(_ fault: Fault) {
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader),
            let map = server.map
        else { return }
        // of its own, so that a fault does the same without the faults before it
        var random = SeededRandom(seed: UInt64(fault.amount))
        let draw = OperatorDraw(
            map: map, operations: server.recordedOperations, replicas: plan.replicas, sound: soundNodes.map(\.address),
            changesGroups: !plan.schedule.faults.contains { $0.kind == .churn })
        guard let command = draw.command(&random) else { return }
        tell("operator: \(command.inWords)")
        ask(command, of: leader, by: clients[fault.amount % clients.count]) { [self] reply in
            guard let reply else { return }
            tell("controller: \(reply.error?.rawValue ?? 0) \(reply.message ?? "begun")")
            judgeOperations(reply)
        }
    }

    /// Two operations under way never have the same shard, or the same group's members; whoever is refused for that
    /// hears which one it is.
    private func judgeOperations(_ reply: ControllerReply) {
        if reply.error == .conflict, let operation = reply.operation,
            reply.message?.contains(operation.description) != true
        {
            judge.note(Violation("Operations", "\(operation) is in the way, and that is said: \(reply.message ?? "")"))
        }
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader) else { return }
        let pending = server.recordedOperations.filter { !$0.state.isOver }.map(\.kind)
        for things in [pending.flatMap { $0.shards.map(\.description) }, pending.compactMap(\.memberGroup)]
        where Set(things).count < things.count {
            judge.note(Violation("Operations", "one has what another has: \(pending)"))
        }
    }

    /// Has `client` ask a node for what an operator wants of the controller; `done` gets the answer, or nil if none
    /// came.
    func ask(
        _ command: ControllerCommand, of node: SimulatedNode, by client: SimulatedClient,
        _ done: @escaping (ControllerReply?) -> Void
    ) {
        client.lane.post {
            let body = Arena().scope { arena in
                let message = arena.make(flotilla__operate_request__init)
                message.pointee.command = command.message(arena)
                return arena.pack(message)
            }
            client.remote.call(
                node.address, service: "flotilla.ClusterService", method: "operate", body: body,
                deadline: client.lane.clock.now + .milliseconds(2000)
            ) { result in
                guard case .reply(let reply) = result else { return done(nil) }
                done(Arena().scope { arena in ControllerReply(operate: reply.body, arena) })
            }
            client.lane.requestTurn()
        }
    }

    /// Whether every operation has ended; false while nobody can say.
    func operationsHaveEnded() -> Bool {
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader) else {
            return false
        }
        return server.recordedOperations.allSatisfy(\.state.isOver)
    }

    func operationsSummary() -> String {
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader) else {
            return "nobody leads the controller"
        }
        let groups = server.map?.groups.map { group in
            "\(group.id) of " + group.peers.map(\.description).joined(separator: ",")
        }
        return (server.operationsInWords + (groups ?? [])).joined(separator: "; ")
    }

    /// What the map says must be what the groups do.
    func compareOwners() {
        guard let leader = leader(of: ClusterMap.controllerGroup), let map = server(of: leader)?.map else { return }
        let held = judge.oneOwner.held
        guard held != map.shards else { return }
        judge.note(Violation("OneOwner", "the map has \(map.shards), the groups have \(held)"))
    }

    /// Replicas that the map does not want, or does not want any more; a node hears of newer maps after a while.
    func unwantedReplicas() -> [String] {
        // by churn the groups have members that the map does not know
        guard !plan.schedule.faults.contains(where: { $0.kind == .churn }),
            let leader = leader(of: ClusterMap.controllerGroup), let map = server(of: leader)?.map
        else { return [] }
        return nodes.filter(\.isRunning).flatMap { node in
            node.host.records.filter { record in
                map.group(record.group)?.peers.contains(record.peer) != true
            }.map { "\($0.group) on node \(node.number)" }
        }
    }

    /// The groups of the newest map that a node has.
    var groupNames: [String] {
        let maps = nodes.compactMap { $0.isRunning ? server(of: $0)?.map : nil }
        let newest = maps.max { $0.version < $1.version }?.groups.map(\.id) ?? []
        return newest.isEmpty ? firstGroupNames : newest
    }

    func server(of node: SimulatedNode) -> ShardServer? { (node.program as? KeyValueProgram)?.server }
}

extension ControllerCommand {
    /// What stands in a timeline.
    fileprivate var inWords: String {
        guard case .begin(let kind, _, _) = self else { return "\(self)" }
        guard case .changePeers(let change) = kind else { return "\(kind)" }
        return "\(kind) to " + change.to.map(\.description).joined(separator: ",")
    }
}

extension ControllerReply {
    /// The answer to an operator.
    fileprivate init?(operate body: Bytes, _ arena: Arena) {
        guard let answer = arena.unpack(flotilla__operate_reply__init, body)?.pointee else { return nil }
        self.init(
            error: answer.error == 0 ? nil : NamedError(rawValue: answer.error) ?? .internalError,
            message: answer.message.map { String(cString: $0) },
            operation: answer.operation.flatMap { ClusterOperation($0.pointee) })
    }
}

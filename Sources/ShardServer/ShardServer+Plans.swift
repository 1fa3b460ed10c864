import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// What an order would do, said by the one who would carry it out. The controller's state judges the order as if it were
// the next entry; nothing is proposed.

extension ShardServer {
    /// Answers `plan`.
    func answerPlan(_ request: RpcRequest) {
        let command = arena.scope { arena in
            order(arena.unpack(flotilla__plan_request__init, request.body)?.pointee.command, request, refusePlan)
        }
        guard let command else { return }
        guard command.hasPlan else { return refusePlan(request, .badRequest, "there is no plan of such an order") }
        guard host.leads(ClusterMap.controllerGroup), let controller, controller.map != nil else {
            return refusePlan(request, .notLeader, nil)
        }
        // who is up, and how large things are, as of now
        withFreshLoad { [self] in
            guard host.leads(ClusterMap.controllerGroup) else { return refusePlan(request, .notLeader, nil) }
            if case .rebalance = command {
                planRebalancing(controller, request)
            } else {
                judge(command, controller, request)
            }
        }
    }

    /// What the scheduler would decide at once if it were to spread everything. What it decides later depends on that, so
    /// the plan has no token.
    private func planRebalancing(_ controller: ControllerStateMachine, _ request: RpcRequest) {
        guard let record = controller.mapAndOperations else { return refusePlan(request, .notInitialized, nil) }
        let map = record.map
        let pending = record.operations.filter { !$0.state.isOver }
        var settings = settings.scheduler
        (settings.settle, settings.cooldown) = (.milliseconds(0), .milliseconds(0))
        let now = lane.clock.now
        host.runAside { [settings, load = clusterLoad] in
            var scheduler = Scheduler(settings: settings, rebalancing: .once)
            return OperationPlan(scheduler.decide(map, pending: pending, load: load, now: now), load)
        } completion: { [self] plan in
            reply(plan, version: map.version, token: nil, to: request)
        }
    }

    private func judge(_ command: ControllerCommand, _ controller: ControllerStateMachine, _ request: RpcRequest) {
        preview(command, controller) { [self] result in
            switch result {
            case .success(let preview): reply(preview, command, to: request)
            case .failure(let error): refusePlan(request, .damaged, error.description)
            }
        }
    }

    private func reply(_ preview: ControllerPreview, _ command: ControllerCommand, to request: RpcRequest) {
        if let error = preview.reply.error { return refusePlan(request, error, preview.reply.message) }
        guard let before = preview.before, let after = preview.after else {
            return refusePlan(request, .notInitialized, nil)
        }
        let plan: OperationPlan
        if case .node(let change, _) = command {
            plan = OperationPlan(change, before, clusterLoad)
        } else if case .upgrade(let level, _) = command {
            plan = OperationPlan(upgradeTo: level, before)
        } else if let operation = preview.reply.operation {
            plan = OperationPlan(operation, after, clusterLoad)
        } else {
            return refusePlan(request, .internalError, nil)
        }
        let token = PlanToken(
            command, preview.reply.operation, cluster: before.clusterID, version: before.version, arena)
        reply(plan, version: before.version, token: token, to: request)
    }

    private func reply(_ plan: OperationPlan, version: UInt64, token: PlanToken?, to request: RpcRequest) {
        arena.scope { arena in
            let message = arena.make(flotilla__plan_reply__init)
            message.pointee.error = 0
            message.pointee.has_version = 1
            message.pointee.version = version
            if let token { message.pointee.token = arena.string(token.description) }
            plan.encode(into: message, arena)
            request.responder.reply(message)
        }
    }

    private func refusePlan(_ request: RpcRequest, _ error: NamedError, _ text: String?) {
        arena.scope { arena in
            let message = arena.make(flotilla__plan_reply__init)
            message.pointee.error = error.rawValue
            message.pointee.message = arena.string(text ?? error.sentence)
            if error == .notLeader, let leader = controllerLeader {
                message.pointee.leader = arena.string(leader.description)
            }
            request.responder.reply(message)
        }
    }

    // MARK: tokens

    /// `done` gets the command as it is carried out for whoever has the token of its plan, on the planned version of the
    /// map, or why it is not.
    func judgePlanned(
        _ command: ControllerCommand, _ text: String,
        _ done: @escaping (Result<ControllerCommand, OrderRefusal>) -> Void
    ) {
        guard let token = PlanToken(text) else {
            let problem = "'\(text.prefix(64))' is no token: copy it as the plan shows it, or plan again with --plan"
            return done(.failure(OrderRefusal(.badRequest, problem)))
        }
        guard let controller else { return done(.failure(OrderRefusal(.noLeader, NamedError.noLeader.sentence))) }
        preview(command, controller) { [self] result in
            switch result {
            case .success(let preview): done(planned(command, token, preview))
            case .failure(let error): done(.failure(OrderRefusal(.damaged, error.description)))
            }
        }
    }

    private func planned(
        _ command: ControllerCommand, _ token: PlanToken, _ preview: ControllerPreview
    ) -> Result<ControllerCommand, OrderRefusal> {
        guard let map = preview.before else {
            return .failure(OrderRefusal(.notInitialized, NamedError.notInitialized.sentence))
        }
        guard token.version == map.version else {
            return .failure(
                OrderRefusal(
                    .conflict,
                    "the map has version \(map.version), this was planned on version \(token.version); "
                        + "plan it again with --plan"))
        }
        if let error = preview.reply.error {
            return .failure(OrderRefusal(error, preview.reply.message ?? error.sentence))
        }
        let fresh = PlanToken(
            command, preview.reply.operation, cluster: map.clusterID, version: map.version, arena)
        guard token == fresh else {
            return .failure(
                OrderRefusal(
                    .refused,
                    "the token is that of another command, or another operation has begun since; plan this one with "
                        + "--plan, and use the token it shows"))
        }
        return switch command {
        case .begin(let kind, _, let wallClock):
            .success(.begin(kind, expectedVersion: token.version, wallClock: wallClock))
        case .node(let change, _): .success(.node(change, expectedVersion: token.version))
        case .upgrade(let level, _): .success(.upgrade(to: level, expectedVersion: token.version))
        default: .failure(OrderRefusal(.badRequest, "there is no plan of such an order"))
        }
    }

    /// `done` gets the command if it would be carried out, or why not. A program from before there were levels stops at
    /// an entry of this kind, even if it is refused: so it becomes none.
    func judgeUpgrade(
        _ command: ControllerCommand, _ done: @escaping (Result<ControllerCommand, OrderRefusal>) -> Void
    ) {
        guard let controller else { return done(.failure(OrderRefusal(.noLeader, NamedError.noLeader.sentence))) }
        preview(command, controller) { result in
            switch result {
            case .success(let preview):
                guard let error = preview.reply.error else { return done(.success(command)) }
                done(.failure(OrderRefusal(error, preview.reply.message ?? error.sentence)))
            case .failure(let error): done(.failure(OrderRefusal(.damaged, error.description)))
            }
        }
    }

    /// Judges the command on what is applied; `done` comes on the lane.
    private func preview(
        _ command: ControllerCommand, _ controller: ControllerStateMachine,
        _ done: @escaping (Result<ControllerPreview, StateMachineError>) -> Void
    ) {
        host.evaluateAsApplied {
            ShardServer.attempt { () throws(StateMachineError) in try controller.preview(command) }
        } completion: {
            done($0)
        }
    }
}

extension ControllerCommand {
    /// Whether somebody may want to know what it would do.
    fileprivate var hasPlan: Bool {
        switch self {
        case .begin, .node, .rebalance(.once, _), .upgrade: true
        case .initialize, .join, .groupBorn, .verify, .step, .resetMembers, .rebalance: false
        }
    }
}

extension OperationPlan {
    /// Writes the plan into a reply. Allocates in `arena`, which must outlive the message.
    fileprivate func encode(into message: UnsafeMutablePointer<Flotilla__PlanReply>, _ arena: Arena) {
        if let operation { message.pointee.operation = operation.encoded(arena) }
        message.pointee.n_steps = steps.count
        message.pointee.steps = arena.strings(steps)
        message.pointee.n_replicas = replicas.count
        message.pointee.replicas = arena.array(
            replicas.map { replica -> UnsafeMutablePointer<Flotilla__PlannedReplica>? in
                let record = arena.make(flotilla__planned_replica__init)
                record.pointee.group = arena.string(replica.group)
                record.pointee.peer = arena.string(replica.peer.description)
                record.pointee.change = arena.string(replica.change.rawValue)
                if let isUp = replica.isUp { (record.pointee.has_up, record.pointee.up) = (1, isUp ? 1 : 0) }
                return record
            })
        message.pointee.n_stages = stages.count
        message.pointee.stages = arena.array(
            stages.map { stage -> UnsafeMutablePointer<Flotilla__QuorumStage>? in
                let record = arena.make(flotilla__quorum_stage__init)
                record.pointee.group = arena.string(stage.group)
                record.pointee.stage = arena.string(stage.name)
                record.pointee.voters = UInt32(stage.voters)
                record.pointee.needed = UInt32(stage.needed)
                if let up = stage.up { (record.pointee.has_up, record.pointee.up) = (1, UInt32(up)) }
                return record
            })
        if let bytes { (message.pointee.has_bytes, message.pointee.bytes) = (1, bytes) }
        message.pointee.n_notes = notes.count
        message.pointee.notes = arena.strings(notes)
    }
}

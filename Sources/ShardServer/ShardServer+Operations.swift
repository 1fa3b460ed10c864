import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// The controller's leader carries out the operations that are recorded: it gives the orders that lead from a recorded
// state to the next one, and records that. Whoever leads next starts over from the record.

/// What the controller's leader is at.
struct OperationRuns {
    /// Ascending by operation.
    var runs: [OperationRun] = []
    /// Runs begun in the life of the process.
    private var begun: UInt64 = 0
    /// Operations carried out at a time; the others wait for their turn.
    static let activeMax = 64

    /// Takes over what is recorded; what has not changed goes on.
    mutating func adopt(_ recorded: [ClusterOperation], _ map: ClusterMap) {
        var former = runs[...]
        runs = recorded.filter { !$0.state.isOver }.map { operation in
            while let first = former.first, first.operation.id < operation.id { former.removeFirst() }
            if let run = former.first, run.operation.id == operation.id, run.operation.state == operation.state {
                return run
            }
            begun += 1
            return OperationRun(operation, map, number: begun)
        }
    }

    /// Position of the run with this number; nil if its time is over. An answer to an order of an earlier run of the
    /// same operation says nothing of the order that is at hand now.
    func position(of run: UInt64) -> Int? { runs.firstIndex { $0.number == run } }
}

extension ShardServer {
    /// Between questions about a copy that goes on.
    private static let copyPace = Interval.milliseconds(50)
    /// What is proposed at the controller may have to wait for its leader.
    private static let birthPace = Interval.milliseconds(50)

    /// The controller's state machine here has applied something.
    func operationsChanged() {
        guard let controller, let map = controller.map, host.leads(ClusterMap.controllerGroup) else {
            return operations.runs.removeAll()
        }
        operations.adopt(controller.operations, map)
        lane.requestTurn()
    }

    /// What this node is at as the controller's leader, in words.
    public var operationsInWords: [String] {
        operations.runs.map { run in
            let order = run.position < run.orders.count ? run.orders[run.position].words : "everything is done"
            return "\(run.operation) \(run.operation.state): \(order)" + (run.isUnderWay ? ", asked" : "")
                + (run.problem.map { ": \($0)" } ?? "")
        }
    }

    /// Gives the orders that are due, if this node leads the controller; returns when to come back.
    func driveOperations(_ now: Instant) -> Instant? {
        guard !operations.runs.isEmpty else { return nil }
        guard host.leads(ClusterMap.controllerGroup) else {
            operations.runs.removeAll()
            return nil
        }
        var next: Instant?
        for position in operations.runs.indices.prefix(OperationRuns.activeMax) {
            // an answer that came from within a call may have changed the list
            guard position < operations.runs.count, let order = operations.runs[position].next else { continue }
            let run = operations.runs[position]
            guard run.due <= now else {
                next = next.map { min($0, run.due) } ?? run.due
                continue
            }
            operations.runs[position].give()
            carryOut(order, run)
        }
        return next
    }

    private func carryOut(_ order: OperationOrder, _ run: OperationRun) {
        let operation = run.operation
        switch order {
        case .step(let step, let group):
            ask(.step(step), of: group) { [self] in take($0, run.number) }
        case .awaitCatchUp(let group):
            ask(.moveStatus(operation: operation.id, frozen: false), of: group) { [self] in take($0, run.number) }
        case .awaitComplete(let group):
            ask(.moveStatus(operation: operation.id, frozen: true), of: group) { [self] in
                take($0, run.number, awaitsCompletion: true)
            }
        case .create(let peer, let group):
            orderNewcomer(of: group, peer) { [self] problem in
                take(problem.map { .failed($0) } ?? .done, run.number)
            }
        case .change(let group, let from, let to):
            ask(.changePeers(operation: operation.id, from: from, to: to), of: group) { [self] in take($0, run.number) }
        case .awaitBirth(let group):
            let isBorn = controller?.map?.group(group)?.isBorn == true
            take(isBorn ? .done : .underWay, run.number)
        case .record(let state): record(state, run)
        }
    }

    /// Has a node create a replica that knows nobody, and is about to become a member.
    private func orderNewcomer(of group: String, _ peer: PeerID, _ done: @escaping (String?) -> Void) {
        orderReplica(CreateReplicaOrder(group: group, peer: peer, peers: [], mapVersion: map?.version ?? 0), done)
    }

    private func record(_ state: ClusterOperation.State, _ run: OperationRun) {
        let command = ControllerCommand.step(
            operation: run.operation.id, to: state, reason: nil, wallClock: lane.clock.wallClockMilliseconds)
        host.propose(command.encoded(arena), to: ClusterMap.controllerGroup) { [self] outcome in
            switch outcome {
            case .applied(let packed, _):
                guard let reply = ControllerReply(packed, arena) else { return }
                // refused: the record has gone another way, and so will this run
                take(reply.error.map { .refused($0, reply.message) } ?? .done, run.number)
                operationsChanged()
            case .notLeader, .refused, .unknown:
                take(.failed("the controller could not record it"), run.number)
            }
        }
    }

    private func take(_ answer: GroupAnswer, _ run: UInt64, awaitsCompletion: Bool = false) {
        lane.requestTurn()
        guard let position = operations.position(of: run) else { return }
        let now = lane.clock.now
        switch answer {
        case .done: operations.runs[position].carriedOut()
        case .underWay: operations.runs[position].waits(until: now + ShardServer.birthPace)
        case .moveStatus(let status):
            operations.runs[position].bytesDone = status.bytesDone
            operations.runs[position].bytesLeft = status.bytesLeft
            if awaitsCompletion ? status.isComplete : status.isCaughtUp || status.isComplete {
                operations.runs[position].carriedOut()
            } else {
                operations.runs[position].waits(until: awaitsCompletion ? now : now + ShardServer.copyPace)
            }
        case .notLeader: operations.runs[position].failed("its leader is not known", now: now)
        case .failed(let problem): operations.runs[position].failed(problem, now: now)
        case .refused(let error, let text):
            let problem = text ?? error.sentence
            let operation = operations.runs[position].operation.id
            operations.runs[position].failed(problem, now: now)
            complain(
                "an operation does not get on", about: "\(operation)",
                [("operation", "\(operation)"), ("problem", problem)])
        }
    }

    // MARK: orders from outside

    /// Answers `operate`: proposes a command of an operator at the controller.
    func answerOperate(_ request: RpcRequest) {
        let command = arena.scope { arena -> ControllerCommand? in
            guard let message = arena.unpack(flotilla__operate_request__init, request.body)?.pointee,
                let command = message.command
            else { return nil }
            return try? ControllerCommand(command.pointee)
        }
        guard let command = command.flatMap({ operators($0) }) else {
            return request.responder.fail(RpcCode.badRequest, "malformed command")
        }
        guard host.leads(ClusterMap.controllerGroup) else { return refuseOperate(request, .notLeader, nil) }
        host.propose(command.encoded(arena), to: ClusterMap.controllerGroup) { [self] outcome in
            switch outcome {
            case .applied(let packed, _):
                guard let reply = ControllerReply(packed, arena) else {
                    return refuseOperate(request, .internalError, nil)
                }
                operationsChanged()
                arena.scope { arena in
                    let message = arena.make(flotilla__operate_reply__init)
                    message.pointee.error = reply.error?.rawValue ?? 0
                    if let text = reply.message { message.pointee.message = arena.string(text) }
                    if let operation = reply.operation { message.pointee.operation = operation.encoded(arena) }
                    if let version = reply.version {
                        message.pointee.has_version = 1
                        message.pointee.version = version
                    }
                    request.responder.reply(message)
                }
            case .notLeader: refuseOperate(request, .notLeader, nil)
            case .refused(let refusal): refuseOperate(request, refusal.namedError, nil)
            case .unknown: refuseOperate(request, .outcomeUnknown, nil)
            }
        }
    }

    /// The command as it is proposed; nil if it is not for operators to give.
    private func operators(_ command: ControllerCommand) -> ControllerCommand? {
        let now = lane.clock.wallClockMilliseconds
        return switch command {
        case .begin(let kind, let version, _): .begin(kind, expectedVersion: version, wallClock: now)
        // everything else about an operation follows from its participants
        case .step(let id, .aborted, let reason, _): .step(operation: id, to: .aborted, reason: reason, wallClock: now)
        case .node: command
        case .initialize, .join, .groupBorn, .verify, .step: nil
        }
    }

    private func refuseOperate(_ request: RpcRequest, _ error: NamedError, _ text: String?) {
        arena.scope { arena in
            let message = arena.make(flotilla__operate_reply__init)
            message.pointee.error = error.rawValue
            message.pointee.message = arena.string(text ?? error.sentence)
            if error == .notLeader, let leader = controllerLeader {
                message.pointee.leader = arena.string(leader.description)
            }
            request.responder.reply(message)
        }
    }

    private var controllerLeader: NodeAddress? {
        host.status(of: ClusterMap.controllerGroup)?.leader?.address
    }

    /// Answers `list_operations`, with what the one who drives them knows.
    func answerListOperations(_ request: RpcRequest) {
        let parsed = arena.scope { arena in
            arena.unpack(flotilla__list_operations_request__init, request.body).map {
                ($0.pointee.has_id != 0 ? $0.pointee.id : nil, $0.pointee.ended != 0)
            }
        }
        guard let (id, withEnded) = parsed else {
            return request.responder.fail(RpcCode.badRequest, "malformed request")
        }
        arena.scope { arena in
            let reply = arena.make(flotilla__list_operations_reply__init)
            reply.pointee.error = 0
            guard host.leads(ClusterMap.controllerGroup), let controller else {
                reply.pointee.error = NamedError.notLeader.rawValue
                if let leader = controllerLeader { reply.pointee.leader = arena.string(leader.description) }
                return request.responder.reply(reply)
            }
            let wanted = controller.operations.filter { operation in
                id.map { $0 == operation.id } ?? (withEnded || !operation.state.isOver)
            }
            reply.pointee.n_operations = wanted.count
            reply.pointee.operations = arena.array(wanted.map { progress(of: $0, arena) })
            request.responder.reply(reply)
        }
    }

    private func progress(
        of operation: ClusterOperation, _ arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__OperationProgress>? {
        let message = arena.make(flotilla__operation_progress__init)
        message.pointee.operation = operation.encoded(arena)
        guard let run = operations.runs.first(where: { $0.operation == operation }) else { return message }
        if run.position < run.orders.count {
            message.pointee.step = arena.string(run.orders[run.position].words)
        }
        if let problem = run.problem { message.pointee.problem = arena.string(problem) }
        if let bytes = run.bytesDone { (message.pointee.has_bytes_done, message.pointee.bytes_done) = (1, bytes) }
        if let bytes = run.bytesLeft { (message.pointee.has_bytes_left, message.pointee.bytes_left) = (1, bytes) }
        return message
    }
}

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
    /// Of the last order; goes on from one leadership to the next, for answers come late.
    private var tickets: UInt64 = 0
    /// Moves that copy at a time; the others wait for their turn.
    static let copiesMax = 64

    /// The order at hand of the run at `position` is given; its number.
    mutating func give(at position: Int) -> UInt64 {
        tickets += 1
        runs[position].give(tickets)
        return tickets
    }

    /// Takes over what is recorded; what has not changed goes on.
    mutating func adopt(_ recorded: [ClusterOperation], _ map: ClusterMap) {
        var former = runs[...]
        runs = recorded.filter { !$0.state.isOver }.map { operation in
            while let first = former.first, first.operation.id < operation.id { former.removeFirst() }
            if let run = former.first, run.operation.id == operation.id, run.operation.state == operation.state {
                return run
            }
            return OperationRun(operation, map)
        }
    }

    /// Position of a run that is still at the same state.
    func position(of operation: ClusterOperation) -> Int? {
        runs.firstIndex { $0.operation.id == operation.id && $0.operation.state == operation.state }
    }
}

extension ShardServer {
    /// Between questions about a copy that goes on.
    private static let copyPace = Interval.milliseconds(50)
    /// What is proposed at the controller may have to wait for its leader.
    private static let birthPace = Interval.milliseconds(50)

    /// The controller's state machine here has applied something.
    func operationsChanged() {
        guard let recorded = controller?.mapAndOperations, host.leads(ClusterMap.controllerGroup) else {
            return operations.runs.removeAll()
        }
        operations.adopt(recorded.operations, recorded.map)
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
        var copies = operations.runs.count { $0.isCopying }
        for position in operations.runs.indices {
            // an answer that came from within a call may have changed the list
            guard position < operations.runs.count, let order = operations.runs[position].next else { continue }
            let run = operations.runs[position]
            guard run.due <= now else {
                next = next.map { min($0, run.due) } ?? run.due
                continue
            }
            if run.isCopy, !run.isCopying {
                guard copies < OperationRuns.copiesMax else { continue }
                copies += 1
            }
            carryOut(order, run.operation, operations.give(at: position))
        }
        return next
    }

    private func carryOut(_ order: OperationOrder, _ operation: ClusterOperation, _ ticket: UInt64) {
        let take: (GroupAnswer) -> Void = { [self] in self.take($0, order, operation, ticket) }
        switch order {
        case .step(let step, let group): ask(.step(step), of: group, completion: take)
        case .awaitCatchUp(let group):
            ask(.moveStatus(operation: operation.id, frozen: false), of: group, completion: take)
        case .awaitComplete(let group):
            ask(.moveStatus(operation: operation.id, frozen: true), of: group, completion: take)
        case .create(let peer, let group):
            orderNewcomer(of: group, peer) { [self] problem in
                guard let problem else { return take(.done) }
                if problem.isFinal { giveUp(operation, because: problem.text) }
                take(.failed(problem.text))
            }
        case .change(let group, let from, let to):
            let version = controller?.map?.version ?? 0
            ask(
                .changePeers(operation: operation.id, from: from, to: to, mapVersion: version), of: group,
                completion: take)
        case .awaitBirth(let group):
            take(controller?.map?.group(group)?.isBorn == true ? .done : .underWay())
        case .record(let state): record(state, operation, take)
        }
    }

    /// Has a node create a replica that knows nobody, and is about to become a member.
    private func orderNewcomer(of group: String, _ peer: PeerID, _ done: @escaping (CreationProblem?) -> Void) {
        orderReplica(CreateReplicaOrder(group: group, peer: peer, peers: [], mapVersion: map?.version ?? 0), done)
    }

    /// Takes an operation back that can come to nothing. Should that not be recorded, whoever found out finds out again.
    func giveUp(_ operation: ClusterOperation, because reason: String) {
        logger.log(
            .warning, "an operation is taken back", [("operation", "\(operation.id)"), ("problem", reason)])
        let command = ControllerCommand.step(
            operation: operation.id, to: .aborted, reason: reason, wallClock: lane.clock.wallClockMilliseconds)
        propose(command) { [self] _ in operationsChanged() }
    }

    private func record(
        _ state: ClusterOperation.State, _ operation: ClusterOperation, _ take: @escaping (GroupAnswer) -> Void
    ) {
        let command = ControllerCommand.step(
            operation: operation.id, to: state, reason: nil, wallClock: lane.clock.wallClockMilliseconds)
        propose(command) { [self] outcome in
            switch outcome {
            case .applied(let packed, _):
                guard let reply = ControllerReply(packed, arena) else { return }
                // refused: the record has gone another way, and so will this run
                take(reply.error.map { GroupAnswer.refused($0, reply.message) } ?? GroupAnswer.done)
                operationsChanged()
            case .notLeader, .refused, .unknown: take(.failed("the controller could not record it"))
            }
        }
    }

    private func take(
        _ answer: GroupAnswer, _ order: OperationOrder, _ operation: ClusterOperation, _ ticket: UInt64
    ) {
        lane.requestTurn()
        guard let position = operations.position(of: operation), operations.runs[position].ticket == ticket else {
            return
        }
        let now = lane.clock.now
        switch (answer, order) {
        case (.moveStatus(let status), .awaitCatchUp), (.moveStatus(let status), .awaitComplete):
            operations.runs[position].bytesDone = status.bytesDone
            operations.runs[position].bytesLeft = status.bytesLeft
            let awaitsAll = if case .awaitComplete = order { true } else { false }
            if awaitsAll ? status.isComplete : status.isCaughtUp || status.isComplete {
                operations.runs[position].carriedOut()
            } else {
                operations.runs[position].waits(until: awaitsAll ? now : now + ShardServer.copyPace)
            }
        case (_, .awaitCatchUp) where answer.isDone, (_, .awaitComplete) where answer.isDone, (.moveStatus, _):
            operations.runs[position].failed("the answer does not fit the question", now: now)
        case (.done, _): operations.runs[position].carriedOut()
        case (.underWay(let progress), _):
            operations.runs[position].bytesDone = progress?.bytesDone
            operations.runs[position].bytesLeft = progress?.bytesLeft
            operations.runs[position].waits(until: now + ShardServer.birthPace)
        case (.notLeader, _): operations.runs[position].failed("its leader is not known", now: now)
        case (.failed(let problem), _): operations.runs[position].failed(problem, now: now)
        case (.refused(let error, let text), _):
            let problem = text ?? error.sentence
            operations.runs[position].failed(problem, now: now)
            complain(
                "an operation does not get on", about: "\(operation.id)",
                [("operation", "\(operation.id)"), ("problem", problem)])
        }
    }

    // MARK: orders from outside

    /// Answers `operate`: proposes a command of an operator at the controller.
    func answerOperate(_ request: RpcRequest) {
        var token: String?
        let command = arena.scope { arena -> ControllerCommand? in
            let message = arena.unpack(flotilla__operate_request__init, request.body)?.pointee
            token = message?.token.map { String(cString: $0) }
            return order(message?.command, request, refuseOperate).flatMap { operators($0, request) }
        }
        guard let command else { return }
        guard host.leads(ClusterMap.controllerGroup) else { return refuseOperate(request, .notLeader, nil) }
        let judge = { [self] (judged: Result<ControllerCommand, OrderRefusal>) in
            switch judged {
            case .success(let command): operate(command, request)
            case .failure(let refusal): refuseOperate(request, refusal.error, refusal.message)
            }
        }
        if let token {
            judgePlanned(command, token, judge)
        } else if case .resetMembers(let group, let peers, _, _) = command {
            confirmReset(of: group, to: peers, judge)
        } else if case .upgrade = command {
            judgeUpgrade(command, judge)
        } else {
            operate(command, request)
        }
    }

    /// What is ordered; nil if nobody could carry it out, which `request` has been told then.
    func order(
        _ message: UnsafeMutablePointer<Flotilla__ControllerCommand>?, _ request: RpcRequest,
        _ refuse: (RpcRequest, NamedError, String?) -> Void
    ) -> ControllerCommand? {
        do throws(NamedErrorThrown) {
            guard let message else { throw NamedErrorThrown(.badRequest) }
            return try ControllerCommand(message.pointee, knowing: settings.knownLevel)
        } catch {
            if error.error == .unknownFormat {
                refuse(request, .unknownFormat, nil)
            } else {
                request.responder.fail(RpcCode.badRequest, "malformed command")
            }
            return nil
        }
    }

    private func operate(_ command: ControllerCommand, _ request: RpcRequest) {
        // a program from before there were levels stops at the entry, which nobody needs here
        if case .upgrade(let level, _) = command, level == controller?.map?.level {
            return answerOperate(ControllerReply(), to: request)
        }
        propose(command) { [self] outcome in
            switch outcome {
            case .applied(let packed, _):
                guard let reply = ControllerReply(packed, arena) else {
                    return refuseOperate(request, .internalError, nil)
                }
                operationsChanged()
                // the map may have followed a reset by itself meanwhile
                if case .resetMembers(let group, let peers, _, _) = command, reply.error == .conflict,
                    controller?.map?.group(group)?.peers.sorted() == peers.sorted()
                {
                    return answerOperate(ControllerReply(version: reply.version), to: request)
                }
                answerOperate(reply, to: request)
            case .notLeader: refuseOperate(request, .notLeader, nil)
            case .refused(let refusal): refuseOperate(request, refusal.namedError, nil)
            case .unknown: refuseOperate(request, .outcomeUnknown, nil)
            }
        }
    }

    private func answerOperate(_ reply: ControllerReply, to request: RpcRequest) {
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
    }

    /// The command as it is proposed; nil if it is not for operators to give, which `request` has been told then.
    private func operators(_ command: ControllerCommand, _ request: RpcRequest) -> ControllerCommand? {
        let now = lane.clock.wallClockMilliseconds
        switch command {
        case .begin(let kind, let version, _):
            return .begin(kind, expectedVersion: version, wallClock: now)
        // everything else about an operation follows from its participants
        case .step(let id, .aborted, let reason, _):
            return .step(operation: id, to: .aborted, reason: reason, wallClock: now)
        case .node, .rebalance, .resetMembers, .upgrade: return command
        case .initialize, .join, .groupBorn, .verify, .step:
            request.responder.fail(RpcCode.badRequest, "malformed command")
            return nil
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

    var controllerLeader: NodeAddress? {
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
        guard let run = operations.position(of: operation).map({ operations.runs[$0] }) else { return message }
        if run.position < run.orders.count {
            message.pointee.step = arena.string(run.orders[run.position].words)
        }
        if let problem = run.problem { message.pointee.problem = arena.string(problem) }
        if let bytes = run.bytesDone { (message.pointee.has_bytes_done, message.pointee.bytes_done) = (1, bytes) }
        if let bytes = run.bytesLeft { (message.pointee.has_bytes_left, message.pointee.bytes_left) = (1, bytes) }
        return message
    }
}

/// Why an order is not proposed.
struct OrderRefusal: Error {
    var error: NamedError
    /// The reason, and the way out.
    var message: String

    init(_ error: NamedError, _ message: String) {
        self.error = error
        self.message = message
    }
}

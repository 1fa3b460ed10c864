import CMessages
import RaftCore
import ShardMap
import WireMessages

// What is asked of the controller's leader.

/// An operation as its driver sees it.
struct OperationReport: Equatable, Sendable {
    var operation: ClusterOperation
    /// What is being done.
    var step: String?
    /// What is in its way.
    var problem: String?
    var bytesDone: UInt64?
    var bytesLeft: UInt64?
}

/// What the controller made of a command.
struct OperateAnswer: Equatable, Sendable {
    var operation: ClusterOperation?
    /// Of the map, behind the command.
    var version: UInt64?
}

extension Cluster {
    /// Has the controller apply `command`; with the token of a plan, exactly what was planned.
    func operate(
        _ command: ControllerCommand, token: String? = nil, _ action: String
    ) async throws(Failure) -> OperateAnswer {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__operate_request__init)
            message.pointee.command = command.message(arena)
            if let token { message.pointee.token = arena.string(token) }
            return arena.pack(message)
        }
        var question = controllerQuestion("operate", body, action)
        question.isRepeatable = false
        question.trail = "see raftctl operation list"
        return try await ask(question) { (answer, arena) in
            guard let reply = arena.unpack(flotilla__operate_reply__init, answer)?.pointee else { return nil }
            if let refusal = LeaderRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            let operation = reply.operation.flatMap { ClusterOperation($0.pointee) }
            return .answer(
                OperateAnswer(operation: operation, version: reply.has_version != 0 ? reply.version : nil))
        }
    }

    /// The operations: the one with this id, or all that go on, and `withEnded` those too that have ended.
    func operations(id: UInt64? = nil, withEnded: Bool = false) async throws(Failure) -> [OperationReport] {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__list_operations_request__init)
            if let id { (message.pointee.has_id, message.pointee.id) = (1, id) }
            (message.pointee.has_ended, message.pointee.ended) = (1, withEnded ? 1 : 0)
            return arena.pack(message)
        }
        return try await ask(controllerQuestion("list_operations", body, "the operations")) { (answer, arena) in
            guard let reply = arena.unpack(flotilla__list_operations_reply__init, answer)?.pointee else { return nil }
            if let refusal = LeaderRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            return .answer((0..<reply.n_operations).compactMap { OperationReport(reply.operations[$0]) })
        }
    }

    /// What `command` would do; nothing is changed.
    func plan(_ command: ControllerCommand, _ action: String) async throws(Failure) -> PlanReport {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__plan_request__init)
            message.pointee.command = command.message(arena)
            return arena.pack(message)
        }
        return try await ask(controllerQuestion("plan", body, action)) { (answer, arena) in
            guard let reply = arena.unpack(flotilla__plan_reply__init, answer)?.pointee else { return nil }
            if let refusal = LeaderRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            return PlanReport(reply).map { .answer($0) }
        }
    }

    func controllerQuestion(_ method: String, _ body: Bytes, _ action: String) -> LeaderQuestion {
        LeaderQuestion(group: ClusterMap.controllerGroup, method: method, body: body, action: action)
    }
}

extension OperationReport {
    fileprivate init?(_ message: UnsafeMutablePointer<Flotilla__OperationProgress>?) {
        guard let progress = message?.pointee,
            let operation = progress.operation.flatMap({ ClusterOperation($0.pointee) })
        else { return nil }
        self.init(
            operation: operation, step: progress.step.map { String(cString: $0) },
            problem: progress.problem.map { String(cString: $0) },
            bytesDone: progress.has_bytes_done != 0 ? progress.bytes_done : nil,
            bytesLeft: progress.has_bytes_left != 0 ? progress.bytes_left : nil)
    }
}

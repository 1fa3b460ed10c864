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
    /// How long the controller's leader is looked for.
    private static let controllerPatience = Duration.seconds(10)

    /// Has the controller apply `command`.
    func operate(_ command: ControllerCommand, _ action: String) async throws(Failure) -> OperateAnswer {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__operate_request__init)
            message.pointee.command = command.message(arena)
            return arena.pack(message)
        }
        return try await askController("operate", body, action) { (answer) throws(Failure) in
            let arena = Arena()
            defer { withExtendedLifetime(arena) {} }
            guard let reply = arena.unpack(flotilla__operate_reply__init, answer)?.pointee else {
                throw Failure(.badRequest, "an answer that does not parse", while: action)
            }
            if let refusal = ControllerRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            let operation = reply.operation.flatMap { ClusterOperation($0.pointee) }
            return .answer(
                OperateAnswer(operation: operation, version: reply.has_version != 0 ? reply.version : nil))
        }
    }

    /// The operations: the one with this id, or all that go on, and `withEnded` those too that have ended.
    func operations(id: UInt64? = nil, withEnded: Bool = false) async throws(Failure) -> [OperationReport] {
        let action = "the operations"
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__list_operations_request__init)
            if let id { (message.pointee.has_id, message.pointee.id) = (1, id) }
            (message.pointee.has_ended, message.pointee.ended) = (1, withEnded ? 1 : 0)
            return arena.pack(message)
        }
        return try await askController("list_operations", body, action) { (answer) throws(Failure) in
            let arena = Arena()
            defer { withExtendedLifetime(arena) {} }
            guard let reply = arena.unpack(flotilla__list_operations_reply__init, answer)?.pointee else {
                throw Failure(.badRequest, "an answer that does not parse", while: action)
            }
            if let refusal = ControllerRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            let reports = (0..<reply.n_operations).compactMap { position -> OperationReport? in
                guard let progress = reply.operations[position]?.pointee,
                    let operation = progress.operation.flatMap({ ClusterOperation($0.pointee) })
                else { return nil }
                return OperationReport(
                    operation: operation, step: progress.step.map { String(cString: $0) },
                    problem: progress.problem.map { String(cString: $0) },
                    bytesDone: progress.has_bytes_done != 0 ? progress.bytes_done : nil,
                    bytesLeft: progress.has_bytes_left != 0 ? progress.bytes_left : nil)
            }
            return .answer(reports)
        }
    }

    enum ControllerAnswer<Value> {
        case answer(Value)
        case refused(ControllerRefusal)
    }

    /// Asks whoever leads the controller: first the one who led last, then the others in turn.
    func askController<Value>(
        _ method: String, _ body: Bytes, _ action: String,
        _ read: (Bytes) throws(Failure) -> ControllerAnswer<Value>
    ) async throws(Failure) -> Value {
        let start = ContinuousClock.now
        var candidates = try await map().controllers
        var last = Failure.failed("\(action): the controller has no leader; see raftctl group show controller")
        while start.duration(to: .now) < Cluster.controllerPatience {
            if candidates.isEmpty {
                await pause(milliseconds: 200)
                candidates = try await newestMap().controllers
            }
            guard !candidates.isEmpty else { throw last }
            let node = candidates.removeFirst()
            guard let answer = await call(node, method, body, patience: .milliseconds(5000)) else {
                last = .failed(
                    "\(action): \(node) gave no answer, so it may be done or not; see raftctl operation list")
                // what was sent may have been done: asking again would do it twice
                if method == "operate", await status(of: node) != nil { throw last }
                continue
            }
            switch try read(answer) {
            case .answer(let value): return value
            case .refused(let refusal):
                last = Failure(refusal.error, refusal.message, while: action)
                guard [.notLeader, .noLeader, .stopping].contains(refusal.error) else { throw last }
                if let leader = refusal.leader, leader != node {
                    candidates = [leader] + candidates.filter { $0 != leader }
                }
            }
        }
        throw last
    }
}

/// Why the one who was asked did not do it.
struct ControllerRefusal {
    var error: NamedError
    var message: String?
    /// Who leads the controller, as far as that one knows.
    var leader: NodeAddress?

    /// The error of a reply, which is gone with its memory; nil if there is none.
    init?(_ error: UInt32, _ message: UnsafeMutablePointer<CChar>?, _ leader: UnsafeMutablePointer<CChar>?) {
        guard error != 0 else { return nil }
        self.error = NamedError(rawValue: error) ?? .internalError
        self.message = message.map { String(cString: $0) }
        self.leader = leader.flatMap { NodeAddress(String(cString: $0)) }
    }
}

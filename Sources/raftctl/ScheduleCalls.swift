import CMessages
import RaftCore
import ShardMap
import WireMessages

/// What the scheduler sees and does, as the controller's leader tells it.
struct ScheduleReport: Equatable, Sendable {
    struct Decision: Equatable, Sendable {
        /// Milliseconds since 1970.
        var at: Int64
        var what: String
        var reason: String
        /// Of what came of it.
        var operation: UInt64?
        /// Why nothing came of it.
        var problem: String?
    }

    struct Blocked: Equatable, Sendable {
        var node: UInt64
        var group: String
        var reason: String
    }

    struct Drain: Equatable, Sendable {
        var isDone: Bool
        var replicas: [String]
        var leaderships: [String]
        var operations: [UInt64]
    }

    struct ShardLoad: Equatable, Sendable {
        var shard: UInt64
        var bytes: UInt64
        var operationsPerSecond: Double
        var splitKey: Bytes?
    }

    var rebalancing: Rebalancing
    /// For so long nothing is rebalanced yet.
    var restMilliseconds: UInt64
    /// The oldest first.
    var decisions: [Decision]
    var blocked: [Blocked]
    /// Of the node that was asked about.
    var drain: Drain?
    /// Why that node should not be stopped.
    var notToStop: [String]
    var shards: [ShardLoad]
}

/// What is asked about the scheduler.
struct ScheduleQuestion: Sendable {
    /// Whether the nodes are asked for their load first.
    var isFresh = false
    var node: UInt64?
    /// How many of those with the most operations.
    var shards = 0
    var shard: UInt64?
}

extension Cluster {
    /// Asks the controller's leader about its scheduler.
    func schedule(_ question: ScheduleQuestion = ScheduleQuestion()) async throws(Failure) -> ScheduleReport {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__schedule_request__init)
            (message.pointee.has_fresh, message.pointee.fresh) = (1, question.isFresh ? 1 : 0)
            if let node = question.node { (message.pointee.has_node, message.pointee.node) = (1, node) }
            if let shard = question.shard { (message.pointee.has_shard, message.pointee.shard) = (1, shard) }
            (message.pointee.has_shards, message.pointee.shards) = (1, UInt32(question.shards))
            return arena.pack(message)
        }
        return try await ask(controllerQuestion("schedule", body, "the scheduler")) { (answer, arena) in
            guard let reply = arena.unpack(flotilla__schedule_reply__init, answer)?.pointee else { return nil }
            if let refusal = LeaderRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            return .answer(ScheduleReport(reply))
        }
    }
}

extension ScheduleReport {
    fileprivate init(_ reply: Flotilla__ScheduleReply) {
        rebalancing = Rebalancing(number: reply.rebalancing) ?? .off
        restMilliseconds = reply.rests_ms
        decisions = (0..<reply.n_decisions).compactMap { position in
            guard let decision = reply.decisions[position]?.pointee else { return nil }
            return Decision(
                at: decision.at_ms, what: String(field: decision.what), reason: String(field: decision.reason),
                operation: decision.has_operation != 0 ? decision.operation : nil,
                problem: decision.problem.map { String(cString: $0) })
        }
        blocked = (0..<reply.n_blocked).compactMap { position in
            guard let blocked = reply.blocked[position]?.pointee else { return nil }
            return Blocked(
                node: blocked.node, group: String(field: blocked.group), reason: String(field: blocked.reason))
        }
        drain = reply.drain.map { message in
            let drain = message.pointee
            return Drain(
                isDone: drain.done != 0, replicas: (0..<drain.n_replicas).map { String(field: drain.replicas[$0]) },
                leaderships: (0..<drain.n_leaderships).map { String(field: drain.leaderships[$0]) },
                operations: (0..<drain.n_operations).map { drain.operations[$0] })
        }
        notToStop = (0..<reply.n_not_to_stop).map { String(field: reply.not_to_stop[$0]) }
        shards = (0..<reply.n_shards).compactMap { position in
            guard let shard = reply.shards[position]?.pointee else { return nil }
            return ShardLoad(
                shard: shard.shard, bytes: shard.bytes,
                operationsPerSecond: shard.operations.isFinite ? min(max(shard.operations, 0), 1e15) : 0,
                splitKey: shard.has_split_key != 0 ? Bytes(shard.split_key) : nil)
        }
    }
}

import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// `schedule`: what the scheduler sees, what it has decided of late and why, and answers for whoever wants to take a
// node away.

/// What is asked about the scheduler.
private struct ScheduleQuestion {
    /// Whether the nodes are asked for their load first.
    var isFresh = false
    /// Whose drain and whose stop is asked about.
    var node: UInt64?
    /// How many of the shards with the most operations.
    var shards = 0
    var shard: UInt64?
}

extension ShardServer {
    /// Shards of one answer.
    private static let shardsMax = 10_000

    /// Answers `schedule`.
    func answerSchedule(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> ScheduleQuestion? in
            arena.unpack(flotilla__schedule_request__init, request.body).map { message in
                ScheduleQuestion(
                    isFresh: message.pointee.fresh != 0,
                    node: message.pointee.has_node != 0 ? message.pointee.node : nil,
                    shards: min(Int(message.pointee.shards), ShardServer.shardsMax),
                    shard: message.pointee.has_shard != 0 ? message.pointee.shard : nil)
            }
        }
        guard let question = parsed else { return request.responder.fail(RpcCode.badRequest, "malformed request") }
        guard question.isFresh else { return reply(to: question, request) }
        withFreshLoad { [self] in reply(to: question, request) }
    }

    private func reply(to question: ScheduleQuestion, _ request: RpcRequest) {
        arena.scope { arena in
            let reply = arena.make(flotilla__schedule_reply__init)
            reply.pointee.error = 0
            guard host.leads(ClusterMap.controllerGroup), let controller, let map = controller.map else {
                reply.pointee.error = NamedError.notLeader.rawValue
                if let leader = host.status(of: ClusterMap.controllerGroup)?.leader {
                    reply.pointee.leader = arena.string(leader.address.description)
                }
                return request.responder.reply(reply)
            }
            reply.pointee.has_rebalancing = 1
            reply.pointee.rebalancing = UInt32(controller.rebalancing.rawValue)
            (reply.pointee.has_rests_ms, reply.pointee.rests_ms) = (1, restMilliseconds)
            reply.pointee.n_decisions = scheduling.records.count
            reply.pointee.decisions = arena.array(scheduling.records.map { $0.encoded(arena) })
            let blocked = scheduling.scheduler?.blocked ?? []
            reply.pointee.n_blocked = blocked.count
            reply.pointee.blocked = arena.array(blocked.map { $0.encoded(arena) })
            if let node = question.node {
                let drain = DrainProgress(
                    of: node, map, pending: controller.operations.filter { !$0.state.isOver }, load: clusterLoad,
                    blocked: blocked)
                reply.pointee.drain = drain.encoded(arena)
                let reasons = StopSafety.reasonsNotToStop(node, map, clusterLoad)
                reply.pointee.n_not_to_stop = reasons.count
                reply.pointee.not_to_stop = arena.strings(reasons)
            }
            let shards = loads(question)
            reply.pointee.n_shards = shards.count
            reply.pointee.shards = arena.array(shards.map { $0.encoded(arena) })
            request.responder.reply(reply)
        }
    }

    /// How long nothing is rebalanced yet, for this node has just come to lead the controller.
    private var restMilliseconds: UInt64 {
        let end = (scheduling.began ?? lane.clock.now) + settings.scheduler.cooldown
        return UInt64(max(0, (end - lane.clock.now).milliseconds))
    }

    private func loads(_ question: ScheduleQuestion) -> [ClusterLoad.ShardLoad] {
        if let shard = question.shard { return clusterLoad.shards.filter { $0.shard == shard } }
        guard question.shards > 0 else { return [] }
        return Array(
            clusterLoad.shards.sorted {
                ($0.operationsPerSecond, $0.bytes, $1.shard) > ($1.operationsPerSecond, $1.bytes, $0.shard)
            }.prefix(question.shards))
    }
}

extension Scheduling.Record {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ScheduleDecision>? {
        let message = arena.make(flotilla__schedule_decision__init)
        message.pointee.at_ms = wallClock
        message.pointee.what = arena.string(what)
        message.pointee.reason = arena.string(reason)
        if let operation { (message.pointee.has_operation, message.pointee.operation) = (1, operation) }
        if let problem { message.pointee.problem = arena.string(problem) }
        return message
    }
}

extension Scheduler.Blocked {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ScheduleBlock>? {
        let message = arena.make(flotilla__schedule_block__init)
        message.pointee.node = node
        message.pointee.group = arena.string(group)
        message.pointee.reason = arena.string(reason)
        return message
    }
}

extension DrainProgress {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__DrainState> {
        let message = arena.make(flotilla__drain_state__init)
        message.pointee.done = isDone ? 1 : 0
        message.pointee.n_replicas = replicas.count
        message.pointee.replicas = arena.strings(replicas)
        message.pointee.n_leaderships = leaderships.count
        message.pointee.leaderships = arena.strings(leaderships)
        message.pointee.n_operations = operations.count
        message.pointee.operations = arena.array(operations)
        return message
    }
}

extension ClusterLoad.ShardLoad {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ScheduledShard>? {
        let message = arena.make(flotilla__scheduled_shard__init)
        message.pointee.shard = shard
        message.pointee.bytes = bytes
        message.pointee.operations = operationsPerSecond
        if let key = splitKey {
            (message.pointee.has_split_key, message.pointee.split_key) = (1, arena.data(key))
        }
        return message
    }
}

public import RaftCore
public import ShardMap

// Reads leave no trace in the log, so they must not depend on anything that the log will decide later.

extension KeyValueStateMachine {
    /// What came of a read.
    public enum ReadOutcome: Equatable, Sendable {
        /// The answer.
        case reply(ExecuteReply)
        /// A key that was read is due by this wall clock (milliseconds since 1970), but not yet by replicated time.
        /// Commit a ``ShardMap/GroupCommand/time(_:)``, then read again with a clock not ahead of the time committed.
        case needsTime(Int64)
    }

    /// Reads as of the last applied entry; `wallClock` is the time the reader would like to be judged by. Times to live
    /// are counted from it. Call on the worker, when the state is recent enough for a linearizable answer.
    ///
    /// A count visits every key of the shard.
    public func read(_ request: ExecuteRequest, wallClock: Int64) throws(StateMachineError) -> ReadOutcome {
        try stoppingOnFailure { () throws(StateMachineError) in
            guard request.reads.allSatisfy(\.isRead) else { return .reply(ExecuteReply(error: .badRequest)) }
            guard let position = position(of: request.shard, epoch: request.epoch) else {
                return .reply(ExecuteReply(error: .wrongShard))
            }
            // its new owner may have changed it already
            guard shards[position].phase != .frozen || planted("frozen-shards-are-read") else {
                return .reply(ExecuteReply(error: .shardFrozen))
            }
            guard shards[position].shard.range.containsKeys(of: request.reads) else {
                return .reply(refusal(outOf: shards[position].shard))
            }
            let range = shards[position].shard.range
            var judge = ExpiryJudge(replicatedTime: keyspace.replicatedTime, wallClock: wallClock)
            var budget = ReplyBudget(limits)
            var reply = ExecuteReply()
            reply.results.reserveCapacity(request.reads.count)
            for operation in request.reads {
                reply.results.append(try keyspace.read(operation, in: range, &judge, &budget))
                if judge.hasSeenDue { return .needsTime(judge.wallClock) }
            }
            return .reply(reply)
        }
    }

    /// Answers a packed ``ShardMap/ExecuteRequest`` with a packed ``ShardMap/ExecuteReply``; replicated time alone says
    /// what has expired.
    public func read(_ query: Bytes) throws(StateMachineError) -> Bytes {
        guard let request = ExecuteRequest(query, arena) else { return refusal(.badRequest) }
        switch try read(request, wallClock: keyspace.replicatedTime) {
        case .reply(let reply): return reply.packed(arena)
        case .needsTime: preconditionFailure("nothing is due by the clock that has passed it")
        }
    }
}

import RaftCore
import ShardMap

// Sessions: each write of a client is executed once, however often it is sent (Raft dissertation §6.3).

extension KeyValueStateMachine {
    /// Executes a session's write, or says again what it said the first time.
    func apply(_ write: SessionWrite) throws(StateMachineError) -> Bytes {
        guard let position = position(of: write.shard, epoch: write.epoch),
            shards[position].shard.range.containsKeys(of: write.operations)
        else { return refusal(.wrongShard) }
        let hash = RequestHash.of(write.operations)
        switch shards[position].sessions.verdict(on: write, hash: hash, limits) {
        case .refuse(.sequenceTooOld) where planted("old-repetitions-are-executed"):
            return try execute(write, shards[position].shard.range)
        case .refuse(let error):
            return refusal(error)
        case .answered:
            if planted("repetitions-are-executed") { return try execute(write, shards[position].shard.range) }
            use(write, at: position)
            return try storedReply(to: write)
        case .execute:
            let reply = try execute(write, shards[position].shard.range)
            let answer = Answer(sequence: write.sequence, hash: hash, bytes: reply.count)
            if planted("replies-are-not-remembered") { return reply }
            store.put(replyKey(write.shard, write.session, write.sequence), StoredReply(hash, reply).encoded)
            use(write, at: position, recording: answer)
            return reply
        }
    }

    /// Opens a new session; at the limit the least recently used one of the shard has to go. What a repeated entry
    /// opens nobody uses, and so it goes in its time.
    func open(_ nonce: UInt64, _ shard: UInt64, _ epoch: UInt64) -> Bytes {
        guard let position = position(of: shard, epoch: epoch) else { return refusal(.wrongShard) }
        let token = shards[position].sessions.freeToken(of: nonce, openedAt: lastApplied)
        while shards[position].sessions.count >= limits.sessionsPerShard { evict(at: position) }
        shards[position].sessions.insert(Session(token: token, lastUse: lastApplied))
        persist(token, at: position)
        return ExecuteReply(session: token).packed(arena)
    }

    private func execute(_ write: SessionWrite, _ range: KeyRange) throws(StateMachineError) -> Bytes {
        var reply = ExecuteReply()
        reply.results.reserveCapacity(write.operations.count)
        var budget = ReplyBudget(limits)
        for operation in write.operations {
            reply.results.append(try keyspace.execute(operation, in: range, &budget))
        }
        return reply.packed(arena)
    }

    /// Notes the use of the session, remembers a new answer and forgets those the client has received.
    private func use(_ write: SessionWrite, at position: Int, recording answer: Answer? = nil) {
        let forgotten = shards[position].sessions.use(write.session, at: lastApplied) { session in
            if let answer { session.record(answer) }
            return session.raiseFloor(to: write.floor)
        }
        for sequence in forgotten { store.delete(replyKey(write.shard, write.session, sequence)) }
        persist(write.session, at: position)
    }

    private func evict(at position: Int) {
        guard let session = shards[position].sessions.leastRecentlyUsed else { return }
        let shard = shards[position].shard.id
        for answer in session.answers { store.delete(replyKey(shard, session.token, answer.sequence)) }
        store.delete(store.layout.key(.sessions, shard, session.token))
        shards[position].sessions.remove(session.token)
    }

    private func persist(_ token: UInt64, at position: Int) {
        guard let session = shards[position].sessions[token] else { return }
        store.put(store.layout.key(.sessions, shards[position].shard.id, token), session.encoded)
    }

    private func storedReply(to write: SessionWrite) throws(StateMachineError) -> Bytes {
        guard let value = try store.get(replyKey(write.shard, write.session, write.sequence)) else {
            throw StoreFormat.damaged(.replies)
        }
        return try StoredReply(value).reply
    }

    private func replyKey(_ shard: UInt64, _ token: UInt64, _ sequence: UInt64) -> Bytes {
        store.layout.key(.replies, shard, token, sequence)
    }
}

// MARK: loading

extension KeyValueStateMachine {
    /// The sessions of every shard with what they remember, from the engine.
    static func loadSessions(_ store: ReplicaStore, into shards: inout [OwnedShard]) throws(StateMachineError) {
        var found: [(shard: UInt64, session: Session)] = []
        try store.scan(.sessions) { (key, value) throws(StateMachineError) in
            var place = ByteReader(key, from: KeyLayout.prefixBytes)
            guard let shard = place.number(), let token = place.number() else { throw StoreFormat.damaged(.sessions) }
            found.append((shard, try Session(token: token, stored: value)))
            return true
        }
        for (shard, session) in found.sorted(by: { $0.session.lastUse < $1.session.lastUse }) {
            let position = partitionPoint(shards.count) { shards[$0].shard.id >= shard }
            guard position < shards.count, shards[position].shard.id == shard else {
                throw StoreFormat.damaged(.sessions)
            }
            shards[position].sessions.insert(session)
        }
        if planted("replies-are-lost-at-a-restart") { return }
        var loaded = shards
        try store.scan(.replies) { (key, value) throws(StateMachineError) in
            var place = ByteReader(key, from: KeyLayout.prefixBytes)
            guard let shard = place.number(), let token = place.number(), let sequence = place.number() else {
                throw StoreFormat.damaged(.replies)
            }
            let stored = try StoredReply(value)
            let answer = Answer(sequence: sequence, hash: stored.hash, bytes: stored.reply.count)
            let position = partitionPoint(loaded.count) { loaded[$0].shard.id >= shard }
            guard position < loaded.count, loaded[position].shard.id == shard,
                loaded[position].sessions.restore(answer, to: token)
            else { throw StoreFormat.damaged(.replies) }
            return true
        }
        shards = loaded
    }
}

extension Session {
    var encoded: Bytes {
        ByteWriter.bytes(17) { writer in
            writer.put(StoreFormat.current)
            writer.put(lastUse.rawValue)
            writer.put(floor)
        }
    }

    init(token: UInt64, stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .sessions)
        guard let lastUse = reader.signedNumber(), let floor = reader.number() else {
            throw StoreFormat.damaged(.sessions)
        }
        self.init(token: token, lastUse: LogIndex(lastUse), floor: floor)
    }
}

/// A reply as it is stored, with the hash of its request.
private struct StoredReply {
    let hash: UInt64
    let reply: Bytes

    init(_ hash: UInt64, _ reply: Bytes) {
        self.hash = hash
        self.reply = reply
    }

    init(_ value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .replies)
        guard let hash = reader.number() else { throw StoreFormat.damaged(.replies) }
        self.hash = hash
        reply = reader.rest
    }

    var encoded: Bytes {
        ByteWriter.bytes(9 + reply.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(hash)
            writer.put(reply)
        }
    }
}

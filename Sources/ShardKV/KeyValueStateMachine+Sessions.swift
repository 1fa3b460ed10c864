import RaftCore
import ShardMap

// Sessions: each write of a client is executed once, however often it is sent (Raft dissertation §6.3).

extension KeyValueStateMachine {
    /// Executes a session's write, or says again what it said the first time.
    func apply(_ write: SessionWrite) throws(StateMachineError) -> Bytes {
        guard let position = position(of: write.shard, epoch: write.epoch) else { return refusal(.wrongShard) }
        switch shards[position].phase {
        case .serving: return try apply(write, at: position)
        case .open:
            return try rememberingChanges(of: write.shard) { () throws(StateMachineError) in
                try apply(write, at: position)
            }
        case .frozen:
            if planted("frozen-shards-take-writes") { return try apply(write, at: position) }
            return refusal(.shardFrozen)
        }
    }

    private func apply(_ write: SessionWrite, at position: Int) throws(StateMachineError) -> Bytes {
        let hash = RequestHash.of(write.operations)
        // The session is asked before the range: what was executed before a split is answered by the half that is asked,
        // and only what no attempt has executed is told that its keys lie elsewhere.
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
            guard shards[position].shard.range.containsKeys(of: write.operations) else {
                return refusal(outOf: shards[position].shard).packed(arena)
            }
            let reply = try execute(write, shards[position].shard.range)
            let answer = Answer(sequence: write.sequence, hash: hash, bytes: reply.count)
            if planted("replies-are-not-remembered") { return reply }
            // new: the table is what is stored, and knows neither an answer to the sequence nor a floor above it
            store.putNew(replyKey(write.shard, write.session, write.sequence), StoredReply(hash, reply).encoded)
            use(write, at: position, recording: answer)
            return reply
        }
    }

    /// Opens a new session; at the limit the least recently used one of the shard has to go. What a repeated entry
    /// opens nobody uses, and so it goes in its time.
    func open(_ nonce: UInt64, _ shard: UInt64, _ epoch: UInt64) throws(StateMachineError) -> Bytes {
        guard let position = position(of: shard, epoch: epoch) else { return refusal(.wrongShard) }
        switch shards[position].phase {
        case .serving: return open(nonce, at: position)
        case .open: return try rememberingChanges(of: shard) { open(nonce, at: position) }
        case .frozen: return refusal(.shardFrozen)
        }
    }

    private func open(_ nonce: UInt64, at position: Int) -> Bytes {
        let epoch = shards[position].shard.epoch
        let token = shards[position].sessions.freeToken(of: nonce, openedAt: lastApplied, epoch: epoch)
        while shards[position].sessions.count >= limits.sessionsPerShard { evict(at: position) }
        shards[position].sessions.insert(
            Session(token: token, opened: SessionUse(epoch: epoch, index: lastApplied)))
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
        let now = SessionUse(epoch: write.epoch, index: lastApplied)
        let forgotten = shards[position].sessions.use(write.session, at: now) { session in
            if let answer { session.record(answer) }
            return session.raiseFloor(to: write.floor)
        }
        for sequence in forgotten { store.delete(replyKey(write.shard, write.session, sequence)) }
        persist(write.session, at: position)
    }

    private func evict(at position: Int) {
        guard let session = shards[position].sessions.evict() else { return }
        let shard = shards[position].shard.id
        for answer in session.answers { store.delete(replyKey(shard, session.token, answer.sequence)) }
        store.delete(store.layout.key(.sessions, shard, session.token))
        persistEvictions(shards[position].sessions, of: shard)
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

    func replyKey(_ shard: UInt64, _ token: UInt64, _ sequence: UInt64) -> Bytes {
        store.layout.key(.replies, shard, token, sequence)
    }
}

// MARK: loading and joining tables

extension SessionTable {
    /// The sessions stored for `shard`, with what they remember.
    init(of shard: UInt64, in store: ReplicaStore) throws(StateMachineError) {
        var found: [UInt64: Session] = [:]
        var evicted = SessionUse.never
        let records = store.layout.keys(of: .sessions, shard)
        try store.scan(from: records.start, to: records.end) { (key, value) throws(StateMachineError) in
            var place = ByteReader(key, from: KeyLayout.prefixBytes + 8)
            guard let token = place.number() else { throw StoreFormat.damaged(.sessions) }
            if token == SessionTable.noToken {
                evicted = try SessionUse(stored: value)
            } else {
                found[token] = try Session(token: token, stored: value)
            }
            return true
        }
        let replies = store.layout.keys(of: .replies, shard)
        try store.scan(from: replies.start, to: replies.end) { (key, value) throws(StateMachineError) in
            if planted("replies-are-lost-at-a-restart") { return false }
            var place = ByteReader(key, from: KeyLayout.prefixBytes + 8)
            guard let token = place.number(), let sequence = place.number(), let floor = found[token]?.floor,
                sequence >= floor
            else { throw StoreFormat.damaged(.replies) }
            let stored = try StoredReply(value)
            found[token]?.record(Answer(sequence: sequence, hash: stored.hash, bytes: stored.reply.count))
            return true
        }
        self.init(Array(found.values), evicted: evicted)
    }
}

extension KeyValueStateMachine {
    private func persistEvictions(_ table: SessionTable, of shard: UInt64) {
        guard table.evicted != .never else { return }
        store.put(store.layout.key(.sessions, shard, SessionTable.noToken), table.evicted.encoded)
    }

    /// Stores for `right` a copy of what is stored for `left`'s sessions.
    func copySessions(_ table: SessionTable, of left: UInt64, to right: UInt64) throws(StateMachineError) {
        persistEvictions(table, of: right)
        for session in table.sessions {
            store.put(store.layout.key(.sessions, right, session.token), session.encoded)
            for answer in session.answers {
                let key = replyKey(left, session.token, answer.sequence)
                guard let reply = try store.get(key) else { throw StoreFormat.damaged(.replies) }
                store.put(replyKey(right, session.token, answer.sequence), reply)
            }
        }
    }

    /// Makes what is stored for `left` and `right` that of `left`'s `table`, which both were united to.
    func joinSessions(_ table: SessionTable, of left: OwnedShard, and right: OwnedShard) throws(StateMachineError) {
        let (leftID, rightID) = (left.shard.id, right.shard.id)
        for session in left.sessions.sessions {
            for answer in session.answers where table[session.token]?.remembers(answer.sequence) != true {
                store.delete(replyKey(leftID, session.token, answer.sequence))
            }
            if table[session.token] == nil { store.delete(store.layout.key(.sessions, leftID, session.token)) }
        }
        for session in table.sessions {
            store.put(store.layout.key(.sessions, leftID, session.token), session.encoded)
            for answer in session.answers where left.sessions[session.token]?.remembers(answer.sequence) != true {
                guard let reply = try store.get(replyKey(rightID, session.token, answer.sequence)) else {
                    throw StoreFormat.damaged(.replies)
                }
                store.put(replyKey(leftID, session.token, answer.sequence), reply)
            }
        }
        persistEvictions(table, of: leftID)
        deleteSessions(of: rightID)
    }

    /// Removes every session of `shard` and what they remember.
    func deleteSessions(of shard: UInt64) {
        store.deleteRange(store.layout.keys(of: .sessions, shard))
        store.deleteRange(store.layout.keys(of: .replies, shard))
    }
}

extension Session {
    var encoded: Bytes {
        ByteWriter.bytes(41) { writer in
            writer.put(StoreFormat.session)
            writer.put(lastUse.epoch)
            writer.put(lastUse.index.rawValue)
            writer.put(floor)
            writer.put(opened.epoch)
            writer.put(opened.index.rawValue)
        }
    }

    init(token: UInt64, stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .sessions)
        guard let epoch = value[0] > 1 ? reader.number() : 0, let index = reader.signedNumber(),
            let floor = reader.number()
        else { throw StoreFormat.damaged(.sessions) }
        let lastUse = SessionUse(epoch: epoch, index: LogIndex(index))
        guard value[0] > 1 else {
            self.init(token: token, opened: .never, lastUse: lastUse, floor: floor)
            return
        }
        guard let openedEpoch = reader.number(), let openedIndex = reader.signedNumber() else {
            throw StoreFormat.damaged(.sessions)
        }
        let opened = SessionUse(epoch: openedEpoch, index: LogIndex(openedIndex))
        self.init(token: token, opened: opened, lastUse: lastUse, floor: floor)
    }
}

extension SessionUse {
    var encoded: Bytes {
        ByteWriter.bytes(17) { writer in
            writer.put(StoreFormat.session)
            writer.put(epoch)
            writer.put(index.rawValue)
        }
    }

    init(stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .sessions)
        guard let epoch = reader.number(), let index = reader.signedNumber() else {
            throw StoreFormat.damaged(.sessions)
        }
        self.init(epoch: epoch, index: LogIndex(index))
    }
}

/// A reply as it is stored, with the hash of its request.
struct StoredReply {
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

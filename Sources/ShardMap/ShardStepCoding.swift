import CMessages
import RaftCore
public import WireMessages

// The wire form of a group's part in the controller's operations.

extension ShardStep {
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ShardStep> {
        let message = arena.make(flotilla__shard_step__init)
        message.pointee.operation = operation
        message.pointee.shard = shard
        message.pointee.epoch = epoch
        message.pointee.kind = action.kind
        switch action {
        case .split(let key, let newShard):
            message.pointee.has_key = 1
            message.pointee.key = arena.data(key)
            message.pointee.has_other_shard = 1
            message.pointee.other_shard = newShard
        case .merge(let right, let rightEpoch):
            message.pointee.has_other_shard = 1
            message.pointee.other_shard = right
            message.pointee.has_other_epoch = 1
            message.pointee.other_epoch = rightEpoch
        case .receive(let shard): message.pointee.record = shard.encoded(arena)
        case .stage(let chunk): message.pointee.chunk = chunk.encoded(arena)
        case .open, .freeze, .release, .resume, .adopt, .discard: break
        }
        return message
    }

    /// The step of a message; throws `badRequest` if it lacks what its kind needs, `unknownFormat` if nobody knows that.
    init(_ message: Flotilla__ShardStep) throws(NamedErrorThrown) {
        let action = try Action(message)
        self.init(operation: message.operation, shard: message.shard, epoch: message.epoch, action: action)
    }
}

extension ShardStep.Action {
    fileprivate var kind: Flotilla__ShardStepKind {
        switch self {
        case .split: FLOTILLA__SHARD_STEP_KIND__STEP_SPLIT
        case .merge: FLOTILLA__SHARD_STEP_KIND__STEP_MERGE
        case .open: FLOTILLA__SHARD_STEP_KIND__STEP_OPEN
        case .freeze: FLOTILLA__SHARD_STEP_KIND__STEP_FREEZE
        case .release: FLOTILLA__SHARD_STEP_KIND__STEP_RELEASE
        case .resume: FLOTILLA__SHARD_STEP_KIND__STEP_RESUME
        case .receive: FLOTILLA__SHARD_STEP_KIND__STEP_RECEIVE
        case .stage: FLOTILLA__SHARD_STEP_KIND__STEP_STAGE
        case .adopt: FLOTILLA__SHARD_STEP_KIND__STEP_ADOPT
        case .discard: FLOTILLA__SHARD_STEP_KIND__STEP_DISCARD
        }
    }

    fileprivate init(_ message: Flotilla__ShardStep) throws(NamedErrorThrown) {
        switch message.kind {
        case FLOTILLA__SHARD_STEP_KIND__STEP_SPLIT:
            guard message.has_key != 0, message.has_other_shard != 0 else { throw NamedErrorThrown(.badRequest) }
            self = .split(key: Bytes(message.key), newShard: message.other_shard)
        case FLOTILLA__SHARD_STEP_KIND__STEP_MERGE:
            guard message.has_other_shard != 0, message.has_other_epoch != 0 else {
                throw NamedErrorThrown(.badRequest)
            }
            self = .merge(right: message.other_shard, rightEpoch: message.other_epoch)
        case FLOTILLA__SHARD_STEP_KIND__STEP_OPEN: self = .open
        case FLOTILLA__SHARD_STEP_KIND__STEP_FREEZE: self = .freeze
        case FLOTILLA__SHARD_STEP_KIND__STEP_RELEASE: self = .release
        case FLOTILLA__SHARD_STEP_KIND__STEP_RESUME: self = .resume
        case FLOTILLA__SHARD_STEP_KIND__STEP_RECEIVE:
            guard let record = message.record else { throw NamedErrorThrown(.badRequest) }
            self = .receive(Shard(record.pointee))
        case FLOTILLA__SHARD_STEP_KIND__STEP_STAGE:
            guard let chunk = message.chunk.flatMap({ StagedChunk($0.pointee) }) else {
                throw NamedErrorThrown(.badRequest)
            }
            self = .stage(chunk)
        case FLOTILLA__SHARD_STEP_KIND__STEP_ADOPT: self = .adopt
        case FLOTILLA__SHARD_STEP_KIND__STEP_DISCARD: self = .discard
        default: throw NamedErrorThrown(.unknownFormat)
        }
    }
}

extension StagedChunk {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__StagedChunk> {
        let message = arena.make(flotilla__staged_chunk__init)
        message.pointee.number = number
        message.pointee.n_pairs = pairs.count
        message.pointee.pairs = arena.array(pairs.map { $0.encoded(arena) })
        if let cursor {
            message.pointee.has_cursor = 1
            message.pointee.cursor = arena.data(cursor)
        }
        message.pointee.tail = tail.rawValue
        message.pointee.complete = isComplete ? 1 : 0
        if let replicatedTime {
            message.pointee.has_time_ms = 1
            message.pointee.time_ms = replicatedTime
        }
        return message
    }

    fileprivate init?(_ message: Flotilla__StagedChunk) {
        guard message.tail >= 0, let pairs = StagedPair.decoded(message.pairs, count: message.n_pairs) else {
            return nil
        }
        self.init(
            number: message.number, pairs: pairs, cursor: message.has_cursor != 0 ? Bytes(message.cursor) : nil,
            tail: LogIndex(message.tail), isComplete: message.complete != 0,
            replicatedTime: message.has_time_ms != 0 ? message.time_ms : nil)
    }
}

extension StagedPair {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__StagedPair>? {
        let message = arena.make(flotilla__staged_pair__init)
        message.pointee.key = arena.data(key)
        if let value {
            message.pointee.has_value = 1
            message.pointee.value = arena.data(value)
        }
        if continues {
            message.pointee.has_continues = 1
            message.pointee.continues = 1
        }
        return message
    }

    fileprivate static func decoded(
        _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Flotilla__StagedPair>?>?, count: Int
    ) -> [StagedPair]? {
        var pairs: [StagedPair] = []
        pairs.reserveCapacity(count)
        for position in 0..<count {
            guard let message = messages?[position]?.pointee else { return nil }
            pairs.append(
                StagedPair(
                    key: Bytes(message.key), value: message.has_value != 0 ? Bytes(message.value) : nil,
                    continues: message.has_continues != 0 && message.continues != 0))
        }
        return pairs
    }
}

// MARK: reading what moves

extension ReadMoveRequest {
    /// The request's body in memory of its own.
    public func packed(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__read_move_request__init)
            message.pointee.group = arena.string(group)
            message.pointee.operation = operation
            message.pointee.shard = shard
            message.pointee.epoch = epoch
            if let cursor {
                message.pointee.has_cursor = 1
                message.pointee.cursor = arena.data(cursor)
            }
            message.pointee.tail = tail.rawValue
            message.pointee.bytes = UInt32(clamping: bytes)
            return arena.pack(message)
        }
    }

    /// Reads a body; nil if it is malformed.
    public init?(_ body: Bytes, _ arena: Arena) {
        let request = arena.scope { arena -> ReadMoveRequest? in
            guard let message = arena.unpack(flotilla__read_move_request__init, body)?.pointee, message.tail >= 0
            else { return nil }
            return ReadMoveRequest(
                group: String(field: message.group), operation: message.operation, shard: message.shard,
                epoch: message.epoch, cursor: message.has_cursor != 0 ? Bytes(message.cursor) : nil,
                tail: LogIndex(message.tail), bytes: Int(message.bytes))
        }
        guard let request else { return nil }
        self = request
    }
}

extension ReadMoveReply {
    /// The reply's body in memory of its own.
    public func packed(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__read_move_reply__init)
            message.pointee.error = error?.rawValue ?? 0
            if let text = self.message { message.pointee.message = arena.string(text) }
            message.pointee.n_pairs = pairs.count
            message.pointee.pairs = arena.array(pairs.map { $0.encoded(arena) })
            if let cursor {
                message.pointee.has_cursor = 1
                message.pointee.cursor = arena.data(cursor)
            }
            message.pointee.has_tail = 1
            message.pointee.tail = tail.rawValue
            message.pointee.has_complete = 1
            message.pointee.complete = isComplete ? 1 : 0
            if let replicatedTime {
                message.pointee.has_time_ms = 1
                message.pointee.time_ms = replicatedTime
            }
            if let bytesLeft {
                message.pointee.has_bytes_left = 1
                message.pointee.bytes_left = bytesLeft
            }
            return arena.pack(message)
        }
    }

    /// Reads a body; nil if it is malformed.
    public init?(_ body: Bytes, _ arena: Arena) {
        let reply = arena.scope { arena -> ReadMoveReply? in
            guard let message = arena.unpack(flotilla__read_move_reply__init, body)?.pointee,
                let pairs = StagedPair.decoded(message.pairs, count: message.n_pairs),
                message.has_tail == 0 || message.tail >= 0
            else { return nil }
            return ReadMoveReply(
                error: message.error != 0 ? NamedError(rawValue: message.error) ?? .internalError : nil,
                message: message.message.map { String(cString: $0) }, pairs: pairs,
                cursor: message.has_cursor != 0 ? Bytes(message.cursor) : nil,
                tail: message.has_tail != 0 ? LogIndex(message.tail) : .zero,
                isComplete: message.has_complete != 0 && message.complete != 0,
                replicatedTime: message.has_time_ms != 0 ? message.time_ms : nil,
                bytesLeft: message.has_bytes_left != 0 ? message.bytes_left : nil)
        }
        guard let reply else { return nil }
        self = reply
    }
}

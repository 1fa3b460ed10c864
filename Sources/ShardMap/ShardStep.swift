public import RaftCore

/// A group's part in an operation of the controller: an entry of the group's log.
///
/// Each is idempotent. The group remembers for every shard that it has touched the last operation on it and how far that
/// has come, so a step of an older one is refused (``NamedError/staleOperation``), whenever it arrives.
public struct ShardStep: Equatable, Sendable {
    /// What to do; the names are those of the protocol's model.
    public enum Action: Equatable, Sendable {
        /// Cut the shard in two at `key`, the first key of `newShard`; both come to be under epoch + 1.
        case split(key: Bytes, newShard: UInt64)
        /// Unite the shard with its right neighbour, under the higher of the epochs + 1; the shard's own id stays.
        case merge(right: UInt64, rightEpoch: UInt64)
        /// Source of a move: remember what changes from here on.
        case open
        /// Source: answer nothing of the shard any more.
        case freeze
        /// Source, after the switch: delete the shard.
        case release
        /// Source, after the abort: own the shard under epoch + 1, frozen or not.
        case resume
        /// Destination: begin to stage the shard, which will be this one.
        case receive(Shard)
        /// Destination: a part of it.
        case stage(StagedChunk)
        /// Destination, after the switch: own what is staged.
        case adopt
        /// Destination, after the abort: delete what is staged.
        case discard
    }

    /// The controller's operation; a higher one is newer.
    public var operation: UInt64
    /// The shard it is about: of a merge the left one.
    public var shard: UInt64
    /// The shard's epoch before the operation.
    public var epoch: UInt64
    /// What to do.
    public var action: Action
    /// A step.
    public init(operation: UInt64, shard: UInt64, epoch: UInt64, action: Action) {
        self.operation = operation
        self.shard = shard
        self.epoch = epoch
        self.action = action
    }
}

/// A part of a moving shard: resulting states of keys, in the order of the source's log where that matters, never
/// commands.
public struct StagedChunk: Equatable, Sendable {
    /// Counted from 0; the next one is applied, the one before it is answered again, any other is refused.
    public var number: UInt64
    /// In the order in which they are to be applied.
    public var pairs: [StagedPair]
    /// Where the source goes on, as it understands it; nil: at the next entry behind ``tail``.
    public var cursor: Bytes?
    /// Every change up to this entry of the source's log is in; zero while the scan goes on.
    public var tail: LogIndex
    /// Whether the source is frozen and nothing is missing.
    public var isComplete: Bool
    /// The source's replicated time where the pairs were read; milliseconds since 1970.
    public var replicatedTime: Int64?
    /// A part.
    public init(
        number: UInt64, pairs: [StagedPair], cursor: Bytes?, tail: LogIndex, isComplete: Bool,
        replicatedTime: Int64? = nil
    ) {
        self.number = number
        self.pairs = pairs
        self.cursor = cursor
        self.tail = tail
        self.isComplete = isComplete
        self.replicatedTime = replicatedTime
    }

    /// Packed length of a chunk to aim at; bytes to ask a source for at once.
    public static let bytesWanted = 256 << 10
}

/// The state of a key of a moving shard, as the source stores it.
public struct StagedPair: Equatable, Sendable {
    /// As stored, without the number of the replica.
    public var key: Bytes
    /// As stored; nil: there is no such key, and what was sent of a value under it is void.
    public var value: Bytes?
    /// Whether the rest of the value comes with the next pair, which then has the same key.
    public var continues: Bool
    /// A state.
    public init(key: Bytes, value: Bytes?, continues: Bool = false) {
        self.key = key
        self.value = value
        self.continues = continues
    }
}

/// The question to any replica of a move's source: what comes next?
public struct ReadMoveRequest: Equatable, Sendable {
    /// The source.
    public var group: String
    /// The move.
    public var operation: UInt64
    /// The moving shard.
    public var shard: UInt64
    /// Its epoch at the source.
    public var epoch: UInt64
    /// As the answer before said; nil at the beginning.
    public var cursor: Bytes?
    /// As the answer before said; zero at the beginning.
    public var tail: LogIndex
    /// Bytes of keys and values wanted at most; the source has a bound of its own.
    public var bytes: Int
    /// A question.
    public init(
        group: String, operation: UInt64, shard: UInt64, epoch: UInt64, cursor: Bytes? = nil, tail: LogIndex = .zero,
        bytes: Int = StagedChunk.bytesWanted
    ) {
        self.group = group
        self.operation = operation
        self.shard = shard
        self.epoch = epoch
        self.cursor = cursor
        self.tail = tail
        self.bytes = bytes
    }
}

/// The answer of a source's replica. It is one chunk for the destination, which asks the next question with the cursor
/// and the tail of this one.
public struct ReadMoveReply: Equatable, Sendable {
    /// Nil: the rest is the answer.
    public var error: NamedError?
    /// More about the error.
    public var message: String?
    /// Nothing at all: the replica knows of nothing new.
    public var pairs: [StagedPair]
    /// See ``StagedChunk/cursor``.
    public var cursor: Bytes?
    /// See ``StagedChunk/tail``.
    public var tail: LogIndex
    /// See ``StagedChunk/isComplete``.
    public var isComplete: Bool
    /// See ``StagedChunk/replicatedTime``.
    public var replicatedTime: Int64?
    /// Estimate of the bytes still to come; nil while the scan goes on, for nobody has counted them.
    public var bytesLeft: UInt64?
    /// An answer.
    public init(
        error: NamedError? = nil, message: String? = nil, pairs: [StagedPair] = [], cursor: Bytes? = nil,
        tail: LogIndex = .zero, isComplete: Bool = false, replicatedTime: Int64? = nil, bytesLeft: UInt64? = nil
    ) {
        self.error = error
        self.message = message
        self.pairs = pairs
        self.cursor = cursor
        self.tail = tail
        self.isComplete = isComplete
        self.replicatedTime = replicatedTime
        self.bytesLeft = bytesLeft
    }

    /// The chunk that it is for the destination.
    public func chunk(_ number: UInt64) -> StagedChunk {
        StagedChunk(
            number: number, pairs: pairs, cursor: cursor, tail: tail, isComplete: isComplete,
            replicatedTime: replicatedTime)
    }
}

extension ShardStep.Action {
    /// As the rules of migration call it.
    public var name: String {
        switch self {
        case .split: "split"
        case .merge: "merge"
        case .open: "open"
        case .freeze: "freeze"
        case .release: "release"
        case .resume: "resume"
        case .receive: "receive"
        case .stage: "stage"
        case .adopt: "adopt"
        case .discard: "discard"
        }
    }
}

/// Every error a client can meet, once: its number on the wire, its Redis form, and what it says about the request.
///
/// The numbers are part of the protocol and never change their meaning.
public enum NamedError: UInt32, Sendable, CaseIterable {
    /// The node does not lead the group; a hint may say who does.
    case notLeader = 1
    /// The group does not own the shard, or not under this epoch; the answer may carry the new route.
    case wrongShard = 2
    /// The session is not in the shard's table: it was never opened there or has been evicted.
    case sessionExpired = 3
    /// The sequence is below the session's floor: the client said it has the answer.
    case sequenceTooOld = 4
    /// The same sequence was used for a different request.
    case sequenceReused = 5
    /// The sequence is further above the floor than the window allows.
    case windowExceeded = 6
    /// Too much is queued; try later.
    case busy = 7
    /// The deadline passed before the request was proposed.
    case deadlineExceeded = 8
    /// The key is larger than 64 KiB, or empty where a key is needed.
    case keyTooLarge = 9
    /// The value is larger than 8 MiB.
    case valueTooLarge = 10
    /// The stored value is not an integer of 64 bits.
    case notAnInteger = 11
    /// The request is malformed.
    case badRequest = 12
    /// The disk has no room; writes are refused, reads go on.
    case diskFull = 13
    /// The replica cannot serve: its log or its state is damaged.
    case damaged = 14
    /// The node belongs to no cluster yet.
    case notInitialized = 15
    /// The other side belongs to another cluster, or is not who the map says it is.
    case wrongIdentity = 16
    /// Refused in the present state; the message says why.
    case refused = 17
    /// Nobody could be asked.
    case unreachable = 18
    /// The request was sent and its answer lost: it may have happened or not.
    case outcomeUnknown = 19
    /// The node is stopping.
    case stopping = 20
    /// There is no such group on the node.
    case noSuchGroup = 21
    /// The entry or request has a format newer than this node understands.
    case unknownFormat = 22
    /// The group has no leader at the moment.
    case noLeader = 23
    /// Our own fault.
    case internalError = 24
    /// The result of an increment does not fit 64 bits; the value is as it was.
    case overflow = 25
    /// The shard is on its way to another group and answers nothing for a moment.
    case shardFrozen = 26
    /// A step of an operation that is over for the group, or older than one it knows of.
    case staleOperation = 27
    /// Another operation has the shard or the group, or the world is not as the request takes it to be.
    case conflict = 28
    /// The map has no such shard.
    case noSuchShard = 29
    /// The controller knows of no such operation, or of none any more.
    case noSuchOperation = 30
    /// The map has no such node.
    case noSuchNode = 31
    /// The cluster's level does not allow it yet: nodes there may be whose programs do not know it.
    case levelTooLow = 32
    /// The program of a node knows only lower levels than the cluster has, or is to have.
    case programTooOld = 33

    /// The group is led by a member that runs another program and serves no keys; it is asked to hand over.
    case notServed = 34

    /// What the error says about whether the request happened.
    public enum Class: Sendable {
        /// Certainly not executed.
        case notExecuted
        /// Executed, and this is its outcome.
        case executed
        /// Executed or not: nobody can tell from here.
        case unknown
    }

    /// What the error says about whether the request happened.
    public var outcome: Class {
        switch self {
        case .notAnInteger, .overflow: .executed
        case .outcomeUnknown, .internalError, .sequenceTooOld: .unknown
        default: .notExecuted
        }
    }

    /// First word of the Redis error, as clients match on it.
    public var redisPrefix: String {
        switch self {
        case .notLeader, .wrongShard, .noLeader, .sessionExpired, .deadlineExceeded, .shardFrozen, .notServed:
            "TRYAGAIN"
        case .busy, .windowExceeded: "BUSY"
        case .notInitialized, .unreachable, .noSuchGroup, .stopping: "CLUSTERDOWN"
        case .diskFull: "MISCONF"
        case .outcomeUnknown: "UNKNOWN"
        default: "ERR"
        }
    }

    /// A sentence for people: what it is and what to do.
    public var sentence: String {
        switch self {
        case .notLeader: "this node does not lead the group; ask the leader"
        case .wrongShard: "the key's shard has another home; refresh the route"
        case .sessionExpired: "the session is unknown to the shard; open a new one"
        case .sequenceTooOld: "the request's sequence was answered before and its reply is gone"
        case .sequenceReused: "the request's sequence was used for a different request"
        case .windowExceeded: "too many unanswered requests in one session"
        case .busy: "the server is overloaded; try again later"
        case .deadlineExceeded: "the deadline passed before the request was executed; it was not executed"
        case .keyTooLarge: "a key must be 1 to 65536 bytes long"
        case .valueTooLarge: "a value must be at most 8388608 bytes long"
        case .notAnInteger: "value is not an integer or out of range"
        case .badRequest: "malformed request"
        case .diskFull: "the disk is full: writes are refused until there is room; reads go on"
        case .damaged: "the replica's data is damaged and it does not serve; see raftctl group show"
        case .notInitialized: "the cluster is not initialized; run raftctl init"
        case .wrongIdentity: "the node belongs to another cluster or has another identity"
        case .refused: "refused"
        case .unreachable: "nobody could be reached"
        case .outcomeUnknown: "the request was sent and its outcome is unknown"
        case .stopping: "the node is stopping"
        case .noSuchGroup: "there is no such group on this node"
        case .unknownFormat: "the format is newer than this version understands; upgrade"
        case .noLeader: "the group has no leader at the moment; try again"
        case .internalError: "internal error"
        case .overflow: "increment or decrement would overflow"
        case .shardFrozen: "the shard is moving to another group; try again in a moment"
        case .staleOperation: "the operation is over, or a newer one has begun"
        case .conflict: "it conflicts with what is there or under way"
        case .noSuchShard: "there is no such shard; see raftctl shard list"
        case .noSuchOperation: "there is no such operation, or none any more; see raftctl operation list"
        case .noSuchNode: "there is no such node; see raftctl node list"
        case .levelTooLow: "the cluster's level does not allow it yet; raise it: raftctl cluster upgrade"
        case .programTooOld: "the program of a node is too old for the cluster's level; start a newer raftd there"
        case .notServed: "a member that serves no keys leads the group; it is asked to hand over, try again in a moment"
        }
    }
}

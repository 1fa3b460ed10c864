public import RaftCore
public import ShardMap

/// A group's part in a move that is under way, as of the last applied batch.
public struct ShardMove: Equatable, Sendable {
    /// How far it has come here.
    public enum Phase: Equatable, Sendable {
        /// Source: changes are remembered.
        case open
        /// Source: nothing is answered any more.
        case frozen
        /// Destination: parts come in.
        case receiving
        /// Destination: everything is there.
        case complete
    }

    /// Which side the group is on.
    public enum Role: Sendable {
        /// The shard goes.
        case source
        /// The shard comes.
        case destination
    }

    /// What a destination has so far, and so what it has to ask for next.
    public struct Staging: Equatable, Sendable {
        /// The shard as it will be.
        public var shard: Shard
        /// Number of the next chunk.
        public var nextChunk: UInt64
        /// As the last chunk said; the next question's.
        public var cursor: Bytes?
        /// As the last chunk said; the next question's.
        public var tail: LogIndex
        /// Whether everything is there.
        public var isComplete: Bool
        /// Bytes of keys and values staged, repetitions included.
        public var bytesStaged: UInt64
    }

    /// The controller's operation.
    public var operation: UInt64
    /// The shard.
    public var shard: UInt64
    /// Its epoch before the move.
    public var epoch: UInt64
    /// How far it has come here.
    public var phase: Phase
    /// Of a destination.
    public var staging: Staging?

    /// Which side the group is on.
    public var role: Role { staging == nil ? .source : .destination }
}

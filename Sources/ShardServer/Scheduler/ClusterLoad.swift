public import RaftCore

/// What the nodes of a cluster last told of themselves, their groups and their shards. What nobody has told of is
/// missing; the order does not matter.
public struct ClusterLoad: Equatable, Sendable {
    /// One of each node that was ever heard of.
    public var nodes: [NodeLoad]
    /// One of each group whose leader was heard of.
    public var groups: [GroupLoad]
    /// One of each shard whose owner's leader told of it.
    public var shards: [ShardLoad]
    /// A load.
    public init(nodes: [NodeLoad] = [], groups: [GroupLoad] = [], shards: [ShardLoad] = []) {
        self.nodes = nodes
        self.groups = groups
        self.shards = shards
    }

    /// Whether a node can be reached.
    public struct NodeLoad: Equatable, Sendable {
        /// Its number in the map.
        public var node: UInt64
        /// Whether it answers.
        public var isUp: Bool
        /// When it last answered; nil: not since this process began to listen.
        public var lastHeard: Instant?
        /// Other programs' groups in which it is a member: it can have no replica of a group called the same.
        public var guests: [String]
        /// A node's state.
        public init(node: UInt64, isUp: Bool, lastHeard: Instant?, guests: [String] = []) {
            self.node = node
            self.isUp = isUp
            self.lastHeard = lastHeard
            self.guests = guests
        }
    }

    /// A group as its leader sees it. Its operations are those of its shards.
    public struct GroupLoad: Equatable, Sendable {
        /// Its name.
        public var group: String
        /// Who leads it; nil: nobody is known to.
        public var leader: PeerID?
        /// The members, the leader among them, whose log ends where the leader's does, or nearly; of foreign ones only
        /// those that the leader is in touch with, so that these are up.
        public var caughtUp: [PeerID]
        /// What a new replica has to be sent.
        public var bytes: UInt64
        /// The members, committed, if its leader has found others in the map; else none.
        public var members: [PeerID]
        /// A group's load.
        public init(
            group: String, leader: PeerID?, caughtUp: [PeerID] = [], bytes: UInt64 = 0, members: [PeerID] = []
        ) {
            self.group = group
            self.leader = leader
            self.caughtUp = caughtUp
            self.bytes = bytes
            self.members = members
        }
    }

    /// A shard.
    public struct ShardLoad: Equatable, Sendable {
        /// Its number in the map.
        public var shard: UInt64
        /// Keys and values, as stored.
        public var bytes: UInt64
        /// Reads and writes of late.
        public var operationsPerSecond: Double
        /// A key at which both halves would have about as much to do and to store; nil: none is known.
        public var splitKey: Bytes?
        /// A shard's load.
        public init(shard: UInt64, bytes: UInt64, operationsPerSecond: Double, splitKey: Bytes? = nil) {
            self.shard = shard
            self.bytes = bytes
            self.operationsPerSecond = operationsPerSecond
            self.splitKey = splitKey
        }
    }
}

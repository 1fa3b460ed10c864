public import RaftCore

/// What an entry of a data group says.
public enum GroupCommand: Equatable, Sendable {
    /// A session's write.
    case write(SessionWrite)
    /// Opens a new session on a shard. Its token, which the reply names, is made of the client's random number and the
    /// entry's index: a repetition opens another session, and never one that has been before.
    case openSession(shard: UInt64, epoch: UInt64, nonce: UInt64)
    /// Gives the group its first shards.
    case install([Shard])
    /// Moves the group's replicated time on to at least this many milliseconds since 1970.
    case time(Int64)
    /// Has each replica hold its state as it is behind this entry, under this number, to be compared with the others'.
    case verify(UInt64)
    /// The group's part in an operation of the controller.
    case step(ShardStep)
}

/// A write under a session: exactly once for each (session, sequence).
public struct SessionWrite: Equatable, Sendable {
    /// The shard all its keys belong to.
    public var shard: UInt64
    /// The epoch the client knows the shard under.
    public var epoch: UInt64
    /// The session's token.
    public var session: UInt64
    /// Number of the request within the client.
    public var sequence: UInt64
    /// The client's lowest unanswered sequence; replies below it may be forgotten.
    public var floor: UInt64
    /// What to do, in order; reads may be among them.
    public var operations: [KeyOperation]
    /// A write.
    public init(
        shard: UInt64, epoch: UInt64, session: UInt64, sequence: UInt64, floor: UInt64, operations: [KeyOperation]
    ) {
        self.shard = shard
        self.epoch = epoch
        self.session = session
        self.sequence = sequence
        self.floor = floor
        self.operations = operations
    }
}

/// An execute request without its command: where it goes, and the reads if it is one of reads.
public struct ExecuteRequest: Equatable, Sendable {
    /// The group asked.
    public var group: String
    /// The shard of the reads, and its epoch as the client knows it.
    public var shard: UInt64
    /// The epoch the client knows the shard under.
    public var epoch: UInt64
    /// Reads; empty if the attachment carries a packed ``GroupCommand``.
    public var reads: [KeyOperation]
    /// Milliseconds the sender will still wait.
    public var deadlineMilliseconds: UInt64?
    /// For tracing.
    public var requestID: UInt64?
    /// A request.
    public init(
        group: String, shard: UInt64, epoch: UInt64, reads: [KeyOperation] = [], deadlineMilliseconds: UInt64? = nil,
        requestID: UInt64? = nil
    ) {
        self.group = group
        self.shard = shard
        self.epoch = epoch
        self.reads = reads
        self.deadlineMilliseconds = deadlineMilliseconds
        self.requestID = requestID
    }
}

/// The answer to an execute request.
public struct ExecuteReply: Equatable, Sendable {
    /// Nil: each operation has its own result.
    public var error: NamedError?
    /// More about the error.
    public var message: String?
    /// With ``NamedError/notLeader``: who probably leads.
    public var leader: NodeAddress?
    /// Answer to an open: the session.
    public var session: UInt64?
    /// One for each operation.
    public var results: [KeyResult]
    /// With ``NamedError/wrongShard``: the shard as the group owns it, if it does so under the very id and epoch of the
    /// request. Then it was the range that a key does not lie in, and the request was not answered before: under its
    /// session and sequence nothing was executed, nor ever will be.
    public var route: Shard?
    /// An answer.
    public init(
        error: NamedError? = nil, message: String? = nil, leader: NodeAddress? = nil, session: UInt64? = nil,
        results: [KeyResult] = [], route: Shard? = nil
    ) {
        self.error = error
        self.message = message
        self.leader = leader
        self.session = session
        self.results = results
        self.route = route
    }
}

/// What the first controller writes once and every member of the new cluster keeps.
public struct BootstrapRecord: Equatable, Sendable {
    /// Random id of the cluster.
    public var clusterID: UInt64
    /// The first nodes, with the ids they get.
    public var nodes: [Node]
    /// First members of the controller group.
    public var controllerPeers: [PeerID]
    /// Number of data groups.
    public var groups: Int
    /// Replicas of each.
    public var replicas: Int
    /// First key of every shard but the first; ascending.
    public var boundaries: [Bytes]
    /// A record.
    public init(
        clusterID: UInt64, nodes: [Node], controllerPeers: [PeerID], groups: Int, replicas: Int, boundaries: [Bytes]
    ) {
        self.clusterID = clusterID
        self.nodes = nodes
        self.controllerPeers = controllerPeers
        self.groups = groups
        self.replicas = replicas
        self.boundaries = boundaries
    }

    /// The map this record begins with: group `g1` owns the first range, and so on; replicas are spread round-robin. Its
    /// level is the highest that all nodes know.
    public var initialMap: ClusterMap {
        var groups = [Group(id: ClusterMap.controllerGroup, peers: controllerPeers, isBorn: true)]
        var shards: [Shard] = []
        for number in 0..<self.groups {
            let members = (0..<replicas).map { PeerID(address: nodes[(number + $0) % nodes.count].address) }
            groups.append(Group(id: "g\(number + 1)", peers: members, isBorn: false))
        }
        let starts = [Bytes()] + boundaries
        for (number, start) in starts.enumerated() {
            let end = number + 1 < starts.count ? starts[number + 1] : Bytes()
            let group = "g\(number * self.groups / starts.count + 1)"
            shards.append(
                Shard(id: UInt64(number + 1), range: KeyRange(start: start, end: end), group: group, epoch: 1))
        }
        var map = ClusterMap(clusterID: clusterID, version: 1, nodes: nodes, groups: groups, shards: shards)
        map.level = map.highestCommonLevel
        return map
    }

    /// Boundaries that split the printable first bytes 0x21 … 0x7e evenly over `groups` shards.
    public static func evenBoundaries(groups: Int) -> [Bytes] {
        guard groups > 1 else { return [] }
        let span = 0x7f - 0x21
        // two bytes of resolution, so that more groups than printable bytes still differ
        return (1..<groups).map { number in
            let position = number * span * 256 / groups
            let low = UInt8(position % 256)
            let first = UInt8(0x21 + position / 256)
            return Bytes(low == 0 ? [first] : [first, low])
        }
    }
}

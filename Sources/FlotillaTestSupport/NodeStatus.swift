import CMessages
public import RaftCore
import WireMessages

/// What a node says of itself: the answer of `flotilla.ClusterService.status`.
public struct NodeStatus: Sendable {
    /// A member of a group on the node.
    public struct Replica: Sendable {
        /// The group.
        public var group: String
        /// What kind of state machine it has.
        public var kind: String
        /// This member.
        public var peer: PeerID
        /// `leader`, `follower`, `candidate` or `damaged`.
        public var state: String
        /// Its term.
        public var term: Term
        /// Whom it follows.
        public var leader: PeerID?
        /// Highest index it knows committed.
        public var commitIndex: LogIndex
        /// Highest index it has applied.
        public var appliedIndex: LogIndex
        /// The last index of its log.
        public var lastIndex: LogIndex
        /// The members it knows of.
        public var members: [PeerID]
        /// Why it does not serve, if it does not.
        public var problem: String?
    }

    /// The node's number in the cluster; 0 before there is one.
    public var id: UInt64
    /// How often it has been started on its directory.
    public var runNumber: UInt64
    /// `uninitialized`, `serving`, `read_only` or `stopping`.
    public var state: String
    /// Its replicas.
    public var replicas: [Replica]

    /// Its replica of `group`.
    public func replica(of group: String) -> Replica? { replicas.first { $0.group == group } }

    /// Reads an answer; nil if it is malformed.
    init?(_ body: Bytes) {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        guard let reply = arena.unpack(flotilla__status_reply__init, body)?.pointee else { return nil }
        id = reply.node_id
        runNumber = reply.run_number
        state = String(field: reply.state)
        replicas = []
        for position in 0..<reply.n_groups {
            guard let record = reply.groups[position]?.pointee, let replica = Replica(record) else { return nil }
            replicas.append(replica)
        }
    }
}

extension NodeStatus.Replica {
    fileprivate init?(_ record: Flotilla__GroupStatus) {
        guard let peer = PeerID(String(field: record.peer)) else { return nil }
        var members: [PeerID] = []
        for position in 0..<record.n_peers {
            guard let member = PeerID(String(field: record.peers[position])) else { return nil }
            members.append(member)
        }
        self.init(
            group: String(field: record.id), kind: String(field: record.kind), peer: peer,
            state: String(field: record.state), term: Term(record.term),
            leader: PeerID(String(field: record.leader)), commitIndex: LogIndex(record.commit_index),
            appliedIndex: LogIndex(record.applied_index), lastIndex: LogIndex(record.last_index), members: members,
            problem: record.problem.map { String(cString: $0) })
    }
}

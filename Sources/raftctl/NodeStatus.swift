import CMessages
import RaftCore
import WireMessages

/// What a node says of itself and of its replicas.
struct NodeStatus: Equatable, Sendable {
    var id: UInt64
    var incarnation: UInt64
    var runNumber: UInt64
    /// uninitialized, serving, read_only or stopping.
    var state: String
    var logBytes: UInt64?
    /// Bound of ``logBytes``.
    var logSpace: UInt64?
    var uptimeMilliseconds: UInt64?
    var version: String?
    /// The highest cluster level that its program knows.
    var level: UInt32?
    /// How long a sync, or what is being applied, has kept it waiting.
    var stallMilliseconds: UInt64?
    /// Why it refuses writes, if it does.
    var refusal: String?
    /// Nodes with replicas of its groups that it does not hear.
    var unheard: [NodeAddress] = []
    var replicas: [ReplicaStatus]
}

/// A replica as its node sees it.
struct ReplicaStatus: Equatable, Sendable {
    var group: String
    var peer: PeerID
    /// leader, follower, candidate or damaged.
    var state: String
    var term: Int64
    /// Whom it follows.
    var leader: PeerID?
    var commitIndex: Int64
    var appliedIndex: Int64
    var lastIndex: Int64
    var durableIndex: Int64
    /// The members it knows of.
    var peers: [PeerID]
    /// What is wrong with it.
    var problem: String?
    /// The last entry its log ever held, while it lacks a part of it.
    var debt: Int64?
    /// controller, kv, guest or another; nil: its node is too old to say.
    var kind: String?
    /// Members that run another program.
    var foreign: [ForeignStatus] = []

    /// Whether it is a member of another program's group.
    var isGuest: Bool { kind == "guest" }
}

/// A member that runs another program, as our own members know it.
struct ForeignStatus: Equatable, Sendable {
    var peer: PeerID
    /// Whether whoever leads is in touch with it; nil: the one who tells does not lead.
    var isReachable: Bool?
    /// What it has acknowledged up to; nil likewise.
    var matchIndex: Int64?
}

extension NodeStatus {
    /// Reads a status reply; nil if it is malformed.
    init?(_ body: Bytes, _ arena: Arena) {
        let status = arena.scope { arena -> NodeStatus? in
            guard let reply = arena.unpack(flotilla__status_reply__init, body)?.pointee else { return nil }
            var replicas: [ReplicaStatus] = []
            for position in 0..<reply.n_groups {
                guard let record = reply.groups[position]?.pointee, let replica = ReplicaStatus(record) else {
                    return nil
                }
                replicas.append(replica)
            }
            return NodeStatus(
                id: reply.node_id, incarnation: reply.incarnation, runNumber: reply.run_number,
                state: String(field: reply.state), logBytes: reply.has_log_bytes != 0 ? reply.log_bytes : nil,
                logSpace: reply.has_log_space != 0 ? reply.log_space : nil,
                uptimeMilliseconds: reply.has_uptime_ms != 0 ? reply.uptime_ms : nil,
                version: reply.version.map { String(cString: $0) },
                level: reply.has_level != 0 ? reply.level : nil,
                stallMilliseconds: reply.has_stall_ms != 0 ? reply.stall_ms : nil,
                refusal: reply.refusal.map { String(cString: $0) },
                unheard: (0..<reply.n_unheard).compactMap { NodeAddress(String(field: reply.unheard[$0])) },
                replicas: replicas)
        }
        guard let status else { return nil }
        self = status
    }
}

extension ReplicaStatus {
    fileprivate init?(_ record: Flotilla__GroupStatus) {
        guard let peer = PeerID(String(field: record.peer)) else { return nil }
        var peers: [PeerID] = []
        for position in 0..<record.n_peers {
            guard let member = PeerID(String(field: record.peers[position])) else { return nil }
            peers.append(member)
        }
        self.init(
            group: String(field: record.id), peer: peer, state: String(field: record.state), term: record.term,
            leader: PeerID(String(field: record.leader)), commitIndex: record.commit_index,
            appliedIndex: record.applied_index, lastIndex: record.last_index, durableIndex: record.durable_index,
            peers: peers, problem: record.problem.map { String(cString: $0) },
            debt: record.has_debt_index != 0 ? record.debt_index : nil,
            kind: record.kind.map { String(cString: $0) })
        for position in 0..<record.n_foreign {
            guard let member = record.foreign[position]?.pointee, let peer = PeerID(String(field: member.peer)) else {
                return nil
            }
            foreign.append(
                ForeignStatus(
                    peer: peer, isReachable: member.has_reachable != 0 ? member.reachable != 0 : nil,
                    matchIndex: member.has_match_index != 0 ? member.match_index : nil))
        }
        if problem == nil, let debt { problem = "its log has lost entries up to \(debt) and is being healed" }
    }
}

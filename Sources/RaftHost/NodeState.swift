import CMessages
import RaftCore
import WireMessages

/// The node's own record in the log (group 0): the runs of the peers it heard, and the replicas it holds.
struct NodeState: Equatable {
    static let format: UInt32 = 1

    /// The highest run of a peer, and the process that had it.
    struct PeerRun: Equatable {
        var nodeID: UInt64
        var incarnation: UInt64
        var runNumber: UInt64
        var nonce: UInt64
    }

    /// Ascending by node id.
    var peers: [PeerRun] = []
    var replicas: [ReplicaRecord] = []
    private(set) var nextNumber: UInt64 = 1

    init() {}

    mutating func takeNumber() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    /// What a note says; nil if it does not parse, or was written by a newer version.
    init?(_ note: Bytes) {
        let state = Arena().scope { arena -> NodeState? in
            guard let message = arena.unpack(flotilla__node_state__init, note)?.pointee,
                message.format <= NodeState.format
            else { return nil }
            var state = NodeState()
            for position in 0..<message.n_peers {
                guard let peer = message.peers[position]?.pointee else { return nil }
                state.peers.append(
                    PeerRun(
                        nodeID: peer.node_id, incarnation: peer.incarnation, runNumber: peer.run_number,
                        nonce: peer.nonce))
            }
            for position in 0..<message.n_replicas {
                guard let record = message.replicas[position]?.pointee, let peer = PeerID(String(field: record.peer))
                else {
                    return nil
                }
                let birth = (0..<record.n_birth_peers).compactMap { PeerID(String(field: record.birth_peers[$0])) }
                state.replicas.append(
                    ReplicaRecord(
                        group: String(field: record.group), peer: peer, number: record.number,
                        birth: Configuration(peers: birth), kind: String(field: record.kind)))
            }
            state.nextNumber = message.has_next_replica_number != 0 ? message.next_replica_number : 1
            return state
        }
        guard let state else { return nil }
        self = state
    }

    func packed(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__node_state__init)
            message.pointee.format = NodeState.format
            message.pointee.n_peers = peers.count
            message.pointee.peers = arena.array(
                peers.map { run -> UnsafeMutablePointer<Flotilla__PeerRun>? in
                    let peer = arena.make(flotilla__peer_run__init)
                    peer.pointee.node_id = run.nodeID
                    peer.pointee.incarnation = run.incarnation
                    peer.pointee.run_number = run.runNumber
                    peer.pointee.nonce = run.nonce
                    return peer
                })
            message.pointee.n_replicas = replicas.count
            message.pointee.replicas = arena.array(
                replicas.map { replica -> UnsafeMutablePointer<Flotilla__ReplicaRecord>? in
                    let record = arena.make(flotilla__replica_record__init)
                    record.pointee.group = arena.string(replica.group)
                    record.pointee.peer = arena.string(replica.peer.description)
                    record.pointee.number = replica.number
                    record.pointee.n_birth_peers = replica.birth.listed.count
                    record.pointee.birth_peers = arena.strings(replica.birth.listed.map(\.description))
                    record.pointee.kind = arena.string(replica.kind)
                    return record
                })
            message.pointee.has_next_replica_number = 1
            message.pointee.next_replica_number = nextNumber
            return arena.pack(message)
        }
    }
}

/// A replica's own record in the log: which state of the store is its own, and what is wrong with that.
struct ReplicaNote {
    static let format: UInt32 = 1
    var store: UInt64
    var fence: Fence?

    init(store: UInt64) { self.store = store }

    /// What a note says; nil if it does not parse, or was written by a newer version.
    init?(_ note: Bytes) {
        let parsed = Arena().scope { arena -> ReplicaNote? in
            guard let message = arena.unpack(flotilla__replica_note__init, note)?.pointee,
                message.format <= ReplicaNote.format, message.has_store != 0, message.fence_index >= 0
            else { return nil }
            var parsed = ReplicaNote(store: message.store)
            if let problem = message.fence {
                parsed.fence = Fence(index: LogIndex(message.fence_index), problem: String(cString: problem))
            }
            return parsed
        }
        guard let parsed else { return nil }
        self = parsed
    }

    func packed(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__replica_note__init)
            message.pointee.format = ReplicaNote.format
            message.pointee.has_store = 1
            message.pointee.store = store
            if let fence {
                message.pointee.fence = arena.string(fence.problem)
                message.pointee.has_fence_index = 1
                message.pointee.fence_index = fence.index.rawValue
            }
            return arena.pack(message)
        }
    }
}

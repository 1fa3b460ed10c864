import CMessages
import RaftCore
import WireMessages

/// The node's own record in the log (group 0): the runs of the peers it heard, the replicas it holds and has held.
struct NodeState: Equatable {
    static let format: UInt32 = 1

    /// The highest run of a peer, and the process that had it.
    struct PeerRun: Equatable {
        var nodeID: UInt64
        var incarnation: UInt64
        var runNumber: UInt64
        var nonce: UInt64
    }

    /// Of a removed replica: none of the group comes to be here again under this idx or a lower one.
    struct Tombstone: Equatable {
        var group: String
        var peer: PeerID
    }

    /// Ascending by node id.
    var peers: [PeerRun] = []
    var replicas: [ReplicaRecord] = []
    /// At most one for each group.
    private(set) var tombstones: [Tombstone] = []
    private(set) var nextNumber: UInt64 = 1

    init() {}

    mutating func takeNumber() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }

    /// None up to `number` is given any more, unless counting would never have got there.
    mutating func skipNumbers(through number: UInt64) {
        if number < 1 << 60 { nextNumber = max(nextNumber, number + 1) }
    }

    /// The replica of `group` with the highest idx that was removed from the node; nil if none ever was.
    func tombstone(of group: String) -> PeerID? { tombstones.first { $0.group == group }?.peer }

    /// Forgets a replica, except that it was here.
    mutating func bury(_ record: ReplicaRecord) {
        replicas.removeAll { $0.number == record.number }
        if let position = tombstones.firstIndex(where: { $0.group == record.group }) {
            if tombstones[position].peer.idx < record.peer.idx { tombstones[position].peer = record.peer }
        } else {
            tombstones.append(Tombstone(group: record.group, peer: record.peer))
        }
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
                if record.has_map_version != 0 {
                    state.replicas[state.replicas.count - 1].mapVersion = record.map_version
                }
                // an earlier version wrote nothing of it, and followed whom it liked
                state.replicas[state.replicas.count - 1].followedForeigners =
                    record.has_followed_foreigners == 0 || record.followed_foreigners != 0
            }
            for position in 0..<message.n_tombstones {
                guard let tombstone = message.tombstones[position]?.pointee,
                    let peer = PeerID(String(field: tombstone.peer))
                else { return nil }
                state.tombstones.append(Tombstone(group: String(field: tombstone.group), peer: peer))
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
                    if let version = replica.mapVersion {
                        record.pointee.has_map_version = 1
                        record.pointee.map_version = version
                    }
                    record.pointee.has_followed_foreigners = 1
                    record.pointee.followed_foreigners = replica.followedForeigners ? 1 : 0
                    return record
                })
            message.pointee.n_tombstones = tombstones.count
            message.pointee.tombstones = arena.array(
                tombstones.map { tombstone -> UnsafeMutablePointer<Flotilla__Tombstone>? in
                    let message = arena.make(flotilla__tombstone__init)
                    message.pointee.group = arena.string(tombstone.group)
                    message.pointee.peer = arena.string(tombstone.peer.description)
                    return message
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

import RaftCore
import RaftHost
import RaftStorage

/// A group of another program, of which the node is to be a member.
public struct GuestGroup: Equatable, Sendable {
    /// Its name.
    public var group: String
    /// The members it begins with, the same list on each of them; without this node in it, or empty, the replica begins
    /// as nobody's member and waits for a leader to take it in.
    public var peers: [PeerID]
    /// The idx of this node's replica, where ``peers`` does not say.
    public var idx: Int32?

    /// A group.
    public init(group: String, peers: [PeerID] = [], idx: Int32? = nil) {
        self.group = group
        self.peers = peers
        self.idx = idx
    }

    /// This node's replica.
    func replica(at address: NodeAddress) -> PeerID {
        let listed = peers.first { $0.address == address && (idx == nil || $0.idx == idx) }
        return listed ?? PeerID(address: address, idx: idx ?? 0)
    }

    /// What its replica on this node is born with.
    func birth(at address: NodeAddress) -> Configuration {
        peers.contains(replica(at: address)) ? Configuration(peers: peers) : .empty
    }
}

extension GuestGroup {
    /// Removes the replica with its log and its snapshot; that it was here is remembered. None there is no error.
    func leave(_ host: RaftHost, _ logger: Logger) throws(NodeError) {
        guard let record = host.records.first(where: { $0.group == group }) else { return }
        guard record.kind == RaftHost.guestKind else {
            throw NodeError("the replica of \(group) is no guest: raftctl removes it (--drop-guest-group)")
        }
        host.remove(group: group, peer: record.peer) { [group] problem in
            guard let problem else { return }
            logger.log(.error, "a guest stays", [("group", group), ("problem", problem)])
        }
    }

    /// Starts the replica, at the first start with it; later ones find it in the log.
    func join(_ host: RaftHost, _ states: GuestStates, at address: NodeAddress, _ logger: Logger) throws(NodeError) {
        let peer = replica(at: address)
        if let record = host.records.first(where: { $0.group == group }) {
            guard record.kind == RaftHost.guestKind else {
                throw NodeError("this node has a replica of \(group) already, which is no guest (--guest-group)")
            }
            guard record.peer == peer else {
                return logger.log(
                    .warning, "the replica that is here stays, though it was asked for another",
                    [("group", group), ("peer", record.peer.description), ("asked", peer.description)])
            }
            return
        }
        let birth = birth(at: address)
        host.create(group: group, peer: peer, birth: birth, kind: RaftHost.guestKind) {
            [group] (number) throws(StateMachineError) in
            try states.open(number, group: group, birth: birth)
        } completion: { [group] problem in
            guard let problem else { return }
            logger.log(.error, "no replica of a guest group", [("group", group), ("problem", problem)])
        }
    }
}

import RaftCore
import Transport

// Who is heard without hello. A braft says none: its requests are judged by the address of the sender they name. What
// answers there is found out by a hello of ours, and holds as long as the connection on which that was said: a node that
// another takes the place of breaks it. A node of this cluster is never heard without hello, so that an old copy of a
// data directory cannot vote by keeping quiet of itself.

/// A connection to somebody who is in no configuration here, such as the leader of a group that has not told us of it yet.
/// Lane-confined.
final class StrangerLink {
    let address: NodeAddress
    let channel: RpcChannel
    /// What was found at the other end; nil while there is no connection.
    var kind: PeerKind?
    /// When a request last named it.
    var usedAt: Instant

    init(address: NodeAddress, channel: RpcChannel, usedAt: Instant) {
        self.address = address
        self.channel = channel
        self.usedAt = usedAt
    }
}

extension RaftHost {
    /// So many addresses out of no configuration are looked at at a time: each costs a connection.
    static let strangersMax = 16
    /// A connection to one is kept so long after it was last named.
    static let strangerPatience = Interval.milliseconds(30_000)
    /// Whoever was named within this time does not make room for another.
    private static let strangerGrace = Interval.milliseconds(2000)
    /// No address is dialled more often because of requests that name it.
    private static let seekPace = Interval.milliseconds(100)

    /// What a hello is refused with that comes from another cluster, or comes to a node that is in none yet.
    static let elsewhere: UInt32 = 17

    /// Whether `replica` hears everybody, as a braft does.
    func hearsStrangers(_ replica: Replica) -> Bool { isOnItsOwn || replica.isGuest }

    /// Judges a request to `replica` on a connection without hello, or with one that counts no more.
    func checkStranger(
        _ sender: PeerID, on connection: any Connection, to replica: Replica
    ) throws(RaftWire.WireError) {
        guard !(connection.context is KnownPeer) else { throw RaftHost.stranger }
        let isMember = replica.raft.configuration.contains(sender)
        if hearsStrangers(replica) {
            // though it cannot be dialled, perhaps: what it is owed must not depend on that
            if isMember, sender != replica.id, linkByNode[sender.address]?.kind == nil,
                mayBeForeign(sender.address), !liveness.isForeign(sender.address)
            {
                now = lane.clock.now
                stepLiveness(.foreign(sender.address))
            }
            return
        }
        // a leader that the group has, but this replica does not know of, waits until one of ours has told it
        guard replica.raft.configuration.isEmpty || isMember else {
            throw RaftWire.WireError(
                code: 1, text: "\(sender) is no member of \(replica.group); a node of this cluster says hello first")
        }
        switch kind(of: sender.address) {
        case .foreign: return
        case .familiar: throw RaftHost.stranger
        case nil:
            throw RaftWire.WireError(
                code: RaftHost.again, text: "who \(sender) is, is not known yet: say hello first, or come again")
        }
    }

    /// What answers at `address` now; nil if that is not known, and then it will be found out.
    private func kind(of address: NodeAddress) -> PeerKind? {
        // one of another cluster must not take part in a group of this one that has the same name
        guard address != identity.address, !nodesElsewhere.contains(address) else { return .familiar }
        now = lane.clock.now
        let stranger = strangers.firstIndex { $0.address == address }
        if let link = linkByNode[address] {
            if let kind = link.kind ?? link.livenessKind {
                if let stranger { forgetStranger(at: stranger) }
                return kind
            }
            seek(link)
        }
        if let stranger {
            strangers[stranger].usedAt = now
            return strangers[stranger].kind
        }
        if linkByNode[address] == nil, address.ip != 0, address.port != 0 { dial(address) }
        return nil
    }

    /// Opens the data connection of `link`, if it is not open, without the pause that follows on failures.
    func seek(_ link: PeerLink) {
        guard !link.data.isConnected, link.soughtAt + RaftHost.seekPace <= now else { return }
        link.soughtAt = now
        link.data.open()
        lane.requestTurn()
    }

    /// The node at `address` shares the cluster after all: whoever was taken for foreign there is met anew.
    func meetAgain(_ address: NodeAddress) {
        guard nodesElsewhere.contains(address), let link = linkByNode[address] else { return }
        link.data.reset(reason: "the node is of this cluster now")
        link.liveness.reset(reason: "the node is of this cluster now")
        lane.requestTurn()
    }

    private func dial(_ address: NodeAddress) {
        if strangers.count >= RaftHost.strangersMax {
            let oldest = strangers.indices.min { strangers[$0].usedAt < strangers[$1].usedAt }!
            guard strangers[oldest].usedAt + RaftHost.strangerGrace <= now else { return }
            forgetStranger(at: oldest)
        }
        let channel = RpcChannel(address: address, network: network, clock: lane.clock)
        let stranger = StrangerLink(address: address, channel: channel, usedAt: now)
        channel.greeting = { [self, weak stranger] channel, done in
            introduce(on: channel, to: address) { kind in
                stranger?.kind = kind
                done(kind != nil)
            }
        }
        channel.onStateChange = { [weak stranger] isConnected in if !isConnected { stranger?.kind = nil } }
        strangers.append(stranger)
        channel.open()
        lane.requestTurn()
    }

    private func forgetStranger(at position: Int) {
        let stranger = strangers.remove(at: position)
        stranger.channel.onStateChange = nil
        stranger.channel.close()
        if linkByNode[stranger.address] == nil { livenessInbox.append(.familiar(stranger.address)) }
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueStrangers() -> Instant? {
        guard !strangers.isEmpty else { return nil }
        for position in strangers.indices.reversed()
        where strangers[position].usedAt + RaftHost.strangerPatience <= now {
            forgetStranger(at: position)
        }
        var next: Instant?
        for stranger in strangers {
            let end = stranger.usedAt + RaftHost.strangerPatience
            let due = min(end, stranger.channel.expire(now: now) ?? end)
            next = min(next ?? due, due)
        }
        return next
    }

    /// Opens a connection to a node of whatever kind: nil if nobody answers who may be spoken to.
    func introduce(on channel: RpcChannel, to node: NodeAddress, _ done: @escaping (PeerKind?) -> Void) {
        sayHello(on: channel, to: node) { [self] outcome in
            guard outcome != .refused, !isOver else { return done(nil) }
            nodesElsewhere.removeAll { $0 == node }
            if outcome == .elsewhere {
                // guests speak braft's protocol with it; nobody else speaks with it
                guard replicasByNode[node]?.contains(where: \.isGuest) == true else { return done(nil) }
                nodesElsewhere.append(node)
            }
            let isForeign = outcome != .welcome
            guard !isForeign || mayBeForeign(node) else {
                logger.log(
                    .warning, "a node of the cluster is not there; what answers at its address is not spoken with",
                    [("node", node.description)])
                return done(nil)
            }
            if isForeign != liveness.isForeign(node) {
                if isForeign { logger.log(.info, "a node speaks braft's services only", [("node", node.description)]) }
                // at once: whatever it says next is judged by that
                now = lane.clock.now
                stepLiveness(isForeign ? .foreign(node) : .familiar(node))
                lane.requestTurn()
            }
            done(isForeign ? .foreign : .familiar)
        }
    }
}

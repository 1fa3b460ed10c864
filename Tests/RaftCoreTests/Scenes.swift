@testable import RaftCore

// Situations that many claims begin with.
extension Stage {
    /// A leader whose entries are all committed, and known to be; everybody else holds them and supports it.
    static func settled(
        terms: [Int64] = [], members: [PeerID] = [a, b, c], learners: [PeerID] = [], neighbours: [PeerID] = [],
        settings: RaftSettings = RaftSettings()
    ) -> Stage {
        var stage = Stage(
            terms: terms, members: members, learners: learners, neighbours: neighbours, settings: settings)
        stage.lead(with: Array(members.filter { $0 != a }.prefix(members.count / 2)))
        let others = stage.raft.peers
        stage.gainSupport(from: others)
        stage.persist()
        stage.catchUp(others)
        return stage
    }

    /// A follower of `leader` in term 3 that rests under its node's promise.
    static func resting(
        under leader: PeerID = b, members: [PeerID] = [a, b, c], settings: RaftSettings = RaftSettings()
    ) -> Stage {
        var stage = Stage(members: members, settings: settings)
        stage.promise(to: leader)
        stage.hear(from: leader, term: 3)
        return stage
    }

    /// These peers acknowledge all that the leader has and has asked, naming their promises unless told not to.
    mutating func catchUp(_ peers: [PeerID], isStamped: Bool = true) {
        // the second and third time what the first one led to
        for _ in 0..<3 {
            for peer in peers {
                guard let round = raft.leadership?.round else { return }
                let base = raft.base.index
                let ticket = AppendTicket(
                    term: raft.term, previous: base, count: base.distance(to: raft.lastIndex), round: round)
                let stamp = isStamped ? liveness.supportStamp(from: peer.address, now: now) : nil
                let reply = AppendReply(
                    ticket: ticket, term: raft.term, success: true, lastIndex: nil, support: stamp)
                receive(.appendReply(reply), from: peer)
            }
        }
    }

    /// Time passes while the nodes of `supporters` renew their promises.
    mutating func wait(milliseconds: Int, supportedBy supporters: [PeerID]) {
        var rest = milliseconds
        while rest > 0 {
            wait(milliseconds: min(rest, 300))
            gainSupport(from: supporters, tells: false)
            rest -= 300
        }
    }

    /// The node of `peer` turns out to know nothing of promises.
    mutating func makeForeign(_ peer: PeerID) {
        var drained = NodeLiveness.Effects()
        liveness.step(.foreign(peer.address), now: now, into: &drained)
        step(.livenessChanged(peer.address))
    }

    /// `sender` offers a snapshot that ends with `last`, and it arrives.
    @discardableResult
    mutating func install(
        last: LogPosition, members: [PeerID] = [a, b, c], from sender: PeerID = b, term: Int64
    ) -> Effects {
        let meta = SnapshotMeta(last: last, configuration: Configuration(peers: members))
        receive(.snapshotRequest(SnapshotRequest(term: Term(term), meta: meta)), from: sender)
        return step(.snapshotReceived(meta))
    }

    var lastPosition: LogPosition { LogPosition(term: raft.lastTerm, index: raft.lastIndex) }
}

extension Effects {
    /// Who is sent a snapshot.
    var snapshots: [PeerID] {
        messages.compactMap {
            if case .snapshot = $0.body { return $0.to }
            return nil
        }
    }
    /// Who is told that a leadership is over.
    var releases: [PeerID] {
        messages.compactMap {
            if case .release = $0.body { return $0.to }
            return nil
        }
    }
}

import RaftCore
import ShardKV
import Transport

/// A comparison of the states of a group's replicas at one entry, on the node of the leader.
///
/// Lane-confined; completions that run on the lane may carry it past a worker.
final class Verification: @unchecked Sendable {
    /// One of the other replicas.
    struct Member {
        var peer: PeerID
        /// It runs another program, whose state means nothing here: it is not asked.
        var isForeign = false
        /// Why nothing is known of it.
        var problem: String?
        /// What stands for its whole state.
        var value: UInt64?
        var difference: Difference?
        var isOver = false
    }

    /// Where a member's state differs from the leader's first.
    struct Difference {
        var start: Bytes
        var end: Bytes
        /// In words, if it came down to a key.
        var place: String?
        var leaderHash: UInt64
        var hash: UInt64
        var leaderKeys: UInt64
        var keys: UInt64

        init(_ leader: RangeDigest, _ member: RangeDigest) {
            (start, end) = (leader.start, leader.end)
            (leaderHash, hash) = (leader.hash, member.hash)
            (leaderKeys, keys) = (leader.keys, member.keys)
        }

        /// For people.
        var words: String {
            place ?? "the keys from \(start) to \(end.isEmpty ? "the end" : "\(end)"): \(leaderKeys) and \(keys)"
        }
    }

    let group: String
    /// Of the entry.
    let number: UInt64
    let index: LogIndex
    let configuration: Configuration
    let leader: PeerID
    let responder: RpcResponder
    let state: FrozenReplica
    /// The leader's, of all keys.
    var ranges: [RangeDigest] = []
    var members: [Member]
    /// Members that have not applied the entry are asked until then.
    let patienceEnds: Instant

    init(
        _ group: String, number: UInt64, at index: LogIndex, of status: (leader: PeerID, configuration: Configuration),
        foreign: [PeerID], state: FrozenReplica, responder: RpcResponder, now: Instant
    ) {
        self.group = group
        self.number = number
        self.index = index
        self.configuration = status.configuration
        self.leader = status.leader
        self.state = state
        self.responder = responder
        members = status.configuration.members
            .filter { $0 != status.leader && $0.role != .witness }
            .map { peer in
                let isForeign = foreign.contains(peer)
                return Member(peer: peer, isForeign: isForeign, isOver: isForeign)
            }
        patienceEnds = now + .milliseconds(10_000)
    }

    /// What stands for a state of which these are the digests.
    static func value(of digests: [RangeDigest]) -> UInt64 {
        var hash = RollingHash()
        for digest in digests {
            hash.combine(digest.keys)
            hash.combine(digest.hash)
        }
        return hash.value
    }

    /// What came of it, once all members are over.
    var outcome: AppliedComparison {
        let others = members.compactMap { member in member.value.map { (peer: member.peer, value: $0) } }
        return AppliedComparison([(leader, Verification.value(of: ranges))] + others, in: configuration)
    }
}

import CMessages
import RaftCore
import WireMessages

// The messages by which replicas are compared: `compare_applied` of `flotilla.GroupService`.

extension RaftWire {
    /// Asks the replica `to` for its hashes at these entries.
    func appliedQuestion(
        _ group: String, to peer: PeerID, _ indexes: [LogIndex], _ arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__AppliedQuestion> {
        let asked = arena.make(flotilla__applied_question__init)
        asked.pointee.group_id = arena.string(group)
        asked.pointee.to = arena.string(peer.description)
        asked.pointee.version = UInt32(RollingHash.version)
        asked.pointee.n_indexes = indexes.count
        asked.pointee.indexes = arena.array(indexes.map(\.rawValue))
        return asked
    }

    /// What is known of each of `count` questions, by entry; nil if it does not parse.
    func appliedAnswers(_ body: Bytes, count: Int) -> [[LogIndex: UInt64]]? {
        arena.scope { arena in
            guard let reply = arena.unpack(flotilla__compare_applied_reply__init, body)?.pointee,
                reply.n_groups == count
            else { return nil }
            return (0..<count).map { reply.groups[$0].map { RaftWire.appliedMarks($0.pointee) } ?? [:] }
        }
    }

    private static func appliedMarks(_ answer: Flotilla__AppliedAnswer) -> [LogIndex: UInt64] {
        var known: [LogIndex: UInt64] = [:]
        for position in 0..<answer.n_marks {
            guard let mark = answer.marks[position]?.pointee else { continue }
            known[LogIndex(mark.index)] = mark.hash
        }
        return known
    }
}

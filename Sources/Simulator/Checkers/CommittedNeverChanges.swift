public import RaftCore

/// State machine safety (§5.4.3), seen in the logs: an entry that anybody knows to be committed is the same for all,
/// for ever, and nobody who holds it in the term in which it was committed, or later, drops it. (The leader of an
/// earlier term may still have it dropped by one who did not count for it.)
public struct CommittedNeverChanges: Sendable {
    /// By group, what is known to be committed: what stands for the log, index by index, who said so first, and in
    /// which term.
    private var committed: [String: [(chain: UInt64, node: Int, term: Term)]] = [:]

    /// Nothing is committed yet.
    public init() {}

    /// How far a group is known to be committed.
    public func lastCommitted(of group: String) -> LogIndex { LogIndex(Int64(committed[group]?.count ?? 0)) }

    /// The replica, which is in `term`, now knows that `range` of its log is committed.
    public mutating func committed(
        _ replica: ReplicaName, _ range: ClosedRange<LogIndex>, in term: Term, _ log: LogChain
    ) -> Violation? {
        var index = range.lowerBound
        while index <= range.upperBound {
            guard let chain = log.chain(at: index) else {
                return Violation(
                    "CommittedNeverChanges", group: replica.group, index: index, nodes: [replica.node],
                    "committed beyond the end of the log")
            }
            let position = Int(index.rawValue) - 1
            let count = committed[replica.group]?.count ?? 0
            if position < count, let known = committed[replica.group]?[position], known.chain != chain {
                return Violation(
                    "CommittedNeverChanges", group: replica.group, index: index, nodes: [known.node, replica.node],
                    "another entry was committed there before")
            }
            // a replica restarts with everything applied as committed; what lies between was committed by others
            if position == count { committed[replica.group, default: []].append((chain, replica.node, term)) }
            index = index.next
        }
        return nil
    }

    /// The replica, which is in `term`, is about to drop everything from `index` on of this log.
    public func truncates(
        _ replica: ReplicaName, from index: LogIndex, in term: Term, of log: LogChain
    ) -> Violation? {
        guard let known = committed[replica.group], index > .zero, Int(index.rawValue) <= known.count,
            known[Int(index.rawValue) - 1].term <= term,
            known[Int(index.rawValue) - 1].chain == log.chain(at: index)
        else { return nil }
        return Violation(
            "CommittedNeverChanges", group: replica.group, index: index, nodes: [replica.node],
            "drops an entry that is committed")
    }
}

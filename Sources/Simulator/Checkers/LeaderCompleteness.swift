public import RaftCore

/// Leader completeness (§5.4): what was committed in a term is in the log of the leader of every later one. And the rule
/// it hangs on: a leader commits by counting an entry of its own term (§5.4.2).
public struct LeaderCompleteness: Sendable {
    private struct Group {
        /// The last entry known committed, and what stands for the log up to it.
        var committed = LogIndex.zero
        var chain: UInt64 = 0
        /// Term of the leader that committed it.
        var committer = Term.zero
        /// The leader of the highest term so far.
        var leader: Int?
        var term = Term.zero
    }

    private var groups: [String: Group] = [:]

    /// Nothing is committed yet.
    public init() {}

    /// A replica with this log has become leader in `term`.
    public mutating func elected(_ replica: ReplicaName, in term: Term, _ log: LogChain) -> Violation? {
        var group = groups[replica.group] ?? Group()
        if term > group.term { (group.leader, group.term) = (replica.node, term) }
        groups[replica.group] = group
        guard term > group.committer, log.chain(at: group.committed) != group.chain else { return nil }
        return Violation(
            "LeaderCompleteness", group: replica.group, index: group.committed, nodes: [replica.node],
            "leads in term \(term) without what was committed in term \(group.committer); its log ends at \(log.last)")
    }

    /// A leader of `term` with this log has committed everything through `index`. `logOf` gives another node's log.
    public mutating func committed(
        _ replica: ReplicaName, through index: LogIndex, in term: Term, _ log: LogChain, logOf: (Int) -> LogChain?
    ) -> Violation? {
        if let entry = log[index], entry.term != term {
            return Violation(
                "LeaderCompleteness", group: replica.group, index: index, nodes: [replica.node],
                "the leader of term \(term) commits by counting an entry of term \(entry.term) (§5.4.2)")
        }
        var group = groups[replica.group] ?? Group()
        defer { groups[replica.group] = group }
        guard index > group.committed, let chain = log.chain(at: index) else { return nil }
        (group.committed, group.chain, group.committer) = (index, chain, max(group.committer, term))
        // whoever was elected meanwhile in a later term must have had it
        guard group.term > term, let later = group.leader, let other = logOf(later) else { return nil }
        guard other.chain(at: index) != chain else { return nil }
        return Violation(
            "LeaderCompleteness", group: replica.group, index: index, nodes: [replica.node, later],
            "committed in term \(term), and the leader of term \(group.term) does not have it")
    }
}

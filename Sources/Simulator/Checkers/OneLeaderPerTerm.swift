public import RaftCore

/// Election safety (Raft paper §5.2): at most one leader in a term of a group.
public struct OneLeaderPerTerm: Sendable {
    private struct Reign: Hashable {
        var group: String
        var term: Term
    }

    private var leaders: [Reign: Int] = [:]

    /// Nobody has led yet.
    public init() {}

    /// A replica leads in `term`.
    public mutating func leads(_ replica: ReplicaName, in term: Term) -> Violation? {
        let known = leaders.updateValue(replica.node, forKey: Reign(group: replica.group, term: term))
        guard let known, known != replica.node else { return nil }
        return Violation(
            "OneLeaderPerTerm", group: replica.group, nodes: [known, replica.node], "both have led in term \(term)")
    }
}

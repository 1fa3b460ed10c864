public import RaftCore

/// Linearizable reads (dissertation §6.4), by index: a read sees whatever anybody had applied when it was asked for.
public struct ReadsAreFresh: Sendable {
    /// Nothing has been read yet.
    public init() {}

    /// A read of `replica`, asked for when `floor` was the last index that anybody had applied, saw the state at `index`.
    public func read(_ replica: ReplicaName, from floor: LogIndex, saw index: LogIndex) -> Violation? {
        guard index < floor else { return nil }
        return Violation(
            "ReadsAreFresh", group: replica.group, index: index, nodes: [replica.node],
            "a stale read: \(floor) had been applied when it was asked for")
    }
}

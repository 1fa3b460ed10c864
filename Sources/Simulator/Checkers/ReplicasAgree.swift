public import RaftCore

/// What the hosts themselves find when they compare their replicas. State machines are deterministic and engines keep
/// what they are given: whoever is fenced either has a bug or was accused by one.
public struct ReplicasAgree: Sendable {
    /// Nobody has been fenced yet.
    public init() {}

    /// A replica was put out of service for what it had behind the entry at `index`.
    public func fenced(_ replica: ReplicaName, at index: LogIndex) -> Violation {
        Violation(
            "ReplicasAgree", group: replica.group, index: index, nodes: [replica.node],
            "its state was found to differ from a majority's")
    }
}

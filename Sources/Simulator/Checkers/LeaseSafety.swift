public import RaftCore

/// Lease reads (dissertation §6.4.1): at any moment at most one node believes to hold a read lease for a group, and no
/// leader of a later term commits anything while it does.
public struct LeaseSafety: Sendable {
    /// A node that would answer a read from its own state now.
    public struct Believer: Equatable, Sendable {
        /// The node's number.
        public var node: Int
        /// The term it leads in.
        public var term: Term
        /// A believer.
        public init(node: Int, term: Term) {
            self.node = node
            self.term = term
        }
    }

    /// Nobody holds a lease.
    public init() {}

    /// These nodes believe, at one moment, to hold the lease of `group`.
    public func believed(_ group: String, _ believers: [Believer]) -> Violation? {
        guard believers.count > 1 else { return nil }
        return Violation(
            "LeaseSafety", group: group, nodes: believers.map(\.node),
            "hold the lease at once, in the terms " + believers.map { "\($0.term)" }.joined(separator: ", "))
    }

    /// The leader of `term` on `node` commits something while these hold the lease.
    public func commits(_ group: String, by node: Int, in term: Term, _ believers: [Believer]) -> Violation? {
        guard let stale = believers.first(where: { $0.term < term }) else { return nil }
        return Violation(
            "LeaseSafety", group: group, nodes: [stale.node, node],
            "commits in term \(term) while the leader of term \(stale.term) holds the lease")
    }
}

public import RaftCore
public import ShardMap

extension Scheduler {
    /// Something to be done, and why, in words for the operator.
    public enum Decision: Equatable, Sendable {
        /// An operation to be recorded at the controller; what that fixes is left out.
        case begin(ClusterOperation.Kind, reason: String)
        /// A leadership to be handed over to a voter of the group.
        case transfer(group: String, to: PeerID, reason: String)

        /// Why.
        public var reason: String {
            switch self {
            case .begin(_, let reason), .transfer(_, _, let reason): reason
            }
        }
    }

    /// Something that should be done and cannot be.
    public struct Blocked: Equatable, Sendable {
        /// The node that should lose its replica.
        public var node: UInt64
        /// The group whose replica it is.
        public var group: String
        /// What is in the way.
        public var reason: String
    }
}

extension Scheduler.Decision: CustomStringConvertible {
    /// What is done and why, on one line.
    public var description: String {
        switch self {
        case .begin(let kind, let reason): "\(kind) (\(reason))"
        case .transfer(let group, let peer, let reason): "transfer \(group) to \(peer) (\(reason))"
        }
    }
}

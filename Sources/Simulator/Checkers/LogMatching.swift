public import RaftCore

/// Log matching (§5.3): two logs of a group that hold an entry of the same index and term agree up to there.
public struct LogMatching: Sendable {
    private struct Place: Hashable {
        var group: String
        var position: LogPosition
    }

    private struct Known {
        var chain: UInt64
        var node: Int
    }

    private var known: [Place: Known] = [:]

    /// No log has been seen yet.
    public init() {}

    /// The replica's log has grown: it is new from `first` on.
    public mutating func grew(_ replica: ReplicaName, _ log: LogChain, from first: LogIndex) -> Violation? {
        var index = first
        while let link = log[index] {
            let place = Place(group: replica.group, position: LogPosition(term: link.term, index: index))
            if let other = known[place] {
                guard other.chain == link.chain else {
                    return Violation(
                        "LogMatching", group: replica.group, index: index, nodes: [other.node, replica.node],
                        "both hold an entry of term \(link.term) there, and differ there or before")
                }
            } else {
                known[place] = Known(chain: link.chain, node: replica.node)
            }
            index = index.next
        }
        return nil
    }
}

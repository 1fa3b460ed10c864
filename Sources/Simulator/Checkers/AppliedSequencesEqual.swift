public import RaftCore

/// State machine safety, seen at the state machines: whoever applies an index applies the same entry there as everybody
/// else, after the same entries, and gets the same reply.
public struct AppliedSequencesEqual: Sendable {
    private struct Applied {
        var term: Term
        var entry: UInt64
        var reply: UInt64
        var node: Int
    }

    private var sequences: [String: [Applied]] = [:]
    private var positions: [ReplicaName: LogIndex] = [:]

    /// Nothing has been applied yet.
    public init() {}

    /// The highest index that anybody has applied.
    public func lastApplied(of group: String) -> LogIndex { LogIndex(Int64(sequences[group]?.count ?? 0)) }

    /// The last index that this replica has applied; nil if its state machine never started.
    public func lastApplied(by replica: ReplicaName) -> LogIndex? { positions[replica] }

    /// A state machine starts with everything through `index`, as its store has it.
    public mutating func starts(_ replica: ReplicaName, at index: LogIndex) -> Violation? {
        positions[replica] = index
        guard index > lastApplied(of: replica.group) else { return nil }
        return Violation(
            "AppliedSequencesEqual", group: replica.group, index: index, nodes: [replica.node],
            "starts with entries that nobody has applied")
    }

    /// The replica is no more.
    public mutating func removed(_ replica: ReplicaName) { positions[replica] = nil }

    /// A state machine has applied an entry. `reply` is nil for one that it had applied in an earlier life.
    public mutating func applied(
        _ replica: ReplicaName, _ position: LogPosition, entry: UInt64, reply: UInt64
    ) -> Violation? {
        let index = position.index
        let before = positions.updateValue(index, forKey: replica) ?? .zero
        guard index == before.next else {
            return Violation(
                "AppliedSequencesEqual", group: replica.group, index: index, nodes: [replica.node],
                "applied after \(before)")
        }
        let count = sequences[replica.group]?.count ?? 0
        let place = Int(index.rawValue) - 1
        guard place < count, let known = sequences[replica.group]?[place] else {
            sequences[replica.group, default: []].append(
                Applied(term: position.term, entry: entry, reply: reply, node: replica.node))
            return nil
        }
        guard known.term != position.term || known.entry != entry || known.reply != reply else { return nil }
        return Violation(
            "AppliedSequencesEqual", group: replica.group, index: index, nodes: [known.node, replica.node],
            known.entry == entry && known.term == position.term
                ? "the same entry gave another reply" : "another entry was applied there")
    }
}

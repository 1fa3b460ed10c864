/// What a comparison of a group's replicas at one entry comes to. Whoever compares collects one value of each replica
/// that answers: of what it applied, or of its state.
public enum AppliedComparison: Equatable, Sendable {
    /// All that answered have the same.
    case equal
    /// A majority of the voters has the same as `standard`, one of them; these have something else.
    case divergent([PeerID], standard: PeerID)
    /// They differ, and no value has a majority: nobody can tell who is wrong. Those that differ from the first one.
    case undecided([PeerID])

    /// Judges `values` of members of `configuration`, each member at most once. Learners count for no majority; a
    /// witness has no state and so no value.
    public init(_ values: [(peer: PeerID, value: UInt64)], in configuration: Configuration) {
        guard let first = values.first, values.contains(where: { $0.value != first.value }) else {
            self = .equal
            return
        }
        for candidate in values {
            let holdsIt = configuration.hasMajority { peer in
                values.contains { $0.peer == peer && $0.value == candidate.value }
            }
            guard holdsIt else { continue }
            self = .divergent(
                values.compactMap { $0.value == candidate.value ? nil : $0.peer }, standard: candidate.peer)
            return
        }
        self = .undecided(values.compactMap { $0.value == first.value ? nil : $0.peer })
    }
}

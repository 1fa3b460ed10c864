public import RaftCore

/// Figure 2's persistent state: a replica's term never goes back and its vote in a term never changes, in one life or
/// over a restart, as far as it was durable.
public struct HardStateNeverGoesBack: Sendable {
    private var latest: [ReplicaName: HardState] = [:]
    private var durable: [ReplicaName: HardState] = [:]

    /// Nobody has voted yet.
    public init() {}

    /// The durable state of a replica.
    public func durableState(of replica: ReplicaName) -> HardState { durable[replica] ?? .initial }

    /// The replica has this state now, perhaps not durable yet.
    public mutating func changed(_ replica: ReplicaName, to state: HardState) -> Violation? {
        violation(replica, from: latest.updateValue(state, forKey: replica) ?? .initial, to: state, "in one life")
    }

    /// The state has become durable.
    public mutating func persisted(_ replica: ReplicaName, _ state: HardState) { durable[replica] = state }

    /// The replica was started and found this state.
    public mutating func restarted(_ replica: ReplicaName, with state: HardState) -> Violation? {
        latest[replica] = state
        let before = durable.updateValue(state, forKey: replica) ?? .initial
        return violation(replica, from: before, to: state, "over a restart")
    }

    /// The replica is no more.
    public mutating func removed(_ replica: ReplicaName) { (latest[replica], durable[replica]) = (nil, nil) }

    private func violation(
        _ replica: ReplicaName, from old: HardState, to new: HardState, _ when: String
    ) -> Violation? {
        func text(_ state: HardState) -> String { "term \(state.term), vote \(state.vote?.description ?? "none")" }
        if new.term > old.term || new == old { return nil }
        if new.term == old.term && old.vote == nil { return nil }
        return Violation(
            "HardStateNeverGoesBack", group: replica.group, nodes: [replica.node],
            "from \(text(old)) to \(text(new)) \(when)")
    }
}

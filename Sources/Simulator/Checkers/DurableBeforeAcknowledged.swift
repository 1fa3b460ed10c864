public import RaftCore

/// Nothing is said before it is durable: entries are acknowledged, votes are granted and a leader leads only when the
/// disk would still say so if it lost its unsynced bytes now; and nothing is committed before a majority, both while
/// joint, holds it so.
public struct DurableBeforeAcknowledged: Sendable {
    /// Nothing has been said yet.
    public init() {}

    /// The replica says that its log is that of `term`'s leader up to `index`.
    ///
    /// - Parameters:
    ///   - chain: stands for the log up to there, as the replica saw it when it decided to say so.
    ///   - durable: as its disk holds it.
    public func acknowledges(
        _ replica: ReplicaName, through index: LogIndex, chain: UInt64?, durable: LogChain
    ) -> Violation? {
        guard durable.chain(at: index) == nil || durable.chain(at: index) != chain else { return nil }
        return Violation(
            "DurableBeforeAcknowledged", group: replica.group, index: index, nodes: [replica.node],
            "acknowledged, and the disk holds the log up to \(durable.last) only")
    }

    /// The replica says who has its vote (or that it leads, with its own).
    public func votes(_ replica: ReplicaName, in term: Term, durable: HardState) -> Violation? {
        // a later vote may be durable already: then this one was
        guard durable.term < term || (durable.term == term && durable.vote == nil) else { return nil }
        return Violation(
            "DurableBeforeAcknowledged", group: replica.group, nodes: [replica.node],
            "votes in term \(term), and the disk knows term \(durable.term) "
                + "with the vote \(durable.vote?.description ?? "none")")
    }

    /// The replica applies an entry, which its own disk must hold: after a restart the log may not be behind the store.
    public func applies(_ replica: ReplicaName, _ position: LogPosition, durable: LogChain) -> Violation? {
        guard durable[position.index]?.term != position.term else { return nil }
        return Violation(
            "DurableBeforeAcknowledged", group: replica.group, index: position.index, nodes: [replica.node],
            "applied, and the disk holds the log up to \(durable.last) only, or another entry there")
    }

    /// A leader counts everything through `index` of its log as committed. `durableLogs` gives what a member's disk
    /// holds, and what it held before a part was lost to damage: whoever acknowledged that votes as if it had it still.
    public func commits(
        _ replica: ReplicaName, through index: LogIndex, _ log: LogChain, _ configuration: Configuration,
        durableLogs: (PeerID) -> [LogChain]
    ) -> Violation? {
        let chain = log.chain(at: index)
        for voters in [configuration.peers, configuration.oldPeers] where !voters.isEmpty {
            let holders = voters.count { durableLogs($0).contains { $0.chain(at: index) == chain } }
            guard holders * 2 <= voters.count else { continue }
            return Violation(
                "DurableBeforeAcknowledged", group: replica.group, index: index, nodes: [replica.node],
                "committed, and durable on \(holders) of \(voters.count) voters")
        }
        return nil
    }

    /// A replica's disk, read back as a restart would, holds this log's end and hard state; `log` and `state` are what
    /// it must hold at least.
    public func holds(
        _ replica: ReplicaName, last: LogPosition, termAt: (LogIndex) -> Term?, _ found: HardState,
        log: LogChain, state: HardState
    ) -> Violation? {
        if found.term < state.term || (found.term == state.term && state.vote != nil && found.vote != state.vote) {
            return Violation(
                "DurableBeforeAcknowledged", group: replica.group, nodes: [replica.node],
                "the disk holds term \(found.term), term \(state.term) was reported durable")
        }
        guard last.index < log.lastIndex || termAt(log.lastIndex) != log[log.lastIndex]?.term,
            log.lastIndex > .zero
        else { return nil }
        return Violation(
            "DurableBeforeAcknowledged", group: replica.group, index: log.lastIndex, nodes: [replica.node],
            "the disk holds the log up to \(last), \(log.last) was reported durable")
    }
}

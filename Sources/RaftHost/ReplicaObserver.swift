public import RaftCore
public import RaftStorage

/// Sees what the replicas of a host decide, write, say and apply. For simulations, which judge it: an observer changes
/// nothing and calls nothing of the host.
public protocol ReplicaObserver: AnyObject, Sendable {
    /// On the lane, after a step of a core. `write` is what the log has been given to write because of it; it is durable
    /// when the replica's next ``RaftCore/Event/persisted(_:)`` that answers none of its earlier writes is stepped.
    func stepped(_ group: String, _ event: Event, _ raft: Raft, _ effects: Effects, _ write: LogWrite?)

    /// On the lane: an answer that had to wait for the disk is about to leave.
    func acknowledged(_ group: String, _ message: Message)

    /// On the lane: the hard state is durable, ahead of what was written before it and waits for room. Earlier ones that
    /// wait are not written any more.
    func promised(_ group: String, _ state: HardState)

    /// On the state machines' worker: `entries` have been applied, with these replies.
    func applied(_ group: String, _ entries: [CommittedEntry], _ replies: [Bytes])

    /// On the lane: a part of the log cannot be read, and the core is made anew with what is left. Its
    /// ``RaftCore/Event/started`` follows, with the write that cuts the log.
    func cut(_ group: String)

    /// On the lane, and behind everything applied to the state before: an installed snapshot has taken its place, with
    /// everything up to `position`.
    func switched(_ group: String, to position: LogPosition)

    /// On the lane: the state was found to differ from what a majority has behind the entry at `index`, and is out of
    /// service.
    func fenced(_ group: String, at index: LogIndex)

    /// On the lane: the replica takes part in nothing any more; its log and its state go. If another one of the group
    /// is created here, it begins with neither.
    func removed(_ group: String)
}

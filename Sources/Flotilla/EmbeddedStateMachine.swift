public import RaftCore

/// What a group of an ``EmbeddedNode`` replicates, and who keeps its state.
public enum EmbeddedStateMachine: Sendable {
    /// It lives in memory, and the node keeps its state: saves it now and then, restores it at every start, sends it to
    /// nodes that were away for long, and compacts the log. The closure makes one without any state, on any thread; it is
    /// called at every start, when one has failed, and when a state comes from another node.
    case volatile(@Sendable () -> any VolatileStateMachine)
    /// It keeps its state by itself, and says by its applied position what it has; by zero, that it wants its whole log
    /// again. Its log is compacted only if it is a `SnapshotStateMachine`, and it takes no state from another node: so a
    /// leader keeps the log for members that are away, until the log is near its bound. A member that is away for longer
    /// than that does not catch up, and its `state(of:)` says so.
    case selfKept(any StateMachine)
}

public import RaftCore

/// A replica's state in the engine as it was at one entry: what the state machines of this module freeze. Any thread,
/// several at a time.
public final class FrozenReplica: FrozenState {
    /// The last applied entry, and the membership in force there.
    public let meta: SnapshotMeta
    let view: any EngineView
    let replicaNumber: UInt64

    init(meta: SnapshotMeta, view: any EngineView, replicaNumber: UInt64) {
        self.meta = meta
        self.view = view
        self.replicaNumber = replicaNumber
    }

    /// What exports the replica's keys as those of `number`.
    public func writer(
        to folder: any SnapshotFolder, as number: UInt64
    ) throws(StateMachineError) -> any SnapshotWriter {
        try view.export(replicaNumber, as: number, into: folder)
    }
}

/// Gets a state that an entry asked to hold, with the number that the entry gives it; or why it cannot be held.
public typealias HeldStateReceiver = @Sendable (_ number: UInt64, Result<FrozenReplica, StateMachineError>) -> Void

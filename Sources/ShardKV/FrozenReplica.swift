import RaftCore

/// A replica's state in the engine as it was at one entry.
final class FrozenReplica: FrozenState {
    let meta: SnapshotMeta
    let view: any EngineView
    private let replicaNumber: UInt64

    init(meta: SnapshotMeta, view: any EngineView, replicaNumber: UInt64) {
        self.meta = meta
        self.view = view
        self.replicaNumber = replicaNumber
    }

    func write(to folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        try view.export(replicaNumber, as: number, into: folder)
    }
}

public import RaftCore

extension KeyValueEngine {
    /// Takes in `folder` as `number` and opens the state machine on it. Throws, and leaves nothing under the number, if
    /// the files are not whole, do not open, or hold another state than that of `meta`. Any worker; as long as it takes
    /// to read the files.
    public func install(
        _ folder: any SnapshotFolder, as number: UInt64, expecting meta: SnapshotMeta,
        opening open: () throws(StateMachineError) -> any SnapshotStateMachine
    ) throws(StateMachineError) -> any SnapshotStateMachine {
        try ingest(folder, as: number)
        do throws(StateMachineError) {
            let machine = try open()
            let found = try machine.durableMeta()
            guard found == meta else {
                throw StateMachineError(
                    "the snapshot was announced as the state of entry \(meta.last) and holds that of "
                        + "\(found?.last ?? .zero), or other members")
            }
            return machine
        } catch {
            try drop(number)
            throw error
        }
    }
}

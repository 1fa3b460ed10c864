/// Where a node's state machines keep their state, each under a number that is never used again on this node.
///
/// Any thread, but one at a time for one number.
public protocol StateMachineStore: Sendable {
    /// Whether ``install(_:as:group:kind:expecting:)`` can take a state of `group` at all, whatever is in it: false for a
    /// state machine of `kind` that keeps its state by itself and takes none from another node. The answer is the same
    /// for as long as the store lives, and on every node that runs the same program.
    ///
    /// What cannot be taken is never fetched: an offer is refused before anything is downloaded. A leader keeps the log
    /// for members of such a group instead, however far they lag, until the log as a whole is near its bound.
    func takes(_ group: String, kind: String) -> Bool

    /// Whether ``install(_:as:group:kind:expecting:)`` can also take the files of a braft's snapshot, which lie in the folder
    /// as ``BraftSnapshot`` says. False unless a store says otherwise; what ``takes(_:kind:)`` refuses is refused here too.
    func takesBraftFiles(_ group: String, kind: String) -> Bool

    /// Takes in what a ``FrozenState`` wrote into `folder` for `number`, durably, and opens a state machine of `kind` on
    /// it. Throws, and leaves nothing under `number`, if the files are damaged, of a newer format, or hold another
    /// state than that of `meta`.
    ///
    /// After a crash in between, all of the state is there or none; ``numbers()`` tells. The files in `folder` may be
    /// gone or changed afterwards.
    func install(
        _ folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> any SnapshotStateMachine

    /// What does the same as ``install(_:as:group:kind:expecting:)`` in steps, for a store that has much to write then; nil,
    /// unless a store says otherwise: it is done at once. Nothing is done yet.
    func installer(
        of folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> (any SnapshotInstaller)?

    /// Removes everything under `number`, which nobody uses any more. Not durable before the store's next flush: after a
    /// crash some of it may be back, and has to be dropped again.
    func drop(_ number: UInt64) throws(StateMachineError)

    /// The numbers under which there is anything, ascending.
    func numbers() throws(StateMachineError) -> [UInt64]

    /// Makes everything written so far durable, of all numbers at once; waits for the disk.
    func flush() throws(StateMachineError)
}

extension StateMachineStore {
    /// False: a state is what our own nodes wrote.
    public func takesBraftFiles(_ group: String, kind: String) -> Bool { false }

    /// Nil: it is done at once.
    public func installer(
        of folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> (any SnapshotInstaller)? { nil }
}

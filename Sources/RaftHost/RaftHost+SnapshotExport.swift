import RaftCore
import RaftStorage
import Transport

/// Writes the files of a snapshot in steps: what waits for the same worker, flushes of the store above all, gets its turn
/// between two of them. On the worker; the lane decides when.
final class SnapshotExport: @unchecked Sendable {
    enum Progress {
        /// So many bytes of the state were written in this step.
        case wrote(Int)
        /// Everything is there.
        case done(StoredFolder, [StoredFolder.File])
    }

    private let frozen: any FrozenState
    private let number: UInt64
    private let store: SnapshotStore
    private let folderName: String
    private var writer: (any SnapshotWriter)?
    private var folder: StoredFolder?
    /// Of the complete files; nil while they are being written.
    private var inventory: FolderInventory?

    init(of frozen: any FrozenState, as number: UInt64, in store: SnapshotStore, folderName: String) {
        self.frozen = frozen
        self.number = number
        self.store = store
        self.folderName = folderName
    }

    /// Does one step, of about `bytes`; not to be called after the last.
    func advance(about bytes: Int) throws(StateMachineError) -> Progress {
        guard let folder else {
            folder = try store.makeFolder(folderName)
            return .wrote(0)
        }
        guard inventory != nil else {
            let writer = try begunWriter(folder)
            let step = try writer.write(about: bytes)
            if step.isLast { inventory = try FolderInventory(of: folder) }
            return .wrote(step.bytes)
        }
        // only of files that the folder did not see written there is anything to read
        let isDone = try inventory?.advance(about: RaftHost.checkedBytes) ?? true
        return isDone ? .done(folder, inventory?.files ?? []) : .wrote(0)
    }

    private func begunWriter(_ folder: StoredFolder) throws(StateMachineError) -> any SnapshotWriter {
        if let writer { return writer }
        let begun = try frozen.writer(to: folder, as: number)
        writer = begun
        return begun
    }
}

/// A step that waits for the budget.
struct SnapshotExportStep {
    var due: Instant
    var snapshot: OutgoingSnapshot
    var export: SnapshotExport
}

extension RaftHost {
    /// What is read at a time of files that are checked as a whole.
    static let checkedBytes = 2 << 20

    /// Begins to write the files that were asked for.
    func write(_ frozen: any FrozenState, of snapshot: OutgoingSnapshot, as number: UInt64) {
        let export = SnapshotExport(of: frozen, as: number, in: snapshots, folderName: snapshot.folderName)
        schedule(export, of: snapshot, after: 0)
    }

    /// What a step has written is paid for before the next one, out of the budget for sending: a device that serves others
    /// is read from and written to no faster than snapshots may leave.
    private func schedule(_ export: SnapshotExport, of snapshot: OutgoingSnapshot, after bytes: Int) {
        let due = snapshotBudget.take(bytes, now: now)
        sending.exports.append(SnapshotExportStep(due: due, snapshot: snapshot, export: export))
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueExports() -> Instant? {
        while let step = sending.exports.first, step.due <= now {
            _ = sending.exports.popFirst()
            if !step.snapshot.isDropped { advance(step.export, of: step.snapshot) }
        }
        return sending.exports.first?.due
    }

    private func advance(_ export: SnapshotExport, of snapshot: OutgoingSnapshot) {
        let bytes = settings.snapshotChunkBytes
        let result = Box<Result<SnapshotExport.Progress, StateMachineError>?>(nil)
        workers.maintenance.submit {
            do throws(StateMachineError) { result.value = .success(try export.advance(about: bytes)) } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            // a braft waits for its files, and the log for it
            if snapshot.exhibit == nil { snapshot.usedAt = now } else { noteUse(of: snapshot) }
            // dropped: its folder goes behind this
            guard case .writing(let waiting) = snapshot.phase, !snapshot.isDropped, !isOver else { return }
            switch result.value {
            case .success(.wrote(let bytes))?: schedule(export, of: snapshot, after: bytes)
            case .success(.done(let folder, let files))?:
                snapshot.phase = .ready(folder, files)
                for responder in waiting { answerOpen(responder, files) }
                if let exhibit = snapshot.exhibit { list(files, in: folder, of: snapshot, exhibit) }
            case .failure(let error)?:
                if snapshot.exhibit != nil { isUnanswered(snapshot.peer, snapshot.replica) }
                logger.log(
                    .warning, "a snapshot cannot be written",
                    [("group", snapshot.replica.group), ("problem", error.description)])
                drop(snapshot)
                // there may have been no room for it, and then the state is as sound as it was
                if error.isDamage {
                    // a guest has nothing else than what it sends
                    if snapshot.replica.isGuest {
                        wantState(of: snapshot.replica, error.description)
                    } else {
                        couldNotRead(snapshot.replica.group, error)
                    }
                }
            case nil: preconditionFailure("the worker has been there")
            }
            lane.requestTurn()
        }
    }
}

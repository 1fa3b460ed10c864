import RaftCore
import RaftStorage
import Transport

// State machines that live in memory are saved one after the other, on every replica by its own count of what it
// applied (SaveSchedule):
//
// 1. apply: a picture of the state is made, between two jobs; that is all that applying waits for
// 2. maintenance: it is written, a part at a time, as the budget for snapshots allows; other work goes in between
// 3. maintenance: it is synced and renamed: from then on it is what a restart begins with
// 4. lane: up to there the log may be compacted, when it has grown enough for that

/// What a host saves of volatile states.
struct StateSaving {
    /// Replicas whose time has come, in that order.
    var waiting: [Replica] = []
    var current: SaveUnderWay?
    /// Nothing is begun before: the disk refused the last one.
    var pausedUntil = Instant.distantPast
}

/// A state being saved. Lane-confined, but for ``StateSave``.
final class SaveUnderWay: @unchecked Sendable {
    let replica: Replica
    /// Of the replica's state when it was frozen.
    let generation: Int
    /// Nil until it is frozen.
    var save: StateSave?
    var isAtWorker = true
    /// When the next part may be written.
    var due = Instant.distantPast

    init(_ replica: Replica) {
        self.replica = replica
        generation = replica.generation
    }
}

extension RaftHost {
    /// What is written at a time; other work waits for the worker no longer than that takes.
    private static let partBytes = 1 << 20
    private static let pauseAfterFailedSave = Interval.milliseconds(5000)

    /// The replica has applied entries with `bytes` of payload.
    func noteApplied(_ bytes: Int, by replica: Replica) {
        if replica.saves?.isDue(applied: replica.applied, bytes: bytes) == true { requestSave(of: replica) }
    }

    /// Has a volatile state saved in its turn, if it has anything that is not.
    func requestSave(of replica: Replica) {
        guard let saves = replica.saves, !replica.isSaving, saves.saved < replica.applied else { return }
        replica.isSaving = true
        saving.waiting.append(replica)
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueSaving() -> Instant? {
        guard stopping == nil else { return nil }
        guard let current = saving.current else {
            guard !saving.waiting.isEmpty else { return nil }
            guard saving.pausedUntil <= now else { return saving.pausedUntil }
            freeze(saving.waiting.removeFirst())
            return nil
        }
        guard !current.isAtWorker, let save = current.save else { return nil }
        guard current.due <= now else { return current.due }
        write(save, current)
        return nil
    }

    private func freeze(_ replica: Replica) {
        let current = SaveUnderWay(replica)
        guard let machine = replica.stateMachine as? SnapshottedStateMachine, let saves = replica.saves,
            saves.saved < replica.applied, isOfUse(current)
        else {
            replica.isSaving = false
            return lane.requestTurn()
        }
        saving.current = current
        replica.saves?.noteFrozen()
        let result = Box<Result<StateSave, StateMachineError>?>(nil)
        workers.apply.submit {
            do throws(StateMachineError) { result.value = .success(try machine.beginSave()) } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            switch result.value {
            case .success(let save)?:
                current.save = save
                current.isAtWorker = false
            case .failure(let error)?: fail(current, error)
            case nil: preconditionFailure("the worker has been there")
            }
            lane.requestTurn()
        }
    }

    private func write(_ save: StateSave, _ current: SaveUnderWay) {
        let isWanted = isOfUse(current)
        let before = save.byteCount
        let result = Box<Result<Bool, StateMachineError>?>(nil)
        current.isAtWorker = true
        workers.maintenance.submit {
            guard isWanted else { return save.abandon() }
            do throws(StateMachineError) { result.value = .success(try save.write(atLeast: RaftHost.partBytes)) } catch
            {
                save.abandon()
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            current.isAtWorker = false
            current.due = snapshotBudget.take(save.byteCount - before, now: now)
            switch result.value {
            case .success(false)?: break
            case .success(true)?: finish(current, save)
            case .failure(let error)?: fail(current, error)
            case nil: end(current)
            }
            lane.requestTurn()
        }
    }

    /// Whether the state that is saved is still the replica's, and one to be trusted.
    private func isOfUse(_ current: SaveUnderWay) -> Bool {
        let replica = current.replica
        return replica.generation == current.generation && replica.problem == nil && !replica.isSwitching
    }

    private func finish(_ current: SaveUnderWay, _ save: StateSave) {
        let replica = current.replica
        end(current)
        guard replica.generation == current.generation else { return }
        replica.saves?.noteSaved(through: save.meta.last.index)
        logger.log(
            .info, "state saved",
            [
                ("group", replica.group), ("index", save.meta.last.index.description),
                ("bytes", "\(save.byteCount)"),
            ])
        noteApplied(0, by: replica)
        proposeForCompaction(replica)
    }

    /// Nothing is lost: the state saved before and the log tell the same. It is the turn of the others, after a pause.
    private func fail(_ current: SaveUnderWay, _ error: StateMachineError) {
        logger.log(
            .warning, "a state cannot be saved; it is tried again",
            [("group", current.replica.group), ("problem", error.description)])
        saving.pausedUntil = now + RaftHost.pauseAfterFailedSave
        end(current)
        requestSave(of: current.replica)
    }

    private func end(_ current: SaveUnderWay) {
        saving.current = nil
        current.replica.isSaving = false
    }
}

public import RaftCore
import Transport

// Somebody wants a replica's state saved, and the log behind it gone. Nothing here does that: an order has the replica
// saved and looked at as it would be some time, and watches until that has happened.

/// A state that was saved on an order.
public struct SavedState: Equatable, Sendable {
    /// The last entry whose effects are saved.
    public var index: LogIndex
    /// The first entry that the log still has, or will get.
    public var firstIndex: LogIndex
}

/// What came of an order to save a replica's state.
public enum SaveOutcome: Equatable, Sendable {
    /// It is durable, and the log was looked at for what can go.
    case saved(SavedState)
    /// Nothing came of it: an errno, of ``CliCode``, and why.
    case failed(Int32, String)
}

struct SaveOrder {
    let replica: Replica
    /// What was applied when it was given.
    let target: LogIndex
    let until: Instant
    let completion: (SaveOutcome) -> Void
}

extension RaftHost {
    /// Orders that wait at a time.
    private static let saveOrdersMax = 64
    private static let savePatience = Interval.milliseconds(600_000)

    /// Saves what this node's replica of `group` has applied, so that a restart needs the log behind it only, and
    /// compacts the log as far as nobody else needs it. The completion comes when both have happened.
    public func save(_ group: String, completion: @escaping (SaveOutcome) -> Void) {
        func refuse(_ code: Int32, _ problem: String) { later { completion(.failed(code, problem)) } }
        guard let replica = byGroup[group] else {
            return holds(group)
                ? refuse(CliCode.notPermitted, "the replica is damaged")
                : refuse(CliCode.notFound, "there is no replica of \(group) here")
        }
        if let problem = replica.problem {
            return refuse(CliCode.notPermitted, "the replica does not serve: \(problem)")
        }
        guard replica.id.role != .witness else { return refuse(CliCode.invalid, "a witness has no state") }
        guard !replica.isGuest else {
            return refuse(CliCode.invalid, "a guest's state is saved by the group's own program")
        }
        guard isCompactable(replica) else {
            return refuse(CliCode.invalid, "this kind of state is not saved apart from its log")
        }
        guard !replica.needsState, !replica.isSwitching else {
            return refuse(CliCode.busy, "the replica is being sent a snapshot")
        }
        guard saveOrders.count < RaftHost.saveOrdersMax else {
            return refuse(CliCode.busy, "too many states are being saved")
        }
        saveOrders.append(
            SaveOrder(
                replica: replica, target: replica.applied, until: lane.clock.now + RaftHost.savePatience,
                completion: completion))
        replica.durableState = .zero
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueSaveOrders() -> Instant? {
        guard !saveOrders.isEmpty, stopping == nil else { return nil }
        let orders = saveOrders
        saveOrders = []
        for order in orders {
            let replica = order.replica
            let isSaved = replica.saves.map { $0.saved >= order.target } ?? true
            if replica.isRemoved || replica.problem != nil {
                let problem = replica.problem ?? "the replica was removed"
                deferred.append { order.completion(.failed(CliCode.failed, problem)) }
            } else if isSaved, replica.durableState >= order.target, compaction == nil {
                let state = SavedState(index: replica.durableState, firstIndex: replica.raft.base.index.next)
                deferred.append { order.completion(.saved(state)) }
            } else if order.until <= now {
                let problem = "it takes too long, and may still be saved; see the node's log"
                deferred.append { order.completion(.failed(CliCode.timedOut, problem)) }
            } else {
                if !isSaved {
                    requestSave(of: replica)
                } else if compaction == nil {
                    proposeForCompaction(replica)
                }
                saveOrders.append(order)
            }
        }
        return saveOrders.map(\.until).min()
    }
}

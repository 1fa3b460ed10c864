import RaftCore
import RaftStorage
import Transport

// A log that lost entries heals from the replica's own state, if that holds them, and otherwise from its leader. What
// it may not do meanwhile the core knows by the debt: the last entry that it ever held.

/// A log as a core can start with it, and what must be written first.
struct OpenedLog {
    var state: RecoveredGroup
    var repair: LogWrite?
    /// Why it cannot be served, if it cannot.
    var problem: String?

    /// What is recovered, made whole again as far as `durable`, what the state machine holds, allows.
    init(_ recovered: RecoveredGroup, number: LogGroup, durable: SnapshotMeta?) {
        state = recovered
        switch recovered.damage {
        case nil:
            // the debt says that the log had it
            guard recovered.debt != nil, let durable, durable.last.index > recovered.lastIndex else { return }
            repair = begin(behind: durable, number)
        case .promises(let reason): problem = reason
        case .entries(let lost, _):
            var write = LogWrite(group: number)
            if let durable, durable.last.index > recovered.lastIndex { write = begin(behind: durable, number) }
            let owed = max(lost, recovered.debt ?? .zero)
            let isPaid = durable.map { $0.last >= owed } ?? false
            write.debt = isPaid ? .zero : owed
            state.debt = isPaid ? nil : owed
            repair = write
        }
    }

    /// Nothing of the log is left but where it begins.
    private mutating func begin(behind durable: SnapshotMeta, _ number: LogGroup) -> LogWrite {
        let base = LogBase(position: durable.last, configuration: durable.configuration)
        state.base = base
        (state.termRuns, state.configurations, state.lastIndex) = ([], [], durable.last.index)
        return LogWrite(group: number, start: .reset(base))
    }
}

/// A log found damaged while it was used.
struct LogRepair {
    var replica: Replica
    /// The first entry that cannot be read; nil: it is yet to be found, from ``suspect`` on.
    var damagedAt: LogIndex?
    /// How often the log had been cut when that was found.
    var truncations = 0
    var suspect: LogIndex
    /// When to go on.
    var due: Instant
    var isAtWorker = false
    /// How often the device failed to read it: what cannot be read again and again is lost like what reads wrong.
    var failures = 0
}

extension RaftHost {
    private static let repairPace = Interval.milliseconds(100)
    private static let repairPaceAfterFailure = Interval.milliseconds(1000)
    private static let failuresMax = 10

    /// Entries from `index` on could not be read: the replica leads no more, and finds out what it has left.
    func repairLog(of replica: Replica, from index: LogIndex, _ problem: String) {
        guard replica.logProblem == nil, !replica.isRemoved else { return }
        replica.logProblem = problem
        logger.log(
            .error, "a part of the log cannot be read",
            [("group", replica.group), ("index", index.description), ("problem", problem)])
        repairs.append(LogRepair(replica: replica, damagedAt: nil, suspect: index, due: now))
        inbox.append((replica, .stepDownRequested))
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueRepairs() -> Instant? {
        guard !repairs.isEmpty else { return nil }
        let due = repairs.filter { $0.due <= now && !$0.isAtWorker }
        for repair in due {
            if let index = repair.damagedAt {
                cut(repair.replica, before: index)
            } else {
                change(repair.replica) { $0.isAtWorker = true }
                examine(repair.replica, from: repair.suspect)
            }
        }
        return repairs.filter { !$0.isAtWorker }.map(\.due).min()
    }

    private func change(_ replica: Replica, _ body: (inout LogRepair) -> Void) {
        guard let position = repairs.firstIndex(where: { $0.replica === replica }) else { return }
        body(&repairs[position])
    }

    private func end(_ replica: Replica) {
        repairs.removeAll { $0.replica === replica }
        replica.logProblem = nil
        readyToApply(replica)
        askForCompaction(replica)
    }

    /// The first entry from `index` on that cannot be read, and what of the state is durable.
    private func examine(_ replica: Replica, from index: LogIndex) {
        let (log, number, store) = (self.log, replica.record.number, self.store)
        let last = replica.raft.durableIndex
        let machine = replica.stateMachine as? any SnapshotStateMachine
        let seen = (replica.truncations, replica.raft.base.index, replica.generation)
        let damagedAt = Box<(index: LogIndex, isCertain: Bool)?>(nil)
        let durable = Box<Result<SnapshotMeta?, StateMachineError>>(.success(nil))
        workers.maintenance.submit {
            damagedAt.value = RaftHost.firstUnreadable(in: log, number, index, through: last)
            do throws(StateMachineError) {
                // what was applied of what cannot be read any more is in the state
                try store?.flush()
                durable.value = .success(try machine?.durableMeta())
            } catch {
                durable.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            change(replica) { $0.isAtWorker = false }
            lane.requestTurn()
            // the log or the state has become another one meanwhile: once more
            guard seen == (replica.truncations, replica.raft.base.index, replica.generation), !replica.isSwitching
            else { return change(replica) { $0.due = now + RaftHost.repairPace } }
            guard let (damaged, isCertain) = damagedAt.value else { return end(replica) }
            var isLost = isCertain
            change(replica) { repair in
                repair.failures += 1
                isLost = isLost || repair.failures > RaftHost.failuresMax
                repair.due = now + RaftHost.repairPaceAfterFailure
            }
            guard isLost else { return }
            switch durable.value {
            case .failure(let error):
                logger.log(
                    .warning, "the log cannot be repaired yet",
                    [("group", replica.group), ("problem", error.description)])
            case .success(let meta):
                // the state may be ahead of a core that took the place of another
                let held = min(replica.raft.commitIndex, replica.raft.durableIndex)
                if let meta, min(meta.last.index, held) >= damaged {
                    replace(replica, through: min(meta.last.index, held))
                } else {
                    change(replica) { ($0.damagedAt, $0.truncations, $0.due) = (damaged, replica.truncations, now) }
                }
            }
        }
    }

    private static func firstUnreadable(
        in log: WriteAheadLog, _ group: LogGroup, _ from: LogIndex, through last: LogIndex
    ) -> (index: LogIndex, isCertain: Bool)? {
        var index = from
        var wanted = 64
        while index <= last {
            do throws(StorageError) {
                let entries = try log.entries(of: group, from: index, count: wanted, maxBytes: 1 << 20)
                // behind the end of what is durable, or compacted meanwhile
                guard !entries.isEmpty else { return nil }
                index = index.advanced(by: entries.count)
            } catch {
                guard wanted > 1 else {
                    guard case .damaged = error else { return (index, false) }
                    return (index, true)
                }
                wanted = 1
            }
        }
        return nil
    }

    /// What is damaged is in the state: the log begins behind it.
    private func replace(_ replica: Replica, through index: LogIndex) {
        guard let term = replica.raft.term(at: index),
            let membership = replica.memberships.last(where: { $0.index <= index })
        else { return end(replica) }
        logger.log(
            .info, "the state stands for what is damaged of the log",
            [("group", replica.group), ("index", index.description)])
        let base = LogBase(position: LogPosition(term: term, index: index), configuration: membership.configuration)
        step(
            replica, .compacted(through: index),
            StepContext(write: LogWrite(group: replica.record.number, start: .compact(base))))
        for outlet in replica.outlets { outlet.clear() }
        end(replica)
    }

    /// Drops the log from the first damaged entry on, and goes on in debt.
    private func cut(_ replica: Replica, before index: LogIndex) {
        guard index > replica.raft.base.index, index <= replica.raft.durableIndex, !replica.isSwitching,
            repairs.contains(where: { $0.replica === replica && $0.truncations == replica.truncations })
        else {
            // the log has become another one meanwhile
            return change(replica) { ($0.damagedAt, $0.due) = (nil, now + RaftHost.repairPace) }
        }
        // not by an event that waits: a sole voter might lead again before its time came
        if replica.raft.isLeader { step(replica, .stepDownRequested) }
        let former = replica.raft
        let lost = max(LogPosition(term: former.lastTerm, index: former.lastIndex), former.debt ?? .zero)
        let last = index.previous
        var runs: [LogPosition] = []
        var position = former.base.index.next
        while position <= last, let term = former.term(at: position) {
            if runs.last?.term != term { runs.append(LogPosition(term: term, index: position)) }
            position = position.next
        }
        logger.log(
            .error, "the log is cut before what is damaged",
            [("group", replica.group), ("index", index.description), ("debt", lost.description)])
        var raft = makeRaft(
            replica.record, HardState(term: former.term, vote: former.vote), base: former.base, runs: runs, last: last,
            memberships: replica.memberships.filter { $0.index <= last },
            applied: max(former.base.index, min(replica.applied, last)), debt: lost)
        raft.succeed(former)
        batchUnderWay?.disown(replica)
        blockage?.disown(replica)
        passing?.batch.disown(replica)
        batch.disown(replica)
        failReads(of: replica)
        replica.raft = raft
        // what was applied stays so; if it is lost from the log, the same comes again
        replica.applicable = replica.applied
        replica.armed = nil
        replica.owes = true
        replica.cutLog(from: index)
        for outlet in replica.outlets { outlet.clear() }
        membershipChanged(replica)
        observer?.cut(replica.group)
        step(
            replica, .started,
            StepContext(write: LogWrite(group: replica.record.number, debt: lost, truncateFrom: index)))
        end(replica)
    }

    func makeRaft(
        _ record: ReplicaRecord, _ hardState: HardState, base: LogPosition, runs: [LogPosition], last: LogIndex,
        memberships: [PlacedConfiguration], applied: LogIndex, debt: LogPosition?
    ) -> Raft {
        var own = settings.raft
        own.electionOrder = RaftHost.electionOrder(of: record.group)
        return Raft(
            id: record.peer, hardState: hardState, base: base, termRuns: runs, lastIndex: last,
            configurations: memberships, applied: applied, debt: debt,
            followedForeigners: mayOweLease(record), settings: own,
            seed: settings.seed &+ record.number &* 0x9e37_79b9 ^ UInt64(identity.address.port))
    }

    /// A hash of the name (FNV-1a, mixed once more, for its lowest bits are weak): the same on every node.
    static func electionOrder(of group: String) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in group.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash = (hash ^ hash >> 32) &* 0x9e37_79b9_7f4a_7c15
        return hash ^ hash >> 29
    }

    /// The debt is paid: nobody shall ask for it after a restart.
    func notePayment(of replica: Replica) {
        guard replica.owes, replica.raft.debt == nil else { return }
        replica.owes = false
        batch.append(LogWrite(group: replica.record.number, debt: .zero))
        logger.log(.info, "the log is whole again", [("group", replica.group)])
        lane.requestTurn()
    }
}

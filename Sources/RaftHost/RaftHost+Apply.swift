import RaftCore
import RaftStorage
import Transport

/// One replica's part of a job for the state machines' worker.
private struct ApplyOrderOfReplica: Sendable {
    var slot: Int
    var generation: Int
    var group: String
    var stateMachine: any StateMachine
    var number: LogGroup
    var from: LogIndex
    var count: Int
    /// The entries, or empty if they must be read from the log first.
    var entries: [CommittedEntry]
}

/// Gives its state machine now and then another entry than the log holds: a bug on purpose.
private final class NodeDependent: StateMachine {
    private let machine: any StateMachine

    init(_ machine: any StateMachine) { self.machine = machine }

    var appliedPosition: LogPosition { machine.appliedPosition }
    func read(_ query: Bytes) throws(StateMachineError) -> Bytes { try machine.read(query) }
    func flush() throws(StateMachineError) { try machine.flush() }

    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        try machine.apply(
            entries.map { entry in
                guard entry.position.index.rawValue % 16 == 0, !entry.payload.isEmpty else { return entry }
                var other = entry
                other.payload = Bytes(entry.payload.withUnsafeBytes { $0.dropLast() + [$0[$0.count - 1] ^ 1] })
                return other
            })
    }
}

/// What came of it.
private struct AppliedByReplica: Sendable {
    var slot: Int
    var generation: Int
    var from: LogIndex
    var replies: [Bytes]
    /// Of the entries' payloads.
    var bytes = 0
    var problem: String?
    /// The problem is the log's, not the state machine's.
    var isLogProblem = false
    /// Nothing is broken; only a newer program can go on.
    var needsNewerProgram = false
}

extension RaftHost {
    /// What one job applies, of all replicas; the rest follows in the next. A job that took longer than a promise would
    /// keep the check of the vitals waiting, and so cost a busy node its leaderships.
    private static let entriesPerJob = 4096
    private static let bytesPerJob = 16 << 20
    /// Each writes to the store by itself, however little it applies.
    static let replicasPerJob = 128

    /// A replica has one order in a job: what a second one would begin with depends on how far the first one gets.
    func readyToApply(_ replica: Replica) {
        guard !replica.isReadyToApply, !replica.isRemoved else { return }
        replica.isReadyToApply = true
        applyReady.append(replica)
        lane.requestTurn()
    }

    /// Hands everything applicable to the state machines in one job, unless one is under way.
    func submitApply() {
        guard !isApplying, !applyReady.isEmpty else { return }
        var orders: [ApplyOrderOfReplica] = []
        let ready = applyReady
        applyReady.removeAll(keepingCapacity: true)
        var (entriesLeft, bytesLeft) = (RaftHost.entriesPerJob, RaftHost.bytesPerJob)
        for (position, replica) in ready.enumerated() {
            guard entriesLeft > 0, bytesLeft > 0, orders.count < RaftHost.replicasPerJob else {
                applyReady = Array(ready[position...])
                break
            }
            replica.isReadyToApply = false
            guard replica.applyRetry == nil, replica.logProblem == nil,
                replica.fence == nil || replica.trial != nil, !replica.isSwitching,
                replica.applyOrdered < replica.applicable
            else {
                continue
            }
            guard replica.id.role != .witness, !replica.isGuest else {
                // it has no payloads, and no state; or none to which they mean anything
                replica.applyOrdered = replica.applicable
                replica.applied = replica.applicable
                continue
            }
            let from = replica.applyOrdered.next
            let wanted = min(replica.applyOrdered.distance(to: replica.applicable), entriesLeft)
            var entries: [CommittedEntry] = []
            var count = wanted
            if let held = replica.tail.slice(from: from, count: wanted) {
                precondition(held.count == wanted, "\(replica.group): applicable entries are missing from the tail")
                entries.reserveCapacity(wanted)
                for entry in held {
                    if bytesLeft <= 0 { break }
                    bytesLeft -= entry.payload.count
                    entries.append(CommittedEntry(entry))
                }
                count = entries.count
            } else {
                // not read yet: a guess
                bytesLeft -= count * (RaftHost.bytesPerJob / RaftHost.entriesPerJob)
            }
            entriesLeft -= count
            orders.append(
                ApplyOrderOfReplica(
                    slot: replica.slot, generation: replica.generation, group: replica.group,
                    stateMachine: planted("apply-depends-on-the-node") && identity.address.ip % 3 == 2
                        ? NodeDependent(replica.stateMachine) : replica.stateMachine,
                    number: replica.record.number, from: from,
                    count: count, entries: entries))
            replica.applyOrdered = replica.applyOrdered.advanced(by: count)
        }
        guard !orders.isEmpty else { return }
        isApplying = true
        let log = self.log
        let results = Box<[AppliedByReplica]>([])
        let observer = self.observer
        let jobs = orders
        workers.apply.submit {
            for order in jobs { results.value.append(RaftHost.run(order, log, observer)) }
        } completion: { [self] in
            isApplying = false
            now = lane.clock.now
            for result in results.value { finishApply(result) }
            lane.requestTurn()
        }
    }

    private static func run(
        _ order: ApplyOrderOfReplica, _ log: WriteAheadLog, _ observer: (any ReplicaObserver)?
    ) -> AppliedByReplica {
        var entries = order.entries
        if entries.isEmpty {
            do throws(StorageError) {
                let read = try log.entries(
                    of: order.number, from: order.from, count: order.count, maxBytes: bytesPerJob)
                entries = read.map { CommittedEntry($0) }
                guard !entries.isEmpty else {
                    return AppliedByReplica(
                        slot: order.slot, generation: order.generation, from: order.from, replies: [],
                        problem: "entry \(order.from) is to be applied, and the log does not have it")
                }
            } catch {
                return AppliedByReplica(
                    slot: order.slot, generation: order.generation, from: order.from, replies: [],
                    problem: error.description, isLogProblem: true)
            }
        }
        do throws(StateMachineError) {
            let replies = try order.stateMachine.apply(entries)
            precondition(replies.count == entries.count, "a state machine answered another number of entries")
            observer?.applied(order.group, entries, replies)
            return AppliedByReplica(
                slot: order.slot, generation: order.generation, from: order.from, replies: replies,
                bytes: entries.reduce(0) { $0 + $1.payload.count }, problem: nil)
        } catch {
            return AppliedByReplica(
                slot: order.slot, generation: order.generation, from: order.from, replies: [],
                problem: error.description, needsNewerProgram: error.needsNewerProgram)
        }
    }

    private func finishApply(_ result: AppliedByReplica) {
        // a snapshot has taken the place of the state, or is about to
        guard let replica = slots[result.slot], result.generation == replica.generation, !replica.isSwitching,
            !replica.needsState
        else { return }
        if let problem = result.problem, result.isLogProblem {
            replica.applyOrdered = replica.applied
            return repairLog(of: replica, from: result.from, problem)
        }
        if let problem = result.problem {
            stopServing(replica, problem, needsNewerProgram: result.needsNewerProgram)
            return
        }
        for (offset, reply) in result.replies.enumerated() {
            let index = result.from.advanced(by: offset)
            guard let first = replica.proposed.first, first.position.index <= index else { continue }
            precondition(first.position.index == index, "\(replica.group): a proposal was passed over")
            _ = replica.proposed.popFirst()
            replica.proposedBytes -= first.byteCount
            metrics.writes &+= 1
            // still leader of the term it was proposed in, or the queue would have been emptied
            deferred.append { first.completion(.applied(reply, first.position)) }
        }
        replica.applied = result.from.advanced(by: result.replies.count - 1)
        replica.applyOrdered = replica.applied
        metrics.appliedEntries &+= UInt64(result.replies.count)
        metrics.appliedBytes &+= UInt64(result.bytes)
        noteOperations(result.replies.count, of: replica)
        noteApplied(replica.applied, of: replica)
        releaseReads(of: replica)
        trimTail(of: replica)
        noteWarmth(of: replica)
        noteForComparison(replica)
        noteApplied(result.bytes, by: replica)
        if replica.applyOrdered < replica.applicable { readyToApply(replica) } else { servesAgain(replica) }
    }

    /// Reads that waited for what is applied now.
    func releaseReads(of replica: Replica) {
        while let waiting = replica.awaitingApply.first, waiting.index <= replica.applied {
            replica.awaitingApply.removeFirst()
            finish(waiting.completions, of: replica, .ready(waiting.moment))
        }
    }

    /// Keeps young entries for the peers and for the state machine. One that falls far behind, or stands still, gets the
    /// rest from the log.
    func trimTail(of replica: Replica) {
        let durable = replica.raft.durableIndex
        replica.tail.trim(through: min(replica.applied, durable), budget: settings.tailBytes)
        replica.tail.trim(through: durable, budget: settings.proposalBytes, count: settings.proposals)
    }

    /// The state machine cannot go on: the replica keeps voting and acknowledging, for its log is whole, but serves no
    /// more and gives leadership away. A full disk is no damage: sooner or later the state machine is made anew from what
    /// the store holds, and goes on from there with the log. Nor does what this program does not know make the state a
    /// lost one.
    func stopServing(_ replica: Replica, _ problem: String, needsNewerProgram: Bool = false) {
        if replica.applyProblem != problem {
            logger.log(
                .error,
                needsNewerProgram
                    ? "the group stops here: its log has what this program does not know; start a newer raftd"
                    : "the state machine cannot go on; it is tried again",
                [("group", replica.group), ("index", replica.applied.description), ("problem", problem)])
        }
        replica.applyProblem = problem
        replica.applyRetry = now + settings.applyRetryInterval
        stalled.append(replica)
        turnAway(replica)
        // with another state it would pass over what it does not know
        if !needsNewerProgram { noteFailure(of: replica) }
    }

    /// Whoever waits for the state machine waits in vain; somebody else shall lead.
    func turnAway(_ replica: Replica) {
        for proposal in replica.proposed.removeAll() { deferred.append { proposal.completion(.unknown) } }
        let waiting = replica.awaitingApply
        replica.awaitingApply.removeAll()
        for read in waiting { finish(read.completions, of: replica, .refused(.damaged)) }
        replica.proposedBytes = 0
        handOver(replica)
    }

    /// Has the state machines made anew whose time has come; returns when the next one's comes.
    func retryStalled() -> Instant? {
        guard !stalled.isEmpty, !isApplying else { return nil }
        let waiting = stalled
        stalled.removeAll(keepingCapacity: true)
        for replica in waiting {
            guard let retry = replica.applyRetry else { continue }
            if retry > now {
                stalled.append(replica)
            } else if !givesUpUnreadable(replica) {
                remake(replica)
            }
        }
        return stalled.compactMap(\.applyRetry).min()
    }

    /// A state that lives in memory takes its time to be restored, and nobody else's: not where the others are applied.
    /// Nothing is applied to the replica meanwhile; what the log holds behind the state follows in the usual jobs.
    private func remake(_ replica: Replica) {
        let make = Box(remakeStateMachine)
        let record = replica.record
        let slot = replica.slot
        let generation = replica.generation
        let result = Box<Result<(any StateMachine)?, StateMachineError>>(.success(nil))
        workers.maintenance.submit {
            do throws(StateMachineError) { result.value = .success(try make.value(record)) } catch {
                result.value = .failure(error)
            }
        } completion: { [self] in
            now = lane.clock.now
            // a snapshot has come instead
            guard let replica = slots[slot], replica.generation == generation, !replica.isSwitching, !replica.needsState
            else { return }
            switch result.value {
            case .success(nil): return
            case .failure(let error):
                retryLater(replica, error.description, needsNewerProgram: error.needsNewerProgram)
            case .success(.some(let machine)) where machine.appliedPosition.index < replica.raft.base.index:
                // it may have been read in a bad moment; there is no going on from there with the log
                retryLater(
                    replica,
                    "the state ends at \(machine.appliedPosition), the log begins behind \(replica.raft.base)")
            case .success(.some(let machine)):
                onStateMachine(record, machine)
                replica.adopt(machine, settings)
                replica.applyRetry = nil
                replica.applied = machine.appliedPosition.index
                replica.applyOrdered = replica.applied
                if replica.applied < replica.applicable { readyToApply(replica) } else { servesAgain(replica) }
            }
            lane.requestTurn()
        }
    }

    private func retryLater(_ replica: Replica, _ problem: String, needsNewerProgram: Bool = false) {
        replica.applyProblem = problem
        replica.applyRetry = now + settings.applyRetryInterval
        stalled.append(replica)
        // what is too new is not lost
        if !needsNewerProgram { noteFailure(of: replica) }
    }

    func servesAgain(_ replica: Replica) {
        // one that is about to be made anew may just have finished what it was at
        guard replica.applyProblem != nil, replica.applyRetry == nil, !replica.needsState else { return }
        replica.applyProblem = nil
        replica.failures = 0
        logger.log(
            .info, "the state machine goes on", [("group", replica.group), ("index", replica.applied.description)])
    }

    /// Hands the reads of this turn to the worker in one job.
    func submitEvaluations() {
        guard !isEvaluating, !evaluations.isEmpty else { return }
        isEvaluating = true
        let batch = evaluations
        evaluations.removeAll(keepingCapacity: true)
        let jobs = batch.map(\.job)
        let completions = Box(batch.map(\.completion))
        let began = lane.clock.now
        workers.apply.submit {
            for job in jobs { job() }
        } completion: { [self] in
            isEvaluating = false
            metrics.evaluate.count(lane.clock.now - began)
            for completion in completions.value { deferred.append(completion) }
            lane.requestTurn()
        }
    }
}

extension CommittedEntry {
    init(_ entry: LogEntry) {
        self.init(
            position: entry.position, kind: entry.kind, payload: entry.payload, configuration: entry.configuration)
    }
}

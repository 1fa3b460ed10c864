import RaftCore
import RaftStorage

// While entries wait for room, the rest goes on: what groups without entries have to say is written, for that the log may
// have some, votes of all groups go ahead of the entries, and whoever waits for nothing that waits is called. In each
// group everything else stays in order.

/// What waits behind a batch that found no room. Whatever is new is looked at once, however long the room is missing.
struct Blockage {
    /// Something of theirs waits: what comes later does, too.
    private(set) var groups: Set<LogGroup> = []
    /// Groups of which no hard state may go ahead: a log that was repaired, begins anew or ends says that first.
    private(set) var firm: Set<LogGroup> = []
    /// In its order.
    private(set) var held = LogBatch()
    /// There was no room even for what passes: nothing is written before the next attempt.
    private(set) var isTotal = false

    /// Nothing but the writes of `refused` without entries may overtake it; without entries in it there is no room for
    /// anything.
    init(behind refused: LogBatch) {
        block(by: refused)
        guard groups.isEmpty else { return }
        isTotal = true
        for write in refused.writes { groups.insert(write.group) }
    }

    /// Parts what was refused into what keeps waiting for room and what passes.
    mutating func part(_ refused: inout LogBatch) -> (passing: LogBatch, votes: [LogBatch.Duty]) {
        var kept = LogBatch()
        let result = part(refused, &kept)
        // who waits for everything waits for what overtakes, too
        held.duties += kept.duties.filter { $0.group == nil }
        kept.duties.removeAll { $0.group == nil }
        refused = kept
        return result
    }

    /// Parts what is new; what has to wait is held.
    mutating func part(new batch: LogBatch) -> (passing: LogBatch, votes: [LogBatch.Duty]) {
        var kept = LogBatch()
        let result = part(batch, &kept)
        held.append(kept)
        return result
    }

    /// Finds out for whom `batch` means waiting, before anything of it passes: what passed of a group and found no room
    /// either would come behind what waits of it.
    private mutating func block(by batch: LogBatch) {
        for write in batch.writes where isTotal || !write.entries.isEmpty { groups.insert(write.group) }
        // a replica's end is one batch: its log goes with the node's word that it is gone
        let ends = batch.writes.lazy.filter(\.drops).map(\.group)
        if ends.contains(where: { groups.contains($0) || groups.contains(0) }) {
            groups.insert(0)
            groups.formUnion(ends)
        }
    }

    private mutating func part(
        _ batch: LogBatch, _ kept: inout LogBatch
    ) -> (passing: LogBatch, votes: [LogBatch.Duty]) {
        block(by: batch)
        var passing = LogBatch()
        var votes: [LogBatch.Duty] = []
        for write in batch.writes {
            if groups.contains(write.group) {
                noteFirm(write)
                kept.append(write)
            } else {
                passing.append(write)
            }
        }
        for duty in batch.duties {
            if let group = duty.group, !groups.contains(group) {
                passing.duties.append(duty)
            } else if duty.voter != nil, !isTotal {
                votes.append(duty)
            } else {
                kept.duties.append(duty)
            }
        }
        return (passing, votes)
    }

    /// Has these wait like the rest.
    mutating func hold(_ duties: [LogBatch.Duty]) { held.duties += duties }

    /// There was no room for what was to pass, either: it goes before whatever has come to wait since.
    mutating func hold(refused batch: LogBatch) {
        isTotal = true
        for write in batch.writes {
            groups.insert(write.group)
            noteFirm(write)
        }
        var front = batch
        front.append(held)
        held = front
    }

    /// These hard states have gone ahead.
    mutating func forget(hardStatesBefore promised: [LogGroup: HardState]) {
        held.forget(hardStatesBefore: promised)
    }

    mutating func disown(_ replica: Replica) { held.disown(replica) }

    private mutating func noteFirm(_ write: LogWrite) {
        let resets = if case .reset = write.start { true } else { false }
        if resets || write.debt != nil || write.drops { firm.insert(write.group) }
    }
}

/// What is being written while a batch waits for room.
struct PassingWrites {
    var batch: LogBatch
    /// Votes with the hard states that go ahead for them.
    var votes: [(voter: Replica, state: HardState, duty: LogBatch.Duty)] = []

    var writes: [LogWrite] {
        batch.writes + votes.map { LogWrite(group: $0.voter.record.number, hardState: $0.state) }
    }
}

extension RaftHost {
    /// How often it is tried again to write what found no room.
    static let retryPace = Interval.milliseconds(500)

    /// The batch under way found no room, for the first time or again.
    func beginBlockage() {
        guard var refused = batchUnderWay else { preconditionFailure("a batch was refused that was not under way") }
        endBlockage()
        var blockage = Blockage(behind: refused)
        var (first, votes) = blockage.part(&refused)
        first.duties += votes
        first.append(batch)
        (batch, batchUnderWay, self.blockage) = (first, refused, blockage)
    }

    /// What waited behind the batch under way is written next.
    func endBlockage() {
        guard var next = blockage?.held else { return }
        // first, so that it is not copied
        blockage = nil
        next.append(batch)
        batch = next
    }

    /// Writes what need not wait of what is new.
    func passBlockage() {
        // not while the batch is tried again: a later hard state must not be written before an earlier one
        guard batchRetry != nil, passing == nil, !batch.isEmpty, var blockage else { return }
        // as long as it is changed here, so that what is held is not copied
        self.blockage = nil
        packNodeState()
        let (first, votes) = blockage.part(new: batch)
        batch = LogBatch()
        var passing = PassingWrites(batch: first)
        for vote in votes {
            if let voter = vote.voter, !voter.isRemoved, !blockage.firm.contains(voter.record.number) {
                passing.votes.append((voter, HardState(term: voter.raft.term, vote: voter.raft.vote), vote))
            } else {
                blockage.hold([vote])
            }
        }
        self.blockage = blockage
        let log = self.log
        let writes = passing.writes
        // whoever waits for nothing that waits
        guard !writes.isEmpty else { return perform(first.duties) }
        self.passing = passing
        let failure = Box<StorageError?>(nil)
        workers.log.submit {
            do throws(StorageError) { try log.write(writes) } catch { failure.value = error }
        } completion: { [self] in
            hasPassed(failure.value)
        }
    }

    private func hasPassed(_ failure: StorageError?) {
        now = lane.clock.now
        guard let passed = passing else { return }
        passing = nil
        switch failure {
        case nil:
            perform(passed.batch.duties)
            notePromises(of: passed)
            perform(passed.votes.map(\.duty))
        case .disk(.full):
            blockage?.hold(refused: passed.batch)
            blockage?.hold(passed.votes.map(\.duty))
        case .some(let error): fail("the log cannot be written: \(error.description)")
        }
        lane.requestTurn()
    }

    /// What waits and says an earlier hard state must not be written behind the later one.
    private func notePromises(of passed: PassingWrites) {
        guard !passed.votes.isEmpty else { return }
        var promised: [LogGroup: HardState] = [:]
        for vote in passed.votes { promised[vote.voter.record.number] = vote.state }
        batchUnderWay?.forget(hardStatesBefore: promised)
        blockage?.forget(hardStatesBefore: promised)
        batch.forget(hardStatesBefore: promised)
        for vote in passed.votes { observer?.promised(vote.voter.group, vote.state) }
    }

    /// Payload bytes that wait for the log.
    var waitingBytes: Int { batch.byteCount + (blockage?.held.byteCount ?? 0) }

    /// Answers and other things that wait for it.
    var waitingDuties: Int { batch.duties.count + (blockage?.held.duties.count ?? 0) }
}

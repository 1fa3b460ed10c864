public import RaftCore
import RaftStorage
import Transport

/// What one write of the log carries, and what is owed when it is durable, in order.
struct LogBatch {
    enum Duty {
        case persisted(Replica, DurableMark)
        case acknowledge(Replica, RpcResponder, Message)
        case send(Replica, [Outbound])
        case call(() -> Void)

        /// Whose it is; nil if it waits for everything that was written before.
        var group: LogGroup? {
            switch self {
            case .persisted(let replica, _), .acknowledge(let replica, _, _), .send(let replica, _):
                replica.record.number
            case .call: nil
            }
        }
    }

    private(set) var writes: [LogWrite] = []
    var duties: [Duty] = []
    /// Payload bytes of the writes.
    private(set) var byteCount = 0

    mutating func append(_ write: LogWrite) {
        writes.append(write)
        byteCount += write.entries.reduce(write.note?.count ?? 0) { $0 + $1.payload.count }
    }

    var isEmpty: Bool { writes.isEmpty && duties.isEmpty }

    /// For look-ups.
    var groupsWithEntries: Set<LogGroup> { Set(writes.lazy.filter { !$0.entries.isEmpty }.map(\.group)) }

    mutating func append(_ other: LogBatch) {
        for write in other.writes { append(write) }
        duties += other.duties
    }

    /// Takes out what is none of these groups', in order. What waits for everything stays.
    mutating func take(except groups: Set<LogGroup>) -> LogBatch {
        var (taken, kept) = (LogBatch(), LogBatch())
        for write in writes {
            if groups.contains(write.group) { kept.append(write) } else { taken.append(write) }
        }
        for duty in duties {
            if duty.group.map(groups.contains) ?? true { kept.duties.append(duty) } else { taken.duties.append(duty) }
        }
        self = kept
        return taken
    }

    /// Takes out what waits for everything.
    mutating func takeCalls() -> [Duty] {
        let calls = duties.filter { $0.group == nil }
        duties.removeAll { $0.group == nil }
        return calls
    }

    /// The core that asked for what `replica` writes here has gone: the completion vouches for nothing in the log of the
    /// one in its place.
    ///
    /// Nor does an answer that vouches for entries that go: their senders hear that they must ask again.
    mutating func disown(_ replica: Replica) {
        for (position, duty) in duties.enumerated() {
            switch duty {
            case .persisted(let writer, _) where writer === replica:
                duties[position] = .persisted(replica, DurableMark(term: .zero, index: .zero))
            case .acknowledge(let writer, let responder, .appendReply(let reply))
            where writer === replica && reply.success:
                duties[position] = .call { responder.fail(RaftHost.again, "a part of the log was lost") }
            default: break
            }
        }
    }
}

extension RaftHost {
    /// Hands the gathered batch to the log, unless one is under way.
    func submitLogBatch() {
        // a closed log takes nothing more, and nothing more is promised
        guard !batch.isEmpty || batchRetry != nil, !isOver else { return }
        guard batchUnderWay == nil else { return passEntries() }
        if batch.writes.isEmpty {
            // nothing to write, and everything before is durable
            let duties = batch.duties
            batch.duties.removeAll(keepingCapacity: true)
            perform(duties)
            return
        }
        batchUnderWay = batch
        batch = LogBatch()
        if planted("duties-before-the-write"), let duties = batchUnderWay?.duties {
            batchUnderWay?.duties = []
            perform(duties)
        }
        writeBatch()
    }

    func writeBatch() {
        guard let current = batchUnderWay else { return }
        sealAt = nil
        let log = self.log
        let writes = current.writes
        let failure = Box<StorageError?>(nil)
        workers.log.submit {
            do throws(StorageError) { try log.write(writes) } catch { failure.value = error }
        } completion: { [self] in
            batchWritten(failure.value)
        }
    }

    private func batchWritten(_ failure: StorageError?) {
        now = lane.clock.now
        switch failure {
        case nil:
            guard let written = batchUnderWay else { preconditionFailure("a batch completed that was not under way") }
            batchUnderWay = nil
            if isLogFull { logger.log(.info, "there is room on the disk again", [("path", disk.path)]) }
            isLogFull = false
            isLogAtBound = false
            noteSpace()
            perform(written.duties)
            sealAt = now + settings.sealDelay
        case .disk(.full(let path)):
            // nothing was written; the batch waits until there is room, and new proposals are refused meanwhile
            if !isLogFull { logger.log(.error, "the disk is full: writes are refused", [("path", path)]) }
            isLogFull = true
            isLogAtBound = log.totalBytes > log.spaceBytes / 2
            noteSpace()
            // others may commit what this node cannot apply: its clients would wait for the disk
            for replica in replicas where leadsOthers(replica) && replica.raft.commitIndex > replica.raft.durableIndex {
                inbox.append((replica, .transferRequested(nil)))
            }
            batchRetry = now + .milliseconds(500)
            hasRoomToPass = true
            // it may wait for this very batch
            endWaitingRound()
        case .some(let error):
            fail("the log cannot be written: \(error.description)")
        }
        lane.requestTurn()
    }

    /// While entries wait for room: writes what groups without entries have to say, votes above all, for that the log may
    /// have some. In each group everything stays in order.
    private func passEntries() {
        guard batchRetry != nil, hasRoomToPass, passing == nil, var waiting = batchUnderWay else { return }
        var blocked = waiting.groupsWithEntries
        guard !blocked.isEmpty else { return }
        var passing = waiting.take(except: blocked)
        blocked.formUnion(batch.groupsWithEntries)
        // a replica's end is one batch: its log goes with the node's word that it is gone
        if batch.writes.contains(where: { $0.drops && blocked.contains($0.group) }) { blocked.insert(0) }
        passing.append(batch.take(except: blocked))
        guard !passing.isEmpty else { return }
        // who waits for everything waits for what overtakes, too
        batch.duties = waiting.takeCalls() + batch.duties
        batchUnderWay = waiting
        self.passing = passing
        let log = self.log
        let writes = passing.writes
        let failure = Box<StorageError?>(nil)
        workers.log.submit {
            do throws(StorageError) { try log.write(writes) } catch { failure.value = error }
        } completion: { [self] in
            entriesPassed(failure.value)
        }
    }

    private func entriesPassed(_ failure: StorageError?) {
        now = lane.clock.now
        guard var passed = passing else { return }
        passing = nil
        switch failure {
        case nil: perform(passed.duties)
        case .disk(.full):
            // it waits like the rest, in front of what came later
            hasRoomToPass = false
            passed.append(batch)
            batch = passed
        case .some(let error): fail("the log cannot be written: \(error.description)")
        }
        lane.requestTurn()
    }

    /// Writes a compaction while a batch waits for room that it may free. One of the same group that waits in that batch
    /// is overtaken by it, which the log allows for; else it concerns nothing there, for only what is durable can be
    /// compacted.
    func writeAhead(_ write: LogWrite) {
        let log = self.log
        workers.log.submit {
            // without room for this either, the log only begins earlier after a restart; a log that has failed says so at
            // the batch's next attempt
            do throws(StorageError) { try log.write([write]) } catch {}
        } completion: {
        }
    }

    /// A log that is about to refuse entries takes no more proposals, and is compacted.
    private func noteSpace() {
        let isTight = log.isTight
        if log.totalBytes > log.spaceBytes / 2 {
            // it fills faster than usual
            nextCompaction = min(nextCompaction, now + Interval(nanoseconds: settings.compactionPace.nanoseconds / 8))
        }
        if isTight != isLogTight {
            logger.log(
                isTight ? .warning : .info,
                isTight ? "the log is near its bound: writes wait for compaction" : "the log has room again",
                [("log_bytes", "\(log.totalBytes)")])
        }
        isLogTight = isTight
        if isTight { wantsCompaction = true }
    }

    func fail(_ reason: String) {
        guard !hasFailed else { return }
        hasFailed = true
        abandon()
        logger.log(.error, "the node stops", [("problem", reason)])
        onFatal(reason)
    }

    private func perform(_ duties: [LogBatch.Duty]) {
        for duty in duties {
            switch duty {
            case .persisted(let replica, let mark):
                step(replica, .persisted(mark))
                trimTail(of: replica)
            case .acknowledge(let replica, let responder, _) where replica.isRemoved:
                responder.fail(RaftHost.noSuchReplica.code, RaftHost.noSuchReplica.text)
            case .acknowledge(let replica, let responder, let message):
                observer?.acknowledged(replica.group, message)
                responder.reply(body: wire.packReply(message))
            case .send(let replica, let messages): for message in messages { send(message, from: replica) }
            case .call(let body): deferred.append(body)
            }
        }
    }

    /// Proves the last batch while nothing else is written, so that a crash long after it cannot call it a torn tail.
    func seal() {
        let log = self.log
        // a seal that fails leaves the log failed: the next write says so
        workers.log.submit {
            log.sealIfIdle()
        } completion: {
        }
    }

    static let freeSpacePace = Interval.milliseconds(1000)

    /// Looks at the free space at most once a second: when somebody proposes, and while there is too little.
    func checkFreeSpace() {
        // called between turns: the turn's time may be long ago
        let time = lane.clock.now
        guard !isCheckingFreeSpace, freeSpaceChecked + RaftHost.freeSpacePace <= time else { return }
        isCheckingFreeSpace = true
        freeSpaceChecked = time
        let disk = self.disk
        let free = Box<Int?>(nil)
        workers.reader.submit {
            do throws(DiskError) { free.value = try disk.freeBytes() } catch { free.value = nil }
        } completion: { [self] in
            isCheckingFreeSpace = false
            guard let bytes = free.value else { return }
            let isFull = bytes < settings.minimumFreeBytes
            if isFull != hasLittleRoom {
                logger.log(
                    isFull ? .error : .info,
                    isFull
                        ? "too little room on the disk: writes are refused, reads go on" : "writes are accepted again",
                    [("path", disk.path), ("free_bytes", "\(bytes)")])
                hasLittleRoom = isFull
            }
            lane.requestTurn()
        }
    }

    /// Writes the node's own record; `done` is called when it is durable.
    func writeNodeState(then done: @escaping () -> Void) {
        batch.append(LogWrite(group: 0, note: nodeState.packed(wire.arena)))
        whenDurable(done)
    }

    /// Calls `done` when everything written so far is durable.
    func whenDurable(_ done: @escaping () -> Void) {
        batch.duties.append(.call(done))
        lane.requestTurn()
    }

    // MARK: stopping

    /// Hands leaderships over, waits at most `patience` for it, makes the state machines durable and closes the log.
    public func stop(patience: Interval, completion: @escaping () -> Void) {
        precondition(stopping == nil, "a node stops once")
        stopping = Stopping(deadline: lane.clock.now + patience, completion: completion)
        handOverLeaderships()
    }

    private func handOverLeaderships() {
        for replica in replicas where leadsOthers(replica) { inbox.append((replica, .transferRequested(nil))) }
        lane.requestTurn()
    }

    func leadsOthers(_ replica: Replica) -> Bool {
        replica.raft.isLeader && replica.raft.configuration.voters.count > 1
    }

    /// Called every turn while stopping.
    func continueStopping(_ current: Stopping) {
        // the vote for a successor is in the last batch
        let isDone = batchUnderWay == nil && batch.isEmpty && !replicas.contains(where: leadsOthers)
        guard !isOver, isDone || now >= current.deadline else { return }
        abandon()
        let machines = replicas.map(\.stateMachine)
        let log = self.log
        let logger = self.logger
        let completion = Box(current.completion)
        workers.apply.submit {
            for machine in machines {
                do throws(StateMachineError) { try machine.flush() } catch {
                    logger.log(.error, "a state machine could not be flushed", [("problem", error.description)])
                }
            }
        } completion: { [self] in
            // whoever still reads or tidies the log does so before it is closed
            workers.reader.submit {
            } completion: { [self] in
                workers.maintenance.submit {
                } completion: { [self] in
                    workers.log.submit {
                        do throws(StorageError) { try log.close() } catch {
                            logger.log(.error, "the log could not be closed", [("problem", error.description)])
                        }
                    } completion: {
                        completion.value()
                    }
                }
            }
        }
    }

    /// Answers everybody who waits: nothing will come of it any more here. A proposal may still be applied elsewhere.
    /// From now on whoever asks is refused at once.
    private func abandon() {
        isOver = true
        let waiting = deferred
        deferred = []
        for work in waiting { work() }
        for replica in replicas { replica.dismiss(.stopping) }
    }

    /// After the lane and the workers have ended: answers everybody who still waits, and lets go of replicas and
    /// connections, so that the data directory is free once the host is released. No other call may follow.
    public func dismiss() {
        abandon()
        (replicas, slots, byGroup, replicasByNode) = ([], [], [:], [:])
        removals = []
        (links, linkByNode) = ([], [:])
        (inbox, livenessInbox, dirty, applyReady, evaluations) = ([], [], [], [], [])
        (batch, batchUnderWay, passing, stopping, vitalsCheck) = (LogBatch(), nil, nil, nil, nil)
        (compaction, compactionCandidates) = (nil, [])
        for channel in receiving.channels.values { channel.close() }
        (sending.snapshots, sending.order, sending.reads, sending.exports) = ([:], [], FIFO(), FIFO())
        receiving = SnapshotReceiving()
    }
}

extension LogWrite {
    /// Whether it does nothing but drop the log's beginning.
    var isCompaction: Bool {
        guard case .compact = start else { return false }
        return hardState == nil && debt == nil && truncateFrom == nil && entries.isEmpty && note == nil
    }
}

/// A stop under way.
struct Stopping {
    var deadline: Instant
    var completion: () -> Void
}

public import RaftCore
import RaftStorage
import Transport

extension RaftHost {
    /// Hands the gathered batch to the log, unless one is under way.
    func submitLogBatch() {
        // a closed log takes nothing more, and nothing more is promised
        guard !batch.isEmpty || batchRetry != nil, !isOver else { return }
        guard batchUnderWay == nil else { return passBlockage() }
        packNodeState()
        if batch.writes.isEmpty {
            // nothing to write, and everything before is durable
            let duties = batch.duties
            batch.duties.removeAll(keepingCapacity: true)
            perform(duties)
            return
        }
        batchUnderWay = batch
        batch = LogBatch()
        if let began = batchBegan { metrics.queue.count(now - began) }
        batchBegan = nil
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
        let began = lane.clock.now
        let failure = Box<StorageError?>(nil)
        workers.log.submit {
            do throws(StorageError) { try log.write(writes) } catch { failure.value = error }
        } completion: { [self] in
            batchWritten(failure.value, began: began)
        }
    }

    private func batchWritten(_ failure: StorageError?, began: Instant) {
        now = lane.clock.now
        switch failure {
        case nil:
            guard let written = batchUnderWay else { preconditionFailure("a batch completed that was not under way") }
            batchUnderWay = nil
            metrics.log.count(now - began)
            metrics.loggedBytes &+= UInt64(written.byteCount)
            endBlockage()
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
            batchRetry = now + RaftHost.retryPace
            beginBlockage()
            // it may wait for this very batch
            endWaitingRound()
        case .some(let error):
            fail("the log cannot be written: \(error.description)")
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

    func perform(_ duties: [LogBatch.Duty]) {
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
            case .call(_, let body): deferred.append(body)
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
    ///
    /// All changes that go into one batch are packed once: thousands of replicas may come at a time, and each packing
    /// has all of them.
    func writeNodeState(then done: @escaping () -> Void) {
        isNodeStateChanged = true
        whenDurable(of: 0, done)
    }

    /// Adds the node's own record to the batch that is about to be written, if it is wanted there.
    func packNodeState() {
        guard isNodeStateChanged else { return }
        isNodeStateChanged = false
        batch.append(LogWrite(group: 0, note: nodeState.packed(wire.arena)))
    }

    /// Calls `done` when everything written so far is durable: of `group`, or, without one, of all. While the disk is full
    /// the former waits for nobody else's entries.
    func whenDurable(of group: LogGroup? = nil, _ done: @escaping () -> Void) {
        batch.duties.append(.call(group, done))
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
        let orders = saveOrders
        saveOrders = []
        for order in orders { order.completion(.failed(CliCode.notPermitted, "the node stops")) }
        for replica in replicas { replica.dismiss(.stopping) }
    }

    /// After the lane and the workers have ended: answers everybody who still waits, and lets go of replicas and
    /// connections, so that the data directory is free once the host is released. No other call may follow.
    public func dismiss() {
        abandon()
        (replicas, slots, byGroup, replicasByNode) = ([], [], [:], [:])
        removals = []
        warm = FIFO()
        (links, linkByNode) = ([], [:])
        for stranger in strangers { stranger.channel.close() }
        strangers = []
        (inbox, news, livenessInbox, dirty, applyReady, evaluations) = (FIFO(), [], [], [], [], [])
        (batch, batchUnderWay, blockage, passing) = (LogBatch(), nil, nil, nil)
        (stopping, vitalsCheck) = (nil, nil)
        (compaction, compactionCandidates) = (nil, [])
        for channel in receiving.channels.values { channel.close() }
        (sending.snapshots, sending.order, sending.reads, sending.exports) = ([:], [], FIFO(), FIFO())
        receiving = SnapshotReceiving()
    }
}

/// A stop under way.
struct Stopping {
    var deadline: Instant
    var completion: () -> Void
}

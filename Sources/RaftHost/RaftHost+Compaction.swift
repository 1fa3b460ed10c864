import RaftCore
import RaftStorage
import Transport

// The log's beginning goes once the state machines hold durably what it says. Nothing here happens without something
// having been written: what has grown too much is looked at, at most once per pace, all of it in one round:
//
// 1. maintenance: what is in the log, and who keeps its oldest segment alive
// 2. maintenance: one flush of the store, then what each replica concerned holds durably
// 3. lane: the replicas' logs are compacted, a few per turn
// 4. log: what keeps old segments alive is written anew, segments without anything alive are taken out
// 5. maintenance: their files go, and now and then the log's index is written, for a quick start

/// A round of compaction.
struct CompactionRound {
    /// What the replicas hold durably, of those that are yet to be compacted.
    var found: [(slot: Int, generation: Int, durable: SnapshotMeta)] = []
    /// Set while it waits for what was compacted to be durable.
    var awaitsBatch = false
    /// The log is larger than half its bound, or about to refuse entries.
    var isPressed = false
    var isTight = false
    /// It is worth writing anew what keeps its oldest segments alive.
    var carries = false
    /// Set while a worker has it.
    var isAtWorker = true
    /// Bytes of the log when it began.
    var logBytes = 0
}

/// The log is kept for a peer that is being sent a snapshot, until the peer has it and has caught up.
struct SnapshotPin {
    var peer: PeerID
    /// What the peer has, or will have.
    var position: LogIndex
    /// When it was last seen to get on.
    var progressAt: Instant
}

extension RaftHost {
    /// Logs that are compacted in one turn.
    private static let compactionsPerTurn = 16
    /// What is written anew in one round to free old segments.
    private static let carriedBytes = 4 << 20

    /// Whether anything can take the place of the log's beginning.
    func isCompactable(_ replica: Replica) -> Bool {
        settings.compacts && (replica.id.role == .witness || replica.stateMachine is any SnapshotStateMachine)
    }

    /// Called when `write` goes to the log.
    func noteGrowth(of replica: Replica, _ write: LogWrite) {
        for entry in write.entries {
            replica.growth.append(entry.position.index, payloadBytes: entry.payload.count)
            grownBytes += entry.payload.count
            if let configuration = entry.configuration {
                replica.memberships.append(
                    PlacedConfiguration(index: entry.position.index, configuration: configuration))
            }
        }
        grownBytes += 64
        askForCompaction(replica)
    }

    /// Has the replica looked at if its log has grown too much since it was last.
    func askForCompaction(_ replica: Replica) {
        guard !replica.isCompactionCandidate, !replica.isRemoved, isCompactable(replica),
            replica.growth.bytes >= replica.compactionBytes
                || replica.raft.base.index.distance(to: replica.raft.lastIndex) >= replica.compactionEntries
        else { return }
        proposeForCompaction(replica)
    }

    /// Has the replica looked at in the next round.
    func proposeForCompaction(_ replica: Replica) {
        guard !replica.isCompactionCandidate, isCompactable(replica) else { return }
        replica.isCompactionCandidate = true
        compactionCandidates.append(replica)
        lane.requestTurn()
    }

    /// Called once a turn; returns when the next round is due, if one is.
    func pursueCompaction() -> Instant? {
        guard settings.compacts, !isOver, stopping == nil else { return nil }
        if let round = compaction {
            if !round.isAtWorker { compactNext() }
            return nil
        }
        // a log that takes nothing does not grow, and is looked at all the same until it does
        guard
            !compactionCandidates.isEmpty || grownBytes >= settings.lookBytes || wantsCompaction || isLogTight
                || isShortOfRoom
        else { return nil }
        guard nextCompaction <= now else { return nextCompaction }
        nextCompaction = now + settings.compactionPace
        bytesSinceCheckpoint += grownBytes
        (grownBytes, wantsCompaction) = (0, false)
        beginRound()
        return nil
    }

    private func beginRound() {
        compaction = CompactionRound()
        let log = self.log
        let usage = Box<LogUsage?>(nil)
        workers.maintenance.submit {
            usage.value = log.usage()
        } completion: { [self] in
            guard let usage = usage.value, !isOver else { return }
            now = lane.clock.now
            let isPressed = usage.totalBytes > usage.spaceBytes / 2
            compaction?.logBytes = usage.totalBytes
            compaction?.isPressed = isPressed
            compaction?.isTight = usage.isTight
            compaction?.carries =
                isPressed || usage.isMostlyDead(segmentBytes: usage.totalBytes / max(usage.segments, 1))
            noteGuests(usage)
            if isPressed || isShortOfRoom {
                for pin in usage.pins {
                    guard let replica = replicas.first(where: { $0.record.number == pin.group }) else { continue }
                    proposeForCompaction(replica)
                    requestSave(of: replica)
                }
            }
            findDurable()
        }
    }

    /// What is durable is read back, never inferred.
    private func findDurable() {
        let candidates = compactionCandidates
        compactionCandidates.removeAll(keepingCapacity: true)
        let machines = candidates.map { ($0.slot, $0.generation, $0.stateMachine as? any SnapshotStateMachine) }
        guard !candidates.isEmpty else { return endRound() }
        let store = self.store
        let logger = self.logger
        let found = Box<[(slot: Int, generation: Int, durable: SnapshotMeta)]>([])
        workers.maintenance.submit {
            do throws(StateMachineError) {
                try store?.flush()
                for case (let slot, let generation, let machine?) in machines {
                    if let meta = try machine.durableMeta() { found.value.append((slot, generation, meta)) }
                }
            } catch {
                logger.log(.warning, "the log cannot be compacted now", [("problem", error.description)])
            }
        } completion: { [self] in
            now = lane.clock.now
            for replica in candidates {
                replica.isCompactionCandidate = false
                if replica.id.role == .witness {
                    let meta = SnapshotMeta(
                        last: LogPosition(term: .zero, index: replica.applied), configuration: .empty)
                    found.value.append((replica.slot, replica.generation, meta))
                }
                replica.noteLook(settings)
            }
            compaction?.found = found.value
            compaction?.isAtWorker = false
            lane.requestTurn()
        }
    }

    private func compactNext() {
        for _ in 0..<RaftHost.compactionsPerTurn {
            guard let (slot, generation, durable) = compaction?.found.popLast() else {
                compaction?.isAtWorker = true
                compaction?.awaitsBatch = true
                whenDurable { [self] in endWaitingRound() }
                // what frees room does not wait for room
                if isLogFull { endWaitingRound() }
                return
            }
            // what the state was asked for may be another one's by now
            guard let replica = slots[slot], replica.generation == generation, !replica.isSwitching, !replica.needsState
            else { continue }
            replica.durableState = durable.last.index
            compact(replica, durable)
        }
        lane.requestTurn()
    }

    private func compact(_ replica: Replica, _ durable: SnapshotMeta) {
        let isPressed = compaction?.isPressed ?? false
        let index = compactionTarget(of: replica, durable: durable.last.index, isPressed: isPressed)
        guard index > replica.raft.base.index, let term = replica.raft.term(at: index),
            let membership = replica.memberships.last(where: { $0.index <= index })
        else { return }
        let base = LogBase(
            position: LogPosition(term: term, index: index), configuration: membership.configuration)
        logger.log(
            .debug, "log compacted",
            [("group", replica.group), ("index", index.description), ("last", replica.raft.lastIndex.description)])
        step(
            replica, .compacted(through: index),
            StepContext(write: LogWrite(group: replica.record.number, start: .compact(base))))
        replica.noteLook(settings)
    }

    /// The log takes no entries for want of room, its own or the disk's.
    private var isShortOfRoom: Bool { isLogFull || hasLittleRoom }

    /// Whether all that could be known to be at `peer` is gone from the leader's log.
    private func isOutOfReach(_ peer: PeerID, of raft: Raft) -> Bool {
        guard let progress = raft.progress(of: peer), progress.match < raft.base.index else { return false }
        // one that has not answered yet may hold anything but entries of this term
        return progress.match > .zero || progress.isInstalling || raft.base.term == raft.term
    }

    /// Up to where the log may go.
    private func compactionTarget(of replica: Replica, durable: LogIndex, isPressed: Bool) -> LogIndex {
        let raft = replica.raft
        let last = raft.lastIndex
        let floor = max(
            last.advanced(by: -settings.keptEntries), min(replica.growth.index(keeping: settings.keptBytes), last))
        // a state may be ahead of a core that took the place of another
        var target = min(min(durable, replica.applied), min(raft.commitIndex, raft.durableIndex))
        // rather another snapshot, or a member that is left behind, than a log that takes nothing more
        let isTight = compaction?.isTight == true || isShortOfRoom
        if raft.isLeader, !takesSnapshots(replica), !isTight {
            // nothing else could take the log's place there
            for peer in raft.peers where !isOutOfReach(peer, of: raft) {
                target = min(target, raft.progress(of: peer)?.match ?? .zero)
            }
        } else if raft.isLeader {
            // for those who lag a little, the rest gets a snapshot
            for peer in raft.peers where !isPressed || liveness.isReachable(peer.address) {
                guard let progress = raft.progress(of: peer), !progress.isInstalling else { continue }
                target = min(target, max(progress.match, floor))
            }
        } else if !isPressed {
            // whoever leads next has the same duties
            target = min(target, floor)
        }
        replica.pins = replica.pins.compactMap { renewed($0, of: replica) }
        guard !isTight else { return target }
        for pin in replica.pins { target = min(target, pin.position) }
        return target
    }

    /// The pin as it holds now; nil once the peer has caught up, or gets on no more.
    private func renewed(_ pin: SnapshotPin, of replica: Replica) -> SnapshotPin? {
        guard let progress = replica.raft.progress(of: pin.peer), progress.match < replica.raft.commitIndex else {
            return nil
        }
        var pin = pin
        if progress.match > pin.position { (pin.position, pin.progressAt) = (progress.match, now) }
        return pin.progressAt + settings.pinPatience > now ? pin : nil
    }

    /// Ends a round that waits for its writes, once: when they are durable, or when there is no room for them.
    func endWaitingRound() {
        guard compaction?.awaitsBatch == true else { return }
        compaction?.awaitsBatch = false
        endRound()
    }

    private func endRound() {
        guard !isOver else { return }
        let log = self.log
        let logger = self.logger
        let carries = compaction?.carries ?? false
        let unreadable = Box<[LogGroup]>([])
        let failure = Box<StorageError?>(nil)
        workers.log.submit {
            do throws(StorageError) {
                // first, for there may be no room to carry anything
                try log.reclaim()
                if carries {
                    unreadable.value = try log.carryForward(maxBytes: RaftHost.carriedBytes).damaged
                    try log.reclaim()
                }
            } catch {
                failure.value = error
            }
        } completion: { [self] in
            switch failure.value {
            case nil: break
            case .failed(let reason):
                if !isOver { fail("the log cannot be written: \(reason)") }
                return
            case .some(let error):
                // nothing has changed; the next round tries again
                logger.log(.warning, "the log's space cannot be freed now", [("problem", error.description)])
            }
            let writesIndex = bytesSinceCheckpoint >= settings.lookBytes
            if writesIndex { bytesSinceCheckpoint = 0 }
            for group in unreadable.value {
                guard let replica = replicas.first(where: { $0.record.number == group }) else { continue }
                repairLog(of: replica, from: replica.raft.base.index.next, "entries could not be carried forward")
            }
            workers.maintenance.submit {
                do throws(StorageError) {
                    try log.deleteRetired()
                    if writesIndex { try log.checkpoint() }
                } catch {
                    logger.log(.warning, "old parts of the log stay for now", [("problem", error.description)])
                }
            } completion: { [self] in
                isLogTight = log.isTight
                // as long as it helps
                if carries, log.totalBytes < compaction?.logBytes ?? 0 { wantsCompaction = true }
                compaction = nil
                lane.requestTurn()
            }
        }
    }
}

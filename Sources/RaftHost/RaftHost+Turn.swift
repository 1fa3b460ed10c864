public import RaftCore
import RaftStorage
import Transport

extension RaftHost {
    /// One turn of the lane. Returns when the next one is due at the latest.
    public func turn(now: Instant) -> Instant? {
        self.now = now
        guard !hasFailed else {
            // whoever waits gets an answer; nothing else is done any more
            submitEvaluations()
            runDeferred()
            return nil
        }
        // what is done at the end of a round may bring work for another; a bound keeps the turn short
        for _ in 0..<8 {
            drainInboxes()
            fireDeadlines()
            stepDirty()
            submitLogBatch()
            if !isOver {
                stalledRetry = retryStalled()
                submitApply()
            }
            guard !deferred.isEmpty else { break }
            runDeferred()
        }
        submitEvaluations()
        if let stopping { continueStopping(stopping) }
        if !isOver {
            for link in links { pump(link) }
        }
        if !inbox.isEmpty || !livenessInbox.isEmpty || !dirty.isEmpty || !deferred.isEmpty { lane.requestTurn() }
        return nextDeadline()
    }

    private func drainInboxes() {
        while !inbox.isEmpty || !livenessInbox.isEmpty {
            if !livenessInbox.isEmpty {
                let events = livenessInbox
                livenessInbox.removeAll(keepingCapacity: true)
                for event in events { stepLiveness(event) }
            }
            let events = inbox
            inbox.removeAll(keepingCapacity: true)
            for (replica, event) in events { step(replica, event) }
        }
    }

    private func fireDeadlines() {
        if let deadline = liveness.deadline, deadline <= now { stepLiveness(.deadlineReached) }
        while let due = heap.popDue(now) {
            let replica = replicas[due.slot]
            guard replica.armed == due.at else { continue }
            replica.armed = nil
            if let deadline = replica.raft.deadline, deadline <= now {
                step(replica, .deadlineReached)
            } else {
                arm(replica)
            }
        }
        for link in links {
            _ = link.data.expire(now: now)
            _ = link.liveness.expire(now: now)
            resetIfHung(link)
        }
        guard stopping?.isClosing != true else { return }
        if hasLittleRoom { checkFreeSpace() }
        if let at = sealAt, at <= now, batchUnderWay == nil {
            sealAt = nil
            seal()
        }
        if let retry = batchRetry, retry <= now {
            batchRetry = nil
            writeBatch()
        }
    }

    private func stepDirty() {
        while !dirty.isEmpty {
            let replicas = dirty
            dirty.removeAll(keepingCapacity: true)
            for replica in replicas {
                replica.isDirty = false
                if !replica.proposing.isEmpty { propose(replica) }
                if !replica.reading.isEmpty { startRead(replica) }
            }
        }
    }

    private func propose(_ replica: Replica) {
        if replica.problem != nil {
            for proposal in replica.proposing { deferred.append { proposal.completion(.refused(.damaged)) } }
            replica.proposing.removeAll()
            replica.proposedBytes = 0
            return
        }
        guard replica.raft.acceptsProposals else {
            let leader = replica.raft.isLeader ? nil : replica.raft.leader
            for proposal in replica.proposing {
                replica.proposedBytes -= proposal.payload.count
                deferred.append { proposal.completion(.notLeader(leader)) }
            }
            replica.proposing.removeAll()
            return
        }
        step(replica, .proposed(count: replica.proposing.count))
    }

    private func startRead(_ replica: Replica) {
        nextRead += 1
        let completions = replica.reading
        replica.reading.removeAll(keepingCapacity: true)
        replica.readRounds.append((nextRead, completions))
        step(replica, .readRequested(nextRead))
    }

    private func runDeferred() {
        let work = deferred
        deferred.removeAll(keepingCapacity: true)
        for item in work { item() }
    }

    private func nextDeadline() -> Instant? {
        guard stopping?.isClosing != true else { return nil }
        var earliest = heap.earliest ?? .distantFuture
        let nextLook = hasLittleRoom && !isCheckingFreeSpace ? freeSpaceChecked + RaftHost.freeSpacePace : nil
        for candidate in [liveness.deadline, sealAt, batchRetry, stopping?.deadline, stalledRetry, nextLook] {
            if let candidate, candidate < earliest { earliest = candidate }
        }
        for link in links {
            if let at = link.data.expire(now: now), at < earliest { earliest = at }
            if let at = link.liveness.expire(now: now), at < earliest { earliest = at }
        }
        return earliest == .distantFuture ? nil : earliest
    }

    func arm(_ replica: Replica) {
        guard let deadline = replica.raft.deadline else {
            replica.armed = nil
            return
        }
        // an earlier wake-up that is in the heap already will arm the later one when it comes
        if let armed = replica.armed, armed <= deadline { return }
        replica.armed = deadline
        heap.push(deadline, slot: replica.slot)
    }

    // MARK: stepping

    /// Whatever belongs to the event besides what the core sees.
    struct StepContext {
        var responder: RpcResponder?
        var incoming: [LogEntry] = []
    }

    func step(_ replica: Replica, _ event: Event, _ context: StepContext = StepContext()) {
        let wasLeader = replica.raft.isLeader
        effects.removeAll()
        replica.raft.step(event, now: now, liveness: liveness, into: &effects)
        let write = execute(effects, of: replica, context)
        observer?.stepped(replica.group, event, replica.raft, effects, write)
        arm(replica)
        if wasLeader != replica.raft.isLeader { leadershipChanged(replica) }
    }

    /// Returns what it has given the log to write.
    private func execute(_ effects: Effects, of replica: Replica, _ context: StepContext) -> LogWrite? {
        var written: LogWrite?
        for message in effects.messages { send(message, from: replica) }
        if let reply = effects.reply, let responder = context.responder {
            responder.reply(body: wire.packReply(reply))
        }
        if effects.hardState != nil || effects.logChange != nil {
            var write = LogWrite(group: replica.record.number, hardState: effects.hardState)
            if let change = effects.logChange { apply(change, to: replica, context, &write) }
            batch.append(write)
            written = write
            batch.duties.append(.persisted(replica, replica.raft.durableMark))
            if effects.logChange?.truncateFrom != nil || write.entries.contains(where: { $0.configuration != nil }) {
                membershipChanged(replica)
            }
        }
        if let acknowledgement = effects.acknowledgement, let responder = context.responder {
            batch.duties.append(.acknowledge(replica, responder, acknowledgement))
        }
        if !effects.durableMessages.isEmpty { batch.duties.append(.send(replica, effects.durableMessages)) }
        if let applicable = effects.applicable, applicable > replica.applicable {
            replica.applicable = applicable
            readyToApply(replica)
        }
        for ready in effects.readyReads { finishRead(replica, ready.read, at: ready.index) }
        for read in effects.failedReads { finishRead(replica, read, at: nil) }
        if let refusal = effects.refusal {
            refusals[refusal, default: 0] += 1
            logger.log(
                .warning, "message refused",
                [("group", replica.group), ("reason", refusal.rawValue), ("term", replica.raft.term.description)])
        }
        if effects.statusChanged {
            logger.log(
                .debug, "status changed",
                [
                    ("group", replica.group), ("role", "\(replica.raft.role)"), ("term", replica.raft.term.description),
                    ("index", replica.raft.lastIndex.description),
                    ("leader", replica.raft.leader?.description ?? "none"),
                ])
        }
        return written
    }

    private func apply(_ change: LogChange, to replica: Replica, _ context: StepContext, _ write: inout LogWrite) {
        write.truncateFrom = change.truncateFrom
        if let from = change.truncateFrom {
            replica.tail.truncate(from: from)
            logger.log(
                .info, "log cut",
                [("group", replica.group), ("index", from.description), ("term", change.term.description)])
        }
        switch change.source {
        case .message(let offset):
            write.entries = Array(context.incoming[offset..<offset + change.count])
        case .configuration(let configuration):
            let position = LogPosition(term: change.term, index: change.first)
            write.entries = [
                LogEntry(position: position, kind: .configuration, payload: Bytes(), configuration: configuration)
            ]
        case .proposal:
            precondition(change.count == replica.proposing.count, "the core took another number of proposals")
            write.entries.reserveCapacity(change.count)
            for (offset, proposal) in replica.proposing.enumerated() {
                let position = LogPosition(term: change.term, index: change.first.advanced(by: offset))
                write.entries.append(LogEntry(position: position, kind: .data, payload: proposal.payload))
                replica.proposed.append(
                    Proposed(
                        position: position, byteCount: proposal.payload.count, completion: proposal.completion))
            }
            replica.proposing.removeAll(keepingCapacity: true)
        }
        for entry in write.entries { replica.tail.append(entry) }
    }

    private func leadershipChanged(_ replica: Replica) {
        let isLeader = replica.raft.isLeader
        logger.log(
            .info, isLeader ? "leads" : "leads no more",
            [
                ("group", replica.group), ("term", replica.raft.term.description),
                ("index", replica.raft.lastIndex.description),
            ])
        if !isLeader {
            // the entries may still be committed by the next leader: nobody can tell yet
            for proposal in replica.proposed.removeAll() { deferred.append { proposal.completion(.unknown) } }
            let leader = replica.raft.leader
            for proposal in replica.proposing { deferred.append { proposal.completion(.notLeader(leader)) } }
            replica.proposing.removeAll()
            replica.proposedBytes = 0
            for outlet in replica.outlets { outlet.clear() }
            let waiting = replica.awaitingApply
            replica.awaitingApply.removeAll()
            for read in waiting { finish(read.completions, of: replica, .notLeader(leader)) }
        } else if replica.problem != nil {
            inbox.append((replica, .transferRequested(nil)))
        }
        let group = replica.group
        deferred.append { [self] in onLeadership(group, isLeader) }
        lane.requestTurn()
    }

    // MARK: reads

    private func finishRead(_ replica: Replica, _ read: UInt64, at index: LogIndex?) {
        // everybody has been answered already
        guard !isOver else { return }
        // rounds end in their order, except that a leader that steps down fails them all
        guard let first = replica.readRounds.popFirst(), first.read == read else {
            preconditionFailure("read \(read) finished out of order")
        }
        guard let index else {
            return finish(first.completions, of: replica, .notLeader(replica.raft.leader))
        }
        if replica.problem != nil {
            finish(first.completions, of: replica, .refused(.damaged))
        } else if index <= replica.applied {
            finish(first.completions, of: replica, .ready)
        } else {
            replica.awaitingApply.append((index, first.completions))
        }
    }

    /// Answers reads, in the turn's end.
    func finish(_ completions: [(ReadOutcome) -> Void], of replica: Replica, _ outcome: ReadOutcome) {
        replica.readsWaiting -= completions.count
        for completion in completions { deferred.append { completion(outcome) } }
        lane.requestTurn()
    }

    // MARK: liveness

    func stepLiveness(_ event: NodeLiveness.Event) {
        livenessEffects.removeAll()
        liveness.step(event, now: now, into: &livenessEffects)
        let requests = livenessEffects.requests
        let changed = livenessEffects.changed
        for (to, request) in requests { sendSupportRequest(request, to: to) }
        for node in changed {
            linkByNode[node]?.silentSince = liveness.supportStands(from: node, now: now) ? nil : now
            logger.log(
                .info, "liveness changed",
                [
                    ("node", node.description), ("promised", "\(liveness.promiseStands(to: node, now: now))"),
                    ("supported", "\(liveness.supportStands(from: node, now: now))"),
                ])
            for replica in replicasByNode[node] ?? [] { inbox.append((replica, .livenessChanged(node))) }
        }
        if !changed.isEmpty { lane.requestTurn() }
    }

    /// Rebuilds what hangs on who shares groups with whom.
    func membershipChanged(_ replica: Replica) {
        let members = replica.raft.configuration.members.map(\.address).filter { $0 != identity.address }
        var isNewNode = false
        for node in members where replicasByNode[node]?.contains(where: { $0 === replica }) != true {
            replicasByNode[node, default: []].append(replica)
            if linkByNode[node] == nil {
                makeLink(to: node)
                isNewNode = true
            }
        }
        if isNewNode { livenessInbox.append(.track(links.map(\.address).sorted())) }
    }
}

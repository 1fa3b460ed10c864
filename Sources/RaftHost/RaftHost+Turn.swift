public import RaftCore
import RaftStorage
import Transport

extension RaftHost {
    /// How long events of replicas, and those who take turns, may keep a turn from its end. Both together with one read of
    /// each connection and one batch are far below the shortest promise.
    static let eventsTime = Interval.milliseconds(8)
    static let pacedTime = Interval.milliseconds(4)
    private static let eventsBetweenLooks = 8
    private static let pacedBetweenLooks = 4

    /// One turn of the lane. Returns when the next one is due at the latest.
    public func turn(now: Instant) -> Instant? {
        self.now = now
        guard !hasFailed else {
            // whoever waits gets an answer; nothing else is done any more
            submitEvaluations()
            runDeferred()
            return nil
        }
        // what else is done in a node's turn was done before, and is not to cost the replicas theirs
        eventsEnd = lane.clock.now + RaftHost.eventsTime
        pacedEnd = nil
        // what is done at the end of a round may bring work for another; a bound keeps the turn short
        for _ in 0..<8 {
            drainInboxes()
            fireDeadlines()
            stepPaced()
            stepDirty()
            submitLogBatch()
            if !isOver {
                stalledRetry = retryStalled()
                submitApply()
                repairsDue = pursueRepairs()
                statesDue = pursueStates()
                guestsDue = pursueGuests()
                pursueRemovals()
                saveOrdersDue = pursueSaveOrders()
                compactionDue = pursueCompaction()
                comparisonDue = pursueComparing()
                trialsDue = pursueTrials()
                savingDue = pursueSaving()
                coolingDue = pursueCooling()
                snapshotsDue = [pursueSending(), pursueReceiving()].lazy.compactMap { $0 }.min()
            }
            guard !deferred.isEmpty else { break }
            runDeferred()
        }
        submitEvaluations()
        if let stopping { continueStopping(stopping) }
        if !isOver {
            for link in links { pump(link) }
        }
        finishVitalsCheck()
        let next = nextDeadline()
        let isDone = inbox.isEmpty && news.isEmpty && livenessInbox.isEmpty && dirty.isEmpty && deferred.isEmpty
        if !isDone { lane.requestTurn() }
        return next
    }

    /// Promises first, and again between the others' events, of which there may be one for each of many thousand
    /// replicas.
    private func drainInboxes() {
        drainLiveness()
        var count = 0
        while let (replica, event) = nextNews() ?? inbox.popFirst() {
            step(replica, event)
            count += 1
            guard count % RaftHost.eventsBetweenLooks == 0 else { continue }
            drainLiveness()
            if lane.clock.now >= eventsEnd { return }
        }
        if !livenessInbox.isEmpty { drainInboxes() }
    }

    private func nextNews() -> (Replica, Event)? {
        guard !news.isEmpty else { return nil }
        let next = (news[0].replicas[news[0].next], news[0].event)
        news[0].next += 1
        if news[0].next == news[0].replicas.count { news.removeFirst() }
        return next
    }

    private func drainLiveness() {
        while !livenessInbox.isEmpty {
            let events = livenessInbox
            livenessInbox.removeAll(keepingCapacity: true)
            for event in events { stepLiveness(event) }
        }
    }

    private func fireDeadlines() {
        if let deadline = liveness.deadline, deadline <= now { stepLiveness(.deadlineReached) }
        while let due = heap.popDue(now) {
            guard let replica = slots[due.slot], replica.armed == due.at else { continue }
            replica.armed = nil
            if replica.raft.isElectionDue(now: now) {
                pacer.add(replica.slot, now: now)
            } else if let deadline = replica.raft.deadline, deadline <= now {
                step(replica, .deadlineReached)
            } else {
                arm(replica)
            }
        }
        guard !isOver else { return }
        if hasLittleRoom { checkFreeSpace() }
        if let due = handOverDue, due <= now { retryHandOvers() }
        if let at = sealAt, at <= now, batchUnderWay == nil {
            sealAt = nil
            seal()
        }
        if let retry = batchRetry, retry <= now {
            // what overtakes it is written first
            batchRetry = passing == nil ? nil : now + RaftHost.retryPace
            if passing == nil { writeBatch() }
        }
    }

    /// Steps the replicas whose turn has come to speak of their own accord.
    ///
    /// Counts are no measure of time: on a busy machine, or with slow peers, a few hundred campaigns take longer than
    /// promises may wait. What is left goes on in the next turn, behind the sockets and the promises.
    private func stepPaced() {
        guard pacer.count > 0 else { return }
        let end = pacedEnd ?? lane.clock.now + RaftHost.pacedTime
        pacedEnd = end
        var count = 0
        while count % RaftHost.pacedBetweenLooks != 0 || lane.clock.now < end || count == 0,
            let slot = pacer.next(now: now)
        {
            count += 1
            guard let replica = slots[slot] else {
                pacer.giveBack()
                continue
            }
            let news = replica.news
            replica.news.removeAll()
            for node in news { step(replica, .livenessChanged(node)) }
            if replica.raft.isElectionDue(now: now) {
                step(replica, .deadlineReached)
            } else if news.isEmpty {
                // there is a leader by now
                pacer.giveBack()
                arm(replica)
            }
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
                if !replica.asking.isEmpty { startQuorumRead(replica) }
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

    /// Reads of this turn share one number; a lease may spare them the question to a majority.
    private func startRead(_ replica: Replica) {
        nextRead += 1
        let completions = replica.reading
        replica.reading.removeAll(keepingCapacity: true)
        replica.readRounds.append((nextRead, now, completions))
        step(replica, .readRequested(nextRead, lease: true))
    }

    /// Those whose lease lapsed meanwhile.
    private func startQuorumRead(_ replica: Replica) {
        nextRead += 1
        let completions = replica.asking
        replica.asking.removeAll(keepingCapacity: true)
        replica.readRounds.append((nextRead, now, completions))
        step(replica, .readRequested(nextRead, lease: false))
    }

    private func runDeferred() {
        let work = deferred
        deferred.removeAll(keepingCapacity: true)
        for item in work { item() }
    }

    /// Looks after the connections and says when the next turn is due.
    private func nextDeadline() -> Instant? {
        guard !isOver else { return nil }
        var earliest = heap.earliest ?? .distantFuture
        let nextLook = hasLittleRoom && !isCheckingFreeSpace ? freeSpaceChecked + RaftHost.freeSpacePace : nil
        let candidates = [
            liveness.deadline, pacer.deadline, sealAt, batchRetry, stopping?.deadline, stalledRetry, handOverDue,
            nextLook, compactionDue, snapshotsDue, savingDue, saveOrdersDue, repairsDue, statesDue, comparisonDue,
            trialsDue, guestsDue, coolingDue,
        ]
        for candidate in candidates {
            if let candidate, candidate < earliest { earliest = candidate }
        }
        if let at = pursueStrangers(), at < earliest { earliest = at }
        if let at = pursueForeignNotes(), at < earliest { earliest = at }
        for link in links {
            resetIfHung(link)
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
        /// What is to be written of the replica in any case, first of all.
        var write: LogWrite?
        /// The number of the state that a received snapshot was put under.
        var store: UInt64?
    }

    func step(_ replica: Replica, _ event: Event, _ context: StepContext = StepContext()) {
        effects.removeAll()
        // what was said to it, or came of what it had asked for, came too late
        guard !replica.isRemoved else { return }
        let wasLeader = replica.raft.isLeader
        replica.raft.step(event, now: now, liveness: liveness, into: &effects)
        let write = execute(effects, of: replica, context)
        observer?.stepped(replica.group, event, replica.raft, effects, write)
        if replica.owes { notePayment(of: replica) }
        arm(replica)
        if wasLeader != replica.raft.isLeader { leadershipChanged(replica) }
    }

    /// Returns what it has given the log to write.
    private func execute(_ effects: Effects, of replica: Replica, _ context: StepContext) -> LogWrite? {
        var written: LogWrite?
        if effects.peersChanged { membershipChanged(replica) }
        if !effects.elections.isEmpty { metrics.count(effects.elections) }
        if let verdict = effects.verdict { metrics.count(verdict) }
        for message in effects.messages { send(message, from: replica) }
        if let reply = effects.reply, let responder = context.responder {
            responder.reply(body: wire.packReply(reply))
        }
        if effects.hardState != nil || effects.logChange != nil || effects.install != nil || context.write != nil {
            var write = context.write ?? LogWrite(group: replica.record.number)
            write.hardState = effects.hardState
            if let install = effects.install { apply(install, context, &write) }
            if let start = write.start { replica.noteStart(start) }
            if isLogFull, write.isCompaction, effects.logChange == nil, effects.install == nil {
                writeAhead(write)
                return nil
            }
            if let change = effects.logChange { apply(change, to: replica, context, &write) }
            noteGrowth(of: replica, write)
            batchBegan = batchBegan ?? now
            batch.append(write)
            written = write
            batch.duties.append(.persisted(replica, replica.raft.durableMark))
        }
        if let acknowledgement = effects.acknowledgement, let responder = context.responder {
            batch.duties.append(.acknowledge(replica, responder, acknowledgement))
        }
        if !effects.durableMessages.isEmpty { batch.duties.append(.send(replica, effects.durableMessages)) }
        if let applicable = effects.applicable, applicable > replica.applicable {
            replica.applicable = applicable
            noteCommitted(applicable, of: replica)
            readyToApply(replica)
        }
        for ready in effects.readyReads { finishRead(replica, ready) }
        for read in effects.failedReads { failRead(replica, read) }
        for (_, reply) in effects.readIndexReplies {
            answerQuestion(reply.sequence, of: replica, .readIndexReply(reply))
        }
        for (change, outcome) in effects.finishedChanges { finishChange(change, outcome, of: replica) }
        if let refusal = effects.refusal {
            refusals[refusal, default: 0] += 1
            logger.log(
                .warning, "message refused",
                [("group", replica.group), ("reason", refusal.rawValue), ("term", replica.raft.term.description)])
        }
        if effects.statusChanged {
            if let leader = replica.raft.leader, liveness.isForeign(leader.address) {
                let group = replica.group
                deferred.append { [self] in onForeignLeader(group) }
            }
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

    /// The log begins anew, and in the same write the state becomes the replica's that it continues.
    private func apply(_ install: SnapshotInstall, _ context: StepContext, _ write: inout LogWrite) {
        let base = LogBase(position: install.meta.last, configuration: install.meta.configuration)
        write.start = install.keepsSuffix ? .compact(base) : .reset(base)
        if let store = context.store { write.note = ReplicaNote(store: store).packed(wire.arena) }
    }

    private func apply(_ change: LogChange, to replica: Replica, _ context: StepContext, _ write: inout LogWrite) {
        write.truncateFrom = change.truncateFrom
        if let from = change.truncateFrom {
            replica.cutLog(from: from)
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
            follow(change.first.advanced(by: change.count - 1), of: replica)
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
        if isLeader { metrics.leadershipsGained += 1 } else { metrics.leadershipsLost += 1 }
        if !isLeader {
            replica.followed = nil
            // the entries may still be committed by the next leader: nobody can tell yet
            let isHonest = !planted("unknown-outcomes-are-called-refused")
            for proposal in replica.proposed.removeAll() {
                deferred.append { proposal.completion(isHonest ? .unknown : .refused(.busy)) }
            }
            let leader = replica.raft.leader
            for proposal in replica.proposing { deferred.append { proposal.completion(.notLeader(leader)) } }
            replica.proposing.removeAll()
            replica.proposedBytes = 0
            for outlet in replica.outlets { outlet.clear() }
            let waiting = replica.awaitingApply
            replica.awaitingApply.removeAll()
            for read in waiting { finish(read.completions, of: replica, .notLeader(leader)) }
        } else if replica.problem != nil {
            handOver(replica)
        }
        if replica.isGuest { guestLeadershipChanged(replica) }
        let group = replica.group
        deferred.append { [self] in onLeadership(group, isLeader) }
        lane.requestTurn()
    }

    // MARK: reads

    /// Rounds end in their order, a leader that steps down fails them all in it; only a lease may let the latest pass.
    private func takeRound(
        _ read: UInt64, of replica: Replica
    ) -> (since: Instant, completions: [(ReadOutcome) -> Void])? {
        // everybody has been answered already
        guard !isOver else { return nil }
        let isLatest = replica.readRounds.last?.read == read
        guard let round = isLatest ? replica.readRounds.popLast() : replica.readRounds.popFirst(), round.read == read
        else { preconditionFailure("read \(read) finished out of order") }
        return (round.since, round.completions)
    }

    /// The core that was asked is gone.
    func failReads(of replica: Replica) {
        for round in replica.readRounds.removeAll() { finish(round.completions, of: replica, .notLeader(nil)) }
    }

    private func failRead(_ replica: Replica, _ read: UInt64) {
        guard let completions = takeRound(read, of: replica)?.completions else { return }
        finish(completions, of: replica, .notLeader(replica.raft.leader))
    }

    private func finishRead(_ replica: Replica, _ ready: ReadyRead) {
        guard let (since, completions) = takeRound(ready.read, of: replica) else { return }
        metrics.readMoment.count(now - since, times: completions.count)
        metrics.reads &+= UInt64(completions.count)
        noteOperations(completions.count, of: replica)
        let moment = ReadMoment(group: replica.group, replica: replica.record.number, lease: ready.lease)
        if replica.problem != nil {
            finish(completions, of: replica, .refused(.damaged))
        } else if ready.index <= replica.applied || planted("read-before-applied") {
            finish(completions, of: replica, .ready(moment))
        } else {
            replica.awaitingApply.append((ready.index, moment, completions))
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
        let checks = livenessEffects.checksVitals
        for (to, request) in requests { sendSupportRequest(request, to: to) }
        if checks { checkVitals() }
        for node in changed {
            if let link = linkByNode[node] {
                link.silentSince = liveness.isReachable(node) ? nil : link.silentSince ?? now
            }
            logger.log(
                .info, "liveness changed",
                [
                    ("node", node.description), ("promised", "\(liveness.promiseStands(to: node, now: now))"),
                    ("supported", "\(liveness.supportStands(from: node, now: now))"),
                    ("reachable", "\(liveness.isReachable(node))"),
                ])
            tellReplicas(of: node)
        }
        if !changed.isEmpty { lane.requestTurn() }
    }

    /// Tells every replica that shares a group with `node` that it stands otherwise with it now. For most that is a
    /// matter of memory; but a leader that `node` supports sends it something, and waits for its turn.
    func tellReplicas(of node: NodeAddress) {
        let isSupported = liveness.supportStands(from: node, now: now)
        var told: [Replica] = []
        for replica in replicasByNode[node] ?? [] {
            guard replica.raft.isLeader, isSupported else {
                told.append(replica)
                continue
            }
            if !replica.news.contains(node) { replica.news.append(node) }
            pacer.add(replica.slot, now: now)
        }
        if !told.isEmpty { news.append(News(event: .livenessChanged(node), replicas: told)) }
    }

    /// Brings up to date what hangs on who shares groups with whom. Most often nothing has changed: a leader's first
    /// entry says the membership again.
    func membershipChanged(_ replica: Replica) {
        let peers = replica.isRemoved ? [] : replica.raft.peers.map(\.address).filter { $0 != identity.address }
        for outlet in replica.outlets where !peers.contains(outlet.peer.address) { outlet.clear() }
        replica.outlets.removeAll { !peers.contains($0.peer.address) }
        guard peers != replica.circle else { return }
        let former = replica.circle
        replica.circle = peers
        var isOtherCircle = false
        for (position, node) in peers.enumerated() where !former.contains(node) {
            // two members may be on one node
            guard !peers[..<position].contains(node) else { continue }
            replicasByNode[node, default: []].append(replica)
            if linkByNode[node] == nil {
                makeLink(to: node)
                isOtherCircle = true
            }
        }
        for (position, node) in former.enumerated() where !peers.contains(node) {
            guard !former[..<position].contains(node) else { continue }
            replicasByNode[node]?.removeAll { $0 === replica }
            guard replicasByNode[node]?.isEmpty == true else { continue }
            closeLink(to: node)
            isOtherCircle = true
        }
        if isOtherCircle { livenessInbox.append(.track(links.map(\.address).sorted())) }
    }

    /// Nothing is shared with `node` any more.
    private func closeLink(to node: NodeAddress) {
        replicasByNode.removeValue(forKey: node)
        guard let link = linkByNode.removeValue(forKey: node) else { return }
        links.removeAll { $0 === link }
        link.data.onStateChange = nil
        link.liveness.onStateChange = nil
        link.data.close()
        link.liveness.close()
        if liveness.isForeign(node), !strangers.contains(where: { $0.address == node }) {
            livenessInbox.append(.familiar(node))
        }
    }
}

/// Something that many replicas are to hear, one after another; they are kept once, not once for each event.
struct News {
    let event: Event
    /// At least one.
    let replicas: [Replica]
    /// Who hears it next.
    var next = 0
}

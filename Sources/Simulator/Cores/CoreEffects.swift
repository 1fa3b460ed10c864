import RaftCore

// The host's part: the effects of a core, in the order of duty, and the state machine behind it.

extension CoreCluster {
    mutating func execute(
        _ effects: Effects, on node: Int, _ before: CoreJudge.Before, _ values: [CoreEntry],
        _ state: CoreState?, _ asked: CorePacket?
    ) {
        judge.note(effects.refusal, at: time)
        var change = CoreWrite.Change.none
        if let logChange = effects.logChange {
            change = changeLog(of: node, logChange, values)
        } else if let install = effects.install {
            change = .install(install, state!)
            if !install.keepsSuffix {
                judge.inspectDropped(from: install.meta.last.index.next, of: nodes[node], at: time)
            }
            judge.noteInstalled()
            nodes[node].log.install(install)
            nodes[node].state = state!
            nodes[node].applicable = max(nodes[node].applicable, state!.index)
        }
        judge.inspect(node, nodes, before, at: time)
        if effects.peersChanged || effects.install != nil || effects.logChange?.truncateFrom != nil {
            judge.inspectMembership(of: nodes[node], at: time)
        }
        for outbound in effects.messages { send(outbound, from: node) }
        if let reply = effects.reply, let asked { post(answer(asked, reply)) }
        for (to, reply) in effects.readIndexReplies {
            let asker = Self.position(of: to)
            guard let run = nodes[node].questions.removeValue(forKey: [UInt64(asker), reply.sequence]) else { continue }
            post(CorePacket(from: node, to: asker, run: run, body: .reply(.readIndexReply(reply))))
        }
        var released = effects.durableMessages.map { packet(node, $0)! }
        if let acknowledgement = effects.acknowledgement, let asked { released.append(answer(asked, acknowledgement)) }
        write(node, effects.hardState, change, released)
        if let meta = effects.snapshotWanted, let asked, case .snapshot(_, let state, _) = asked.body {
            appoint(node, .snapshotFetched(meta, state, asked: asked), in: faults.fetching)
        }
        if let applicable = effects.applicable { makeApplicable(node, applicable) }
        nodes[node].readings += effects.readyReads
        for read in effects.failedReads { judge.failRead(read) }
        evaluateReads(node)
        for (change, outcome) in effects.finishedChanges { finish(change, outcome) }
    }

    private mutating func changeLog(
        of node: Int, _ change: LogChange, _ values: [CoreEntry]
    ) -> CoreWrite.Change {
        if let index = change.truncateFrom {
            judge.inspectDropped(from: index, of: nodes[node], at: time)
            nodes[node].log.truncate(from: index)
        }
        judge.check(nodes[node].log.lastIndex.next == change.first, "LogMatching", "a hole in a log", at: time)
        var added: [CoreEntry]
        switch change.source {
        case .message(let offset): added = Array(values[offset..<offset + change.count])
        case .proposal:
            added = values
            for position in added.indices { added[position].term = change.term }
        case .configuration(let configuration):
            added = [
                CoreEntry(
                    term: change.term, kind: .configuration, value: nextValue, size: 100,
                    configuration: configuration)
            ]
            nextValue += 1
        }
        judge.check(added.count == change.count, "LogMatching", "entries are missing", at: time)
        if nodes[node].isWitness {
            for position in added.indices { (added[position].value, added[position].size) = (0, 0) }
        }
        for entry in added {
            // what only its leader has seen, and not durably, is not in any log yet
            if case .message = change.source {
                let index = nodes[node].log.lastIndex
                judge.inspectMatching(entry, index.next, previous: nodes[node].log.term(at: index)!, at: time)
            }
            nodes[node].log.append(entry)
        }
        return .log(truncateFrom: change.truncateFrom, entries: added)
    }

    private mutating func finish(_ change: UInt64, _ outcome: ChangeOutcome) {
        judge.check(outcomes[change] == nil, "ChangesAreDone", "two answers to one change", at: time)
        outcomes[change] = outcome
        guard let target = changes.removeValue(forKey: change) else { return }
        judge.inspectChange(target, outcome, at: time)
    }

    // MARK: State

    private mutating func makeApplicable(_ node: Int, _ index: LogIndex) {
        let isDurable =
            nodes[node].log.term(at: index).map { nodes[node].disk.holds(LogPosition(term: $0, index: index)) } ?? true
        judge.check(isDurable, "DurableBeforeAcknowledged", "applied what is not durable", at: time)
        nodes[node].applicable = max(nodes[node].applicable, index)
        if appliesLate > 0, random.number(in: 0..<1000) < appliesLate {
            appoint(node, .applies, in: 1..<100)
        } else {
            apply(node)
        }
    }

    mutating func apply(_ node: Int) {
        while nodes[node].state.index < nodes[node].applicable {
            let index = nodes[node].state.index.next
            guard let entry = nodes[node].log[index] else {
                return judge.check(false, "AppliedSequencesEqual", "no entry \(index) to apply", at: time)
            }
            nodes[node].state.apply(entry)
        }
        judge.inspectApplied(nodes[node], at: time)
        evaluateReads(node)
        if let every = compactsEvery, nodes[node].log.base.index.distance(to: nodes[node].state.index) >= every {
            compact(node, through: nodes[node].state.index)
        }
    }

    // MARK: Reads

    private mutating func evaluateReads(_ node: Int) {
        let applied = nodes[node].state.index
        guard nodes[node].readings.contains(where: { $0.index <= applied }) else { return }
        for ready in nodes[node].readings where ready.index <= applied {
            if ready.lease == nil {
                judge.finishRead(ready.read, seen: applied, at: time)
            } else {
                appoint(node, .leaseJudged(ready, seen: applied), in: 0..<judgesLeaseWithin)
                if random.number(in: 0..<1000) < pausesBeforeJudging { pause(node, milliseconds: 1..<4000) }
            }
        }
        nodes[node].readings.removeAll { $0.index <= applied }
    }

    mutating func judgeLease(_ node: Int, _ ready: ReadyRead, seen: LogIndex) {
        let now = nodes[node].localTime(time)
        if nodes[node].raft.holdsLease(of: ready.lease!, now: now, liveness: nodes[node].liveness) {
            judge.finishRead(ready.read, seen: seen, lease: true, at: time)
        } else {
            step(node, .readRequested(ready.read, lease: false))
        }
    }

    // MARK: Snapshots

    /// A snapshot of what is applied here, on its way.
    mutating func sendSnapshot(from node: Int, to peer: PeerID, term: Term) {
        let state = nodes[node].state
        let last = LogPosition(term: nodes[node].log.term(at: state.index)!, index: state.index)
        let meta = SnapshotMeta(last: last, configuration: nodes[node].log.configuration(at: state.index)!)
        let sending = nextNumber
        nextNumber += 1
        nodes[node].sendings[sending] = peer
        appoint(node, .sendingEnds(sending), in: 3000..<6000)
        post(
            CorePacket(
                from: node, to: Self.position(of: peer), run: nodes[node].run,
                body: .snapshot(SnapshotRequest(term: term, meta: meta), state, sending: sending)))
    }

    mutating func endSending(_ node: Int, _ sending: UInt64, installed: LogIndex?) {
        guard let peer = nodes[node].sendings.removeValue(forKey: sending) else { return }
        step(node, .snapshotSent(to: peer, installed: installed))
    }
}

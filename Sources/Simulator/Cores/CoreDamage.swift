import RaftCore

// Disks that lose entries which were acknowledged. Hard state survives, and so does what the state machine has flushed.

extension CoreCluster {
    /// Loses the log from a random entry on, as the host finds out at a restart: it notes durably what was lost before
    /// the replica says anything. Damage to what the state holds may leave the entries behind that.
    ///
    /// A minority only owes something at any time: what all of a majority lost is nowhere, and nobody could be elected.
    @discardableResult
    mutating func damageDisk(of node: Int) -> Bool {
        let disk = nodes[node].disk
        let debtors = nodes.filter { $0.standing != .gone && $0.disk.debt != nil && $0.id != nodes[node].id }
        let all = nodes.count { $0.standing != .gone }
        let length = disk.log.entries.count
        guard 2 * (debtors.count + 1) < all, length > 0 else { return false }
        let reach = isLikely(500) ? min(length, 8) : length
        let first = disk.log.lastIndex.advanced(by: -Int(random.number(in: 0..<Int64(reach))))
        if first > disk.state.index {
            noteLoss(of: node, from: first)
            nodes[node].disk.log.truncate(from: first)
        } else if isLikely(500) {
            nodes[node].disk.log.compact(through: disk.state.index)
        } else {
            noteLoss(of: node, from: disk.state.index.next)
            nodes[node].disk.log.compact(through: disk.state.index)
            nodes[node].disk.log.truncate(from: disk.state.index.next)
        }
        return true
    }

    private mutating func noteLoss(of node: Int, from first: LogIndex) {
        let log = nodes[node].disk.log
        guard first <= log.lastIndex else { return }
        let last = LogPosition(term: log.term(at: log.lastIndex)!, index: log.lastIndex)
        nodes[node].disk.debt = max(nodes[node].disk.debt ?? .zero, last)
        var index = first
        while index <= log.lastIndex {
            nodes[node].disk.lost.insert(LogPosition(term: log.term(at: index)!, index: index))
            index = index.next
        }
    }

    /// Damage that is found while the node runs: a leader steps down, and another core takes the place of the replica's,
    /// in the same process, while what the former said is still under way.
    mutating func damageWhileRunning(_ node: Int) {
        guard nodes[node].pausedUntil <= time else { return }
        if nodes[node].raft.isLeader { step(node, .stepDownRequested) }
        // a host waits for its writes, for their completions are the former core's
        guard nodes[node].isUp, nodes[node].writes.isEmpty, damageDisk(of: node) else { return }
        let former = nodes[node].raft
        let disk = nodes[node].disk
        nodes[node].log = disk.log
        // the state in memory may be ahead of what is left of the log
        let applied = min(nodes[node].state.index, disk.log.lastIndex)
        nodes[node].applicable = nodes[node].state.index
        nodes[node].raft = Raft(
            id: former.id, hardState: disk.hardState, base: disk.log.base, termRuns: disk.log.termRuns,
            lastIndex: disk.log.lastIndex, configurations: disk.log.configurations, applied: applied, debt: disk.debt,
            settings: settings, seed: random.next())
        nodes[node].raft.succeed(former)
        nodes[node].isNew = true
        step(node, .started)
        noteDebt(of: node, before: disk.debt)
    }

    /// Whoever owes nothing any more forgets what it owed, and by then its disk is at least as up to date.
    mutating func noteDebt(of node: Int, before: LogPosition?) {
        guard let before, nodes[node].raft.debt == nil else { return }
        let log = nodes[node].disk.log
        let last = LogPosition(term: log.term(at: log.lastIndex)!, index: log.lastIndex)
        judge.check(
            last >= before || judge.isMajorityLost, "DebtsArePaid",
            "\(nodes[node].id) owes nothing any more: it owed \(before) and its disk holds \(last)", at: time)
        write(node, nil, .debtPaid, [])
    }
}

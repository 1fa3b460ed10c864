import RaftCore

/// A write on its way to a disk, and what waits for it.
struct CoreWrite {
    enum Change {
        case none
        case log(truncateFrom: LogIndex?, entries: [CoreEntry])
        case install(SnapshotInstall, CoreState)
        case compact(through: LogIndex)
        case debtPaid
    }
    var hardState: HardState?
    var change = Change.none
    /// What the core is told when it is done; it asked for nothing if nil.
    var mark: DurableMark?
    /// What leaves when it is done.
    var released: [CorePacket] = []
}

/// What survives a crash.
struct CoreDisk {
    var hardState = HardState.initial
    var log: CoreLog
    /// What the state machine has flushed.
    var state = CoreState()
    /// The last entry that it ever held, if damage took it, and everything that damage took since it owed nothing.
    var debt: LogPosition?
    var lost: Set<LogPosition> = []

    mutating func complete(_ write: CoreWrite) {
        if let hardState = write.hardState { self.hardState = hardState }
        switch write.change {
        case .none: break
        case .log(let index, let entries):
            if let index { log.truncate(from: index) }
            for entry in entries { log.append(entry) }
        case .install(let install, let state):
            log.install(install)
            self.state = state
        case .compact(let index): log.compact(through: index)
        case .debtPaid: (debt, lost) = (nil, [])
        }
    }

    /// Whether it holds this entry, or a state that contains it.
    func holds(_ position: LogPosition) -> Bool {
        position.index < log.base.index || log.term(at: position.index) == position.term
    }
}

extension CoreCluster {
    mutating func write(
        _ node: Int, _ hardState: HardState?, _ change: CoreWrite.Change, _ released: [CorePacket]
    ) {
        if hardState == nil, case .none = change {
            if nodes[node].writes.isEmpty {
                for packet in released { post(packet) }
            } else {
                nodes[node].writes[nodes[node].writes.count - 1].released += released
            }
            return
        }
        var mark: DurableMark? = nodes[node].raft.durableMark
        if case .compact = change { mark = nil }
        nodes[node].writes.append(
            CoreWrite(hardState: hardState, change: change, mark: mark, released: released))
        appoint(node, .written, in: faults.writing, notBefore: nodes[node].diskStalledUntil)
    }

    mutating func finishWrite(_ node: Int) {
        // written before the stall began, and stalled all the same
        guard nodes[node].diskStalledUntil <= time else {
            return appoint(node, .written, in: faults.writing, notBefore: nodes[node].diskStalledUntil)
        }
        let write = nodes[node].writes.removeFirst()
        complete(write, on: node)
        for packet in write.released { post(packet) }
        if let mark = write.mark { step(node, .persisted(mark)) }
    }

    mutating func complete(_ write: CoreWrite, on node: Int) {
        let before = nodes[node].disk.hardState
        nodes[node].disk.complete(write)
        if case .log(_, let entries) = write.change, let last = entries.last {
            let index = nodes[node].disk.log.lastIndex
            judge.inspectMatching(
                last, index, previous: nodes[node].disk.log.term(at: index.previous)!, at: time)
        }
        judge.inspectHardState(before, nodes[node].disk.hardState, at: time)
    }

    /// Flushes the state and drops the log's beginning.
    mutating func compact(_ node: Int, through index: LogIndex) {
        flush(node)
        // the state may be ahead of a core that took the place of another
        let applicable = min(nodes[node].raft.commitIndex, nodes[node].raft.durableIndex)
        let last = min(index, nodes[node].disk.state.index, applicable)
        guard last > nodes[node].log.base.index else { return }
        step(node, .compacted(through: last))
        nodes[node].log.compact(through: last)
        write(node, nil, .compact(through: last), [])
    }

    /// What is applied must be durable in the log, or the snapshot that brought it.
    mutating func flush(_ node: Int) {
        if nodes[node].state.index <= nodes[node].disk.log.lastIndex { nodes[node].disk.state = nodes[node].state }
    }
}

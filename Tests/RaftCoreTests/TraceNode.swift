@testable import RaftCore

/// A write on its way to a disk, and what leaves when it is done.
struct TraceWrite {
    var hardState: HardState?
    var truncateFrom: LogIndex?
    var entries: [TraceEntry]
    var install: SnapshotInstall?
    var mark: DurableMark
    var released: [TracePacket]
}

/// A replica's log as the host knows it: the entries behind a base that a snapshot stands for.
struct TraceLog {
    var base = LogPosition.zero
    /// The membership at the base; nil if the replica was born empty.
    var birth: Configuration?
    var entries: [TraceEntry] = []

    var lastIndex: LogIndex { base.index.advanced(by: entries.count) }

    /// The entry at `index`, if it is there.
    func entry(at index: LogIndex) -> TraceEntry? {
        let offset = base.index.distance(to: index) - 1
        return entries.indices.contains(offset) ? entries[offset] : nil
    }

    func slice(after previous: LogIndex, count: Int) -> [TraceEntry] {
        let offset = base.index.distance(to: previous)
        return Array(entries[offset..<offset + count])
    }

    mutating func truncate(from index: LogIndex) {
        let kept = base.index.distance(to: index) - 1
        if kept < entries.count { entries.removeSubrange(kept...) }
    }

    mutating func compact(through index: LogIndex) {
        guard index > base.index, let last = entry(at: index) else { return }
        birth = configuration(at: index)
        entries.removeFirst(base.index.distance(to: index))
        base = LogPosition(term: last.term, index: index)
    }

    mutating func install(_ install: SnapshotInstall) {
        if install.keepsSuffix {
            compact(through: install.meta.last.index)
        } else {
            entries.removeAll()
            base = install.meta.last
        }
        birth = install.meta.configuration
    }

    func configuration(at index: LogIndex) -> Configuration? {
        placed.last { $0.index <= index }?.configuration
    }

    var placed: [PlacedConfiguration] {
        var placed = birth.map { [PlacedConfiguration(index: base.index, configuration: $0)] } ?? []
        for (offset, entry) in entries.enumerated() {
            guard let configuration = entry.configuration else { continue }
            placed.append(PlacedConfiguration(index: base.index.advanced(by: offset + 1), configuration: configuration))
        }
        return placed
    }

    var termRuns: [LogPosition] {
        var runs: [LogPosition] = []
        for (offset, entry) in entries.enumerated() where runs.last?.term != entry.term {
            runs.append(LogPosition(term: entry.term, index: base.index.advanced(by: offset + 1)))
        }
        return runs
    }
}

/// What survives a crash.
struct TraceDisk {
    var hardState = HardState.initial
    var log = TraceLog()
    /// The last entry that it ever held, if damage took it.
    var debt: LogPosition?

    mutating func complete(_ write: TraceWrite) {
        if let hardState = write.hardState { self.hardState = hardState }
        if let install = write.install { log.install(install) }
        if let index = write.truncateFrom { log.truncate(from: index) }
        log.entries += write.entries
    }

    /// Loses the entry at `index` and everything behind it, and knows.
    mutating func damage(from index: LogIndex) {
        let last = LogPosition(term: log.entries.last?.term ?? log.base.term, index: log.lastIndex)
        debt = max(debt ?? .zero, last)
        log.truncate(from: index)
    }
}

/// A message under way. Answers come back to the run that asked, or not at all.
struct TracePacket {
    var from: Int
    var to: Int
    /// The asker's run.
    var run: UInt64
    var message: Message
    /// The payloads of an append.
    var entries: [TraceEntry] = []
    /// What the asker of an append remembers.
    var ticket: AppendTicket?
    /// How far the snapshot goes that is answered.
    var offered: LogIndex?
    /// Set aside by the script.
    var isDelayed = false

    var isReply: Bool {
        switch message {
        case .voteReply, .appendReply, .timeoutNowReply, .releaseReply, .readIndexReply, .snapshotReply: return true
        default: return false
        }
    }
}

/// One node with one replica.
struct TraceNode {
    let number: Int
    var disk: TraceDisk
    var raft: Raft
    var liveness: NodeLiveness
    var log: TraceLog
    var run: UInt64 = 1
    var isUp = true
    /// Whether writes wait for the script.
    var isSlow = false
    var writes: [TraceWrite] = []
    var applied: LogIndex
    /// The snapshot that it fetches, and the offer to be answered.
    var offer: (meta: SnapshotMeta, asked: TracePacket)?
    /// Reads whose moment has come, but for the applied index.
    var ready: [ReadyRead] = []

    var id: PeerID { raft.id }
}

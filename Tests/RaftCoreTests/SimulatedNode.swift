@testable import RaftCore

/// An entry with something to tell it from every other.
struct SimulatedEntry: Equatable {
    var term: Term
    var kind: EntryKind
    var value: UInt64
    var configuration: Configuration?
}

/// A write on its way to a disk, and what waits for it.
struct SimulatedWrite {
    var hardState: HardState?
    var truncateFrom: LogIndex?
    var entries: [SimulatedEntry]
    var mark: DurableMark
    /// What leaves when it is done.
    var released: [Packet]
}

/// A message under way. Answers come back to the incarnation that asked, or not at all.
struct Packet {
    enum Body {
        case vote(VoteRequest)
        case append(AppendRequest, entries: [SimulatedEntry], ticket: AppendTicket)
        case timeoutNow(TimeoutNowRequest)
        case release(ReleaseRequest)
        case reply(Message)
        case livenessRequest(NodeLiveness.Request)
        case livenessReply(NodeLiveness.Reply)
    }
    var from: Int
    var to: Int
    /// The asker's incarnation, and the ticket to put into an answer.
    var incarnation: UInt64
    var ticket: AppendTicket?
    var body: Body
}

/// What survives a crash.
struct SimulatedDisk {
    var hardState = HardState.initial
    var entries: [SimulatedEntry] = []

    mutating func complete(_ write: SimulatedWrite) {
        if let hardState = write.hardState { self.hardState = hardState }
        if let index = write.truncateFrom { entries.removeSubrange(Int(index.rawValue) - 1..<entries.count) }
        entries += write.entries
    }

    var termRuns: [LogPosition] {
        var runs: [LogPosition] = []
        for (offset, entry) in entries.enumerated() where runs.last?.term != entry.term {
            runs.append(LogPosition(term: entry.term, index: LogIndex(Int64(offset) + 1)))
        }
        return runs
    }

    func configurations(atBirth birth: Configuration) -> [PlacedConfiguration] {
        var placed = [PlacedConfiguration(index: .zero, configuration: birth)]
        for (offset, entry) in entries.enumerated() {
            guard let configuration = entry.configuration else { continue }
            placed.append(PlacedConfiguration(index: LogIndex(Int64(offset) + 1), configuration: configuration))
        }
        return placed
    }
}

/// One node with one replica.
struct SimulatedNode {
    let id: PeerID
    var disk = SimulatedDisk()
    var incarnation: UInt64 = 0
    var isUp = false
    var raft: Raft
    var liveness: NodeLiveness
    /// The log in memory.
    var entries: [SimulatedEntry] = []
    var writes: [SimulatedWrite] = []
    var applied = LogIndex.zero
    /// This node's clock: it began somewhere and runs a little fast or slow.
    let clockOffset: Int64
    let clockPercent: Int64

    func localTime(_ time: Int64) -> Instant { Instant(nanoseconds: clockOffset + time / 100 * clockPercent) }

    /// The first simulated time at which the local clock shows `instant` or more.
    func globalTime(_ instant: Instant) -> Int64 {
        let local = max(0, instant.nanoseconds - clockOffset)
        return (local + clockPercent - 1) / clockPercent * 100
    }
}

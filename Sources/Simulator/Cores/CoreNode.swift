import RaftCore

/// One node with one replica.
struct CoreNode {
    enum Standing {
        case up
        case down
        /// It left the group, or its disk is lost: never started again.
        case gone
    }

    let id: PeerID
    var standing = Standing.down
    /// Counts its starts.
    var run: UInt64 = 0
    var disk: CoreDisk
    var raft: Raft
    var liveness: NodeLiveness
    /// The log in memory, and what is applied of it.
    var log: CoreLog
    var state = CoreState()
    /// What may be applied.
    var applicable = LogIndex.zero
    var writes: [CoreWrite] = []
    /// Until then the disk finishes nothing, and the process does nothing.
    var diskStalledUntil: Int64 = 0
    var pausedUntil: Int64 = 0
    /// When its next timer fires, in simulated time; nil if none is set.
    var wakesAt: Int64?
    /// Whether its liveness has not been told yet with whom it has to do.
    var isNew = true
    /// Reads that wait for their index to be applied.
    var readings: [ReadyRead] = []
    /// Snapshots that are being sent, by number.
    var sendings: [UInt64: PeerID] = [:]
    /// Runs of the followers that asked for a read index, by node and sequence.
    var questions: [[UInt64]: UInt64] = [:]
    /// This node's clock: it began somewhere and runs a little fast or slow.
    let clockOffset: Int64
    let clockPercent: Int64

    var isUp: Bool { standing == .up }
    /// The last entry of its log.
    var last: LogPosition { LogPosition(term: raft.lastTerm, index: raft.lastIndex) }
    /// Whether it keeps entries without their payloads.
    var isWitness: Bool { id.role == .witness }

    func localTime(_ time: Int64) -> Instant { Instant(nanoseconds: clockOffset + time / 100 * clockPercent) }

    /// The first simulated time at which the local clock shows `instant` or more.
    func globalTime(_ instant: Instant) -> Int64 {
        let local = max(0, instant.nanoseconds - clockOffset)
        return (local + clockPercent - 1) / clockPercent * 100
    }
}

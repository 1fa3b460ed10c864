import RaftCore

/// Clients that each propose a batch, wait until all of it is applied where it was proposed, and propose the next.
struct ClosedLoopClients {
    /// Entries that each client proposes at once.
    let batch: Int
    /// Entries that were applied.
    private(set) var applied = 0

    /// Those that have no proposal under way.
    private var waiting: [Int32]
    /// Those that have, in the order of the log, as a ring with room for all: the last entry of each batch.
    private var underWay: [(client: Int32, last: LogIndex)]
    private var head = 0
    private var underWayCount = 0

    init(count: Int, batch: Int) {
        self.batch = batch
        waiting = Array(0..<Int32(count))
        underWay = Array(repeating: (0, .zero), count: count)
    }

    /// Whether somebody has something to propose.
    var isWaiting: Bool { !waiting.isEmpty }

    /// Everybody who waits proposes; returns the number of entries. They stand behind `last` in the log.
    mutating func propose(after last: LogIndex) -> Int {
        var last = last
        for client in waiting {
            last = last.advanced(by: batch)
            var tail = head + underWayCount
            if tail >= underWay.count { tail -= underWay.count }
            underWay[tail] = (client, last)
            underWayCount += 1
        }
        defer { waiting.removeAll(keepingCapacity: true) }
        return waiting.count * batch
    }

    /// The log is applied up to `index`: whoever waited for that has an answer.
    mutating func finish(through index: LogIndex) {
        while underWayCount > 0, underWay[head].last <= index {
            waiting.append(underWay[head].client)
            head = head + 1 == underWay.count ? 0 : head + 1
            underWayCount -= 1
            applied += batch
        }
    }
}

internal import RaftCore
internal import ShardMap

/// What the router knows of one shard: what waits for it, what is under way, and the session.
final class ShardChannel {
    /// The shard as the map has it; of a retired channel, as it had it last.
    private(set) var shard: Shard
    /// Who leads the group that owns it; nil if the map does not know the group.
    var group: GroupRoute?
    /// Counts the changes of ``shard``.
    private(set) var layout = 0
    /// Whether the map has no such shard any more. Nothing is queued on a retired channel.
    private(set) var isRetired = false

    /// Parts that only read, and parts that write, in order of arrival.
    private(set) var reads = PartQueue()
    private(set) var writes = PartQueue()
    /// Under way, in order of their first attempt; an open is among them.
    var requests: [Request] = []
    /// What numbers its writes.
    let window: SharedWindow
    /// The session's token once it is open.
    var session: UInt64?
    /// Whether the last new request was one of reads; the kinds take turns.
    var lastWasRead = false
    /// Why the last attempt failed; nil after a success.
    var problem: Problem?
    /// When the last reads, and the last writes, were executed.
    var lastRead = Instant.distantPast
    var lastWrite = Instant.distantPast

    /// Whether it is among the router's ready channels, those that wait for the window, or those that watch the map.
    var isReady = false
    var isStalled = false
    var isWatchingMap = false
    /// Maintained by ``DueHeap``.
    var due = Instant.distantFuture
    var heapPosition = -1

    init(_ shard: Shard, _ window: SharedWindow) {
        self.shard = shard
        self.window = window
    }

    /// The map says something new about the shard; what is queued is taken out, to be routed again.
    func change(to shard: Shard) -> [Part] {
        self.shard = shard
        return changeLayout()
    }

    /// The map has no such shard any more; what is queued is taken out, to be routed again.
    func retire() -> [Part] {
        isRetired = true
        return changeLayout()
    }

    private func changeLayout() -> [Part] {
        layout += 1
        for request in requests { request.goOn() }
        return takeQueued()
    }

    func enqueue(_ part: Part, atFront: Bool) {
        precondition(!isRetired, "a part for a shard that is gone")
        switch (part.isWrite, atFront) {
        case (true, false): writes.append(part)
        case (true, true): writes.prepend(part)
        case (false, false): reads.append(part)
        case (false, true): reads.prepend(part)
        }
    }

    /// So long without any answer the queue does not move: that is no crowd.
    private static let standstill = Interval.milliseconds(1000)

    /// Whether what is queued of the kind waits for longer than `patience` although answers to that kind come. Writes that
    /// wait for a number or a session do not wait for the group.
    func isCrowded(_ now: Instant, _ patience: Interval, writes isWrite: Bool) -> Bool {
        guard now < (isWrite ? lastWrite : lastRead) + max(patience, ShardChannel.standstill) else { return false }
        if isWrite, isStalled || session == nil { return false }
        guard let first = isWrite ? writes.first : reads.first else { return false }
        return first.call.takenAt + patience < now
    }

    /// Takes out what goes into the next request: as many parts as the limits allow, or the beginning of a larger one.
    func takeBatch(writes isWrite: Bool, maxOperations: Int, maxBytes: Int) -> (parts: [Part], rest: Part?) {
        isWrite
            ? ShardChannel.takeBatch(from: &writes, maxOperations, maxBytes)
            : ShardChannel.takeBatch(from: &reads, maxOperations, maxBytes)
    }

    private static func takeBatch(
        from queue: inout PartQueue, _ maxOperations: Int, _ maxBytes: Int
    ) -> (parts: [Part], rest: Part?) {
        var parts: [Part] = []
        var operations = 0
        var bytes = 0
        while let part = queue.first {
            operations += part.operationCount
            bytes += part.bytes
            let fits = operations <= maxOperations && bytes <= maxBytes
            guard fits || parts.isEmpty else { break }
            _ = queue.popFirst()
            guard fits || part.operationCount == 1 else {
                let (first, rest) = part.cut(maxOperations: maxOperations, maxBytes: maxBytes)
                return ([first], rest)
            }
            parts.append(part)
        }
        return (parts, nil)
    }

    /// Takes out all writes, or everything, queued.
    func takeQueuedWrites() -> [Part] { writes.removeAll() }
    func takeQueued() -> [Part] { writes.removeAll() + reads.removeAll() }

    /// Takes out the queued parts whose deadline has come.
    func takeExpired(now: Instant) -> [Part] { writes.takeExpired(now: now) + reads.takeExpired(now: now) }

    /// What it is that an operation was not executed in time: who was told that the server is busy says so.
    var lateness: NamedError { problem?.error == .busy ? .busy : .deadlineExceeded }

    /// Whether somebody waits for a session.
    var needsSession: Bool { !writes.isEmpty || requests.contains { $0.state == .awaitingSession } }

    /// The next moment at which something has to be done without an answer.
    var nextDue: Instant {
        var next = min(reads.nextDeadline, writes.nextDeadline)
        for request in requests { next = min(next, request.due, request.earliestDeadline) }
        return next
    }
}

/// Why an attempt failed, for the message of whoever hears that time is up.
struct Problem: CustomStringConvertible {
    var node: NodeAddress
    var error: NamedError?
    var text: String?

    var description: String {
        switch (error, text) {
        case (let error?, let text?): "\(node): \(error.sentence): \(text)"
        case (let error?, nil): "\(node): \(error.sentence)"
        case (nil, let text): "\(node): \(text ?? "no answer")"
        }
    }
}

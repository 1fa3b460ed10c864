public import RaftCore

/// The requests of clients that a node has taken and not answered, and whether it takes another one.
///
/// What was taken is never given up for load: it may be in the log already. So all is decided when a request comes, and
/// whoever is turned away knows at once that it was not executed. There are three bounds: requests, their bytes, and
/// how far behind the node is. That is known without a clock for each request: the one at the head of the line is as
/// old as the answer to a new one will be late, if answers come as they did. A line in which nothing moves is not one of
/// load, but of a group without majority, say, and keeps nobody out.
struct Admission {
    private let settings: ShardServer.Settings.Admission
    /// When those in the line came. It is as long as there are requests, and moves with every answer, to whichever.
    private var line: [Instant] = []
    private var head = 0
    private(set) var requests = 0
    private(set) var bytes = 0
    private var lastAnswer = Instant.distantPast
    /// Requests that were turned away.
    private(set) var refused: UInt64 = 0

    /// Fewer requests are no line.
    private static let shortest = 100
    /// So long without any answer the line does not move. Disks take a good part of it now and then.
    private static let standstill = Interval.milliseconds(1000)

    init(_ settings: ShardServer.Settings.Admission) { self.settings = settings }

    /// Takes a request of so many bytes; false if it is to be answered as busy.
    mutating func admit(_ bytes: Int, now: Instant) -> Bool {
        guard requests < settings.requests, self.bytes < settings.bytes, !isLate(now) else {
            refused += 1
            return false
        }
        if requests == line.count { grow() }
        line[(head + requests) & (line.count - 1)] = now
        requests += 1
        self.bytes += bytes
        return true
    }

    /// A request of so many bytes that was taken has its answer.
    mutating func finish(_ bytes: Int, now: Instant) {
        precondition(requests > 0 && self.bytes >= bytes, "a request is answered once")
        head = (head + 1) & (line.count - 1)
        requests -= 1
        self.bytes -= bytes
        lastAnswer = now
    }

    private func isLate(_ now: Instant) -> Bool {
        // the few of a group that stands still must not be taken for a line while little else is asked
        guard requests >= Admission.shortest else { return false }
        return line[head] + settings.patience < now
            && now < lastAnswer + max(settings.patience, Admission.standstill)
    }

    /// To the next power of two.
    private mutating func grow() {
        let larger = (0..<requests).map { line[(head + $0) & (line.count - 1)] }
        line = larger + [Instant](repeating: .distantPast, count: max(requests, 64))
        head = 0
    }
}

extension ShardServer.Settings {
    /// How much of clients' requests a node takes at a time.
    public struct Admission: Sendable {
        /// Requests.
        public var requests = 65_536
        /// Bytes of keys and values in them.
        public var bytes = 256 << 20
        /// How long the line may be, as the time for which its first request waits.
        public var patience = Interval.milliseconds(1000)

        /// The defaults.
        public init() {}
    }
}

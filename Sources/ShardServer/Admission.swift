public import RaftCore

/// The requests of clients that a node has taken and not answered, and whether it takes another one.
///
/// What was taken is never given up for load: it may be in the log already. So all is decided when a request comes, and
/// whoever is turned away knows at once that it was not executed. There are three bounds: requests, their bytes, and
/// how far behind a group is. That is known without a clock for each request: the one at the head of the group's line is as
/// old as the answer to a new one will be late, if answers come as they did. A line in which nothing moves is not one of
/// load, but of a group without majority, say, and keeps nobody out; nor can such a group take the places of all others.
struct Admission {
    /// Of one group: when those in it came. It is as long as there are requests, and moves with every answer, to whichever.
    private struct Line {
        private var arrivals: [Instant] = []
        private var head = 0
        private(set) var requests = 0
        var bytes = 0
        var lastAnswer = Instant.distantPast

        var first: Instant? { requests > 0 ? arrivals[head] : nil }

        mutating func append(_ now: Instant) {
            if requests == arrivals.count { grow() }
            arrivals[(head + requests) & (arrivals.count - 1)] = now
            requests += 1
        }

        mutating func removeFirst() {
            precondition(requests > 0, "a request is answered once")
            head = (head + 1) & (arrivals.count - 1)
            requests -= 1
        }

        /// To the next power of two.
        private mutating func grow() {
            let larger = (0..<requests).map { arrivals[(head + $0) & (arrivals.count - 1)] }
            arrivals = larger + [Instant](repeating: .distantPast, count: max(requests, 8))
            head = 0
        }
    }

    private let settings: ShardServer.Settings.Admission
    /// By group; for lookup only.
    private var lines: [String: Line] = [:]
    private(set) var requests = 0
    private(set) var bytes = 0
    /// Requests that were turned away.
    private(set) var refused: UInt64 = 0

    /// Fewer requests of all groups together are no load.
    private static let shortest = 100
    /// So long without any answer a line does not move. Disks take a good part of it now and then.
    private static let standstill = Interval.milliseconds(1000)
    /// Beyond that the lines of groups that are not used are forgotten.
    private static let linesKept = 1024

    init(_ settings: ShardServer.Settings.Admission) { self.settings = settings }

    /// Takes a request to `group` of so many bytes; false if it is to be answered as busy.
    mutating func admit(_ bytes: Int, to group: String, now: Instant) -> Bool {
        guard requests < settings.requests, self.bytes < settings.bytes,
            lines[group].map({ hasRoom($0, now) }) ?? true
        else {
            refused += 1
            return false
        }
        lines[group, default: Line()].append(now)
        lines[group]?.bytes += bytes
        requests += 1
        self.bytes += bytes
        return true
    }

    /// A request to `group` of so many bytes that was taken has its answer.
    mutating func finish(_ bytes: Int, to group: String, now: Instant) {
        guard let place = lines.index(forKey: group), requests > 0 else {
            preconditionFailure("a request is answered once")
        }
        lines.values[place].removeFirst()
        lines.values[place].bytes -= bytes
        lines.values[place].lastAnswer = now
        requests -= 1
        self.bytes -= bytes
        if lines.values[place].requests == 0, lines.count > Admission.linesKept { lines.remove(at: place) }
    }

    private func hasRoom(_ line: Line, _ now: Instant) -> Bool {
        // half of everything at most: the other groups are not to pay for one that stands still
        guard line.requests < max(1, settings.requests / 2), line.bytes < max(1, settings.bytes / 2) else {
            return false
        }
        guard requests >= Admission.shortest, let first = line.first else { return true }
        let isLate = first + settings.patience < now
        return !isLate || now >= line.lastAnswer + max(settings.patience, Admission.standstill)
    }
}

extension ShardServer.Settings {
    /// How much of clients' requests a node takes at a time; of one group half as much.
    public struct Admission: Sendable {
        /// Requests.
        public var requests = 65_536
        /// Bytes of keys and values in them.
        public var bytes = 256 << 20
        /// How long the line of a group may be, as the time for which its first request waits.
        public var patience = Interval.milliseconds(1000)

        /// The defaults.
        public init() {}
    }
}

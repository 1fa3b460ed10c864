internal import RaftCore
internal import ShardMap

/// One request to one shard: the parts of several calls, and what became of its attempts.
///
/// A write keeps its sequence from its first attempt to its last. As long as no attempt can have been executed, its
/// contents may still change; once one can (``mayHaveExecuted``), every further attempt says the same under the same
/// session, so that it is executed at most once.
final class Request {
    /// What it carries.
    enum Kind { case read, write, open }

    /// What it waits for.
    enum State {
        /// To be sent in this turn.
        case idle
        /// An answer, until ``Request/due``.
        case sent
        /// The next attempt, at ``Request/due``.
        case backingOff
        /// A session on the shard.
        case awaitingSession
        /// A newer map; without one the next attempt, at ``Request/due``.
        case watchingMap
        /// Nothing: it is over.
        case done
    }

    let kind: Kind
    /// Where it goes.
    unowned var channel: ShardChannel
    /// The channel's layout that its keys are known to fit.
    var layout: Int
    private(set) var parts: [Part]
    /// What follows in the same call and goes only after this is answered.
    var rest: Part?
    /// Of a write: its number, and where that is from; another channel may come to send it.
    let sequence: UInt64
    let window: SharedWindow
    /// Of a write: the session of the last attempt.
    var session: UInt64
    /// Of a write: the packed command of the last attempt. Of an open: the one to be repeated, nil if it has to be
    /// packed anew.
    var command: Bytes?

    var state = State.idle
    /// Whether an attempt of a write may have been, or may yet be, executed.
    var mayHaveExecuted = false
    /// Number of the last attempt, to tell its answer from those of earlier ones.
    var attempt: UInt64 = 0
    /// Where the last attempt went, and the shard as the map had it then.
    private(set) var node = NodeAddress(ip: 0, port: 0)
    private var addressee: (shard: UInt64, epoch: UInt64) = (0, 0)
    /// End of the attempt or of the pause; in other states far away.
    var due = Instant.distantFuture
    private(set) var failures = 0
    /// Whether the last attempt followed a hint without a pause.
    var followedHint = false
    /// The first moment at which one of its calls is over, and that from which nobody waits any more. Far away for an
    /// open.
    private(set) var earliestDeadline = Instant.distantFuture
    private(set) var latestDeadline = Instant.distantFuture
    /// Whether a session expired under it before.
    var hasLostSession = false

    init(
        _ kind: Kind, on channel: ShardChannel, parts: [Part] = [], rest: Part? = nil, sequence: UInt64, session: UInt64
    ) {
        self.kind = kind
        self.channel = channel
        layout = channel.layout
        self.parts = parts
        self.rest = rest
        self.sequence = sequence
        window = channel.window
        self.session = session
        updateDeadlines()
    }

    var operationCount: Int { parts.reduce(0) { $0 + $1.operationCount } }

    /// The operations of the part at `position` have their results.
    func markAnswered(_ position: Int) { parts[position].isAnswered = true }

    /// Forgets the parts whose results are set.
    func dropAnswered() {
        guard parts.contains(where: \.isAnswered) else { return }
        parts.removeAll { $0.isAnswered }
    }

    /// To be called after parts were answered.
    func updateDeadlines() {
        guard kind != .open else { return }
        (earliestDeadline, latestDeadline) = (.distantFuture, .distantPast)
        for part in parts where !part.isAnswered {
            earliestDeadline = min(earliestDeadline, part.call.deadline)
            latestDeadline = max(latestDeadline, part.call.deadline)
        }
    }

    /// Whether what it carries may be executed if it is given up now.
    var isUncertain: Bool { kind == .write && (mayHaveExecuted || state == .sent) }

    /// The attempt of this number goes to `node`; it is given up at `due`.
    func send(_ attempt: UInt64, to node: NodeAddress, until due: Instant) {
        self.attempt = attempt
        self.node = node
        addressee = (channel.shard.id, channel.shard.epoch)
        state = .sent
        self.due = due
    }

    /// Whether `reply`, to the last attempt, says that the shard is owned as it was addressed, and that keys lie
    /// outside of it. The server looked among its answers first: no attempt was executed, and none ever will be, for
    /// those that had keys of one shard were for an epoch that is over.
    func isRefusedForItsRange(_ reply: ExecuteReply) -> Bool {
        reply.error == .wrongShard && reply.route?.id == addressee.shard && reply.route?.epoch == addressee.epoch
    }

    /// Whether the map has changed for its shard since the last attempt.
    var hasNewLayout: Bool { layout != channel.layout }

    /// Waits until `due` for the next attempt; with `.watchingMap` at most.
    func pause(_ state: State = .backingOff, until due: Instant) {
        self.state = state
        self.due = due
    }

    /// The map says something new: whatever it waits for, another place may have it.
    func goOn() {
        guard state == .backingOff || state == .watchingMap || state == .awaitingSession else { return }
        failures = 0
        wait(.idle)
    }

    /// Waits for something that has no time of its own.
    func wait(_ state: State) {
        self.state = state
        due = .distantFuture
    }

    /// Counts another failed attempt; the pause after it, doubling from `first` up to `longest`.
    func nextPause(first: Interval, longest: Interval) -> Interval {
        failures += 1
        return Interval.backoff(failures, first: first, longest: longest)
    }

    /// Its operations in order; range operations get the ends of the shard they are about to ask.
    func gatherOperations() -> [KeyOperation] {
        if parts.count == 1 && parts[0].isWholeCall && !parts[0].call.isOverRanges { return parts[0].call.operations }
        var operations: [KeyOperation] = []
        operations.reserveCapacity(operationCount)
        let range = channel.shard.range
        for part in parts {
            let call = part.call
            for slot in part.slots {
                let position = call.position(slot)
                operations.append(call.operations[position])
                if call.isOverRanges {
                    operations[operations.count - 1].value = range.end
                    call.ranges[position] = range
                }
            }
        }
        return operations
    }
}

extension Interval {
    /// `first`, doubled with each of the `failures` after the first one, at most `longest`.
    static func backoff(_ failures: Int, first: Interval, longest: Interval) -> Interval {
        let doublings = min(max(failures - 1, 0), 30)
        let (product, overflows) = first.nanoseconds.multipliedReportingOverflow(by: 1 << Int64(doublings))
        return overflows ? longest : min(Interval(nanoseconds: product), longest)
    }
}

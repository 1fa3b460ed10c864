import RaftCore
import RaftHost
import ShardKV
import ShardMap

// The controller's leader asks its scheduler after each round of loads, apart from the lane, and gives the orders that
// come of it as an operator would: operations are recorded by the controller, a transfer is asked of the group's leader.

/// What the controller's leader knows of its scheduler.
struct Scheduling {
    /// A decision, and what came of it.
    struct Record {
        var wallClock: Int64
        /// What is to be done.
        var what: String
        var reason: String
        /// Of the operation that was recorded.
        var operation: UInt64?
        /// Why nothing came of it.
        var problem: String?
    }

    /// What the scheduler is asked.
    struct Question: Sendable {
        /// Number of the leadership.
        var leadership: UInt64
        var scheduler: Scheduler
        var map: ClusterMap
        var pending: [ClusterOperation]
        var at: Instant

        func answer(_ load: ClusterLoad) -> Answer {
            var decided = scheduler
            let decisions = decided.decide(map, pending: pending, load: load, now: at)
            return Answer(scheduler: decided, decisions: decisions)
        }
    }

    /// What it decided, and how it is afterwards.
    struct Answer: Sendable {
        var scheduler: Scheduler
        var decisions: [Scheduler.Decision]
    }

    /// Decisions remembered.
    private static let recordsMax = 100

    /// Of the leadership: what comes of a former one is forgotten.
    let number: UInt64
    /// Nil before the first question.
    var scheduler: Scheduler?
    /// When the first question was asked.
    var began: Instant?
    /// Whether a question is asked, or what came of it is being ordered.
    var isDeciding = false
    /// Of late, the oldest first.
    private(set) var records: [Record] = []
    /// Of all there ever were.
    private(set) var firstRecord = 0

    init(number: UInt64 = 0) { self.number = number }

    /// Remembers a decision; its number.
    mutating func note(_ record: Record) -> Int {
        records.append(record)
        if records.count > Scheduling.recordsMax {
            records.removeFirst()
            firstRecord += 1
        }
        return firstRecord + records.count - 1
    }

    mutating func update(_ record: Int, _ body: (inout Record) -> Void) {
        guard record >= firstRecord else { return }
        body(&records[record - firstRecord])
    }
}

extension ShardServer {
    /// Answers older than that are not acted upon.
    private static let decisionAge = Interval.milliseconds(10_000)

    /// What the scheduler is asked on the round of loads that is over; nil if what it decided last is being ordered.
    func nextQuestion(
        _ map: ClusterMap, _ operations: [ClusterOperation], _ now: Instant
    ) -> Scheduling.Question? {
        guard host.leads(ClusterMap.controllerGroup), !scheduling.isDeciding, let controller else { return nil }
        var scheduler = scheduling.scheduler ?? Scheduler(settings: settings.scheduler)
        scheduler.rebalancing = controller.rebalancing
        scheduling.isDeciding = true
        scheduling.began = scheduling.began ?? now
        return Scheduling.Question(
            leadership: scheduling.number, scheduler: scheduler, map: map,
            pending: operations.filter { !$0.state.isOver }, at: now)
    }

    func take(_ answer: Scheduling.Answer, to question: Scheduling.Question) {
        guard scheduling.number == question.leadership, host.leads(ClusterMap.controllerGroup) else { return }
        guard lane.clock.now - question.at < ShardServer.decisionAge else {
            // much may have changed since
            scheduling.isDeciding = false
            return
        }
        complainOfNew(answer.scheduler.blocked, since: scheduling.scheduler?.blocked ?? [])
        scheduling.scheduler = answer.scheduler
        if question.scheduler.rebalancing == .once, answer.scheduler.rebalancing == .off { endRebalancing() }
        give(answer.decisions[...], on: question.map.version, after: [], question)
    }

    private func complainOfNew(_ blocked: [Scheduler.Blocked], since former: [Scheduler.Blocked]) {
        // many at a time have one reason
        for block in blocked.prefix(16) {
            let isKnown = former.contains { $0.node == block.node && $0.group == block.group }
            guard !isKnown else { continue }
            logger.log(.warning, "a replica cannot leave a node", [("problem", block.reason)])
        }
    }

    /// Everything is spread that was to be spread once.
    private func endRebalancing() {
        logger.log(.info, "everything is spread; rebalancing is off")
        let command = ControllerCommand.rebalance(.off, before: .once)
        // whoever leads next comes to the same end
        propose(command) { _ in }
    }

    // MARK: ordering

    /// Gives the orders one after the other. An operation is recorded only on the version of the map that was decided
    /// on, or what the operations before it made of that; else the scheduler forgets what is not `given`, and decides
    /// again.
    private func give(
        _ decisions: ArraySlice<Scheduler.Decision>, on version: UInt64, after given: [Scheduler.Decision],
        _ question: Scheduling.Question
    ) {
        let number = question.leadership
        guard scheduling.number == number else { return }
        guard let decision = decisions.first else {
            scheduling.isDeciding = false
            return
        }
        let rest = decisions.dropFirst()
        switch decision {
        case .transfer(let group, let peer, let reason):
            let record = note("hand group \(group) over to \(peer)", reason)
            ask(.transfer(peer), of: group) { [self] answer in
                guard scheduling.number == number, let problem = answer.problem else { return }
                scheduling.update(record) { $0.problem = problem }
            }
            give(rest, on: version, after: given + [decision], question)
        case .begin(let kind, let reason):
            let record = note("\(kind)", reason)
            let command = ControllerCommand.begin(
                kind, expectedVersion: version, wallClock: lane.clock.wallClockMilliseconds)
            propose(command) { [self] outcome in
                guard scheduling.number == number else { return }
                guard case .applied(let packed, _) = outcome, let reply = ControllerReply(packed, arena) else {
                    scheduling.update(record) { $0.problem = "the controller could not record it" }
                    scheduling.isDeciding = false
                    return
                }
                operationsChanged()
                guard let error = reply.error else {
                    scheduling.update(record) { $0.operation = reply.operation?.id }
                    return give(rest, on: reply.version ?? version, after: given + [decision], question)
                }
                scheduling.update(record) { $0.problem = reply.message ?? error.sentence }
                guard reply.version == version else {
                    // the map has changed meanwhile
                    var former = question.scheduler
                    for decision in given { former.remember(decision, at: question.at) }
                    scheduling.scheduler = former
                    scheduling.isDeciding = false
                    return
                }
                give(rest, on: version, after: given, question)
            }
        }
    }

    private func note(_ what: String, _ reason: String) -> Int {
        logger.log(.info, "the scheduler decides", [("what", what), ("reason", reason)])
        return scheduling.note(
            Scheduling.Record(wallClock: lane.clock.wallClockMilliseconds, what: what, reason: reason))
    }
}

extension GroupAnswer {
    /// Why what was asked is not done.
    fileprivate var problem: String? {
        switch self {
        case .done, .underWay, .moveStatus: nil
        case .notLeader: "its leader was not found"
        case .refused(let error, let text): text ?? error.sentence
        case .failed(let text): text
        }
    }
}

public import RaftCore
import RaftHost
import ShardKV
public import ShardMap

extension ShardServer {
    /// Executes a request on this node's replica. `command` is a packed ``GroupCommand``, or nil for reads.
    ///
    /// The completion gets the packed reply: the state machine's own bytes where it answered, so that they are not
    /// packed twice. It is called in a later turn.
    public func execute(_ request: ExecuteRequest, command: Bytes?, completion: @escaping (Bytes) -> Void) {
        if let command {
            write(command, request, completion)
        } else {
            read(request, completion)
        }
    }

    // MARK: writes

    private func write(_ command: Bytes, _ request: ExecuteRequest, _ completion: @escaping (Bytes) -> Void) {
        guard command.count <= KeyLimits.commandBytes, let peek = CommandPeek(command), peek.kind != .other,
            peek.operationCount <= KeyLimits.operations
        else { return fail(.badRequest, completion) }
        // what no replica can apply must never be committed: it would stop the group for good
        guard peek.isKnown, peek.level <= UInt64(settings.knownLevel) else {
            return fail(.unknownFormat, completion)
        }
        guard peek.level <= UInt64(level) else { return fail(map == nil ? .noLeader : .levelTooLow, completion) }
        let group = request.group
        guard let machine = machines[group] else { return fail(.noSuchGroup, completion) }
        if host.leads(group) {
            // before the clock, which cannot start without room either
            if host.refusesWrites, host.status(of: group)?.problem == nil { return fail(.diskFull, completion) }
            var known = groupClocks[group]
            if known?.isStarted != true {
                // its entry and the first write's go together
                guard startClock(of: group) else { return fail(.noLeader, completion) }
                known = groupClocks[group]
            }
            guard var clock = known else { return fail(.noLeader, completion) }
            if counts.count(peek.operationCount, of: peek.shard), let key = CommandPeek.firstKey(of: command) {
                counts.remember(key, of: peek.shard)
            }
            if peek.setsExpiry || machine.mayHoldExpiringKeys, let time = clock.timeToPropose(at: lane.clock.now) {
                groupClocks[group] = clock
                proposeTime(time, to: group) { _ in }
            }
        }
        guard admission.admit(command.count, to: group, now: lane.clock.now) else { return fail(.busy, completion) }
        host.propose(command, to: group) { [self] outcome in
            admission.finish(command.count, to: group, now: lane.clock.now)
            switch outcome {
            case .applied(let reply, _): completion(reply)
            default: completion(failure(of: outcome).packed(arena))
            }
        }
    }

    private func failure(of outcome: ProposalOutcome) -> ExecuteReply {
        switch outcome {
        case .applied: ExecuteReply()
        case .notLeader(let leader): notLeading(leader)
        case .refused(let refusal): ExecuteReply(error: refusal.namedError)
        case .unknown: ExecuteReply(error: .outcomeUnknown, message: "leadership was lost before the write was applied")
        }
    }

    private func fail(_ error: NamedError, _ completion: @escaping (Bytes) -> Void) {
        completion(ExecuteReply(error: error).packed(arena))
    }

    // MARK: reads

    private func read(_ request: ExecuteRequest, _ completion: @escaping (Bytes) -> Void) {
        guard machines[request.group] != nil else { return fail(.noSuchGroup, completion) }
        guard request.reads.count <= KeyLimits.operations, request.reads.allSatisfy(\.isRead) else {
            return fail(.badRequest, completion)
        }
        if let violation = request.reads.lazy.compactMap(\.limitViolation).first { return fail(violation, completion) }
        guard admission.admit(request.readBytes, to: request.group, now: lane.clock.now) else {
            return fail(.busy, completion)
        }
        if counts.count(request.reads.count, of: request.shard), let key = request.reads.first?.key {
            counts.remember(key, of: request.shard)
        }
        let patience = Int(min(request.deadlineMilliseconds ?? ShardServer.patienceMilliseconds, 1 << 32))
        let deadline = lane.clock.now + .milliseconds(patience)
        if !startingClocks.isEmpty, groupClocks[request.group]?.isStarted == false {
            _ = startClock(of: request.group)
        }
        read(request, until: deadline, lease: true, completion)
    }

    private func read(
        _ request: ExecuteRequest, until deadline: Instant, lease: Bool, _ completion: @escaping (Bytes) -> Void
    ) {
        host.read(request.group, lease: lease) { [self] outcome in
            switch outcome {
            case .ready(let moment):
                let time = groupClocks[request.group]?.time(at: lane.clock.now)
                // what is long due would still be there; the time is on its way
                if time == nil, machines[request.group]?.mayHoldExpiringKeys == true {
                    return fail(request, .noLeader, completion)
                }
                evaluate(request, at: moment, time: time ?? 0, until: deadline, completion)
            case .notLeader(let leader):
                finish(request, notLeading(leader).packed(arena), completion)
            case .refused(let refusal): fail(request, refusal.namedError, completion)
            }
        }
    }

    /// Answers a read that was admitted.
    private func finish(_ request: ExecuteRequest, _ reply: Bytes, _ completion: (Bytes) -> Void) {
        admission.finish(request.readBytes, to: request.group, now: lane.clock.now)
        completion(reply)
    }

    private func fail(_ request: ExecuteRequest, _ error: NamedError, _ completion: (Bytes) -> Void) {
        finish(request, ExecuteReply(error: error).packed(arena), completion)
    }

    /// For a request that names no deadline.
    private static let patienceMilliseconds: UInt64 = 60_000

    private func evaluate(
        _ request: ExecuteRequest, at moment: ReadMoment, time wallClock: Int64, until deadline: Instant,
        _ completion: @escaping (Bytes) -> Void
    ) {
        // nobody waits for it any more
        guard lane.clock.now <= deadline else { return fail(request, .deadlineExceeded, completion) }
        // not before: the one that was there when the read came may have failed and been made anew since
        guard let machine = machines[request.group] else { return fail(request, .noSuchGroup, completion) }
        host.evaluate(at: moment) {
            ShardServer.attempt { () throws(StateMachineError) in try machine.read(request, wallClock: wallClock) }
        } completion: { [self] result in
            switch result {
            case nil: read(request, until: deadline, lease: false, completion)
            case .success(.reply(let reply)): finish(request, reply.packed(arena), completion)
            case .success(.needsTime(let time)):
                // a key is due: the group's time must pass it before anybody is told that it is gone
                proposeTime(time, to: request.group) { [self] outcome in
                    if case .applied = outcome {
                        // at the moment that is committed: what falls due meanwhile is for the next read
                        evaluate(request, at: moment, time: time, until: deadline, completion)
                    } else if case .unknown = outcome {
                        fail(request, .notLeader, completion)
                    } else {
                        finish(request, failure(of: outcome).packed(arena), completion)
                    }
                }
            case .failure(let error):
                couldNotRead(machine, of: request.group, error)
                let reply = ExecuteReply(error: .damaged, message: error.description)
                finish(request, reply.packed(arena), completion)
            }
        }
    }

    /// `machine` was read, and failed. The host makes the best of it, unless there is another state by now.
    func couldNotRead(_ machine: KeyValueStateMachine, of group: String, _ error: StateMachineError) {
        if machines[group] === machine { host.couldNotRead(group, error) }
    }

    // MARK: the groups' time

    /// Starts the clocks of the groups that this node has begun to lead, as soon as enough wall clocks are known. A group
    /// that is written to or read is not waited for; of the others, which may be thousands after another node's end, some
    /// at a time, for they have no use for it soon and others need the disk to elect. Returns when to come back.
    func proposeFirstTimes(_ now: Instant) -> Instant? {
        guard !startingClocks.isEmpty else { return nil }
        guard now >= nextClockStart else { return nextClockStart }
        nextClockStart = now + settings.pace
        startingClocks.removeAll { groupClocks[$0]?.isStarted != false }
        let waiting = startingClocks.prefix(ShardServer.clocksAtATime)
        startingClocks.removeFirst(waiting.count)
        // who cannot be started yet does not keep the others waiting
        for group in waiting where !startClock(of: group) { startingClocks.append(group) }
        return startingClocks.isEmpty ? nil : nextClockStart
    }

    /// In each ``Settings/pace``.
    private static let clocksAtATime = 64

    /// Proposes the first time of the term, if this node leads the group; false if too few wall clocks are known.
    private func startClock(of group: String) -> Bool {
        guard host.leads(group), let clock = groupClocks[group], let machine = machines[group] else { return false }
        if clock.isStarted { return true }
        guard let median = host.medianWallClock(of: group) else { return false }
        groupClocks[group]?.isStarted = true
        proposeTime(max(median, machine.replicatedTime), to: group) { [self] outcome in
            if case .applied = outcome { return }
            // without it nothing would expire in this term, and everything early in the next
            groupClocks[group]?.isStarted = false
            if host.leads(group), !startingClocks.contains(group) { startingClocks.append(group) }
        }
        return true
    }

    private func proposeTime(_ time: Int64, to group: String, _ done: @escaping (ProposalOutcome) -> Void) {
        propose(.time(time), to: group) { [self] outcome in
            if case .applied = outcome, let machine = machines[group] {
                groupClocks[group]?.applied(machine.replicatedTime, at: lane.clock.now)
            }
            done(outcome)
        }
    }
}

extension ExecuteRequest {
    /// Bytes of the keys that it reads.
    fileprivate var readBytes: Int { reads.reduce(0) { $0 + $1.key.count } }
}

extension ProposalRefusal {
    /// The error a client gets.
    var namedError: NamedError {
        switch self {
        case .busy: .busy
        case .diskFull: .diskFull
        case .damaged: .damaged
        case .tooLarge: .badRequest
        // leadership is on its way to another node, which will serve
        case .stopping: .noLeader
        case .noSuchGroup: .noSuchGroup
        case .levelTooLow: .levelTooLow
        }
    }
}

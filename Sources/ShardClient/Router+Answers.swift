internal import RaftCore
internal import ShardMap

// What becomes of a request after an attempt.

extension Router {
    func take(_ outcome: RouterOutcome, of request: Request, attempt: UInt64) {
        // an answer that comes after the attempt was given up says nothing that the next one does not; a session that
        // it names stays unused
        guard request.state == .sent, request.attempt == attempt else { return }
        touch(request.channel)
        switch outcome {
        case .reply(let reply):
            if let error = reply.error { take(error, reply, of: request) } else { succeed(request, reply) }
        case .notSent(let text):
            // one that has too many connections says that it is busy, and closes this one
            if request.channel.problem?.error != .busy || request.channel.problem?.node != request.node {
                request.channel.problem = Problem(node: request.node, text: text)
            }
            retryElsewhere(request)
        case .lost(let text):
            lose(request, text)
        }
    }

    /// The attempt may have been, or may yet be, executed; only asking again tells.
    func lose(_ request: Request, _ text: String) {
        request.channel.problem = Problem(node: request.node, text: text)
        if request.kind == .write { request.mayHaveExecuted = true }
        if planted("lost-writes-are-called-refused"), request.kind == .write {
            request.mayHaveExecuted = false
            return fail(request, .busy, text)
        }
        retryElsewhere(request)
    }

    private func succeed(_ request: Request, _ reply: ExecuteReply) {
        let channel = request.channel
        channel.problem = nil
        if request.kind == .open {
            guard let session = reply.session else {
                return fail(request, .internalError, "a session was opened, but not named")
            }
            channel.session = session
            return remove(request)
        }
        if request.kind == .write { channel.lastWrite = now } else { channel.lastRead = now }
        let expected = request.operationCount
        guard reply.results.count == expected else {
            return fail(request, .internalError, "\(reply.results.count) results for \(expected) operations")
        }
        let executed = Router.executedCount(reply.results)
        var left: [Part] = []
        var offset = 0
        for part in request.parts {
            let (done, rest) = part.divided(after: min(max(executed - offset, 0), part.operationCount))
            if !part.isAnswered {
                if let done { answer(done, from: reply.results, at: offset) }
                if let rest { left.append(rest) }
            }
            offset += part.operationCount
        }
        remove(request)
        askAgain(left, rest: request.rest)
    }

    /// How many of a request's operations were executed: where an answer has become too large, all that follow are
    /// refused. A refusal that is not the end of an answer is a result like others.
    private static func executedCount(_ results: [KeyResult]) -> Int {
        guard let end = results.firstIndex(where: { $0.error == .refused }), end > 0,
            results[end...].allSatisfy({ $0.error == .refused })
        else { return results.count }
        return end
    }

    /// Asks again for what did not fit into an answer, while there is room for further answers.
    private func askAgain(_ parts: [Part], rest: Part?) {
        guard !parts.isEmpty, queuedBytes > settings.maxQueuedBytes else {
            return routeInFront(parts, followedBy: rest)
        }
        for part in parts { fail(part, .busy, "its answers take too much memory") }
        if let rest { fail(rest, .busy, "its answers take too much memory") }
    }

    private func take(_ error: NamedError, _ reply: ExecuteReply, of request: Request) {
        let channel = request.channel
        channel.problem = Problem(node: request.node, error: error, text: reply.message)
        switch error.verdict {
        case .follow: follow(reply.leader, request)
        case .retry: retry(request)
        case .retryElsewhere: retryElsewhere(request)
        case .refreshMap, .awaitMove:
            lookForShard(error, reply, of: request)
        case .reopenSession where request.kind == .write: reopenSession(request)
        case .uncertain: lose(request, error.sentence)
        case .reopenSession, .final: fail(request, error, reply.message)
        }
    }

    /// One hint is followed at once; where hints lead in circles there are pauses.
    private func follow(_ leader: NodeAddress?, _ request: Request) {
        guard let leader, leader != request.node,
            request.channel.group?.follow(leader, namedBy: request.node) != false
        else { return retryElsewhere(request) }
        guard !request.followedHint else { return retry(request) }
        request.followedHint = true
        request.wait(.idle)
    }

    /// The map names nobody who could be asked.
    func missTarget(of request: Request) {
        guard let group = request.channel.group, group.isForeign else { return watchMap(request) }
        fail(request, .notServed, "all members of \(group.id) run another program, which serves no keys")
    }

    private func retry(_ request: Request) {
        request.followedHint = false
        // the pause is for those who were asked; the map names others by now
        guard !request.hasNewLayout else { return request.wait(.idle) }
        let pause = request.nextPause(first: settings.retryDelay, longest: settings.maxRetryDelay)
        request.pause(until: now + pause)
    }

    private func retryElsewhere(_ request: Request) {
        request.channel.group?.avoid(request.node)
        retry(request)
        // once is an accident; more often, the group may have other members by now, or be gone
        if request.state == .backingOff && request.failures > 1 { watchMap(request, until: request.due) }
    }

    /// The node asked does not serve the shard.
    private func lookForShard(_ error: NamedError, _ reply: ExecuteReply, of request: Request) {
        if request.mayHaveExecuted && request.isRefusedForItsRange(reply) { return dissolve(request) }
        // what it says is about a shard that the map has otherwise by now
        guard !request.hasNewLayout else { return request.wait(.idle) }
        if error.verdict == .refreshMap && error != .wrongShard { request.channel.group?.avoid(request.node) }
        watchMap(request, isMoving: error.verdict == .awaitMove)
    }

    /// Holds `request` until there is a newer map, or for a pause, for it may be the node that is late.
    func watchMap(_ request: Request, isMoving: Bool = false) {
        let longest = isMoving ? settings.maxMoveDelay : settings.maxRetryDelay
        watchMap(request, until: now + request.nextPause(first: settings.moveDelay, longest: longest))
    }

    private func watchMap(_ request: Request, until due: Instant) {
        request.pause(.watchingMap, until: due)
        refresh.isWanted = true
        guard !request.channel.isWatchingMap else { return }
        request.channel.isWatchingMap = true
        watching.append(request.channel)
    }

    /// The table does not know the session. If an earlier attempt may have been executed, what that attempt left in the
    /// table is gone with it; otherwise nothing has happened and another session does as well.
    private func reopenSession(_ request: Request) {
        let channel = request.channel
        if channel.session == request.session { channel.session = nil }
        guard !request.mayHaveExecuted else {
            return fail(request, .outcomeUnknown, "the session expired before the answer came")
        }
        // once is an eviction; more often is a condition that a pause may end
        guard request.hasLostSession else {
            request.hasLostSession = true
            return request.wait(.idle)
        }
        retry(request)
    }

    /// Ends `request` with `error`, or with what that means after an attempt that may have been executed.
    func fail(_ request: Request, _ error: NamedError, _ message: String?) {
        if request.kind == .open { return failWrites(of: request, error, message) }
        let verdict = error.afterUncertainAttempt(request.mayHaveExecuted)
        for part in request.parts where !part.isAnswered { fail(part, verdict, message) }
        remove(request)
        guard let rest = request.rest else { return }
        if request.kind == .write && verdict.outcome == .unknown {
            // it could overtake what may yet be executed
            fail(rest, .refused, "an earlier operation of the same call has an unknown outcome")
        } else {
            route(rest, atFront: true)
        }
    }

    /// There will be no session: whatever waits for one has certainly not been executed.
    private func failWrites(of open: Request, _ error: NamedError, _ message: String?) {
        let channel = open.channel
        let refusal = error.outcome == .notExecuted ? error : .refused
        // another error has to say what this one was
        let text = refusal == error ? message : message ?? error.sentence
        remove(open)
        for part in channel.takeQueuedWrites() { fail(part, refusal, text) }
        for request in channel.requests where request.state == .awaitingSession { fail(request, refusal, text) }
    }
}

internal import RaftCore
internal import ShardMap

// What ends without an answer.

extension Router {
    /// Ends what is due: attempts, pauses and calls.
    func expire() {
        while let channel = dues.first, channel.due <= now {
            dues.update(channel, due: .distantFuture)
            touch(channel)
            for part in channel.takeExpired(now: now) { fail(part, channel.lateness, channel.problem?.description) }
            for request in channel.requests { expire(request) }
        }
        for part in unrouted.takeExpired(now: now) { fail(part, .deadlineExceeded, noMap) }
        guard mapCalls.contains(where: { $0.deadline <= now }) else { return }
        let late = mapCalls.filter { $0.deadline <= now }
        mapCalls.removeAll { $0.deadline <= now }
        for call in late { call.completion(.failure(NamedErrorThrown(.deadlineExceeded, noMap))) }
    }

    /// Ends what waits for a map, for there is no cluster as far as anybody can tell; nothing was sent.
    func giveUpOnCluster(_ findings: MapRefresh.NoCluster) {
        refresh.restart()
        let message: String? =
            findings.silent == 0
            ? nil
            : "no node that answers belongs to a cluster (\(findings.silent) of \(findings.asked) do not answer); "
                + "run raftctl init unless there is one"
        for part in unrouted.removeAll() { fail(part, .notInitialized, message) }
        let calls = mapCalls
        mapCalls.removeAll()
        for call in calls { call.completion(.failure(NamedErrorThrown(.notInitialized, message))) }
    }

    private var noMap: String { "no node had a map of the cluster" }

    private func expire(_ request: Request) {
        if request.earliestDeadline <= now {
            giveUp(request, request.channel.lateness) { $0.call.deadline <= self.now }
        }
        guard request.due <= now else { return }
        switch request.state {
        case .sent: lose(request, "no answer in time")
        case .backingOff, .watchingMap: request.wait(.idle)
        case .idle, .awaitingSession, .done: break
        }
    }

    /// Answers the parts of `request` for which `matches` is true: with `error`, unless they may be executed. The
    /// request ends with the last of its parts.
    private func giveUp(_ request: Request, _ error: NamedError, where matches: (Part) -> Bool) {
        let message = request.channel.problem?.description
        for position in request.parts.indices {
            let part = request.parts[position]
            guard !part.isAnswered && matches(part) else { continue }
            request.markAnswered(position)
            fail(part, request.isUncertain ? .outcomeUnknown : error, message)
        }
        request.updateDeadlines()
        guard request.parts.allSatisfy(\.isAnswered) else { return }
        if let rest = request.rest { fail(rest, error, message) }
        remove(request)
    }

    /// Ends everything with ``NamedError/stopping``, or as unknown.
    func giveUpEverything() {
        for part in unrouted.removeAll() { fail(part, .stopping, nil) }
        let calls = mapCalls
        mapCalls.removeAll()
        for call in calls { call.completion(.failure(NamedErrorThrown(.stopping))) }
        // whatever has work is due some time or is ready
        let busy = ready + dues.channels
        for channel in busy {
            for part in channel.takeQueued() { fail(part, .stopping, nil) }
            for request in channel.requests { giveUp(request, .stopping) { _ in true } }
            dues.update(channel, due: .distantFuture)
        }
        forgetWatchers()
        refresh.isWanted = false
    }
}

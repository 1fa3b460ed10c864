internal import RaftCore
internal import ShardMap
internal import WireMessages

// What a channel sends: again what has failed, then what is queued.

extension Router {
    /// Sends on `channel` whatever may be sent.
    func pump(_ channel: ShardChannel) {
        for request in channel.requests where isSendable(request) { send(request) }
        while channel.requests.count < settings.maxRequestsInFlightPerShard, let request = nextRequest(of: channel) {
            channel.requests.append(request)
            send(request)
        }
    }

    private func isSendable(_ request: Request) -> Bool {
        switch request.state {
        case .idle: true
        case .awaitingSession: request.channel.session != nil
        case .sent, .backingOff, .watchingMap, .done: false
        }
    }

    /// A request made of what is queued; nil if nothing may leave. Reads and writes take turns.
    private func nextRequest(of channel: ShardChannel) -> Request? {
        let canWrite = !channel.writes.isEmpty && mayWrite(channel)
        guard canWrite || !channel.reads.isEmpty else { return nil }
        let takesWrites = canWrite && (channel.reads.isEmpty || channel.lastWasRead)
        channel.lastWasRead = !takesWrites
        let (parts, rest) = channel.takeBatch(
            writes: takesWrites, maxOperations: settings.maxOperationsPerRequest, maxBytes: settings.maxBytesPerRequest)
        return Request(
            takesWrites ? .write : .read, on: channel, parts: parts, rest: rest,
            sequence: takesWrites ? channel.window.numbers.open() : 0, session: channel.session ?? 0)
    }

    /// Whether a new write may leave: under a session, within the window. Otherwise it is seen to that it soon may.
    private func mayWrite(_ channel: ShardChannel) -> Bool {
        guard channel.session != nil else {
            openSession(on: channel)
            return false
        }
        guard channel.window.numbers.isFull else { return true }
        if !channel.isStalled {
            channel.isStalled = true
            channel.window.stalled.append(channel)
        }
        return false
    }

    private func openSession(on channel: ShardChannel) {
        guard !channel.requests.contains(where: { $0.kind == .open }) else { return }
        let request = Request(.open, on: channel, sequence: 0, session: 0)
        channel.requests.append(request)
        send(request)
    }

    private func send(_ request: Request) {
        if request.hasNewLayout && !rehome(request) { return }
        let channel = request.channel
        guard let target = channel.group?.target else { return missTarget(of: request) }
        if request.kind == .open && !channel.needsSession { return remove(request) }
        guard prepare(request) else {
            request.wait(.awaitingSession)
            return openSession(on: channel)
        }
        attempts += 1
        let attempt = attempts
        let due = min(now + settings.attemptTimeout, request.latestDeadline)
        request.send(attempt, to: target, until: due)
        transport.execute(
            ExecuteRequest(
                group: channel.shard.group, shard: channel.shard.id, epoch: channel.shard.epoch,
                reads: request.kind == .read ? request.gatherOperations() : [],
                deadlineMilliseconds: UInt64(max(1, (due - now).milliseconds)), requestID: attempt),
            command: request.command, at: target, deadline: due
        ) { [weak self] outcome in self?.arrived(.outcome(outcome, request, attempt: attempt)) }
    }

    /// Makes the request's command; false if it needs a session first.
    private func prepare(_ request: Request) -> Bool {
        let channel = request.channel
        let shard = channel.shard
        switch request.kind {
        case .read:
            request.dropAnswered()
        case .open:
            guard request.command == nil else { break }
            let open = GroupCommand.openSession(shard: shard.id, epoch: shard.epoch, nonce: random.next())
            request.command = open.encoded(arena)
        case .write:
            if !request.mayHaveExecuted {
                guard let session = channel.session else { return false }
                request.session = session
                // told that they did not happen, those must not happen later
                request.dropAnswered()
            }
            // a repeated one says the present floor: the replies below it would take the room that it needs
            let shift = planted("repetitions-get-new-numbers") && request.mayHaveExecuted ? attempts % 7 + 1 : 0
            let write = SessionWrite(
                shard: shard.id, epoch: shard.epoch, session: request.session, sequence: request.sequence + shift,
                floor: request.window.numbers.floor, operations: request.gatherOperations())
            request.command = GroupCommand.write(write).encoded(arena)
        }
        return true
    }

    /// Takes `request` off its channel for good.
    func remove(_ request: Request) {
        precondition(request.state != .done, "a request ended twice")
        if request.kind == .write {
            request.window.numbers.answer(request.sequence)
            releaseStalled(by: request.window)
        }
        request.wait(.done)
        request.channel.requests.removeAll { $0 === request }
        touch(request.channel)
    }

    private func releaseStalled(by window: SharedWindow) {
        guard !window.stalled.isEmpty && !window.numbers.isFull else { return }
        let stalled = window.stalled
        window.stalled = []
        for channel in stalled {
            channel.isStalled = false
            touch(channel)
        }
    }
}

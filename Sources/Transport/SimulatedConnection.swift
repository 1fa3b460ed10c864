internal import RaftCore

/// One end of a simulated connection. What it sends travels through its own pipe to the other end.
final class SimulatedConnection: Connection {
    private enum State {
        case connecting
        case open
        case closed
    }

    /// What travels through a pipe, in order.
    private enum Piece {
        case bytes(Bytes)
        /// The listener accepted; the first piece of its pipe.
        case welcome
        /// The last piece.
        case end(reason: String)
    }

    let id: UInt64
    let lane: SimulatedLane
    let peerAddress: NodeAddress
    var context: AnyObject?
    var handler: (any ConnectionHandler)?

    private unowned let world: SimulatedWorld
    /// The other end, until the end of one has arrived there. The ends hold each other: ``unlink()`` lets go.
    private var peer: SimulatedConnection?
    private var state = State.connecting
    private var closeReason: String?
    private var closesWhenSent = false
    private var isUnsettled = false
    private var attempts = 0

    private var outbox: [Bytes] = []
    private(set) var unsentBytes = 0
    private var wasAboveHighWater = false

    /// Sent and not delivered, oldest first.
    private var pipe: [Piece] = []
    private var lastArrival = Instant(nanoseconds: 0)
    /// Deliveries that came due while the link was cut or the receiver did not read.
    private var heldDeliveries = 0

    private var unread = Bytes()

    private static let attemptsMax = 6

    init(world: SimulatedWorld, lane: SimulatedLane, peerAddress: NodeAddress) {
        self.world = world
        self.lane = lane
        self.peerAddress = peerAddress
        id = world.makeConnectionID()
        world.register(self)
    }

    var peerDescription: String { peerAddress.description }

    var isReadingPaused = false {
        didSet { if isReadingPaused != oldValue { settleSoon() } }
    }

    func send(_ bytes: Bytes) {
        guard !bytes.isEmpty, state != .closed, closeReason == nil else { return }
        outbox.append(bytes)
        unsentBytes += bytes.count
        if unsentBytes > WaterMark.high { wasAboveHighWater = true }
        settleSoon()
    }

    func close(reason: String) {
        guard state != .closed else { return }
        closesWhenSent = false
        if closeReason == nil { closeReason = reason }
        settleSoon()
    }

    func closeAfterSending(reason: String) {
        guard state != .closed, closeReason == nil else { return }
        closesWhenSent = true
        closeReason = reason
        settleSoon()
    }

    private func settleSoon() {
        guard !isUnsettled else { return }
        isUnsettled = true
        lane.settleAfterTurn(self)
    }

    /// After the lane's turn: what it sent leaves as one stretch of the stream; what it closed closes.
    func settle() {
        isUnsettled = false
        if let closeReason, !closesWhenSent { return end(reason: closeReason) }
        guard state == .open else { return }
        let bytes = join(outbox)
        outbox.removeAll()
        if !bytes.isEmpty { launch(bytes) }
        if let closeReason { return end(reason: closeReason) }
        if !isReadingPaused {
            if !unread.isEmpty {
                present()
                lane.requestTurn()
            }
            peer?.retryHeldDeliveries()
        }
    }
}

// MARK: opening and closing

extension SimulatedConnection {
    func beginConnecting() {
        world.schedule(after: world.delay(world.settings.linkDelay), "connect", on: nil) { [self] in tryConnect() }
    }

    private func tryConnect() {
        guard state == .connecting, lane.isAlive else { return }
        guard !world.isCut(from: lane.address, to: peerAddress) else {
            attempts += 1
            guard attempts < SimulatedConnection.attemptsMax else { return fail(reason: "connect: timed out") }
            return world.schedule(after: world.settings.connectRetry, "connect", on: nil) { [self] in tryConnect() }
        }
        guard let host = world.lane(at: peerAddress), let accept = host.listener(on: peerAddress.port) else {
            return fail(reason: "connect: connection refused")
        }
        let accepted = SimulatedConnection(world: world, lane: host, peerAddress: lane.address)
        accepted.state = .open
        accepted.peer = self
        peer = accepted
        accepted.push(.welcome)
        world.schedule(after: Interval(nanoseconds: 0), "accept", on: host) {
            guard accepted.state == .open else { return }
            accepted.handler = accept(accepted)
        }
    }

    private func fail(reason: String) {
        world.schedule(after: world.delay(world.settings.linkDelay), "refused", on: lane) { [self] in
            if state != .closed { end(reason: reason) }
        }
    }

    /// Closes this end; the other hears it when everything sent before has arrived.
    private func end(reason: String) {
        guard state != .closed else { return }
        state = .closed
        outbox = []
        unread = Bytes()
        world.close(self)
        push(.end(reason: "closed by the other side"))
        world.schedule(after: Interval(nanoseconds: 1_000), "closed", on: lane) { [self] in
            handler?.closed(self, reason: reason)
            handler = nil
            context = nil
        }
    }

    /// The link breaks: this end hears it soon.
    func reset() {
        world.schedule(after: world.delay(world.settings.linkDelay), "reset", on: lane) { [self] in
            end(reason: "connection reset")
        }
    }

    /// Ends without telling anybody.
    func vanish() {
        state = .closed
        handler = nil
        context = nil
        outbox = []
        pipe = []
        peer = nil
    }

    /// The node crashed; its kernel tells the other side.
    func die() {
        guard state != .closed else { return }
        if peer?.state == .closed { unlink() }
        guard peer != nil else { return vanish() }
        state = .closed
        handler = nil
        context = nil
        world.close(self)
        push(.end(reason: "connection reset"))
    }

    /// Nothing travels between the ends any more.
    private func unlink() {
        guard let other = peer else { return world.forget(self) }
        peer = nil
        other.peer = nil
        for end in [self, other] where end.state == .closed { world.forget(end) }
    }
}

// MARK: the pipe

extension SimulatedConnection {
    /// Sends what a turn has left: as one stretch, or message by message if the link is disturbed.
    private func launch(_ bytes: Bytes) {
        guard let disturbance = world.disturbance(from: lane.address, to: peerAddress),
            let frames = SimulatedConnection.frames(in: bytes)
        else { return push(splitting: bytes) }
        for frame in frames {
            if world.strikes(disturbance.lossOneOf) {
                world.record("lose", lane.address, frame.count)
                unsentBytes -= frame.count
            } else if world.strikes(disturbance.reorderOneOf) {
                world.schedule(after: world.delay(disturbance.reorderDelay), "late", on: nil) { [self] in
                    if state == .open { push(.bytes(frame)) }
                }
            } else {
                push(splitting: frame)
            }
            guard world.strikes(disturbance.duplicateOneOf) else { continue }
            world.schedule(after: world.delay(disturbance.duplicateDelay), "again", on: nil) { [self] in
                guard state == .open else { return }
                unsentBytes += frame.count
                push(.bytes(frame))
            }
        }
        noticeDrained()
    }

    /// The messages that `bytes` consist of; nil if they are not whole ones.
    private static func frames(in bytes: Bytes) -> [Bytes]? {
        var frames: [Bytes] = []
        var start = 0
        while start < bytes.count {
            guard case .frame(let frame) = Frame.next(in: bytes, at: start, bodyBytesMax: Frame.bodyBytesMax) else {
                return nil
            }
            frames.append(bytes.slice(from: start, count: frame.bytes))
            start += frame.bytes
        }
        return frames
    }

    private func push(splitting bytes: Bytes) {
        guard bytes.count > 1, world.number(in: 0..<world.settings.splitOneOf) == 0 else { return push(.bytes(bytes)) }
        let cut = Int(world.number(in: 1..<Int64(bytes.count)))
        push(.bytes(bytes.slice(from: 0, count: cut)))
        push(.bytes(bytes.suffix(from: cut)))
    }

    /// Sends a piece on its way; it arrives after those before it.
    private func push(_ piece: Piece) {
        guard let peer else { return }
        pipe.append(piece)
        scheduleDelivery(to: peer)
    }

    private func scheduleDelivery(to peer: SimulatedConnection) {
        let delay = world.disturbance(from: lane.address, to: peerAddress)?.linkDelay ?? world.settings.linkDelay
        lastArrival = max(lastArrival, world.now + world.delay(delay))
        world.schedule(at: lastArrival, "arrive", on: peer.lane) { [self] in deliver() }
    }

    private func deliver() {
        guard let peer, !pipe.isEmpty else { return }
        guard !world.isCut(from: lane.address, to: peer.lane.address), !peer.isReadingPaused else {
            heldDeliveries += 1
            return world.hold(self)
        }
        let piece = pipe.removeFirst()
        switch piece {
        case .welcome:
            peer.welcome()
            world.record("open", peer.lane.address)
        case .end(let reason):
            unlink()
            world.record("end", peer.lane.address)
            peer.end(reason: reason)
        case .bytes(let bytes):
            world.record("bytes", peer.lane.address, bytes.count)
            unsentBytes -= bytes.count
            peer.receive(bytes)
            noticeDrained()
        }
    }

    /// The link works again, or the receiver reads again.
    func retryHeldDeliveries() {
        guard let peer, heldDeliveries > 0 else { return }
        guard !peer.isReadingPaused, !world.isCut(from: lane.address, to: peer.lane.address) else {
            return world.hold(self)
        }
        for _ in 0..<heldDeliveries { scheduleDelivery(to: peer) }
        heldDeliveries = 0
    }

    private func noticeDrained() {
        guard wasAboveHighWater, state == .open, unsentBytes <= WaterMark.low else { return }
        wasAboveHighWater = false
        // The sender is another lane, which takes its turn after this.
        world.schedule(after: Interval(nanoseconds: 1_000), "drained", on: lane) { [self] in
            if state == .open { handler?.drained(self) }
        }
    }

    private func welcome() {
        guard state == .connecting, closeReason == nil || closesWhenSent else { return }
        state = .open
        handler?.opened(self)
        if !outbox.isEmpty || closeReason != nil { settleSoon() }
    }

    private func receive(_ bytes: Bytes) {
        guard state == .open else { return }
        unread = join([unread, bytes])
        present()
    }

    private func present() {
        guard closeReason == nil, let handler else { return unread = Bytes() }
        let consumption = handler.received(unread, on: self)
        unread = unread.suffix(from: consumption.consumed)
    }
}

/// The pieces as one run of bytes; a single one is not copied.
private func join(_ pieces: [Bytes]) -> Bytes {
    let count = pieces.reduce(0) { $0 + $1.count }
    if let last = pieces.last, last.count == count { return last }
    return Bytes(count: count) { buffer in
        var offset = 0
        for piece in pieces {
            piece.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: buffer[offset...]).copyMemory(from: $0) }
            offset += piece.count
        }
    }
}

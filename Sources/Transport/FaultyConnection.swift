internal import RaftCore

/// A connection of a ``FaultyNetwork``: to its owner a connection, to the one below it the handler.
///
/// While nothing befalls it and nothing waits, everything passes at once. Otherwise what goes and what comes waits in a
/// queue for each way; a queue is left in order, and in a turn of the network only.
final class FaultyConnection: Connection, ConnectionHandler {
    private enum Stage {
        /// Outgoing, and a way is held: it is not even begun.
        case unconnected
        /// Accepted; who is there is not known yet.
        case unidentified
        /// Accepted from a node, and a way is held: as if it were not there yet.
        case unaccepted
        case open
        /// Its owner has closed it; what was on its way then still goes.
        case lingering
        case over
    }

    /// Something the owner is to hear.
    private enum Arrival {
        case opened
        case bytes(Bytes)
        case inputEnded
        case closed(String)
    }

    let id: UInt64
    let peerDescription: String
    var context: AnyObject?
    var handler: (any ConnectionHandler)?
    /// The other side, if it is known to be a node.
    private(set) var node: NodeAddress?
    /// It is in the network's list of those that have something to do.
    var isActive = false

    private weak var network: FaultyNetwork?
    private var inner: (any Connection)?
    private var stage: Stage
    private var closeReason: String?
    private var closesWhenSent = false
    /// What is below closes as well.
    private var isToldBelow = false

    private var departures: [(due: Instant, bytes: Bytes)] = []
    private var departingBytes = 0
    private var wasAboveHighWater = false

    private var arrivals: [(due: Instant, content: Arrival)] = []
    private var arrivingBytes = 0
    /// What the owner has seen and not consumed of what waited; never of what passed at once.
    private var rest: [Bytes] = []
    private var restBytes = 0
    /// Size from which on the rest is of use.
    private var needed = 0
    private var presentsAnew = false

    /// Above this many bytes that wait to be received no more are taken from the kernel.
    private static let arrivingBytesMax = 4 << 20

    init(_ id: UInt64, _ network: FaultyNetwork, to address: NodeAddress, _ handler: any ConnectionHandler) {
        self.id = id
        self.network = network
        self.handler = handler
        node = address
        peerDescription = address.description
        stage = .unconnected
    }

    init(_ id: UInt64, _ network: FaultyNetwork, accepted inner: any Connection) {
        self.id = id
        self.network = network
        self.inner = inner
        peerDescription = inner.peerDescription
        stage = .unidentified
    }

    var faults = LinkFaults() {
        didSet {
            guard faults != oldValue else { return }
            adjustReading()
            network?.activate(self)
        }
    }

    var waitingBytes: Int { departingBytes + arrivingBytes }

    private var isUsable: Bool { closeReason == nil && stage != .lingering && stage != .over }

    // MARK: the owner's side

    var unsentBytes: Int {
        guard stage != .lingering, stage != .over else { return 0 }
        // nothing of one that is not there yet has gone anywhere
        let window = stage == .unconnected ? 0 : FaultyNetwork.windowBytes
        return (inner?.unsentBytes ?? 0) + max(0, departingBytes - window)
    }

    var isReadingPaused = false {
        didSet {
            guard isReadingPaused != oldValue else { return }
            adjustReading()
            guard !isReadingPaused, restBytes > 0 || !arrivals.isEmpty else { return }
            presentsAnew = true
            network?.activate(self)
        }
    }

    func send(_ bytes: Bytes) {
        guard !bytes.isEmpty, isUsable, inner != nil || stage == .unconnected else { return }
        if let inner, departures.isEmpty, faults.outgoing == .absent {
            inner.send(bytes)
        } else if let network {
            departures.append((network.now + faults.outgoing.delay, bytes))
            departingBytes += bytes.count
            network.activate(self)
        }
        if unsentBytes > WaterMark.high { wasAboveHighWater = true }
    }

    func close(reason: String) {
        if closesWhenSent, isToldBelow { inner?.close(reason: reason) }
        guard isUsable else { return }
        closeReason = reason
        leaveOrWait()
    }

    func closeAfterSending(reason: String) {
        guard isUsable else { return }
        closeReason = reason
        closesWhenSent = true
        leaveOrWait()
    }

    /// Nothing is in the way of a close, or the next turn sees to it.
    private func leaveOrWait() {
        guard let inner, departures.isEmpty, faults.outgoing != .held else {
            network?.activate(self)
            return
        }
        isToldBelow = true
        let reason = closeReason ?? "closed"
        if closesWhenSent { inner.closeAfterSending(reason: reason) } else { inner.close(reason: reason) }
    }

    func connectUnlessHeld() {
        guard stage == .unconnected, closeReason == nil, !faults.holdsAny, let node, let network else { return }
        stage = .open
        inner = network.open(self, to: node)
        adjustReading()
    }

    // MARK: the network's turn

    /// Lets through what is due; when more will be, nil if that is not for time to say.
    func turn(now: Instant) -> Instant? {
        connectUnlessHeld()
        if stage == .unaccepted, !faults.holdsAny {
            stage = .open
            adjustReading()
        }
        sendDue(now)
        if closeReason != nil { leave() }
        deliverDue(now)
        noticeDrained()
        let dues = [
            faults.outgoing.isTimed && inner != nil ? departures.first?.due : nil,
            faults.incoming.isTimed && !isReadingPaused ? arrivals.first?.due : nil,
        ]
        return dues.compactMap { $0 }.min()
    }

    private func sendDue(_ now: Instant) {
        guard let inner else { return }
        let count = departures.prefix { faults.outgoing.lets($0.due, at: now) }.count
        for departure in departures.prefix(count) {
            departingBytes -= departure.bytes.count
            inner.send(departure.bytes)
        }
        departures.removeFirst(count)
        guard closeReason != nil, departures.isEmpty, faults.outgoing != .held, !isToldBelow else { return }
        isToldBelow = true
        inner.closeAfterSending(reason: closeReason ?? "closed")
    }

    /// The owner has closed it, and bytes, or the word of it, must wait.
    private func leave() {
        guard stage != .lingering, stage != .over else { return }
        guard inner != nil else { return end(closeReason ?? "closed") }
        // the owner hears when that is done
        guard !isToldBelow else { return }
        if !closesWhenSent { dropBeyondWindow() }
        stage = .lingering
        forgetArrivals()
        adjustReading()
        let owner = handler
        handler = nil
        owner?.closed(self, reason: closeReason ?? "closed")
        context = nil
    }

    /// The kernel sends what it has of a closed connection, and no more.
    private func dropBeyondWindow() {
        while departingBytes > FaultyNetwork.windowBytes, let last = departures.popLast() {
            departingBytes -= last.bytes.count
        }
    }

    private func deliverDue(_ now: Instant) {
        var presents = presentsAnew
        presentsAnew = false
        while isUsable, !isReadingPaused, let next = arrivals.first, faults.incoming.lets(next.due, at: now) {
            if case .bytes(let bytes) = next.content {
                rest.append(bytes)
                restBytes += bytes.count
                arrivingBytes -= bytes.count
                presents = true
                arrivals.removeFirst()
                continue
            }
            if presents {
                presents = false
                present()
                // that may have changed everything
                continue
            }
            arrivals.removeFirst()
            switch next.content {
            case .opened: handler?.opened(self)
            case .inputEnded:
                handler?.inputEnded(self)
                if !owesAnswers { closeAfterSending(reason: "closed by the other side") }
            case .closed(let reason): return end(reason)
            case .bytes: preconditionFailure("bytes are dealt with above")
            }
        }
        if presents { present() }
        adjustReading()
    }

    private func present() {
        guard isUsable, !isReadingPaused, restBytes > 0, restBytes >= needed, let handler else { return }
        let whole = rest.count == 1 ? rest[0] : Bytes(rest.flatMap(\.array))
        let consumption = handler.received(whole, on: self)
        needed = consumption.needed
        restBytes = whole.count - consumption.consumed
        rest = restBytes > 0 ? [whole.suffix(from: consumption.consumed)] : []
    }

    private func noticeDrained() {
        guard wasAboveHighWater, isUsable, unsentBytes <= WaterMark.low else { return }
        wasAboveHighWater = false
        handler?.drained(self)
    }

    private func forgetArrivals() {
        arrivals = []
        arrivingBytes = 0
        rest = []
        restBytes = 0
    }

    private func end(_ reason: String) {
        guard stage != .over else { return }
        stage = .over
        inner = nil
        departures = []
        departingBytes = 0
        forgetArrivals()
        network?.forget(self)
        let owner = handler
        handler = nil
        owner?.closed(self, reason: reason)
        context = nil
    }

    private func adjustReading() {
        guard let inner else { return }
        let isPaused =
            faults.incoming == .held || stage == .unaccepted
            || stage != .lingering && (isReadingPaused || arrivingBytes > FaultyConnection.arrivingBytesMax)
        if inner.isReadingPaused != isPaused { inner.isReadingPaused = isPaused }
    }
}

// MARK: what comes from below

extension FaultyConnection {
    /// Whether what comes now must wait.
    private var queuesArrivals: Bool { faults.incoming != .absent || !arrivals.isEmpty || restBytes > 0 }

    private func arrive(_ content: Arrival, later: Interval = .milliseconds(0)) {
        guard let network else { return }
        arrivals.append((network.now + faults.incoming.delay + later, content))
        if case .bytes(let bytes) = content { arrivingBytes += bytes.count }
        adjustReading()
        network.activate(self)
    }

    func opened(_ connection: any Connection) {
        guard isUsable else { return }
        // a packet there and one back
        if queuesArrivals || faults.outgoing != .absent { return arrive(.opened, later: faults.outgoing.delay) }
        handler?.opened(self)
    }

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        switch stage {
        case .unidentified:
            switch network?.caller(introducedBy: bytes) {
            case .unclear: return Consumption(consumed: 0)
            case .stranger, nil: stage = .open
            case .node(let address):
                node = address
                faults = network?.faults(of: address) ?? LinkFaults()
                stage = faults.holdsAny ? .unaccepted : .open
                adjustReading()
            }
            return received(bytes, on: connection)
        case .unaccepted: return Consumption(consumed: 0)
        case .open where isUsable:
            guard queuesArrivals else {
                return handler?.received(bytes, on: self) ?? Consumption(consumed: bytes.count)
            }
            // a slice would keep the whole of what was read
            arrive(.bytes(bytes.compacted))
            return Consumption(consumed: bytes.count)
        case .open, .unconnected, .lingering, .over: return Consumption(consumed: bytes.count)
        }
    }

    func closed(_ connection: any Connection, reason: String) {
        guard stage != .lingering, closeReason == nil else { return end(closeReason ?? reason) }
        guard queuesArrivals else { return end(reason) }
        inner = nil
        arrive(.closed(reason))
    }

    func drained(_ connection: any Connection) {
        // what waited here may have filled it
        wasAboveHighWater = true
        noticeDrained()
    }

    func inputEnded(_ connection: any Connection) {
        guard isUsable else { return }
        if queuesArrivals { return arrive(.inputEnded) }
        handler?.inputEnded(self)
    }

    var owesAnswers: Bool { !departures.isEmpty || !arrivals.isEmpty || handler?.owesAnswers ?? false }
}

extension LinkFault {
    fileprivate var delay: Interval {
        if case .delayed(let time) = self { time } else { .milliseconds(0) }
    }

    fileprivate var isTimed: Bool {
        if case .delayed = self { true } else { false }
    }

    /// Whether what was due at a time passes now.
    fileprivate func lets(_ due: Instant, at now: Instant) -> Bool {
        switch self {
        case .absent: true
        case .held: false
        case .delayed: due <= now
        }
    }
}

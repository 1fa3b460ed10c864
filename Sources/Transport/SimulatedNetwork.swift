public import RaftCore

/// Nodes, their network and their disks' delays in one thread and one virtual time: the simulation's `Transport`.
///
/// Everything that happens is an event at a virtual moment; events run in (moment, sequence) order, and every chance
/// is drawn from one seed, so a seed replays a run bit for bit. After each event a lane has received, it takes a turn.
/// Time passes only between events.
///
/// A link behaves as TCP does: bytes arrive in order, after a random delay, in pieces cut anywhere; while it is cut
/// they are held back, and heal brings them; a crash breaks connections; nobody listening refuses them.
public final class SimulatedWorld {
    /// How slow the world is. Moments are drawn evenly from the ranges.
    public struct Settings: Sendable {
        /// One way through a link, in nanoseconds.
        public var linkDelay: Range<Int64> = 50_000..<2_000_000
        /// A worker's job, in nanoseconds.
        public var jobDelay: Range<Int64> = 20_000..<5_000_000
        /// From a job's end to its completion on the lane, in nanoseconds; a crash can come in between.
        public var completionDelay: Range<Int64> = 1_000..<200_000
        /// One of so many pieces of a stream arrives in two.
        public var splitOneOf: Int64 = 4
        /// A connect without any answer is tried again after so long, six times.
        public var connectRetry = Interval.milliseconds(500)
        /// The defaults.
        public init() {}
    }

    /// May be changed at any time; counts from the next draw on.
    public var settings = Settings()
    /// Hears one line per event, if set.
    public var trace: ((String) -> Void)?
    /// A fingerprint of everything that has happened.
    public private(set) var digest: UInt64 = 0xcbf2_9ce4_8422_2325
    /// How many events have happened.
    public private(set) var stepCount = 0

    let time = VirtualTime()
    private var random: SeededRandom
    private var events = EventQueue()
    private var sequence: UInt64 = 0
    private var lanes: [SimulatedLane] = []
    private var cuts: [Link] = []
    private var disturbances: [(link: Link, disturbance: Disturbance)] = []
    private var lastConnectionID: UInt64 = 0
    /// All that are not closed, in the order of their making.
    private var connections: [SimulatedConnection] = []
    /// Those that are closed while the other end has not heard of it.
    private var closed: [SimulatedConnection] = []
    /// Those whose pipe holds pieces back, closed or not.
    private var holding: [SimulatedConnection] = []

    struct Link: Equatable {
        var from: NodeAddress
        var to: NodeAddress
    }

    /// What a link does to whole messages (frames of the RPC protocol), more than TCP would.
    public struct Disturbance: Sendable {
        /// One of so many is lost; 0: none. Whoever disturbs a link so should break its connections in the end: nobody
        /// else tells the sender.
        public var lossOneOf: Int64 = 0
        /// One of so many arrives twice; 0: none.
        public var duplicateOneOf: Int64 = 0
        /// How much later the second one leaves, in nanoseconds.
        public var duplicateDelay: Range<Int64> = 0..<1_000_000
        /// One of so many is overtaken by what comes after it; 0: none.
        public var reorderOneOf: Int64 = 0
        /// How much later it then is, in nanoseconds.
        public var reorderDelay: Range<Int64> = 0..<20_000_000
        /// One way through the link in nanoseconds, if not as everywhere.
        public var linkDelay: Range<Int64>?
        /// No disturbance.
        public init() {}
    }

    /// A world without nodes, ruled by `seed`.
    public init(seed: UInt64) { random = SeededRandom(seed: seed) }

    /// Connections, handlers and lanes hold each other until closed; nobody will close them any more.
    deinit {
        for lane in lanes { lane.die() }
        for connection in connections + closed { connection.vanish() }
    }

    /// Virtual time since the world began, by no node's clock.
    public var now: Instant { time.now }

    // MARK: nodes

    /// Starts a node (again, after a crash). Its monotonic clock starts anywhere and runs `driftPartsPerMillion`
    /// too fast.
    public func addNode(at address: NodeAddress, driftPartsPerMillion: Int64 = 0) -> SimulatedLane {
        precondition(lane(at: address) == nil, "\(address) runs already")
        let clock = SimulatedClock(
            time: time, offset: number(in: 0..<1_000_000_000_000), driftPartsPerMillion: driftPartsPerMillion)
        let lane = SimulatedLane(world: self, address: address, clock: clock)
        lanes.append(lane)
        return lane
    }

    /// The running node at `address`.
    public func lane(at address: NodeAddress) -> SimulatedLane? { lanes.first { $0.address == address } }

    /// Ends a node at once: its connections break, its jobs that have not run never do, nobody in it hears of it.
    public func crash(_ address: NodeAddress) {
        guard let lane = lane(at: address) else { return }
        record("crash", address)
        lanes.removeAll { $0 === lane }
        lane.die()
        for connection in connections where connection.lane === lane { connection.die() }
        connections.removeAll { $0.lane === lane }
    }

    // MARK: the network's faults

    /// Lets nothing pass in one direction until healed.
    public func cut(from: NodeAddress, to: NodeAddress) {
        let link = Link(from: from, to: to)
        guard !cuts.contains(link) else { return }
        record("cut", from)
        cuts.append(link)
    }

    /// Lets everything pass again that was held back in that direction.
    public func heal(from: NodeAddress, to: NodeAddress) {
        record("heal", from)
        cuts.removeAll { $0 == Link(from: from, to: to) }
        let held = holding
        holding = []
        for connection in held { connection.retryHeldDeliveries() }
    }

    /// Heals every cut.
    public func healAll() {
        for link in cuts { heal(from: link.from, to: link.to) }
    }

    /// Disturbs one direction of a link until told otherwise; nil ends it.
    public func disturb(from: NodeAddress, to: NodeAddress, _ disturbance: Disturbance?) {
        record("disturb", from)
        let link = Link(from: from, to: to)
        disturbances.removeAll { $0.link == link }
        if let disturbance { disturbances.append((link, disturbance)) }
    }

    /// Ends every disturbance.
    public func calm() { disturbances = [] }

    /// Breaks every connection between two nodes; both sides hear it.
    public func breakConnections(between one: NodeAddress, and other: NodeAddress) {
        record("break", one)
        for connection in connections where connection.lane.address == one && connection.peerAddress == other {
            connection.reset()
        }
        for connection in connections where connection.lane.address == other && connection.peerAddress == one {
            connection.reset()
        }
    }

    // MARK: faults of nodes

    /// Lets the process of a node stand still for `interval`, as after SIGSTOP; its kernel goes on.
    public func pause(_ address: NodeAddress, for interval: Interval) {
        record("pause", address)
        lane(at: address)?.pausedUntil = now + interval
    }

    /// Suspends the process of a node in the middle of its next turn: the turn has read the clock, time passes
    /// everywhere for `interval`, and the turn goes on with what it has read.
    public func stall(_ address: NodeAddress, for interval: Interval) {
        record("stall", address)
        lane(at: address)?.stall = interval
    }

    /// Holds the jobs of a node's workers back for `interval`, as a device that answers nothing does.
    public func holdJobs(of address: NodeAddress, for interval: Interval) {
        record("hang", address)
        lane(at: address)?.jobsHeldUntil = now + interval
    }

    /// From now on the jobs of a node's workers take so many nanoseconds; nil: as long as everywhere.
    public func setJobDelay(of address: NodeAddress, _ delay: Range<Int64>?) { lane(at: address)?.jobDelay = delay }

    /// Moves a node's wall clock.
    public func jumpWallClock(of address: NodeAddress, milliseconds: Int64) {
        record("jump", address)
        lane(at: address)?.simulatedClock.jumpWallClock(by: milliseconds)
    }

    /// From now on a node's monotonic clock runs so much too fast.
    public func drift(_ address: NodeAddress, partsPerMillion: Int64) {
        record("drift", address)
        lane(at: address)?.simulatedClock.drift(partsPerMillion: partsPerMillion)
    }

    // MARK: running

    /// Runs what happens in the next `interval`.
    public func run(for interval: Interval) {
        let end = now + interval
        while let moment = events.nextMoment, moment <= end { step() }
        time.now = end
    }

    /// Runs until `condition`, looked at after each event, holds; false if it does not within `limit`.
    @discardableResult
    public func runUntil(limit: Interval, _ condition: () -> Bool) -> Bool {
        let end = now + limit
        while !condition() {
            guard let moment = events.nextMoment, moment <= end else {
                time.now = end
                return false
            }
            step()
        }
        return true
    }

    /// Lets the next event happen; false if there is none.
    @discardableResult
    public func step() -> Bool {
        guard events.nextMoment != nil else { return false }
        var event = events.removeFirst()
        time.now = event.moment
        stepCount += 1
        guard let lane = event.lane else {
            record(event.kind, nil)
            event.action()
            return true
        }
        guard lane.isAlive else { return true }
        if lane.pausedUntil > event.moment {
            // in the order in which they would have happened
            event.moment = lane.pausedUntil
            events.insert(event)
            return true
        }
        record(event.kind, lane.address)
        if event.takesTurn { lane.handle(event.action) } else { event.action() }
        return true
    }
}

extension SimulatedWorld {
    /// Lets `action` happen after `delay`; on a lane it is forgotten if the lane crashes first, and a turn follows it.
    func schedule(
        after delay: Interval, _ kind: StaticString, on lane: SimulatedLane?, _ action: @escaping () -> Void
    ) {
        schedule(at: now + delay, kind, on: lane, action)
    }

    func schedule(
        at moment: Instant, _ kind: StaticString, on lane: SimulatedLane?, takesTurn: Bool = true,
        _ action: @escaping () -> Void
    ) {
        sequence += 1
        events.insert(
            SimulatedEvent(
                moment: max(moment, now), sequence: sequence, kind: kind, lane: lane, takesTurn: takesTurn,
                action: action))
    }

    /// Whether the next event happens to `lane`, at this very moment.
    func isNext(_ lane: SimulatedLane) -> Bool {
        guard let next = events.first else { return false }
        return next.lane === lane && next.moment == now && next.takesTurn
    }

    func number(in range: Range<Int64>) -> Int64 { random.number(in: range) }

    func delay(_ range: Range<Int64>) -> Interval { Interval(nanoseconds: number(in: range)) }

    func isCut(from: NodeAddress, to: NodeAddress) -> Bool { !cuts.isEmpty && cuts.contains(Link(from: from, to: to)) }

    func disturbance(from: NodeAddress, to: NodeAddress) -> Disturbance? {
        guard !disturbances.isEmpty else { return nil }
        let link = Link(from: from, to: to)
        return disturbances.first { $0.link == link }?.disturbance
    }

    /// Whether it happens to this one, of which one in `oneOf` is hit.
    func strikes(_ oneOf: Int64) -> Bool { oneOf > 0 && number(in: 0..<oneOf) == 0 }

    func makeConnectionID() -> UInt64 {
        lastConnectionID += 1
        return lastConnectionID
    }

    /// What `connection` sent waits for a link to heal or its reader to read.
    func hold(_ connection: SimulatedConnection) {
        if !holding.contains(where: { $0 === connection }) { holding.append(connection) }
    }

    func register(_ connection: SimulatedConnection) { connections.append(connection) }

    /// It takes part in nothing any more, but what it sent is on its way.
    func close(_ connection: SimulatedConnection) {
        connections.removeAll { $0 === connection }
        closed.append(connection)
    }

    func forget(_ connection: SimulatedConnection) { closed.removeAll { $0 === connection } }

    /// Adds to the fingerprint and the trace.
    func record(_ kind: StaticString, _ address: NodeAddress?, _ size: Int = 0) {
        mix(UInt64(kind.utf8CodeUnitCount) << 8 | UInt64(kind.utf8Start.pointee))
        mix(UInt64(bitPattern: now.nanoseconds))
        mix(UInt64(address?.ip ?? 0) << 16 | UInt64(address?.port ?? 0))
        mix(UInt64(size))
        trace?("\(now.nanoseconds) \(kind) \(address.map(\.description) ?? "-") \(size)")
    }

    /// Adds something that happened outside to the fingerprint.
    public func note(_ value: UInt64) { mix(value) }

    private func mix(_ value: UInt64) { digest = (digest ^ value) &* 0x100_0000_01b3 }
}

/// The world's time, read by the clocks of its nodes. Everything of a world runs on one thread.
final class VirtualTime: @unchecked Sendable {
    var now = Instant(nanoseconds: 0)
}

/// Something that happens.
struct SimulatedEvent {
    var moment: Instant
    var sequence: UInt64
    var kind: StaticString
    var lane: SimulatedLane?
    /// Whether a turn of the lane follows.
    var takesTurn: Bool
    var action: () -> Void

    func precedes(_ other: SimulatedEvent) -> Bool {
        moment != other.moment ? moment < other.moment : sequence < other.sequence
    }
}

/// What will happen, the next at hand: a binary heap.
private struct EventQueue {
    private var heap: [SimulatedEvent] = []

    var nextMoment: Instant? { heap.first?.moment }

    var first: SimulatedEvent? { heap.first }

    mutating func insert(_ event: SimulatedEvent) {
        heap.append(event)
        var place = heap.count - 1
        while place > 0, heap[place].precedes(heap[(place - 1) / 2]) {
            heap.swapAt(place, (place - 1) / 2)
            place = (place - 1) / 2
        }
    }

    mutating func removeFirst() -> SimulatedEvent {
        heap.swapAt(0, heap.count - 1)
        let first = heap.removeLast()
        var place = 0
        while true {
            var least = place
            for child in [2 * place + 1, 2 * place + 2] where child < heap.count && heap[child].precedes(heap[least]) {
                least = child
            }
            guard least != place else { return first }
            heap.swapAt(place, least)
            place = least
        }
    }
}

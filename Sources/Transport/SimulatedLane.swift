public import RaftCore

/// One node of a ``SimulatedWorld``: its lane, its network and the maker of its workers.
public final class SimulatedLane: LaneDriver, Network {
    /// The node.
    public let address: NodeAddress
    /// The node's clocks.
    public let clock: any NodeClock
    /// False once it has crashed.
    public private(set) var isAlive = true
    /// Until then the process stands still: nothing it should do happens before.
    var pausedUntil = Instant.distantPast
    /// It has been busy, and what came meanwhile waits.
    private var isCatchingUp = false
    /// If set, the next turn is suspended for so long just after it has read the clock.
    var stall: Interval?
    /// What a turn that is suspended has read of the clock.
    private var suspendedReading: Instant?
    /// Until then no job of its workers runs.
    var jobsHeldUntil = Instant.distantPast
    /// How long a job of its workers takes, if not as long as everywhere.
    var jobDelay: Range<Int64>?

    /// Where this node listens, in the order of ``listen(on:accept:)``.
    public private(set) var listeningAddresses: [NodeAddress] = []

    let simulatedClock: SimulatedClock
    private unowned let world: SimulatedWorld
    private var turn: ((Instant) -> Instant?)?
    /// Bumped when a later alarm replaces one that waits.
    private var alarmNumber = 0
    private var alarmTime: Instant?
    private var isTurnRequested = false
    /// An event is being handled; the turn follows anyway.
    private var isTurnNext = false
    private var unsettled: [SimulatedConnection] = []
    private var listeners: [(port: UInt16, accept: (any Connection) -> any ConnectionHandler)] = []
    private var lastPort: UInt16 = 40_000
    private var workers: [SimulatedWorker] = []

    /// A turn costs so much, lest a lane that always wants another stops the time.
    private static let turnCost = Interval(nanoseconds: 1_000)

    init(world: SimulatedWorld, address: NodeAddress, clock: SimulatedClock) {
        self.world = world
        self.address = address
        self.clock = clock
        simulatedClock = clock
    }

    // MARK: the lane

    /// What is being done takes so long: the node's clock has gone on by that, and nothing else is done before. Without it,
    /// whatever is done in an event takes no time.
    public func spend(_ interval: Interval) { simulatedClock.run(ahead: interval) }

    /// Calls `turn` after each event of this node, and when the returned deadline has come.
    public func setTurn(_ turn: @escaping (Instant) -> Instant?) {
        self.turn = turn
        requestTurn()
    }

    /// Makes a turn happen a microsecond from now.
    public func requestTurn() {
        guard isAlive, !isTurnRequested, !isTurnNext else { return }
        isTurnRequested = true
        world.schedule(after: SimulatedLane.turnCost, "turn", on: self) {}
    }

    /// Runs `work` on this lane, as if posted by another thread.
    public func post(_ work: @escaping () -> Void) {
        world.schedule(after: SimulatedLane.turnCost, "post", on: self, work)
    }

    /// Handles one event, then takes the turn.
    func handle(_ event: () -> Void) {
        if let reading = suspendedReading {
            suspendedReading = nil
            runTurn(reading)
            guard isAlive else { return }
        }
        isTurnNext = true
        event()
        isTurnNext = false
        guard isAlive else { return }
        // who was busy finds everything that has come meanwhile, and takes one turn behind it, as after a poll
        if isCatchingUp, world.isNext(self) { return }
        isCatchingUp = false
        takeTurn()
        guard let caughtUp = simulatedClock.caughtUp() else { return }
        pausedUntil = max(pausedUntil, caughtUp)
        isCatchingUp = true
    }

    private func takeTurn() {
        isTurnRequested = false
        guard let stall else { return runTurn(clock.now) }
        self.stall = nil
        suspendedReading = clock.now
        pausedUntil = max(pausedUntil, world.now + stall)
        world.schedule(at: pausedUntil, "resume", on: self) {}
    }

    /// `reading`: what the clock showed when the turn began.
    private func runTurn(_ reading: Instant) {
        let deadline = turn?(reading)
        // What handlers ask for while this settles waits for the next turn.
        let settling = unsettled
        unsettled = []
        for connection in settling { connection.settle() }
        arm(for: deadline)
    }

    private func arm(for deadline: Instant?) {
        guard deadline != alarmTime || deadline.map({ $0 <= clock.now }) == true else { return }
        alarmNumber += 1
        alarmTime = deadline
        guard let deadline else { return }
        guard deadline > clock.now else {
            alarmTime = nil
            return requestTurn()
        }
        let number = alarmNumber
        world.schedule(at: simulatedClock.worldTime(of: deadline), "alarm", on: self) { [unowned self] in
            if number == alarmNumber { alarmTime = nil }
        }
    }

    func die() {
        isAlive = false
        turn = nil
        suspendedReading = nil
        listeners = []
        unsettled = []
        for worker in workers { worker.forget() }
        workers = []
    }

    /// A worker whose jobs take random virtual time, in order.
    public func makeWorker(name: String) -> any Worker {
        let worker = SimulatedWorker(world: world, lane: self)
        workers.append(worker)
        return worker
    }

    // MARK: the network

    /// Starts to connect; the handler hears the outcome at a later moment.
    public func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection {
        let connection = SimulatedConnection(world: world, lane: self, peerAddress: address)
        connection.handler = handler
        connection.beginConnecting()
        return connection
    }

    /// Accepts connections; `address` must be the node's, or have port 0, which is given a free one.
    public func listen(
        on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler
    ) throws(TransportError) {
        precondition(address.ip == self.address.ip, "\(address) is not an address of \(self.address)")
        var port = address.port
        if port == 0 {
            lastPort += 1
            port = lastPort
        }
        guard !listeners.contains(where: { $0.port == port }) else { throw .addressInUse(address) }
        listeners.append((port, accept))
        listeningAddresses.append(NodeAddress(ip: address.ip, port: port))
    }

    func listener(on port: UInt16) -> ((any Connection) -> any ConnectionHandler)? {
        listeners.first { $0.port == port }?.accept
    }

    func settleAfterTurn(_ connection: SimulatedConnection) {
        guard isAlive else { return }
        unsettled.append(connection)
        requestTurn()
    }
}

/// A simulated node's clocks: the world's time, moved and stretched.
final class SimulatedClock: NodeClock, @unchecked Sendable {
    private let time: VirtualTime
    private var offset: Int64
    private var driftPartsPerMillion: Int64
    /// How far the wall clock is ahead of the world's.
    private var wallOffsetMilliseconds: Int64 = 0
    /// What has been shown, if that is ahead of the world; and by how much what is being done now has gone on.
    private var shown = Instant.distantPast
    private var ahead = Interval(nanoseconds: 0)
    /// 2024-01-01, so that wall times look like some.
    private static let wallStartMilliseconds: Int64 = 1_704_067_200_000

    init(time: VirtualTime, offset: Int64, driftPartsPerMillion: Int64) {
        precondition(abs(driftPartsPerMillion) < 500_000)
        self.time = time
        self.offset = offset
        self.driftPartsPerMillion = driftPartsPerMillion
    }

    var now: Instant { max(shown, nodeTime(of: time.now.nanoseconds)) + ahead }

    /// Goes on while the world stands still.
    func run(ahead interval: Interval) { ahead = Interval(nanoseconds: ahead.nanoseconds + interval.nanoseconds) }

    /// When the world shows what this clock shows, if that is ahead: what was done is done then.
    func caughtUp() -> Instant? {
        guard ahead.nanoseconds > 0 else { return nil }
        shown = now
        ahead = Interval(nanoseconds: 0)
        return worldTime(of: shown)
    }

    var wallClockMilliseconds: Int64 {
        SimulatedClock.wallStartMilliseconds + wallOffsetMilliseconds + time.now.nanoseconds / 1_000_000
    }

    /// Moves the wall clock.
    func jumpWallClock(by milliseconds: Int64) { wallOffsetMilliseconds += milliseconds }

    /// From now on the monotonic clock runs so much too fast; what it shows does not jump.
    func drift(partsPerMillion: Int64) {
        precondition(abs(partsPerMillion) < 500_000)
        let before = nodeTime(of: time.now.nanoseconds)
        driftPartsPerMillion = partsPerMillion
        offset += (before - nodeTime(of: time.now.nanoseconds)).nanoseconds
    }

    private func nodeTime(of world: Int64) -> Instant {
        let drift = world / 1_000_000 * driftPartsPerMillion + world % 1_000_000 * driftPartsPerMillion / 1_000_000
        return Instant(nanoseconds: offset + world + drift)
    }

    /// The first moment of the world at which this clock shows `instant` or later.
    func worldTime(of instant: Instant) -> Instant {
        guard driftPartsPerMillion != 0 else { return Instant(nanoseconds: instant.nanoseconds - offset) }
        // Everything within half of the drift's error, then the exact first moment between the two bounds.
        let shown = instant.nanoseconds - offset
        var (early, late) = (shown / 2, shown)
        if driftPartsPerMillion < 0 { (early, late) = (shown, shown * 2 + 2) }
        while early < late {
            let middle = early + (late - early) / 2
            if nodeTime(of: middle) < instant { early = middle + 1 } else { late = middle }
        }
        return Instant(nanoseconds: late)
    }
}

/// Jobs of a simulated node that take virtual time. A crash forgets those that have not run, and every completion.
private final class SimulatedWorker: Worker {
    private struct Job {
        var body: @Sendable () -> Void
        var completion: @Sendable () -> Void
    }

    private unowned let world: SimulatedWorld
    /// Until the node has crashed.
    private var lane: SimulatedLane?
    /// Not run yet, oldest first; each has an event of its own.
    private var jobs: [Job] = []
    private var lastJob = Instant(nanoseconds: 0)
    private var lastCompletion = Instant(nanoseconds: 0)

    init(world: SimulatedWorld, lane: SimulatedLane) {
        self.world = world
        self.lane = lane
    }

    func submit(_ job: @escaping @Sendable () -> Void, completion: @escaping @Sendable () -> Void) {
        guard let lane, lane.isAlive else { return }
        jobs.append(Job(body: job, completion: completion))
        lastJob = max(lastJob, world.now) + world.delay(lane.jobDelay ?? world.settings.jobDelay)
        schedule(at: lastJob, of: lane)
    }

    /// The node has crashed.
    func forget() {
        jobs = []
        lane = nil
    }

    /// No turn of the lane follows a job, only its completion.
    private func schedule(at moment: Instant, of lane: SimulatedLane) {
        world.schedule(at: moment, "job", on: lane, takesTurn: false) { [self] in runNext(of: lane) }
    }

    private func runNext(of lane: SimulatedLane) {
        guard lane.jobsHeldUntil <= world.now else { return schedule(at: lane.jobsHeldUntil, of: lane) }
        let job = jobs.removeFirst()
        job.body()
        lastCompletion = max(lastCompletion, world.now + world.delay(world.settings.completionDelay))
        world.schedule(at: lastCompletion, "completion", on: lane, job.completion)
    }
}

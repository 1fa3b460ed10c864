public import RaftCore
public import ShardMap
internal import WireMessages

/// Finds the leader of every key's shard, and asks until there is an answer or the deadline has come.
///
/// A lane-confined object that decides alone from what it is told: no thread, no timer, no chance but its seed. Calls
/// are only queued; ``turn(now:)``, called at the end of every turn of the lane, sends what came together, hears the
/// answers, and fires pauses and deadlines.
///
/// 1. The operations of one call for one shard stay together, in order, in one request; if that were too large, in
///    consecutive requests, the next sent only after the previous was answered.
/// 2. Parts of several calls for the same shard share a request up to the limits: reads with reads; a part that writes
///    takes its own reads along into the entry.
/// 3. A write has one sequence, and from the first attempt that may have been executed on also one session and one
///    content: it is executed at most once, however often it is sent.
/// 4. A result without error, or with an error of class *executed*, was executed. An error of class *not executed* was
///    not, and never will be. Anything else is ``NamedError/outcomeUnknown`` or of its class.
/// 5. Calls that overlap in time have no order among them.
///
/// In files: `+Routing` finds the shard, `+Sending` makes requests, `+Answers` judges replies, `+Deadlines` gives up,
/// `+Map` keeps the map fresh, `+Ranges` scans and counts.
public final class Router: KeyValueRouter {
    /// Limits and times.
    public struct Settings: Sendable {
        /// Operations in one request.
        public var maxOperationsPerRequest = 256
        /// Bytes of keys and values in one request, unless a single operation is larger.
        public var maxBytesPerRequest = 1 << 20
        /// Requests to one shard that wait for an answer.
        public var maxRequestsInFlightPerShard = 16
        /// Operations accepted and not answered; beyond, calls are answered ``NamedError/busy`` at once, and one that
        /// has more alone ``NamedError/refused``.
        public var maxQueuedOperations = 65_536
        /// Bytes of keys and values of those operations, and of their results as far as they are there; beyond, the
        /// same answers, also to operations whose turn comes because the answer to those before them became too large.
        public var maxQueuedBytes = 256 << 20
        /// How long what is queued for a shard may wait for its turn: while the first of it has waited longer, and answers
        /// come all the same, further operations for the shard are answered ``NamedError/busy`` at once. Nil: as long as
        /// their deadlines.
        public var queuePatience: Interval?
        /// How long one attempt waits for its answer.
        public var attemptTimeout = Interval.milliseconds(3000)
        /// How long a node may owe its map before another one is asked too.
        public var mapPatience = Interval.milliseconds(300)
        /// How long a node that has no newer map is asked to hold its answer until there is one.
        public var mapWatch = Interval.milliseconds(1000)
        /// Pause after a node's first answer that it does not serve the shard, unless a newer map comes first; doubles
        /// with each further one.
        public var moveDelay = Interval.milliseconds(4)
        /// Longest such pause while the shard is moving; else it is the one below.
        public var maxMoveDelay = Interval.milliseconds(50)
        /// Pause after a request's first failed attempt; doubles with each further one.
        public var retryDelay = Interval.milliseconds(20)
        /// Longest such pause.
        public var maxRetryDelay = Interval.milliseconds(500)
        /// How far a write's sequence may be above the lowest unanswered one; at most what servers allow.
        public var windowPerSession = 1024
        /// The settings above.
        public init() {}
    }

    let transport: any RouterTransport
    let clock: any NodeClock
    let settings: Settings
    let arena = Arena()
    var random: SeededRandom

    /// The map the routes come from; nil before the first.
    public internal(set) var map: ClusterMap?
    /// Called when something was queued outside a turn and a turn should come soon.
    public var requestTurn: (() -> Void)?

    /// One for each of the map's shards, at the same position.
    var channels: [ShardChannel] = []
    var channelsByID: [UInt64: ShardChannel] = [:]
    var groups: [String: GroupRoute] = [:]
    /// Parts without a route: there is no map yet, or it has no shards.
    var unrouted = PartQueue()
    var refresh: MapRefresh
    var mapCalls: [MapCall] = []

    /// Channels to look at in this turn, and those that something will be due on.
    var ready: [ShardChannel] = []
    var dues = DueHeap()
    /// Channels with requests that wait for a newer map.
    var watching: [ShardChannel] = []

    /// Number of the last attempt of any kind.
    var attempts: UInt64 = 0
    var queuedOperations = 0
    var queuedBytes = 0

    var now: Instant
    /// Answers, taken up in the next turn: a transport may answer from within the call.
    private var arrivals: [Arrival] = []
    /// Calls with all their results, to be told when the router's state is in order: they may call again.
    private var finished: [Call] = []
    private var isInTurn = false
    private var isDelivering = false
    private var isTurnRequested = false
    private var isClosed = false

    /// An answer to an attempt.
    enum Arrival {
        case outcome(RouterOutcome, Request, attempt: UInt64)
        case map(MapAnswer, MapRefresh.Question)
    }

    /// A router that learns the map from `seeds`, any nodes of the cluster. `seed` decides the random numbers that
    /// session tokens are made of.
    public init(
        seeds: [NodeAddress], transport: any RouterTransport, clock: any NodeClock, settings: Settings = Settings(),
        seed: UInt64
    ) {
        precondition(settings.maxOperationsPerRequest > 0 && settings.maxRequestsInFlightPerShard > 0)
        self.transport = transport
        self.clock = clock
        self.settings = settings
        random = SeededRandom(seed: seed)
        refresh = MapRefresh(seeds: seeds)
        now = clock.now
    }

    // MARK: calls

    /// As ``KeyValueRouter/execute(_:deadline:completion:)``. Calls beyond the limits and operations that break the
    /// store's limits are answered at once, without being sent.
    public func execute(
        _ operations: [KeyOperation], deadline: Instant, completion: @escaping ([KeyResult]) -> Void
    ) {
        submit(Call(operations, deadline: deadline, completion: completion))
    }

    /// Queues `call`, or answers it.
    func submit(_ call: Call) {
        let count = call.operations.count
        if let refusal = refusal(of: call) {
            call.completion([KeyResult](repeating: refusal, count: count))
            return
        }
        queuedOperations += count
        queuedBytes += call.bytes
        call.takenAt = clock.now
        let accepted = acceptedSlots(of: call)
        if accepted > 0 { route(Part(call, 0..<accepted), isNew: true) } else { finish(call) }
        wake()
        if !isInTurn { deliver() }
    }

    private func refusal(of call: Call) -> KeyResult? {
        if isClosed { return .failure(.stopping) }
        let count = call.operations.count
        // what will not fit later either
        guard count <= settings.maxQueuedOperations, call.bytes <= settings.maxQueuedBytes else {
            let limits = "\(settings.maxQueuedOperations) operations and \(settings.maxQueuedBytes) bytes"
            return .failure(.refused, "a call may have at most \(limits)")
        }
        if queuedOperations + count > settings.maxQueuedOperations { return .failure(.busy) }
        if queuedBytes + call.bytes > settings.maxQueuedBytes { return .failure(.busy) }
        return call.deadline <= clock.now ? .failure(.deadlineExceeded) : nil
    }

    /// Answers the operations that may not be sent and makes an order of the others; how many there are.
    private func acceptedSlots(of call: Call) -> Int32 {
        func violation(_ operation: KeyOperation) -> NamedError? {
            let isOverRange = operation.code == .scan || operation.code == .count
            return isOverRange == call.isOverRanges ? operation.limitViolation : .badRequest
        }
        guard call.operations.contains(where: { violation($0) != nil }) else { return Int32(call.operations.count) }
        for (position, operation) in call.operations.enumerated() {
            if let error = violation(operation) {
                call.take(position: position, .failure(error))
            } else {
                call.order.append(Int32(position))
            }
        }
        return Int32(call.order.count)
    }

    /// Ends everything that is queued or under way, and every later call, with ``NamedError/stopping`` or, where it may
    /// have been executed, with ``NamedError/outcomeUnknown``.
    public func close() {
        guard !isClosed else { return }
        isClosed = true
        giveUpEverything()
        deliver()
    }

    // MARK: turns

    /// Does what is to be done at `now`; the owner calls it at the end of each of its turns. Returns when it wants the
    /// next one at the latest, nil if only an answer or a call can give it work.
    public func turn(now: Instant) -> Instant? {
        precondition(!isInTurn, "a turn within a turn")
        isInTurn = true
        isTurnRequested = false
        self.now = max(self.now, now)
        takeArrivals()
        expire()
        // callers hear first, so that what they ask next shares requests with what waits
        deliver()
        askForMap()
        pump()
        deliver()
        isInTurn = false
        return nextTurn
    }

    private var nextTurn: Instant? {
        guard arrivals.isEmpty && ready.isEmpty && finished.isEmpty else { return now }
        var next = min(dues.first?.due ?? .distantFuture, refresh.nextDue, unrouted.nextDeadline)
        for call in mapCalls { next = min(next, call.deadline) }
        return next == .distantFuture ? nil : max(next, now)
    }

    func arrived(_ arrival: Arrival) {
        guard !isClosed else { return }
        arrivals.append(arrival)
        wake()
    }

    private func takeArrivals() {
        let taken = arrivals
        arrivals.removeAll(keepingCapacity: true)
        for arrival in taken {
            switch arrival {
            case .outcome(let outcome, let request, let attempt): take(outcome, of: request, attempt: attempt)
            case .map(let answer, let question): take(answer, to: question)
            }
        }
    }

    private func pump() {
        // pumping one channel may make another ready
        var position = 0
        while position < ready.count {
            let channel = ready[position]
            channel.isReady = false
            pump(channel)
            dues.update(channel, due: channel.nextDue)
            position += 1
        }
        ready.removeAll(keepingCapacity: true)
    }

    /// `channel` is looked at before the turn ends.
    func touch(_ channel: ShardChannel) {
        guard !channel.isReady else { return }
        channel.isReady = true
        ready.append(channel)
    }

    func wake() {
        guard !isInTurn && !isTurnRequested else { return }
        isTurnRequested = true
        requestTurn?()
    }

    // MARK: results

    /// `part`'s operations have the results that begin at `offset` of `results`.
    func answer(_ part: Part, from results: [KeyResult], at offset: Int) {
        let heldBefore = part.call.resultBytes
        part.call.take(part, from: results, at: offset)
        queuedBytes += part.call.resultBytes - heldBefore
        if part.call.unanswered == 0 { finish(part.call) }
    }

    /// All of `part`'s operations have failed.
    func fail(_ part: Part, _ error: NamedError, _ message: String?) {
        part.call.take(part, all: .failure(error, message))
        if part.call.unanswered == 0 { finish(part.call) }
    }

    private func finish(_ call: Call) {
        queuedOperations -= call.operations.count
        queuedBytes -= call.bytes + call.resultBytes
        finished.append(call)
    }

    private func deliver() {
        guard !isDelivering else { return }
        isDelivering = true
        var position = 0
        while position < finished.count {
            let call = finished[position]
            position += 1
            call.completion(call.results)
        }
        finished.removeAll(keepingCapacity: true)
        isDelivering = false
    }
}

/// Whether nodes stand by each other: one promise per directed pair of nodes, instead of heartbeats per group.
///
/// A node asks another for support; while the promise it gets in return stands, the other's replicas neither campaign
/// against its leaders nor vote for others, and both may rest. One value serves all groups of a node; the host steps
/// it on one thread and hands copies to the cores.
///
/// 1. A promise is a duration. The supporter counts it on its own clock from the receipt of the request, the asker from
///    the sending of that request, shortened by the clocks' possible drift: so the asker never counts longer.
/// 2. An epoch ends for ever when the supporter's count runs out; the next grant has a higher one. Epochs are counted in
///    memory; with the run numbers of both nodes, which are durable, one names a promise exactly (``SupportStamp``).
/// 3. A new run number of a node voids what is counted for and from its earlier runs.
/// 4. A starting node is quiet for the longest promise it can have given: it cannot know what it promised before.
/// 5. A node is asked only if it answered the previous message, and if a check of this node's own vitals that was
///    started since that message left has ended well. Otherwise it gets a ping, which grants nothing; its answer reopens
///    asking. So neither a pair that hears each other in one direction only, nor a node with a stalled disk, apply
///    worker or lane, keeps a promise.
/// 6. At most one request per node is unanswered; after one promise duration it has failed, and the node is unreachable
///    until it answers. All nodes are asked on one beat, so that one check serves all; a message that waits for the check
///    is held back for a promise at most. A node that does not speak our services is foreign: it promises nothing and is
///    asked for nothing.
public struct NodeLiveness: Sendable {
    /// The settings in force.
    public let settings: Settings
    /// Until then the node neither votes nor campaigns.
    public let quietUntil: Instant

    private let node: NodeAddress
    private let ownRun: UInt64
    private let firstBeat: Instant
    private var sequence: UInt64 = 0
    /// The latest epoch given to anybody; one count for all, so that it outlives what is known of a node.
    private var epochs: UInt64 = 0
    /// When the latest check of this node's vitals that ended well was started.
    private var vitalsConfirmed: Instant?
    /// When the check under way was started.
    private var checkStarted: Instant?
    /// How many nodes are known as foreign: where there are none, nobody has to be looked up for that.
    private(set) var foreigners = 0
    /// Ascending by node: the tracked ones, and others while a promise to or from them stands.
    private var peers: [Peer] = []

    /// The liveness of `node`, which started at `startedAt` for the `runNumber`-th time.
    public init(node: NodeAddress, runNumber: UInt64, settings: Settings, startedAt: Instant) {
        precondition(settings.interval.nanoseconds > 0 && settings.promise > settings.interval)
        precondition((0..<100).contains(settings.maxClockDriftPercent))
        self.node = node
        self.ownRun = runNumber
        self.settings = settings
        self.firstBeat = startedAt
        let isQuiet = settings.startupQuiet && !planted("restarted-node-is-not-quiet")
        self.quietUntil = isQuiet ? startedAt + max(settings.promise, settings.earlierPromise) : startedAt
    }

    /// When to send ``Event/deadlineReached``: the next request is due, a request has failed, or a promise ends.
    public var deadline: Instant? {
        var earliest: Instant?
        for peer in peers {
            for instant in [sendDeadline(of: peer), peer.promiseEnd, peer.supportEnd] {
                if let instant { earliest = min(earliest ?? instant, instant) }
            }
        }
        return earliest
    }

    /// Whether this node's promise to `node` stands. A node stands by itself.
    public func promiseStands(to node: NodeAddress, now: Instant) -> Bool {
        node == self.node || now < peer(node)?.promiseEnd ?? .distantPast
    }

    /// Whether `node`'s promise to this one stands. A node stands by itself.
    public func supportStands(from node: NodeAddress, now: Instant) -> Bool {
        node == self.node || now < peer(node)?.supportEnd ?? .distantPast
    }

    /// This node's promise to `node`, by name, if it stands at `now`; nil otherwise, and for this node itself.
    public func promiseStamp(to node: NodeAddress, now: Instant) -> SupportStamp? {
        guard let peer = peer(node), let end = peer.promiseEnd, now < end, let run = peer.run else { return nil }
        return SupportStamp(epoch: peer.epoch, supporterRun: ownRun, askerRun: run)
    }

    /// `node`'s promise to this one, by name, if it stands as counted by this node; nil otherwise, and for this node
    /// itself.
    public func supportStamp(from node: NodeAddress, now: Instant) -> SupportStamp? {
        guard let peer = peer(node), let end = peer.supportEnd, now < end, let run = peer.run else { return nil }
        return SupportStamp(epoch: peer.supportEpoch, supporterRun: run, askerRun: ownRun)
    }

    /// Whether `node` answered the last message sent to it, or is this node, or is foreign: worth asking for a vote.
    public func isReachable(_ node: NodeAddress) -> Bool {
        guard node != self.node else { return true }
        guard let peer = peer(node) else { return false }
        return peer.hasAnswered || peer.isForeign
    }

    /// Whether `node` has shown that it does not speak our services.
    public func isForeign(_ node: NodeAddress) -> Bool { foreigners > 0 && peer(node)?.isForeign == true }

    /// Whether this node has just started and so neither votes nor campaigns.
    public func isQuiet(now: Instant) -> Bool { now < quietUntil }

    /// The highest run number heard from `node`.
    public func runNumber(of node: NodeAddress) -> UInt64? { node == self.node ? ownRun : peer(node)?.run }

    /// `node`'s wall clock minus this node's monotonic clock, in milliseconds, when an answer of it came last.
    public func wallClockOffset(of node: NodeAddress) -> Int64? { peer(node)?.wallClockOffset }

    /// Takes in one event and adds what is to be done to `effects`. `now` never goes back between calls.
    public mutating func step(_ event: Event, now: Instant, into effects: inout Effects) {
        // first, so that a promise renewed too late is a lapse and a gain, and has a new epoch
        expire(now: now, &effects)
        switch event {
        case .deadlineReached: break
        case .received(let request, let asker, let wallClock): answer(request, of: asker, wallClock, now, &effects)
        case .answered(let reply, let supporter): note(reply, from: supporter, now, &effects)
        case .failed(let node):
            if let position = find(node) { fail(position, now: now, &effects) }
        case .foreign(let node): noteForeign(node, now: now, &effects)
        case .familiar(let node): noteFamiliar(node, now: now, &effects)
        case .vitalsConfirmed(let startedAt): noteVitals(startedAt, now: now)
        case .track(let nodes): track(nodes, now: now)
        }
        sendDue(now: now, &effects)
        checkVitals(now: now, &effects)
    }
}

extension NodeLiveness {
    /// One other node.
    private struct Peer {
        let node: NodeAddress
        var isTracked = false
        /// Its run as last heard.
        var run: UInt64?
        /// Our promise to it.
        var epoch: UInt64 = 0
        var promiseEnd: Instant?
        /// Its promise to us, and the epoch it was given under.
        var supportEnd: Instant?
        var supportEpoch: UInt64 = 0
        /// Our request under way.
        var unanswered: (sequence: UInt64, asks: Bool)?
        /// When our last request left.
        var sentAt: Instant?
        /// When the next one is due.
        var nextSend: Instant
        /// Whether it answered our previous message.
        var hasAnswered = false
        /// Whether it does not speak our services.
        var isForeign = false
        var wallClockOffset: Int64?

        init(node: NodeAddress, now: Instant) {
            self.node = node
            self.nextSend = now
        }
    }

    private func find(_ node: NodeAddress) -> Int? {
        let position = place(of: node)
        return position < peers.count && peers[position].node == node ? position : nil
    }

    private func peer(_ node: NodeAddress) -> Peer? { find(node).map { peers[$0] } }

    /// Where `node` is, or would be.
    private func place(of node: NodeAddress) -> Int {
        var low = 0
        var high = peers.count
        while low < high {
            let middle = (low + high) / 2
            if peers[middle].node < node { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private func sendDeadline(of peer: Peer) -> Instant? {
        if let failure = failure(of: peer) { return failure }
        guard peer.isTracked, !peer.isForeign else { return nil }
        guard awaitsVitals(peer), let sentAt = peer.sentAt else { return peer.nextSend }
        return max(peer.nextSend, sentAt + settings.promise)
    }

    /// When the request under way has failed.
    private func failure(of peer: Peer) -> Instant? {
        guard peer.unanswered != nil, let sentAt = peer.sentAt else { return nil }
        return sentAt + settings.promise
    }

    /// Whether `peer` may be asked as soon as a check of this node's vitals that was started since the last message to it
    /// has ended well.
    private func awaitsVitals(_ peer: Peer) -> Bool {
        guard peer.isTracked, peer.hasAnswered, peer.unanswered == nil, let sentAt = peer.sentAt else { return false }
        return vitalsConfirmed ?? .distantPast < sentAt
    }

    /// The first moment after `instant` at which messages are due.
    private func nextBeat(after instant: Instant) -> Instant {
        let beats = (instant - firstBeat).nanoseconds / settings.interval.nanoseconds + 1
        return firstBeat + Interval(nanoseconds: beats * settings.interval.nanoseconds)
    }

    private mutating func track(_ nodes: [NodeAddress], now: Instant) {
        for position in peers.indices { peers[position].isTracked = false }
        for other in nodes where other != node {
            let position = place(of: other)
            if position == peers.count || peers[position].node != other {
                peers.insert(Peer(node: other, now: now), at: position)
            }
            peers[position].isTracked = true
        }
        forgetStrangers()
    }

    /// A promise outlives the groups it was given for; what is known of a node does not outlive the promises.
    private mutating func forgetStrangers() {
        peers.removeAll {
            !$0.isTracked && !$0.isForeign && $0.promiseEnd == nil && $0.supportEnd == nil && $0.unanswered == nil
        }
    }

    private mutating func expire(now: Instant, _ effects: inout Effects) {
        var lapsed = false
        for position in peers.indices {
            if let failure = failure(of: peers[position]), failure <= now {
                fail(position, now: now, &effects)
            }
            if let end = peers[position].promiseEnd, end <= now {
                peers[position].promiseEnd = nil
                effects.noteChange(of: peers[position].node)
                lapsed = true
            }
            if let end = peers[position].supportEnd, end <= now {
                peers[position].supportEnd = nil
                effects.noteChange(of: peers[position].node)
                lapsed = true
            }
        }
        if lapsed { forgetStrangers() }
    }

    /// The request under way to a node, if there is one, has failed.
    private mutating func fail(_ position: Int, now: Instant, _ effects: inout Effects) {
        guard peers[position].unanswered != nil else { return }
        if peers[position].hasAnswered { effects.noteChange(of: peers[position].node) }
        peers[position].unanswered = nil
        peers[position].hasAnswered = false
        peers[position].nextSend = nextBeat(after: now)
    }

    /// Returns whether that is news.
    private mutating func setForeign(_ isForeign: Bool, _ position: Int) -> Bool {
        guard peers[position].isForeign != isForeign else { return false }
        peers[position].isForeign = isForeign
        foreigners += isForeign ? 1 : -1
        return true
    }

    /// A foreign node keeps no promise, whoever gave it at that address, and is not asked for one.
    private mutating func noteForeign(_ node: NodeAddress, now: Instant, _ effects: inout Effects) {
        guard node != self.node else { return }
        let position = place(of: node)
        if position == peers.count || peers[position].node != node {
            peers.insert(Peer(node: node, now: now), at: position)
        }
        guard setForeign(true, position) else { return }
        peers[position].supportEnd = nil
        effects.noteChange(of: node)
    }

    private mutating func noteFamiliar(_ node: NodeAddress, now: Instant, _ effects: inout Effects) {
        guard let position = find(node), setForeign(false, position) else { return }
        peers[position].hasAnswered = false
        peers[position].nextSend = now
        effects.noteChange(of: node)
        forgetStrangers()
    }

    private mutating func noteVitals(_ startedAt: Instant, now: Instant) {
        precondition(startedAt <= now, "vitals confirmed from \(startedAt) on at \(now)")
        vitalsConfirmed = max(vitalsConfirmed ?? startedAt, startedAt)
        if let checkStarted, checkStarted <= startedAt { self.checkStarted = nil }
    }

    private mutating func sendDue(now: Instant, _ effects: inout Effects) {
        for position in peers.indices {
            let peer = peers[position]
            guard peer.isTracked, peer.unanswered == nil, let due = sendDeadline(of: peer), due <= now else { continue }
            sequence += 1
            let asks = peer.hasAnswered && !awaitsVitals(peer)
            peers[position].unanswered = (sequence, asks)
            peers[position].sentAt = now
            let request = Request(runNumber: ownRun, sequence: sequence, asks: asks)
            effects.requests.append((to: peer.node, request: request))
        }
    }

    /// Nobody to ask, nothing to check.
    private mutating func checkVitals(now: Instant, _ effects: inout Effects) {
        guard checkStarted == nil, peers.contains(where: awaitsVitals) else { return }
        checkStarted = now
        effects.checksVitals = true
    }

    /// Whether `run` is the peer's present one; a higher one than was known voids what stood.
    private mutating func admit(run: UInt64, of position: Int, _ effects: inout Effects) -> Bool {
        guard let known = peers[position].run else {
            peers[position].run = run
            return true
        }
        guard run > known else { return run == known }
        peers[position].run = run
        if planted("new-runs-keep-promises") { return true }
        peers[position].promiseEnd = nil
        peers[position].supportEnd = nil
        effects.noteChange(of: peers[position].node)
        return true
    }

    private mutating func answer(
        _ request: Request, of asker: NodeAddress, _ wallClock: Int64, _ now: Instant, _ effects: inout Effects
    ) {
        guard asker != node else { return }
        let position = place(of: asker)
        if position == peers.count || peers[position].node != asker {
            peers.insert(Peer(node: asker, now: now), at: position)
        }
        if setForeign(false, position) { effects.noteChange(of: asker) }
        let isPresent = admit(run: request.runNumber, of: position, &effects)
        let granted = isPresent && request.asks
        if granted {
            if peers[position].promiseEnd == nil {
                if !planted("epochs-are-reused") { epochs += 1 }
                peers[position].epoch = epochs
                effects.noteChange(of: asker)
            }
            let length = settings.promise.nanoseconds / (planted("supporter-counts-half") ? 2 : 1)
            peers[position].promiseEnd = now + Interval(nanoseconds: length)
        }
        effects.reply = Reply(
            sequence: request.sequence, granted: granted, epoch: peers[position].epoch, runNumber: ownRun,
            wallClockMilliseconds: wallClock, promise: settings.promise)
        forgetStrangers()
    }

    private mutating func note(
        _ reply: Reply, from supporter: NodeAddress, _ now: Instant, _ effects: inout Effects
    ) {
        guard let position = find(supporter), let request = peers[position].unanswered,
            let sentAt = peers[position].sentAt, request.sequence == reply.sequence
        else { return }
        guard admit(run: reply.runNumber, of: position, &effects) else {
            return fail(position, now: now, &effects)
        }
        peers[position].unanswered = nil
        let isNewlyFamiliar = setForeign(false, position)
        if !peers[position].hasAnswered || isNewlyFamiliar { effects.noteChange(of: supporter) }
        peers[position].hasAnswered = true
        peers[position].wallClockOffset = reply.wallClockMilliseconds &- now.nanoseconds / 1_000_000
        // an answered ping reopens asking at once
        peers[position].nextSend = request.asks ? nextBeat(after: sentAt) : now
        guard request.asks, reply.granted else { return }
        let end =
            planted("asker-counts-from-the-answer")
            ? now + settings.promise : sentAt + settings.counted(of: reply.promise)
        guard now < end else { return }
        if peers[position].supportEnd == nil || peers[position].supportEpoch != reply.epoch {
            effects.noteChange(of: supporter)
        }
        peers[position].supportEnd = end
        peers[position].supportEpoch = reply.epoch
    }
}

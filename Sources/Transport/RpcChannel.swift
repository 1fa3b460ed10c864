internal import CMessages
internal import CProtobufC
public import RaftCore

/// Calls to one address over one connection: baidu_std's client side. On the lane.
///
/// The connection is opened by the first call and, once broken, reopened after 100 ms, doubling to 3 s, until
/// ``close()``. Many calls are outstanding at once; answers are matched by correlation id, in any order.
///
/// A call's completion runs exactly once, and before the call returns if it cannot even be queued. When the connection
/// breaks, every call that was sent fails with ``RpcCode/failedSocket``. One that has not left fails with
/// ``RpcCode/hostDown`` when the connection cannot be made, unless ``queueWhileConnecting``.
public final class RpcChannel {
    /// Where the calls go.
    public let address: NodeAddress
    /// Calls made while the other side is down wait for it (at most until their deadline) instead of failing at once
    /// with ``RpcCode/hostDown``.
    public var queueWhileConnecting = false
    /// The channel became, or is no longer, able to send calls.
    public var onStateChange: ((_ isConnected: Bool) -> Void)?
    /// Runs after each connect, before other calls leave; calls made by it, or by the completions of such calls, go out
    /// directly. Its argument is called once: true lets the other calls go, false closes the connection.
    public var greeting: ((_ channel: RpcChannel, _ done: @escaping (Bool) -> Void) -> Void)?
    /// Calls above this many unsent bytes fail with ``RpcCode/overcrowded``.
    public var unsentBytesMax = 64 << 20
    /// A connection, greeting included, that takes longer is given up.
    public var connectTimeout = Interval.milliseconds(3000)

    private enum Link {
        /// Nobody has called yet.
        case unused
        /// Since the attempt began.
        case connecting
        /// Connected; the greeting is not done.
        case greeting
        case ready
        /// Broken; the next attempt is due then.
        case waiting(until: Instant)
        case closed
    }

    private struct PendingCall {
        var completion: (RpcResult) -> Void
        var isSent: Bool
    }

    private struct QueuedFrame {
        var id: Int64
        var pieces: [Bytes]
    }

    private static let backoffMin = Interval.milliseconds(100)
    private static let backoffMax = Interval.milliseconds(3000)

    private let network: any Network
    private let clock: any NodeClock
    private let codec = FrameCodec()
    private var link = Link.unused
    private var connection: (any Connection)?
    private var establishDeadline: Instant?
    private var backoff = RpcChannel.backoffMin
    private var isHostDown = false
    private var isInsideGreeting = false

    private var lastID: Int64 = 0
    /// Looked up by id only; whoever needs an order sorts.
    private var pending: [Int64: PendingCall] = [:]
    private var deadlines = DeadlineQueue()
    private var queue: [QueuedFrame] = []
    private var queuedBytes = 0

    /// A channel that opens no connection yet.
    public init(address: NodeAddress, network: any Network, clock: any NodeClock) {
        self.address = address
        self.network = network
        self.clock = clock
    }

    deinit { connection?.close(reason: "nobody needs it any more") }

    /// Bytes of calls that the kernel does not have yet.
    public var unsentBytes: Int { queuedBytes + (connection?.unsentBytes ?? 0) }
    /// Calls that have no outcome yet.
    public var pendingCalls: Int { pending.count }
    /// Whether calls leave at once.
    public var isConnected: Bool {
        if case .ready = link { true } else { false }
    }

    // MARK: calling

    /// Calls `method` of `service` with a protobuf-c message, packed before this returns, and raw bytes behind it. With
    /// a `deadline`, the call fails with ``RpcCode/timedOut`` in the first ``expire(now:)`` after it.
    public func call<M>(
        service: String, method: String, message: UnsafeMutablePointer<M>, attachment: [Bytes] = [],
        deadline: Instant? = nil, completion: @escaping (RpcResult) -> Void
    ) {
        let base = UnsafeRawPointer(message).assumingMemoryBound(to: ProtobufCMessage.self)
        start(service, method, .message(base), attachment, deadline, completion)
    }

    /// Calls `method` of `service` with a message that is encoded already.
    public func call(
        service: String, method: String, body: Bytes, attachment: [Bytes] = [], deadline: Instant? = nil,
        completion: @escaping (RpcResult) -> Void
    ) {
        start(service, method, .encoded(body), attachment, deadline, completion)
    }

    private func start(
        _ service: String, _ method: String, _ body: FrameCodec.Body, _ attachment: [Bytes], _ deadline: Instant?,
        _ completion: @escaping (RpcResult) -> Void
    ) {
        if let refusal = refusal() { return completion(.failed(refusal)) }
        let attachmentBytes = attachment.reduce(0) { $0 + $1.count }
        let id = lastID + 1
        let encoding = codec.encodeRequest(
            service: service, method: method, correlationID: id, body: body, attachmentBytes: attachmentBytes)
        guard case .pieces(let head, let following) = encoding else {
            let text = "the request is larger than a frame may be"
            return completion(.failed(RpcError(code: RpcCode.badRequest, text: text)))
        }
        lastID = id
        let sendsNow = isConnected || isInsideGreeting
        pending[id] = PendingCall(completion: completion, isSent: sendsNow)
        if let deadline { insert(deadline, of: id) }
        if sendsNow, let connection {
            connection.send(head)
            connection.send(following)
            for piece in attachment { connection.send(piece) }
        } else {
            queue.append(QueuedFrame(id: id, pieces: [head, following] + attachment))
            queuedBytes += head.count + following.count + attachmentBytes
            if case .unused = link { connect() }
        }
    }

    /// Why no call can be accepted now, or nil.
    private func refusal() -> RpcError? {
        if isClosed {
            return RpcError(code: RpcCode.failedSocket, text: "the channel to \(address) is closed")
        }
        if isHostDown, !isInsideGreeting, !queueWhileConnecting {
            return RpcError(code: RpcCode.hostDown, text: "not connected to \(address) yet")
        }
        guard unsentBytes <= unsentBytesMax else {
            return RpcError(code: RpcCode.overcrowded, text: "\(unsentBytes) bytes wait to be sent to \(address)")
        }
        return nil
    }

    private func insert(_ deadline: Instant, of id: Int64) {
        // Answered calls leave their deadlines behind; sweeping at double size costs a constant per call.
        if deadlines.count > 2 * pending.count + 64 { deadlines.compact { pending[$0] != nil } }
        deadlines.insert(id, deadline: deadline)
    }

    /// Fails the calls whose deadline has passed and reopens the connection when that is due. Called by the owner once
    /// a turn; returns when it is to be called next at the latest.
    public func expire(now: Instant) -> Instant? {
        var hasExpired = false
        while let (deadline, id) = deadlines.first, deadline <= now || pending[id] == nil {
            deadlines.removeFirst()
            hasExpired = true
            finish(id, .failed(RpcError(code: RpcCode.timedOut, text: "no answer from \(address) before the deadline")))
        }
        if hasExpired { sweepQueue() }
        if let establishDeadline, establishDeadline <= now { giveUp("not connected within \(connectTimeout)") }
        if case .waiting(let until) = link, until <= now { connect() }
        var next = deadlines.first?.deadline
        if let establishDeadline { next = min(next ?? establishDeadline, establishDeadline) }
        if case .waiting(let until) = link { next = min(next ?? until, until) }
        return next
    }

    /// Connects, though nobody has called yet, or without waiting any longer for the next attempt.
    public func open() {
        if case .unused = link { connect() } else { reconnectNow() }
    }

    /// Does not wait any longer before the next attempt: there is a sign that the other side is back.
    public func reconnectNow() {
        guard case .waiting = link else { return }
        backoff = RpcChannel.backoffMin
        link = .waiting(until: clock.now)
    }

    /// Breaks the connection, so that every call under way fails; another attempt follows.
    public func reset(reason: String) {
        guard isConnected else { return }
        giveUp(reason)
    }

    /// Closes for good; every call without an outcome fails.
    public func close() {
        guard !isClosed else { return }
        lose(.closed, failing: { _ in true }, reason: "the channel is closed")
    }
}

// MARK: the connection

extension RpcChannel {
    private func connect() {
        link = .connecting
        establishDeadline = clock.now + connectTimeout
        connection = network.connect(to: address, handler: ChannelHandler(self))
    }

    fileprivate func opened(_ connection: any Connection) {
        guard connection === self.connection, case .connecting = link else { return }
        link = .greeting
        guard let greeting else { return becomeReady() }
        insideGreeting {
            greeting(self) { [weak self] isWelcome in self?.greeted(on: connection, isWelcome) }
        }
    }

    private func greeted(on connection: any Connection, _ isWelcome: Bool) {
        guard connection === self.connection, case .greeting = link else { return }
        isWelcome ? becomeReady() : giveUp("the greeting failed")
    }

    private func insideGreeting(_ body: () -> Void) {
        isInsideGreeting = true
        body()
        isInsideGreeting = false
    }

    private func becomeReady() {
        link = .ready
        establishDeadline = nil
        isHostDown = false
        isInsideGreeting = false
        backoff = RpcChannel.backoffMin
        let waiting = queue
        queue = []
        queuedBytes = 0
        for frame in waiting where pending[frame.id] != nil {
            pending[frame.id]?.isSent = true
            for piece in frame.pieces { connection?.send(piece) }
        }
        onStateChange?(true)
    }

    fileprivate func closed(_ connection: any Connection, reason: String) {
        guard connection === self.connection else { return }
        self.connection = nil
        giveUp(reason)
    }

    /// The connection is no good, or could not be made; another attempt follows.
    private func giveUp(_ reason: String) {
        let wasReady = isConnected
        // After a connection that worked the first attempt comes early; each failed one doubles the wait.
        let wait = wasReady ? RpcChannel.backoffMin : backoff
        backoff = min(Interval(nanoseconds: wait.nanoseconds * 2), RpcChannel.backoffMax)
        isHostDown = true
        let keepsWaiting = queueWhileConnecting
        lose(.waiting(until: clock.now + wait), failing: { $0.isSent || !keepsWaiting }, reason: reason)
    }

    private func lose(_ next: Link, failing isLost: (PendingCall) -> Bool, reason: String) {
        let wasReady = isConnected
        let broken = connection
        link = next
        connection = nil
        establishDeadline = nil
        isInsideGreeting = false
        broken?.close(reason: reason)
        var lost: [(id: Int64, call: PendingCall)] = pending.filter { isLost($0.value) }.map { ($0.key, $0.value) }
        lost.sort { $0.id < $1.id }
        for (id, _) in lost { pending[id] = nil }
        sweepQueue()
        if wasReady { onStateChange?(false) }
        for (_, call) in lost {
            let code = call.isSent || isClosed ? RpcCode.failedSocket : RpcCode.hostDown
            call.completion(.failed(RpcError(code: code, text: "\(address): \(reason)")))
        }
    }

    private var isClosed: Bool {
        if case .closed = link { true } else { false }
    }

    /// Drops the frames of calls that are over.
    private func sweepQueue() {
        guard !queue.isEmpty else { return }
        queue.removeAll { pending[$0.id] == nil }
        queuedBytes = queue.reduce(0) { $0 + $1.pieces.reduce(0) { $0 + $1.count } }
    }

    private func finish(_ id: Int64, _ result: RpcResult) {
        pending.removeValue(forKey: id)?.completion(result)
    }
}

// MARK: answers

extension RpcChannel {
    fileprivate func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        var start = 0
        while start < bytes.count {
            // A completion may have closed the channel or given up the connection.
            guard connection === self.connection else { return Consumption(consumed: bytes.count) }
            switch Frame.next(in: bytes, at: start, bodyBytesMax: Frame.bodyBytesMax) {
            case .incomplete(let needed): return Consumption(consumed: start, needed: needed)
            case .malformed(let reason):
                giveUp(reason)
                return Consumption(consumed: bytes.count)
            case .frame(let frame):
                start += frame.bytes
                take(frame)
            }
        }
        return Consumption(consumed: start)
    }

    private func take(_ frame: Frame) {
        let answer = codec.decodeMeta(of: frame) { ($0.correlation_id, RpcChannel.result($0, frame)) }
        guard let (id, result) = answer else { return giveUp("metadata that does not parse") }
        guard case .greeting = link else { return finish(id, result) }
        isInsideGreeting = true
        finish(id, result)
        isInsideGreeting = false
    }

    private static func result(_ meta: borrowing Brpc__Policy__RpcMeta, _ frame: Frame) -> RpcResult {
        // Without a response part brpc's client sees code 0, success.
        if let response = meta.response, response.pointee.error_code != 0 {
            let text = response.pointee.error_text.map { String(cString: $0) } ?? ""
            return .failed(RpcError(code: response.pointee.error_code, text: text))
        }
        if let feature = FrameCodec.unsupportedFeature(of: meta) {
            return .failed(RpcError(code: RpcCode.badResponse, text: feature))
        }
        let attachmentBytes = Int(meta.attachment_size)
        guard attachmentBytes >= 0, attachmentBytes <= frame.payload.count else {
            return .failed(RpcError(code: RpcCode.badResponse, text: frame.misfit(ofAttachment: attachmentBytes)))
        }
        let bodyBytes = frame.payload.count - attachmentBytes
        return .reply(
            RpcReply(
                body: frame.payload.slice(from: 0, count: bodyBytes),
                attachment: frame.payload.suffix(from: bodyBytes)))
    }
}

/// What the connection holds of the channel: not enough to keep a forgotten one alive.
private final class ChannelHandler: ConnectionHandler {
    private weak var channel: RpcChannel?

    init(_ channel: RpcChannel) { self.channel = channel }

    func opened(_ connection: any Connection) {
        guard let channel else { return connection.close(reason: "nobody needs it any more") }
        channel.opened(connection)
    }

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        guard let channel else {
            connection.close(reason: "nobody needs it any more")
            return Consumption(consumed: bytes.count)
        }
        return channel.received(bytes, on: connection)
    }

    func closed(_ connection: any Connection, reason: String) { channel?.closed(connection, reason: reason) }

    func drained(_ connection: any Connection) {}
}

internal import CUV
internal import Glibc
internal import RaftCore

/// A TCP connection on libuv.
///
/// Its handle keeps it alive (`data` holds a reference) from ``connect(to:)`` or ``adopt(from:)`` until the close
/// callback, the one place where memory is freed and the handler hears ``ConnectionHandler/closed(_:reason:)``.
final class UVConnection: Connection {
    private enum State {
        /// Has no handle: not begun, or over.
        case none
        /// Not established yet, or accepted and not begun; what is sent waits.
        case connecting
        case open
        /// `uv_close` was called.
        case closing
    }

    let id: UInt64
    private(set) var peerDescription: String
    var context: AnyObject?
    var handler: (any ConnectionHandler)?
    /// Place in the network's table.
    var slot = 0

    private let network: UVNetwork
    private let handle = UnsafeMutablePointer<uv_tcp_t>.allocate(capacity: 1)
    private var state = State.none
    private var closeReason: String?
    private var closesWhenSent = false

    private var buffer = ReadBuffer()
    /// Whether bytes are presented as they come; stays true after the last of them.
    private var isReading = false
    /// The other side has sent its last byte. It may have closed that direction only.
    private var hasInputEnded = false
    private var isUnsettled = false
    /// Bytes read since the turn of that number.
    private var readBytes = 0
    private var readRound: UInt64 = 0

    private var outbox: [Bytes] = []
    private var outboxBytes = 0
    /// What a pending `uv_write` reads from; empty if none is pending.
    private var inFlight: [Bytes] = []
    private let writeRequest = UnsafeMutablePointer<uv_write_t>.allocate(capacity: 1)
    private var wasAboveHighWater = false

    private static let keepAliveSeconds: UInt32 = 30

    init(id: UInt64, network: UVNetwork, peer: NodeAddress?) {
        self.id = id
        self.network = network
        peerDescription = peer?.description ?? "unknown"
    }

    deinit {
        handle.deallocate()
        writeRequest.deallocate()
    }

    private var stream: UnsafeMutablePointer<uv_stream_t> { handle.viewed(as: uv_stream_t.self) }

    var unsentBytes: Int {
        switch state {
        case .none, .closing: 0
        case .connecting: outboxBytes
        case .open: outboxBytes + uv_stream_get_write_queue_size(stream)
        }
    }

    var isReadingPaused = false {
        didSet { if isReadingPaused != oldValue { settleSoon() } }
    }

    func send(_ bytes: Bytes) {
        guard !bytes.isEmpty, state == .open || state == .connecting, closeReason == nil else { return }
        outbox.append(bytes)
        outboxBytes += bytes.count
        if unsentBytes > WaterMark.high { wasAboveHighWater = true }
        settleSoon()
    }

    func close(reason: String) {
        guard state == .open || state == .connecting else { return }
        closesWhenSent = false
        if closeReason == nil { closeReason = reason }
        stopReading()
        settleSoon()
    }

    func closeAfterSending(reason: String) {
        guard state == .open || state == .connecting, closeReason == nil else { return }
        closesWhenSent = true
        closeReason = reason
        settleSoon()
    }

    private func settleSoon() {
        guard !isUnsettled, state == .open || state == .connecting else { return }
        isUnsettled = true
        network.settleAfterTurn(self)
    }

    /// After the turn: writes, closes, pauses or resumes as asked during it.
    func settle() {
        isUnsettled = false
        guard state == .open || state == .connecting else { return }
        if let closeReason, !closesWhenSent { return abandon(reason: closeReason) }
        guard state == .open else { return }
        if hasInputEnded, !isAnswerToCome { endInput() }
        writeOut()
        guard state == .open else { return }
        if let closeReason, outbox.isEmpty, inFlight.isEmpty { return abandon(reason: closeReason) }
        isReadingPaused ? stopReading() : resumeReading()
        noticeDrained()
    }
}

// MARK: opening and closing

extension UVConnection {
    /// Begins to connect; the outcome comes in a callback.
    func connect(to address: NodeAddress) {
        hold()
        state = .connecting
        let request = UnsafeMutablePointer<uv_connect_t>.allocate(capacity: 1)
        var socketAddress = sockaddr_in(address)
        let result = withUnsafePointer(to: &socketAddress) {
            uv_tcp_connect(request, handle, UnsafeRawPointer($0).assumingMemoryBound(to: sockaddr.self)) {
                request, status in
                let connection = UVConnection.of(request!.pointee.handle)
                request!.deallocate()
                connection.connected(status)
            }
        }
        guard result != 0 else { return }
        request.deallocate()
        close(reason: "connect: " + String(cString: uv_strerror(result)))
    }

    private func connected(_ status: Int32) {
        guard state == .connecting, closeReason == nil || closesWhenSent else { return }
        guard status == 0 else { return abandon(reason: "connect: " + String(cString: uv_strerror(status))) }
        begin()
        handler?.opened(self)
    }

    /// Takes the next connection off the listener's backlog; false if it is gone already.
    func adopt(from listener: UnsafeMutablePointer<uv_tcp_t>) -> Bool {
        uv_tcp_init(listener.pointee.loop, handle)
        guard uv_accept(listener.viewed(as: uv_stream_t.self), stream) == 0 else {
            handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
            uv_close(handle.viewed(as: uv_handle_t.self)) { handle in
                Unmanaged<UVConnection>.fromOpaque(handle!.pointee.data).release()
            }
            return false
        }
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
        peerDescription = socketName(of: handle, by: uv_tcp_getpeername)?.description ?? "unknown"
        state = .connecting
        return true
    }

    /// The connection is established and has its handler.
    func begin() {
        state = .open
        uv_tcp_nodelay(handle, 1)
        uv_tcp_keepalive(handle, 1, UVConnection.keepAliveSeconds)
        if !isReadingPaused { startReading() }
        if !outbox.isEmpty || closeReason != nil { settleSoon() }
    }

    private func hold() {
        uv_tcp_init(network.core.loop, handle)
        handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
    }

    /// Closes now, whatever is queued.
    func abandon(reason: String) {
        guard state == .open || state == .connecting else { return }
        state = .closing
        closeReason = reason
        uv_close(handle.viewed(as: uv_handle_t.self)) { handle in
            let connection = Unmanaged<UVConnection>.fromOpaque(handle!.pointee.data).takeRetainedValue()
            connection.finish()
        }
    }

    private func finish() {
        state = .none
        outbox = []
        inFlight = []
        buffer = ReadBuffer()
        network.forget(self)
        handler?.closed(self, reason: closeReason ?? "closed")
        handler = nil
        context = nil
        network.core.requestTurn()
    }

    private static func of<H>(_ handle: UnsafeMutablePointer<H>) -> UVConnection {
        let data = handle.viewed(as: uv_handle_t.self).pointee.data
        return Unmanaged<UVConnection>.fromOpaque(data!).takeUnretainedValue()
    }
}

// MARK: reading

extension UVConnection {
    private func startReading() {
        guard !isReading else { return }
        isReading = true
        guard !hasInputEnded else { return }
        uv_read_start(
            stream,
            { handle, _, result in
                guard let room = UVConnection.of(handle!).room() else { return result!.pointee = uv_buf_init(nil, 0) }
                result!.pointee = uv_buf_init(room.baseAddress?.assumingMemoryBound(to: CChar.self), UInt32(room.count))
            },
            { stream, count, _ in UVConnection.of(stream!).didRead(count) })
    }

    private func stopReading() {
        guard isReading else { return }
        isReading = false
        uv_read_stop(stream)
    }

    /// Reads again, after presenting what is there: its handler may have paused in the middle of it.
    private func resumeReading() {
        guard !isReading, closeReason == nil else { return }
        if buffer.unreadCount > 0 {
            present()
            // It may have been the last, and nothing in it to be answered.
            if hasInputEnded { settleSoon() }
            network.core.requestTurn()
        }
        if state == .open, !isReadingPaused, closeReason == nil { startReading() }
    }

    /// Where to read; nil if enough has come since the last turn. libuv would read many times in a row from who sends
    /// much, and others would wait behind all that is to be done about it: a promise, for one.
    private func room() -> UnsafeMutableRawBufferPointer? {
        if readRound != network.round { (readRound, readBytes) = (network.round, 0) }
        guard readBytes < ReadBuffer.slabBytes else { return nil }
        let room = buffer.room(sparing: &network.spare)
        return UnsafeMutableRawBufferPointer(rebasing: room.prefix(Int(Int32.max)))
    }

    private func didRead(_ count: Int) {
        // it was given no room, and is asked again after the turn
        guard state == .open, count != Int(UV_ENOBUFS.rawValue) else { return }
        if count > 0 {
            readBytes += count
            buffer.append(count)
            present()
        } else if count == Int(UV_EOF.rawValue) {
            hasInputEnded = true
            network.limitWait(of: self)
            handler?.inputEnded(self)
            settleSoon()
        } else if count < 0 {
            abandon(reason: "read: " + String(cString: uv_strerror(Int32(count))))
        }
    }

    /// Whether the handler owes something for what has come, or has left some of it for later.
    private var isAnswerToCome: Bool {
        (handler?.owesAnswers ?? false) || (isReadingPaused && buffer.unreadCount > 0)
    }

    /// The other side has sent its last byte, and no answer is waited for any more.
    func endInput() { closeAfterSending(reason: "closed by the other side") }

    private func present() {
        guard closeReason == nil, let handler else {
            return buffer.consume(Consumption(consumed: buffer.unreadCount), sparing: &network.spare)
        }
        let consumption = handler.received(buffer.unread, on: self)
        buffer.consume(consumption, sparing: &network.spare)
        if max(buffer.unreadCount, consumption.needed) > network.unreadBytesMax {
            close(reason: "more than \(network.unreadBytesMax) unread bytes")
        }
        if isReadingPaused { stopReading() }
    }
}

// MARK: writing

extension UVConnection {
    /// Offers the outbox to the kernel at once; what it does not take is written when it can.
    private func writeOut() {
        var sent = 0
        while inFlight.isEmpty, sent < outbox.count {
            let (pieces, bytes) = fillVector(from: sent)
            let result = uv_try_write(stream, network.vector, UInt32(pieces))
            if result >= 0 { dropSent(Int(result), &sent) }
            if result == bytes { continue }
            guard result >= 0 || result == UV_EAGAIN.rawValue else {
                return abandon(reason: "write: " + String(cString: uv_strerror(result)))
            }
            writeWhenPossible(&sent)
        }
        if sent == outbox.count { outbox.removeAll(keepingCapacity: true) } else { outbox.removeFirst(sent) }
    }

    private func fillVector(from first: Int) -> (pieces: Int, bytes: Int) {
        let pieces = min(outbox.count - first, UVNetwork.vectorLength)
        var bytes = 0
        for piece in 0..<pieces {
            outbox[first + piece].withUnsafeBytes { buffer in
                // The outbox, then `inFlight`, keeps the slab alive for longer than the kernel looks at it.
                let base = buffer.baseAddress?.assumingMemoryBound(to: CChar.self)
                network.vector[piece] = uv_buf_t(base: UnsafeMutablePointer(mutating: base), len: buffer.count)
                bytes += buffer.count
            }
        }
        return (pieces, bytes)
    }

    private func dropSent(_ count: Int, _ sent: inout Int) {
        outboxBytes -= count
        var left = count
        while left > 0 {
            let piece = outbox[sent]
            if piece.count > left {
                outbox[sent] = piece.suffix(from: left)
                return
            }
            left -= piece.count
            sent += 1
        }
    }

    private func writeWhenPossible(_ sent: inout Int) {
        let (pieces, bytes) = fillVector(from: sent)
        inFlight.append(contentsOf: outbox[sent..<sent + pieces])
        sent += pieces
        outboxBytes -= bytes
        let result = uv_write(writeRequest, stream, network.vector, UInt32(pieces)) { request, status in
            UVConnection.of(request!.pointee.handle).didWrite(status)
        }
        if result != 0 { abandon(reason: "write: " + String(cString: uv_strerror(result))) }
    }

    private func didWrite(_ status: Int32) {
        inFlight.removeAll(keepingCapacity: true)
        guard state == .open else { return }
        if status != 0 { return abandon(reason: "write: " + String(cString: uv_strerror(status))) }
        settleSoon()
    }

    private func noticeDrained() {
        guard wasAboveHighWater, unsentBytes <= WaterMark.low else { return }
        wasAboveHighWater = false
        handler?.drained(self)
        network.core.requestTurn()
    }
}

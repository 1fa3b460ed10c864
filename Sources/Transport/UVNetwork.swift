internal import CUV
internal import Glibc
public import RaftCore

/// The sockets of one lane. On the lane's thread only.
///
/// What is sent during a turn leaves after it, one system call per connection. A network whose loop has stopped
/// connects to nobody and reports nothing.
public final class UVNetwork: Network {
    /// Connections above this number are closed as soon as they are accepted.
    public var connectionsMax = 10_000
    /// A connection whose handler leaves more unread bytes than this lying is closed.
    public var unreadBytesMax = 128 << 20
    /// How long answers are waited for after the other side has sent its last byte. What is queued then still leaves.
    public var answersTimeMax = Interval.milliseconds(30_000)
    /// Where this network listens, in the order of ``listen(on:accept:)``; an asked port 0 is the port that was given.
    public private(set) var listeningAddresses: [NodeAddress] = []

    /// Connections there are, those that are being closed included.
    public var connectionCount: Int { connections.count }

    let core: LoopCore
    private let clock: any NodeClock
    /// Counts the turns.
    private(set) var round: UInt64 = 1
    /// Unwritten rest of the slab that was read into last.
    var spare: ReadBuffer.Spare?
    /// Filled anew for each write.
    let vector = UnsafeMutablePointer<uv_buf_t>.allocate(capacity: UVNetwork.vectorLength)
    /// What one writev takes (IOV_MAX).
    static let vectorLength = 1024

    private static let backlog: Int32 = 1024
    private var connections: [UVConnection] = []
    private var unsettled: [UVConnection] = []
    private var settling: [UVConnection] = []
    /// Connections whose other side has sent its last byte, in that order, and until when they may stay.
    private var ending: [(connection: UVConnection, deadline: Instant)] = []
    private var listeners: [Listener] = []
    private var lastID: UInt64 = 0

    init(_ core: LoopCore, _ clock: any NodeClock) {
        self.core = core
        self.clock = clock
    }

    deinit { vector.deallocate() }

    /// Starts to connect; the handler hears the outcome, never before this returns.
    public func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection {
        let connection = UVConnection(id: makeID(), network: self, peer: address)
        guard core.isOpen else { return connection }
        connection.handler = handler
        register(connection)
        connection.connect(to: address)
        return connection
    }

    /// Accepts connections on `address`; each gets the handler that `accept` returns.
    public func listen(
        on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler
    ) throws(TransportError) {
        precondition(core.isOpen, "the loop has stopped")
        let listener = Listener(network: self, accept: accept)
        let handle = listener.handle
        uv_tcp_init(core.loop, handle)
        var socketAddress = sockaddr_in(address)
        var (call, result) = ("bind", Int32(0))
        withUnsafePointer(to: &socketAddress) {
            result = uv_tcp_bind(handle, UnsafeRawPointer($0).assumingMemoryBound(to: sockaddr.self), 0)
        }
        if result == 0 {
            call = "listen"
            handle.pointee.data = Unmanaged.passUnretained(listener).toOpaque()
            result = uv_listen(handle.viewed(as: uv_stream_t.self), UVNetwork.backlog) { stream, status in
                // A failed accept concerns a connection that never was; libuv keeps listening.
                guard status == 0 else { return }
                Unmanaged<Listener>.fromOpaque(stream!.pointee.data).takeUnretainedValue().acceptOne()
            }
        }
        guard result == 0 else {
            closeAndFree(handle)
            if result == UV_EADDRINUSE.rawValue { throw .addressInUse(address) }
            throw TransportError(call: "\(call) \(address)", code: result)
        }
        listeners.append(listener)
        listeningAddresses.append(socketName(of: handle, by: uv_tcp_getsockname) ?? address)
    }

    fileprivate func accept(
        on listener: UnsafeMutablePointer<uv_tcp_t>, _ makeHandler: (any Connection) -> any ConnectionHandler
    ) {
        guard connections.count < connectionsMax else { return UVNetwork.turnAway(listener) }
        let connection = UVConnection(id: makeID(), network: self, peer: nil)
        guard connection.adopt(from: listener) else { return }
        register(connection)
        connection.handler = makeHandler(connection)
        connection.begin()
    }

    /// Takes a connection off the backlog only to close it.
    private static func turnAway(_ listener: UnsafeMutablePointer<uv_tcp_t>) {
        let handle = UnsafeMutablePointer<uv_tcp_t>.allocate(capacity: 1)
        uv_tcp_init(listener.pointee.loop, handle)
        uv_accept(listener.viewed(as: uv_stream_t.self), handle.viewed(as: uv_stream_t.self))
        closeAndFree(handle)
    }

    private func makeID() -> UInt64 {
        lastID += 1
        return lastID
    }
}

extension UVNetwork {
    /// `connection` has something to be done after the turn.
    func settleAfterTurn(_ connection: UVConnection) {
        unsettled.append(connection)
        core.requestTurn()
    }

    /// Sends, closes and resumes what the turn asked for. What handlers ask for meanwhile waits for the next turn.
    func flush() {
        round &+= 1
        endOverdue()
        guard !unsettled.isEmpty else { return }
        swap(&unsettled, &settling)
        for connection in settling { connection.settle() }
        settling.removeAll(keepingCapacity: true)
    }

    /// Answers to `connection`, whose other side has sent its last byte, are not waited for for ever.
    func limitWait(of connection: UVConnection) { ending.append((connection, clock.now + answersTimeMax)) }

    /// When ``flush()`` has to be called again at the latest.
    var nextDeadline: Instant? { ending.first?.deadline }

    private func endOverdue() {
        guard !ending.isEmpty else { return }
        let now = clock.now
        let overdue = ending.prefix { $0.deadline <= now }
        ending.removeFirst(overdue.count)
        for (connection, _) in overdue { connection.endInput() }
    }

    private func register(_ connection: UVConnection) {
        connection.slot = connections.count
        connections.append(connection)
    }

    /// The connection's handle is closed.
    func forget(_ connection: UVConnection) {
        if let place = ending.firstIndex(where: { $0.connection === connection }) { ending.remove(at: place) }
        let last = connections.removeLast()
        guard last !== connection else { return }
        connections[connection.slot] = last
        last.slot = connection.slot
    }

    /// Closes everything; the loop then runs the close callbacks.
    func shutDown() {
        for listener in listeners { closeAndFree(listener.handle) }
        for connection in connections { connection.abandon(reason: "this process stops") }
        listeners = []
        unsettled = []
        ending = []
    }
}

/// A listening socket and what to do with those who come.
private final class Listener {
    let handle = UnsafeMutablePointer<uv_tcp_t>.allocate(capacity: 1)
    private unowned let network: UVNetwork
    private let accept: (any Connection) -> any ConnectionHandler

    init(network: UVNetwork, accept: @escaping (any Connection) -> any ConnectionHandler) {
        self.network = network
        self.accept = accept
    }

    func acceptOne() { network.accept(on: handle, accept) }
}

extension sockaddr_in {
    /// The socket address of `address`.
    init(_ address: NodeAddress) {
        self.init()
        sin_family = sa_family_t(AF_INET)
        sin_port = address.port.bigEndian
        sin_addr.s_addr = address.ip.bigEndian
    }
}

/// One end's address, by `uv_tcp_getsockname` or `uv_tcp_getpeername`; nil if the socket has none any more.
func socketName(
    of handle: UnsafeMutablePointer<uv_tcp_t>,
    by query: (UnsafePointer<uv_tcp_t>?, UnsafeMutablePointer<sockaddr>?, UnsafeMutablePointer<Int32>?) -> Int32
) -> NodeAddress? {
    var name = sockaddr_in()
    var length = Int32(MemoryLayout<sockaddr_in>.size)
    let result = withUnsafeMutablePointer(to: &name) {
        query(handle, UnsafeMutableRawPointer($0).assumingMemoryBound(to: sockaddr.self), &length)
    }
    guard result == 0, name.sin_family == sa_family_t(AF_INET) else { return nil }
    return NodeAddress(ip: UInt32(bigEndian: name.sin_addr.s_addr), port: UInt16(bigEndian: name.sin_port))
}

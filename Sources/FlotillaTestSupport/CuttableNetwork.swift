import RaftCore
import Transport

/// A node's way out, with cuts: connections to certain addresses are closed, and new ones fail.
///
/// Requests travel on outgoing connections only, so two nodes that are cut from each other on both sides exchange
/// nothing. Lane-confined, like what it stands before.
final class CuttableNetwork: Network, @unchecked Sendable {
    private let inner: any Network
    private unowned let loop: EventLoop
    private var cut: [NodeAddress]
    private var open: [Watched] = []

    init(_ inner: any Network, _ loop: EventLoop, cut: [NodeAddress]) {
        self.inner = inner
        self.loop = loop
        self.cut = cut
    }

    /// From now on nothing goes to `addresses`, and what is in force otherwise is lifted.
    func cut(_ addresses: [NodeAddress]) {
        cut = addresses
        for watched in open where cut.contains(watched.address) { watched.connection?.close(reason: "cut") }
        loop.requestTurn()
    }

    func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection {
        guard !cut.contains(address) else {
            let connection = RefusedConnection(to: address)
            let refusal = Refusal(connection: connection, handler: handler)
            // the handler must not hear of it before it has the connection
            loop.post { refusal.tell() }
            return connection
        }
        let watched = Watched(address, handler) { [unowned self] ended in open.removeAll { $0 === ended } }
        open.append(watched)
        let connection = inner.connect(to: address, handler: watched)
        watched.connection = connection
        return connection
    }

    func listen(
        on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler
    ) throws(TransportError) {
        try inner.listen(on: address, accept: accept)
    }
}

/// Passes everything on, and remembers which connection it belongs to.
private final class Watched: ConnectionHandler {
    let address: NodeAddress
    weak var connection: (any Connection)?
    private let handler: any ConnectionHandler
    private let ended: (Watched) -> Void

    init(_ address: NodeAddress, _ handler: any ConnectionHandler, ended: @escaping (Watched) -> Void) {
        self.address = address
        self.handler = handler
        self.ended = ended
    }

    func opened(_ connection: any Connection) { handler.opened(connection) }

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        handler.received(bytes, on: connection)
    }

    func closed(_ connection: any Connection, reason: String) {
        ended(self)
        handler.closed(connection, reason: reason)
    }

    func drained(_ connection: any Connection) { handler.drained(connection) }
}

/// A connection that never comes about.
private final class RefusedConnection: Connection {
    let id: UInt64 = 0
    let peerDescription: String
    let unsentBytes = 0
    var context: AnyObject?
    var isReadingPaused = false

    init(to address: NodeAddress) { peerDescription = address.description }

    func send(_ bytes: Bytes) {}
    func close(reason: String) {}
    func closeAfterSending(reason: String) {}
}

/// What the handler of a refused connection will hear; made and told on the lane.
private final class Refusal: @unchecked Sendable {
    private let connection: RefusedConnection
    private let handler: any ConnectionHandler

    init(connection: RefusedConnection, handler: any ConnectionHandler) {
        self.connection = connection
        self.handler = handler
    }

    func tell() { handler.closed(connection, reason: "cut") }
}

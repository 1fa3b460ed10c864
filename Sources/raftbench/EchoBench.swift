import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import Synchronization
import Transport

/// Clients with a socket each, and a server that sends back what it gets: what the sockets alone cost on this machine,
/// through the same event loop, in two threads.
enum EchoBench {
    /// What came of it.
    struct Result: Sendable {
        var clients: Int
        var bytes: Int
        var seconds = 0.0
        var latencies = Histogram()
        var serverSeconds = 0.0

        var operationsPerSecond: Double { Double(latencies.count) / max(seconds, 1e-9) }
    }

    /// `clients` that each send `bytes` and wait until they are back, for so many seconds.
    static func run(clients: Int, bytes: Int, seconds: Double) async throws -> Result {
        let address = LoopbackPorts.take(1)[0]
        let server = try EchoServer(address)
        async let ended: Double = onOwnThread { server.run() }
        do {
            var result = try await onOwnThread {
                try EchoClients(address, clients: clients, bytes: bytes, seconds: seconds).run()
            }
            server.stop()
            result.serverSeconds = try await ended
            return result
        } catch {
            server.stop()
            throw error
        }
    }
}

/// Sends back what it gets.
private final class EchoServer: @unchecked Sendable {
    private final class Handler: ConnectionHandler {
        func opened(_ connection: any Connection) {}
        func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
            connection.send(bytes)
            return Consumption(consumed: bytes.count)
        }
        func closed(_ connection: any Connection, reason: String) {}
        func drained(_ connection: any Connection) {}
    }

    private let loop: EventLoop

    init(_ address: NodeAddress) throws(TransportError) {
        loop = try EventLoop()
        try loop.makeNetwork().listen(on: address) { _ in Handler() }
    }

    /// Until it is stopped; the seconds of a processor that this took.
    func run() -> Double {
        let before = ProcessFigures.processorSecondsOfThisThread
        loop.run()
        return ProcessFigures.processorSecondsOfThisThread - before
    }

    func stop() { loop.post { [loop] in loop.stop() } }
}

/// Sends, and waits until all of it is back.
private final class EchoClients {
    private final class Handler: ConnectionHandler {
        private unowned let clients: EchoClients
        private var started = Instant.distantPast

        init(_ clients: EchoClients) { self.clients = clients }

        func opened(_ connection: any Connection) { send(on: connection) }

        func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
            guard bytes.count >= clients.payload.count else {
                return Consumption(consumed: 0, needed: clients.payload.count)
            }
            clients.answered(since: started)
            send(on: connection)
            return Consumption(consumed: clients.payload.count)
        }

        func closed(_ connection: any Connection, reason: String) { clients.lost(reason) }
        func drained(_ connection: any Connection) {}

        private func send(on connection: any Connection) {
            started = clients.loop.clock.now
            connection.send(clients.payload)
        }
    }

    fileprivate let loop: EventLoop
    fileprivate let payload: Bytes
    private let seconds: Double
    private var result: EchoBench.Result
    private var begin: Instant?
    private var failure: Failed?
    private let warmup = Interval.milliseconds(200)

    init(_ address: NodeAddress, clients: Int, bytes: Int, seconds: Double) throws(TransportError) {
        loop = try EventLoop()
        payload = Bytes([UInt8](repeating: 7, count: max(bytes, 1)))
        self.seconds = seconds
        result = EchoBench.Result(clients: clients, bytes: bytes)
        let network = loop.makeNetwork()
        for _ in 0..<clients { _ = network.connect(to: address, handler: Handler(self)) }
    }

    func run() throws -> EchoBench.Result {
        let start = loop.clock.now + warmup
        let end = start + Interval(seconds: seconds)
        loop.setTurn { [unowned self] now in
            if begin == nil, now >= start { begin = now }
            if let begin, now >= end {
                result.seconds = Double((now - begin).nanoseconds) / 1e9
                loop.stop()
            }
            return begin == nil ? start : end
        }
        loop.run()
        if let failure { throw failure }
        return result
    }

    fileprivate func answered(since started: Instant) {
        if begin != nil { result.latencies.add((loop.clock.now - started).nanoseconds) }
    }

    fileprivate func lost(_ reason: String) {
        // at the end all of them are closed
        guard result.seconds == 0 else { return }
        failure = Failed("the echo's connection is lost: \(reason)")
        loop.stop()
    }
}

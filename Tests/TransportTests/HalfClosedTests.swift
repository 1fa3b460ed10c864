import Glibc
import RaftCore
import Testing

@testable import Transport

/// A client that closes its sending direction as soon as it has sent everything, and reads to the end: `printf … | nc`.
private enum Piping {
    /// Everything that comes back from `port` of this machine. Blocks; gives up when nothing has come for 20 seconds.
    static func reply(to request: Bytes, port: UInt16) -> Bytes {
        let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        var patience = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(127 << 24 | 1).bigEndian
        let isConnected = withUnsafePointer(to: &address) {
            connect(
                socket, UnsafeRawPointer($0).assumingMemoryBound(to: sockaddr.self),
                socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
        guard isConnected else { return Bytes() }
        request.withUnsafeBytes { _ = send(socket, $0.baseAddress, $0.count, 0) }
        shutdown(socket, Int32(SHUT_WR))
        var received: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = recv(socket, &piece, piece.count, 0)
            guard count > 0 else { return Bytes(received) }
            received += piece[..<count]
        }
    }
}

/// Answers each byte with itself, a while after it came; may leave some bytes unread meanwhile.
private final class LateEcho: ConnectionHandler {
    /// How long every answer takes; nil: for ever.
    var delay: Interval? = .milliseconds(30)
    /// Bytes taken at once; the rest waits, unread, for their answer.
    var takenMax = Int.max
    private(set) var closeReason: String?
    private var waiting: [UInt8] = []
    private var due: Instant?
    private var connection: (any Connection)?
    private let clock: any NodeClock

    init(clock: any NodeClock) { self.clock = clock }

    var owesAnswers: Bool { !waiting.isEmpty }

    func opened(_ connection: any Connection) {}

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        self.connection = connection
        let taken = min(takenMax, bytes.count)
        waiting += bytes.array.prefix(taken)
        due = delay.map { clock.now + $0 }
        connection.isReadingPaused = taken < bytes.count
        return Consumption(consumed: taken)
    }

    func closed(_ connection: any Connection, reason: String) {
        self.connection = nil
        closeReason = reason
    }

    func drained(_ connection: any Connection) {}

    /// Answers what is due; returns when the next answer is.
    func answer(now: Instant) -> Instant? {
        guard let due, due <= now else { return due }
        connection?.send(Bytes(waiting))
        waiting = []
        self.due = nil
        connection?.isReadingPaused = false
        return nil
    }
}

@Suite("A client that closes its sending direction", .serialized)
struct HalfClosedTests {
    private final class Answer: @unchecked Sendable {
        var bytes: Bytes?
    }

    /// What a piping client gets that sends `request` to `handler`, behind a sniffer that may not know it.
    private func exchange(
        _ request: Bytes, sniffing prefix: String = "", _ adjust: (UVNetwork) -> Void = { _ in },
        turn: @escaping (Instant) -> Instant? = { _ in nil }, handler: (EventLoop) -> any ConnectionHandler
    ) throws -> Bytes {
        let loop = try EventLoop()
        let network = loop.makeNetwork()
        adjust(network)
        let handler = handler(loop)
        try network.listen(on: NodeAddress(ip: 127 << 24 | 1, port: 0)) { _ in
            ProtocolSniffer(choices: [(ProtocolSniffer.beginning(with: prefix), { handler })])
        }
        let port = network.listeningAddresses[0].port
        let answer = Answer()
        let client = loop.makeWorker(name: "client")
        client.submit {
            answer.bytes = Piping.reply(to: request, port: port)
        } completion: {
            loop.stop()
        }
        loop.setTurn(turn)
        // A dropped worker waits for its jobs, which need the loop.
        withExtendedLifetime(client) { loop.run() }
        return try #require(answer.bytes)
    }

    @Test("Late answers arrive, then the end") func lateAnswers() throws {
        var echo: LateEcho?
        let bytes = try exchange(Bytes("abc"), turn: { echo?.answer(now: $0) }) { loop in
            let made = LateEcho(clock: loop.clock)
            echo = made
            return made
        }
        #expect(bytes == Bytes("abc"))
        #expect(echo?.closeReason == "closed by the other side")
    }

    @Test("What the handler left unread while it was paused is served too") func unreadRest() throws {
        var echo: LateEcho?
        let bytes = try exchange(Bytes("abcdefg"), turn: { echo?.answer(now: $0) }) { loop in
            let made = LateEcho(clock: loop.clock)
            made.takenMax = 2
            echo = made
            return made
        }
        #expect(bytes == Bytes("abcdefg"))
    }

    @Test("RPC calls are answered, all of them") func calls() throws {
        let codec = FrameCodec()
        let requests = joined((1...3).map { codec.request("test.Late", "m", id: $0, body: Bytes("body \($0)")) })
        var waiting: [RpcRequest] = []
        var due: Instant?
        let bytes = try exchange(
            requests, sniffing: "PRPC",
            turn: { now in
                guard let moment = due, moment <= now else { return due }
                // One in each turn, the last first.
                waiting.popLast().map { $0.responder.reply(body: $0.body) }
                due = waiting.isEmpty ? nil : now + .milliseconds(5)
                return due
            }
        ) { loop in
            let server = RpcServer(address: NodeAddress(ip: 127 << 24 | 1, port: 0))
            server.register("test.Late") { _, request in
                waiting.append(request)
                due = loop.clock.now + .milliseconds(30)
                return true
            }
            return server.makeHandler()
        }
        #expect(bytes == joined([3, 2, 1].map { codec.reply(id: $0, body: Bytes("body \($0)")) }))
    }

    @Test("Whoever owes nothing, or is not yet known, is closed at once") func nothingOwed() throws {
        for prefix in ["", "PRPC"] {
            let bytes = try exchange(Bytes("PR"), sniffing: prefix) { loop in
                let server = RpcServer(address: NodeAddress(ip: 127 << 24 | 1, port: 0))
                return server.makeHandler()
            }
            #expect(bytes == Bytes())
        }
    }

    @Test("Answers are not waited for for ever") func patience() throws {
        var echo: LateEcho?
        let clock = SystemClock()
        let start = clock.now
        let bytes = try exchange(Bytes("abc"), { $0.answersTimeMax = .milliseconds(50) }) { loop in
            let made = LateEcho(clock: loop.clock)
            made.delay = nil
            echo = made
            return made
        }
        #expect(bytes == Bytes())
        #expect(clock.now - start >= .milliseconds(50) && clock.now - start < .milliseconds(15_000))
        #expect(echo?.closeReason == "closed by the other side")
    }
}

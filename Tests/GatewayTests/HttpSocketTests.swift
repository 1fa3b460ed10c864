import Gateway
import Glibc
import RaftCore
import Testing
import Transport

/// One client's socket. Blocks; nobody waits for more than 20 s.
private final class Socket {
    private let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)

    init?(port: UInt16) {
        var patience = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(127 << 24 | 1).bigEndian
        let isConnected = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        guard isConnected else { return nil }
    }

    deinit { close(descriptor) }

    /// The next `close` is a reset.
    func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    }

    /// False once the other side has had enough.
    @discardableResult func send(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }

    @discardableResult func send(_ text: String) -> Bool { send(Array(text.utf8)) }

    /// What comes next; empty at the end, nil if the connection broke or nothing comes.
    func receive() -> String? {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }

    /// What comes until the other side closes; nil if the connection breaks before.
    func receiveAll() -> String? {
        var text = ""
        while let more = receive() {
            if more.isEmpty { return text }
            text += more
        }
        return nil
    }
}

@Suite("HTTP on sockets", .serialized, .timeLimit(.minutes(1))) struct HttpSocketTests {
    private final class Outcome: @unchecked Sendable {
        var failure: String?
    }

    /// Has `client` meet a server whose `add_peer` is never answered, behind a sniffer; what it returns went wrong.
    private func serve(
        _ settings: HttpServer.Settings = HttpServer.Settings(), connectionsMax: Int = 100,
        _ client: @escaping @Sendable (UInt16) -> String?
    ) throws {
        let loop = try EventLoop()
        let network = loop.makeNetwork()
        network.connectionsMax = connectionsMax
        let rpc = RpcServer(address: NodeAddress(ip: 127 << 24 | 1, port: 1))
        var held: [RpcRequest] = []
        rpc.register("braft.CliService") { _, request in
            held.append(request)
            return true
        }
        let sweep = DeadlineSweep(clock: loop.clock, pace: .milliseconds(50))
        let http = HttpServer(
            rpc: rpc, settings: settings, sweep: sweep, version: "1", status: { "" }, metrics: { "" })
        try network.listen(on: NodeAddress(ip: 127 << 24 | 1, port: 0)) { connection in
            let matches = { (bytes: Bytes) -> ProtocolSniffer.Match in
                HttpServer.matches(bytes).map { $0 ? .yes : .no } ?? .needMore
            }
            return ProtocolSniffer(
                choices: [(matches, { http.makeHandler() })], of: connection, sweep: sweep,
                patience: settings.requestTime, silence: settings.silenceTime)
        }
        let port = network.listeningAddresses[0].port
        loop.setTurn { sweep.turn(now: $0) }
        let outcome = Outcome()
        let worker = loop.makeWorker(name: "client")
        worker.submit {
            outcome.failure = client(port)
        } completion: {
            loop.stop()
        }
        // a dropped worker waits for its jobs, which need the loop
        withExtendedLifetime((worker, held)) { loop.run() }
        #expect(outcome.failure == nil)
    }

    private static let body = #"{"group_id":"g","leader_id":"","peer_id":"p"}"#
    private static let order =
        "POST /CliService/add_peer HTTP/1.1\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"

    @Test("A client that goes away leaves its place to the next one at once", arguments: [false, true], [0, 9])
    func goneClient(isReset: Bool, ahead: Int) throws {
        try serve(connectionsMax: 1) { port in
            do {
                guard let first = Socket(port: port) else { return "no connection" }
                first.send(Self.order + String(repeating: "GET /health HTTP/1.1\r\n\r\n", count: ahead))
                // it is being served, or nobody else would be turned away
                guard let second = Socket(port: port) else { return "no second connection" }
                guard second.receiveAll()?.isEmpty ?? true else { return "there are two places" }
                if isReset { first.reset() }
            }
            let end = ContinuousClock.now + .seconds(10)
            while ContinuousClock.now < end {
                if let next = Socket(port: port), next.send("GET /health HTTP/1.1\r\n\r\n"),
                    next.receive()?.hasSuffix("OK") == true
                {
                    return nil
                }
                usleep(20_000)
            }
            return "the place is still taken"
        }
    }

    @Test("Whoever is sending too much gets to send it, and to read so") func tooMuch() throws {
        var settings = HttpServer.Settings()
        // more than a loaded machine needs
        settings.lingerTime = .milliseconds(15_000)
        try serve(settings) { port in
            guard let client = Socket(port: port) else { return "no connection" }
            client.send("POST /health HTTP/1.1\r\nContent-Length: 16000000\r\n\r\n")
            for _ in 0..<16 where !client.send([UInt8](repeating: 0x78, count: 1_000_000)) {
                return "the connection broke"
            }
            let answer = client.receive()
            return answer?.hasPrefix("HTTP/1.1 413 ") == true ? nil : answer ?? "no answer"
        }
    }

    @Test(
        "Whoever takes for ever is not waited for",
        arguments: ["GET /heal", "POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"])
    func slow(start: String) throws {
        var settings = HttpServer.Settings()
        (settings.requestTime, settings.lingerTime) = (.milliseconds(300), .milliseconds(100))
        try serve(settings) { port in
            let clients = (0..<20).compactMap { _ in Socket(port: port) }
            for client in clients { client.send(start) }
            for client in clients where client.receiveAll()?.hasPrefix("HTTP/1.1 408 ") != true { return "no 408" }
            return clients.count == 20 ? nil : "no connections"
        }
    }

    @Test("Who begins no protocol is closed in time, who is silent is not") func undecided() throws {
        var settings = HttpServer.Settings()
        settings.requestTime = .milliseconds(300)
        try serve(settings) { port in
            guard let silent = Socket(port: port), let undecided = Socket(port: port) else { return "no connection" }
            undecided.send("G")
            guard undecided.receiveAll() == "" else { return "not closed" }
            silent.send("GET /health HTTP/1.1\r\n\r\n")
            return silent.receive()?.hasSuffix("OK") == true ? nil : "the silent one was closed"
        }
    }

    @Test("Who says nothing at all is closed as well, later, and who was heard in time is not") func silent() throws {
        var settings = HttpServer.Settings()
        settings.silenceTime = .milliseconds(2000)
        try serve(settings) { port in
            let silent = (0..<20).compactMap { _ in Socket(port: port) }
            guard silent.count == 20, let speaker = Socket(port: port) else { return "no connection" }
            speaker.send("GET /health HTTP/1.1\r\n\r\n")
            guard speaker.receive()?.hasSuffix("OK") == true else { return "no answer" }
            for client in silent where client.receiveAll() != "" { return "not closed" }
            speaker.send("GET /health HTTP/1.1\r\n\r\n")
            return speaker.receive()?.hasSuffix("OK") == true ? nil : "the speaker was closed"
        }
    }

    @Test("An idle connection closes, and what is not answered in time is 504") func times() throws {
        var settings = HttpServer.Settings()
        (settings.idleTime, settings.answerTime) = (.milliseconds(300), .milliseconds(300))
        settings.lingerTime = .milliseconds(100)
        try serve(settings) { port in
            guard let idle = Socket(port: port), let waiting = Socket(port: port) else { return "no connection" }
            idle.send("GET /health HTTP/1.1\r\n\r\n")
            guard idle.receiveAll()?.hasSuffix("OK") == true else { return "the idle one" }
            waiting.send(Self.order)
            guard let answer = waiting.receiveAll() else { return "broke" }
            return answer.hasPrefix("HTTP/1.1 504 ") && answer.contains("x-bd-error-code: 1008") ? nil : answer
        }
    }
}

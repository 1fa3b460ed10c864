import Glibc
import RaftCore
import Testing

@testable import Transport

/// A lane of its own for one test, stopped when the test's condition holds or after 20 seconds.
private final class TestLane {
    let loop: EventLoop
    let network: UVNetwork
    var channels: [RpcChannel] = []

    init() throws {
        loop = try EventLoop()
        network = loop.makeNetwork()
    }

    func run(until isDone: @escaping () -> Bool) -> Bool {
        let end = loop.clock.now + .milliseconds(20_000)
        var wasDone = false
        loop.setTurn { [unowned self] now in
            var next = end
            for channel in channels { next = min(next, channel.expire(now: now) ?? end) }
            wasDone = isDone()
            if wasDone || now >= end { loop.stop() }
            return next
        }
        loop.run()
        return wasDone
    }

    /// Listens on a free port of this machine.
    func listen(_ accept: @escaping (any Connection) -> any ConnectionHandler) throws -> NodeAddress {
        try network.listen(on: localhost, accept: accept)
        return network.listeningAddresses.last!
    }

    func channel(to address: NodeAddress) -> RpcChannel {
        let channel = RpcChannel(address: address, network: network, clock: loop.clock)
        channels.append(channel)
        return channel
    }
}

private let localhost = NodeAddress(ip: 127 << 24 | 1, port: 0)

/// Answers with what it got.
private func makeEchoServer() -> RpcServer {
    let server = RpcServer(address: localhost)
    server.register("test.Echo") { method, request in
        guard method == "echo" else { return false }
        request.responder.reply(body: request.body, attachment: [request.attachment])
        return true
    }
    return server
}

private final class Raw: ConnectionHandler {
    var onOpened: (any Connection) -> Void = { _ in }
    var onReceived: (Bytes, any Connection) -> Consumption = { bytes, _ in Consumption(consumed: bytes.count) }
    var onDrained: (any Connection) -> Void = { _ in }
    var closeReason: String?

    func opened(_ connection: any Connection) { onOpened(connection) }
    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption { onReceived(bytes, connection) }
    func closed(_ connection: any Connection, reason: String) {
        #expect(closeReason == nil, "closed must be heard once")
        closeReason = reason
    }
    func drained(_ connection: any Connection) { onDrained(connection) }
}

@Suite("Sockets", .serialized)
struct SocketTests {
    @Test("A message of 20 MiB comes back unchanged") func largeMessage() throws {
        let lane = try TestLane()
        let server = makeEchoServer()
        let channel = lane.channel(to: try lane.listen { _ in server.makeHandler() })
        var random = SeededRandom(seed: 9)
        let body = Bytes(count: 20 << 20) { buffer in
            for offset in stride(from: 0, to: buffer.count, by: 8) {
                buffer.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
            }
        }
        var reply: RpcReply?
        channel.call(service: "test.Echo", method: "echo", body: body, attachment: [Bytes("a"), Bytes("b")]) {
            reply = $0.reply
        }
        #expect(lane.run { reply != nil })
        #expect(reply?.body == body)
        #expect(reply?.attachment == Bytes("ab"))
    }

    @Test("A thousand calls at once, each with its own answer") func pipelining() throws {
        let lane = try TestLane()
        let server = makeEchoServer()
        let channel = lane.channel(to: try lane.listen { _ in server.makeHandler() })
        var (done, wrong) = (0, 0)
        for call in 0..<1000 {
            let body = Bytes("call \(call) " + String(repeating: "x", count: call % 300))
            channel.call(service: "test.Echo", method: "echo", body: body) { result in
                done += 1
                if result.reply?.body != body { wrong += 1 }
            }
        }
        #expect(lane.run { done == 1000 })
        #expect(wrong == 0)
    }

    @Test("A broken connection fails what is pending; the channel connects again by itself")
    func reconnecting() throws {
        let lane = try TestLane()
        let server = makeEchoServer()
        server.register("test.Rude") { _, request in
            request.connection.close(reason: "rude")
            return true
        }
        let channel = lane.channel(to: try lane.listen { _ in server.makeHandler() })
        var events: [String] = []
        channel.onStateChange = { [unowned channel] isConnected in
            events.append(isConnected ? "up" : "down")
            guard isConnected, events.count > 1 else { return }
            channel.call(service: "test.Echo", method: "echo", body: Bytes()) { events.append("echo \($0.code)") }
        }
        for _ in 0..<2 {
            channel.call(service: "test.Rude", method: "m", body: Bytes()) { events.append("rude \($0.code)") }
        }
        var history: [String] = []
        #expect(
            lane.run {
                history = events
                return events.count == 6
            })
        #expect(history == ["up", "down", "rude 1009", "rude 1009", "up", "echo 0"])
    }

    @Test("A call without an answer ends at its deadline, not before") func deadline() throws {
        let lane = try TestLane()
        let server = RpcServer(address: localhost)
        server.register("test.Silent") { _, _ in true }
        let channel = lane.channel(to: try lane.listen { _ in server.makeHandler() })
        let start = lane.loop.clock.now
        var (code, waited): (Int32?, Int) = (nil, 0)
        channel.call(
            service: "test.Silent", method: "m", body: Bytes(), deadline: start + .milliseconds(50)
        ) { result in
            (code, waited) = (result.code, (lane.loop.clock.now - start).milliseconds)
        }
        #expect(lane.run { code != nil })
        #expect(code == RpcCode.timedOut)
        #expect(waited >= 50)
    }

    @Test("Nobody listening: the call fails with 112") func refused() throws {
        let lane = try TestLane()
        // A port that was free a moment ago and is closed again.
        let other = try TestLane()
        let address = try other.listen { _ in Raw() }
        #expect(other.run { true })
        var code: Int32?
        lane.channel(to: address).call(service: "a.B", method: "m", body: Bytes()) { code = $0.code }
        #expect(lane.run { code != nil })
        #expect(code == RpcCode.hostDown)
    }

    @Test("A port in use is a named error") func portInUse() throws {
        let lane = try TestLane()
        let address = try lane.listen { _ in Raw() }
        #expect(address.port != 0)
        let other = try TestLane()
        #expect {
            try other.network.listen(on: address) { _ in Raw() }
        } throws: { error in
            if case TransportError.addressInUse(address) = error { true } else { false }
        }
        #expect(other.run { true })
    }

    @Test("A reader that pauses fills the sender, whose handler hears when it is drained") func backpressure() throws {
        let lane = try TestLane()
        let reader = Raw()
        var (received, drained) = (0, 0)
        var accepted: (any Connection)?
        reader.onReceived = { bytes, _ in
            received += bytes.count
            return Consumption(consumed: bytes.count)
        }
        let address = try lane.listen { connection in
            connection.isReadingPaused = true
            accepted = connection
            return reader
        }
        let chunk = Bytes(count: 1 << 20) { $0.initializeMemory(as: UInt8.self, repeating: 7) }
        let sender = Raw()
        var peak = 0
        sender.onDrained = { connection in
            drained += 1
            #expect(connection.unsentBytes <= WaterMark.low)
        }
        sender.onOpened = { connection in
            for _ in 0..<32 { connection.send(chunk) }
            peak = connection.unsentBytes
        }
        let connection = lane.network.connect(to: address, handler: sender)
        let resumeAt = lane.loop.clock.now + .milliseconds(50)
        let isDone = lane.run {
            if lane.loop.clock.now >= resumeAt, let paused = accepted, paused.isReadingPaused {
                #expect(received == 0 && drained == 0 && connection.unsentBytes > WaterMark.high)
                paused.isReadingPaused = false
            }
            lane.loop.requestTurn()
            return received == 32 << 20 && drained > 0
        }
        #expect(isDone)
        #expect(peak == 32 << 20)
        #expect(drained == 1)
        #expect(sender.closeReason != nil && reader.closeReason != nil, "the stopped loop closes connections")
    }

    @Test("Between two turns no more is read from a connection than a slab or two, however much has come")
    func readInTurns() throws {
        let lane = try TestLane()
        let reader = Raw()
        var (received, sinceTurn, most) = (0, 0, 0)
        reader.onReceived = { bytes, _ in
            received += bytes.count
            sinceTurn += bytes.count
            most = max(most, sinceTurn)
            return Consumption(consumed: bytes.count)
        }
        let address = try lane.listen { _ in reader }
        let sender = Raw()
        let chunk = Bytes(count: 1 << 20) { $0.initializeMemory(as: UInt8.self, repeating: 7) }
        sender.onOpened = { connection in for _ in 0..<16 { connection.send(chunk) } }
        let connection = lane.network.connect(to: address, handler: sender)
        let isDone = lane.run {
            sinceTurn = 0
            return received == 16 << 20
        }
        #expect(isDone && connection.unsentBytes == 0)
        #expect(most <= 2 * ReadBuffer.slabBytes, "\(most) bytes between two turns")
    }

    @Test("A resumed reader is shown what it left, although nothing follows") func resumedReader() throws {
        let lane = try TestLane()
        let reader = Raw()
        var shown: [String] = []
        reader.onReceived = { bytes, connection in
            shown.append(bytes.text)
            guard shown.count > 1 else {
                connection.isReadingPaused = true
                lane.loop.requestTurn()
                return Consumption(consumed: 3)
            }
            return Consumption(consumed: bytes.count)
        }
        var accepted: (any Connection)?
        let address = try lane.listen { connection in
            accepted = connection
            return reader
        }
        lane.network.connect(to: address, handler: Raw()).send(Bytes("onetwo"))
        #expect(
            lane.run {
                if shown.count == 1 { accepted?.isReadingPaused = false }
                return shown.count == 2
            })
        #expect(shown == ["onetwo", "two"])
    }

    @Test("What is sent before closeAfterSending arrives, then the end") func closeAfterSending() throws {
        let lane = try TestLane()
        let payload = Bytes(count: 3 << 20) { $0.initializeMemory(as: UInt8.self, repeating: 1) }
        let address = try lane.listen { connection in
            connection.send(payload)
            connection.closeAfterSending(reason: "done")
            return Raw()
        }
        let reader = Raw()
        var received = 0
        reader.onReceived = { bytes, _ in
            received += bytes.count
            return Consumption(consumed: bytes.count)
        }
        _ = lane.network.connect(to: address, handler: reader)
        #expect(lane.run { reader.closeReason != nil })
        #expect(received == 3 << 20)
    }

    @Test("Connections above the limit are turned away") func connectionLimit() throws {
        let lane = try TestLane()
        // Both ends count here: two connections need four.
        lane.network.connectionsMax = 4
        let address = try lane.listen { _ in Raw() }
        let clients = (0..<3).map { _ in Raw() }
        for client in clients { _ = lane.network.connect(to: address, handler: client) }
        #expect(lane.run { clients.contains { $0.closeReason != nil } })
    }
}

@Suite("EventLoop", .serialized)
struct EventLoopTests {
    private final class Counter: @unchecked Sendable {
        var values: [Int] = []
    }

    @Test("Posted work runs on the lane in order, from any thread") func posting() throws {
        let loop = try EventLoop()
        let counter = Counter()
        let worker = loop.makeWorker(name: "poster")
        worker.submit({ for value in 0..<100 { loop.post { counter.values.append(value) } } }, completion: {})
        loop.setTurn { _ in
            if counter.values.count == 100 { loop.stop() }
            return nil
        }
        loop.run()
        #expect(counter.values == Array(0..<100))
    }

    @Test("A worker's jobs run in order and their completions come back in order") func worker() throws {
        let loop = try EventLoop()
        let (ran, completed) = (Counter(), Counter())
        let worker = loop.makeWorker(name: "worker")
        let lane = pthread_self()
        for value in 0..<50 {
            worker.submit(
                {
                    ran.values.append(value)
                    #expect(pthread_equal(lane, pthread_self()) == 0)
                },
                completion: {
                    completed.values.append(value)
                    #expect(pthread_equal(lane, pthread_self()) != 0)
                })
        }
        loop.setTurn { _ in
            if completed.values.count == 50 { loop.stop() }
            return nil
        }
        loop.run()
        #expect(ran.values == Array(0..<50) && completed.values == Array(0..<50))
    }

    @Test("A dropped worker has run everything it accepted") func droppedWorker() throws {
        let loop = try EventLoop()
        let ran = Counter()
        do {
            let worker = loop.makeWorker(name: "short")
            for value in 0..<20 { worker.submit({ ran.values.append(value) }, completion: {}) }
        }
        #expect(ran.values == Array(0..<20))
    }

    @Test("Deadlines: none sleeps, a passed one turns at once, a later one in time") func deadlines() throws {
        let loop = try EventLoop()
        let start = loop.clock.now
        var turns = 0
        loop.setTurn { now in
            turns += 1
            if turns < 5 { return start }
            if now >= start + .milliseconds(30) { loop.stop() }
            return start + .milliseconds(30)
        }
        loop.run()
        #expect(loop.clock.now >= start + .milliseconds(30))
        #expect(turns >= 6 && turns < 20)
    }

    @Test("Signals are heard on the lane") func signals() throws {
        let loop = try EventLoop()
        var heard: Int32 = 0
        loop.onSignals([SIGUSR2]) { number in
            heard = number
            loop.stop()
        }
        kill(getpid(), SIGUSR2)
        loop.run()
        #expect(heard == SIGUSR2)
    }

    @Test("A loop that never ran is freed without complaint, its network silent") func unused() throws {
        var loop: EventLoop? = try EventLoop()
        let network = loop!.makeNetwork()
        loop = nil
        let connection = network.connect(to: NodeAddress(ip: 127 << 24 | 1, port: 9), handler: Raw())
        connection.send(Bytes("x"))
        #expect(connection.unsentBytes == 0)
    }
}

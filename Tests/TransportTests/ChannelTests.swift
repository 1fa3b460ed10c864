import RaftCore
import Testing

@testable import Transport

/// The channel's own rules, on a network that the test plays.
@Suite("RpcChannel")
struct ChannelTests {
    let network = NotedNetwork()
    let clock = SetClock()
    let codec = FrameCodec()

    private func makeChannel() -> RpcChannel { RpcChannel(address: nodeAddress, network: network, clock: clock) }

    private func sent(_ attempt: Int) -> Int { network.attempts[attempt].connection.sent.count }

    private func pass(_ milliseconds: Int) { clock.now = clock.now + .milliseconds(milliseconds) }

    @Test("Nothing is opened before the first call, which then waits for the connection") func firstCall() {
        let channel = makeChannel()
        #expect(channel.expire(now: clock.now) == nil)
        #expect(network.attempts.isEmpty)
        var code: Int32 = -1
        channel.call(service: "a.B", method: "m", body: Bytes("x")) { code = $0.code }
        #expect(network.attempts.count == 1 && sent(0) == 0 && channel.unsentBytes > 0 && !channel.isConnected)
        network.open(0)
        #expect(sent(0) == 2 && channel.isConnected)
        _ = network.receive(codec.reply(id: 1), 0)
        #expect(code == 0 && channel.pendingCalls == 0)
    }

    @Test("Answers are matched by id, in any order; unknown ids are dropped") func matching() {
        let channel = makeChannel()
        var order: [Int] = []
        for call in 1...3 { channel.call(service: "a.B", method: "m", body: Bytes()) { _ in order.append(call) } }
        network.open(0)
        for id: Int64 in [3, 99, 1, 1, 2] { _ = network.receive(codec.reply(id: id), 0) }
        #expect(order == [3, 1, 2])
    }

    @Test("A broken connection fails calls in order, then calls fail at once, then it is tried again") func breaking() {
        let channel = makeChannel()
        var changes: [Bool] = []
        channel.onStateChange = { changes.append($0) }
        var failed: [String] = []
        func call(_ name: String) {
            channel.call(service: "a.B", method: "m", body: Bytes()) { failed.append("\(name) \($0.code)") }
        }
        call("1")
        call("2")
        network.open(0)
        call("3")
        network.close(0)
        #expect(failed == ["1 1009", "2 1009", "3 1009"])
        call("4")
        #expect(failed.last == "4 112" && network.attempts.count == 1)
        #expect(channel.expire(now: clock.now) == clock.now + .milliseconds(100))
        pass(100)
        _ = channel.expire(now: clock.now)
        #expect(network.attempts.count == 2)
        network.open(1)
        #expect(changes == [true, false, true])
        call("5")
        #expect(sent(1) == 1)
    }

    @Test("The wait doubles from 100 ms to 3 s, and is short again after success") func backoff() {
        let channel = makeChannel()
        channel.call(service: "a.B", method: "m", body: Bytes()) { _ in }
        var waits: [Int] = []
        for attempt in 0..<7 {
            network.close(attempt)
            let due = channel.expire(now: clock.now)!
            waits.append((due - clock.now).milliseconds)
            clock.now = due
            _ = channel.expire(now: clock.now)
        }
        #expect(waits == [100, 200, 400, 800, 1600, 3000, 3000])
        network.open(7)
        network.close(7)
        #expect(channel.expire(now: clock.now) == clock.now + .milliseconds(100))
    }

    @Test("With queueWhileConnecting calls wait for a host that is down") func queueing() {
        let channel = makeChannel()
        channel.queueWhileConnecting = true
        var codes: [Int32] = []
        channel.call(service: "a.B", method: "m", body: Bytes()) { codes.append($0.code) }
        network.close(0)
        channel.call(service: "a.B", method: "m", body: Bytes()) { codes.append($0.code) }
        #expect(codes.isEmpty)
        pass(100)
        _ = channel.expire(now: clock.now)
        network.open(1)
        #expect(sent(1) == 2)
        network.close(1)
        #expect(codes == [1009, 1009])
    }

    @Test("Deadlines fail calls, sent or not, and are told to the owner") func deadlines() {
        let channel = makeChannel()
        var codes: [String: Int32] = [:]
        let start = clock.now
        for (name, milliseconds) in [("late", 30), ("early", 10), ("middle", 20)] {
            channel.call(
                service: "a.B", method: "m", body: Bytes(), deadline: start + .milliseconds(milliseconds)
            ) { codes[name] = $0.code }
        }
        #expect(channel.expire(now: clock.now) == start + .milliseconds(10))
        pass(10)
        #expect(channel.expire(now: clock.now) == start + .milliseconds(20))
        #expect(codes == ["early": RpcCode.timedOut])
        network.open(0)
        #expect(sent(0) == 2, "the expired call must not be sent")
        pass(15)
        #expect(channel.expire(now: clock.now) == start + .milliseconds(30))
        _ = network.receive(codec.reply(id: 1), 0)
        #expect(codes == ["early": RpcCode.timedOut, "middle": RpcCode.timedOut, "late": 0])
        #expect(channel.expire(now: clock.now) == nil)
    }

    @Test("A connection that does not come is given up") func connectTimeout() {
        let channel = makeChannel()
        var code: Int32 = 0
        channel.call(service: "a.B", method: "m", body: Bytes()) { code = $0.code }
        pass(3000)
        _ = channel.expire(now: clock.now)
        #expect(code == RpcCode.hostDown)
        #expect(network.attempts[0].connection.closeReason != nil)
        network.open(0)
        #expect(!channel.isConnected, "the abandoned connection must not count")
    }

    @Test("The greeting goes first; other calls follow when it is done") func greeting() {
        let channel = makeChannel()
        channel.greeting = { channel, done in
            channel.call(service: "a.Hello", method: "one", body: Bytes()) { _ in
                channel.call(service: "a.Hello", method: "two", body: Bytes()) { done($0.code == 0) }
            }
        }
        channel.call(service: "a.B", method: "m", body: Bytes()) { _ in }
        network.open(0)
        #expect(sent(0) == 1 && !channel.isConnected)
        _ = network.receive(codec.reply(id: 2), 0)
        #expect(sent(0) == 2 && !channel.isConnected)
        _ = network.receive(codec.reply(id: 3), 0)
        #expect(channel.isConnected && sent(0) == 3)
    }

    @Test("A refused greeting closes the connection and waits") func refusedGreeting() {
        let channel = makeChannel()
        channel.greeting = { _, done in done(false) }
        var code: Int32 = 0
        channel.call(service: "a.B", method: "m", body: Bytes()) { code = $0.code }
        network.open(0)
        #expect(code == RpcCode.hostDown && network.attempts[0].connection.closeReason != nil && sent(0) == 0)
        #expect(channel.expire(now: clock.now) == clock.now + .milliseconds(100))
    }

    @Test("close fails everything and lets nothing in") func closing() {
        let channel = makeChannel()
        var codes: [Int32] = []
        channel.call(service: "a.B", method: "m", body: Bytes()) { codes.append($0.code) }
        channel.close()
        channel.call(service: "a.B", method: "m", body: Bytes()) { codes.append($0.code) }
        #expect(codes == [1009, 1009])
        #expect(channel.expire(now: clock.now) == nil)
    }

    @Test("Limits: unsent bytes, and the size of a frame") func limits() {
        let channel = makeChannel()
        var codes: [Int32] = []
        channel.call(service: "a.B", method: "m", body: Bytes(count: (64 << 20) + 1) { _ in }) { codes.append($0.code) }
        #expect(codes == [RpcCode.badRequest])
        channel.unsentBytesMax = 100
        channel.call(service: "a.B", method: "m", body: Bytes(count: 200) { _ in }) { codes.append($0.code) }
        channel.call(service: "a.B", method: "m", body: Bytes()) { codes.append($0.code) }
        #expect(codes == [RpcCode.badRequest, RpcCode.overcrowded])
    }

    @Test("A deadline queue gives deadlines in order, whatever the insertions") func deadlineQueue() {
        var random = SeededRandom(seed: 3)
        var queue = DeadlineQueue()
        var expected: [Int64] = []
        for id in 0..<500 {
            let deadline = random.number(in: 0..<100)
            queue.insert(Int64(id), deadline: Instant(nanoseconds: deadline))
            expected.append(deadline * 1000 + Int64(id))
        }
        queue.compact { $0 % 3 != 0 }
        expected = expected.filter { $0 % 1000 % 3 != 0 }.sorted()
        var given: [Int64] = []
        while let (deadline, id) = queue.first {
            given.append(deadline.nanoseconds * 1000 + id)
            queue.removeFirst()
        }
        #expect(given == expected)
    }
}

@Suite("ProtocolSniffer")
struct SnifferTests {
    private final class Sink: ConnectionHandler {
        var received = ""
        func opened(_ connection: any Connection) {}
        func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
            received += bytes.text
            return Consumption(consumed: bytes.count)
        }
        func closed(_ connection: any Connection, reason: String) { received += "|closed" }
        func drained(_ connection: any Connection) { received += "|drained" }
    }

    @Test("The first that says yes gets everything, from the first byte on") func choosing() {
        let (one, other) = (Sink(), Sink())
        let sniffer = ProtocolSniffer(choices: [
            (ProtocolSniffer.beginning(with: "PRPC"), { one }), (ProtocolSniffer.beginning(with: "PING"), { other }),
        ])
        let connection = NotedConnection()
        #expect(sniffer.received(Bytes("P"), on: connection).consumed == 0)
        #expect(sniffer.received(Bytes("PI"), on: connection).consumed == 0)
        #expect(sniffer.received(Bytes("PING 1"), on: connection).consumed == 6)
        _ = sniffer.received(Bytes("PRPC"), on: connection)
        sniffer.drained(connection)
        sniffer.closed(connection, reason: "x")
        #expect(one.received == "" && other.received == "PING 1PRPC|drained|closed")
        #expect(connection.closeReason == nil)
    }

    @Test("What nobody knows is closed") func unknown() {
        let sniffer = ProtocolSniffer(choices: [(ProtocolSniffer.beginning(with: "PRPC"), { Sink() })])
        let connection = NotedConnection()
        #expect(sniffer.received(Bytes("PRX"), on: connection).consumed == 3)
        #expect(connection.closeReason != nil)
    }
}

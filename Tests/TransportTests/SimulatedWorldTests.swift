import RaftCore
import Testing

@testable import Transport

/// A node that serves echoes and calls its neighbours.
private final class EchoNode {
    let lane: SimulatedLane
    let server: RpcServer
    var channels: [RpcChannel] = []
    var log: [String] = []

    init(_ world: SimulatedWorld, _ address: NodeAddress) throws {
        lane = world.addNode(at: address)
        server = RpcServer(address: address)
        server.register("test.Echo") { _, request in
            request.responder.reply(body: request.body)
            return true
        }
        try lane.listen(on: address) { [server] _ in server.makeHandler() }
        lane.setTurn { [unowned self] now in
            channels.compactMap { $0.expire(now: now) }.min()
        }
    }

    func channel(to address: NodeAddress) -> RpcChannel {
        let channel = RpcChannel(address: address, network: lane, clock: lane.clock)
        channels.append(channel)
        return channel
    }

    func call(_ channel: RpcChannel, _ text: String, within milliseconds: Int? = nil) {
        let deadline = milliseconds.map { lane.clock.now + .milliseconds($0) }
        channel.call(service: "test.Echo", method: "echo", body: Bytes(text), deadline: deadline) {
            [unowned self] result in
            log.append(result.reply.map { "\($0.body)" } ?? "\(text) \(result.code)")
        }
        lane.requestTurn()
    }
}

private func address(_ number: Int) -> NodeAddress { NodeAddress(ip: 10 << 24 | UInt32(number), port: 8100) }

@Suite("SimulatedWorld")
struct SimulatedWorldTests {
    /// A busy minute of three nodes with faults; everything that happened.
    private func history(seed: UInt64) throws -> (lines: [String], digest: UInt64) {
        let world = SimulatedWorld(seed: seed)
        var lines: [String] = []
        world.trace = { lines.append($0) }
        let nodes = try (1...3).map { try EchoNode(world, address($0)) }
        let channels = nodes.map { node in (1...3).map { node.channel(to: address($0)) } }
        for round in 0..<30 {
            for (from, node) in nodes.enumerated() where node.lane.isAlive {
                for to in 0..<3 { node.call(channels[from][to], "\(from)\(to)\(round)", within: 300) }
            }
            if round == 5 { world.cut(from: address(1), to: address(2)) }
            if round == 12 { world.healAll() }
            if round == 15 { world.breakConnections(between: address(2), and: address(3)) }
            if round == 20 { world.crash(address(3)) }
            world.run(for: .milliseconds(50))
        }
        return (lines + nodes.flatMap(\.log), world.digest)
    }

    @Test("A turn that is suspended goes on with the clock's reading from before, and ahead of what came meanwhile")
    func stall() {
        let world = SimulatedWorld(seed: 1)
        let lane = world.addNode(at: address(1))
        var history: [String] = []
        lane.setTurn { now in
            history.append("\((lane.clock.now - now).milliseconds) ms")
            return nil
        }
        world.run(for: .milliseconds(10))
        world.stall(address(1), for: .milliseconds(700))
        lane.post { history.append("before") }
        world.run(for: .milliseconds(10))
        lane.post { history.append("meanwhile") }
        world.run(for: .milliseconds(600))
        #expect(history == ["0 ms", "before"], "nothing of the process runs")
        world.run(for: .milliseconds(200))
        #expect(history == ["0 ms", "before", "700 ms", "0 ms", "meanwhile", "0 ms"])
    }

    @Test("A node that crashes in a suspended turn never goes on with it") func crashWhileStalled() {
        let world = SimulatedWorld(seed: 1)
        let lane = world.addNode(at: address(1))
        var turns = 0
        lane.setTurn { _ in
            turns += 1
            return nil
        }
        world.stall(address(1), for: .milliseconds(50))
        world.run(for: .milliseconds(10))
        world.crash(address(1))
        world.run(for: .milliseconds(100))
        #expect(turns == 0)
    }

    @Test("The same seed gives the same history, another seed another one") func determinism() throws {
        let (one, again, other) = (try history(seed: 42), try history(seed: 42), try history(seed: 43))
        #expect(one.lines.count > 1000)
        #expect(one.lines == again.lines && one.digest == again.digest)
        #expect(one.lines != other.lines && one.digest != other.digest)
        #expect(one.lines.contains { $0.hasSuffix(" 1008") } && one.lines.contains { $0.hasSuffix(" 1009") })
    }

    @Test("Calls are answered, however the stream was cut into pieces") func echo() throws {
        let world = SimulatedWorld(seed: 1)
        world.settings.splitOneOf = 1
        let (one, two) = (try EchoNode(world, address(1)), try EchoNode(world, address(2)))
        let channel = one.channel(to: address(2))
        for call in 0..<100 { one.call(channel, "\(call)") }
        #expect(world.runUntil(limit: .milliseconds(1000)) { one.log.count == 100 })
        #expect(one.log == (0..<100).map { "\($0)" })
        #expect(two.lane.isAlive)
    }

    @Test("A cut holds bytes back in its direction only; healing brings them") func cutting() throws {
        let world = SimulatedWorld(seed: 2)
        let (one, two) = (try EchoNode(world, address(1)), try EchoNode(world, address(2)))
        let channel = one.channel(to: address(2))
        one.call(channel, "a")
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log == ["a"] })
        world.cut(from: address(2), to: address(1))
        one.call(channel, "b")
        world.run(for: .milliseconds(1000))
        #expect(one.log == ["a"])
        let reverse = two.channel(to: address(1))
        two.call(reverse, "lost", within: 500)
        world.run(for: .milliseconds(600))
        #expect(two.log == ["lost 1008"])
        world.heal(from: address(2), to: address(1))
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log == ["a", "b"] })
    }

    @Test("The end of a node behind a cut is heard when the cut heals") func crashBehindCut() throws {
        let world = SimulatedWorld(seed: 9)
        let (one, two) = (try EchoNode(world, address(1)), try EchoNode(world, address(2)))
        let channel = one.channel(to: address(2))
        one.call(channel, "a")
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log == ["a"] })
        world.cut(from: address(2), to: address(1))
        one.call(channel, "b")
        world.run(for: .milliseconds(50))
        world.crash(address(2))
        world.run(for: .milliseconds(500))
        #expect(one.log == ["a"] && !two.lane.isAlive)
        world.healAll()
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log.count == 2 })
        #expect(one.log == ["a", "b"], "the answer left before the crash")
        #expect(world.runUntil(limit: .milliseconds(100)) { !channel.isConnected })
    }

    @Test("A crash breaks connections; the node comes back under its address") func crashing() throws {
        let world = SimulatedWorld(seed: 3)
        let one = try EchoNode(world, address(1))
        var two: EchoNode? = try EchoNode(world, address(2))
        let channel = one.channel(to: address(2))
        one.call(channel, "a")
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log == ["a"] })
        one.call(channel, "b")
        world.crash(address(2))
        #expect(two?.lane.isAlive == false)
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log.count == 2 })
        #expect(one.log.last == "b 1009")
        two = try EchoNode(world, address(2))
        #expect(world.runUntil(limit: .milliseconds(1000)) { channel.isConnected })
        one.call(channel, "c")
        #expect(world.runUntil(limit: .milliseconds(100)) { one.log.last == "c" })
    }

    @Test("Nobody listening refuses") func refusing() throws {
        let world = SimulatedWorld(seed: 4)
        let one = try EchoNode(world, address(1))
        one.call(one.channel(to: address(9)), "a")
        #expect(world.runUntil(limit: .milliseconds(10)) { one.log == ["a 112"] })
    }

    private final class Counter: @unchecked Sendable {
        var lines: [String] = []
    }

    @Test("Jobs run in order at later moments; a crash forgets what has not run and every completion") func workers() {
        let world = SimulatedWorld(seed: 5)
        let lane = world.addNode(at: address(1))
        var turns = 0
        lane.setTurn { _ in
            turns += 1
            return nil
        }
        world.run(for: .milliseconds(1))
        #expect(turns == 1)
        let worker = lane.makeWorker(name: "disk")
        let counter = Counter()
        for job in 0..<4 {
            worker.submit({ counter.lines.append("job \(job)") }, completion: { counter.lines.append("done \(job)") })
        }
        #expect(counter.lines.isEmpty)
        #expect(world.runUntil(limit: .milliseconds(100)) { counter.lines.contains("done 1") })
        #expect(turns >= 3, "a turn follows each completion")
        world.run(for: .milliseconds(100))
        #expect(counter.lines.filter { $0.hasPrefix("job") } == (0..<4).map { "job \($0)" })
        #expect(counter.lines.filter { $0.hasPrefix("done") } == (0..<4).map { "done \($0)" })

        worker.submit({ counter.lines.append("never") }, completion: { counter.lines.append("never") })
        world.crash(address(1))
        world.run(for: .milliseconds(100))
        #expect(!counter.lines.contains("never"))
    }

    @Test("An alarm comes at its deadline by the node's own clock", arguments: [0, 1000, -1000] as [Int64])
    func alarms(_ drift: Int64) {
        let world = SimulatedWorld(seed: 6)
        let lane = world.addNode(at: address(1), driftPartsPerMillion: drift)
        let deadline = lane.clock.now + .milliseconds(10_000)
        var seen: [Instant] = []
        lane.setTurn { now in
            seen.append(now)
            return now < deadline ? deadline : nil
        }
        world.run(for: .milliseconds(11_000))
        #expect(seen.count == 2)
        #expect(seen.last! >= deadline && seen.last! - deadline < Interval(nanoseconds: 10))
    }

    @Test("A lane that always wants another turn does not stop the time") func restlessLane() {
        let world = SimulatedWorld(seed: 7)
        let lane = world.addNode(at: address(1))
        var turns = 0
        lane.setTurn { now in
            turns += 1
            return now
        }
        world.run(for: .milliseconds(1))
        #expect(turns > 500 && turns <= 1001)
    }

    @Test("A paused reader holds the sender's bytes, who hears when they are gone") func backpressure() throws {
        final class Reader: ConnectionHandler {
            var received = 0
            var (drained, connection): (Int, (any Connection)?) = (0, nil)
            func opened(_ connection: any Connection) {
                for _ in 0..<10 { connection.send(Bytes(count: 1 << 20) { _ in }) }
            }
            func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
                received += bytes.count
                return Consumption(consumed: bytes.count)
            }
            func closed(_ connection: any Connection, reason: String) {}
            func drained(_ connection: any Connection) { drained += 1 }
        }
        let world = SimulatedWorld(seed: 8)
        let (one, two) = (world.addNode(at: address(1)), world.addNode(at: address(2)))
        let (sender, reader) = (Reader(), Reader())
        try two.listen(on: address(2)) { connection in
            connection.isReadingPaused = true
            reader.connection = connection
            return reader
        }
        let connection = one.connect(to: address(2), handler: sender)
        world.run(for: .milliseconds(100))
        #expect(reader.received == 0 && connection.unsentBytes == 10 << 20)
        reader.connection?.isReadingPaused = false
        world.run(for: .milliseconds(100))
        #expect(reader.received == 10 << 20 && connection.unsentBytes == 0 && sender.drained == 1)
    }
}

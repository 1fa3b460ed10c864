import RaftCore
import Testing

@testable import Transport

/// Calls what is on it when the test says so.
private final class HandDrivenLane: LaneDriver {
    let setClock = SetClock()
    var clock: any NodeClock { setClock }
    var isTurnRequested = false

    func setTurn(_ turn: @escaping (Instant) -> Instant?) {}
    func requestTurn() { isTurnRequested = true }
}

/// Writes down what it hears.
private final class Listener: ConnectionHandler {
    var events: [String] = []
    /// How much of what is there it takes.
    var take: (Bytes) -> Consumption = { Consumption(consumed: $0.count) }
    var owes = false

    var heard: [String] {
        defer { events = [] }
        return events
    }

    func opened(_ connection: any Connection) { events.append("opened") }
    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        events.append(bytes.text)
        return take(bytes)
    }
    func closed(_ connection: any Connection, reason: String) { events.append("closed: \(reason)") }
    func drained(_ connection: any Connection) { events.append("drained") }
    func inputEnded(_ connection: any Connection) { events.append("ended") }
    var owesAnswers: Bool { owes }
}

private let other = NodeAddress(ip: 10 << 24 | 3, port: 8100)

@Suite("Faults of the network on command") struct FaultyNetworkTests {
    private let below = NotedNetwork()
    private let lane = HandDrivenLane()
    private let network: FaultyNetwork
    private let listener = Listener()

    init() throws {
        network = FaultyNetwork(below, lane: lane) { service, method, body in
            service == "test.Node" && method == "hello" ? NodeAddress(body.text) : nil
        }
        let listener = listener
        try network.listen(on: nodeAddress) { _ in listener }
    }

    /// Turns until nothing asks for one; when the next one is due.
    @discardableResult
    private func turn(after milliseconds: Int = 0) -> Instant? {
        lane.setClock.now = lane.setClock.now + .milliseconds(milliseconds)
        var next: Instant?
        repeat {
            lane.isTurnRequested = false
            next = network.turn(now: lane.clock.now)
        } while lane.isTurnRequested
        return next
    }

    private func open() -> any Connection {
        let connection = network.connect(to: nodeAddress, handler: listener)
        below.open(0)
        #expect(listener.heard == ["opened"])
        return connection
    }

    private var sent: [String] { below.attempts[0].connection.sent.map(\.text) }

    @Test("Without faults everything passes at once") func passing() {
        let connection = open()
        network.set(LinkFaults(outgoing: .held, incoming: .held), of: other)
        connection.send(Bytes("a"))
        #expect(sent == ["a"])
        listener.take = { _ in Consumption(consumed: 1, needed: 9) }
        let consumption = below.receive(Bytes("bc"), 0)
        #expect(consumption.consumed == 1 && consumption.needed == 9 && listener.heard == ["bc"])
        connection.isReadingPaused = true
        #expect(below.attempts[0].connection.isReadingPaused)
        below.attempts[0].connection.unsentBytes = 7
        #expect(connection.unsentBytes == 7)
        below.attempts[0].handler.inputEnded(below.attempts[0].connection)
        below.close(0)
        #expect(listener.heard == ["ended", "closed: broken"])
        #expect(turn() == nil && network.waitingBytes == 0)
    }

    @Test("What is sent waits while that way is held, and what comes does not") func heldOutgoing() {
        let connection = open()
        network.set(LinkFaults(outgoing: .held), of: nodeAddress)
        for text in ["a", "b", "c"] { connection.send(Bytes(text)) }
        #expect(turn(after: 60_000) == nil)
        #expect(sent == [] && network.waitingBytes == 3 && connection.unsentBytes == 0)
        #expect(below.receive(Bytes("x"), 0).consumed == 1 && listener.heard == ["x"])
        #expect(network.faults.map(\.node) == [nodeAddress])
        network.set(LinkFaults(), of: nodeAddress)
        turn()
        #expect(sent == ["a", "b", "c"] && network.waitingBytes == 0 && network.faults.isEmpty)
        connection.send(Bytes("d"))
        #expect(sent.last == "d")
    }

    @Test("Beyond a window what waits counts as unsent, and its end is told") func window() {
        let connection = open()
        network.set(LinkFaults(outgoing: .held), of: nodeAddress)
        let piece = Bytes(count: FaultyNetwork.windowBytes) { $0.initializeMemory(as: UInt8.self, repeating: 7) }
        connection.send(piece)
        #expect(connection.unsentBytes == 0)
        while connection.unsentBytes <= WaterMark.high { connection.send(piece) }
        turn()
        #expect(listener.heard == [])
        network.set(LinkFaults(), of: nodeAddress)
        turn()
        #expect(connection.unsentBytes == 0 && listener.heard == ["drained"])
        #expect(below.attempts[0].connection.sent.count == 10)
        // what waited here may have filled what is below
        below.attempts[0].handler.drained(below.attempts[0].connection)
        #expect(listener.heard == ["drained"])
    }

    @Test("What comes waits while that way is held, and so does the word that the other side has closed")
    func heldIncoming() {
        let connection = open()
        network.set(LinkFaults(incoming: .held), of: nodeAddress)
        #expect(below.attempts[0].connection.isReadingPaused)
        // read in the same poll as the order
        #expect(below.receive(Bytes("ab"), 0).consumed == 2)
        connection.send(Bytes("x"))
        below.close(0)
        connection.send(Bytes("to nobody"))
        turn(after: 60_000)
        #expect(listener.heard == [] && sent == ["x"])
        network.set(LinkFaults(), of: nodeAddress)
        turn()
        #expect(listener.heard == ["ab", "closed: broken"])
        turn()
        #expect(listener.heard == [])
    }

    @Test("Reading goes on when the way is open, unless the owner has paused it") func pausing() {
        let connection = open()
        let lower = below.attempts[0].connection
        connection.isReadingPaused = true
        network.set(LinkFaults(incoming: .held), of: nodeAddress)
        network.set(LinkFaults(), of: nodeAddress)
        #expect(lower.isReadingPaused)
        connection.isReadingPaused = false
        #expect(!lower.isReadingPaused)
    }

    @Test("Delays keep the order, and a rest is presented with what follows") func delays() throws {
        let connection = open()
        network.set(
            LinkFaults(outgoing: .delayed(.milliseconds(100)), incoming: .delayed(.milliseconds(50))), of: nodeAddress)
        let start = lane.clock.now
        connection.send(Bytes("a"))
        #expect(turn() == start + .milliseconds(100))
        // the listener wants lines of four
        listener.take = { $0.count < 4 ? Consumption(consumed: 0, needed: 4) : Consumption(consumed: 4) }
        #expect(below.receive(Bytes("12"), 0).consumed == 2)
        #expect(turn() == start + .milliseconds(50))
        turn(after: 40)
        #expect(below.receive(Bytes("3"), 0).consumed == 1)
        #expect(below.receive(Bytes("45"), 0).consumed == 2)
        connection.send(Bytes("b"))
        #expect(listener.heard == [] && turn(after: 9) == start + .milliseconds(50))
        #expect(turn(after: 1) == start + .milliseconds(90))
        #expect(listener.heard == ["12"] && sent == [])
        #expect(turn(after: 40) == start + .milliseconds(100))
        #expect(listener.heard == ["12345"])
        #expect(turn(after: 10) == start + .milliseconds(140) && sent == ["a"])
        network.set(LinkFaults(), of: nodeAddress)
        turn()
        #expect(sent == ["a", "b"])
        // what is left of it comes first
        #expect(below.receive(Bytes("678"), 0).consumed == 3)
        turn()
        #expect(listener.heard == ["5678"])
        #expect(below.receive(Bytes("9"), 0).consumed == 0 && listener.heard == ["9"])
    }

    @Test("A delay of the other side's last byte keeps the connection for as long") func delayedEnd() {
        _ = open()
        let (lower, handler) = below.attempts[0]
        network.set(LinkFaults(incoming: .delayed(.milliseconds(50))), of: nodeAddress)
        _ = below.receive(Bytes("a"), 0)
        handler.inputEnded(lower)
        #expect(handler.owesAnswers)
        turn(after: 49)
        #expect(listener.heard == [] && lower.closeReason == nil)
        turn(after: 1)
        #expect(listener.heard == ["a", "ended"] && lower.closeReason != nil)
    }

    @Test("A connect hangs while either way is held", arguments: [true, false]) func hangingConnect(outgoing: Bool) {
        network.set(outgoing ? LinkFaults(outgoing: .held) : LinkFaults(incoming: .held), of: nodeAddress)
        let given = network.connect(to: nodeAddress, handler: listener)
        given.send(Bytes("early"))
        turn(after: 3000)
        #expect(below.attempts.isEmpty && listener.heard == [] && given.unsentBytes == 5)
        given.close(reason: "patience")
        #expect(listener.heard == [])
        turn()
        #expect(listener.heard == ["closed: patience"])

        let kept = network.connect(to: nodeAddress, handler: listener)
        kept.send(Bytes("late"))
        turn()
        network.set(LinkFaults(), of: nodeAddress)
        turn()
        #expect(below.attempts.count == 1 && sent == ["late"])
        below.open(0)
        #expect(listener.heard == ["opened"])
    }

    @Test(
        "Who connects is a node by its first request, and is not listened to while a way is held",
        arguments: [true, false])
    func accepting(outgoing: Bool) {
        let codec = FrameCodec()
        network.set(outgoing ? LinkFaults(outgoing: .held) : LinkFaults(incoming: .held), of: other)
        let hello = codec.request("test.Node", "hello", body: Bytes(other.description))
        for _ in 0..<3 { below.acceptOne() }
        // a piece of it tells nothing
        #expect(below.receive(hello.slice(from: 0, count: 20), 0).consumed == 0)
        #expect(below.receive(hello, 0).consumed == 0)
        #expect(below.attempts[0].connection.isReadingPaused && listener.heard == [])
        // another node, and somebody who says no hello
        for (place, text) in [(1, codec.request("test.Node", "hello", body: Bytes("10.0.0.9:1"))), (2, Bytes("GET /"))]
        {
            #expect(below.receive(text, place).consumed == text.count && listener.heard == [text.text])
        }
        network.set(LinkFaults(), of: other)
        turn()
        #expect(!below.attempts[0].connection.isReadingPaused)
        #expect(below.receive(hello, 0).consumed == hello.count && listener.heard == [hello.text])
        // from then on it is known
        network.set(LinkFaults(incoming: .held), of: other)
        #expect(below.attempts[0].connection.isReadingPaused && !below.attempts[1].connection.isReadingPaused)
    }

    @Test("One that is closed meanwhile is gone for its owner only, until the way is open") func lingering() {
        let connection = open()
        let lower = below.attempts[0].connection
        network.set(LinkFaults(outgoing: .held), of: nodeAddress)
        connection.send(Bytes("last words"))
        connection.close(reason: "enough")
        connection.send(Bytes("too late"))
        turn()
        #expect(listener.heard == ["closed: enough"] && lower.closeReason == nil)
        #expect(below.receive(Bytes("unheard"), 0).consumed == 7 && listener.heard == [])
        network.set(LinkFaults(), of: nodeAddress)
        turn()
        #expect(sent == ["last words"] && lower.closeReason == "enough")
        below.close(0)
        turn()
        #expect(listener.heard == [])
    }

    @Test("One that is closed behind delayed bytes closes when they have left", arguments: [true, false])
    func closingBehindDelays(isLifted: Bool) {
        let connection = open()
        let lower = below.attempts[0].connection
        network.set(LinkFaults(outgoing: .delayed(.milliseconds(100))), of: nodeAddress)
        connection.send(Bytes("a"))
        connection.closeAfterSending(reason: "done")
        if isLifted { network.set(LinkFaults(), of: nodeAddress) }
        turn(after: isLifted ? 0 : 99)
        #expect((lower.closeReason == nil) == !isLifted)
        turn(after: 1)
        #expect(sent == ["a"] && lower.closeReason == "done")
        below.close(0)
        turn()
        #expect(listener.heard == ["closed: done"])
    }
}

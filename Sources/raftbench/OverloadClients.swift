import ClusterProcesses
import Glibc
import RaftCore
import ShardMap
import Synchronization
import Transport

/// Many connections that speak the Redis protocol, each with a pipeline of commands under way: more than the nodes can
/// serve. One whose pipeline is answered sends the next, after a pause if a command of it was refused as busy.
///
/// Connections are opened a window at a time, spread evenly over the nodes; the pipelines begin when all are there, or
/// have been turned away. On one thread.
final class OverloadClients: @unchecked Sendable {
    /// What came of the commands.
    struct Result: Sendable {
        /// Connections that could be used, and those that a node closed.
        var opened = 0
        var lost = 0
        /// From the pipelines' beginning to their end.
        var seconds = 0.0
        /// From the sending of a pipeline to the answers to its commands, of those that were executed, or refused as busy.
        var answered = Histogram()
        var busy = Histogram()
        /// Other errors, by their first word.
        var errors: [String: Int] = [:]
        /// Commands that had no answer at the end.
        var unanswered = 0
    }

    private enum Phase { case opening, running, over }

    fileprivate let loop: EventLoop
    private let settings: OverloadBench.Settings
    private let nodes: [NodeAddress]
    private let network: UVNetwork
    /// Whole pipelines, of which each connection sends one or another.
    private let pipelines: [Bytes]
    private var random = SeededRandom(seed: 1)
    private var connections: [OverloadConnection] = []
    private var phase = Phase.opening
    private var begun = 0
    private var start = Instant.distantPast
    private var result = Result()
    private var resting: [(due: Instant, connection: OverloadConnection)] = []
    private var restingHead = 0
    private let openEnd: Instant
    private let opened = AsyncStream.makeStream(of: Void.self)

    private static let openingAtOnce = 256
    private static let openPatience = Interval.milliseconds(60_000)
    private static let pipelineCount = 4096

    init(_ settings: OverloadBench.Settings, nodes: [NodeAddress], shards: [Shard]) throws(TransportError) {
        self.settings = settings
        self.nodes = nodes
        loop = try EventLoop()
        network = loop.makeNetwork()
        network.connectionsMax = settings.connections
        openEnd = loop.clock.now + OverloadClients.openPatience
        let keys = KeySet(settings.keys, in: shards)
        let values = NoiseValues(bytes: settings.valueBytes)
        var random = SeededRandom(seed: 2)
        pipelines = (0..<OverloadClients.pipelineCount).map { number in
            var bytes: [UInt8] = []
            for command in 0..<settings.pipeline {
                let key = keys[Int(random.next() % UInt64(keys.count))]
                let isRead = Double(random.next() % (1 << 20)) < settings.readRatio * Double(1 << 20)
                bytes += isRead ? redis(Bytes("GET"), key) : redis(Bytes("SET"), key, values[number + command])
            }
            return Bytes(bytes)
        }
    }

    /// Blocks until all is over.
    func run() -> Result {
        loop.setTurn { [unowned self] now in turn(now) }
        loop.requestTurn()
        loop.run()
        opened.continuation.finish()
        return result
    }

    /// Returns when every connection is there, or turned away.
    func waitUntilOpen() async { for await _ in opened.stream {} }

    /// Begins to send.
    func begin() {
        loop.post { [self] in
            phase = .running
            start = loop.clock.now
            for connection in connections { send(on: connection) }
            loop.requestTurn()
        }
    }

    func stop() { loop.post { [self] in finish() } }

    private func turn(_ now: Instant) -> Instant? {
        switch phase {
        case .opening: open(now)
        case .running: resume(now)
        case .over: return nil
        }
        return now + .milliseconds(20)
    }

    private func open(_ now: Instant) {
        while connections.count < settings.connections, connections.count - begun < OverloadClients.openingAtOnce {
            let connection = OverloadConnection(self)
            connections.append(connection)
            _ = network.connect(to: nodes[connections.count % nodes.count], handler: connection)
        }
        if begun == settings.connections || now >= openEnd { opened.continuation.finish() }
    }

    private func resume(_ now: Instant) {
        while restingHead < resting.count, resting[restingHead].due <= now {
            send(on: resting[restingHead].connection)
            restingHead += 1
        }
        if restingHead > 4096 {
            resting.removeFirst(restingHead)
            restingHead = 0
        }
        if now >= start + Interval(seconds: settings.seconds) { finish() }
    }

    private func finish() {
        guard phase != .over else { return }
        if phase == .running { result.seconds = Double((loop.clock.now - start).nanoseconds) / 1e9 }
        phase = .over
        result.unanswered = connections.reduce(0) { $0 + $1.awaited }
        loop.stop()
    }

    // MARK: what connections tell

    fileprivate func isOpen() {
        begun += 1
        result.opened += 1
        loop.requestTurn()
    }

    fileprivate func isClosed(_ connection: OverloadConnection, wasOpen: Bool) {
        guard phase != .over else { return }
        if !wasOpen { begun += 1 }
        if wasOpen { result.opened -= 1 }
        result.lost += 1
        loop.requestTurn()
    }

    fileprivate func took(_ reply: OverloadReply, after sentAt: Instant) {
        guard phase == .running else { return }
        let wait = (loop.clock.now - sentAt).nanoseconds
        switch reply {
        case .answer: result.answered.add(wait)
        case .error("BUSY"): result.busy.add(wait)
        case .error(let word): result.errors[word, default: 0] += 1
        }
    }

    fileprivate func isAnswered(_ connection: OverloadConnection, wasRefused: Bool) {
        guard phase == .running else { return }
        guard wasRefused else { return send(on: connection) }
        resting.append((loop.clock.now + .milliseconds(settings.pauseMilliseconds), connection))
    }

    private func send(on connection: OverloadConnection) {
        let pipeline = pipelines[Int(random.next() % UInt64(pipelines.count))]
        connection.send(pipeline, commands: settings.pipeline, now: loop.clock.now)
    }
}

/// What a server says to one command.
enum OverloadReply: Equatable {
    case answer
    /// An error's first word.
    case error(String)

    /// The reply that begins at `start`; moves that behind it. Nil if not all of it is there. Only the kinds that answer
    /// GET and SET are told apart.
    static func next(_ bytes: Bytes, _ start: inout Int) -> OverloadReply? {
        guard let end = lineEnd(bytes, start) else { return nil }
        let kind = bytes[start]
        if kind == UInt8(ascii: "-") {
            let line = bytes.slice(from: start + 1, count: end - start - 1).array
            start = end + 2
            return .error(String(decoding: line.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self))
        }
        guard kind == UInt8(ascii: "$"), bytes[start + 1] != UInt8(ascii: "-") else {
            start = end + 2
            return .answer
        }
        var count = 0
        for position in start + 1..<end { count = count * 10 + Int(bytes[position] & 15) }
        guard bytes.count >= end + 2 + count + 2 else { return nil }
        start = end + 2 + count + 2
        return .answer
    }

    private static func lineEnd(_ bytes: Bytes, _ start: Int) -> Int? {
        var position = start
        while position + 1 < bytes.count {
            if bytes[position] == 13, bytes[position + 1] == 10 { return position }
            position += 1
        }
        return nil
    }
}

/// One of them.
private final class OverloadConnection: ConnectionHandler {
    private unowned let clients: OverloadClients
    private var connection: (any Connection)?
    private var sentAt = Instant.distantPast
    /// Commands without an answer.
    private(set) var awaited = 0
    private var wasRefused = false

    init(_ clients: OverloadClients) { self.clients = clients }

    func opened(_ connection: any Connection) {
        self.connection = connection
        clients.isOpen()
    }

    func send(_ pipeline: Bytes, commands: Int, now: Instant) {
        guard let connection else { return }
        (sentAt, awaited, wasRefused) = (now, commands, false)
        connection.send(pipeline)
    }

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        var position = 0
        while awaited > 0, let reply = OverloadReply.next(bytes, &position) {
            awaited -= 1
            if reply != .answer { wasRefused = true }
            clients.took(reply, after: sentAt)
            if awaited == 0 { clients.isAnswered(self, wasRefused: wasRefused) }
        }
        return Consumption(consumed: position)
    }

    func closed(_ connection: any Connection, reason: String) {
        let wasOpen = self.connection != nil
        self.connection = nil
        awaited = 0
        clients.isClosed(self, wasOpen: wasOpen)
    }

    func drained(_ connection: any Connection) {}
}

/// A command in the protocol.
private func redis(_ words: Bytes...) -> [UInt8] {
    var bytes = Array("*\(words.count)\r\n".utf8)
    for word in words {
        bytes += Array("$\(word.count)\r\n".utf8)
        bytes += word.array
        bytes += [13, 10]
    }
    return bytes
}

import RaftCore
import ShardClient
import ShardMap
import Transport

/// An event loop with many clients of a cluster on it, each with a router and sockets of its own: what a program that
/// uses the client library costs, without tasks and without a thread for each.
///
/// Belongs to the thread that calls ``run()``; only ``post(_:)`` may be called from any. What is made before the run
/// becomes that thread's.
final class RouterLoop: @unchecked Sendable {
    private struct Connection {
        let router: Router
        let transport: CountingTransport
        /// Whether it is among those that have a turn soon.
        var isDirty = false
    }

    /// Called once in each turn, before the routers'.
    var onTurn: (Instant) -> Void = { _ in }
    let clock: any NodeClock

    private let loop: EventLoop
    private var connections: [Connection] = []
    private var dirty: [Int] = []
    private var nextTick = Instant.distantPast

    /// What is due by the clock is looked at so often: with a thousand routers no turn can ask all of them.
    private static let tick = Interval.milliseconds(5)

    /// A loop with `count` clients that learn the map from `nodes`.
    init(_ nodes: [NodeAddress], count: Int, settings: Router.Settings) throws(TransportError) {
        loop = try EventLoop()
        clock = loop.clock
        for number in 0..<count {
            let transport = CountingTransport(RpcTransport(network: loop.makeNetwork(), clock: loop.clock))
            let router = Router(
                seeds: nodes, transport: transport, clock: loop.clock, settings: settings,
                seed: UInt64.random(in: .min ... .max))
            router.requestTurn = { [unowned self] in touch(number) }
            connections.append(Connection(router: router, transport: transport))
        }
        loop.setTurn { [unowned self] now in turn(now) }
    }

    /// Runs until ``stop()``.
    func run() {
        loop.run()
        for connection in connections {
            connection.router.close()
            connection.transport.rpc.close()
        }
    }

    func stop() { loop.stop() }

    /// Runs `work` on the loop. Any thread.
    func post(_ work: @escaping @Sendable () -> Void) { loop.post(work) }

    /// Requests that the clients have sent so far.
    var requests: Int { connections.reduce(0) { $0 + $1.transport.requests } }

    /// Executes one operation through the client of that number; the completion may run before this returns.
    func execute(
        _ operation: KeyOperation, through connection: Int, deadline: Instant, completion: @escaping (KeyResult) -> Void
    ) {
        connections[connection].router.execute([operation], deadline: deadline) { completion($0[0]) }
    }

    private func touch(_ number: Int) {
        guard !connections[number].isDirty else { return }
        connections[number].isDirty = true
        dirty.append(number)
        loop.requestTurn()
    }

    private func turn(_ now: Instant) -> Instant? {
        onTurn(now)
        if now >= nextTick {
            nextTick = now + RouterLoop.tick
            for number in connections.indices {
                touch(number)
                _ = connections[number].transport.rpc.turn(now: now)
            }
        }
        let touched = dirty
        dirty.removeAll(keepingCapacity: true)
        for number in touched {
            connections[number].isDirty = false
            if let next = connections[number].router.turn(now: now), next <= now { touch(number) }
        }
        return nextTick
    }
}

/// Counts what a router sends.
private final class CountingTransport: RouterTransport {
    let rpc: RpcTransport
    private(set) var requests = 0

    init(_ rpc: RpcTransport) { self.rpc = rpc }

    func execute(
        _ request: ExecuteRequest, command: Bytes?, at node: NodeAddress, deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void
    ) {
        requests += 1
        rpc.execute(request, command: command, at: node, deadline: deadline, completion: completion)
    }

    func fetchMap(
        at node: NodeAddress, newerThan version: UInt64, patience: Interval, deadline: Instant,
        completion: @escaping (MapAnswer) -> Void
    ) {
        rpc.fetchMap(at: node, newerThan: version, patience: patience, deadline: deadline, completion: completion)
    }
}

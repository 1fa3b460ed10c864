import ClusterProcesses
import Glibc
import RaftCore
import ShardClient
import ShardMap

/// What a closed loop of clients does to a cluster.
struct Load: Sendable, Equatable {
    /// Clients, each with one operation under way.
    var clients = 64
    /// Clients of the library that they share evenly, each with one socket to each node.
    var connections = 8
    var valueBytes = 128
    /// Share of linearizable gets; the rest are puts.
    var readRatio = 0.0
    /// Most operations that the library joins in one request.
    var operationsPerRequest = 256
    /// Different keys, spread evenly over the shards; all of them are there from the start.
    var keys = 100_000
    /// Length of what is measured, and of the same before it.
    var seconds = 5.0
    var warmupSeconds = 2.0
}

/// What came of it.
struct LoadResult: Sendable {
    var load: Load
    var seconds = 0.0
    /// Operations that succeeded, by their times.
    var latencies = Histogram()
    var failed = 0
    /// Requests that left in that time: the library joins operations of a connection that are for one shard.
    var requests = 0
    /// Seconds of processors, by server process.
    var serverSeconds: [Double] = []
    /// Of the load generator.
    var clientSeconds = 0.0

    var operationsPerSecond: Double { Double(latencies.count) / max(seconds, 1e-9) }
    var operationsPerRequest: Double { Double(latencies.count) / Double(max(requests, 1)) }
    /// By seconds that all server processes had together.
    var operationsPerProcessorSecond: Double { Double(latencies.count) / max(serverSeconds.reduce(0, +), 1e-9) }
}

/// Drives a cluster with a ``Load``, on one thread.
///
/// Every client begins its next operation when the last one is answered. First every connection writes to every shard,
/// which opens its sessions, and every key is written; then the load runs, and only what ends in the measured time
/// counts.
final class LoadGenerator {
    private enum Phase {
        case filling
        case warming(until: Instant)
        case measuring(until: Instant)
        case over
    }

    private struct Usage {
        var at: Instant
        var requests: Int
        var servers: [Double]
        var own: Double
    }

    private let load: Load
    private let loop: RouterLoop
    private let keys: KeySet
    private let values: NoiseValues
    private let processes: [pid_t]
    private var random = SeededRandom(seed: 1)
    private var phase = Phase.filling
    private var started: [Instant]
    private var result: LoadResult
    private var begin: Usage?
    private var failure: (any Error)?
    /// Clients whose last operation failed: they go on in the next turn, not at once and for ever.
    private var resting: [Int] = []

    /// Keys that each connection still has to write, last one first.
    private var fills: [[Int]]
    private var fillsUnderWay = 0
    private let fillEnd: Instant

    private static let fillsPerConnection = 64
    private static let fillPatience = Interval.milliseconds(120_000)
    private static let patience = Interval.milliseconds(10_000)
    /// The smallest share that a random number of 64 bits distinguishes is far below this.
    private static let shareUnits = 1 << 20

    /// A load on the cluster of `nodes` with these `shards`, whose server `processes` are watched.
    init(_ load: Load, nodes: [NodeAddress], shards: [Shard], processes: [pid_t]) throws {
        self.load = load
        self.processes = processes
        var settings = Router.Settings()
        settings.maxOperationsPerRequest = load.operationsPerRequest
        // few shards must not be what holds many clients back
        settings.maxRequestsInFlightPerShard = max(16, load.clients / load.connections + 1)
        loop = try RouterLoop(nodes, count: load.connections, settings: settings)
        keys = KeySet(load.keys, in: shards)
        values = NoiseValues(bytes: load.valueBytes)
        started = [Instant](repeating: .distantPast, count: load.clients)
        result = LoadResult(load: load)
        let (keyCount, shardCount, connections) = (keys.count, shards.count, load.connections)
        fills = (0..<connections).map { connection in
            stride(from: connection, to: keyCount, by: connections).filter { $0 >= shardCount }
                + Array((0..<shardCount).reversed())
        }
        fillEnd = loop.clock.now + LoadGenerator.fillPatience
    }

    /// Blocks until everything is measured.
    func run() throws -> LoadResult {
        for connection in 0..<load.connections {
            for _ in 0..<LoadGenerator.fillsPerConnection { fill(connection) }
        }
        loop.onTurn = { [unowned self] now in turn(now) }
        loop.run()
        if let failure { throw failure }
        return result
    }

    // MARK: filling

    private func fill(_ connection: Int) {
        guard failure == nil, let key = fills[connection].popLast() else { return }
        fillsUnderWay += 1
        fill(key, through: connection)
    }

    private func fill(_ key: Int, through connection: Int) {
        let operation = KeyOperation(.set, key: keys[key], value: values[key])
        loop.execute(operation, through: connection, deadline: fillEnd) { [unowned self] answer in
            if let error = answer.error {
                failure = failure ?? Failed("the keys are not written: \(error.sentence) \(answer.message ?? "")")
            }
            fillsUnderWay -= 1
            fill(connection)
        }
    }

    // MARK: running

    private func turn(_ now: Instant) {
        if failure != nil { return end() }
        switch phase {
        case .filling:
            guard fillsUnderWay == 0 else { return }
            phase = .warming(until: now + Interval(seconds: load.warmupSeconds))
            for client in 0..<load.clients { issue(client, at: now) }
        case .warming(let end):
            guard now >= end else { break }
            begin = usage()
            phase = .measuring(until: (begin?.at ?? now) + Interval(seconds: load.seconds))
        case .measuring(let end):
            guard now >= end else { break }
            finish()
        case .over: return
        }
        guard !resting.isEmpty else { return }
        let rested = resting
        resting.removeAll(keepingCapacity: true)
        for client in rested { issue(client, at: now) }
    }

    private func issue(_ client: Int, at now: Instant) {
        started[client] = now
        let key = keys[Int(random.next() % UInt64(keys.count))]
        let isRead =
            load.readRatio > 0
            && Double(random.next() % UInt64(LoadGenerator.shareUnits)) < load.readRatio
                * Double(LoadGenerator.shareUnits)
        let operation =
            isRead
            ? KeyOperation(.get, key: key)
            : KeyOperation(.set, key: key, value: values[Int(truncatingIfNeeded: random.next() & 0xffff)])
        loop.execute(operation, through: client % load.connections, deadline: now + LoadGenerator.patience) {
            [unowned self] answer in answered(client, answer.error)
        }
    }

    private func answered(_ client: Int, _ error: NamedError?) {
        var isMeasured = false
        switch phase {
        case .measuring: isMeasured = true
        case .filling, .warming: break
        case .over: return
        }
        guard error == nil else {
            if isMeasured { result.failed += 1 }
            return resting.append(client)
        }
        let now = loop.clock.now
        if isMeasured { result.latencies.add((now - started[client]).nanoseconds) }
        issue(client, at: now)
    }

    private func finish() {
        if let begin, let now = usage() {
            result.seconds = Double((now.at - begin.at).nanoseconds) / 1e9
            result.serverSeconds = zip(now.servers, begin.servers).map { $0 - $1 }
            result.clientSeconds = now.own - begin.own
            result.requests = now.requests - begin.requests
        }
        end()
    }

    private func end() {
        phase = .over
        loop.stop()
    }

    private func usage() -> Usage? {
        do {
            return Usage(
                at: loop.clock.now, requests: loop.requests,
                servers: try processes.map(ProcessFigures.processorSeconds),
                own: ProcessFigures.ownProcessorSeconds)
        } catch {
            failure = error
            return nil
        }
    }
}

extension Interval {
    /// So many seconds.
    init(seconds: Double) { self.init(nanoseconds: Int64(seconds * 1e9)) }
}

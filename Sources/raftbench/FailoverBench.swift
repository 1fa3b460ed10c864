import ClusterProcesses
import Glibc
import RaftCore
import ShardClient
import ShardMap

/// Takes a node away, and watches the groups that it led.
enum FailoverBench {
    /// What happens to the node.
    enum Kind: String, CaseIterable, Sendable {
        /// Its process ends, and its kernel says so to everybody who is connected.
        case kill
        /// Its process stands still, and nobody is told.
        case stop
        /// Nothing that it sends reaches the other nodes. Clients still reach it, and hear it.
        case blackholeOut = "blackhole-out"
        /// Nothing that the other nodes send reaches it. Clients still reach it, and hear it.
        case blackholeIn = "blackhole-in"

        /// What is done to a node.
        var deed: String {
            switch self {
            case .kill: "SIGKILL to"
            case .stop: "SIGSTOP to"
            case .blackholeOut: "what is sent is held of"
            case .blackholeIn: "what is received is held of"
            }
        }

        fileprivate var isBlackhole: Bool { self == .blackholeOut || self == .blackholeIn }

        fileprivate func befall(_ node: Int, of cluster: ProcessCluster) async throws {
            switch self {
            case .kill, .stop:
                guard let pid = cluster.pid(of: node) else { throw Failed("node \(node) is gone") }
                Glibc.kill(pid, self == .kill ? SIGKILL : SIGSTOP)
            case .blackholeOut: try await cluster.block(.sending, of: node)
            case .blackholeIn: try await cluster.block(.receiving, of: node)
            }
        }
    }

    struct Settings: Sendable {
        var groups: Int
        var kind: Kind
        var engine: BenchCluster.Engine
        var promiseMilliseconds: Int
        var retryMilliseconds: Int
        var attemptMilliseconds: Int
        var patienceSeconds: Double
    }

    /// So long after the last group is formed nothing more is going on.
    private static let pause = Duration.seconds(3)

    static func run(_ settings: Settings) async throws -> FailoverResult {
        let cluster = try await BenchCluster.start(
            groups: settings.groups, engine: settings.engine,
            flags: ["--liveness-promise-ms", "\(settings.promiseMilliseconds)"]
                + (settings.kind.isBlackhole ? ["--test-faults"] : []))
        try await Task.sleep(for: pause)
        let writer = try FailoverWriter(cluster.processes.addresses, cluster.shards, settings)
        async let written = onOwnThread { try writer.run() }
        do {
            try await writer.waitUntilOpen()
            let leaders = await cluster.processes.probe.leaders()
            let victim = try choose(leaders, cluster)
            let address = cluster.processes.addresses[victim]
            let affected = Set(leaders.filter { $0.value == address }.map(\.key))

            let beginning = (wall: WallClock.now, lane: writer.now)
            // first, or what the victim still does as a leader would count as done without it
            try await settings.kind.befall(victim, of: cluster.processes)
            writer.begin(affected, since: beginning.lane)
            var result = FailoverResult(
                groups: settings.groups, kind: settings.kind, promiseMilliseconds: settings.promiseMilliseconds)
            result.formationSeconds = cluster.formationSeconds
            result.affected = affected.subtracting([ClusterMap.controllerGroup]).count
            result.written = try await written
            var elections = Elections(of: affected.subtracting([ClusterMap.controllerGroup]), after: beginning.wall)
            for node in cluster.processes.addresses.indices where node != victim {
                elections.add(try cluster.processes.log(of: node))
            }
            result.led = elections.milliseconds
            return result
        } catch {
            writer.stop()
            throw error
        }
    }

    /// The node that leads closest to its share of the groups.
    private static func choose(_ leaders: [String: NodeAddress], _ cluster: BenchCluster) throws -> Int {
        let nodes = cluster.processes.addresses
        let counts = nodes.map { node in leaders.count { $0.value == node } }
        let share = leaders.count / nodes.count
        let leading = nodes.indices.filter { counts[$0] > 0 }
        guard let victim = leading.min(by: { abs(counts[$0] - share) < abs(counts[$1] - share) }) else {
            throw Failed("no node leads anything")
        }
        return victim
    }
}

/// Milliseconds since 1970, as nodes stamp what they print.
enum WallClock {
    static var now: Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
    }
}

/// When groups got another leader, from what nodes print. The nodes must share a clock with this process.
struct Elections {
    private var first: [String: Int64] = [:]
    private let groups: Set<String>
    private let start: Int64
    private static let dayMilliseconds: Int64 = 24 * 3600 * 1000

    /// Looks for leaders of `groups` that come after `start`, in milliseconds since 1970.
    init(of groups: Set<String>, after start: Int64) {
        self.groups = groups
        self.start = start
    }

    /// Adds what a node has printed.
    mutating func add(_ log: String) {
        for line in log.split(separator: "\n") where line.contains(" leads group=") {
            let words = line.split(separator: " ")
            guard let group = words.first(where: { $0.hasPrefix("group=") })?.dropFirst(6),
                groups.contains(String(group)), let stamp = words.first.flatMap(Freezes.milliseconds(ofDayIn:))
            else { continue }
            let sinceMidnight = start % Elections.dayMilliseconds
            // what was printed long before, or shortly after midnight
            var after = Int64(stamp) - sinceMidnight
            if after < -Elections.dayMilliseconds / 2 { after += Elections.dayMilliseconds }
            guard after >= 0 else { continue }
            first[String(group)] = min(first[String(group)] ?? .max, after)
        }
    }

    /// From the start, of each group that got one.
    var milliseconds: [Double] { first.values.map(Double.init) }
}

/// Writes once to every group, so that sessions are open; then, from the fault on, to those that have lost their leader,
/// until each has answered.
private final class FailoverWriter: @unchecked Sendable {
    private let loop: RouterLoop
    private let keys: KeySet
    private let groups: [String]
    private let settings: FailoverBench.Settings
    private var unopened: Int
    private var open: AsyncStream<Void>.Continuation
    private let opened: AsyncStream<Void>
    private var failure: Failed?
    private var unwritten = 0
    private var written: [Double] = []

    private static let connections = 16
    private static let openPatience = Interval.milliseconds(120_000)

    init(_ nodes: [NodeAddress], _ shards: [Shard], _ settings: FailoverBench.Settings) throws {
        self.settings = settings
        var router = Router.Settings()
        router.retryDelay = .milliseconds(settings.retryMilliseconds)
        router.maxRetryDelay = router.retryDelay
        router.attemptTimeout = .milliseconds(settings.attemptMilliseconds)
        loop = try RouterLoop(nodes, count: FailoverWriter.connections, settings: router)
        keys = KeySet(shards.count, in: shards)
        groups = shards.map(\.group)
        unopened = shards.count
        (opened, open) = AsyncStream.makeStream()
    }

    /// Of the clock that ``begin(_:since:)`` counts from.
    var now: Instant { loop.clock.now }

    /// Blocks until every group concerned has answered, or the patience ends; milliseconds since the fault began.
    func run() throws -> [Double] {
        let deadline = loop.clock.now + FailoverWriter.openPatience
        for position in groups.indices {
            write(position, until: deadline) { [unowned self] error in
                if let error { failure = failure ?? Failed("\(groups[position]) is not written to: \(error.sentence)") }
                unopened -= 1
                if unopened == 0 { open.finish() }
            }
        }
        loop.run()
        if let failure { throw failure }
        return written
    }

    /// Returns when every group has answered once.
    func waitUntilOpen() async throws {
        for await _ in opened {}
        if let failure { throw failure }
    }

    /// Writes to `affected`; how long that takes is counted from `start`.
    func begin(_ affected: Set<String>, since start: Instant) {
        loop.post { [self] in
            let concerned = groups.indices.filter { affected.contains(groups[$0]) }
            unwritten = concerned.count
            if unwritten == 0 { loop.stop() }
            let deadline = start + Interval(seconds: settings.patienceSeconds)
            for position in concerned {
                write(position, until: deadline) { [unowned self] error in
                    if error == nil { written.append(Double((loop.clock.now - start).nanoseconds) / 1e6) }
                    unwritten -= 1
                    if unwritten == 0 { loop.stop() }
                }
            }
        }
    }

    func stop() { loop.post { [self] in loop.stop() } }

    private func write(_ position: Int, until deadline: Instant, _ done: @escaping (NamedError?) -> Void) {
        let operation = KeyOperation(.set, key: keys[position], value: Bytes("\(position)"))
        let connection = position % FailoverWriter.connections
        loop.execute(operation, through: connection, deadline: deadline) { done($0.error) }
    }
}

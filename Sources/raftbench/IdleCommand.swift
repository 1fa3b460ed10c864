import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore

let idleCommand = Command(
    name: "idle",
    summary: "what groups cost that do nothing: processors, memory, and the start of a node that has them",
    options: [
        CommandOption(name: "groups", value: "N", help: "groups, each with three replicas (10240)"),
        CommandOption(name: "seconds", value: "S", help: "how long processors are watched (10)"),
        CommandOption(name: "settle", value: "S", help: "how long to wait at most until they are calm (60)"),
        .engine,
        CommandOption(name: "o", value: "FORMAT", help: "table or json (table)"),
    ],
    run: { (arguments) async throws(UsageError) in
        let groups = try arguments.number("groups", in: 2...20_000, default: 10_240)
        let settings = IdleBench.Settings(
            groups: groups, engine: try arguments.engine(), seconds: try arguments.seconds("seconds", default: 10),
            settleSeconds: try arguments.seconds("settle", default: 60))
        let format = try arguments.word("o", of: ["table", "json"])
        do {
            let result = try await IdleBench.run(settings)
            return Report(text: format == "json" ? result.json : result.table)
        } catch {
            return Report(text: "", complaint: "cannot measure: \(error)")
        }
    })

/// Watches a cluster without load, and starts one of its nodes again.
enum IdleBench {
    struct Settings: Sendable {
        var groups: Int
        var engine: BenchCluster.Engine
        var seconds: Double
        var settleSeconds: Double
    }

    /// What a process may use while it counts as calm.
    private static let calmPercent = 1.0
    private static let startPatience = Duration.seconds(300)
    private static let restarted = 2

    static func run(_ settings: Settings) async throws -> IdleResult {
        var result = IdleResult(groups: settings.groups, engine: settings.engine)
        // the least that a cluster can have; what it takes is what none of the others can be charged with
        let base = try await BenchCluster.start(groups: 1, engine: settings.engine)
        _ = try await settle(base.pids, settings.settleSeconds)
        let baseBytes = try base.pids.map(ProcessFigures.residentBytes)
        // it takes its part of the processors
        try await base.end()

        let cluster = try await BenchCluster.start(groups: settings.groups, engine: settings.engine)
        result.formationSeconds = cluster.formationSeconds
        (result.settleSeconds, result.isCalm) = try await settle(cluster.pids, settings.settleSeconds)
        result.processorPercents = try await percents(cluster.pids, settings.seconds)
        // a process that has ended still has a clock
        guard (0..<BenchCluster.nodes).allSatisfy(cluster.processes.runs) else { throw Failed("a node has ended") }
        let others = Double(settings.groups - 1)
        result.residentBytesPerGroup = try zip(cluster.pids, baseBytes).map {
            Double(try ProcessFigures.residentBytes(of: $0) - $1) / others
        }

        _ = try await cluster.processes.terminate(restarted)
        result.startSeconds = try await start(cluster, settings.groups)
        try await cluster.processes.kill(restarted)
        result.startAfterKillSeconds = try await start(cluster, settings.groups)
        _ = try await settle(cluster.pids, settings.settleSeconds)
        let fresh = try ProcessFigures.residentBytes(of: cluster.pids[restarted])
        result.restartedBytesPerGroup = Double(fresh - baseBytes[restarted]) / others
        return result
    }

    /// Starts the node again; how long it takes until it serves with all its replicas.
    private static func start(_ cluster: BenchCluster, _ groups: Int) async throws -> Double {
        let began = ContinuousClock.now
        let address = cluster.processes.addresses[restarted]
        try cluster.processes.start(restarted)
        while began.duration(to: .now) < startPatience {
            // a client that has failed to connect waits before it tries again; a new one does not
            let probe = try ClusterProbe(nodes: [address])
            defer { probe.close() }
            if let status = await probe.status(of: address), status.state == "serving",
                status.replicas.count > groups, status.replicas.allSatisfy({ $0.problem == nil })
            {
                return began.duration(to: .now).inSeconds
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw Failed("the node does not serve \(startPatience) after its start")
    }

    /// Waits until each process is calm for a second; seconds that this took, and whether they are.
    private static func settle(_ pids: [pid_t], _ seconds: Double) async throws -> (seconds: Double, isCalm: Bool) {
        let began = ContinuousClock.now
        while began.duration(to: .now).inSeconds < seconds {
            if try await percents(pids, min(1, seconds)).allSatisfy({ $0 < calmPercent }) {
                return (began.duration(to: .now).inSeconds, true)
            }
        }
        return (began.duration(to: .now).inSeconds, false)
    }

    /// What share of a processor each process has in that time.
    private static func percents(_ pids: [pid_t], _ seconds: Double) async throws -> [Double] {
        let (began, before) = (ContinuousClock.now, try pids.map(ProcessFigures.processorSeconds))
        try await Task.sleep(for: .seconds(seconds))
        let elapsed = began.duration(to: .now).inSeconds
        return try zip(pids, before).map { (try ProcessFigures.processorSeconds(of: $0) - $1) / elapsed * 100 }
    }
}

/// What idle groups cost.
struct IdleResult: Sendable {
    var groups: Int
    var engine: BenchCluster.Engine
    /// From the start of the processes until every group was led.
    var formationSeconds = 0.0
    /// From then on until the processes were calm.
    var settleSeconds = 0.0
    /// Whether they were, before what is told of processors and memory.
    var isCalm = false
    /// By process, of one processor.
    var processorPercents: [Double] = []
    /// By process: what is in memory beyond a cluster of one group, as it is after the cluster was formed.
    var residentBytesPerGroup: [Double] = []
    /// The same of a node that was started again.
    var restartedBytesPerGroup = 0.0
    /// From the start of a node that was stopped in order until it serves, with its replicas.
    var startSeconds = 0.0
    /// The same after SIGKILL.
    var startAfterKillSeconds = 0.0

    var table: String {
        let rows = [
            ("groups, each with three replicas on three processes", "\(groups)"),
            ("engine", engine.rawValue),
            ("percent of a core, by process", processorPercents.map { decimal($0) }.joined(separator: " ")),
            ("resident bytes per group, by process", residentBytesPerGroup.map { whole($0) }.joined(separator: " ")),
            ("the same after a restart", whole(restartedBytesPerGroup)),
            ("seconds until a node serves that was stopped", decimal(startSeconds)),
            ("the same after SIGKILL", decimal(startAfterKillSeconds)),
            ("seconds to form the cluster", decimal(formationSeconds)),
            ("and until it was calm", decimal(settleSeconds) + (isCalm ? "" : " (it was not, see --settle)")),
        ]
        let width = rows.map(\.0.count).max() ?? 0
        return rows.map { $0.0 + String(repeating: " ", count: width - $0.0.count) + "  \($0.1)\n" }.joined()
    }

    var json: String {
        jsonObject([
            ("groups", "\(groups)"), ("engine", "\"\(engine.rawValue)\""),
            // the worst of them
            ("cpu_percent_per_process", decimal(processorPercents.max() ?? 0)),
            ("resident_bytes_per_group", whole(residentBytesPerGroup.max() ?? 0)),
            ("resident_bytes_per_group_after_restart", whole(restartedBytesPerGroup)),
            ("start_seconds", decimal(startSeconds)), ("start_after_kill_seconds", decimal(startAfterKillSeconds)),
            ("formation_seconds", decimal(formationSeconds)), ("settle_seconds", decimal(settleSeconds)),
            ("calm", "\(isCalm)"),
            ("cpu_percents", jsonArray(processorPercents.map { decimal($0) })),
            ("resident_bytes_per_group_by_process", jsonArray(residentBytesPerGroup.map { whole($0) })),
        ]) + "\n"
    }
}

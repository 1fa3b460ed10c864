import ClusterProcesses
import Glibc
import RaftCore
import ShardClient
import ShardMap

let overloadCommand = Command(
    name: "overload",
    summary: "what becomes of a cluster that far more connections ask than it can serve, and of a client beside them",
    options: [
        CommandOption(name: "connections", value: "N", help: "connections, spread over the nodes (10000)"),
        CommandOption(name: "pipeline", value: "N", help: "commands that each has under way (4)"),
        CommandOption(name: "pause-ms", value: "MS", help: "how long one rests whose command was refused (200)"),
        CommandOption(name: "value-bytes", value: "N", help: "bytes of a value (128)"),
        CommandOption(name: "read-ratio", value: "R", help: "share of gets; the rest are sets (0.5)"),
        CommandOption(name: "keys", value: "N", help: "different keys (100000)"),
        CommandOption(name: "groups", value: "N", help: "groups, each with one shard and three replicas (16)"),
        .engine,
        CommandOption(name: "busy-after-ms", value: "MS", help: "raftd's --busy-after-ms (1000)"),
        CommandOption(name: "seconds", value: "S", help: "length of the load, and of half of that before it (20)"),
        CommandOption(name: "o", value: "FORMAT", help: "table or json (table)"),
    ],
    run: { (arguments) async throws(UsageError) in
        var settings = OverloadBench.Settings()
        settings.connections = try arguments.number("connections", in: 3...1_000_000, default: 10_000)
        settings.pipeline = try arguments.number("pipeline", in: 1...128, default: 4)
        settings.pauseMilliseconds = try arguments.number("pause-ms", in: 1...60_000, default: 200)
        settings.valueBytes = try arguments.number("value-bytes", in: 0...64 << 10, default: 128)
        settings.readRatio = try arguments.share("read-ratio", default: 0.5)
        settings.keys = try arguments.number("keys", in: 1...10_000_000, default: 100_000)
        settings.groups = try arguments.number("groups", in: 1...20_000, default: 16)
        settings.engine = try arguments.engine()
        settings.busyMilliseconds = try arguments.number("busy-after-ms", in: 10...600_000, default: 1000)
        settings.seconds = try arguments.seconds("seconds", default: 20)
        let format = try arguments.word("o", of: ["table", "json"])
        do {
            let result = try await OverloadBench.run(settings)
            return Report(text: format == "json" ? result.json : result.table, complaint: result.complaint)
        } catch {
            return Report(text: "", complaint: "cannot measure: \(error)")
        }
    })

/// More load than a cluster can serve, and what the cluster makes of it.
enum OverloadBench {
    struct Settings: Sendable {
        var connections = 10_000
        var pipeline = 4
        var pauseMilliseconds = 200
        var valueBytes = 128
        var readRatio = 0.5
        var keys = 100_000
        var groups = 16
        var engine = BenchCluster.Engine.rocksdb
        var busyMilliseconds = 1000
        var seconds = 20.0
    }

    /// Besides those of the load: the store's files, the other nodes, the log.
    private static let spareFiles = 1000

    static func run(_ settings: Settings) async throws -> OverloadResult {
        try raiseFileLimit(to: settings.connections + spareFiles)
        let share = settings.connections / BenchCluster.nodes
        let cluster = try await BenchCluster.start(
            groups: settings.groups, engine: settings.engine,
            flags: [
                "--busy-after-ms", "\(settings.busyMilliseconds)", "--max-connections", "\(max(10_000, share + 500))",
            ])
        var result = OverloadResult(settings: settings)
        result.residentBytesBefore = try cluster.pids.map(ProcessFigures.residentBytes)
        result.before = try await Bystander.watch(cluster, seconds: settings.seconds / 2)
        let clients = try OverloadClients(settings, nodes: cluster.processes.addresses, shards: cluster.shards)
        async let load = onOwnThread { clients.run() }
        await clients.waitUntilOpen()
        let termsBefore = await terms(of: cluster)
        do {
            result.during = try await Bystander.watch(cluster, seconds: settings.seconds) { clients.begin() }
        } catch {
            clients.stop()
            throw error
        }
        clients.stop()
        result.load = try await load
        result.peakBytes = try cluster.pids.map(ProcessFigures.peakResidentBytes)
        result.elections = try elections(from: termsBefore, to: await terms(of: cluster))
        guard (0..<BenchCluster.nodes).allSatisfy(cluster.processes.runs) else { throw Failed("a node has ended") }
        return result
    }

    /// By group, the highest term that a node knows.
    private static func terms(of cluster: BenchCluster) async -> [String: Int64] {
        var terms: [String: Int64] = [:]
        for status in await cluster.processes.probe.statuses() {
            for replica in status.replicas {
                terms[replica.group] = max(terms[replica.group] ?? 0, replica.term.rawValue)
            }
        }
        return terms
    }

    /// Elections between two looks, of all groups together.
    private static func elections(from before: [String: Int64], to after: [String: Int64]) throws -> Int {
        guard !before.isEmpty, Set(before.keys) == Set(after.keys) else { throw Failed("no node tells its terms") }
        return before.reduce(0) { $0 + Int((after[$1.key] ?? $1.value) - $1.value) }
    }

    /// Lets this process and those that it starts open so many files, as far as it may.
    private static func raiseFileLimit(to count: Int) throws {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        guard limit.rlim_cur < UInt(count) else { return }
        guard limit.rlim_max >= UInt(count) else {
            throw Failed("\(count) files are needed, and \(limit.rlim_max) allowed (ulimit -Hn)")
        }
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}

/// A client that asks for little: one operation every 20 ms, a put and a get in turn, by the library.
struct Bystander: Sendable {
    private static let pace = Duration.milliseconds(20)

    /// From the moment an operation was due until it had succeeded.
    private(set) var writes = Histogram()
    private(set) var reads = Histogram()
    private(set) var failed = 0

    /// What it notices in so many seconds after it has prepared itself and `begin` was called.
    static func watch(
        _ cluster: BenchCluster, seconds: Double, after begin: () -> Void = {}
    ) async throws -> Bystander {
        let client = try cluster.processes.makeClient()
        defer { client.close() }
        let keys = KeySet(64, in: cluster.shards)
        var bystander = Bystander()
        // the map and the sessions are there before
        for number in 0..<cluster.shards.count { _ = try? await client.put(keys[number], Bytes("first")) }
        begin()
        let (began, end) = (ContinuousClock.now, ContinuousClock.now + .seconds(seconds))
        var number = 0
        while ContinuousClock.now < end {
            // one that is late makes those behind it late, as it would those of a client that waits for nobody
            let due = began + pace * number
            if due > .now { try await Task.sleep(until: due, tolerance: .zero) }
            let key = keys[number / 2 % keys.count]
            do throws(ClientError) {
                if number % 2 == 0 {
                    try await client.put(key, Bytes("\(number)"))
                    bystander.writes.add(Int64(due.duration(to: .now).inSeconds * 1e9))
                } else {
                    _ = try await client.get(key)
                    bystander.reads.add(Int64(due.duration(to: .now).inSeconds * 1e9))
                }
            } catch {
                bystander.failed += 1
            }
            number += 1
        }
        return bystander
    }

    var json: String {
        jsonObject([
            ("writes", "\(writes.count)"), ("write_p50_us", decimal(Double(writes.quantile(0.5)) / 1000)),
            ("write_p99_us", decimal(Double(writes.quantile(0.99)) / 1000)),
            ("write_max_us", decimal(Double(writes.longest) / 1000)), ("reads", "\(reads.count)"),
            ("read_p50_us", decimal(Double(reads.quantile(0.5)) / 1000)),
            ("read_p99_us", decimal(Double(reads.quantile(0.99)) / 1000)),
            ("read_max_us", decimal(Double(reads.longest) / 1000)), ("failed", "\(failed)"),
        ])
    }
}

/// What was seen.
struct OverloadResult: Sendable {
    var settings: OverloadBench.Settings
    var load = OverloadClients.Result()
    var elections = 0
    /// By process, before the load came, and at its highest.
    var residentBytesBefore: [Int] = []
    var peakBytes: [Int] = []
    var before = Bystander()
    var during = Bystander()

    /// What should not happen under any load.
    var complaint: String? {
        if elections > 0 { return "\(elections) elections were held under the load" }
        if load.lost > 0 { return "\(load.lost) connections were closed" }
        if load.answered.count == 0 { return "nothing was answered" }
        return nil
    }

    private static let columns = ["commands      ", "    count", "per second", "wait p50 ms", "p99 ms", "max ms"]
    private static let bystanderColumns = [
        "a client beside it", "writes", "p50 ms", "p99 ms", "max ms", "reads", "p50 ms", "p99 ms", "max ms", "failed",
    ]

    var table: String {
        var lines = [
            "\(load.opened) connections, \(settings.pipeline) commands under way on each, "
                + "\(whole(settings.readRatio * 100)) % gets; three processes, \(settings.groups) groups, engine "
                + "\(settings.engine.rawValue); \(decimal(load.seconds)) s",
            OverloadResult.columns.joined(separator: "  "),
        ]
        for (name, times) in [("executed", load.answered), ("BUSY", load.busy)] {
            lines.append(
                tableLine(
                    [name, "\(times.count)", whole(Double(times.count) / max(load.seconds, 1e-9))]
                        + OverloadResult.milliseconds(times), under: OverloadResult.columns))
        }
        for (word, count) in load.errors.sorted(by: { $0.key < $1.key }) {
            lines.append(tableLine([word, "\(count)"], under: OverloadResult.columns))
        }
        lines += [
            "without answer at the end: \(load.unanswered); connections closed: \(load.lost); elections: \(elections)",
            "MiB in memory, by process: \(OverloadResult.mebibytes(residentBytesBefore)) before, "
                + "\(OverloadResult.mebibytes(peakBytes)) at most",
            OverloadResult.bystanderColumns.joined(separator: "  "),
        ]
        for (name, seen) in [("before", before), ("under the load", during)] {
            lines.append(
                tableLine(
                    [name, "\(seen.writes.count)"] + OverloadResult.milliseconds(seen.writes) + ["\(seen.reads.count)"]
                        + OverloadResult.milliseconds(seen.reads) + ["\(seen.failed)"],
                    under: OverloadResult.bystanderColumns))
        }
        return lines.map { $0 + "\n" }.joined()
    }

    private static func milliseconds(_ times: Histogram) -> [String] {
        [times.quantile(0.5), times.quantile(0.99), times.longest].map { decimal(Double($0) / 1e6) }
    }

    private static func mebibytes(_ bytes: [Int]) -> String { bytes.map { "\($0 >> 20)" }.joined(separator: " ") }

    var json: String {
        let errors = load.errors.sorted { $0.key < $1.key }.map { (jsonEscaped($0.key), "\($0.value)") }
        return jsonObject(
            [
                ("connections", "\(settings.connections)"), ("opened", "\(load.opened)"), ("closed", "\(load.lost)"),
                ("pipeline", "\(settings.pipeline)"), ("groups", "\(settings.groups)"),
                ("engine", jsonString(settings.engine.rawValue)), ("value_bytes", "\(settings.valueBytes)"),
                ("read_ratio", decimal(settings.readRatio)), ("busy_after_ms", "\(settings.busyMilliseconds)"),
                ("seconds", decimal(load.seconds)), ("executed", jsonObject(OverloadResult.members(load.answered))),
                ("busy", jsonObject(OverloadResult.members(load.busy))),
                ("errors", jsonObject(errors)), ("unanswered", "\(load.unanswered)"), ("elections", "\(elections)"),
                ("resident_bytes_before", jsonArray(residentBytesBefore.map { "\($0)" })),
                ("resident_bytes_peak", jsonArray(peakBytes.map { "\($0)" })),
                ("bystander_before", before.json), ("bystander", during.json),
            ]) + "\n"
    }

    private static func members(_ times: Histogram) -> [(name: String, value: String)] {
        [("count", "\(times.count)")] + times.members
    }
}

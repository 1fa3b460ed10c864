import ClusterProcesses

let kvCommand = Command(
    name: "kv",
    summary: "how many reads and writes a cluster of three processes on this machine serves, and at what price",
    options: [
        CommandOption(name: "clients", value: "N", help: "clients, each with one operation under way (64)"),
        CommandOption(
            name: "connections", value: "N",
            help: "clients of the library that they share, each with a socket to each node (8)"),
        CommandOption(name: "value-bytes", value: "N", help: "bytes of a value, which do not compress (128)"),
        CommandOption(name: "groups", value: "N", help: "groups, each with one shard and three replicas (16)"),
        CommandOption(name: "read-ratio", value: "R", help: "share of linearizable gets; the rest are puts (0)"),
        CommandOption(name: "keys", value: "N", help: "different keys, all written before (100000)"),
        CommandOption(
            name: "operations-per-request", value: "N",
            help: "most operations of one connection that share a request; 1: none do (256)"),
        .engine,
        CommandOption(name: "seconds", value: "S", help: "length of what is measured (5)"),
        CommandOption(name: "warmup", value: "S", help: "length of the same load before that (2)"),
        CommandOption(
            name: "echo", value: "",
            help: "also: one connection for each client, and against it a bare echo over as many sockets"),
        CommandOption(name: "o", value: "FORMAT", help: "table or json (table)"),
    ],
    run: { (arguments) async throws(UsageError) in
        let load = try arguments.load(clients: 64, seconds: 5)
        let groups = try arguments.number("groups", in: 1...20_000, default: 16)
        let engine = try arguments.engine()
        let format = try arguments.word("o", of: ["table", "json"])
        do {
            let result = try await KvBench.run(load, groups: groups, engine: engine, echo: arguments.has("echo"))
            return Report(text: format == "json" ? result.json : result.table, complaint: result.complaint)
        } catch {
            return Report(text: "", complaint: "cannot measure: \(error)")
        }
    })

extension Arguments {
    /// The load that the options of `kv` describe.
    func load(clients: Int, seconds: Double) throws(UsageError) -> Load {
        var load = Load()
        load.clients = try number("clients", in: 1...100_000, default: clients)
        load.connections = min(try number("connections", in: 1...10_000, default: 8), load.clients)
        load.valueBytes = try number("value-bytes", in: 0...512 << 10, default: 128)
        load.readRatio = try share("read-ratio", default: 0)
        load.keys = try number("keys", in: 1...10_000_000, default: 100_000)
        load.operationsPerRequest = try number("operations-per-request", in: 1...256, default: 256)
        load.seconds = try self.seconds("seconds", default: seconds)
        load.warmupSeconds = try self.seconds("warmup", default: 2)
        return load
    }
}

/// Throughput, times and price of one load on a cluster.
enum KvBench {
    /// What a request with one value has on the wire besides it, about; the echo's bytes have the same size.
    private static let requestOverhead = 128

    static func run(
        _ load: Load, groups: Int, engine: BenchCluster.Engine, echo: Bool
    ) async throws -> KvResult {
        let cluster = try await BenchCluster.start(groups: groups, engine: engine)
        let shared = try await run(load, cluster)
        var result = KvResult(groups: groups, engine: engine, shared: shared)
        guard echo else { return result }
        var separate = load
        separate.connections = load.clients
        result.separate = try await run(separate, cluster)
        result.echo = try await EchoBench.run(
            clients: load.clients, bytes: load.valueBytes + requestOverhead, seconds: load.seconds)
        return result
    }

    private static func run(_ load: Load, _ cluster: BenchCluster) async throws -> KvResult.Row {
        let result = try await cluster.run(load)
        guard result.latencies.count > 0 else { throw Failed("nothing was answered in \(load.seconds) s") }
        // a process that has ended still has a clock
        guard (0..<BenchCluster.nodes).allSatisfy(cluster.processes.runs) else { throw Failed("a node has ended") }
        return KvResult.Row(result)
    }
}

/// What was measured of one kind of cluster.
struct KvResult: Sendable {
    /// One load.
    struct Row: Sendable {
        var result: LoadResult
        init(_ result: LoadResult) { self.result = result }
    }

    var groups: Int
    var engine: BenchCluster.Engine
    var shared: Row
    /// With a connection for each client.
    var separate: Row?
    var echo: EchoBench.Result?

    /// What makes its figures those of something else.
    var complaint: String? {
        let failed = [shared, separate].compactMap(\.self).reduce(0) { $0 + $1.result.failed }
        return failed == 0 ? nil : "\(failed) operations failed with \(groups) groups"
    }

    private static let columns = [
        "clients", "connections", "ops/request", "      ops/s", "failed", "p50 us", "p99 us", "p99.9 us",
        "server cpu s",
        "load cpu s", "ops/cpu s",
    ]

    var table: String {
        let load = shared.result.load
        var lines = [
            "\(groups) groups of 3 replicas, three processes, engine \(engine.rawValue); \(load.valueBytes)-byte values, "
                + "\(whole(load.readRatio * 100)) % gets; \(decimal(load.seconds)) s",
            "ops/cpu s: per second of processor that the three processes had together",
            KvResult.columns.joined(separator: "  "),
        ]
        for row in [shared, separate].compactMap(\.self) {
            lines.append(tableLine(row.figures, under: KvResult.columns))
        }
        if let echo {
            lines.append(
                tableLine(
                    ["\(echo.clients)", "bare echo", "1.000", whole(echo.operationsPerSecond), "0"]
                        + echo.latencies.microseconds + [decimal(echo.serverSeconds), "", ""], under: KvResult.columns))
        }
        return lines.map { $0 + "\n" }.joined()
    }

    var json: String {
        let load = shared.result.load
        var members =
            [
                ("groups", "\(groups)"), ("engine", "\"\(engine.rawValue)\""), ("value_bytes", "\(load.valueBytes)"),
                ("read_ratio", decimal(load.readRatio)),
            ] + shared.members
        if let separate { members.append(("one_connection_per_client", jsonObject(separate.members))) }
        if let echo { members.append(("echo", echo.json)) }
        return jsonObject(members) + "\n"
    }
}

extension KvResult.Row {
    /// Under the columns of the table.
    fileprivate var figures: [String] {
        [
            "\(result.load.clients)", "\(result.load.connections)", decimal(result.operationsPerRequest),
            whole(result.operationsPerSecond), "\(result.failed)",
        ] + result.latencies.microseconds + [
            result.serverSeconds.map { decimal($0) }.joined(separator: "+"), decimal(result.clientSeconds),
            whole(result.operationsPerProcessorSecond),
        ]
    }

    /// Of a JSON object.
    var members: [(name: String, value: String)] {
        [
            ("clients", "\(result.load.clients)"), ("connections", "\(result.load.connections)"),
            ("operations_per_request_max", "\(result.load.operationsPerRequest)"),
            ("operations_per_request", decimal(result.operationsPerRequest)),
            ("seconds", decimal(result.seconds)), ("operations", "\(result.latencies.count)"),
            ("failed", "\(result.failed)"), ("ops_per_second", whole(result.operationsPerSecond)),
        ] + result.latencies.members + [
            ("server_cpu_seconds", jsonArray(result.serverSeconds.map { decimal($0) })),
            ("client_cpu_seconds", decimal(result.clientSeconds)),
            ("ops_per_cpu_second", whole(result.operationsPerProcessorSecond)),
        ]
    }
}

extension Histogram {
    private static let shares: [Double] = [
        0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999,
    ]

    private func microseconds(_ share: Double) -> Double { Double(quantile(share)) / 1000 }

    /// What half, 99 % and 99.9 % of its times are not above, in microseconds, for a table.
    var microseconds: [String] { [0.5, 0.99, 0.999].map { whole(microseconds($0)) } }

    /// Its quantiles, of a JSON object. Those that are there to be drawn end where there are no times to tell.
    var members: [(name: String, value: String)] {
        let quantiles = [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)]
        let drawn = Histogram.shares.filter { (1 - $0) * Double(count) >= 1 }
        return quantiles.map { ($0.0, decimal(microseconds($0.1))) }
            + [
                ("max_us", decimal(Double(longest) / 1000)),
                ("quantiles_us", jsonArray(drawn.map { jsonArray(["\($0)", decimal(microseconds($0))]) })),
            ]
    }
}

extension EchoBench.Result {
    fileprivate var json: String {
        jsonObject(
            [
                ("clients", "\(clients)"), ("bytes", "\(bytes)"), ("ops_per_second", whole(operationsPerSecond)),
                ("server_cpu_seconds", decimal(serverSeconds)),
            ] + latencies.members)
    }
}

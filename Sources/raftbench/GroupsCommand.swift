let groupsCommand = Command(
    name: "groups",
    summary: "how throughput holds as the same load spreads over more and more active groups",
    options: [
        CommandOption(name: "groups", value: "N,…", help: "groups, a cluster for each number (1,16,256,1024)"),
        CommandOption(name: "full", value: "", help: "4096 groups as well"),
    ] + kvCommand.options.filter { !["groups", "echo", "clients", "seconds"].contains($0.name) } + [
        CommandOption(name: "clients", value: "N", help: "clients, each with one operation under way (256)"),
        CommandOption(name: "seconds", value: "S", help: "length of what is measured of each (5)"),
    ],
    run: { (arguments) async throws(UsageError) in
        let load = try arguments.load(clients: 256, seconds: 5)
        var counts = try arguments.numbers("groups", in: 1...20_000, default: [1, 16, 256, 1024])
        if arguments.has("full"), !counts.contains(4096) { counts.append(4096) }
        let engine = try arguments.engine()
        let format = try arguments.word("o", of: ["table", "json"])
        var result = GroupsResult(engine: engine)
        do {
            for count in counts {
                result.rows.append(try await KvBench.run(load, groups: count, engine: engine, echo: false))
            }
        } catch {
            return Report(text: "", complaint: "cannot measure: \(error)")
        }
        return Report(
            text: format == "json" ? result.json : result.table,
            complaint: result.rows.compactMap(\.complaint).first)
    })

/// The same load on clusters with more and more groups.
struct GroupsResult: Sendable {
    var engine: BenchCluster.Engine
    var rows: [KvResult] = []

    /// Against the cluster that has so many.
    private static let base = 16

    private static let columns = [
        "groups", "clients", "    ops/s", "ratio to 16", "failed", "p50 us", "p99 us", "p99.9 us", "ops/cpu s",
        "ops/request",
    ]

    /// Throughput as a part of that with 16 groups; nil if that was not measured.
    private func ratio(_ row: KvResult) -> Double? {
        rows.first { $0.groups == GroupsResult.base }.map {
            row.shared.result.operationsPerSecond / max($0.shared.result.operationsPerSecond, 1e-9)
        }
    }

    var table: String {
        var lines = [
            "three processes, engine \(engine.rawValue), groups of 3 replicas with a shard each, all of them written to",
            GroupsResult.columns.joined(separator: "  "),
        ]
        for row in rows {
            let result = row.shared.result
            let figures =
                [
                    "\(row.groups)", "\(result.load.clients)", whole(result.operationsPerSecond),
                    ratio(row).map { decimal($0) } ?? "-", "\(result.failed)",
                ] + result.latencies.microseconds + [
                    whole(result.operationsPerProcessorSecond), decimal(result.operationsPerRequest),
                ]
            lines.append(tableLine(figures, under: GroupsResult.columns))
        }
        return lines.map { $0 + "\n" }.joined()
    }

    var json: String {
        let objects = rows.map { row in
            jsonObject(
                [("groups", "\(row.groups)"), ("ratio_to_16", ratio(row).map { decimal($0) } ?? "null")]
                    + row.shared.members)
        }
        return jsonObject([("engine", "\"\(engine.rawValue)\""), ("rows", jsonArray(objects))]) + "\n"
    }
}

import ClusterProcesses

let moveCommand = Command(
    name: "move",
    summary: "what writers notice of a shard that moves: three processes on this machine, and a steady load",
    options: [
        CommandOption(name: "sizes", value: "N,…", help: "MiB in the shard that moves (1,100)"),
        CommandOption(name: "full", value: "yes|no", help: "1 GiB as well, which takes many minutes (no)"),
        CommandOption(name: "moves", value: "N", help: "moves of each size, forth and back (6; from 512 MiB on 2)"),
        CommandOption(name: "rate", value: "N", help: "writes a second to each of three shards (200)"),
        CommandOption(name: "seconds", value: "S", help: "load without moves, to compare with (5)"),
        CommandOption(
            name: "snapshot-rate", value: "N", help: "MiB that a node sends of moving shards in a second (64)"),
        CommandOption(name: "o", value: "FORMAT", help: "table or json (table)"),
    ],
    run: { (arguments) async throws(UsageError) in
        var sizes = try arguments.numbers("sizes", in: 1...64 << 10, default: [1, 100])
        if try arguments.word("full", of: ["no", "yes"]) == "yes", !sizes.contains(1024) { sizes.append(1024) }
        let settings = MoveBench.Settings(
            moves: try arguments.number("moves", in: 1...1000),
            writesPerSecond: try arguments.number("rate", in: 1...10_000, default: 200),
            normalSeconds: try arguments.seconds("seconds", default: 5),
            megabytesPerSecond: try arguments.number("snapshot-rate", in: 1...1 << 20, default: 64))
        let format = try arguments.word("o", of: ["table", "json"])
        var results: [MoveResult] = []
        do {
            for size in sizes { results.append(try await MoveBench.run(size << 20, settings)) }
        } catch {
            return Report(text: "", complaint: "cannot measure: \(error)")
        }
        let text = format == "json" ? MoveResult.json(results) : MoveResult.table(results)
        return Report(text: text, complaint: nil)
    })

/// What moving a shard of one size cost.
struct MoveResult: Equatable, Sendable {
    /// Writes to one shard, in one situation.
    struct Writes: Equatable, Sendable {
        /// `moved`; `destination`: another shard of the group it moves to and from; `unaffected`: one of a third group.
        var shard: String
        /// Whether a move was under way during the write.
        var isMoving: Bool
        /// Seconds from the moment a write was due to its acknowledgement.
        var latencies: [Double] = []
        var failed = 0
    }

    struct Move: Equatable, Sendable {
        /// From its record to its end.
        var seconds: Double
        /// How long nobody served the shard.
        var frozenSeconds: Double
    }

    /// What was put into the shard.
    var bytes: Int
    /// In order.
    var moves: [Move] = []
    var writes: [Writes] = []

    private static let moveColumns = [
        "shard bytes", "moves", "p50 s", "max s", "  MiB/s", "frozen p50 ms", "frozen max ms",
    ]
    private static let columns = [
        "shard bytes", "writes to   ", "when  ", "writes", "failed", "p50 ms", "p99 ms", "p99.9 ms", "  max ms",
    ]

    /// Of a move of half the moves' length.
    private var megabytesPerSecond: Double {
        Double(bytes) / Double(1 << 20) / max(moves.map(\.seconds).quantile(0.5), 0.001)
    }

    static func table(_ results: [MoveResult]) -> String {
        var lines = ["frozen: nobody served the shard", moveColumns.joined(separator: "  ")]
        for result in results where !result.moves.isEmpty {
            let (seconds, frozen) = (result.moves.map(\.seconds), result.moves.map { $0.frozenSeconds * 1000 })
            let figures = [
                "\(result.bytes)", "\(result.moves.count)", decimal(seconds.quantile(0.5)), decimal(seconds.max() ?? 0),
                decimal(result.megabytesPerSecond), whole(frozen.quantile(0.5)), whole(frozen.max() ?? 0),
            ]
            lines.append(tableLine(figures, under: moveColumns))
        }
        lines += [
            "", "latency from the moment a write is due; moving: a move was under way during the write",
            columns.joined(separator: "  "),
        ]
        for result in results {
            for writes in result.writes where !writes.latencies.isEmpty {
                let figures = [
                    "\(result.bytes)", writes.shard, writes.isMoving ? "moving" : "normal",
                    "\(writes.latencies.count)", "\(writes.failed)",
                ]
                lines.append(tableLine(figures + writes.milliseconds, under: columns))
            }
        }
        return lines.map { $0 + "\n" }.joined()
    }

    static func json(_ results: [MoveResult]) -> String {
        let objects = results.map { result in
            let writes = result.writes.filter { !$0.latencies.isEmpty }.map { writes in
                let figures = zip(["p50_ms", "p99_ms", "p999_ms", "max_ms"], writes.milliseconds)
                return
                    "{\"shard\":\"\(writes.shard)\",\"moving\":\(writes.isMoving),\"writes\":\(writes.latencies.count)"
                    + ",\"failed\":\(writes.failed)" + figures.map { ",\"\($0)\":\($1)" }.joined() + "}"
            }
            let moves = result.moves.map { decimal($0.seconds) }.joined(separator: ",")
            let frozen = result.moves.map { whole($0.frozenSeconds * 1000) }.joined(separator: ",")
            let rate = result.moves.isEmpty ? "null" : decimal(result.megabytesPerSecond)
            return "{\"shard_bytes\":\(result.bytes),\"move_seconds\":[\(moves)],\"mib_per_second\":\(rate)"
                + ",\"frozen_ms\":[\(frozen)],\"writes\":["
                + writes.joined(separator: ",") + "]}"
        }
        return "{\"sizes\":[\(objects.joined(separator: ","))]}\n"
    }
}

extension MoveResult.Writes {
    /// Half, 99 %, 99.9 % and all of the writes took no longer.
    fileprivate var milliseconds: [String] {
        [latencies.quantile(0.5), latencies.quantile(0.99), latencies.quantile(0.999), latencies.max() ?? 0]
            .map { decimal($0 * 1000) }
    }
}

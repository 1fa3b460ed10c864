import CAllocations
import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import ShardClient
import ShardMap

let budgetCommand = Command(
    name: "budget",
    summary: "how often hot paths ask for memory, against thresholds that are kept in a file",
    options: [
        CommandOption(name: "thresholds", value: "FILE", help: "what is allowed (tools/thresholds.json)"),
        CommandOption(name: "requests", value: "N", help: "requests that are measured of each kind (1000)"),
        CommandOption(name: "o", value: "FORMAT", help: "table or json, which is a file of thresholds (table)"),
    ],
    run: { (arguments) async throws(UsageError) in
        let file = arguments.text("thresholds") ?? "tools/thresholds.json"
        let requests = try arguments.number("requests", in: 10...1_000_000, default: 1000)
        let format = try arguments.word("o", of: ["table", "json"])
        guard allocations_are_counted() else {
            throw UsageError(text: "allocations are not counted in a build with a sanitizer")
        }
        do {
            let measured = [BudgetBench.core()] + (try await BudgetBench.puts(requests))
            guard format == "table" else { return Report(text: Budget.json(measured), complaint: nil) }
            let budget = try Budget(thresholds: file, measured: measured)
            return Report(text: budget.table, complaint: budget.complaint)
        } catch {
            return Report(text: "", complaint: "cannot measure: \(error)")
        }
    })

/// What was counted, against what is allowed.
struct Budget {
    struct Line: Equatable {
        /// As in the file.
        var name: String
        /// Allocations for each of what the name says.
        var measured: Double
        /// Nil: the file does not know it.
        var allowed: Double?
    }

    var lines: [Line]

    /// What a threshold has above the figure it was made of: as much as two runs differ.
    private static let slack = 1.1
    /// So far below its threshold a figure asks for a new one.
    private static let worthTelling = 0.8

    /// Against the thresholds in a file, an object with a number for each name.
    init(thresholds file: String, measured: [(name: String, allocations: Double)]) throws {
        guard let values = JSONValue.all(in: try Files.read(file)), values.count == 1 else {
            throw Failed("\(file) has no thresholds")
        }
        lines = measured.map { Line(name: $0.name, measured: $0.allocations, allowed: values[0][$0.name]?.number) }
    }

    init(lines: [Line]) { self.lines = lines }

    /// Thresholds that just allow what was measured.
    static func json(_ measured: [(name: String, allocations: Double)]) -> String {
        let members = measured.map { "  \"\($0.name)\": \(decimal($0.allocations * slack))" }
        return "{\n" + members.joined(separator: ",\n") + "\n}\n"
    }

    private static let columns = ["allocations for                 ", "measured", " allowed"]

    var table: String {
        var text = Budget.columns.joined(separator: "  ") + "\n"
        for line in lines {
            let allowed = line.allowed.map { decimal($0) } ?? "-"
            text += tableLine([line.name, decimal(line.measured), allowed], under: Budget.columns) + "\n"
        }
        let low = lines.filter { line in line.allowed.map { line.measured < $0 * Budget.worthTelling } ?? false }
        if !low.isEmpty {
            text += "\(low.map(\.name).joined(separator: ", ")): clearly less than allowed; "
            text += "lower the threshold to what raftbench budget -o json prints\n"
        }
        return text
    }

    /// What is above its threshold, or has none.
    var complaint: String? {
        let problems: [String] = lines.compactMap { line in
            guard let allowed = line.allowed else { return "\(line.name) has no threshold" }
            guard line.measured > allowed else { return nil }
            return "\(line.name) asks for memory \(decimal(line.measured)) times, more than \(decimal(allowed))"
        }
        return problems.isEmpty ? nil : problems.joined(separator: "; ")
    }
}

/// Counts allocations on hot paths.
enum BudgetBench {
    /// Puts in a request: each alone, and as the library joins them under load.
    private static let batches = [1, 64]
    private static let valueBytes = 128
    private static let warmup = 300
    /// Lane, log, reader, apply, maintenance.
    private static let threadsOfNode = 5
    private static let attempts = 5

    /// By a step of the core, at the busiest of a few loads.
    static func core() -> (name: String, allocations: Double) {
        let most = [1, 64, 1024].map { clients in
            var row = CoreRow(voters: 3, clients: clients, batch: 1)
            row.run(seconds: 0.05)
            return row.runs.map { Double($0.allocations) / Double($0.steps) }.max() ?? 0
        }
        return ("core_step", most.max() ?? 0)
    }

    /// By a put, on the leader of a group and on each of its followers, all threads of the node together.
    static func puts(_ requests: Int) async throws -> [(name: String, allocations: Double)] {
        let cluster = try await TestCluster(nodes: BenchCluster.nodes, groups: 1) { configuration in
            configuration.engine = .memory
            configuration.segmentBytes = 64 << 20
        }
        defer { cluster.close() }
        let client = try cluster.makeClient()
        defer { client.close() }
        let threads = try await restart(cluster)
        var measured: [(name: String, allocations: Double)] = []
        for batch in batches {
            try await put(batch, warmup, client)
            measured += try await measure(batch, requests, client, cluster, threads)
        }
        return measured
    }

    /// Starts each node once more, to learn which threads are its own.
    private static func restart(_ cluster: TestCluster) async throws -> [[Int32]] {
        var threads: [[Int32]] = []
        for node in cluster.addresses.indices {
            for attempt in 1... {
                cluster.stop(node)
                let before = Set(try threadsOfThisProcess())
                try cluster.restart(node)
                let own = try threadsOfThisProcess().filter { !before.contains($0) }
                try await cluster.waitUntilLed()
                // another may have begun just then
                guard own.count != threadsOfNode else {
                    threads.append(own)
                    break
                }
                guard attempt < attempts else { throw Failed("a node has \(own.count) threads") }
            }
        }
        return threads
    }

    private static func threadsOfThisProcess() throws -> [Int32] {
        try Files.list("/proc/self/task").compactMap { Int32($0) }
    }

    /// Counts while one request follows the other. Again if another node comes to lead meanwhile.
    private static func measure(
        _ batch: Int, _ requests: Int, _ client: Client, _ cluster: TestCluster, _ threads: [[Int32]]
    ) async throws -> [(name: String, allocations: Double)] {
        for _ in 0..<attempts {
            guard let leader = await cluster.probe.leader(of: "g1") else { continue }
            let before = threads.map(allocations)
            try await put(batch, requests, client)
            let counts = zip(threads, before).map { Double(allocations($0) - $1) / Double(requests * batch) }
            guard await cluster.probe.leader(of: "g1") == leader else { continue }
            let followers = counts.indices.filter { $0 != leader }.map { counts[$0] }
            let kind = batch == 1 ? "alone" : "of_\(batch)"
            return [("leader_put_\(kind)", counts[leader]), ("follower_put_\(kind)", followers.max() ?? 0)]
        }
        throw Failed("no node leads for long")
    }

    private static func allocations(_ threads: [Int32]) -> UInt64 {
        threads.reduce(0) { $0 + allocations_of_thread($1) }
    }

    /// Writes to the same keys again and again: what a store takes for a new one comes on top.
    private static func put(_ batch: Int, _ requests: Int, _ client: Client) async throws {
        let values = NoiseValues(bytes: valueBytes)
        for number in 0..<requests {
            let results = try await client.execute(
                (0..<batch).map { KeyOperation(.set, key: Bytes("key\($0)"), value: values[number + $0]) })
            for result in results { if let error = result.error { throw Failed("a put failed: \(error.sentence)") } }
        }
    }
}

import CAllocations
import Glibc

let coreCommand = Command(
    name: "core",
    summary: "how many proposals per second the cores of one group decide, in one thread, without disk and network",
    options: [
        CommandOption(
            name: "clients", value: "N,…", help: "clients, each with one proposal under way (1,64,256,1024,4096)"),
        CommandOption(name: "batch", value: "B,…", help: "entries that a client proposes at once (1,4)"),
        CommandOption(name: "seconds", value: "S", help: "length of a run in processor time (1)"),
        CommandOption(
            name: "runs", value: "N", help: "runs of each row, taken in turn; the row shows their median (5)"),
        CommandOption(name: "voters", value: "N", help: "members of the group (3)"),
        CommandOption(
            name: "max-allocations", value: "N", help: "fail if a run of a row allocates more often than that"),
    ],
    run: { (arguments) throws(UsageError) in
        let clients = try arguments.numbers("clients", in: 1...100_000, default: [1, 64, 256, 1024, 4096])
        let batches = try arguments.numbers("batch", in: 1...1000, default: [1, 4])
        let seconds = try arguments.seconds("seconds", default: 1)
        let runs = try arguments.number("runs", in: 1...1000, default: 5)
        let voters = try arguments.number("voters", in: 1...99, default: 3)
        let bound = try arguments.number("max-allocations", in: 0...Int.max)
        var rows = batches.flatMap { batch in clients.map { CoreRow(voters: voters, clients: $0, batch: batch) } }
        for _ in 0..<runs {
            for position in rows.indices { rows[position].run(seconds: seconds) }
        }
        let report = CoreReport(rows: rows, bound: bound)
        let title =
            "\(voters) voters, one thread; for each row the median of \(runs) runs of \(seconds) s on a processor"
        return Report(text: "\(title)\n\(report.table)", complaint: report.complaint)
    })

/// What came of all runs.
struct CoreReport {
    /// Lines of figures.
    let table: String
    /// Set if allocations are more than `bound` in any run.
    var complaint: String?

    init(rows: [CoreRow], bound: Int?) {
        let lines = ([CoreRow.header] + rows.map(\.line)).map { $0 + "\n" }.joined()
        guard allocations_are_counted() else {
            table = lines + "allocations are not counted in a build with a sanitizer\n"
            return
        }
        table = lines
        let most = rows.flatMap(\.runs).map(\.allocations).max() ?? 0
        if let bound, most > bound { complaint = "a run allocated \(most) times, more than \(bound)" }
    }
}

/// Runs of one setting.
struct CoreRow {
    /// What one run did.
    struct Run {
        var seconds: Double
        var proposals: Int
        var steps: Int
        var allocations: UInt64

        var proposalsPerSecond: Double { Double(proposals) / seconds }
    }

    let voters: Int
    let clients: Int
    let batch: Int
    private(set) var runs: [Run] = []

    init(voters: Int, clients: Int, batch: Int) {
        self.voters = voters
        self.clients = clients
        self.batch = batch
    }

    /// Runs once more, after a tenth of the time to fill what is kept.
    mutating func run(seconds: Double) {
        var cluster = CoreCluster(voters: voters, clients: ClosedLoopClients(count: clients, batch: batch))
        _ = measure(&cluster, seconds: seconds / 10)
        note(measure(&cluster, seconds: seconds))
    }

    mutating func note(_ run: Run) { runs.append(run) }

    private func measure(_ cluster: inout CoreCluster, seconds: Double) -> Run {
        let (proposals, steps) = (cluster.clients.applied, cluster.steps)
        let allocations = allocations_of_this_thread()
        let start = processorSeconds()
        var elapsed = 0.0
        while elapsed < seconds {
            for _ in 0..<64 { cluster.round() }
            elapsed = processorSeconds() - start
        }
        return Run(
            seconds: elapsed, proposals: cluster.clients.applied - proposals, steps: cluster.steps - steps,
            allocations: allocations_of_this_thread() - allocations)
    }
}

extension CoreRow {
    private static let columns = [
        "clients", "batch", "proposals/s", "lowest", "highest", "steps/proposal", "ns/step", "allocations/proposal",
        "allocations/step",
    ]

    static var header: String { columns.joined(separator: "  ") }

    /// The median run, by speed, under the header.
    var line: String {
        let sorted = runs.sorted { $0.proposalsPerSecond < $1.proposalsPerSecond }
        let median = sorted[sorted.count / 2]
        let steps = Double(median.steps)
        let figures = [
            "\(clients)", "\(batch)", whole(median.proposalsPerSecond), whole(sorted[0].proposalsPerSecond),
            whole(sorted[sorted.count - 1].proposalsPerSecond), decimal(steps / Double(median.proposals)),
            decimal(median.seconds * 1e9 / steps), decimal(Double(median.allocations) / Double(median.proposals)),
            decimal(Double(median.allocations) / steps),
        ]
        return tableLine(figures, under: CoreRow.columns)
    }
}

/// The time that this thread has had a processor: what others run on the machine does not count.
private func processorSeconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}

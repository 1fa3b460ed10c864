import CMessages
import Glibc
import RaftCore
import WireMessages

// What the cluster is doing right now, over and over.

extension Command {
    static let top = Command(
        path: ["top"],
        options: [
            CommandOption("interval", "SECONDS", "time between two looks; default: 2"),
            CommandOption("count", "N", "show so many times, then end; default: until Ctrl-C"),
        ],
        summary: "what each node and the busiest groups do right now, live",
        details: """
            Every figure is of the time since the look before. COMMIT is the time from a proposal to its commitment, LOG
            that of one write and sync, APPLY from commitment to the state machine; each is the upper bound of the bucket
            it is in, which is at most twice as much. CPU is of one core. Where standard output is no terminal, the tables
            follow each other; the same figures and more are on each node's page /metrics.
            """,
        run: { invocation throws(Failure) in
            let interval = try invocation.integer("interval", in: 1...3600) ?? 2
            let count = try invocation.integer("count", in: 1...1_000_000)
            try await TopView(cluster: try Cluster(invocation), format: invocation.format).run(interval, count)
        })
}

/// Looks at all nodes again and again.
private struct TopView {
    let cluster: Cluster
    let format: OutputFormat

    func run(_ interval: Int, _ count: Int?) async throws(Failure) {
        var nodes = try await cluster.map().nodes.map(\.address)
        // whoever answers does so at once; one that hangs is waited for
        var looked = ContinuousClock.now
        var before = await samples(of: nodes)
        var round = 0
        while count.map({ round < $0 }) ?? true {
            await pause(milliseconds: interval * 1000)
            let now = ContinuousClock.now
            let after = await samples(of: nodes)
            let seconds = looked.duration(to: now).inSeconds
            let report = TopReport(
                nodes.map { node in
                    guard let later = after[node] else { return (node, nil) }
                    // one that was not there begins now
                    return (node, MetricsInterval(earlier: before[node] ?? later, later: later, seconds: seconds))
                })
            try show(report)
            (before, looked) = (after, now)
            round += 1
            // nodes come and go; who gives the map now is of no matter
            if round % 10 == 0, let newer = await newerNodes() { nodes = newer }
        }
    }

    private func newerNodes() async -> [NodeAddress]? {
        do throws(Failure) { return try await cluster.map().nodes.map(\.address) } catch { return nil }
    }

    private func show(_ report: TopReport) throws(Failure) {
        if format == .json { return try Output.print(report.json.text) }
        let isScreen = Output.isTerminal(STDOUT_FILENO)
        try Output.print((isScreen ? "\u{1b}[H\u{1b}[2J" : "") + report.text + "\n")
    }

    private func samples(of nodes: [NodeAddress]) async -> [NodeAddress: MetricsSample] {
        await withTaskGroup(of: (NodeAddress, MetricsSample?).self) { tasks in
            for node in nodes { tasks.addTask { (node, await cluster.metrics(of: node)) } }
            var samples: [NodeAddress: MetricsSample] = [:]
            for await (node, sample) in tasks { samples[node] = sample }
            return samples
        }
    }
}

extension Cluster {
    /// The page of metrics of the node at `address`; nil if it does not answer.
    func metrics(of address: NodeAddress) async -> MetricsSample? {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let body = arena.pack(arena.make(flotilla__metrics_request__init))
        guard let answer = await call(address, "metrics", body),
            let reply = arena.unpack(flotilla__metrics_reply__init, answer)?.pointee
        else { return nil }
        return MetricsSample(String(field: reply.text))
    }
}

/// One look: what is shown of it.
struct TopReport {
    /// nil: the node does not answer.
    private let nodes: [(address: NodeAddress, interval: MetricsInterval?)]
    /// By the node that leads it.
    private let groups: [(group: String, leader: NodeAddress, rate: Double)]

    private static let groupsMax = 15

    init(_ nodes: [(NodeAddress, MetricsInterval?)]) {
        self.nodes = nodes.map { (address: $0.0, interval: $0.1) }
        let all = nodes.flatMap { node, interval in
            (interval?.groupRates ?? []).map { (group: $0.group, leader: node, rate: $0.rate) }
        }
        groups = Array(all.sorted { ($1.rate, $0.group) < ($0.rate, $1.group) }.prefix(TopReport.groupsMax))
    }

    var text: String {
        var table = Table(
            [
                "NODE", "LEADS", "REPLICAS", "WRITES/S", "READS/S", "COMMIT P50", "P99", "LOG P50", "P99", "APPLY P99",
                "CPU", "MEMORY", "CONNECTIONS",
            ], numeric: Set(1...12))
        for (address, interval) in nodes {
            guard let interval else {
                table.add([address.description] + ["down"] + [String](repeating: "-", count: 11))
                continue
            }
            let later = interval.later
            func whole(_ name: String) -> String { later.value(name).map { String(Int($0)) } ?? "-" }
            func quantile(_ share: Double, _ stage: String) -> String {
                interval.quantile(share, of: stage).map(TopReport.duration) ?? "-"
            }
            table.add([
                address.description, whole("flotilla_leaders"), whole("flotilla_replicas"),
                String(Int(interval.rate("flotilla_writes_total").rounded())),
                String(Int(interval.rate("flotilla_reads_total").rounded())),
                quantile(0.5, "replicate"), quantile(0.99, "replicate"), quantile(0.5, "log"), quantile(0.99, "log"),
                quantile(0.99, "apply"),
                "\(Int((interval.rate("process_cpu_seconds_total") * 100).rounded()))%",
                later.value("process_resident_memory_bytes").map { Quantity.bytes(UInt64($0)) } ?? "-",
                whole("flotilla_connections"),
            ])
        }
        guard !groups.isEmpty else { return table.text }
        var busiest = Table(["GROUP", "LEADER", "OPS/S"], numeric: [2])
        for (group, leader, rate) in groups {
            busiest.add([group, leader.description, String(Int(rate.rounded()))])
        }
        return table.text + "\n\n" + busiest.text
    }

    var json: JSON {
        .object([
            (
                "nodes",
                .array(
                    nodes.map { address, interval in
                        var members: [(String, JSON)] = [("address", .string(address.description))]
                        guard let interval else { return .object(members + [("state", .string("down"))]) }
                        members += [
                            ("state", .string("up")),
                            ("writes_per_second", whole(interval.rate("flotilla_writes_total"))),
                            ("reads_per_second", whole(interval.rate("flotilla_reads_total"))),
                            ("cpu_percent", whole(interval.rate("process_cpu_seconds_total") * 100)),
                        ]
                        for stage in ["replicate", "log", "apply"] {
                            for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                                let seconds = interval.quantile(share, of: stage)
                                members.append(("\(stage)_\(name)_us", seconds.map { whole($0 * 1e6) } ?? .null))
                            }
                        }
                        return .object(members)
                    })
            ),
            (
                "groups",
                .array(
                    groups.map { group, leader, rate in
                        .object([
                            ("id", .string(group)), ("leader", .string(leader.description)),
                            ("operations_per_second", whole(rate)),
                        ])
                    })
            ),
        ])
    }

    private func whole(_ value: Double) -> JSON { .integer(Int64(value.rounded())) }

    /// In the unit that leaves few digits.
    static func duration(_ seconds: Double) -> String {
        switch seconds {
        case ..<0.001: "\(Int((seconds * 1e6).rounded()))us"
        case ..<1: "\(Quantity.oneDecimal(seconds * 1e3))ms"
        default: "\(Quantity.oneDecimal(seconds))s"
        }
    }
}

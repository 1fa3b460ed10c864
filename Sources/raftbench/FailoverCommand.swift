import ClusterProcesses
import Glibc
import RaftCore
import ShardClient
import ShardMap

let failoverCommand = Command(
    name: "failover",
    summary: "how long the groups that a node leads are without a leader, and refuse writes, when it is gone",
    options: [
        CommandOption(name: "groups", value: "N", help: "groups, each with three replicas (10240)"),
        CommandOption(name: "kind", value: "KIND", help: "kill or stop: SIGKILL or SIGSTOP (kill)"),
        CommandOption(
            name: "promise-ms", value: "MS", help: "raftd's --liveness-promise-ms: when a dead node is noticed (500)"),
        CommandOption(name: "retry-ms", value: "MS", help: "how soon a refused write is tried again (100)"),
        CommandOption(
            name: "attempt-ms", value: "MS", help: "how long a silent node is waited for before another is asked (200)"),
        .engine,
        CommandOption(name: "patience", value: "S", help: "how long to wait for the last group (60)"),
        CommandOption(name: "o", value: "FORMAT", help: "table or json (table)"),
    ],
    run: { (arguments) async throws(UsageError) in
        let kind = try arguments.word("kind", of: FailoverBench.Kind.allCases.map(\.rawValue))
        let settings = FailoverBench.Settings(
            groups: try arguments.number("groups", in: 1...20_000, default: 10_240),
            kind: FailoverBench.Kind(rawValue: kind) ?? .kill, engine: try arguments.engine(),
            promiseMilliseconds: try arguments.number("promise-ms", in: 100...60_000, default: 500),
            retryMilliseconds: try arguments.number("retry-ms", in: 1...10_000, default: 100),
            attemptMilliseconds: try arguments.number("attempt-ms", in: 10...60_000, default: 200),
            patienceSeconds: try arguments.seconds("patience", default: 60))
        let format = try arguments.word("o", of: ["table", "json"])
        do {
            let result = try await FailoverBench.run(settings)
            return Report(text: format == "json" ? result.json : result.table, complaint: result.complaint)
        } catch {
            throw UsageError(text: "cannot measure: \(error)")
        }
    })

/// What was measured of one node's end.
struct FailoverResult: Sendable {
    var groups: Int
    var kind: FailoverBench.Kind
    var promiseMilliseconds: Int
    var formationSeconds = 0.0
    /// Groups that the node led.
    var affected = 0
    /// By group that has another leader: milliseconds from the signal until that.
    var led: [Double] = []
    /// By group that took a write: milliseconds from the signal until its answer.
    var written: [Double] = []

    /// Set if a group was not led or not written to in the time given.
    var complaint: String? {
        guard led.count < affected || written.count < affected else { return nil }
        return "of \(affected) groups \(led.count) got a leader and \(written.count) took a write"
    }

    private static let columns = ["from the signal until   ", "groups", "  p50 ms", "  p90 ms", "  p99 ms", "  max ms"]

    var table: String {
        var lines = [
            "\(groups) groups of 3 replicas; \(kind.signalName) to a node that leads \(affected) of them; "
                + "--liveness-promise-ms \(promiseMilliseconds)",
            FailoverResult.columns.joined(separator: "  "),
        ]
        for (name, times) in [("another node leads", led), ("a write is answered", written)] where !times.isEmpty {
            lines.append(
                tableLine(
                    [name, "\(times.count)"] + FailoverResult.quantiles(of: times).map { whole($0.value) },
                    under: FailoverResult.columns))
        }
        return lines.map { $0 + "\n" }.joined()
    }

    var json: String {
        func distribution(_ times: [Double]) -> String {
            jsonObject(
                [("groups", "\(times.count)")]
                    + FailoverResult.quantiles(of: times).map { ("\($0.name)_ms", decimal($0.value)) })
        }
        return jsonObject([
            ("groups", "\(groups)"), ("kind", "\"\(kind.rawValue)\""), ("promise_ms", "\(promiseMilliseconds)"),
            ("formation_seconds", decimal(formationSeconds)), ("affected_groups", "\(affected)"),
            ("led", distribution(led)), ("written", distribution(written)),
            // of all groups, and from the time at which a dead node is noticed
            ("max_ms_after_detection", decimal(max(0, (written.max() ?? 0) - Double(promiseMilliseconds)))),
        ]) + "\n"
    }

    private static func quantiles(of times: [Double]) -> [(name: String, value: Double)] {
        guard let longest = times.max() else { return [] }
        return [
            ("p50", times.quantile(0.5)), ("p90", times.quantile(0.9)), ("p99", times.quantile(0.99)), ("max", longest),
        ]
    }
}

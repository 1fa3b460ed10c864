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
        CommandOption(
            name: "kind", value: "KIND",
            help:
                "kill or stop: SIGKILL or SIGSTOP; blackhole-out or -in: other nodes hear nothing of it, or it of them; "
                + "all: one after the other (kill)"),
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
        let word = try arguments.word("kind", of: FailoverBench.Kind.allCases.map(\.rawValue) + ["all"])
        var settings = FailoverBench.Settings(
            groups: try arguments.number("groups", in: 1...20_000, default: 10_240),
            kind: FailoverBench.Kind(rawValue: word) ?? .kill, engine: try arguments.engine(),
            promiseMilliseconds: try arguments.number("promise-ms", in: 100...60_000, default: 500),
            retryMilliseconds: try arguments.number("retry-ms", in: 1...10_000, default: 100),
            attemptMilliseconds: try arguments.number("attempt-ms", in: 10...60_000, default: 200),
            patienceSeconds: try arguments.seconds("patience", default: 60))
        let format = try arguments.word("o", of: ["table", "json"])
        do {
            var results: [FailoverResult] = []
            for kind in word == "all" ? FailoverBench.Kind.allCases : [settings.kind] {
                settings.kind = kind
                results.append(try await FailoverBench.run(settings))
            }
            let texts = results.map { format == "json" ? $0.json : $0.table }
            let isList = format == "json" && texts.count > 1
            let complaints = results.compactMap(\.complaint)
            return Report(
                text: isList ? "[\n" + texts.joined(separator: ",\n") + "]\n" : texts.joined(separator: "\n"),
                complaint: complaints.isEmpty ? nil : complaints.joined(separator: "; "))
        } catch {
            throw UsageError(text: "cannot measure: \(error)")
        }
    })

/// What was measured of what befell a node.
struct FailoverResult: Sendable {
    var groups: Int
    var kind: FailoverBench.Kind
    var promiseMilliseconds: Int
    var formationSeconds = 0.0
    /// Groups that the node led.
    var affected = 0
    /// By group that has another leader: milliseconds from the fault until that.
    var led: [Double] = []
    /// By group that took a write: milliseconds from the fault until its answer.
    var written: [Double] = []

    /// Set if a group was not led or not written to in the time given.
    var complaint: String? {
        guard led.count < affected || written.count < affected else { return nil }
        return "\(kind.rawValue): of \(affected) groups \(led.count) got a leader and \(written.count) took a write"
    }

    private static let columns = ["from the fault until    ", "groups", "  p50 ms", "  p90 ms", "  p99 ms", "  max ms"]

    var table: String {
        var lines = [
            "\(groups) groups of 3 replicas; \(kind.deed) a node that leads \(affected) of them; "
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

    /// Milliseconds from the moment at which a promise would end that was given when the fault began, until the last write
    /// was answered. Promises were given before that, by up to the pace at which they are asked for, so a little more than
    /// this passes after the last of them. Nil if a group was not written to, for then there is no last one.
    var afterPromise: Double? {
        guard affected > 0, written.count == affected, let longest = written.max() else { return nil }
        return longest - Double(promiseMilliseconds)
    }

    var json: String {
        func distribution(_ times: [Double]) -> String {
            jsonObject(
                [("groups", "\(times.count)")]
                    + FailoverResult.quantiles(of: times).map { ("\($0.name)_ms", decimal($0.value)) }
                    + [("quantiles_ms", FailoverResult.curve(of: times))])
        }
        return jsonObject([
            ("groups", "\(groups)"), ("kind", "\"\(kind.rawValue)\""), ("promise_ms", "\(promiseMilliseconds)"),
            ("formation_seconds", decimal(formationSeconds)), ("affected_groups", "\(affected)"),
            ("led", distribution(led)), ("written", distribution(written)),
            ("max_ms_minus_promise", afterPromise.map(decimal) ?? "null"),
        ]) + "\n"
    }

    /// In JSON: pairs of a share, from 0.01 to 1, and the time that it is not above.
    private static func curve(of times: [Double]) -> String {
        let sorted = times.sorted()
        guard !sorted.isEmpty else { return "[]" }
        let pairs = (1...100).map { percent in
            "[\(Double(percent) / 100),\(decimal(sorted[(sorted.count * percent + 99) / 100 - 1]))]"
        }
        return "[" + pairs.joined(separator: ",") + "]"
    }

    private static func quantiles(of times: [Double]) -> [(name: String, value: Double)] {
        guard let longest = times.max() else { return [] }
        return [
            ("p50", times.quantile(0.5)), ("p90", times.quantile(0.9)), ("p99", times.quantile(0.99)), ("max", longest),
        ]
    }
}

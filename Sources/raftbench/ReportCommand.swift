import ClusterProcesses

let reportCommand = Command(
    name: "report",
    summary: "one page with charts of what other commands have measured: their JSON, or a short run of each",
    options: [
        CommandOption(
            name: "from", value: "FILE,…",
            help: "results, as written by other commands with -o json; several in a file are fine (none: measures now)"),
        CommandOption(name: "out", value: "FILE", help: "where the page goes (raftbench.html)"),
        CommandOption(name: "title", value: "TEXT", help: "of the page (raftbench)"),
        CommandOption(name: "seconds", value: "S", help: "without --from: length of each measurement (2)"),
        .engine,
    ],
    run: { (arguments) async throws(UsageError) in
        let file = arguments.text("out") ?? "raftbench.html"
        let seconds = try arguments.seconds("seconds", default: 2)
        let engine = try arguments.engine()
        var results: [JSONValue] = []
        var complaints: [String] = []
        if let names = arguments.text("from") {
            for name in names.split(separator: ",").map(String.init) {
                do { results += try ReportPage.results(in: name) } catch { throw UsageError(text: "\(error)") }
            }
        } else {
            for words in ReportRuns.all(seconds: seconds, engine: engine) {
                let (command, options) = try Raftbench.parse(words)
                let conditions = await Conditions.now(words)
                let report = try await command.run(options)
                results += JSONValue.all(in: Array(conditions.stamped(on: report.text).utf8)) ?? []
                if let complaint = report.complaint { complaints.append("\(words[0]): \(complaint)") }
            }
        }
        let page = ReportPage(title: arguments.text("title") ?? "raftbench", results: results)
        do { try Files.write(Array(page.html.utf8), to: file) } catch { throw UsageError(text: "\(error)") }
        return Report(
            text: "\(file): \(results.count) results\n",
            complaint: complaints.isEmpty ? nil : complaints.joined(separator: "; "))
    })

/// What is measured for a page that is made of nothing else.
enum ReportRuns {
    static func all(seconds: Double, engine: BenchCluster.Engine) -> [[String]] {
        let common = ["--engine", engine.rawValue, "-o", "json"]
        let timed = ["--seconds", decimal(seconds)]
        return [
            ["kv", "--clients", "1"] + timed + common, ["kv", "--clients", "64"] + timed + common,
            ["kv", "--clients", "1000"] + timed + common,
            ["kv", "--clients", "1000", "--read-ratio", "1"] + timed + common,
            ["groups", "--groups", "1,16,256"] + timed + common, ["idle", "--groups", "256"] + timed + common,
            ["failover", "--groups", "256", "--kind", "kill"] + common,
            ["failover", "--groups", "256", "--kind", "stop"] + common,
            ["overload", "--connections", "2000"] + timed + common,
        ]
    }
}

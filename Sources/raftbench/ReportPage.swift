import ClusterProcesses

/// What several runs measured, as one page of HTML that needs nothing from elsewhere: no script, no file, no font. It is
/// light or dark as its reader's system is.
struct ReportPage {
    var title: String
    /// Of any commands, as they were read.
    var results: [JSONValue]

    /// The results in a file.
    static func results(in name: String) throws -> [JSONValue] {
        let text = try Files.read(name)
        // a command that measures several things has a list of them
        let values = JSONValue.all(in: text)?.flatMap { value in
            if case .array(let elements) = value { elements } else { [value] }
        }
        guard let values, values.allSatisfy({ $0.kind != nil }) else {
            throw Failed("\(name) has something else than results of raftbench with -o json")
        }
        return values
    }

    private func of(_ kinds: String...) -> [JSONValue] { results.filter { kinds.contains($0.kind ?? "") } }

    var html: String {
        let sections = [throughput, latency, kv, failover, idle, overload, moves].filter { !$0.isEmpty }
        let content = sections.isEmpty ? "<p>Nothing was measured.</p>\n" : sections.joined()
        return """
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <title>\(escaped(title))</title>
            <style>
            \(ReportPage.style)</style>
            </head>
            <body>
            <main>
            <h1>\(escaped(title))</h1>
            \(conditions)\(content)</main>
            </body>
            </html>

            """
    }

    // MARK: sections

    /// Where, when and how: nothing below means anything without it.
    private var conditions: String {
        let machines = Set(results.map { $0.text("machine") })
        let versions = Set(results.map { $0.text("version") })
        var html = "<p>Three nodes and what drives them share one machine, so these are figures of that machine: "
        html += "compare those of one page. Every write is synced by a majority before it is answered.</p>\n"
        html += "<dl><dt>machine</dt><dd>\(escaped(machines.sorted().joined(separator: "; ")))</dd>"
        html += "<dt>version</dt><dd>\(escaped(versions.sorted().joined(separator: "; ")))</dd></dl>\n"
        let rows = results.map { result in
            let words = result["arguments"]?.elements.compactMap(\.string) ?? [result.kind ?? ""]
            return [
                "raftbench " + words.joined(separator: " "), result.text("date"), result.text("load_average"),
            ]
        }
        return html + "<details open><summary>Runs</summary>\n"
            + table(["command", "begun", "load average before"], rows, texts: 2) + "</details>\n"
    }

    private var throughput: String {
        let runs = of("groups")
        guard !runs.isEmpty else { return "" }
        var series: [Chart.Series] = []
        var rows: [[String]] = []
        for (number, run) in runs.enumerated() {
            let name = run.text("engine") + (runs.count > 1 ? " (run \(number + 1))" : "")
            let points = run.elements("rows").compactMap { row in
                row.figure("groups").flatMap { groups in row.figure("ops_per_second").map { (x: groups, y: $0) } }
            }
            series.append(Chart.Series(name: name, points: points))
            for row in run.elements("rows") {
                rows.append(
                    [name, row.grouped("groups"), row.grouped("clients"), row.grouped("ops_per_second")]
                        + [row.figure("ratio_to_16").map { rounded($0) } ?? "–", row.rounded("operations_per_request")]
                        + row.times + [row.grouped("ops_per_cpu_second"), row.grouped("failed")])
            }
        }
        let chart = Chart(
            x: Chart.Axis(name: "active groups", scale: .logarithmic, format: grouped),
            y: Chart.Axis(name: "operations per second", format: grouped), series: series,
            label: "Throughput over the number of active groups")
        let columns =
            ["engine", "groups", "clients", "ops/s", "ratio to 16", "ops/request"] + ReportPage.timeColumns
            + ["ops/CPU s", "failed"]
        return section(
            "Throughput over groups", "The same load, spread over more and more groups.",
            chart.html + table(columns, rows, texts: 1))
    }

    private var latency: String {
        var series: [Chart.Series] = []
        for run in of("kv") { series.append(contentsOf: run.distribution("quantiles_us", run.loadName)) }
        for run in of("groups") {
            for row in run.elements("rows") {
                series.append(
                    contentsOf: row.distribution(
                        "quantiles_us", "groups: \(row.grouped("groups")), \(run.text("engine"))"))
            }
        }
        guard !series.isEmpty else { return "" }
        // more curves than colours tell nobody anything
        let drawings = stride(from: 0, to: series.count, by: Chart.colors).map { first in
            Chart(
                x: Chart.Axis(name: "share of operations", scale: .nines) { percent($0) },
                y: Chart.Axis(name: "milliseconds", scale: .logarithmic) { short($0 / 1000) },
                series: Array(series[first..<min(first + Chart.colors, series.count)]),
                label: "Latency that a share of operations does not exceed"
            ).html
        }
        return section(
            "Latency", "What share of the operations took no longer than that. Both axes stretch the tail.",
            drawings.joined())
    }

    private var kv: String {
        let runs = of("kv")
        guard !runs.isEmpty else { return "" }
        var rows: [[String]] = []
        for run in runs {
            for (row, name) in [(run, run.loadName), (run["one_connection_per_client"], "… a socket for each client")] {
                guard let row else { continue }
                rows.append(
                    [name, row.grouped("ops_per_second")] + row.times
                        + [row.rounded("operations_per_request"), row.grouped("ops_per_cpu_second")]
                        + [row.rounded("client_cpu_seconds"), row.grouped("failed")])
            }
            if let echo = run["echo"] {
                rows.append(
                    ["… bare echo, no cluster", echo.grouped("ops_per_second")] + echo.times + ["", "", "", ""])
            }
        }
        let columns =
            ["load", "ops/s"] + ReportPage.timeColumns + ["ops/request", "ops/CPU s", "load CPU s", "failed"]
        return section(
            "Loads", "ops/CPU s: per second of processor that the three nodes had together.",
            table(columns, rows, texts: 1))
    }

    private var failover: String {
        let runs = of("failover")
        guard !runs.isEmpty else { return "" }
        var series: [Chart.Series] = []
        var rows: [[String]] = []
        for run in runs {
            let name = "\(run.text("kind")), \(run.grouped("groups")) groups"
            for (member, what) in [("led", "led again"), ("written", "written to")] {
                guard let times = run[member] else { continue }
                let known = times.elements("quantiles_ms").compactMap { point in
                    point.elements.first?.number.flatMap { share in
                        point.elements.last?.number.map { (x: $0, y: share) }
                    }
                }
                let few = [("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("max_ms", 1)].compactMap { quantile in
                    times.figure(quantile.0).map { (x: $0, y: quantile.1) }
                }
                let points = known.isEmpty ? few : known
                if !points.isEmpty { series.append(Chart.Series(name: "\(name): \(what)", points: points)) }
                rows.append(
                    [name, what, run.grouped("affected_groups"), times.grouped("groups")]
                        + ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map { times.grouped($0) }
                        + [run.grouped("promise_ms")])
            }
        }
        let chart = Chart(
            x: Chart.Axis(name: "milliseconds since the node was taken away", format: grouped),
            y: Chart.Axis(name: "share of its groups") { percent($0) },
            series: Array(series.prefix(Chart.colors)), label: "Share of groups that serve again over time")
        let columns = [
            "what happened", "groups that are", "affected", "recovered", "p50 ms", "p90 ms", "p99 ms", "max ms",
            "promise ms",
        ]
        return section(
            "Failover",
            "A node that leads a third of the groups goes. Nobody may act before the promise of that many milliseconds is over.",
            chart.html + table(columns, rows, texts: 2))
    }

    private var idle: String {
        let runs = of("idle")
        guard !runs.isEmpty else { return "" }
        let rows = runs.map { run in
            [run.text("engine"), run.grouped("groups"), run.rounded("cpu_percent_per_process")]
                + ["resident_bytes_per_group", "resident_bytes_per_group_after_restart"].map { run.grouped($0) }
                + ["start_seconds", "start_after_kill_seconds", "formation_seconds"].map { run.rounded($0) }
        }
        let columns = [
            "engine", "groups", "% of a core per process", "bytes per group", "after a restart", "start s",
            "after SIGKILL s", "forming s",
        ]
        return section(
            "Idle groups", "What groups cost that do nothing; each has a replica in each of the three processes.",
            table(columns, rows, texts: 1))
    }

    private var overload: String {
        let runs = of("overload")
        guard !runs.isEmpty else { return "" }
        var rows: [[String]] = []
        var series: [Chart.Series] = []
        for run in runs {
            let name = "\(run.grouped("connections")) connections"
            for (member, what) in [("executed", "executed"), ("busy", "BUSY")] {
                guard let times = run[member] else { continue }
                series.append(contentsOf: times.distribution("quantiles_us", "\(name): \(what)"))
                rows.append([name, what, times.grouped("count")] + times.times + [run.grouped("elections")])
            }
            if let seen = run["bystander"] {
                for (what, prefix) in [("writes of a client beside it", "write"), ("reads of it", "read")] {
                    rows.append(
                        [name, what, seen.grouped("\(prefix)s")]
                            + ["p50", "p99"].map { seen.milliseconds("\(prefix)_\($0)_us") } + [""]
                            + [seen.milliseconds("\(prefix)_max_us"), ""])
                }
            }
        }
        let chart = Chart(
            x: Chart.Axis(name: "share of commands", scale: .nines) { percent($0) },
            y: Chart.Axis(name: "milliseconds", scale: .logarithmic) { short($0 / 1000) },
            series: Array(series.prefix(Chart.colors)), label: "How long commands waited under overload")
        let memory = runs.map { run in
            let peaks = run.elements("resident_bytes_peak").compactMap(\.number).map { grouped($0 / Double(1 << 20)) }
            let before = run.elements("resident_bytes_before").compactMap(\.number).map {
                grouped($0 / Double(1 << 20))
            }
            return [
                "\(run.grouped("connections")) connections", before.joined(separator: " "),
                peaks.joined(separator: " "),
            ]
        }
        return section(
            "Overload", "Far more connections than can be served, each with commands under way.",
            chart.html
                + table(["load", "commands", "count"] + ReportPage.timeColumns + ["elections"], rows, texts: 2)
                + table(["load", "MiB in memory before, by process", "at most"], memory, texts: 3))
    }

    private var moves: String {
        let runs = of("move").flatMap { $0.elements("sizes") }
        guard !runs.isEmpty else { return "" }
        let rows = runs.map { run in
            let frozen = run.elements("frozen_ms").compactMap(\.number)
            let seconds = run.elements("move_seconds").compactMap(\.number)
            return [
                grouped((run.figure("shard_bytes") ?? 0) / Double(1 << 20)), "\(seconds.count)",
                seconds.isEmpty ? "–" : rounded(seconds.quantile(0.5)), run.rounded("mib_per_second"),
                frozen.isEmpty ? "–" : grouped(frozen.quantile(0.5)), frozen.max().map(grouped) ?? "–",
            ]
        }
        return section(
            "Moving a shard", "Frozen: nobody serves it.",
            table(["MiB", "moves", "p50 s", "MiB/s", "frozen p50 ms", "frozen max ms"], rows, texts: 0))
    }

    // MARK: pieces

    fileprivate static let timeColumns = ["p50 ms", "p99 ms", "p99.9 ms", "max ms"]

    private func section(_ title: String, _ text: String, _ content: String) -> String {
        "<section>\n<h2>\(escaped(title))</h2>\n<p>\(escaped(text))</p>\n\(content)</section>\n"
    }

    /// The first `texts` columns are words, the others figures.
    private func table(_ columns: [String], _ rows: [[String]], texts: Int) -> String {
        func cells(_ texts: [String], _ tag: String, _ words: Int) -> String {
            texts.enumerated().map { number, text in
                "<\(tag)\(number < words ? "" : " class=\"figure\"")>\(escaped(text))</\(tag)>"
            }.joined()
        }
        let head = "<thead><tr>\(cells(columns, "th", texts))</tr></thead>\n"
        let body = rows.map { "<tr>\(cells($0, "td", texts))</tr>\n" }.joined()
        return "<div class=\"wide\"><table>\n\(head)<tbody>\n\(body)</tbody>\n</table></div>\n"
    }

    private static let style = """
        :root { color-scheme: light dark; --page: #fcfcfb; --ink: #1d1f21; --soft: #5c6167; --rule: #dcdfe2;
          --c0: #1f66b0; --c1: #c0500f; --c2: #23804d; --c3: #8a3ea8; --c4: #9a7400; --c5: #b3275c; }
        @media (prefers-color-scheme: dark) { :root { --page: #16181a; --ink: #e6e8ea; --soft: #a0a6ac; --rule: #34383c;
          --c0: #6fabea; --c1: #f0965a; --c2: #62c08c; --c3: #c796de; --c4: #d6b23e; --c5: #ee82aa; } }
        body { margin: 0; background: var(--page); color: var(--ink);
          font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
        main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
        h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; }
        p { margin: .25rem 0 .75rem; color: var(--soft); max-width: 45rem; }
        dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .5rem 0 1rem; }
        dt { color: var(--soft); } dd { margin: 0; }
        summary { cursor: pointer; color: var(--soft); }
        .wide { overflow-x: auto; margin: .75rem 0; }
        table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem; }
        th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--rule);
          vertical-align: bottom; } th { color: var(--soft); font-weight: 500; }
        td { white-space: nowrap; } .figure { text-align: right; }
        svg { display: block; width: 100%; height: auto; margin: .5rem 0; }
        svg text { fill: var(--soft); font-size: 12px; font-family: inherit; }
        .grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
        .curve { fill: none; stroke-width: 2; stroke-linejoin: round; } .dot { stroke: var(--page); stroke-width: 1.5; }
        .legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .75rem 0 0; padding: 0;
          font-size: .87rem; }
        .swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em; }
        .curve.c0 { stroke: var(--c0); } .dot.c0 { fill: var(--c0); } .swatch.c0 { background: var(--c0); }
        .curve.c1 { stroke: var(--c1); } .dot.c1 { fill: var(--c1); } .swatch.c1 { background: var(--c1); }
        .curve.c2 { stroke: var(--c2); } .dot.c2 { fill: var(--c2); } .swatch.c2 { background: var(--c2); }
        .curve.c3 { stroke: var(--c3); } .dot.c3 { fill: var(--c3); } .swatch.c3 { background: var(--c3); }
        .curve.c4 { stroke: var(--c4); } .dot.c4 { fill: var(--c4); } .swatch.c4 { background: var(--c4); }
        .curve.c5 { stroke: var(--c5); } .dot.c5 { fill: var(--c5); } .swatch.c5 { background: var(--c5); }

        """
}

// MARK: figures as a reader wants them

/// A whole number with its thousands apart.
func grouped(_ number: Double) -> String {
    let digits = whole(abs(number))
    var text = ""
    for (position, digit) in digits.enumerated() {
        if position > 0, (digits.count - position) % 3 == 0 { text.append(",") }
        text.append(digit)
    }
    return number <= -0.5 ? "−" + text : text
}

/// With at most two digits behind the point, fewer for large numbers.
func rounded(_ number: Double) -> String { abs(number) >= 100 ? grouped(number) : String(decimal(number).dropLast()) }

/// A number of any size with the digits that tell something.
private func short(_ number: Double) -> String { number < 10 ? trimmed(number) : grouped(number) }

/// With as many digits behind the point as it has, three at most.
private func trimmed(_ number: Double) -> String {
    var text = decimal(number)
    while text.last == "0" { text.removeLast() }
    if text.last == "." { text.removeLast() }
    return text
}

private func percent(_ share: Double) -> String { trimmed(share * 100) + " %" }

extension JSONValue {
    /// The command whose result it is.
    fileprivate var kind: String? {
        self["command"]?.string
            // of a run from before results named it
            ?? [
                ("rows", "groups"), ("ops_per_second", "kv"), ("cpu_percent_per_process", "idle"), ("led", "failover"),
                ("sizes", "move"),
            ].first { self[$0.0] != nil }?.1
    }

    fileprivate func text(_ name: String) -> String { self[name]?.string ?? "unknown" }
    fileprivate func figure(_ name: String) -> Double? { self[name]?.number }
    fileprivate func elements(_ name: String) -> [JSONValue] { self[name]?.elements ?? [] }
    fileprivate func grouped(_ name: String) -> String { figure(name).map { raftbench.grouped($0) } ?? "–" }
    fileprivate func rounded(_ name: String) -> String { figure(name).map { raftbench.rounded($0) } ?? "–" }
    /// Of a time in microseconds.
    fileprivate func milliseconds(_ name: String) -> String {
        figure(name).map { raftbench.rounded($0 / 1000) } ?? "–"
    }

    /// Under ``ReportPage/timeColumns``.
    fileprivate var times: [String] { ["p50_us", "p99_us", "p999_us", "max_us"].map { milliseconds($0) } }

    /// A result of `kv` in a few words.
    fileprivate var loadName: String {
        let reads = figure("read_ratio") ?? 0
        let kind = reads == 0 ? "puts" : reads == 1 ? "gets" : "\(percent(reads)) gets"
        return "\(grouped("clients")) clients, \(kind), groups: \(grouped("groups")), \(text("engine"))"
    }

    /// The curve in the member `name`, pairs of a share and a time.
    fileprivate func distribution(_ name: String, _ title: String) -> [Chart.Series] {
        let points = elements(name).compactMap { point in
            point.elements.first?.number.flatMap { share in
                point.elements.last?.number.map { (x: share, y: max($0, 1)) }
            }
        }
        return points.isEmpty ? [] : [Chart.Series(name: title, points: points)]
    }
}

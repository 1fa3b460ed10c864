import ClusterProcesses
import FlotillaTestSupport
import RaftCore
import Testing

@testable import raftbench

@Suite("raftbench report") struct ReportTests {
    @Test("JSON as it is read")
    func json() throws {
        let text = #" {"a": [1, -2.5e1, true, null, "x\"\\\n\u00e9"], "b": {}} [] "#
        let values = try #require(JSONValue.all(in: Array(text.utf8)))
        #expect(values.count == 2 && values[1] == .array([]))
        #expect(values[0]["a"] == .array([.number(1), .number(-25), .bool(true), .null, .string("x\"\\\né")]))
        #expect(values[0]["b"] == .object([]) && values[0]["c"] == nil)
        #expect(JSONValue.all(in: Array(jsonString("a\"b\\c\nd<é>").utf8)) == [.string("a\"b\\c\nd<é>")])
    }

    @Test(
        "what is no JSON",
        arguments: [
            "{", "[1,]", "{\"a\"}", "{\"a\":1,}", "nul", "\"x", "\"\\u12\"", "1 2 x",
            String(repeating: "[", count: 9999),
        ])
    func noJSON(text: String) { #expect(JSONValue.all(in: Array(text.utf8)) == nil) }

    @Test("a page of every kind of result has their figures, and nothing from elsewhere")
    func page() async throws {
        let directory = TemporaryDirectory()
        let (from, out) = (directory.path + "/results", directory.path + "/page.html")
        try Files.write(Array(Self.results.utf8), to: from)
        let (command, arguments) = try Raftbench.parse(["report", "--from", from, "--out", out, "--title", "a <b> & c"])
        let report = try await command.run(arguments)
        #expect(report.text == "\(out): 6 results\n" && report.complaint == nil)
        let html = try Files.text(out)
        #expect(html.hasPrefix("<!DOCTYPE html>") && html.contains("<h1>a &lt;b&gt; &amp; c</h1>"))
        for title in ["Throughput over groups", "Latency", "Loads", "Failover", "Idle groups", "Overload", "Moving"] {
            #expect(html.contains("<h2>\(title)"), "\(title)")
        }
        for figure in [
            "12,345", "9,876", "0.93", "1,234", "7,071", "kill, 64 groups", "2 processors", "abc-dirty", ">99.9 %<",
        ] {
            #expect(html.contains(figure), "\(figure)")
        }
        #expect(html.contains("prefers-color-scheme: dark"))
        for foreign in ["<script", "http:", "https:", "src=", "@import", "url(", "NaN", "inf\"", "nan"] {
            #expect(!html.contains(foreign), "\(foreign)")
        }
        // every element of the drawings is closed, and every drawing has its curves
        for tag in ["svg", "text", "circle", "table", "section"] {
            let (begun, ended) = (html.occurrences(of: "<\(tag)[ >]"), html.occurrences(of: "</\(tag)>"))
            #expect(begun == ended && begun > 0, "\(tag)")
        }
    }

    @Test("a file that has something else")
    func otherFile() async throws {
        let directory = TemporaryDirectory()
        try Files.write(Array("{\"x\":1}".utf8), to: directory.path + "/x")
        for name in [directory.path + "/x", directory.path + "/none"] {
            let (command, arguments) = try Raftbench.parse(["report", "--from", name])
            await #expect(throws: UsageError.self) { _ = try await command.run(arguments) }
        }
    }

    @Test("ticks are round, and frame what is drawn")
    func ticks() {
        #expect(Chart.ticks(.linear, [3, 870]) == [0, 200, 400, 600, 800, 1000])
        #expect(Chart.ticks(.logarithmic, [1, 1024]) == [1, 10, 100, 1000, 10_000])
        #expect(Chart.ticks(.logarithmic, [30, 80]) == [20, 50, 100])
        #expect(Chart.ticks(.nines, [0.01, 0.995]) == [0, 0.5, 0.9, 0.99])
        #expect(Chart.ticks(.linear, [0]) == [0, 1])
    }

    @Test("conditions stand before a result")
    func stamp() throws {
        let conditions = Conditions(
            date: "d", machine: "a \"b\"", version: "v", load: "0.1", commandLine: ["kv", "--clients", "1"])
        let stamped = conditions.stamped(on: "{\"groups\":1}\n")
        let value = try #require(JSONValue.all(in: Array(stamped.utf8)))[0]
        #expect(value["machine"] == .string("a \"b\"") && value["groups"] == .number(1))
        #expect(value["arguments"]?.elements.count == 3)
        #expect(conditions.stamped(on: "a table") == "a table")
    }

    @Test("numbers as readers want them")
    func numbers() {
        #expect(grouped(1_234_567) == "1,234,567" && grouped(999.6) == "1,000" && grouped(-1234) == "−1,234")
        #expect(decimal(-1.5) == "-1.500" && decimal(0.0004) == "0.000")
        #expect(rounded(0.934) == "0.93" && rounded(1234.5) == "1,235")
    }

    private static let stamp =
        #""date":"2026-01-01 10:00 UTC","machine":"2 processors","version":"abc-dirty","load_average":"0.10","#
    private static let quantiles =
        #""p50_us":400,"p99_us":900.5,"p999_us":1500,"max_us":7071000,"quantiles_us":[[0.5,400],[0.999,900]]"#
    private static let row =
        #""clients":64,"ops_per_second":12345,"failed":0,"ops_per_cpu_second":9876,"operations_per_request":2,"#

    private static func result(_ command: String, _ members: String) -> String {
        "{\"command\":\"\(command)\",\"arguments\":[\"\(command)\",\"-o\",\"json\"],\(stamp)\(members)}\n"
    }

    /// One of each kind.
    private static var results: String {
        let groups = """
            "engine":"memory","rows":[{"groups":1,"ratio_to_16":null,\(row)\(quantiles)},
            {"groups":1024,"ratio_to_16":0.934,\(row)\(quantiles)}]
            """
        let failover = """
            "groups":64,"kind":"kill","promise_ms":500,"affected_groups":21,
            "led":{"groups":21,"p50_ms":600,"p90_ms":700,"p99_ms":800,"max_ms":810},
            "written":{"groups":21,"p50_ms":700,"p90_ms":800,"p99_ms":900,"max_ms":1234,"quantiles_ms":[[0.1,500],[1,1234]]}
            """
        let overload = """
            "connections":10000,"executed":{"count":5,\(quantiles)},"busy":{"count":1,\(quantiles)},
            "elections":0,"resident_bytes_peak":[1048576],"bystander":{"writes":3,"write_p50_us":1000}
            """
        return [
            result("kv", "\"groups\":16,\"engine\":\"rocksdb\",\"read_ratio\":0,\(row)\(quantiles)"),
            result("groups", groups), result("failover", failover),
            result("idle", #""groups":1024,"engine":"rocksdb","cpu_percent_per_process":0.4,"calm":true"#),
            result("overload", overload),
            result("move", #""sizes":[{"shard_bytes":1048576,"move_seconds":[0.5],"frozen_ms":[12]}]"#),
        ].joined()
    }
}

extension String {
    /// How often it has `text`, whose last character may be a choice in brackets.
    fileprivate func occurrences(of text: String) -> Int {
        guard text.hasSuffix("[ >]") else { return components(text) }
        let stem = String(text.dropLast(4))
        return components(stem + " ") + components(stem + ">")
    }

    private func components(_ text: String) -> Int {
        let (all, wanted) = (Array(utf8), Array(text.utf8))
        guard all.count >= wanted.count else { return 0 }
        return (0...all.count - wanted.count).count {
            all[$0] == wanted[0] && all[$0..<$0 + wanted.count].elementsEqual(wanted)
        }
    }
}

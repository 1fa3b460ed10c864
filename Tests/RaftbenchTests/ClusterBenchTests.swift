import ClusterProcesses
import RaftCore
import ShardMap
import Testing

@testable import raftbench

/// Short runs against clusters of real processes: what is printed must be there and be plausible.
@Suite("raftbench against clusters", .serialized) struct ClusterBenchTests {
    /// The number that is first called `name` in a JSON text.
    private func number(_ name: String, in json: String) -> Double? {
        let parts = json.split(separator: "\"\(name)\":", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { return nil }
        return Double(parts[1].prefix { $0.isNumber || $0 == "." || $0 == "-" })
    }

    private func run(_ words: [String]) async throws -> Report {
        let (command, arguments) = try Raftbench.parse(words)
        return try await command.run(arguments)
    }

    @Test("kv: throughput, times and price, beside separate connections and a bare echo", .timeLimit(.minutes(3)))
    func kv() async throws {
        let json = try await run([
            "kv", "--clients", "6", "--connections", "2", "--groups", "3", "--read-ratio", "0.5", "--keys", "50",
            "--seconds", "0.5", "--warmup", "0.1", "--echo", "-o", "json",
        ]).text
        #expect(json.hasPrefix("{") && json.hasSuffix("}\n"))
        let operations = try #require(number("operations", in: json))
        let rate = try #require(number("ops_per_second", in: json))
        let seconds = try #require(number("seconds", in: json))
        #expect(operations > 0 && number("failed", in: json) == 0)
        #expect(seconds >= 0.5 && abs(rate - operations / seconds) <= 1)
        let times = try ["p50_us", "p99_us", "p999_us", "max_us"].map { try #require(number($0, in: json)) }
        #expect(times[0] > 0 && times == times.sorted())
        // six clients in a closed loop: half of their operations take no longer than the median
        #expect(times[0] <= 2 * 6 * seconds / operations * 1e6)
        let price = try #require(number("ops_per_cpu_second", in: json))
        #expect(price > 0 && price >= operations / (3 * 64 * seconds))
        let separate = try #require(json.split(separator: "\"one_connection_per_client\":").last.map(String.init))
        #expect(number("connections", in: separate) == 6 && number("ops_per_second", in: separate) ?? 0 > 0)
        let echo = try #require(json.split(separator: "\"echo\":").last.map(String.init))
        #expect(number("clients", in: echo) == 6 && number("ops_per_second", in: echo) ?? 0 > 0)
    }

    @Test("groups: a row for each cluster, in relation to that with sixteen", .timeLimit(.minutes(3)))
    func groups() async throws {
        let text = try await run([
            "groups", "--groups", "1,16", "--clients", "8", "--keys", "50", "--seconds", "0.3", "--warmup", "0.1",
            "--engine", "memory",
        ]).text
        let lines = text.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        #expect(lines.count == 4)
        #expect(lines[2][0] == "1" && lines[3][0] == "16" && lines[3][3] == "1.000")
        let rates = try lines[2...3].map { try #require(Double($0[2])) }
        #expect(rates[0] > 0 && rates[1] > 0)
        let ratio = try #require(Double(lines[2][3]))
        #expect(abs(ratio - rates[0] / rates[1]) < 0.01 * ratio + 0.001)
    }

    @Test("idle: processors, memory and the start of a node", .timeLimit(.minutes(3)))
    func idle() async throws {
        let json = try await run(["idle", "--groups", "4", "--seconds", "0.5", "--settle", "1", "-o", "json"]).text
        let percent = try #require(number("cpu_percent_per_process", in: json))
        #expect(percent >= 0 && percent <= 100 * 64)
        #expect(number("resident_bytes_per_group", in: json) != nil)
        for name in ["start_seconds", "start_after_kill_seconds", "formation_seconds"] {
            let seconds = try #require(number(name, in: json))
            #expect(seconds > 0 && seconds < 120)
        }
    }

    @Test(
        "failover: every group of the node gets a leader and takes a write", .timeLimit(.minutes(3)),
        arguments: ["kill", "stop", "blackhole-out", "blackhole-in"])
    func failover(kind: String) async throws {
        let report = try await run([
            "failover", "--groups", "6", "--kind", kind, "--promise-ms", "500", "-o", "json",
        ])
        let affected = try #require(number("affected_groups", in: report.text))
        let led = try #require(report.text.split(separator: "\"led\":").last.map(String.init))
        let written = try #require(report.text.split(separator: "\"written\":").last.map(String.init))
        #expect(report.complaint == nil && affected >= 0)
        #expect(number("groups", in: led) == affected && number("groups", in: written) == affected)
        guard affected > 0 else { return }
        let slowest = try #require(number("max_ms", in: written))
        let first = try #require(number("p50_ms", in: led))
        // nobody notices before the promise is nearly over, unless the node's end is told
        #expect(first > 0 && slowest > 0 && slowest < 60_000)
        let late = try #require(number("max_ms_minus_promise", in: report.text))
        #expect(abs(late - (slowest - 500)) < 1)
    }

    @Test("failover: nothing is said of the last write where there is none")
    func unfinishedFailover() {
        var result = FailoverResult(groups: 3, kind: .blackholeIn, promiseMilliseconds: 500)
        result.affected = 2
        (result.led, result.written) = ([510, 520], [530])
        #expect(result.complaint == "blackhole-in: of 2 groups 2 got a leader and 1 took a write")
        #expect(result.json.contains("\"max_ms_minus_promise\":null"))
        result.written.append(480)
        #expect(result.complaint == nil && result.afterPromise == 30)
        // a hundredth of two is one of them
        #expect(result.json.contains("\"quantiles_ms\":[[0.01,510"))
        // noticed before a promise ran out
        result.written = [400, 499.5]
        #expect(result.afterPromise == -0.5 && result.json.contains("\"max_ms_minus_promise\":-0.500"))
    }

    @Test(
        "overload: what is too much is refused as busy, and nobody else notices", .timeLimit(.minutes(3)))
    func overload() async throws {
        let report = try await run([
            "overload", "--connections", "300", "--pipeline", "32", "--groups", "2", "--seconds", "3", "--keys", "100",
            "--busy-after-ms", "10", "-o", "json",
        ])
        let json = report.text
        #expect(number("opened", in: json) == 300 && number("closed", in: json) == 0)
        // beside other tests there may be one
        let elections = try #require(number("elections", in: json))
        #expect((report.complaint == nil) == (elections == 0))
        let executed = try #require(json.split(separator: "\"executed\":").last.map(String.init))
        let busy = try #require(json.split(separator: "\"busy\":").last.map(String.init))
        #expect(number("count", in: executed) ?? 0 > 0)
        // 9,600 commands under way: nobody answers those within 10 ms
        #expect(number("count", in: busy) ?? 0 > 0)
        #expect(json.contains("\"errors\":{}"))
        let beside = try #require(json.split(separator: "\"bystander\":").last.map(String.init))
        #expect(number("writes", in: beside) ?? 0 > 0 && number("failed", in: beside) == 0)
        let peaks = try #require(json.split(separator: "\"resident_bytes_peak\":[").last)
        #expect(peaks.prefix { $0 != "]" }.split(separator: ",").compactMap { Int($0) }.allSatisfy { $0 > 1 << 20 })
    }

    @Test("replies of the Redis protocol, also those that are not there yet")
    func replies() {
        let stream = "+OK\r\n$4\r\na\r\nb\r\n"
        var position = 0
        let bytes = Bytes("+OK\r\n$5\r\na\r\nbc\r\n$-1\r\n-BUSY try again\r\n:12\r\n$0\r\n\r\n")
        var replies: [OverloadReply] = []
        while let reply = OverloadReply.next(bytes, &position) { replies.append(reply) }
        #expect(replies == [.answer, .answer, .answer, .error("BUSY"), .answer, .answer] && position == bytes.count)
        for count in 0..<stream.utf8.count - 1 {
            var position = 5
            let part = Bytes(Array(stream.utf8.prefix(count)))
            #expect(count < 5 || OverloadReply.next(part, &position) == nil)
        }
    }

    @Test("elections after a moment, from what nodes print")
    func elections() {
        func line(_ time: String, _ group: String) -> String {
            "2000-01-31T\(time)Z info leads group=\(group) term=3\n"
        }
        // 23:59:59.500 of some day
        let start: Int64 = 3 * 24 * 3600 * 1000 + 86_399_500
        var elections = Elections(of: ["g1", "g2", "g3"], after: start)
        elections.add(line("23:59:59.400", "g1") + line("23:59:59.700", "g1") + line("23:59:59.900", "g1"))
        elections.add(line("00:00:00.100", "g2") + line("23:59:59.800", "g4") + "a line about g3\n")
        #expect(elections.milliseconds.sorted() == [200, 600])
    }

    @Test("keys lie in their shards, equally many in each", arguments: [1, 2, 16, 1000])
    func keys(groups: Int) throws {
        let starts = [Bytes()] + BootstrapRecord.evenBoundaries(groups: groups)
        let shards = starts.indices.map { position in
            let end = position + 1 < starts.count ? starts[position + 1] : Bytes()
            return Shard(
                id: UInt64(position), range: KeyRange(start: starts[position], end: end), group: "g", epoch: 1)
        }
        let keys = KeySet(2500, in: shards)
        #expect(keys.count >= 2500 && keys.count % groups == 0)
        for position in 0..<keys.count { #expect(shards[position % groups].range.contains(keys[position])) }
        #expect(Set((0..<keys.count).map { keys[$0] }).count == keys.count)
    }

    @Test(
        "what the options do not allow",
        arguments: [
            ["kv", "--read-ratio", "1.5"], ["kv", "--engine", "paper"], ["kv", "--echo=yes"],
            ["failover", "--kind", "pull"],
            ["overload", "--pipeline", "0"], ["report", "--from"], ["budget", "--requests", "1"],
            ["idle", "--groups", "1"], ["groups", "--groups", "0"], ["kv", "--clients"],
        ])
    func refusals(words: [String]) async {
        await #expect(throws: UsageError.self) { _ = try await run(words) }
    }
}

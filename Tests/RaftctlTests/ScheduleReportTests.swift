import RaftCore
import ShardMap
import Testing

@testable import raftctl

@Suite("What the scheduler is said to do") struct ScheduleReportTests {
    private static let report = ScheduleReport(
        rebalancing: .on, restMilliseconds: 90_000,
        decisions: [
            .init(at: 0, what: "move shard 3 from g1 to g2", reason: "load: too much", operation: 7),
            .init(at: 1000, what: "hand group g1 over to 1.2.3.4:5:0", reason: "leaders: too many", problem: "it lags"),
        ],
        blocked: [.init(node: 4, group: "g2", reason: "drain: node 4 is draining, but it is alone")], drain: nil,
        notToStop: [], shards: [])

    @Test("mode, decisions with their reasons and what came of them, and what is blocked")
    func text() {
        let lines = Self.report.text.split(separator: "\n")
        #expect(lines[0].hasPrefix("rebalancing is on; ") && lines[0].hasSuffix("another 1m30s"))
        #expect(lines[2].hasSuffix("  hand group g1 over to 1.2.3.4:5:0 (leaders: too many); it failed: it lags"))
        #expect(lines[3].hasSuffix("  move shard 3 from g1 to g2 (load: too much); operation 7"))
        #expect(lines.last == "drain: node 4 is draining, but it is alone")
        var off = Self.report
        (off.rebalancing, off.decisions, off.blocked) = (.off, [], [])
        #expect(off.text == "rebalancing is off")
    }

    @Test func json() {
        let text = Self.report.json.text
        #expect(text.hasPrefix(#"{"rebalancing":"on","rests_ms":90000,"decisions":[{"at_ms":0,"what":"move shard 3"#))
        #expect(text.contains(#""operation":7,"problem":null}"#) && text.contains(#""problem":"it lags"}"#))
        #expect(text.contains(#""blocked":[{"node":4,"group":"g2","reason":"drain: "#))
    }

    @Test("how far a drain is") func drain() {
        let drain = ScheduleReport.Drain(isDone: false, replicas: ["g1", "g2"], leaderships: ["g2"], operations: [])
        let line = Self.report.progress(of: 4, drain)
        #expect(line.hasPrefix("node 4: 2 replicas left, 1 leadership, 0 operations under way; blocked: drain: node 4"))
        #expect(Self.report.progress(of: 5, drain).hasSuffix("under way"))
    }
}

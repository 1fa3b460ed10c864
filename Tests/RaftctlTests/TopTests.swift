import RaftCore
import Testing

@testable import raftctl

@Suite("What top makes of a node's metrics")
struct TopTests {
    private static func page(writes: Int, cpu: String, below: [Int], group: Int) -> MetricsSample {
        MetricsSample(
            """
            # HELP flotilla_writes_total Proposals.
            # TYPE flotilla_writes_total counter
            flotilla_writes_total \(writes)
            process_cpu_seconds_total \(cpu)
            flotilla_leaders 2
            flotilla_replicas 3
            flotilla_stage_seconds_bucket{stage="log",le="0.001"} \(below[0])
            flotilla_stage_seconds_bucket{stage="log",le="0.002"} \(below[1])
            flotilla_stage_seconds_bucket{stage="log",le="+Inf"} \(below[2])
            flotilla_stage_seconds_bucket{stage="apply",le="+Inf"} 0
            flotilla_group_operations_total{group="g\\"1\\\\,}\\n",role="leader"} \(group)
            flotilla_group_operations_total{group="g2",role="follower"} \(group)
            this is no sample
            """)
    }

    @Test("Names, labels and values are read, escaped ones too")
    func reading() {
        let sample = Self.page(writes: 7, cpu: "1.5", below: [1, 2, 3], group: 9)
        #expect(sample.value("flotilla_writes_total") == 7 && sample.value("process_cpu_seconds_total") == 1.5)
        #expect(sample.value("nothing") == nil)
        #expect(sample.series.filter { $0.labels["group"] == "g\"1\\,}\n" }.map(\.value) == [9])
        let log = sample.buckets(of: "log")
        #expect(log.map(\.bound) == [0.001, 0.002, .infinity] && log.map(\.count) == [1, 2, 3])
    }

    @Test("Rates and quantiles are of the time between two looks")
    func intervals() {
        let earlier = Self.page(writes: 100, cpu: "1", below: [50, 60, 60], group: 10)
        let later = Self.page(writes: 300, cpu: "1.5", below: [50, 159, 160], group: 30)
        let interval = MetricsInterval(earlier: earlier, later: later, seconds: 2)
        #expect(interval.rate("flotilla_writes_total") == 100 && interval.rate("process_cpu_seconds_total") == 0.25)
        // all of them were before
        #expect(interval.quantile(0.5, of: "log") == 0.002)
        // beyond the last bound there is nothing to say but that
        #expect(interval.quantile(1, of: "log") == 0.002)
        #expect(interval.quantile(0.5, of: "apply") == nil && interval.quantile(0.5, of: "none") == nil)
        #expect(interval.groupRates.map(\.group) == ["g\"1\\,}\n"] && interval.groupRates.map(\.rate) == [10])
    }

    @Test("A node that was started again counts from nothing")
    func restart() {
        let earlier = Self.page(writes: 100, cpu: "1", below: [50, 60, 60], group: 10)
        let later = Self.page(writes: 30, cpu: "0.1", below: [20, 20, 20], group: 5)
        let interval = MetricsInterval(earlier: earlier, later: later, seconds: 2)
        #expect(interval.rate("flotilla_writes_total") == 15 && interval.quantile(0.99, of: "log") == 0.001)
        #expect(interval.groupRates.isEmpty)
    }

    @Test("The report has a line per node, and the groups that are led")
    func report() throws {
        let earlier = Self.page(writes: 100, cpu: "1", below: [50, 60, 60], group: 10)
        let later = Self.page(writes: 300, cpu: "1.5", below: [50, 159, 160], group: 30)
        let (up, down) = (try #require(NodeAddress("127.0.0.1:8101")), try #require(NodeAddress("127.0.0.1:8102")))
        let report = TopReport([
            (up, MetricsInterval(earlier: earlier, later: later, seconds: 2)), (down, nil),
        ])
        let lines = report.text.split(separator: "\n", omittingEmptySubsequences: false).map {
            $0.split(separator: " ").map(String.init)
        }
        #expect(lines[1] == ["127.0.0.1:8101", "2", "3", "100", "0", "-", "-", "2.0ms", "2.0ms", "-", "25%", "-", "-"])
        #expect(Array(lines[2].prefix(2)) == ["127.0.0.1:8102", "down"])
        #expect(lines.count == 7 && report.json.text.contains("\"writes_per_second\":100"))
        #expect(TopReport.duration(0.000016384) == "16us" && TopReport.duration(1.5) == "1.5s")
    }
}

import RaftCore
import Simulator
import Testing

@testable import RaftHost

@Suite("Metrics of a host")
struct MetricsTests {
    @Test("Durations are in the first bucket whose bound is not below them")
    func buckets() {
        for position in 0..<DurationHistogram.bucketCount {
            let bound = DurationHistogram.bound(of: position)
            for (length, place) in [(bound.nanoseconds, position), (bound.nanoseconds + 1, position + 1)] {
                var histogram = DurationHistogram()
                histogram.count(Interval(nanoseconds: length), times: 3)
                #expect(histogram.counts[place] == 3 && histogram.count == 3, "\(length) ns")
                #expect(histogram.nanoseconds == UInt64(3 * length))
            }
        }
        var histogram = DurationHistogram()
        for length in [-1, 0, 1, Int64.max] { histogram.count(Interval(nanoseconds: length)) }
        #expect(histogram.counts[0] == 3 && histogram.counts[DurationHistogram.bucketCount] == 1)
    }

    @Test("Writes and reads are counted where they were asked for, each stage where it was")
    func work() throws {
        let cluster = HostCluster(seed: 41)
        try cluster.start()
        cluster.awaitLeaders()
        let leader = try #require(cluster.leader(of: 0))
        // the leader's first entry is everywhere
        cluster.run(.milliseconds(2000))
        let before = cluster.nodes.map(\.host.metrics)
        for tag in 1...20 as ClosedRange<UInt64> {
            let outcome = cluster.propose(Command.payload(tag: tag, byteCount: 100), on: leader)
            guard case .applied = outcome else { throw WorkloadFailed() }
        }
        for _ in 0..<5 { #expect(cluster.read(on: leader) != nil) }
        cluster.run(.milliseconds(2000))
        for (node, before) in zip(cluster.nodes, before) {
            let metrics = node.host.metrics
            let isLeader = node === leader
            #expect(metrics.writes - before.writes == (isLeader ? 20 : 0))
            #expect(metrics.reads - before.reads == (isLeader ? 5 : 0))
            #expect(metrics.appliedEntries - before.appliedEntries == 20)
            #expect(metrics.appliedBytes - before.appliedBytes == 2000)
            #expect(metrics.loggedBytes - before.loggedBytes == 2000)
            // one after the other: each was followed
            #expect(metrics.replicate.count - before.replicate.count == (isLeader ? 20 : 0))
            #expect(metrics.apply.count - before.apply.count == (isLeader ? 20 : 0))
            #expect(metrics.readMoment.count - before.readMoment.count == (isLeader ? 5 : 0))
            #expect(metrics.log.count > before.log.count && metrics.queue.count > before.queue.count)
            if isLeader { #expect(metrics.replicate.nanoseconds > before.replicate.nanoseconds) }
        }
    }

    @Test("The busiest groups come first, each with what it did since the last look, and idle ones not at all")
    func busiest() throws {
        var plan = HostCluster.Plan()
        plan.groups = ["g0", "g1", "g2"]
        let cluster = HostCluster(seed: 42, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        cluster.run(.milliseconds(2000))
        for node in cluster.nodes { _ = node.host.busiestGroups(10) }
        var tag: UInt64 = 0
        for (position, count) in [(0, 3), (2, 7)] {
            let leader = try #require(cluster.leader(of: position))
            for _ in 0..<count {
                tag += 1
                let payload = Command.payload(tag: tag, byteCount: 10)
                guard case .applied = cluster.propose(payload, to: position, on: leader) else { throw WorkloadFailed() }
            }
        }
        cluster.run(.milliseconds(2000))
        for node in cluster.nodes {
            let groups = node.host.busiestGroups(10)
            #expect(groups.map(\.group) == ["g2", "g0"] && groups.map(\.recent) == [7, 3])
            #expect(groups.map(\.isLeader) == [node.leads(2), node.leads(0)])
            #expect(node.host.busiestGroups(10).isEmpty)
        }
    }

    private struct WorkloadFailed: Error {}
}

import RaftCore
import ShardMap
import Testing

@testable import raftctl

@Suite("What is said of the cluster's level") struct LevelReportTests {
    private func report(_ level: UInt32, _ known: UInt32..., told: UInt32? = 1) -> LevelReport {
        let nodes = known.enumerated().map { position, level in
            Node(
                id: UInt64(position + 1), address: NodeAddress(ip: 0x7f00_0001, port: UInt16(8101 + position)),
                incarnation: 1, level: level)
        }
        let map = ClusterMap(clusterID: 1, version: 1, nodes: nodes, groups: [], shards: [], level: level)
        var status = NodeStatus(id: 1, incarnation: 1, runNumber: 1, state: "serving", replicas: [])
        (status.version, status.level) = ("0.2.0", told)
        return LevelReport(map, answers: [status] + [NodeStatus?](repeating: nil, count: known.count - 1))
    }

    @Test func text() {
        let mixed = report(1, 2, 1, told: 2).text.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(mixed[0] == "the cluster is at level 1")
        #expect(mixed[2].hasPrefix("ID") && mixed[2].hasSuffix("KNOWS"))
        #expect(mixed[3].contains("serving") && mixed[3].contains("0.2.0") && mixed[3].hasSuffix("up to 2"))
        #expect(mixed[4].contains("down") && mixed[4].hasSuffix("up to 1"))
        #expect(mixed[6].contains("node 2 (127.0.0.1:8102, up to 1)") && mixed[6].contains("start a newer raftd"))
        #expect(report(1, 1, 1, told: 2).text.contains("up to 1 (2)"), "it says otherwise by now")
        #expect(report(2, 2, 2, told: 2).text.hasPrefix("the cluster is at level 2, the highest that its nodes know\n"))
        #expect(report(1, 2, 3).text.hasPrefix("the cluster is at level 1; every node knows level 2: raftctl cluster"))
    }

    @Test func json() {
        let text = report(1, 2, 1).json.text
        #expect(text.hasPrefix(#"{"level":1,"common_level":1,"nodes":[{"id":"#))
        #expect(
            text.contains(#""level":2,"told_level":1}"#) && text.contains(#""level":1,"told_level":null}"#), "\(text)")
        #expect(text.contains(#""problem":"not every node knows level 2"#))
    }
}

import Glibc
import Testing

@testable import RaftCore

/// Clusters under random trouble: never unsafe, and after it well again and at rest. `RAFT_SEEDS=n` runs n seeds.
@Suite("Figure 3: always true, and live when healed")
struct RandomClusterTests {
    static let seeds: Range<UInt64> = {
        let wanted = getenv("RAFT_SEEDS").flatMap { UInt64(String(cString: $0)) }
        let first = getenv("RAFT_FIRST_SEED").flatMap { UInt64(String(cString: $0)) } ?? 0
        return first..<first + (wanted ?? 6)
    }()

    @Test("a cluster survives loss, doubling, delay, partitions and crashes", arguments: seeds)
    func survives(seed: UInt64) {
        var cluster = SimulatedCluster(size: seed % 2 == 0 ? 3 : 5, seed: seed)
        if seed % 7 == 3 { cluster.useSmallWindows() }
        cluster.faults = SimulatedCluster.Faults(
            lost: Int64(seed % 4) * 10, doubled: 20, late: Int64(seed % 3) * 10, hasCrashes: seed % 5 != 0)
        cluster.suffer(milliseconds: 20_000)
        cluster.heal()
        cluster.run(milliseconds: 10_000)
        expectRecovered(&cluster)
    }

    private func expectRecovered(_ cluster: inout SimulatedCluster) {
        let before = cluster.judge.commitIndex
        let reads = cluster.judge.finishedReads
        #expect(cluster.nodes.filter { $0.raft.isLeader }.count == 1)
        cluster.proposeSomewhere(count: 3)
        cluster.readSomewhere()
        cluster.run(milliseconds: 5000)
        let commit = cluster.judge.commitIndex
        #expect(commit == before.advanced(by: 3))
        #expect(cluster.judge.finishedReads == reads + 1)
        for node in cluster.nodes {
            #expect(node.raft.commitIndex == commit, "\(node.id) does not know the commit index")
            #expect(node.applied == commit)
            #expect(node.entries == cluster.nodes[0].entries)
            #expect(node.raft.deadline == nil, "\(node.id) does not rest: \(node.raft.role)")
        }
    }
}

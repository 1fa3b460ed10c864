import RaftCore
import RaftStorage
import Simulator
import Testing

@testable import RaftHost

@Suite("Large snapshots are looked at in parts")
struct SnapshotPartsTests {
    private static let snapshotBytes = 12 << 20

    /// Bytes that the jobs of a node's maintenance worker read of snapshots, each.
    private final class Reads {
        private(set) var perJob: [Int] = []
        private var before = 0

        init(of node: SimulatedNode) {
            let disk = node.snapshotDisk
            node.recording.worker("maintenance").onJob = { [unowned self] isDone in
                if isDone { perJob.append(disk.bytesRead - before) } else { before = disk.bytesRead }
            }
        }
    }

    @Test("What is sent is not read for its checksum, and what has come is checked in jobs that are bounded")
    func parts() throws {
        var plan = HostCluster.Plan()
        plan.flushesOneOf = 2
        plan.snapshotBytes = SnapshotPartsTests.snapshotBytes
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.settings.snapshotBytesPerSecond = 1 << 30
        let cluster = HostCluster(seed: 5, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        let late = try #require(cluster.nodes.last { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        let leader = try #require(cluster.leader(of: 0))
        for tag in 1...150 as ClosedRange<UInt64> {
            leader.lane.post { [host = leader.host!] in
                host.propose(Command.payload(tag: tag, byteCount: 200), to: "g0") { _ in }
            }
            cluster.run(.milliseconds(20))
        }
        #expect(leader.host.raft(of: "g0")?.base.index ?? .zero > LogIndex(60))
        let sent = Reads(of: leader)
        try late.start()
        let received = Reads(of: late)
        #expect(
            cluster.run(limit: 60_000) {
                late.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(leader.leads(0) && sent.perJob.allSatisfy { $0 == 0 }, "\(sent.perJob.max() ?? 0)")
        // the store's own look at it, and no other, takes in all
        let large = received.perJob.filter { $0 > RaftHost.checkedBytes }
        #expect(large.count == 1 && received.perJob.reduce(0, +) >= 2 * SnapshotPartsTests.snapshotBytes)
        #expect(cluster.allViolations == [])
    }
}

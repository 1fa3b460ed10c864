import Glibc
import Testing

@testable import RaftCore

/// Clusters under random trouble: never unsafe, and after it well again and at rest. `RAFT_SEEDS=n` runs n seeds from
/// `RAFT_FIRST_SEED` on.
@Suite("Figure 3: always true, and live when healed")
struct RandomClusterTests {
    static let seeds: Range<UInt64> = {
        let wanted = getenv("RAFT_SEEDS").flatMap { UInt64(String(cString: $0)) }
        let first = getenv("RAFT_FIRST_SEED").flatMap { UInt64(String(cString: $0)) } ?? 0
        return first..<first + (wanted ?? 20)
    }()

    @Test("a cluster survives everything that may go wrong", arguments: seeds)
    func survives(seed: UInt64) {
        var cluster = cluster(seed: seed)
        cluster.suffer(
            milliseconds: 12_000, crashes: seed % 5 != 0, changes: seed % 4 != 0, losesMajority: seed % 9 == 8)
        cluster.heal()
        expectRecovered(&cluster)
        expectWorking(&cluster)
    }

    private func cluster(seed: UInt64) -> SimulatedCluster {
        let roles: [PeerID.Role] = seed % 6 == 5 ? [.replica, .replica, .witness] : []
        var cluster = SimulatedCluster(size: seed % 6 == 5 || seed % 2 == 0 ? 3 : 5, seed: seed, roles: roles)
        if seed % 7 == 3 {
            cluster.settings.maxEntriesPerAppend = 2
            cluster.settings.maxEntriesInFlight = 3
        }
        cluster.settings.catchUpMargin = seed % 3 == 0 ? 1000 : 4
        cluster.settings.catchUpTimeout = .milliseconds(3000)
        cluster.compactsEvery = seed % 8 == 1 ? 10 : nil
        cluster.pausesBeforeJudging = 30
        cluster.appliesLate = seed % 4 == 1 ? 300 : 0
        cluster.faults = SimulatedCluster.Faults(
            lost: Int64(seed % 4) * 10, doubled: 20, late: Int64(seed % 3) * 10, reordersAnswers: seed % 11 == 7)
        return cluster
    }

    /// Everything converges: one leader, all members at the same place, all at rest.
    private func expectRecovered(_ cluster: inout SimulatedCluster) {
        // what was lost and late before may be missed for a while
        cluster.run(milliseconds: 4000)
        let isCalm = cluster.run(milliseconds: 40_000) { $0.isCalm }
        #expect(isCalm, "\(cluster.description)")
    }

    /// A membership is changed, an entry written and a read served, and there is rest again.
    private func expectWorking(_ cluster: inout SimulatedCluster) {
        guard let leader = cluster.leader else { return }
        let newcomer = cluster.addNode()
        let present = cluster.nodes[leader].raft.configuration
        let isAlone = present.peers.count == 1
        let leaver = present.peers.first { $0 != cluster.nodes[leader].id || !isAlone }
        let peers = present.peers.filter { $0 != leaver } + [newcomer]
        let change = cluster.change(to: Configuration(peers: peers, learners: present.learners), at: leader)
        cluster.run(milliseconds: 20_000) { $0.outcomes[change] != nil && $0.isCalm }
        guard case .done = cluster.outcomes[change] else {
            Issue.record("\(String(describing: cluster.outcomes[change])) \(cluster.description)")
            return
        }
        guard let successor = cluster.leader else { return }
        let before = cluster.judge.commitIndex
        let reads = cluster.judge.finishedReads
        cluster.propose(3, at: successor)
        cluster.read(at: successor, lease: true)
        let follower = cluster.members.first { $0 != successor && !cluster.nodes[$0].isWitness } ?? successor
        cluster.read(at: follower, lease: false)
        let isDone = cluster.run(milliseconds: 10_000) {
            $0.judge.commitIndex == before.advanced(by: 3) && $0.judge.finishedReads == reads + 2 && $0.isCalm
        }
        #expect(isDone, "\(cluster.judge.commitIndex) after \(before): \(cluster.description)")
    }
}

extension SimulatedCluster: CustomStringConvertible {
    /// The members, as the leader knows them.
    var members: [Int] { leader.map { nodes[$0].raft.configuration.members.map(Self.position(of:)) } ?? [] }

    /// Whether there is one leader, everybody is at the same place, and nothing is left to do.
    var isCalm: Bool {
        guard let leader, !nodes[leader].raft.isChangingMembership else { return false }
        let last = nodes[leader].raft.lastIndex
        return members.allSatisfy { member in
            let node = nodes[member]
            return node.isUp && node.raft.leader == nodes[leader].id && node.raft.deadline == nil
                && node.raft.commitIndex == last && node.state.index == last && node.writes.isEmpty
        }
    }

    var description: String {
        let states = nodes.indices.filter { nodes[$0].isUp }.map { node -> String in
            let raft = nodes[node].raft
            let due = raft.deadline.map { "\(nodes[node].globalTime($0) / 1_000_000)" } ?? "-"
            return "\(node): \(raft.role) \(raft.term) last \(raft.log.last) commit \(raft.commitIndex) "
                + "applied \(nodes[node].state.index) leader \(raft.leader?.address.port ?? 0) due \(due) "
                + "in \(raft.configuration.members.map { $0.address.port - 8000 })"
        }
        return "\(time / 1_000_000) ms\n" + states.joined(separator: "\n")
    }
}

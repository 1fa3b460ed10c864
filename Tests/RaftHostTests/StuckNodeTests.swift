import RaftCore
import RaftHost
import Simulator
import RaftStorage
import Testing

@testable import Transport

@Suite("A node that is alive but stuck loses its leaderships")
struct StuckNodeTests {
    enum Trouble: CaseIterable {
        case disk, apply, lane
    }

    /// Six groups on three nodes, all led by the one returned.
    private func ledByOne(seed: UInt64) throws -> (cluster: HostCluster, leader: SimulatedNode) {
        var plan = HostCluster.Plan()
        plan.groups = (0..<6).map { "g\($0)" }
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        let leader = cluster.nodes[Int(seed % 3)]
        for (position, group) in plan.groups.enumerated() {
            while !leader.leads(position) {
                let present = try #require(cluster.leader(of: position))
                present.lane.post { present.host.transferLeadership(of: group, to: leader.peer) }
                cluster.run(.milliseconds(500))
                cluster.awaitLeaders()
            }
        }
        cluster.run(.milliseconds(3000))
        return (cluster, leader)
    }

    private func isLedByOthers(_ cluster: HostCluster, than node: SimulatedNode) -> Bool {
        (0..<cluster.groupCount).allSatisfy { position in
            cluster.nodes.contains { $0 !== node && $0.leads(position) } && !node.leads(position)
        }
    }

    @Test(
        "All its groups are led by others within three seconds, idle or busy, and it serves again once it gets on",
        arguments: Trouble.allCases, [false, true])
    func stuck(_ trouble: Trouble, isBusy: Bool) throws {
        let (cluster, stuck) = try ledByOne(seed: isBusy ? 4 : 5)
        #expect((0..<cluster.groupCount).allSatisfy { stuck.leads($0) })
        switch trouble {
        case .disk: stuck.logWorker.hangs = true
        case .apply: stuck.applyWorker.hangs = true
        case .lane: cluster.world.pause(stuck.address, for: .milliseconds(4000))
        }
        var outcomes: [ProposalOutcome] = []
        if isBusy {
            for position in 0..<cluster.groupCount {
                stuck.lane.post { [host = stuck.host!] in
                    let command = Command.payload(tag: UInt64(position) + 1, byteCount: 100)
                    host.propose(command, to: "g\(position)") { outcomes.append($0) }
                }
            }
        }
        let isLed = cluster.run(limit: 3000) {
            (0..<cluster.groupCount).allSatisfy { position in
                cluster.nodes.contains { $0 !== stuck && $0.leads(position) }
            }
        }
        #expect(isLed)
        for position in 0..<cluster.groupCount {
            let leader = try #require(cluster.nodes.first { $0 !== stuck && $0.leads(position) })
            let command = Command.payload(tag: UInt64(position) + 100, byteCount: 100)
            #expect(cluster.propose(command, to: position, on: leader)?.position != nil)
        }
        cluster.run(limit: 4000) { isLedByOthers(cluster, than: stuck) }
        #expect(isLedByOthers(cluster, than: stuck))
        (stuck.logWorker.hangs, stuck.applyWorker.hangs) = (false, false)
        let hasCaughtUp = cluster.run(limit: 10_000) {
            stuck.machines.indices.allSatisfy {
                stuck.machines[$0].appliedPosition.index == cluster.histories[$0].lastIndex
            }
        }
        #expect(hasCaughtUp && outcomes.count == (isBusy ? cluster.groupCount : 0))
        #expect(stuck.failure == nil && cluster.allViolations == [])
    }

    @Test("A disk that fails is noticed on an idle node: it ends within two seconds") func failingDisk() throws {
        let (cluster, leader) = try ledByOne(seed: 6)
        leader.failSyncs(after: 0)
        #expect(cluster.run(limit: 2000) { leader.failure != nil })
        #expect(leader.failure?.contains("log") == true && cluster.allViolations == [])
    }

    @Test("However much waits to be applied in however many groups, one job takes a part of it") func jobSize() throws {
        var plan = HostCluster.Plan()
        plan.groups = (0..<6).map { "g\($0)" }
        plan.size = 1
        let cluster = HostCluster(seed: 8, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        let node = cluster.nodes[0]
        func applied() -> Int { node.machines.reduce(0) { $0 + Int($1.appliedPosition.index.rawValue) } }
        node.applyWorker.hangs = true
        var outcomes: [ProposalOutcome] = []
        node.lane.post { [host = node.host!] in
            for position in plan.groups.indices {
                for tag in 0..<1000 {
                    let command = Command.payload(tag: UInt64(position * 1000 + tag), byteCount: 20)
                    host.propose(command, to: plan.groups[position]) { outcomes.append($0) }
                }
            }
        }
        cluster.run(.milliseconds(1000))
        var (before, most) = (applied(), 0)
        node.applyWorker.onJob = { isDone in
            if isDone { most = max(most, applied() - before) } else { before = applied() }
        }
        node.applyWorker.hangs = false
        #expect(cluster.run(limit: 5000) { outcomes.count == 6000 })
        #expect(most > 0 && most <= 4096)
        #expect(cluster.allViolations == [])
    }

    @Test("A slow disk, half a second per job, costs no leadership") func slowDisk() throws {
        let (cluster, leader) = try ledByOne(seed: 7)
        cluster.world.settings.jobDelay = 500_000_000..<500_000_001
        for _ in 0..<50 {
            cluster.run(.milliseconds(200))
            #expect((0..<cluster.groupCount).allSatisfy { leader.leads($0) })
        }
    }
}

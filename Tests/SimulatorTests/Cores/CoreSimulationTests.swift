import Glibc
import Testing

@testable import RaftCore
@testable import Simulator

/// Clusters of cores under random trouble: never unsafe, and after it well again and at rest. `RAFT_SEEDS=n` runs n
/// seeds of each kind of life, from `RAFT_FIRST_SEED` on.
@Suite("Cores alone, from one seed: always safe, and live when healed")
struct CoreSimulationTests {
    static let seeds: Range<UInt64> = {
        func variable(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }
        let first = variable("RAFT_FIRST_SEED") ?? 0
        return first..<first + (variable("RAFT_SEEDS") ?? 20)
    }()

    @Test("A cluster survives everything that may go wrong", arguments: CoreLifeKind.allCases)
    func survives(kind: CoreLifeKind) {
        for seed in Self.seeds {
            var simulation = CoreSimulation(CorePlan(seed: seed, life: kind))
            let outcome = simulation.run()
            #expect(outcome.violation == nil, "seed \(seed): \(outcome.violation?.description ?? "")")
        }
    }

    @Test("The same seed gives the same run, another seed another one") func determinism() {
        func run(_ seed: UInt64) -> CoreSimulation.Outcome {
            var simulation = CoreSimulation(CorePlan(seed: seed, life: .everything))
            return simulation.run()
        }
        #expect(run(4) == run(4) && run(4).hash != run(5).hash)
    }

    @Test("Much goes on meanwhile: leaders fall, snapshots travel, members change, reads are served in every way")
    func muchGoesOn() {
        var (terms, snapshots, changes, leases, others, failed, committed) = (0, 0, 0, 0, 0, 0, 0)
        for seed in UInt64(0)..<12 {
            var life = CoreLife(.everything, seed: seed)
            life.losesMajority = false
            var cluster = CoreCluster(life, seed: seed)
            cluster.suffer(life.schedule(seed: seed), milliseconds: life.milliseconds)
            terms += cluster.judge.terms
            snapshots += cluster.judge.installedSnapshots
            changes += cluster.judge.finishedChanges
            leases += cluster.judge.leaseReads
            others += cluster.judge.finishedReads - cluster.judge.leaseReads
            failed += cluster.judge.failedReads
            committed += cluster.judge.committed.count
        }
        #expect(terms > 24 && snapshots > 12 && changes > 12, "\(terms), \(snapshots), \(changes)")
        #expect(leases > 50 && others > 50 && failed > 50, "\(leases), \(others), \(failed)")
        #expect(committed > 500, "\(committed)")
    }

    @Test("A cluster that cannot heal is reported") func unhealed() {
        var cluster = CoreCluster(CoreLife(.everything, seed: 2), seed: 2)
        cluster.run(milliseconds: 3000)
        for node in 1..<cluster.nodes.count { cluster.remove(node) }
        cluster.heal()
        cluster.expectRecovery()
        #expect(cluster.judge.violation?.checker == "Heals")
    }
}

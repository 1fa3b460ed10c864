import Glibc
import RaftCore
import RaftHost
import RaftStorage
import Testing
import Transport

/// Clusters of hosts under random trouble: never wrong, and well again when it is over. `RAFT_SEEDS=n` runs n seeds,
/// `RAFT_FIRST_SEED=k` from k on.
@Suite("A cluster of hosts from one seed")
struct SimulationTests {
    static let seeds: Range<UInt64> = {
        func variable(_ name: String) -> UInt64? { getenv(name).flatMap { UInt64(String(cString: $0)) } }
        let first = variable("RAFT_FIRST_SEED") ?? 0
        return first..<first + (variable("RAFT_SEEDS") ?? 12)
    }()

    /// A third of them, for what takes longer.
    static let fewSeeds = seeds.lowerBound..<seeds.lowerBound + UInt64(seeds.count + 2) / 3

    /// What happened in a run, as far as a test wants to know.
    struct Summary: Equatable {
        var worldDigest: UInt64
        var clientDigest: UInt64
        var acknowledged: Int
        var reads: Int
        var entries: [Int]
        var faults: [Int]
    }

    static func plan(_ seed: UInt64) -> SimulatedNode.Plan {
        var plan = SimulatedNode.Plan()
        plan.groups = ["g0", "g1", "g2"]
        plan.size = seed % 4 == 3 ? 5 : 3
        if seed % 3 == 1 {
            // most catching up is from the disk, in small frames
            plan.settings.tailBytes = 2 << 10
            plan.settings.frameBytes = 4 << 10
            plan.settings.raft.maxEntriesPerAppend = 16
            plan.settings.raft.maxEntriesInFlight = 64
        }
        if seed % 3 == 2 { plan.flushesOneOf = .max }
        return plan
    }

    @Test("Trouble does no harm, and ends", arguments: seeds)
    func survives(seed: UInt64) throws { _ = try SimulationTests.run(seed: seed) }

    @Test("The same seed gives the same run, another seed another one") func determinism() throws {
        let (one, again, other) = (
            try SimulationTests.run(seed: 1001), try SimulationTests.run(seed: 1001),
            try SimulationTests.run(seed: 1002)
        )
        #expect(one == again)
        #expect(one.worldDigest != other.worldDigest && one.clientDigest != other.clientDigest)
    }

    static func run(seed: UInt64) throws -> Summary {
        let cluster = HostCluster(seed: seed, plan: plan(seed))
        let clients = ClientHistory(cluster)
        let troubles = Troubles(cluster, clients)
        try cluster.start()
        cluster.awaitLeaders()
        try troubles.suffer(steps: 400)
        try troubles.heal()
        cluster.awaitLeaders()
        // whatever clients still wait for ends, and elections called in the turmoil
        cluster.run(.milliseconds(8000))
        for position in 0..<cluster.groupCount { expectAgreement(cluster, clients, position, seed) }
        expectRest(cluster, seed)
        #expect(cluster.allViolations == [], "seed \(seed)")
        #expect(clients.judge() == [], "seed \(seed)")
        return Summary(
            worldDigest: cluster.world.digest, clientDigest: clients.digest, acknowledged: clients.acknowledged,
            reads: clients.readsAnswered, entries: cluster.histories.map(\.entries.count), faults: troubles.counts)
    }

    /// Nobody without work campaigns, logs, or changes leaders; the disk is heard once per interval.
    private static func expectRest(_ cluster: HostCluster, _ seed: UInt64) {
        // the last batch is sealed after a while
        cluster.run(.milliseconds(500))
        func state() -> [String] { (0..<cluster.groupCount).map(cluster.summary) }
        func syncs() -> [Int] { cluster.nodes.map(\.logDisk.syncCount) }
        let before = (state: state(), logs: cluster.nodes.map(\.loggedBytes), syncs: syncs())
        cluster.run(.milliseconds(5000))
        #expect(state() == before.state, "seed \(seed): no rest")
        #expect(cluster.nodes.map(\.loggedBytes) == before.logs, "seed \(seed): something was logged")
        // one clock may be 2 % fast
        #expect(zip(syncs(), before.syncs).allSatisfy { (20...26).contains($0 - $1) }, "seed \(seed)")
    }

    /// A healthy group takes a command, answers a read, and has the same history everywhere.
    private static func expectAgreement(
        _ cluster: HostCluster, _ clients: ClientHistory, _ position: Int, _ seed: UInt64
    ) {
        guard let leader = cluster.leader(of: position) else {
            Issue.record("seed \(seed): group \(position) has no leader")
            return
        }
        let command = clients.propose(to: position, byteCount: 100, on: leader)
        let read = clients.read(position, on: leader)
        cluster.run(limit: 5_000) {
            clients.outcome(ofCommand: command) != nil && clients.answer(ofRead: read) != nil
        }
        guard case .applied = clients.outcome(ofCommand: command) else {
            let outcome = clients.outcome(ofCommand: command).map { "\($0)" } ?? "no answer"
            Issue.record("seed \(seed), group \(position): \(outcome); \(cluster.summary(of: position))")
            return
        }
        #expect(clients.answer(ofRead: read) != nil, "seed \(seed): no new read")
        let history = cluster.histories[position]
        let isEverywhere = cluster.run(limit: 20_000) {
            cluster.nodes.allSatisfy { $0.machines[position].appliedPosition.index == history.lastIndex }
        }
        #expect(isEverywhere, "seed \(seed): not everybody has applied \(history.lastIndex)")
    }
}

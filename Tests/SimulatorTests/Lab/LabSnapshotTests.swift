import Testing

@testable import RaftCore
@testable import Simulator

@Suite("MIT 6.5840, 3D: snapshots")
struct LabSnapshotTests {
    private static let snapshotEvery = 10
    /// The labs' bound for a log that is compacted, in bytes.
    private static let maxLogSize = 2000

    @Test("snapshots basic", arguments: LabCluster.seeds)
    func basic(seed: UInt64) throws { try repeatedly(seed: seed) }

    @Test("install snapshots (disconnect)", arguments: LabCluster.seeds)
    func installDisconnect(seed: UInt64) throws { try repeatedly(seed: seed, disconnects: true) }

    @Test("install snapshots (disconnect + unreliable)", arguments: LabCluster.seeds)
    func installDisconnectUnreliable(seed: UInt64) throws {
        try repeatedly(seed: seed, disconnects: true, isReliable: false)
    }

    @Test("install snapshots (crash)", arguments: LabCluster.seeds)
    func installCrash(seed: UInt64) throws { try repeatedly(seed: seed, crashes: true) }

    @Test("install snapshots (unreliable + crash)", arguments: LabCluster.seeds)
    func installCrashUnreliable(seed: UInt64) throws {
        try repeatedly(seed: seed, isReliable: false, crashes: true)
    }

    /// Again and again one server misses so many commands that their entries are gone when it comes back.
    private func repeatedly(
        seed: UInt64, disconnects: Bool = false, isReliable: Bool = true, crashes: Bool = false
    ) throws {
        var lab = LabCluster(servers: 3, seed: seed, isReliable: isReliable, snapshotEvery: Self.snapshotEvery)
        try lab.one(lab.anyCommand(), 3, retry: true)
        var leader = try lab.oneLeader()
        for round in 0..<30 {
            var (victim, sender) = (lab.next(leader), leader)
            // sometimes it is the leader that goes
            if round % 3 == 1 { (victim, sender) = (sender, victim) }
            if disconnects { lab.disconnect(victim) }
            if crashes { lab.crash(victim) }
            if disconnects || crashes { try lab.one(lab.anyCommand(), 2, retry: true) }
            let count = Self.snapshotEvery / 2 + Int(lab.chance(0..<Int64(Self.snapshotEvery)))
            for _ in 0..<count { lab.start(lab.anyCommand(), at: sender) }
            try lab.one(lab.anyCommand(), disconnects || crashes ? 2 : 3, retry: true)
            #expect(lab.logSize < Self.maxLogSize, "the log is not compacted")
            guard disconnects || crashes else { continue }
            if crashes { lab.restart(victim) }
            lab.connect(victim)
            try lab.one(lab.anyCommand(), 3, retry: true)
            leader = try lab.oneLeader()
        }
        #expect(lab.commands.count > 30)
    }

    @Test("crash and restart all servers", arguments: LabCluster.seeds)
    func allCrash(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed, snapshotEvery: Self.snapshotEvery)
        try lab.one(lab.anyCommand(), 3, retry: true)
        for _ in 0..<5 {
            let count = Self.snapshotEvery / 2 + Int(lab.chance(0..<Int64(Self.snapshotEvery)))
            for _ in 0..<count { try lab.one(lab.anyCommand(), 3, retry: true) }
            let before = try lab.one(lab.anyCommand(), 3, retry: true)
            lab.restartAll()
            let after = try lab.one(lab.anyCommand(), 3, retry: true)
            #expect(lab.ordinal(of: after) > lab.ordinal(of: before))
        }
    }

    @Test("snapshot initialization after crash", arguments: LabCluster.seeds)
    func initAfterCrash(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed, snapshotEvery: Self.snapshotEvery)
        for _ in 0...Self.snapshotEvery + 1 { try lab.one(lab.anyCommand(), 3, retry: true) }
        lab.restartAll()
        // something is written again on top of the snapshot, and that survives too
        try lab.one(lab.anyCommand(), 3, retry: true)
        lab.restartAll()
        try lab.one(lab.anyCommand(), 3, retry: true)
        #expect(lab.commands.count >= Self.snapshotEvery + 4)
    }
}

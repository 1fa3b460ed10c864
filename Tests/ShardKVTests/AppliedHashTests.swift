import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("Replicas that applied the same have the same hash")
struct AppliedHashTests {
    @Test(arguments: EngineTests.Kind.allCases)
    func batchesRestartsAndSnapshotsDoNotCount(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let log = RestartTests.log(seed: 21, entries: 600)
        let whole = try RestartTests.machine(on: try world.engine())
        #expect(whole.latestHash == AppliedHash(version: 1, index: .zero, value: RollingHash().value))
        _ = try whole.apply(log)
        let latest = try #require(whole.latestHash)
        #expect(latest.index == LogIndex(600))
        #expect(whole.appliedHash(at: LogIndex(600)) == latest)

        let engine = try world.engine()
        _ = try RestartTests.run(Array(log[..<300]), on: engine, batchSeed: 3) { _ in
            try RestartTests.machine(on: engine)
        }
        let cut = try RestartTests.machine(on: engine)
        let restored = try SnapshotTests.moved(try cut.freeze(), to: try world.engine(), as: 8, in: world)
        #expect(restored.latestHash == cut.latestHash)
        for entry in log[300...] { _ = try restored.apply([entry]) }
        #expect(restored.latestHash == latest)
        for index: Int64 in [512, 590, 599] {
            #expect(restored.appliedHash(at: LogIndex(index)) == whole.appliedHash(at: LogIndex(index)))
            #expect(restored.appliedHash(at: LogIndex(index)) != nil)
        }
        // before the snapshot
        #expect(whole.appliedHash(at: LogIndex(256)) != nil && restored.appliedHash(at: LogIndex(256)) == nil)
        // entries applied before change nothing
        _ = try restored.apply(log)
        #expect(restored.latestHash == latest)
    }

    @Test("Another result, or another entry, shows at once and for good")
    func aDifferenceShows() throws {
        let log = RestartTests.log(seed: 22, entries: 120)
        let reference = try RestartTests.machine(on: MemoryEngine())
        let replies = try reference.apply(log)
        var limits = RestartTests.limits
        limits.sessionsPerShard = 1
        let otherLimits = try KeyValueStateMachine(engine: MemoryEngine(), replicaNumber: 1, limits: limits)
        let otherReplies = try otherLimits.apply(log)
        #expect(otherReplies != replies)
        #expect(otherLimits.latestHash?.value != reference.latestHash?.value)

        var changed = log
        changed[60].position.term = Term(2)
        for position in 61..<120 { changed[position].position.term = Term(2) }
        let otherTerm = try RestartTests.machine(on: MemoryEngine())
        #expect(try otherTerm.apply(changed) == replies)
        #expect(otherTerm.latestHash?.value != reference.latestHash?.value)
    }

    @Test func aHashOfAnotherVersionIsNotGoneOnWith() throws {
        let engine = MemoryEngine()
        let machine = try RestartTests.machine(on: engine)
        _ = try machine.apply(RestartTests.log(seed: 1, entries: 20))
        let key = KeyLayout(replicaNumber: 1).key(.meta)
        var meta = try #require(try engine.get(key)).array
        #expect(meta[33] == RollingHash.version)
        meta[33] += 1
        try engine.write([.put(key, Bytes(meta))])
        let restarted = try RestartTests.machine(on: engine)
        #expect(restarted.latestHash == nil && restarted.appliedHash(at: LogIndex(20)) == nil)
        _ = try restarted.apply([entry(LogIndex(21), kind: .noOp, Bytes())])
        let again = try RestartTests.machine(on: engine)
        #expect(again.latestHash == nil)
        #expect(again.appliedPosition.index == LogIndex(21))
    }

    @Test func theControllerCountsToo() throws {
        let left = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        let right = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 5)
        for machine in [left, right] {
            _ = try ControllerTests.apply(machine, .initialize(try ControllerTests.record()), .groupBorn("g99"))
        }
        #expect(left.latestHash != nil && left.latestHash == right.latestHash)
        _ = try ControllerTests.apply(left, .groupBorn("g1"))
        _ = try ControllerTests.apply(right, .groupBorn("g2"))
        #expect(left.latestHash?.value != right.latestHash?.value)
        #expect(left.appliedHash(at: LogIndex(2)) == right.appliedHash(at: LogIndex(2)))
    }
}

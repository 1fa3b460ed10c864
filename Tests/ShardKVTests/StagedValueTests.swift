import RaftCore
import ShardMap
import Synchronization
import Testing

@testable import ShardKV

/// An engine in memory that counts the ranges removed.
private final class RangeCounter: KeyValueEngine {
    private let engine = MemoryEngine()
    private let counter = Mutex(0)
    var rangesDeleted: Int { counter.withLock { $0 } }

    func write(_ changes: [EngineChange]) throws(StateMachineError) {
        let ranges = changes.count { if case .deleteRange = $0 { true } else { false } }
        counter.withLock { $0 += ranges }
        try engine.write(changes)
    }

    func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { try engine.get(key) }
    func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes? { try engine.durableGet(key) }
    func flush() throws(StateMachineError) { try engine.flush() }
    func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        try engine.approximateBytes(of: ranges)
    }
    func freeze() throws(StateMachineError) -> any EngineView { try engine.freeze() }
    func drop(_ number: UInt64) throws(StateMachineError) { try engine.drop(number) }
    func numbers() throws(StateMachineError) -> [UInt64] { try engine.numbers() }
    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError) {
        try engine.scan(from: start, to: end, visit)
    }
    func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        try engine.ingest(folder, as: number)
    }
}

@Suite("Long values that are staged in parts") struct StagedValueTests {
    @Test("they leave no part behind, and no mark for a range each") func parts() throws {
        let engine = RangeCounter()
        let (source, other) = (try Replica(), try Replica(engine: engine, shards: []))
        for number in 0..<20 {
            let value = Bytes(String(repeating: "v", count: 3000))
            _ = try source.execute(.init(.set, key: Bytes("k\(number)"), value: value))
        }
        #expect(try source.step(3, .open) == nil)
        #expect(try other.step(3, .receive(StepTests.moved)) == nil)
        let before = engine.rangesDeleted
        #expect(try source.step(3, .freeze) == nil)
        #expect(try source.copy(3, to: other).isComplete)
        #expect(engine.rangesDeleted == before)
        #expect(try StepTests.rawPairs(other, .parts).isEmpty)
        #expect(try StepTests.rawPairs(other, .data) == StepTests.rawPairs(source, .data))
    }
}

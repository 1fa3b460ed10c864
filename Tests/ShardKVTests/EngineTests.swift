import Foundation
import RaftCore
import RocksEngine
import ShardMap
import Testing

@testable import ShardKV

/// A directory that is gone after the test.
final class TemporaryDirectory {
    let path: String
    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("engine-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

@Suite("Engines keep what the seam promises")
struct EngineTests {
    enum Kind: CaseIterable, Sendable {
        case memory
        case rocks
        /// In memory, behind an engine that collects a little of each replica.
        case collected
    }

    /// Runs `body` on a new engine of the kind.
    static func with(_ kind: Kind, _ body: (any KeyValueEngine) throws -> Void) throws {
        switch kind {
        case .memory: try body(MemoryEngine())
        case .collected: try body(CollectingEngine(over: MemoryEngine(), limits: .few))
        case .rocks:
            let directory = try TemporaryDirectory()
            let engine = try RocksEngine(directory: directory.path + "/store")
            try body(engine)
            engine.close()
        }
    }

    static func keys(_ engine: any KeyValueEngine, from start: String = "", to end: String = "") throws -> String {
        var found = ""
        try engine.scan(from: Bytes(start), to: Bytes(end)) { key, value in
            found += "\(key)=\(value) "
            return true
        }
        return found
    }

    static func put(_ key: String, _ value: String) -> EngineChange { .put(Bytes(key), Bytes(value)) }

    @Test(arguments: Kind.allCases) func aBatchIsAppliedInItsOrder(_ kind: Kind) throws {
        try EngineTests.with(kind) { engine in
            try engine.write([])
            #expect(try engine.get(Bytes("a")) == nil)
            try engine.write([
                EngineTests.put("a", "1"), EngineTests.put("b", "1"), EngineTests.put("a", "2"), .delete(Bytes("b")),
                .delete(Bytes("never")), EngineTests.put("empty", ""), .put(Bytes([0, 0xff]), Bytes([0xff, 0])),
            ])
            #expect(try engine.get(Bytes("a")) == Bytes("2"))
            #expect(try engine.get(Bytes("b")) == nil)
            #expect(try engine.get(Bytes("empty")) == Bytes())
            #expect(try engine.get(Bytes([0, 0xff])) == Bytes([0xff, 0]))
        }
    }

    @Test(arguments: Kind.allCases) func aScanIsOrderedBoundedAndStoppable(_ kind: Kind) throws {
        try EngineTests.with(kind) { engine in
            try engine.write(["c", "a", "b", "ab"].map { EngineTests.put($0, $0 + $0) })
            #expect(try EngineTests.keys(engine) == "a=aa ab=abab b=bb c=cc ")
            #expect(try EngineTests.keys(engine, from: "aa", to: "c") == "ab=abab b=bb ")
            #expect(try EngineTests.keys(engine, from: "ab", to: "ab") == "")
            #expect(try EngineTests.keys(engine, from: "d") == "")
            var visited = 0
            try engine.scan(from: Bytes(), to: Bytes()) { key, _ in
                visited += 1
                // the visitor may use the engine
                return (try? engine.get(key)) != nil && visited < 2
            }
            #expect(visited == 2)
        }
    }

    @Test(arguments: Kind.allCases) func aRangeIsRemovedWhole(_ kind: Kind) throws {
        try EngineTests.with(kind) { engine in
            try engine.write((0..<600).map { EngineTests.put("k\(1000 + $0)", "v") })
            try engine.write([.deleteRange(Bytes("k1001"), Bytes("k1599")), EngineTests.put("k1300", "new")])
            #expect(try EngineTests.keys(engine) == "k1000=v k1300=new k1599=v ")
            try engine.write([.deleteRange(Bytes("k2"), Bytes("k1")), .deleteRange(Bytes("k1"), Bytes())])
            #expect(try EngineTests.keys(engine) == "k1000=v k1300=new k1599=v ")
        }
    }

    @Test(arguments: Kind.allCases) func durableIsWhatWasFlushed(_ kind: Kind) throws {
        try EngineTests.with(kind) { engine in
            try engine.write([EngineTests.put("a", "1"), EngineTests.put("gone", "1")])
            #expect(try engine.durableGet(Bytes("a")) == nil)
            try engine.flush()
            #expect(try engine.durableGet(Bytes("a")) == Bytes("1"))
            try engine.write([EngineTests.put("a", "2"), .delete(Bytes("gone"))])
            #expect(try engine.durableGet(Bytes("a")) == Bytes("1"))
            #expect(try engine.durableGet(Bytes("gone")) == Bytes("1"))
            #expect(try engine.get(Bytes("a")) == Bytes("2"))
            try engine.flush()
            #expect(try engine.durableGet(Bytes("a")) == Bytes("2"))
            #expect(try engine.durableGet(Bytes("gone")) == nil)
        }
    }

    @Test(arguments: Kind.allCases) func anEngineAgreesWithAModel(_ kind: Kind) throws {
        try EngineTests.with(kind) { engine in
            var model: [Bytes: Bytes] = [:]
            var random = SeededRandom(seed: 9)
            func key() -> Bytes { Bytes("k\(1000 + random.number(in: 0..<900))") }
            for round in 0..<150 {
                var batch: [EngineChange] = []
                for _ in 0..<20 {
                    switch random.number(in: 0..<20) {
                    case 0:
                        let (start, end) = (key(), key())
                        batch.append(.deleteRange(start, end))
                        model = model.filter { $0.key < start || !($0.key < end) }
                    case 1..<5:
                        let doomed = key()
                        batch.append(.delete(doomed))
                        model[doomed] = nil
                    default:
                        let (new, value) = (key(), Bytes("\(round)"))
                        batch.append(.put(new, value))
                        model[new] = value
                    }
                }
                try engine.write(batch)
                if round % 30 == 0 { try engine.flush() }
                let (start, end) = (key(), round % 3 == 0 ? Bytes() : key())
                let expected = model.filter { !($0.key < start) && (end.isEmpty || $0.key < end) }.sorted {
                    $0.key < $1.key
                }
                var found: [[Bytes]] = []
                try engine.scan(from: start, to: end) { key, value in
                    found.append([key, value])
                    return true
                }
                #expect(found == expected.map { [$0.key, $0.value] })
            }
        }
    }

    @Test(arguments: Kind.allCases) func aReplicaLivesOnIt(_ kind: Kind) throws {
        let log = RestartTests.log(seed: 11, entries: 200)
        let reference = MemoryEngine()
        let replies = try RestartTests.machine(on: reference).apply(log)
        try EngineTests.with(kind) { engine in
            let again = try RestartTests.run(log, on: engine, batchSeed: 1) { _ in try RestartTests.machine(on: engine)
            }
            #expect(again == replies)
            #expect(try contents(engine) == contents(reference))
        }
    }
}

@Suite("RocksDB on a disk")
struct RocksDiskTests {
    @Test func aClosedStoreOpensWithEverythingInIt() throws {
        let directory = try TemporaryDirectory()
        for round in 0..<3 {
            let engine = try RocksEngine(directory: directory.path + "/store")
            #expect(try EngineTests.keys(engine).split(separator: " ").count == round)
            try engine.write([EngineTests.put("k\(round)", "v")])
            engine.close()
            engine.close()
        }
    }

    @Test("After a crash the store holds the batches before the flush, whole, and the log brings the others back")
    func aCrashLeavesAPrefix() throws {
        let log = RestartTests.log(seed: 12, entries: 200)
        let reference = MemoryEngine()
        let replies = try RestartTests.machine(on: reference).apply(log)

        let directory = try TemporaryDirectory()
        let engine = try RocksEngine(directory: directory.path + "/store")
        let machine = try RestartTests.machine(on: engine)
        _ = try machine.apply(Array(log[..<80]))
        try machine.flush()
        _ = try machine.apply(Array(log[80...]))
        #expect(try machine.durableMeta()?.last.index == LogIndex(80))
        #expect(machine.appliedPosition.index == LogIndex(200))
        // what a power failure would leave: the files as they are now
        try FileManager.default.copyItem(atPath: directory.path + "/store", toPath: directory.path + "/crashed")
        engine.close()

        let crashed = try RocksEngine(directory: directory.path + "/crashed")
        let restarted = try RestartTests.machine(on: crashed)
        #expect(restarted.appliedPosition.index == LogIndex(80))
        #expect(try restarted.apply(Array(log[80...])) == Array(replies[80...]))
        #expect(try contents(crashed) == contents(reference))
        crashed.close()
    }

    @Test("RocksDB writes nothing into its diary, the one file whose failed write on a full disk ends the process")
    func theDiaryStaysEmpty() throws {
        let directory = try TemporaryDirectory()
        let engine = try RocksEngine(directory: directory.path + "/store")
        for round in 0..<3 {
            try engine.write([EngineTests.put("k\(round)", "v")])
            try engine.flush()
        }
        engine.close()
        let diary = try String(contentsOfFile: directory.path + "/store/LOG", encoding: .utf8)
        #expect(diary.split(separator: "\n").count == 0)
    }

    @Test func aViewThatOutlivesTheStoreIsHarmless() throws {
        let directory = try TemporaryDirectory()
        let engine = try RocksEngine(directory: directory.path + "/store")
        try engine.write([EngineTests.put("a", "v")])
        var view: (any EngineView)? = try engine.freeze()
        #expect(try view?.get(Bytes("a")) == Bytes("v"))
        engine.close()
        view = nil
        let again = try RocksEngine(directory: directory.path + "/store")
        #expect(try EngineTests.keys(again) == "a=v ")
        again.close()
    }

    @Test func whatCannotBeOpenedSaysWhy() throws {
        let directory = try TemporaryDirectory()
        let error = #expect(throws: StateMachineError.self) {
            try RocksEngine(directory: directory.path + "/missing/store")
        }
        #expect(error?.description.contains(directory.path + "/missing/store") == true)
        let engine = try RocksEngine(directory: directory.path + "/store")
        // a store has one owner
        #expect(throws: StateMachineError.self) { try RocksEngine(directory: directory.path + "/store") }
        engine.close()
    }
}

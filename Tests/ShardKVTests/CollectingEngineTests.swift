import RaftCore
import Synchronization
import Testing

@testable import ShardKV

extension CollectingEngine.Limits {
    /// So little that all of it is met in a test.
    static var few: CollectingEngine.Limits {
        var limits = CollectingEngine.Limits()
        (limits.replicaBytes, limits.bytes, limits.batchBytes, limits.scannedChanges) = (4000, 10_000, 3000, 4)
        return limits
    }
}

/// An engine in memory that notes what is written, and refuses it when asked to.
private final class WatchedEngine: KeyValueEngine {
    struct Seen {
        var batches: [[EngineChange]] = []
        var refuses = false
    }

    let memory = MemoryEngine()
    private let seen = Mutex(Seen())

    /// What was written since it was last asked.
    func batches() -> [[EngineChange]] {
        seen.withLock { seen in
            defer { seen.batches = [] }
            return seen.batches
        }
    }
    func refuse(_ refuses: Bool) { seen.withLock { $0.refuses = refuses } }

    func write(_ changes: [EngineChange]) throws(StateMachineError) {
        guard !seen.withLock({ $0.refuses }) else { throw StateMachineError("no space left") }
        try memory.write(changes)
        seen.withLock { $0.batches.append(changes) }
    }
    func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { try memory.get(key) }
    func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes? { try memory.durableGet(key) }
    func flush() throws(StateMachineError) { try memory.flush() }
    func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        try memory.approximateBytes(of: ranges)
    }
    func freeze() throws(StateMachineError) -> any EngineView { try memory.freeze() }
    func drop(_ number: UInt64) throws(StateMachineError) { try memory.drop(number) }
    func numbers() throws(StateMachineError) -> [UInt64] { try memory.numbers() }
    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError) {
        try memory.scan(from: start, to: end, visit)
    }
    func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        try memory.ingest(folder, as: number)
    }
}

@Suite("What replicas write is collected, and nobody can tell")
struct CollectingEngineTests {
    static func key(_ number: UInt64, _ rest: String) -> Bytes {
        Bytes(ReplicaKeys.start(of: number).array + Bytes(rest).array)
    }

    static func put(_ number: UInt64, _ rest: String, _ value: String) -> EngineChange {
        .put(key(number, rest), Bytes(value))
    }

    /// The keys of a batch, and what becomes of them.
    static func description(_ changes: [EngineChange]) -> String {
        changes.map { change in
            switch change {
            case .put(let key, let value): "\(key.suffix(from: 8))=\(value)"
            case .putNew(let key, let value): "\(key.suffix(from: 8)):=\(value)"
            case .delete(let key): "\(key.suffix(from: 8))-"
            case .deleteRange(let start, let end): "\(start.suffix(from: 8))..\(end.suffix(from: 8))"
            }
        }.joined(separator: " ")
    }

    private static func written(_ base: WatchedEngine) -> [String] { base.batches().map(description) }

    @Test("Many batches become one: each key once, in order, and what came and went not at all")
    func manyBecomeOne() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base)
        for round in 1...5 {
            try engine.write([
                .putNew(CollectingEngineTests.key(7, "reply\(round)"), Bytes("r")),
                .delete(CollectingEngineTests.key(7, "reply\(round - 1)")),
                CollectingEngineTests.put(7, "meta", "\(round)"), CollectingEngineTests.put(7, "data\(9 - round)", "v"),
            ])
        }
        #expect(base.batches().isEmpty)
        #expect(try engine.get(CollectingEngineTests.key(7, "reply4")) == nil)
        #expect(try engine.get(CollectingEngineTests.key(7, "reply5")) == Bytes("r"))
        #expect(try engine.get(CollectingEngineTests.key(7, "meta")) == Bytes("5"))
        try engine.flush()
        #expect(
            CollectingEngineTests.written(base)
                == ["data4=v data5=v data6=v data7=v data8=v meta=5 reply0- reply5:=r"])
        #expect(engine.collectedBytes == 0)
        try engine.write([.delete(CollectingEngineTests.key(7, "reply5"))])
        try engine.flush()
        #expect(CollectingEngineTests.written(base) == ["reply5-"])
    }

    @Test("A key that was removed and is stored as new may still be below")
    func removedAndStoredAsNew() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base)
        let key = CollectingEngineTests.key(1, "k")
        try engine.write([.put(key, Bytes("old"))])
        try engine.flush()
        try engine.write([.delete(key)])
        try engine.write([.putNew(key, Bytes("new"))])
        try engine.write([.delete(key)])
        #expect(try engine.get(key) == nil)
        try engine.flush()
        #expect(try base.get(key) == nil)
    }

    @Test("A replica's own limit writes its changes alone; that of all, those that have waited longest, together")
    func limits() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base, limits: .few)
        let value = String(repeating: "v", count: 400)
        for round in 0..<8 { try engine.write([CollectingEngineTests.put(1, "k\(round)", value)]) }
        #expect(base.batches().map(\.count) == [6])
        // 600 bytes each: the two of the first replica and fourteen more find room
        for number in 2...15 as ClosedRange<UInt64> {
            try engine.write([CollectingEngineTests.put(number, "k", value)])
        }
        #expect(base.batches().isEmpty)
        let before = engine.collectedBytes
        try engine.write([CollectingEngineTests.put(16, "k", value)])
        #expect(engine.collectedBytes < before)
        let batch = try #require(base.batches().first)
        #expect(batch.count == 5)
        #expect(try base.get(CollectingEngineTests.key(4, "k")) != nil)
        #expect(try base.get(CollectingEngineTests.key(5, "k")) == nil)
        // what is larger than a replica may collect goes at once, behind what was collected
        try engine.write([
            CollectingEngineTests.put(16, "k", "2"),
            CollectingEngineTests.put(16, "l", String(repeating: "v", count: 5000)),
        ])
        #expect(base.batches().map(\.count) == [3])
        #expect(try base.get(CollectingEngineTests.key(16, "k")) == Bytes("2"))
        #expect(engine.collectedBytes < 10_000)
    }

    @Test("Many replicas that write little for long leave nothing behind")
    func manyReplicas() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base, limits: .few)
        for round in 0..<20 {
            for number in 0..<300 as Range<UInt64> {
                try engine.write([CollectingEngineTests.put(number, "k", "\(round)")])
                #expect(engine.collectedBytes <= 10_000)
            }
        }
        try engine.flush()
        #expect(engine.collectedBytes == 0)
        for number in 0..<300 as Range<UInt64> {
            #expect(try base.memory.durableGet(CollectingEngineTests.key(number, "k")) == Bytes("19"))
        }
    }

    @Test("A range is removed behind what was collected, in one batch with it")
    func ranges() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base)
        try engine.write([CollectingEngineTests.put(1, "a", "1"), CollectingEngineTests.put(1, "b", "1")])
        try engine.write([CollectingEngineTests.put(2, "b", "1")])
        try engine.write([
            .deleteRange(CollectingEngineTests.key(1, "b"), CollectingEngineTests.key(1, "c")),
            CollectingEngineTests.put(1, "b1", "2"),
        ])
        #expect(CollectingEngineTests.written(base) == ["a=1 b=1 b..c b1=2"])
        #expect(try engine.get(CollectingEngineTests.key(1, "b")) == nil)
        #expect(try engine.get(CollectingEngineTests.key(2, "b")) == Bytes("1"))
        #expect(engine.collectedBytes > 0)
    }

    @Test("A scan looks through a few changes and hands on many; where that fails it looks through those as well")
    func scans() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base, limits: .few)
        func keys() throws -> String {
            var found = ""
            try engine.scan(from: ReplicaKeys.start(of: 1), to: ReplicaKeys.end(of: 1)) { key, value in
                found += "\(key.suffix(from: 8))=\(value) "
                return true
            }
            return found
        }
        try engine.write([CollectingEngineTests.put(1, "b", "1"), CollectingEngineTests.put(1, "d", "1")])
        try engine.flush()
        _ = base.batches()
        try engine.write([
            CollectingEngineTests.put(1, "a", "2"), .delete(CollectingEngineTests.key(1, "b")),
            CollectingEngineTests.put(1, "d", "2"), CollectingEngineTests.put(1, "e", "2"),
        ])
        #expect(try keys() == "a=2 d=2 e=2 ")
        #expect(base.batches().isEmpty)
        try engine.write([CollectingEngineTests.put(1, "c", "3")])
        try engine.write([CollectingEngineTests.put(2, "c", "3")])
        base.refuse(true)
        #expect(try keys() == "a=2 c=3 d=2 e=2 ")
        base.refuse(false)
        #expect(try keys() == "a=2 c=3 d=2 e=2 ")
        #expect(CollectingEngineTests.written(base) == ["a=2 b- c=3 d=2 e=2"])
        #expect(try keys() == "a=2 c=3 d=2 e=2 ")
    }

    @Test("What cannot be handed on stays; a write that finds no room changes nothing, and nothing is lost")
    func refused() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base, limits: .few)
        let value = String(repeating: "v", count: 400)
        base.refuse(true)
        var written = 0
        while written < 100 {
            do { try engine.write([CollectingEngineTests.put(1, "k\(written)", value)]) } catch { break }
            written += 1
        }
        #expect(written == 6)
        #expect(try engine.get(CollectingEngineTests.key(1, "k6")) == nil)
        #expect(throws: StateMachineError.self) { try engine.flush() }
        #expect(throws: StateMachineError.self) { try engine.freeze(1) }
        #expect(throws: StateMachineError.self) {
            try engine.write([
                .deleteRange(CollectingEngineTests.key(1, ""), CollectingEngineTests.key(1, "z"))
            ])
        }
        for number in 0..<6 { #expect(try engine.get(CollectingEngineTests.key(1, "k\(number)")) == Bytes(value)) }
        // of others there is room for a while
        for number in 2...20 as ClosedRange<UInt64> {
            try? engine.write([CollectingEngineTests.put(number, "k", value)])
            #expect(engine.collectedBytes <= 10_000)
        }
        #expect(throws: StateMachineError.self) { try engine.write([CollectingEngineTests.put(21, "k", value)]) }
        base.refuse(false)
        try engine.write([CollectingEngineTests.put(21, "k", value)])
        try engine.flush()
        #expect(try base.memory.durableGet(CollectingEngineTests.key(1, "k5")) == Bytes(value))
        #expect(try base.memory.durableGet(CollectingEngineTests.key(21, "k")) == Bytes(value))
        #expect(try base.memory.durableGet(CollectingEngineTests.key(1, "k6")) == nil)
    }

    @Test("A dropped replica is not written any more, and its number is found while it is only collected")
    func drops() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base)
        try engine.write([CollectingEngineTests.put(3, "k", "v")])
        try engine.write([.delete(CollectingEngineTests.key(4, "k"))])
        try engine.write([CollectingEngineTests.put(5, "k", "v")])
        #expect(try engine.numbers() == [3, 5])
        try engine.drop(3)
        #expect(try engine.numbers() == [5])
        try engine.flush()
        #expect(try base.numbers() == [5])
        #expect(engine.collectedBytes == 0)
        // a number that is in use takes nothing in, collected or not
        try engine.write([CollectingEngineTests.put(6, "k", "v")])
        let folder = MemoryFolder()
        try engine.freeze(5).export(5, as: 6, into: folder).writeAll()
        #expect(throws: StateMachineError.self) { try engine.ingest(folder, as: 6) }
        try engine.drop(6)
        try engine.ingest(folder, as: 6)
        #expect(try engine.get(CollectingEngineTests.key(6, "k")) == Bytes("v"))
    }

    @Test("A view of a replica has all of it; writing it does not wait for the others")
    func views() throws {
        let base = WatchedEngine()
        let engine = CollectingEngine(over: base)
        for number in 1...3 as ClosedRange<UInt64> { try engine.write([CollectingEngineTests.put(number, "k", "1")]) }
        let view = try engine.freeze(2)
        #expect(base.batches().count == 1)
        try engine.write([CollectingEngineTests.put(2, "k", "2")])
        #expect(try view.get(CollectingEngineTests.key(2, "k")) == Bytes("1"))
        #expect(try engine.freeze().get(CollectingEngineTests.key(3, "k")) == Bytes("1"))
        #expect(engine.collectedBytes == 0)
    }

    @Test("It agrees with a model, through crashes too", arguments: 1...6 as ClosedRange<UInt64>)
    func agreesWithAModel(_ seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        func roll(_ sides: Int) -> Int { Int(random.number(in: 0..<Int64(sides))) }
        let memory = MemoryEngine()
        var engine = CollectingEngine(over: memory, limits: .few)
        // of each replica what it held behind each of its batches, the last one being what it holds
        var states: [[Bytes: Bytes]] = Array(repeating: [:], count: 6)
        var histories: [[[Bytes: Bytes]]] = Array(repeating: [[:]], count: 6)
        func key(_ number: Int) -> Bytes { CollectingEngineTests.key(UInt64(number), "k\(100 + roll(60))") }
        func scanned(_ engine: any KeyValueEngine, _ start: Bytes, _ end: Bytes) throws -> [[Bytes]] {
            var found: [[Bytes]] = []
            try engine.scan(from: start, to: end) { key, value in
                found.append([key, value])
                return true
            }
            return found
        }
        for round in 0..<2000 {
            let number = roll(6)
            switch roll(100) {
            case 0..<80:
                var batch: [EngineChange] = []
                // now and then more than is collected at all
                for _ in 0...(roll(10) == 0 ? 40 : roll(6)) {
                    let (key, value) = (key(number), Bytes("\(round)-\(String(repeating: "v", count: roll(90)))"))
                    switch roll(30) {
                    case 0:
                        let end = self.later(than: key, roll(30))
                        batch.append(.deleteRange(key, end))
                        states[number] = states[number].filter { $0.key < key || !($0.key < end) }
                    case 1..<10:
                        batch.append(.delete(key))
                        states[number][key] = nil
                    case 10..<20 where states[number][key] == nil:
                        batch.append(.putNew(key, value))
                        states[number][key] = value
                    default:
                        batch.append(.put(key, value))
                        states[number][key] = value
                    }
                }
                try engine.write(batch)
                histories[number].append(states[number])
            case 80..<85:
                let (from, to) = (key(roll(6)), key(roll(6)))
                let expected = states.flatMap { $0 }.filter { !($0.key < from) && $0.key < to }.sorted {
                    $0.key < $1.key
                }
                #expect(try scanned(engine, from, to) == expected.map { [$0.key, $0.value] })
            case 85..<92:
                let key = key(number)
                #expect(try engine.get(key) == states[number][key])
            case 92..<94:
                let view = try engine.freeze(UInt64(number))
                var found: [Bytes: Bytes] = [:]
                try view.scan(
                    from: ReplicaKeys.start(of: UInt64(number)), to: ReplicaKeys.end(of: UInt64(number))
                ) { key, value in
                    found[key] = value
                    return true
                }
                #expect(found == states[number])
            case 94:
                try engine.drop(UInt64(number))
                states[number] = [:]
                histories[number].append([:])
            case 95, 96:
                try engine.flush()
                histories = states.map { [$0] }
            case 97, 98:
                // some of what was handed on is durable
                try memory.flush()
            default:
                memory.crash()
                engine = CollectingEngine(over: memory, limits: .few)
                for number in states.indices {
                    let (start, end) = (ReplicaKeys.start(of: UInt64(number)), ReplicaKeys.end(of: UInt64(number)))
                    let found = try scanned(engine, start, end).reduce(into: [:]) { $0[$1[0]] = $1[1] }
                    // its state behind some batch since the last flush
                    #expect(histories[number].contains(found))
                    states[number] = found
                    histories[number] = [found]
                }
            }
        }
    }

    private func later(than key: Bytes, _ steps: Int) -> Bytes {
        let number = ReplicaKeys.number(of: key) ?? 0
        let digits = Int(key.suffix(from: 9).text) ?? 0
        return CollectingEngineTests.key(number, "k\(digits + steps)")
    }
}

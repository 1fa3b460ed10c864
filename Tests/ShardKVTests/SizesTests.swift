import RaftCore
import RocksEngine
import ShardMap
import Testing

@testable import ShardKV

@Suite("How much there is, and where its middle is")
struct SizesTests {
    /// Keys of different shapes, ascending.
    enum Shape: CaseIterable, Sendable {
        case spread
        case longCommonBeginning
        case crowded

        func keys(_ count: Int) -> [Bytes] {
            (0..<count).map { number in
                let digits = String(1_000_000 + number)
                switch self {
                case .spread: return Bytes([UInt8(number * 256 / count)] + Array(digits.utf8))
                case .longCommonBeginning: return Bytes("a/very/long/beginning/that/all/keys/have/" + digits)
                // all but a few differ in their last bytes only
                case .crowded: return number < 3 ? Bytes("\(number)") : Bytes("zzzzzzzzzzzzzzzzzzzzzzzz\(digits)")
                }
            }.sorted()
        }
    }

    @Test("The memory engine tells what a scan would count", arguments: [1, 2, 3] as [UInt64])
    func memory(_ seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let engine = MemoryEngine()
        func key() -> Bytes { Bytes("\(random.number(in: 0..<3000))") }
        for _ in 0..<6000 {
            switch random.number(in: 0..<20) {
            case 0:
                let (one, other) = (key(), key())
                if random.number(in: 0..<20) == 0 {
                    try engine.write([.deleteRange(min(one, other), max(one, other))])
                }
            case 1...5: try engine.write([.delete(key())])
            default:
                let value = Bytes([UInt8](repeating: 1, count: Int(random.number(in: 0..<50))))
                try engine.write([.put(key(), value)])
            }
        }
        var ranges = (0..<200).map { _ in
            let (one, other) = (key(), key())
            return (start: min(one, other), end: max(one, other))
        }
        ranges += [(Bytes(), Bytes()), (Bytes(), Bytes("5")), (Bytes("5"), Bytes())]
        let sizes = try engine.approximateBytes(of: ranges)
        for (range, size) in zip(ranges, sizes) {
            var counted = 0
            if range.end.isEmpty || range.start < range.end {
                try engine.scan(from: range.start, to: range.end) { key, value in
                    counted += key.count + value.count
                    return true
                }
            }
            #expect(size == UInt64(counted), "\(range)")
        }
    }

    private static func store(_ engine: any KeyValueEngine, _ keys: [Bytes]) throws -> ReplicaStore {
        let store = ReplicaStore(engine: engine, replicaNumber: 7)
        let value = Bytes((0..<200).map { UInt8(truncatingIfNeeded: $0 &* 37) })
        for (number, key) in keys.enumerated() {
            store.put(store.layout.key(.data, rest: key), Bytes(value.array + Array("\(number)".utf8)))
        }
        try store.commit()
        return store
    }

    @Test("A middle key has about half on both sides", arguments: EngineTests.Kind.allCases, Shape.allCases)
    func middle(_ kind: EngineTests.Kind, _ shape: Shape) throws {
        try EngineTests.with(kind) { engine in
            let keys = shape.keys(6000)
            let store = try SizesTests.store(engine, keys)
            try engine.flush()
            let (start, end) = store.layout.dataKeys(of: KeyRange(start: Bytes(), end: Bytes()))
            let middle = try #require(try store.middleKey(from: start, to: end)).suffix(from: KeyLayout.prefixBytes)
            let below = keys.count { $0 < middle }
            #expect((2400...3600).contains(below), "\(below) of \(keys.count) are below \(middle)")
        }
    }

    @Test("Where nothing is in files yet, few keys are counted, and of many nothing is said")
    func memtables() throws {
        try EngineTests.with(.rocks) { engine in
            let few = try SizesTests.store(engine, Shape.spread.keys(100))
            let (start, end) = few.layout.dataKeys(of: KeyRange(start: Bytes(), end: Bytes()))
            let middle = try few.middleKey(from: start, to: end)?.suffix(from: KeyLayout.prefixBytes)
            #expect(middle == Shape.spread.keys(100)[50])
            let many = try SizesTests.store(engine, Shape.spread.keys(10_000))
            #expect(try many.middleKey(from: start, to: end) == nil)
        }
    }

    @Test("There is no middle of nothing or of one key", arguments: EngineTests.Kind.allCases)
    func none(_ kind: EngineTests.Kind) throws {
        try EngineTests.with(kind) { engine in
            let empty = try SizesTests.store(engine, [])
            let (start, end) = empty.layout.dataKeys(of: KeyRange(start: Bytes(), end: Bytes()))
            #expect(try empty.middleKey(from: start, to: end) == nil)
            let one = try SizesTests.store(engine, [Bytes("a")])
            try engine.flush()
            #expect(try one.middleKey(from: start, to: end) == nil)
        }
    }

    @Test("What lies between two keys lies between them", arguments: [1, 2, 3] as [UInt64])
    func between(_ seed: UInt64) {
        var random = SeededRandom(seed: seed)
        func key() -> Bytes {
            Bytes((0..<random.number(in: 0..<20)).map { _ in [0, 1, 0x61, 0xff][Int(random.number(in: 0..<4))] })
        }
        var found = 0
        for _ in 0..<10_000 {
            let (low, high) = (key(), key())
            guard let middle = Bytes.between(low, high) else { continue }
            #expect(low < middle && middle < high)
            found += 1
        }
        #expect(found > 3000)
    }
}

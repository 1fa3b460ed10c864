import RaftCore
import ShardMap
import Testing

@testable import ShardServer

@Suite("Counting what shards are asked for")
struct OperationCountsTests {
    private static let everything = KeyRange(start: Bytes(), end: Bytes())

    private static func at(_ milliseconds: Int) -> Instant { Instant(nanoseconds: 0) + .milliseconds(milliseconds) }

    private static func busyKey(_ counts: OperationCounts, of shard: UInt64) -> Bytes? {
        counts.busyKeys(of: [shard: everything])[shard]
    }

    @Test("Rates are those of the time since they were asked for last")
    func rates() {
        var counts = OperationCounts(now: Self.at(0))
        for shard in 1...1000 as ClosedRange<UInt64> {
            counts.admit(shard)
            for _ in 0..<shard { _ = counts.count(2, of: shard) }
        }
        let rates = counts.rates(now: Self.at(2000))
        #expect((1...1000).allSatisfy { rates[$0] == Double($0) })
        // too early to tell anything new
        _ = counts.count(500, of: 1)
        #expect(counts.rates(now: Self.at(2500)) == rates)
        #expect(counts.rates(now: Self.at(4000)) == [1: 250])
        #expect(counts.rates(now: Self.at(6000)) == [:])
    }

    @Test("Whoever invents shards is not counted") func invented() {
        var counts = OperationCounts(now: Self.at(0))
        counts.admit(7)
        for shard in 0..<200_000 as Range<UInt64> { _ = counts.count(1, of: shard) }
        #expect(counts.rates(now: Self.at(1000)) == [7: 1])
    }

    @Test("What is not admitted any more is forgotten") func forgotten() {
        var counts = OperationCounts(now: Self.at(0))
        for shard in 1...500 as ClosedRange<UInt64> { counts.admit(shard) }
        for step in 1...3 {
            for shard in 1...250 as ClosedRange<UInt64> { counts.admit(2 * shard) }
            for shard in 1...500 as ClosedRange<UInt64> { _ = counts.count(1, of: shard) }
            let rates = counts.rates(now: Self.at(1000 * step))
            #expect(rates.count == (step < 3 ? 500 : 250), "in window \(step)")
        }
    }

    @Test("The key that has half of the requests below it, of a sample")
    func middle() throws {
        var random = SeededRandom(seed: 1)
        var counts = OperationCounts(now: Self.at(0))
        counts.admit(3)
        for _ in 0..<100_000 {
            // most of the keys are high, most of the requests are for low ones
            let number = random.chance(0.8) ? random.number(in: 100..<200) : random.number(in: 200..<999)
            if counts.count(1, of: 3) { counts.remember(Bytes("\(number)"), of: 3) }
        }
        let key = try #require(Self.busyKey(counts, of: 3))
        #expect(Bytes("155") < key && key < Bytes("170"))
        #expect(Self.busyKey(counts, of: 4) == nil)
        #expect(counts.busyKeys(of: [3: KeyRange(start: Bytes("9999"), end: Bytes())]) == [:])
    }

    @Test("One key that has nearly everything cannot be divided") func oneKey() {
        var counts = OperationCounts(now: Self.at(0))
        for number in 0..<1000 { counts.remember(Bytes(number % 10 == 0 ? "other\(number)" : "hot"), of: 1) }
        #expect(Self.busyKey(counts, of: 1) == nil)
    }

    @Test("A long key is cut, and few requests say nothing") func bounds() {
        var counts = OperationCounts(now: Self.at(0))
        for number in 0..<31 { counts.remember(Bytes("\(number)"), of: 1) }
        #expect(Self.busyKey(counts, of: 1) == nil)
        for number in 0..<5000 {
            counts.remember(Bytes([UInt8(number % 200)] + [UInt8](repeating: 7, count: 60_000)), of: 2)
        }
        #expect(Self.busyKey(counts, of: 2)?.count == 256)
        #expect(Self.busyKey(counts, of: 1) == nil, "the oldest ones have gone")
    }
}

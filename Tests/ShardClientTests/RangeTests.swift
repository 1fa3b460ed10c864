import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Scans and counts over shards") struct RangeTests {
    typealias Page = (pairs: [KeyResult.Pair], next: Bytes?)

    static func pairs(_ keys: [String]) -> [KeyResult.Pair] {
        keys.map { KeyResult.Pair(key: Bytes($0), value: Bytes($0.uppercased())) }
    }

    /// The answer of a shard that holds `keys` to a scan.
    static func answer(_ sent: Sent, keys: [String]) {
        let scan = sent.request.reads[0]
        let found = keys.filter { !(Bytes($0) < scan.key) && (scan.value.isEmpty || Bytes($0) < scan.value) }
        let page = Array(found.prefix(Int(scan.number)))
        sent.answer([KeyResult(integer: page.count < found.count ? 1 : 0, pairs: pairs(page))])
    }

    @Test func aScanGoesFromShardToShard() {
        let script = Script(map: .split(at: ["g", "p"]))
        var page: Page?
        script.router.scan(from: Bytes("b"), limit: 100, deadline: .ms(1000)) { page = try? $0.get() }
        var asked: [String] = []
        for _ in 0..<3 {
            let sent = script.takeOne()
            asked.append("\(sent.request.shard) \(sent.request.reads[0].key)-\(sent.request.reads[0].value)")
            RangeTests.answer(sent, keys: ["a", "c", "e", "h", "q", "z"])
        }
        script.turn()
        #expect(asked == ["1 b-g", "2 g-p", "3 p-"])
        #expect(page?.pairs == RangeTests.pairs(["c", "e", "h", "q", "z"]))
        #expect(page != nil && page?.next == nil)
    }

    @Test func theLimitEndsItBetweenShardsOrInside() {
        for (limit, expected, next) in [(1, ["a"], "a\u{0}"), (2, ["a", "c"], "g"), (3, ["a", "c", "h"], nil)] {
            let script = Script(map: .split(at: ["g"]))
            var page: Page?
            script.router.scan(from: Bytes(), limit: limit, deadline: .ms(1000)) { page = try? $0.get() }
            while page == nil { RangeTests.answer(script.takeOne(), keys: ["a", "c", "h"]); script.turn() }
            #expect(page?.pairs == RangeTests.pairs(expected))
            #expect(page?.next == next.map { Bytes($0) })
        }
    }

    @Test func aShardThatGivesLessThanAskedIsAskedForMore() {
        let script = Script()
        var page: Page?
        script.router.scan(from: Bytes(), limit: 10, deadline: .ms(1000)) { page = try? $0.get() }
        script.takeOne().answer([KeyResult(integer: 1, pairs: RangeTests.pairs(["a", "b"]))])
        let second = script.takeOne()
        #expect(second.request.reads[0].key == Bytes("b\u{0}") && second.request.reads[0].number == 8)
        second.answer([KeyResult(integer: 0, pairs: RangeTests.pairs(["c"]))])
        script.turn()
        #expect(page?.pairs.count == 3)
    }

    @Test func aScanThatDoesNotAdvanceEnds() {
        let script = Script()
        var error: NamedError?
        script.router.scan(from: Bytes("a"), limit: 10, deadline: .ms(1000)) {
            if case .failure(let thrown) = $0 { error = thrown.error }
        }
        script.takeOne().answer([KeyResult(integer: 1)])
        script.turn()
        #expect(error == .internalError)
    }

    @Test func aScanMeetsASplit() {
        let script = Script()
        var page: Page?
        script.router.scan(from: Bytes(), limit: 10, deadline: .ms(1000)) { page = try? $0.get() }
        script.served = .split(at: ["m"], version: 2, epoch: 2)
        script.takeOne().answer(.wrongShard)
        let first = script.takeOne()
        #expect(first.request.reads[0].value == Bytes("m"))
        RangeTests.answer(first, keys: ["a", "z"])
        RangeTests.answer(script.takeOne(), keys: ["a", "z"])
        script.turn()
        #expect(page?.pairs == RangeTests.pairs(["a", "z"]) && page?.next == nil)
    }

    @Test func theKeyAfterTheLongestKeys() {
        #expect(Router.successor(of: Bytes("a")) == Bytes("a\u{0}"))
        let full = [UInt8](repeating: 0x61, count: KeyLimits.keyBytes)
        #expect(Router.successor(of: Bytes(full)) == Bytes(full.dropLast() + [0x62]))
        let high = [0x61] + [UInt8](repeating: 0xff, count: KeyLimits.keyBytes - 1)
        #expect(Router.successor(of: Bytes(high)) == Bytes([0x62]))
        #expect(Router.successor(of: Bytes([UInt8](repeating: 0xff, count: KeyLimits.keyBytes))) == nil)
    }

    @Test func aCountAsksAllShardsAtOnce() {
        let script = Script(map: .split(at: ["g", "p"]))
        var count: Int64?
        script.router.count(deadline: .ms(1000)) { count = try? $0.get() }
        let sent = script.take()
        #expect(sent.map { $0.request.reads.map(\.code) } == [[.count], [.count], [.count]])
        for (number, sent) in sent.enumerated() { sent.answer([KeyResult(integer: Int64(number + 1))]) }
        script.turn()
        #expect(count == 6)
    }

    @Test func aCountDuringASplitIsMadeAgain() {
        let script = Script()
        var count: Int64?
        script.router.count(deadline: .ms(1000)) { count = try? $0.get() }
        script.served = .split(at: ["m"], version: 2, epoch: 2)
        script.takeOne().answer(.wrongShard)
        script.takeOne().answer([KeyResult(integer: 5)])
        script.turn()
        #expect(count == nil, "half of the keys are missing")
        let sent = script.take()
        #expect(sent.map(\.request.shard) == [1, 2])
        sent[0].answer([KeyResult(integer: 5)])
        sent[1].answer([KeyResult(integer: 3)])
        script.turn()
        #expect(count == 8)
    }

    @Test func aCountWaitsForTheFirstMap() {
        let script = Script(map: nil)
        var count: Int64?
        script.router.count(deadline: .ms(1000)) { count = try? $0.get() }
        script.turn()
        script.mapAsked[0].completion(.map(.one))
        script.takeOne().answer([KeyResult(integer: 4)])
        script.turn()
        #expect(count == 4)
    }

    @Test func failuresComeThrough() {
        let script = Script()
        var errors: [NamedError] = []
        script.router.scan(from: Bytes(), limit: 1, deadline: .ms(10)) {
            if case .failure(let thrown) = $0 { errors.append(thrown.error) }
        }
        script.router.count(deadline: .ms(10)) { if case .failure(let thrown) = $0 { errors.append(thrown.error) } }
        script.run(to: 10)
        #expect(errors == [.deadlineExceeded, .deadlineExceeded])
    }
}

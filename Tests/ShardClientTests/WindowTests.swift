import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Sequences, floor and window") struct WindowTests {
    @Test func theFloorIsTheLowestUnanswered() {
        var window = SequenceWindow(size: 3)
        #expect(window.open() == 1 && window.open() == 2 && window.open() == 3)
        #expect(window.isFull)
        window.answer(2)
        #expect(window.floor == 1 && window.isFull)
        window.answer(1)
        #expect(window.floor == 3 && !window.isFull)
        #expect(window.open() == 4)
        window.answer(4)
        window.answer(3)
        #expect(window.floor == 5)
    }

    @Test func aLongLifeNeedsNoMoreRoom() {
        var window = SequenceWindow(size: 3)
        for number in 1...100 {
            #expect(window.open() == UInt64(2 * number - 1) && window.open() == UInt64(2 * number))
            #expect(!window.isFull)
            for sequence in [2 * number, 2 * number - 1] { window.answer(UInt64(sequence)) }
            #expect(window.floor == UInt64(2 * number + 1))
        }
    }

    /// A script whose one shard has been cut in two, under one session.
    private func halves(_ settings: Router.Settings = Router.Settings()) -> Script {
        let script = Script(settings: settings)
        _ = script.execute([set("a")])
        script.takeOne().answer([.done])
        script.turn()
        script.served = MovingShardTests.halves()
        script.router.updateMap(MovingShardTests.halves())
        return script
    }

    @Test func oneCounterAndOneFloorForShardsThatWereOne() {
        let script = halves()
        _ = script.execute([set("a")])
        let first = script.takeOne()
        _ = script.execute([set("z")])
        let second = script.takeOne()
        #expect([first, second].map(\.write?.sequence) == [2, 3])
        #expect([first, second].map(\.write?.session) == [71, 71])
        #expect(second.write?.floor == 2)
        second.answer([.done])
        _ = script.execute([set("a")])
        let third = script.takeOne()
        #expect(third.write?.sequence == 4 && third.write?.floor == 2)
        first.answer([.done])
        _ = script.execute([set("z")])
        let fourth = script.takeOne()
        #expect(fourth.write?.sequence == 5 && fourth.write?.floor == 4)
    }

    @Test func beyondTheWindowWritesWaitAndReadsDoNot() {
        let script = halves(Settings.with { $0.windowPerSession = 2 })
        var flying: [Sent] = []
        for key in ["a", "z", "b", "y"] {
            _ = script.execute([set(key)])
            flying += script.take()
        }
        #expect(flying.map(\.keys) == [["a"], ["z"]])
        _ = script.execute([get("c")])
        #expect(script.takeOne().keys == ["c"])
        flying[1].answer([.done])
        #expect(script.take().isEmpty, "the floor has not moved")
        flying[0].answer([.done])
        #expect(script.take().map(\.keys) == [["b"], ["y"]])
    }

    @Test func aShardWithoutAnAnswerHoldsUpNoOther() {
        let script = Script(map: .two, settings: Settings.with { $0.windowPerSession = 2 })
        let blocked = script.execute([set("a")])
        let first = script.takeOne()
        for _ in 0..<20 {
            let other = script.execute([set("z")])
            let sent = script.take()
            #expect(sent.map(\.keys) == [["z"]])
            for sent in sent {
                #expect(sent.write?.session != first.write?.session)
                sent.answer([.done])
            }
            script.turn()
            #expect(other.errors == [nil])
        }
        first.answer([.done])
        script.turn()
        #expect(blocked.errors == [nil])
    }

    @Test func aWriteThatFollowsItsTableKeepsItsNumberAndItsFloor() {
        let script = Script(map: .two)
        let lost = script.execute([set("z")])
        let first = script.takeOne()
        // the other shard is far ahead
        for _ in 0..<5 {
            _ = script.execute([set("a")])
            script.takeOne().answer([.done])
            script.turn()
        }
        first.answer(.lost("connection broke"))
        script.turn()
        var merged = ClusterMap.split(at: [], version: 2, epoch: 2)
        merged.shards[0].group = "g1"
        script.served = merged
        script.router.updateMap(merged)
        let again = script.takeOne()
        #expect(again.request.shard == 1 && again.write?.session == first.write?.session)
        #expect(again.write?.sequence == first.write?.sequence && again.write?.floor == first.write?.floor)
        again.answer([.done])
        script.turn()
        #expect(lost.errors == [nil])
    }

    @Test func aRequestGivenUpAsUnknownLetsTheFloorGoOn() {
        let script = Script(settings: Settings.with { $0.windowPerSession = 1 })
        let lost = script.execute([set("a")], by: 100)
        _ = script.takeOne()
        let next = script.execute([set("b")])
        #expect(script.take().isEmpty)
        script.run(to: 100)
        #expect(lost.errors == [.outcomeUnknown])
        let sent = script.takeOne()
        #expect(sent.write?.sequence == 2 && sent.write?.floor == 2)
        sent.answer([.done])
        script.turn()
        #expect(next.errors == [nil])
    }
}

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

    @Test func oneCounterAndOneFloorForAllShards() {
        let script = Script(map: .two)
        _ = script.execute([set("a")])
        let first = script.takeOne()
        _ = script.execute([set("z")])
        let second = script.takeOne()
        #expect([first, second].map(\.write?.sequence) == [1, 2])
        #expect(second.write?.floor == 1)
        second.answer([.done])
        _ = script.execute([set("a")])
        let third = script.takeOne()
        #expect(third.write?.sequence == 3 && third.write?.floor == 1)
        first.answer([.done])
        _ = script.execute([set("z")])
        let fourth = script.takeOne()
        #expect(fourth.write?.sequence == 4 && fourth.write?.floor == 3)
    }

    @Test func beyondTheWindowWritesWaitAndReadsDoNot() {
        let script = Script(map: .two, settings: Settings.with { $0.windowPerSession = 2 })
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

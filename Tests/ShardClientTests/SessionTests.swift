import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Sessions and identity of writes") struct SessionTests {
    @Test func aSessionIsOpenedOnceWithTheFirstWritesOfAShard() {
        let script = Script()
        script.opensSessions = false
        _ = script.execute([set("a")])
        let open = script.takeOne()
        #expect(open.opensSession)
        _ = script.execute([set("b")])
        #expect(script.take().isEmpty, "writes wait")
        _ = script.execute([get("c")])
        #expect(script.takeOne().keys == ["c"], "reads do not")
        open.answer(.reply(ExecuteReply(session: 71)))
        let write = script.takeOne()
        #expect(write.keys == ["a", "b"] && write.write?.session == 71)
    }

    @Test func eachShardHasASessionOfItsOwn() {
        let script = Script(map: .two)
        _ = script.execute([set("a"), set("z")])
        let sessions = script.take().map { $0.write?.session }
        #expect(sessions.count == 2 && sessions[0] != sessions[1])
        #expect(script.opened.count == 2)
    }

    @Test func aLostOpenIsRepeatedAndOnlyTheRepetitionsSessionIsUsed() {
        let script = Script()
        script.opensSessions = false
        _ = script.execute([set("a")])
        let first = script.takeOne()
        first.answer(.lost("connection broke"))
        script.run(to: 20)
        let second = script.takeOne()
        #expect(second.command == first.command && second.node == .n(2))
        first.answer(.reply(ExecuteReply(session: 71)))
        #expect(script.take().isEmpty)
        second.answer(.reply(ExecuteReply(session: 72)))
        #expect(script.takeOne().write?.session == 72)
    }

    @Test func anOpenWhoseAnswerNamesNoSessionFailsTheWritesThatWaitForIt() {
        let script = Script()
        script.opensSessions = false
        let write = script.execute([set("a")])
        script.takeOne().answer(.reply(ExecuteReply()))
        #expect(script.take().isEmpty)
        // our own fault, but certainly not executed
        #expect(write.errors == [.refused] && write.results?[0].message == "a session was opened, but not named")
    }

    @Test func anOpenThatIsRefusedFailsTheWritesThatWaitForIt() {
        let script = Script()
        script.opensSessions = false
        let write = script.execute([set("a")])
        script.takeOne().answer(.diskFull, "1 MiB left")
        script.turn()
        #expect(write.errors == [.diskFull] && write.results?[0].message == "1 MiB left")
        // the error's sentence is not a message: it would be said twice
        let other = script.execute([set("a")])
        script.takeOne().answer(.diskFull)
        script.turn()
        #expect(other.results == [.failure(.diskFull)])
    }

    @Test func anOpenThatNobodyNeedsAnyMoreIsNotRepeated() {
        let script = Script()
        script.opensSessions = false
        let write = script.execute([set("a")], by: 15)
        script.takeOne().answer(.busy)
        script.run(to: 1000)
        #expect(write.errors == [.busy])
        #expect(script.take().isEmpty)
    }

    @Test func aLostWriteIsRepeatedAsItWasButWithThePresentFloor() {
        let script = Script()
        _ = script.execute([set("a")])
        let first = script.takeOne()
        let write = script.execute([set("b")])
        let second = script.takeOne()
        #expect(second.write?.floor == 1)
        first.answer([.done])
        second.answer(.lost("connection broke"))
        script.run(to: 20)
        // else the reply to the first would take room in the session for as long as nothing else is written
        var expected = second.write
        expected?.floor = 2
        let again = script.takeOne()
        #expect(again.write == expected)
        again.answer(.outcomeUnknown)
        script.run(to: 60)
        let third = script.takeOne()
        #expect(third.write == expected)
        third.answer([.done])
        script.turn()
        #expect(write.errors == [nil])
    }

    @Test func aWriteCertainlyNotExecutedLosesWhatHasExpiredBeforeItIsSentAgain() {
        let script = Script()
        let early = script.execute([set("a")], by: 10)
        let late = script.execute([set("b")])
        let first = script.takeOne()
        #expect(first.keys == ["a", "b"])
        first.answer(.busy)
        script.run(to: 20)
        #expect(early.errors == [.busy] && early.time == .ms(10))
        let second = script.takeOne()
        #expect(second.keys == ["b"], "what was said not to have happened must not happen")
        #expect(second.write?.sequence == first.write?.sequence)
        second.answer([.done])
        script.turn()
        #expect(late.errors == [nil])
    }

    @Test func aWritePossiblyExecutedStaysWholeAndOnlyTheLateHearOfIt() {
        let script = Script()
        let early = script.execute([set("a")], by: 10)
        let late = script.execute([set("b")])
        let first = script.takeOne()
        first.answer(.lost("connection broke"))
        script.run(to: 20)
        #expect(early.errors == [.outcomeUnknown])
        let second = script.takeOne()
        #expect(second.command == first.command)
        second.answer([.done, .text("B")])
        script.turn()
        #expect(late.results == [.text("B")])
        #expect(early.count == 1)
    }

    @Test func anExpiredSessionIsReplacedAndTheWriteSentAgain() {
        let script = Script()
        let write = script.execute([set("a")])
        let first = script.takeOne()
        first.answer(.sessionExpired)
        let second = script.takeOne()
        #expect(script.opened.count == 2 && second.write?.session == script.opened[1])
        #expect(second.time == .ms(0))
        second.answer(.sessionExpired)
        #expect(script.take().isEmpty, "twice is no accident: a pause")
        script.run(to: 20)
        script.takeOne().answer([.done])
        script.turn()
        #expect(write.errors == [nil])
    }

    @Test func manyWritesUnderAnExpiredSessionOpenOneNew() {
        let script = Script()
        var flying: [Sent] = []
        for key in ["a", "b", "c"] {
            _ = script.execute([set(key)])
            flying += script.take()
        }
        for sent in flying { sent.answer(.sessionExpired) }
        #expect(script.take().map(\.keys) == [["a"], ["b"], ["c"]])
        #expect(script.opened.count == 2)
    }

    @Test func aSessionThatExpiresAfterALostAttemptLeavesTheOutcomeOpen() {
        let script = Script()
        let write = script.execute([set("a")])
        script.takeOne().answer(.lost("connection broke"))
        script.run(to: 20)
        script.takeOne().answer(.sessionExpired)
        #expect(script.take().isEmpty)
        #expect(write.errors == [.outcomeUnknown])
        _ = script.execute([set("b")])
        #expect(script.takeOne().write?.session == script.opened[1])
    }
}

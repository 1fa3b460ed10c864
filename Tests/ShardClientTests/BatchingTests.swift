import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Operations share requests") struct BatchingTests {
    @Test func readsOfOneTurnLeaveTogetherAndComeBackApart() {
        let script = Script()
        let first = script.execute([get("a"), get("b")])
        let second = script.execute([get("c")])
        let sent = script.takeOne()
        #expect(sent.keys == ["a", "b", "c"])
        #expect(sent.command == nil)
        #expect(sent.request.group == "g1" && sent.request.shard == 1 && sent.request.epoch == 1)
        sent.answer([.text("1"), .text("2"), .text("3")])
        script.turn()
        #expect(first.results == [.text("1"), .text("2")])
        #expect(second.results == [.text("3")])
        #expect(first.count == 1 && second.count == 1)
    }

    @Test func readsDoNotJoinWritesButAWritingCallTakesItsReadsAlong() {
        let script = Script()
        _ = script.execute([get("r")])
        _ = script.execute([get("a"), set("a", "1"), get("a")])
        _ = script.execute([set("b")])
        let sent = script.take()
        #expect(sent.map(\.keys) == [["r"], ["a", "a", "a", "b"]])
        #expect(sent[1].write?.operations.map(\.code) == [.get, .set, .get, .set])
        #expect(sent[1].request.reads.isEmpty)
    }

    @Test func aCallIsDividedByShardAndItsResultsComeInItsOrder() {
        let script = Script(map: .two)
        let answer = script.execute([get("z"), get("a"), get("y"), get("b"), get("a")])
        let sent = script.take()
        #expect(sent.map(\.keys) == [["a", "b", "a"], ["z", "y"]])
        #expect(sent.map(\.request.shard) == [1, 2])
        sent[1].answer([.text("Z"), .text("Y")])
        script.turn()
        #expect(answer.results == nil)
        sent[0].answer([.text("A"), .text("B"), .text("A2")])
        script.turn()
        #expect(answer.results == ["Z", "A", "Y", "B", "A2"].map { .text($0) })
    }

    @Test func theOperationLimitEndsARequest() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 4 })
        for call in 0..<3 { _ = script.execute([get("\(call)a"), get("\(call)b"), get("\(call)c")]) }
        // a call is never torn apart to fill a request
        #expect(script.take().map(\.keys.count) == [3, 3, 3])
        for call in 0..<3 { _ = script.execute([get("\(call)a"), get("\(call)b")]) }
        #expect(script.take().map(\.keys.count) == [4, 2])
    }

    @Test func theByteLimitEndsARequestButOneLargeOperationGoesAlone() {
        let script = Script(settings: Settings.with { $0.maxBytesPerRequest = 1000 })
        let large = KeyOperation(.set, key: Bytes("k"), value: Bytes([UInt8](repeating: 1, count: 5000)))
        _ = script.execute([set("a")])
        _ = script.execute([large])
        _ = script.execute([set("b")])
        #expect(script.take().map(\.keys) == [["a"], ["k"], ["b"]])
    }

    @Test func aCallBeyondTheLimitsGoesInPiecesOneAfterTheOther() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 2 })
        let answer = script.execute((0..<5).map { set("k", "\($0)") })
        for expected in [2, 2, 1] {
            let sent = script.takeOne()
            #expect(sent.keys.count == expected)
            sent.answer([KeyResult](repeating: .done, count: expected))
        }
        script.turn()
        #expect(answer.errors == [nil, nil, nil, nil, nil])
    }

    @Test func requestsInFlightAreBoundedAndWhatWaitsIsJoined() {
        let script = Script(settings: Settings.with { $0.maxRequestsInFlightPerShard = 2 })
        var flying: [Sent] = []
        for key in ["a", "b", "c", "d", "e"] {
            _ = script.execute([get(key)])
            flying += script.take()
        }
        #expect(flying.map(\.keys) == [["a"], ["b"]])
        flying[0].answer([.done])
        #expect(script.take().map(\.keys) == [["c", "d", "e"]])
    }

    @Test func readsAndWritesTakeTurns() {
        let script = Script(settings: Settings.with { $0.maxRequestsInFlightPerShard = 1 })
        _ = script.execute([set("first")])
        var current = script.takeOne()
        var kinds: [Bool] = []
        for round in 0..<6 {
            // either kind alone would keep the shard busy
            _ = script.execute([get("r\(round)")])
            _ = script.execute([set("w\(round)")])
            current.answer([KeyResult](repeating: .done, count: current.keys.count))
            current = script.takeOne()
            kinds.append(current.command == nil)
        }
        #expect(kinds == [true, false, true, false, true, false])
    }

    @Test func whatACompletionAsksLeavesInTheSameTurn() {
        let script = Script()
        let second = Answer()
        script.router.execute([get("a")], deadline: .ms(1000)) { _ in
            script.router.execute([get("b")], deadline: .ms(1000)) { second.results = $0 }
        }
        script.takeOne().answer([.done])
        _ = script.router.turn(now: script.clock.now)
        #expect(script.sent.map(\.keys) == [["b"]])
        script.takeOne().answer([.text("B")])
        script.turn()
        #expect(second.results == [.text("B")])
    }

    @Test func aTurnIsRequestedOnceForManyCalls() {
        let script = Script()
        script.turn()
        let before = script.turnsRequested
        for _ in 0..<10 { _ = script.execute([get("a")]) }
        #expect(script.turnsRequested == before + 1)
    }
}

@Suite("Limits have an answer") struct LimitTests {
    @Test func beyondTheQueueLimitCallsAreBusyAtOnce() {
        let script = Script(settings: Settings.with { $0.maxQueuedOperations = 3 })
        let fits = script.execute([get("a"), get("b")])
        let refused = script.execute([get("c"), get("d")])
        #expect(refused.errors == [.busy, .busy])
        let last = script.execute([get("e")])
        #expect(script.execute([get("f")]).errors == [.busy])
        let sent = script.takeOne()
        #expect(sent.keys == ["a", "b", "e"])
        sent.answer([.done, .done, .done])
        script.turn()
        #expect(fits.errors == [nil, nil] && last.errors == [nil])
        #expect(script.execute([get("g")]).results == nil, "answered operations make room")
    }

    @Test func beyondTheByteLimitToo() {
        let script = Script(settings: Settings.with { $0.maxQueuedBytes = 100 })
        #expect(script.execute([set("a", "x")]).results == nil)
        #expect(script.execute([set("a", String(repeating: "x", count: 50))]).errors == [.busy])
    }

    @Test func aCallThatNoPatienceHelpsIsRefused() {
        let script = Script(
            settings: Settings.with {
                $0.maxQueuedOperations = 2
                $0.maxQueuedBytes = 100
            })
        let many = script.execute([get("a"), get("b"), get("c")])
        #expect(many.errors == [.refused, .refused, .refused])
        #expect(many.results?[0].message?.contains("2 operations") == true)
        #expect(script.execute([set("a", String(repeating: "x", count: 100))]).errors == [.refused])
    }

    @Test func operationsThatBreakTheStoresLimitsAreNotSent() {
        let script = Script()
        let huge = Bytes([UInt8](repeating: 1, count: KeyLimits.keyBytes + 1))
        let answer = script.execute([
            get("a"), KeyOperation(.get, key: huge), set("b"), KeyOperation(.get, key: Bytes()),
            KeyOperation(.scan, key: Bytes("a")), get("c"),
        ])
        let sent = script.takeOne()
        #expect(sent.keys == ["a", "b", "c"])
        sent.answer([.text("1"), .done, .text("3")])
        script.turn()
        #expect(answer.errors == [nil, .keyTooLarge, nil, .keyTooLarge, .badRequest, nil])
        #expect(answer.results?[5].value?.text == "3")
        #expect(script.execute([KeyOperation(.get, key: Bytes())]).errors == [.keyTooLarge])
    }

    @Test func noOperationsNoWork() {
        let script = Script()
        #expect(script.execute([]).results == [])
        #expect(script.take().isEmpty)
    }

    @Test func aPassedDeadlineIsRefusedAtOnce() {
        let script = Script()
        script.clock.now = .ms(50)
        #expect(script.execute([set("a")], by: 50).errors == [.deadlineExceeded])
        #expect(script.take().isEmpty)
    }

    @Test func whenClosedNothingIsLeftOpen() {
        let script = Script(settings: Settings.with { $0.maxRequestsInFlightPerShard = 1 })
        let write = script.execute([set("a")])
        _ = script.takeOne()
        let queued = script.execute([set("b")])
        let read = script.execute([get("c")])
        script.turn()
        script.router.close()
        #expect(write.errors == [.outcomeUnknown])
        #expect(queued.errors == [.stopping])
        #expect(read.errors == [.stopping])
        #expect(script.execute([get("d")]).errors == [.stopping])
    }

    @Test func aCompletionMayCloseTheRouter() {
        let script = Script(map: .two)
        let other = script.execute([set("z")])
        var closed = false
        script.router.execute([get("a")], deadline: .ms(1000)) { _ in
            script.router.close()
            closed = true
        }
        let sent = script.take()
        for sent in sent where sent.keys == ["a"] { sent.answer([.done]) }
        script.turn()
        #expect(closed && other.errors == [.outcomeUnknown])
        for sent in sent where sent.keys == ["z"] { sent.answer([.done]) }
        #expect(script.take().isEmpty && other.count == 1)
    }

    @Test(arguments: [false, true]) func whatDidNotFitIntoAnAnswerIsAskedForAgainInItsOrder(writes: Bool) {
        let script = Script()
        func operation(_ key: String) -> KeyOperation {
            writes ? KeyOperation(.set, key: Bytes(key), value: Bytes("v"), returnsOldValue: true) : get(key)
        }
        let first = script.execute([operation("a"), operation("b"), operation("c")])
        let second = script.execute([operation("d")])
        let sent = script.takeOne()
        let full = KeyResult.failure(.refused)
        sent.answer([.text("A"), full, full, full])
        let again = script.takeOne()
        #expect(again.keys == ["b", "c", "d"])
        if writes { #expect(again.write?.sequence == (sent.write?.sequence ?? 0) + 1) }
        again.answer([.text("B"), .text("C"), full])
        let last = script.takeOne()
        #expect(last.keys == ["d"] && first.results == [.text("A"), .text("B"), .text("C")])
        last.answer([.text("D")])
        script.turn()
        #expect(second.results == [.text("D")])
    }

    @Test func whatDidNotFitGoesBeforeTheRestOfItsCall() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 2 })
        let answer = script.execute([get("a"), get("b"), get("c")])
        script.takeOne().answer([.text("A"), .failure(.refused)])
        let again = script.takeOne()
        #expect(again.keys == ["b", "c"])
        again.answer([.text("B"), .text("C")])
        script.turn()
        #expect(answer.results == [.text("A"), .text("B"), .text("C")])
    }

    @Test func aRefusalThatIsNotTheEndOfAnAnswerIsAResult() {
        for results in [[KeyResult.failure(.refused), .failure(.refused)], [.failure(.refused), .text("B")]] {
            let script = Script()
            let answer = script.execute([get("a"), get("b")])
            script.takeOne().answer(results)
            script.turn()
            #expect(answer.results == results)
        }
    }

    @Test func answersThatAreHeldAreBounded() {
        let script = Script(settings: Settings.with { $0.maxQueuedBytes = 1000 })
        let answer = script.execute([get("a"), get("b")])
        let large = KeyResult(value: Bytes(count: 1000) { _ in })
        script.takeOne().answer([large, .failure(.refused)])
        script.turn()
        #expect(answer.errors == [nil, .busy])
        // and the room is free again
        let next = script.execute([get("c")])
        script.takeOne().answer([.text("C")])
        script.turn()
        #expect(next.results == [.text("C")])
    }
}

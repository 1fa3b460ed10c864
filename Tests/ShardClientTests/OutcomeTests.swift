import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("What is known about a request when it ends") struct OutcomeTests {
    /// What may happen to an attempt, for the table.
    enum Fate: String, CaseIterable {
        case notSent, refused, lost, uncertain, unanswered

        func befall(_ sent: Sent) {
            switch self {
            case .notSent: sent.answer(.notSent("connection refused"))
            case .refused: sent.answer(.busy)
            case .lost: sent.answer(.lost("connection broke"))
            case .uncertain: sent.answer(.outcomeUnknown)
            case .unanswered: break
            }
        }

        /// Whether the attempt may be executed.
        var isUncertain: Bool { self == .lost || self == .uncertain || self == .unanswered }
    }

    @Test(arguments: Fate.allCases, Fate.allCases)
    func atTheDeadline(first: Fate, second: Fate) {
        for isWrite in [false, true] {
            let script = Script(
                settings: Settings.with {
                    $0.attemptTimeout = .milliseconds(30)
                    $0.retryDelay = .milliseconds(30)
                })
            let answer = script.execute([isWrite ? set("a") : get("a")], by: 75)
            first.befall(script.takeOne())
            script.run(to: first == .unanswered ? 60 : 30)
            second.befall(script.takeOne())
            script.run(to: 200)
            let unknown = isWrite && (first.isUncertain || second.isUncertain)
            // a node that has said that it is busy may then close the connection
            let isBusy = second == .refused || (first == .refused && second == .notSent)
            let certain = isBusy ? NamedError.busy : .deadlineExceeded
            #expect(answer.errors == [unknown ? .outcomeUnknown : certain], "\(first) \(second) \(isWrite)")
            #expect(answer.time == .ms(75) && answer.count == 1)
        }
    }

    @Test func neverSent() {
        let script = Script(settings: Settings.with { $0.maxRequestsInFlightPerShard = 1 })
        _ = script.execute([set("a")])
        _ = script.takeOne()
        let queued = script.execute([set("b")], by: 40)
        script.run(to: 40)
        #expect(queued.errors == [.deadlineExceeded] && queued.time == .ms(40))
    }

    @Test func deadlinesOfTheQueueInAnyOrder() {
        let script = Script(settings: Settings.with { $0.maxRequestsInFlightPerShard = 1 })
        _ = script.execute([set("a")])
        _ = script.takeOne()
        let deadlines = [50, 20, 70, 20, 10, 60]
        let answers = deadlines.map { script.execute([set("b")], by: $0) }
        script.run(to: 100)
        #expect(answers.map { $0.time } == deadlines.map { .ms($0) })
    }

    /// How a whole reply's error ends a write; nil: it does not, the write is sent again.
    static func ending(of error: NamedError, afterLoss: Bool) -> NamedError? {
        switch error {
        case .notLeader, .noLeader, .notServed, .busy, .deadlineExceeded, .windowExceeded, .stopping, .damaged,
            .notInitialized,
            .unreachable, .wrongShard, .noSuchGroup, .wrongIdentity, .outcomeUnknown,
            .shardFrozen:
            nil
        case .sessionExpired: afterLoss ? .outcomeUnknown : nil
        case .sequenceTooOld, .internalError, .notAnInteger, .overflow: error
        case .sequenceReused, .keyTooLarge, .valueTooLarge, .badRequest, .diskFull, .refused, .unknownFormat,
            .staleOperation, .conflict,
            .noSuchShard, .noSuchOperation, .noSuchNode, .levelTooLow, .programTooOld:
            afterLoss ? .outcomeUnknown : error
        }
    }

    @Test(arguments: NamedError.allCases, [false, true])
    func anErrorForAWrite(error: NamedError, afterLoss: Bool) {
        let script = Script()
        let answer = script.execute([set("a")], by: 5000)
        var sent = script.takeOne()
        let first = sent
        if afterLoss {
            sent.answer(.lost("connection broke"))
            script.run(to: 20)
            sent = script.takeOne()
        }
        sent.answer(error, "because")
        script.run(to: 100)
        if let ending = OutcomeTests.ending(of: error, afterLoss: afterLoss) {
            #expect(answer.errors == [ending])
            if ending == error { #expect(answer.results?[0].message == "because") }
            #expect(script.take().isEmpty)
        } else {
            #expect(answer.results == nil)
            let again = script.takeOne()
            #expect(again.write?.sequence == first.write?.sequence)
            if afterLoss || error == .outcomeUnknown { #expect(again.command == first.command) }
            again.answer([.done])
            script.turn()
            #expect(answer.errors == [nil])
        }
    }

    @Test(arguments: NamedError.allCases)
    func anErrorForARead(error: NamedError) {
        let script = Script()
        let answer = script.execute([get("a")], by: 5000)
        script.takeOne().answer(error, "because")
        script.run(to: 100)
        switch error.verdict {
        case .final, .reopenSession:
            #expect(answer.errors == [error] && answer.results?[0].message == "because")
        default:
            script.takeOne().answer([.text("A")])
            script.turn()
            #expect(answer.results == [.text("A")])
        }
    }

    @Test func errorsOfSingleOperationsPassThrough() {
        let script = Script()
        let answer = script.execute([set("a"), KeyOperation(.increment, key: Bytes("b"), number: 1)])
        let failure = KeyResult.failure(.notAnInteger, "it is x")
        script.takeOne().answer([.done, failure])
        script.turn()
        #expect(answer.results == [.done, failure])
    }

    @Test func anAnswerOfTheWrongLengthIsAnError() {
        let script = Script()
        let answer = script.execute([set("a"), set("b")])
        script.takeOne().answer([.done])
        script.turn()
        #expect(answer.errors == [.internalError, .internalError])
    }

    @Test func afterAnUnknownPieceTheRestIsNotAttempted() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 2 })
        let answer = script.execute([set("k", "1"), set("k", "2"), set("k", "3")])
        script.takeOne().answer(.lost("connection broke"))
        script.run(to: 20)
        script.takeOne().answer(.sessionExpired)
        #expect(script.take().isEmpty)
        #expect(answer.errors == [.outcomeUnknown, .outcomeUnknown, .refused])
    }

    @Test func atTheDeadlineTheRestDidNotHappen() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 2 })
        let answer = script.execute([set("k", "1"), set("k", "2"), set("k", "3")], by: 50)
        _ = script.takeOne()
        script.run(to: 50)
        #expect(answer.errors == [.outcomeUnknown, .outcomeUnknown, .deadlineExceeded])
    }
}

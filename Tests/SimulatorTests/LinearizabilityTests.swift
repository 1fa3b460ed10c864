import RaftCore
import Simulator
import Testing

private typealias Checker = Linearizability<KeyModel>

/// Something a client sees.
private enum Happening {
    case call(Int, KeyModel.Operation)
    case answer(Int, KeyModel.Outcome)
    case lose(Int)
    case refuse(Int)
}

private func verdict(_ happenings: [Happening]) -> Checker.Verdict {
    var checker = Checker()
    var slots: [Int: Int] = [:]
    for happening in happenings {
        switch happening {
        case .call(let id, let operation): slots[id] = checker.called(operation)
        case .answer(let id, let outcome): _ = checker.returned(slots[id] ?? -1, outcome)
        case .lose(let id): checker.lost(slots[id] ?? -1)
        case .refuse(let id): _ = checker.refused(slots[id] ?? -1)
        }
    }
    return checker.verdict
}

private func value(_ text: String?) -> KeyModel.Outcome { .value(text.map { Bytes($0) }) }

/// In sequence.
private func done(_ id: Int, _ operation: KeyModel.Operation, _ outcome: KeyModel.Outcome) -> [Happening] {
    [.call(id, operation), .answer(id, outcome)]
}

@Suite("The judge of linearizability") struct LinearizabilityTests {
    @Test("The key model is the store's") func model() {
        func run(_ operations: [KeyModel.Operation]) -> [KeyModel.Outcome] {
            var state = KeyModel.initial
            return operations.map { operation in
                let (next, outcome) = KeyModel.apply(operation, to: state)
                state = next
                return outcome
            }
        }
        #expect(
            run([.increment(3), .append(Bytes("1")), .increment(1), .get, .delete, .get])
                == [.number(3), .number(2), .number(32), value("32"), value("32"), value(nil)])
        #expect(run([.put(Bytes("07")), .increment(1), .put(Bytes("x"))]) == [value(nil), .notAnInteger, value("07")])
        #expect(run([.put(Bytes("9223372036854775807")), .increment(1)]) == [value(nil), .notAnInteger])
    }

    @Test("Histories that an order explains") func explained() {
        let put = KeyModel.Operation.put(Bytes("a"))
        let histories: [[Happening]] = [
            done(1, put, value(nil)) + done(2, .get, value("a")) + done(3, .delete, value("a")),
            // concurrent reads see the old value and the new one
            [.call(1, put)] + done(2, .get, value(nil)) + done(3, .get, value("a")) + [.answer(1, value(nil))],
            // two increments at once, in either order
            [.call(1, .increment(1)), .call(2, .increment(1)), .answer(1, .number(2)), .answer(2, .number(1))],
            // unknown: never, late, or at once
            [.call(1, put), .lose(1)] + done(2, .get, value(nil)) + done(3, .get, value(nil)),
            [.call(1, put), .lose(1)] + done(2, .get, value(nil)) + done(3, .get, value("a")),
            [.call(1, .increment(5)), .lose(1)] + done(2, .increment(1), .number(1)) + done(3, .get, value("6")),
            // refused, and not seen
            [.call(1, put), .refuse(1)] + done(2, .get, value(nil)),
            // a read was under way when a refused write was
            [.call(1, put), .call(2, .get), .refuse(1), .answer(2, value(nil))],
        ]
        for history in histories { #expect(verdict(history) == .explained, "\(history)") }
    }

    @Test("Histories that no order explains") func contradictions() {
        let put = KeyModel.Operation.put(Bytes("a"))
        let histories: [[Happening]] = [
            // a stale read
            done(1, put, value(nil)) + done(2, .get, value(nil)),
            // back in time
            [.call(1, put)] + done(2, .get, value("a")) + done(3, .get, value(nil)) + [.answer(1, value(nil))],
            [.call(1, put), .lose(1)] + done(2, .get, value("a")) + done(3, .get, value(nil)),
            // an increment done twice, or lost
            done(1, .increment(1), .number(1)) + done(2, .get, value("2")),
            done(1, .increment(1), .number(1)) + done(2, .increment(1), .number(1)),
            [.call(1, .increment(1)), .lose(1)] + done(2, .get, value("2")),
            // out of nowhere, and from the future
            done(1, .get, value("a")) + done(2, put, value(nil)),
            // refused, and seen
            [.call(1, put), .refuse(1)] + done(2, .get, value("a")),
            [.call(1, put)] + done(2, .get, value("a")) + [.refuse(1)],
            // an append that was torn
            done(1, .append(Bytes("xy")), .number(2)) + done(2, .get, value("x")),
        ]
        for history in histories { #expect(verdict(history) == .contradiction, "\(history)") }
    }

    @Test("Beyond its limit it says so") func limit() {
        var checker = Checker(limit: 10)
        let slots = (0..<8).map { checker.called(.append(Bytes("\($0)"))) }
        #expect(checker.returned(slots[7], .number(8)) == .undecided)
        #expect(checker.verdict == .undecided)
    }

    @Test("Many operations of unknown outcome stay affordable") func many() {
        var checker = Checker()
        for number in 0..<200 {
            let slot = checker.called(.put(Bytes("\(number)")))
            if number % 50 == 0 { checker.lost(slot) } else { _ = checker.returned(slot, outcome(before: number)) }
        }
        #expect(checker.verdict == .explained && checker.lostCount <= 4)

        func outcome(before number: Int) -> KeyModel.Outcome {
            if number == 0 { return value(nil) }
            // what is unknown never happened
            let last = (number - 1) % 50 == 0 ? number - 2 : number - 1
            return value(last < 0 ? nil : "\(last)")
        }
    }

    @Test("It agrees with trying every order, for thousands of small histories") func bruteForce() {
        var random = SeededRandom(seed: 7)
        var verdicts: [Bool: Int] = [:]
        for _ in 0..<4000 {
            let history = SmallHistory(&random)
            let expected = history.hasOrder()
            verdicts[expected, default: 0] += 1
            #expect(verdict(history.happenings) == (expected ? .explained : .contradiction), "\(history.happenings)")
        }
        #expect(verdicts[true, default: 0] > 800 && verdicts[false, default: 0] > 800, "\(verdicts)")
    }
}

/// A few operations with random times and answers that are often, not always, right.
private struct SmallHistory {
    private struct Call {
        var operation: KeyModel.Operation
        var began: Int
        /// Nil: unknown.
        var ended: Int?
        var outcome: KeyModel.Outcome?
    }

    private(set) var happenings: [Happening] = []
    private var calls: [Call] = []

    init(_ random: inout SeededRandom) {
        func number(_ bound: Int) -> Int { Int(random.number(in: 0..<Int64(bound))) }
        var open: [Int] = []
        let count = 3 + number(4)
        // what the store holds if operations take effect at their answers; a lie now and then
        var state = KeyModel.initial
        var time = 0
        while calls.count < count || !open.isEmpty {
            time += 1
            if calls.count < count, open.isEmpty || number(2) == 0 {
                let operations: [KeyModel.Operation] = [
                    .get, .get, .put(Bytes("\(number(3))")), .delete, .append(Bytes("\(number(2))")), .increment(1),
                ]
                let operation = operations[number(operations.count)]
                open.append(calls.count)
                happenings.append(.call(calls.count, operation))
                calls.append(Call(operation: operation, began: time))
                continue
            }
            let id = open.remove(at: number(open.count))
            switch number(6) {
            case 0:
                if number(2) == 0 { (state, _) = KeyModel.apply(calls[id].operation, to: state) }
                happenings.append(.lose(id))
            default:
                var outcome: KeyModel.Outcome
                (state, outcome) = KeyModel.apply(calls[id].operation, to: state)
                if number(8) == 0 { outcome = number(2) == 0 ? .value(Bytes("\(number(3))")) : .number(1) }
                calls[id].ended = time
                calls[id].outcome = outcome
                happenings.append(.answer(id, outcome))
            }
        }
    }

    /// Tries every order of every choice of unknown operations.
    func hasOrder() -> Bool { hasOrder(after: KeyModel.initial, done: []) }

    private func hasOrder(after state: KeyModel.State, done: [Int]) -> Bool {
        let left = calls.indices.filter { !done.contains($0) }
        if left.allSatisfy({ calls[$0].ended == nil }) { return true }
        // the next one began before every other that is left ended
        let bound = left.compactMap { calls[$0].ended }.min() ?? .max
        return left.contains { id in
            guard calls[id].began < bound else { return false }
            let (next, outcome) = KeyModel.apply(calls[id].operation, to: state)
            if let seen = calls[id].outcome, seen != outcome { return false }
            return hasOrder(after: next, done: done + [id])
        }
    }
}

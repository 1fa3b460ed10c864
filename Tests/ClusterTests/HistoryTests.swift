import Testing

@Suite("The judge of histories") struct HistoryTests {
    private static let origin = ContinuousClock.now

    private static func operation(
        _ kind: History.Operation.Kind, _ value: String?, _ began: Int, _ ended: Int?
    ) -> History.Operation {
        History.Operation(
            kind: kind, value: value, began: origin + .seconds(began), ended: ended.map { origin + .seconds($0) })
    }

    private static func write(_ value: String, _ began: Int, _ ended: Int?) -> History.Operation {
        operation(.write, value, began, ended)
    }

    private static func read(_ value: String?, _ began: Int, _ ended: Int) -> History.Operation {
        operation(.read, value, began, ended)
    }

    @Test(arguments: [
        // in sequence
        [read(nil, 0, 1), write("a", 2, 3), read("a", 4, 5), write("b", 6, 7), read("b", 8, 9)],
        // concurrent reads see the old and the new value
        [write("a", 0, 1), write("b", 2, 9), read("a", 3, 4), read("b", 5, 6)],
        // two writes at once, in either order
        [write("a", 0, 5), write("b", 0, 5), read("a", 6, 7), read("a", 8, 9)],
        // an unknown outcome: never, or late
        [write("a", 0, 1), write("b", 2, nil), read("a", 5, 6)],
        [write("a", 0, 1), write("b", 2, nil), read("a", 5, 6), read("b", 7, 8)],
    ])
    func explained(operations: [History.Operation]) {
        #expect(History(operations: operations).contradiction() == nil)
    }

    @Test(arguments: [
        // a stale read
        [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],
        [write("a", 0, 1), read(nil, 2, 3)],
        // back in time
        [write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)],
        [write("a", 0, 1), write("b", 2, nil), read("b", 3, 4), read("a", 5, 6)],
        // two writes at once, seen in both orders
        [write("a", 0, 5), write("b", 0, 5), read("a", 6, 7), read("b", 8, 9), read("a", 10, 11)],
        // out of nowhere, or from the future
        [read("a", 0, 1)],
        [read("a", 0, 1), write("a", 2, 3)],
        // a write lost between two reads of the one before it
        [write("a", 0, 1), read("a", 2, 3), write("b", 4, 5), read("a", 6, 7)],
    ])
    func unexplained(operations: [History.Operation]) {
        #expect(History(operations: operations).contradiction() != nil)
    }
}

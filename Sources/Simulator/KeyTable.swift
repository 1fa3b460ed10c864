import RaftCore

/// The keys that clients share, each with the judge of its history.
final class KeyTable {
    /// One key.
    final class Key {
        let name: Bytes
        fileprivate(set) var history = Linearizability<KeyModel>()
        fileprivate(set) var operations = 0
        fileprivate(set) var underWay = 0

        fileprivate init(_ name: Bytes) { self.name = name }
    }

    private var keys: [Key] = []
    private var generation = 0
    /// Calls answered, refused, and of unknown outcome.
    private(set) var answered = 0
    private(set) var refused = 0
    /// Whether copies of requests may arrive long after them, which no connection does: then a refusal says nothing of
    /// the copy, and a refused write may still happen.
    var hasLateCopies = false
    private(set) var lost = 0
    /// Keys whose history had too many possibilities to be judged to its end.
    private(set) var undecided = 0

    /// A key with so many operations under way or of unknown outcome is left for a fresh one: each multiplies what is
    /// possible.
    private static let openMax = 4
    private static let operationsMax = 400

    init(count: Int) { keys = (0..<count).map { Key(KeyTable.name(slot: $0, generation: 0)) } }

    var count: Int { keys.count }

    /// Spread over the printable first bytes, which is how a new cluster's ranges are cut.
    private static func name(slot: Int, generation: Int) -> Bytes {
        Bytes([UInt8(0x21 + slot * 37 % 0x5d)] + Array("key\(slot).\(generation)".utf8))
    }

    /// The key of a slot, for a new call.
    func key(at slot: Int) -> Key {
        let key = keys[slot]
        let open = key.underWay + key.history.lostCount
        let isJudged = key.history.verdict == .explained
        guard key.operations >= KeyTable.operationsMax || open >= KeyTable.openMax || !isJudged else { return key }
        generation += 1
        keys[slot] = Key(KeyTable.name(slot: slot, generation: generation))
        return keys[slot]
    }

    /// A client calls; names the operation until it ends.
    func called(_ key: Key, _ operation: KeyModel.Operation) -> Int {
        key.operations += 1
        key.underWay += 1
        return key.history.called(operation)
    }

    /// The call has ended; nil for `outcome`: nobody knows how.
    func ended(_ key: Key, _ slot: Int, _ operation: KeyModel.Operation, _ end: CallEnd) -> Violation? {
        key.underWay -= 1
        let before = key.history.verdict
        switch end {
        case .answered(let outcome):
            answered += 1
            _ = key.history.returned(slot, outcome)
        case .refused:
            refused += 1
            if hasLateCopies, operation != .get { key.history.lost(slot) } else { _ = key.history.refused(slot) }
        case .lost:
            lost += 1
            // a read has no effect to wait for
            if operation == .get { _ = key.history.refused(slot) } else { key.history.lost(slot) }
        }
        guard key.history.verdict != before else { return nil }
        guard key.history.verdict == .contradiction else {
            undecided += 1
            return nil
        }
        return Violation("Linearizability", "key \(key.name.text): no order explains that \(operation) \(end)")
    }

    /// How a call has ended.
    enum CallEnd: CustomStringConvertible {
        case answered(KeyModel.Outcome)
        case refused
        case lost

        var description: String {
            switch self {
            case .answered(.value(let value)): "answered " + (value?.text ?? "no value")
            case .answered(.number(let number)): "answered \(number)"
            case .answered(.notAnInteger): "answered that the value is no integer"
            case .refused: "was refused"
            case .lost: "has an unknown outcome"
            }
        }
    }
}

extension KeyModel.Operation: CustomStringConvertible {
    /// As it stands in a timeline.
    public var description: String {
        switch self {
        case .get: "get"
        case .put(let value): "put \(value.text)"
        case .delete: "delete"
        case .append(let value): "append \(value.text)"
        case .increment(let number): "increment by \(number)"
        }
    }
}

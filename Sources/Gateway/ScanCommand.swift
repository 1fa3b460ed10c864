internal import RaftCore
internal import ShardMap

/// One SCAN: a step of a walk over all keys in their order.
///
/// A key that is there from the first step to the last is delivered exactly once; one that comes or goes meanwhile may
/// be or not. COUNT is the number of keys looked at; MATCH chooses among them, so a step may deliver none.
struct ScanStep {
    /// First key to look at.
    var start: Bytes
    /// How many keys to look at.
    var limit: Int
    /// Which of them to deliver; nil: all.
    var pattern: GlobPattern?

    private static let defaultLimit = 10

    /// What a SCAN with `arguments`, the name first, comes to. `limitMax` bounds its COUNT, which is but a hint.
    static func plan(_ arguments: [Bytes], _ cursors: ScanCursors, limitMax: Int) throws(Refusal) -> Plan {
        guard let start = key(arguments[1], cursors) else { throw .invalidCursor }
        var step = ScanStep(start: start, limit: defaultLimit)
        var wantsStrings = true
        var index = 2
        while index < arguments.count {
            guard index + 1 < arguments.count else { throw .syntax }
            let value = arguments[index + 1]
            switch arguments[index].shortName {
            case "count":
                let count = try KeyCommands.integer(value)
                guard count >= 1 else { throw .syntax }
                step.limit = Int(min(count, Int64(limitMax)))
            case "match": step.pattern = value.isWord("*") ? nil : GlobPattern(value)
            case "type": wantsStrings = value.isWord("string")
            default: throw .syntax
            }
            index += 2
        }
        // There are only strings here: a scan for anything else is over at once.
        return wantsStrings ? .scan(step) : .reply(reply([], cursor: 0))
    }

    /// The reply to this step, which found `pairs`; `cursor` is where to go on, 0 at the end.
    func reply(to pairs: [KeyResult.Pair], cursor: UInt64) -> Reply {
        var keys: [Reply] = []
        for pair in pairs where pattern?.matches(pair.key) ?? true { keys.append(.bulk(pair.key)) }
        return ScanStep.reply(keys, cursor: cursor)
    }

    private static func reply(_ keys: [Reply], cursor: UInt64) -> Reply {
        .array([.text(String(cursor)), .array(keys)])
    }

    /// The key at which the scan with this cursor goes on.
    private static func key(_ cursor: Bytes, _ cursors: ScanCursors) -> Bytes? {
        let isDecimal = (1...20).contains(cursor.count) && cursor.array.allSatisfy { (0x30...0x39).contains($0) }
        guard isDecimal, let number = UInt64(cursor.text) else { return nil }
        return number == 0 ? Bytes() : cursors.key(for: number)
    }
}

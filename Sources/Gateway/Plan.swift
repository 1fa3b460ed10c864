internal import RaftCore
internal import ShardMap

/// What a command comes to, decided before anything is executed.
enum Plan {
    /// The reply is known already.
    case reply(Reply)
    /// It is known, and nothing follows it.
    case lastReply(Reply)
    /// Operations for the router, and how their results become the reply.
    case operations([KeyOperation], ReplyForm)
    /// A step of a scan.
    case scan(ScanStep)
    /// The number of keys.
    case count
}

/// How the results of a command's operations become its reply. If one of them is an error, that is the whole reply: one
/// whose outcome is unknown before others. Where it is not that of all keys, it says of how many.
enum ReplyForm {
    /// The value, or null.
    case value
    /// OK.
    case ok
    /// OK if the set took place, else null.
    case okIfApplied
    /// 1 if the set took place, else 0.
    case applied
    /// The integer.
    case integer
    /// The integers' sum.
    case sum
    /// The values, null for each that is missing.
    case values
    /// Milliseconds to live, in seconds.
    case seconds
    /// The type's name.
    case type

    /// The reply to a command whose operations had `results`.
    func reply(_ results: ArraySlice<KeyResult>) -> Reply {
        if let refusal = ReplyForm.refusal(results) { return .error(refusal) }
        return switch self {
        case .value: ReplyForm.value(results[results.startIndex])
        case .ok: .ok
        case .okIfApplied: results[results.startIndex].applied ? .ok : .null
        case .applied: .integer(results[results.startIndex].applied ? 1 : 0)
        case .integer: .integer(ReplyForm.integer(results[results.startIndex]))
        case .sum: .integer(results.reduce(0) { $0 + ReplyForm.integer($1) })
        case .values: .array(results.map(ReplyForm.value))
        case .seconds: .integer(ReplyForm.seconds(ReplyForm.integer(results[results.startIndex])))
        case .type: .simple(ReplyForm.integer(results[results.startIndex]) == 0 ? "none" : "string")
        }
    }

    private static func refusal(_ results: ArraySlice<KeyResult>) -> Refusal? {
        guard let first = results.first(where: { $0.error != nil }) else { return nil }
        let failed = results.first { $0.error?.outcome == .unknown } ?? first
        guard let error = failed.error else { return nil }
        let refusal = Refusal(error, failed.message)
        let failures = results.count { $0.error != nil }
        if failures == results.count { return refusal }
        return Refusal("\(refusal.text) (\(failures) of \(results.count) keys; the others were done)")
    }

    private static func value(_ result: KeyResult) -> Reply { result.value.map { .bulk($0) } ?? .null }

    /// The operations that end here always come with an integer; a node that forgets it must not stop this one.
    private static func integer(_ result: KeyResult) -> Int64 { result.integer ?? 0 }

    /// To the nearest second as Redis rounds; what is no time, -1 and -2, stays.
    private static func seconds(_ milliseconds: Int64) -> Int64 {
        milliseconds < 0 ? milliseconds : milliseconds / 1000 + (milliseconds % 1000 >= 500 ? 1 : 0)
    }
}

/// A session's write takes effect once, however often it is in the log: whoever applies it again gets the first reply
/// again, or an error.
public struct ExactlyOnce: Sendable {
    /// A request, as the client numbered it, whichever shard it is asked of: shards are split, merged and moved.
    public struct Request: Hashable, Sendable {
        /// The session's token.
        public var session: UInt64
        /// The request's number.
        public var sequence: UInt64
        /// A request.
        public init(session: UInt64, sequence: UInt64) {
            self.session = session
            self.sequence = sequence
        }
    }

    /// By request: the reply that executed it, and what stands for its content.
    private var executed: [Request: (reply: UInt64, content: UInt64)] = [:]
    /// How many requests were in the log more than once, and harmed nobody.
    public private(set) var repetitions = 0

    /// Nothing has been executed yet.
    public init() {}

    /// An entry with this request was applied, for the first time at its index.
    ///
    /// - Parameters:
    ///   - content: stands for its operations.
    ///   - reply: stands for the reply; nil if that was an error, so that nothing was executed.
    public mutating func applied(
        _ request: Request, content: UInt64, reply: UInt64?, in group: String
    ) -> Violation? {
        guard let known = executed[request] else {
            if let reply { executed[request] = (reply, content) }
            return nil
        }
        repetitions += 1
        guard let reply else { return nil }
        guard known.reply != reply || known.content != content else { return nil }
        return Violation(
            "ExactlyOnce", group: group,
            "request \(request.sequence) of session \(request.session) "
                + (known.content == content ? "was executed twice" : "was executed with two contents"))
    }
}

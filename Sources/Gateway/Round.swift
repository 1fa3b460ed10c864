internal import RaftCore
internal import ShardMap

/// Commands that are executed together: taken from the front of a connection's queue, answered in their order.
struct Round {
    /// What the router is asked for.
    enum Work {
        /// ``Round/operations``, if there are any.
        case operations
        case scan(ScanStep)
        case count
    }

    /// One command's place in the order of replies.
    struct Part {
        enum Content {
            case ready(Reply)
            /// The next `count` results, in this form.
            case results(count: Int, ReplyForm)
            /// What the scan or the count comes to.
            case outcome
        }
        var content: Content
        /// In force when the command's turn came: a HELLO after it must not change its reply.
        var version: ProtocolVersion
    }

    private(set) var work = Work.operations
    private(set) var operations: [KeyOperation] = []
    private(set) var parts: [Part] = []
    /// Whether the connection closes after it.
    private(set) var isLast = false

    /// Takes `request`, unless its turn is not yet: a scan and a count have a round of their own.
    mutating func take(_ request: Request.Body, _ server: RedisServer, _ client: inout ClientState) -> Bool {
        precondition(!isLast, "nothing follows the last round")
        guard case .operations = work else { return false }
        switch request {
        case .refused(let refusal): append(.ready(.error(refusal)), client.version)
        case .violation(let refusal):
            append(.ready(.error(refusal)), client.version)
            isLast = true
        case .command(let arguments):
            let plan = server.plan(arguments, &client)
            return take(plan, client.version)
        }
        return true
    }

    private mutating func take(_ plan: Plan, _ version: ProtocolVersion) -> Bool {
        switch plan {
        case .reply(let reply): append(.ready(reply), version)
        case .lastReply(let reply):
            append(.ready(reply), version)
            isLast = true
        case .operations(let planned, let form):
            operations += planned
            append(.results(count: planned.count, form), version)
        case .scan(let step): return takeAlone(.scan(step), version)
        case .count: return takeAlone(.count, version)
        }
        return true
    }

    private mutating func takeAlone(_ work: Work, _ version: ProtocolVersion) -> Bool {
        guard parts.isEmpty else { return false }
        self.work = work
        append(.outcome, version)
        return true
    }

    private mutating func append(_ content: Part.Content, _ version: ProtocolVersion) {
        parts.append(Part(content: content, version: version))
    }

    /// Calls `body` with each part's reply, in order. `results` are those of ``operations``.
    func forEachReply(_ results: [KeyResult], _ body: (Reply, ProtocolVersion) -> Void) {
        precondition(results.count == operations.count, "the router answers every operation, and once")
        var position = 0
        for part in parts {
            switch part.content {
            case .ready(let reply): body(reply, part.version)
            case .outcome: preconditionFailure("a scan or a count has no results")
            case .results(let count, let form):
                body(form.reply(results[position..<position + count]), part.version)
                position += count
            }
        }
    }
}

// What a message must look like before the core reads it. A peer may send anything; nothing it sends may trap.

extension Message {
    /// Whether every number is in the range of sane ones. The upper bound leaves room to count on without overflow.
    var isWithinBounds: Bool {
        switch self {
        case .voteRequest(let request):
            return request.term.isCounted && request.last.isPlace && request.last.term <= request.term
                && (request.handOver?.term.isSane ?? true)
        case .voteReply(let reply):
            return reply.term.isSane && reply.requestTerm.isSane && (reply.details?.previousTerm.isSane ?? true)
        case .appendRequest(let request):
            return request.term.isCounted && request.previous.isPlace && request.commit >= .zero
        case .appendReply(let reply):
            return reply.term.isSane && reply.ticket.term.isSane && reply.ticket.previous.isSane
                && reply.ticket.count >= 0 && reply.ticket.count < LogIndex.bound
                && (reply.lastIndex?.isSane ?? true) && (reply.lastTerm?.isSane ?? true)
        case .timeoutNowRequest(let request):
            return request.term.isCounted
        case .timeoutNowReply(let reply):
            return reply.term.isSane
        case .releaseRequest(let request):
            return request.term.isCounted
        case .releaseReply(let reply):
            return reply.term.isSane
        case .readIndexRequest(let request):
            return request.term.isCounted
        case .readIndexReply(let reply):
            return reply.index?.isSane ?? true
        case .snapshotRequest(let request):
            let meta = request.meta
            return request.term.isCounted && meta.last.isPlace && meta.last.index > .zero
                && meta.last.term <= request.term && !meta.configuration.isEmpty
        case .snapshotReply(let reply):
            return reply.term.isSane
        }
    }
}

extension AppendRequest {
    /// What its sender will find again in the answer, as far as the request tells.
    var ticket: AppendTicket {
        AppendTicket(term: term, previous: previous.index, count: entries.count, round: 0)
    }

    /// Why no leader can have sent this; nil if it is in order.
    var flaw: Refusal? {
        guard previous.term <= term else { return .termsOutOfOrder }
        if let first = entries.first, first.term <= .zero { return .malformed }
        var newest = previous.term
        var configurationCount = 0
        for (offset, entry) in entries.enumerated() {
            if entry.term != newest {
                guard entry.term > .zero else { return .malformed }
                guard entry.term > newest, entry.term <= term else { return .termsOutOfOrder }
                newest = entry.term
            }
            guard entry.kind == .configuration else { continue }
            guard configurationCount < configurations.count else { return .malformed }
            let placed = configurations[configurationCount]
            guard placed.index == previous.index.advanced(by: offset + 1), !placed.configuration.isEmpty else {
                return .malformed
            }
            configurationCount += 1
        }
        return configurationCount == configurations.count ? nil : .malformed
    }
}

extension Term {
    fileprivate var isSane: Bool { rawValue >= 0 && rawValue < LogIndex.bound }
    /// Terms are counted from one: nobody ever campaigned or led in term zero.
    fileprivate var isCounted: Bool { isSane && self > .zero }
}

extension LogIndex {
    /// Beyond any index or term that a group can reach by counting.
    fileprivate static var bound: Int { 1 << 62 }
    fileprivate var isSane: Bool { rawValue >= 0 && rawValue < LogIndex.bound }
}

extension LogPosition {
    /// Only the place before the log has term zero.
    fileprivate var isPlace: Bool { term.isSane && index.isSane && (index == .zero) == (term == .zero) }
}

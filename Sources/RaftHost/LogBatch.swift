import RaftCore
import RaftStorage
import Transport

/// What one write of the log carries, and what is owed when it is durable, in order.
struct LogBatch {
    enum Duty {
        case persisted(Replica, DurableMark)
        case acknowledge(Replica, RpcResponder, Message)
        case send(Replica, [Outbound])
        /// Waits for what that group wrote before; without one for everything.
        case call(LogGroup?, () -> Void)

        /// For whose writes it waits; nil: everybody's.
        var group: LogGroup? {
            switch self {
            case .persisted(let replica, _), .acknowledge(let replica, _, _), .send(let replica, _):
                replica.record.number
            case .call(let group, _): group
            }
        }

        /// The replica that gives its vote by it, if it does that.
        var voter: Replica? {
            guard case .acknowledge(let replica, _, .voteReply) = self else { return nil }
            return replica
        }
    }

    private(set) var writes: [LogWrite] = []
    var duties: [Duty] = []
    /// Payload bytes of the writes.
    private(set) var byteCount = 0

    mutating func append(_ write: LogWrite) {
        writes.append(write)
        byteCount += write.entries.reduce(write.note?.count ?? 0) { $0 + $1.payload.count }
    }

    var isEmpty: Bool { writes.isEmpty && duties.isEmpty }

    mutating func append(_ other: LogBatch) {
        writes += other.writes
        duties += other.duties
        byteCount += other.byteCount
    }

    /// Forgets hard states which those in `promised`, by group, have overtaken and made out of date.
    mutating func forget(hardStatesBefore promised: [LogGroup: HardState]) {
        for position in writes.indices {
            guard let earlier = writes[position].hardState, let state = promised[writes[position].group] else {
                continue
            }
            let isOld =
                earlier.term < state.term
                || (earlier.term == state.term && (earlier.vote == nil || earlier == state))
            if isOld { writes[position].hardState = nil }
        }
        writes.removeAll { promised[$0.group] != nil && $0.isEmpty }
    }

    /// The core that asked for what `replica` writes here has gone: the completion vouches for nothing in the log of the
    /// one in its place.
    ///
    /// Nor does an answer that vouches for entries that go: their senders hear that they must ask again.
    mutating func disown(_ replica: Replica) {
        for (position, duty) in duties.enumerated() {
            switch duty {
            case .persisted(let writer, _) where writer === replica:
                duties[position] = .persisted(replica, DurableMark(term: .zero, index: .zero))
            case .acknowledge(let writer, let responder, .appendReply(let reply))
            where writer === replica && reply.success:
                duties[position] = .call(replica.record.number) {
                    responder.fail(RaftHost.again, "a part of the log was lost")
                }
            default: break
            }
        }
    }
}

extension LogWrite {
    /// Whether it does nothing but drop the log's beginning.
    var isCompaction: Bool {
        guard case .compact = start else { return false }
        return hardState == nil && debt == nil && truncateFrom == nil && entries.isEmpty && note == nil
    }

    /// Whether it says nothing.
    fileprivate var isEmpty: Bool {
        hardState == nil && debt == nil && start == nil && truncateFrom == nil && entries.isEmpty && note == nil
            && !drops
    }
}

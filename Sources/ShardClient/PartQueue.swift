internal import RaftCore

/// Parts that wait for a request, in order; also joined at the front, by what has to go before the others.
///
/// Deadlines mostly come in the order of arrival. As long as they do, those that pass are found at the front; only
/// otherwise is the whole queue searched.
struct PartQueue {
    /// Nil where a part has left, so that nothing is kept alive behind the head.
    private var slots: [Part?] = []
    private var head = 0
    /// Whether deadlines ascend.
    private var isOrdered = true
    /// Deadline of the last part appended; also when that part has left.
    private var lastDeadline = Instant.distantPast
    /// Not later than the first deadline; exact while they ascend.
    private var lowestDeadline = Instant.distantFuture

    var isEmpty: Bool { head == slots.count }
    var first: Part? { isEmpty ? nil : slots[head] }

    /// A moment not later than the first deadline in the queue; far away if it is empty.
    var nextDeadline: Instant {
        guard let first else { return .distantFuture }
        return isOrdered ? first.call.deadline : lowestDeadline
    }

    mutating func append(_ part: Part) {
        let deadline = part.call.deadline
        if isEmpty { restart() }
        isOrdered = isOrdered && lastDeadline <= deadline
        lastDeadline = deadline
        lowestDeadline = min(lowestDeadline, deadline)
        slots.append(part)
    }

    mutating func prepend(_ part: Part) {
        guard let first else { return append(part) }
        isOrdered = isOrdered && part.call.deadline <= first.call.deadline
        lowestDeadline = min(lowestDeadline, part.call.deadline)
        if head > 0 {
            head -= 1
            slots[head] = part
        } else {
            slots.insert(part, at: 0)
        }
    }

    mutating func popFirst() -> Part? {
        guard !isEmpty else { return nil }
        let part = slots[head]
        slots[head] = nil
        head += 1
        if head >= 64, head * 2 >= slots.count {
            slots.removeFirst(head)
            head = 0
        }
        return part
    }

    mutating func removeAll() -> [Part] {
        defer { restart() }
        return slots[head...].compactMap { $0 }
    }

    /// Takes out what `now` is too late for.
    mutating func takeExpired(now: Instant) -> [Part] {
        guard nextDeadline <= now else { return [] }
        var expired: [Part] = []
        if isOrdered {
            while let first, first.call.deadline <= now, let part = popFirst() { expired.append(part) }
            return expired
        }
        let parts = removeAll()
        for part in parts { if part.call.deadline <= now { expired.append(part) } else { append(part) } }
        return expired
    }

    private mutating func restart() {
        slots.removeAll(keepingCapacity: true)
        head = 0
        isOrdered = true
        lastDeadline = .distantPast
        lowestDeadline = .distantFuture
    }
}

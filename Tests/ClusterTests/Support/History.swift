import Synchronization

/// What concurrent clients did to one register, with values that are never written twice, and a judge of it.
struct History: Sendable {
    typealias Moment = ContinuousClock.Instant

    /// An operation. `ended` is nil if its outcome is unknown: it may take effect at any time from its begin on.
    struct Operation: Sendable {
        enum Kind: Sendable {
            case write
            case read
        }
        var kind: Kind
        /// What was written or read; nil: there was nothing.
        var value: String?
        var began: Moment
        var ended: Moment?
    }

    var operations: [Operation] = []

    /// Why no order of the operations explains them, or nil if one does.
    ///
    /// With values that are written once it is known which write a read saw, so every value has a cluster: its write
    /// and its reads. A cluster in which one operation ends before another begins needs the time between them for itself
    /// (a forward zone); one whose operations all overlap needs only a moment of the time they share (a backward zone).
    /// An order exists if no two forward zones overlap and no backward zone lies within a forward one (Gibbons and
    /// Korach, Testing Shared Memories, 1997).
    func contradiction() -> String? {
        var writes: [String?: Operation] = [:]
        var zones: [String?: Zone] = [:]
        for operation in operations where operation.kind == .write {
            precondition(writes.updateValue(operation, forKey: operation.value) == nil, "a value is written twice")
        }
        let read = Set(operations.filter { $0.kind == .read }.map(\.value))
        for operation in operations {
            // an unknown write that nobody saw may never have happened
            if operation.kind == .write, operation.ended == nil, !read.contains(operation.value) { continue }
            if operation.kind == .read, let value = operation.value {
                guard let write = writes[value] else { return "\(value) was read and never written" }
                if let ended = operation.ended, ended < write.began { return "\(value) was read before it was written" }
            }
            zones[operation.value, default: Zone(value: operation.value)].add(operation)
        }
        return History.conflict(zones.values.sorted { ($0.value ?? "") < ($1.value ?? "") })
    }

    private static func conflict(_ zones: [Zone]) -> String? {
        for (position, zone) in zones.enumerated() where zone.isForward {
            for (otherPosition, other) in zones.enumerated() where otherPosition != position {
                if other.isForward {
                    if zone.overlaps(other) { return "\(zone.name) and \(other.name) were both there at the same time" }
                } else if zone.contains(other) {
                    return "\(other.name) lies within the time of \(zone.name)"
                }
            }
        }
        return nil
    }
}

extension History.Operation: CustomStringConvertible {
    var description: String { "\(kind) \(value ?? "nothing")\(ended == nil ? "?" : "")" }
}

/// The time that a value needs for itself.
private struct Zone {
    /// Nil: the nothing that was there before all operations.
    var value: String?
    /// Earliest end and latest begin of the operations with the value.
    var firstEnd: History.Moment?
    var lastBegin: History.Moment?

    init(value: String?) { self.value = value }

    mutating func add(_ operation: History.Operation) {
        if let ended = operation.ended { firstEnd = firstEnd.map { min($0, ended) } ?? ended }
        lastBegin = lastBegin.map { max($0, operation.began) } ?? operation.began
    }

    var name: String { value ?? "nothing" }

    var isForward: Bool {
        guard let lastBegin else { return false }
        return value == nil || firstEnd.map { $0 < lastBegin } ?? false
    }

    /// Both are forward. What was there from the beginning has no first end.
    func overlaps(_ other: Zone) -> Bool { starts(before: other.lastBegin) && other.starts(before: lastBegin) }

    /// This one is forward, the other backward: from its last begin to its first end.
    func contains(_ other: Zone) -> Bool {
        guard let end = other.firstEnd, let lastBegin else { return false }
        return starts(before: other.lastBegin) && end < lastBegin
    }

    private func starts(before moment: History.Moment?) -> Bool {
        guard value != nil, let firstEnd, let moment else { return true }
        return firstEnd < moment
    }
}

/// Histories by key, written by many tasks.
final class Recorder: Sendable {
    private let histories = Mutex<[String: History]>([:])

    func add(_ operation: History.Operation, to key: String) {
        histories.withLock { $0[key, default: History()].operations.append(operation) }
    }

    /// Each key with its history, by key.
    var all: [(key: String, history: History)] {
        histories.withLock { $0.sorted { $0.key < $1.key }.map { (key: $0.key, history: $0.value) } }
    }
}

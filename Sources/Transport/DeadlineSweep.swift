public import RaftCore

/// Something that must not take for ever, looked after by a ``DeadlineSweep``. Lane-confined.
public protocol SweptItem: AnyObject {
    /// When it has taken too long; nil: it may take any time.
    var deadline: Instant? { get }
    /// It has. It stays in the sweep, and is told again and again, until its deadline changes or it is removed.
    func expire(now: Instant)
}

/// Looks every now and then for what is overdue, all at once: a deadline costs its owner no timer, and setting one is
/// writing a word. What is overdue hears so at most a pace late. Lane-confined.
public final class DeadlineSweep {
    private let clock: any NodeClock
    private let pace: Interval
    /// With the order in which they came.
    private var items: [ObjectIdentifier: (item: any SweptItem, number: UInt64)] = [:]
    private var added: UInt64 = 0
    private var next: Instant?

    /// A sweep that looks at everything once in a `pace`, while there is anything.
    public init(clock: any NodeClock, pace: Interval = .milliseconds(500)) {
        self.clock = clock
        self.pace = pace
    }

    /// What deadlines are counted from.
    public var now: Instant { clock.now }

    /// Looks after `item`, and holds it, until it is removed.
    public func add(_ item: any SweptItem) {
        added += 1
        items[ObjectIdentifier(item)] = (item, added)
    }

    /// Forgets it.
    public func remove(_ item: any SweptItem) { items[ObjectIdentifier(item)] = nil }

    /// Called once a turn; returns when it is to be called next at the latest.
    public func turn(now: Instant) -> Instant? {
        guard !items.isEmpty else {
            next = nil
            return nil
        }
        guard let due = next else {
            next = now + pace
            return next
        }
        guard due <= now else { return due }
        next = now + pace
        // whoever expires may leave at once; in an order that is the same in each run
        let overdue = items.values.filter { entry in entry.item.deadline.map { $0 <= now } ?? false }
            .sorted { $0.number < $1.number }
        for entry in overdue { entry.item.expire(now: now) }
        return next
    }
}

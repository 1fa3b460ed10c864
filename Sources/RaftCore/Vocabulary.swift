/// A term: a period of time with at most one leader (Raft paper §5.1).
public struct Term: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The number, as on the wire.
    public var rawValue: Int64
    /// Term `rawValue`.
    @inlinable public init(_ rawValue: Int64) { self.rawValue = rawValue }
    /// Before any election.
    @inlinable public static var zero: Term { Term(0) }
    /// The term after this one.
    @inlinable public var next: Term { Term(rawValue + 1) }
    /// Numeric order.
    @inlinable public static func < (left: Term, right: Term) -> Bool { left.rawValue < right.rawValue }
    /// The number.
    public var description: String { "\(rawValue)" }
}

/// The position of an entry in a group's log; the first is 1, and 0 is before the log.
public struct LogIndex: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The number, as on the wire.
    public var rawValue: Int64
    /// Index `rawValue`.
    @inlinable public init(_ rawValue: Int64) { self.rawValue = rawValue }
    /// Before the first entry.
    @inlinable public static var zero: LogIndex { LogIndex(0) }
    /// The index after this one.
    @inlinable public var next: LogIndex { LogIndex(rawValue + 1) }
    /// The index before this one.
    @inlinable public var previous: LogIndex { LogIndex(rawValue - 1) }
    /// The index `count` after this one.
    @inlinable public func advanced(by count: Int) -> LogIndex { LogIndex(rawValue + Int64(count)) }
    /// How many entries lie behind this one up to and including `other`; negative if `other` is before.
    @inlinable public func distance(to other: LogIndex) -> Int { Int(other.rawValue - rawValue) }
    /// Numeric order.
    @inlinable public static func < (left: LogIndex, right: LogIndex) -> Bool { left.rawValue < right.rawValue }
    /// The number.
    public var description: String { "\(rawValue)" }
}

/// An entry's identity: same term and index, same entry (Log Matching, §5.3). Ordered as logs are compared in
/// elections, term first (§5.4.1).
public struct LogPosition: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The entry's term.
    public var term: Term
    /// The entry's index.
    public var index: LogIndex
    /// The entry of `term` at `index`.
    @inlinable public init(term: Term, index: LogIndex) {
        self.term = term
        self.index = index
    }
    /// Before the first entry.
    @inlinable public static var zero: LogPosition { LogPosition(term: .zero, index: .zero) }
    /// Term first, then index.
    @inlinable public static func < (left: LogPosition, right: LogPosition) -> Bool {
        left.term != right.term ? left.term < right.term : left.index < right.index
    }
    /// `index@term`.
    public var description: String { "\(index)@\(term)" }
}

/// Monotonic time of one node in nanoseconds since an arbitrary start; includes time suspended.
public struct Instant: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Nanoseconds.
    public var nanoseconds: Int64
    /// The moment `nanoseconds` after the clock's start.
    @inlinable public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }
    /// Before everything that happens.
    @inlinable public static var distantPast: Instant { Instant(nanoseconds: .min / 2) }
    /// After everything that happens.
    @inlinable public static var distantFuture: Instant { Instant(nanoseconds: .max / 2) }
    /// The moment `interval` later.
    @inlinable public static func + (instant: Instant, interval: Interval) -> Instant {
        Instant(nanoseconds: instant.nanoseconds + interval.nanoseconds)
    }
    /// The time from `earlier` to `later`.
    @inlinable public static func - (later: Instant, earlier: Instant) -> Interval {
        Interval(nanoseconds: later.nanoseconds - earlier.nanoseconds)
    }
    /// Chronological order.
    @inlinable public static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }
    /// Milliseconds.
    public var description: String { "\(nanoseconds / 1_000_000)ms" }
}

/// A length of time in nanoseconds.
public struct Interval: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Nanoseconds.
    public var nanoseconds: Int64
    /// `nanoseconds` long.
    @inlinable public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }
    /// `count` milliseconds.
    @inlinable public static func milliseconds(_ count: Int) -> Interval {
        Interval(nanoseconds: Int64(count) * 1_000_000)
    }
    /// Whole milliseconds.
    @inlinable public var milliseconds: Int { Int(nanoseconds / 1_000_000) }
    /// Order by length.
    @inlinable public static func < (left: Interval, right: Interval) -> Bool { left.nanoseconds < right.nanoseconds }
    /// Milliseconds.
    public var description: String { "\(milliseconds)ms" }
}

/// A node's two clocks. The seam between deciding and time: real in `raftd`, advanced by hand in a simulation.
public protocol NodeClock: AnyObject, Sendable {
    /// Monotonic, counts time suspended; for durations.
    var now: Instant { get }
    /// Milliseconds since 1970; never decides anything but the replicated time of a group.
    var wallClockMilliseconds: Int64 { get }
}

/// A seeded generator (xorshift64*); chance is an argument, so a seed replays a run.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64
    /// The sequence of `seed`.
    public init(seed: UInt64) {
        // splitmix64, so that neighbouring seeds do not give neighbouring sequences
        var mixed = seed &+ 0x9e37_79b9_7f4a_7c15
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        state = (mixed ^ (mixed >> 31)) | 1
    }
    /// The next 64 bits.
    public mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_f491_4f6c_dd1d
    }
    /// A number in `range`.
    public mutating func number(in range: Range<Int64>) -> Int64 {
        range.lowerBound + Int64(next() % UInt64(range.upperBound - range.lowerBound))
    }
}

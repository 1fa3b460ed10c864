/// The hash of everything that a replica applied up to one entry, with what came of it. Replicas of a group that
/// applied the same entries to the same results have the same hash at the same entry, whenever they were started and
/// wherever their snapshots came from.
public struct AppliedHash: Equatable, Sendable {
    /// ``RollingHash/version`` of the replica that counted; hashes of different versions must not be compared.
    public var version: UInt8
    /// The last entry it contains.
    public var index: LogIndex
    /// A ``RollingHash``.
    public var value: UInt64
    /// A hash.
    public init(version: UInt8, index: LogIndex, value: UInt64) {
        self.version = version
        self.index = index
        self.value = value
    }
}

/// A state machine whose replicas can be compared while they run.
public protocol HashedStateMachine: StateMachine {
    /// The hash at the last applied entry; nil if it is not known. Any thread.
    var latestHash: AppliedHash? { get }
    /// The hash at `index`, which is remembered for the newest entries and, farther back, for some at fixed distances,
    /// the same on every replica; nil for any other. Any thread.
    func appliedHash(at index: LogIndex) -> AppliedHash?
}

/// The hash of what was applied, and its values at entries not long ago: the newest sixteen, and the newest sixteen
/// whose index is a multiple of ``stride``.
public struct AppliedHashTrail: Sendable {
    /// Distance of the entries that are remembered longer.
    public static let stride = 256
    private static let kept = 16

    private var hash: RollingHash
    /// The first entry known here.
    private var first: LogIndex
    /// The last entry that was added.
    public private(set) var last: LogIndex
    /// By index modulo their number.
    private var newest = InlineArray<16, UInt64>(repeating: 0)
    /// By (index / stride) modulo their number.
    private var marks = InlineArray<16, UInt64>(repeating: 0)

    /// Goes on behind the entry `index`, at which the hash was `value`.
    public init(at index: LogIndex, value: UInt64) {
        hash = RollingHash(value: value)
        first = index
        last = index
        remember()
    }

    /// Of a replica that has applied nothing.
    public init() { self.init(at: .zero, value: RollingHash().value) }

    /// The hash at the last entry.
    public var value: UInt64 { hash.value }

    /// Adds the next entry and the part of its result that is the same on every replica.
    public mutating func add(_ entry: CommittedEntry, result: Bytes) {
        precondition(entry.position.index == last.next, "an entry is missing between \(last) and \(entry.position)")
        hash.combine(UInt64(bitPattern: entry.position.index.rawValue))
        hash.combine(UInt64(bitPattern: entry.position.term.rawValue))
        hash.combine(entry.payload)
        hash.combine(result)
        last = entry.position.index
        remember()
    }

    /// The value at `index`, if it is remembered.
    public func value(at index: LogIndex) -> UInt64? {
        guard index >= first, index <= last else { return nil }
        let (number, end) = (Int(index.rawValue), Int(last.rawValue))
        if end - number < AppliedHashTrail.kept { return newest[number % AppliedHashTrail.kept] }
        let (mark, offset) = number.quotientAndRemainder(dividingBy: AppliedHashTrail.stride)
        guard offset == 0, end / AppliedHashTrail.stride - mark < AppliedHashTrail.kept else { return nil }
        return marks[mark % AppliedHashTrail.kept]
    }

    private mutating func remember() {
        let number = Int(last.rawValue)
        newest[number % AppliedHashTrail.kept] = hash.value
        let (mark, offset) = number.quotientAndRemainder(dividingBy: AppliedHashTrail.stride)
        if offset == 0 { marks[mark % AppliedHashTrail.kept] = hash.value }
    }
}

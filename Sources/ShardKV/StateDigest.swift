public import RaftCore

/// A digest of the keys of a range. Keys are told without the replica number, which is node-local.
public struct RangeDigest: Equatable, Sendable {
    /// The first key that may be in the range.
    public var start: Bytes
    /// Behind the last one; empty: no bound.
    public var end: Bytes
    /// How many keys there are.
    public var keys: UInt64
    /// Sum of the keys' own hashes, so that neighbouring digests can be added up.
    public var hash: UInt64
    /// A digest.
    public init(start: Bytes, end: Bytes, keys: UInt64 = 0, hash: UInt64 = 0) {
        self.start = start
        self.end = end
        self.keys = keys
        self.hash = hash
    }
}

/// A key with the hash of its value.
public struct KeyDigest: Equatable, Sendable {
    /// Without the replica number.
    public var key: Bytes
    /// Of key and value.
    public var hash: UInt64
    /// A digest.
    public init(key: Bytes, hash: UInt64) {
        self.key = key
        self.hash = hash
    }
}

/// How two replicas' states, frozen at the same entry, are compared without sending them.
///
/// One side chooses ranges (``FrozenReplica/ranges(from:to:count:)``), the other digests the same ones
/// (``FrozenReplica/digests(of:)``), and ``firstDifference(_:_:)-([RangeDigest],[RangeDigest])`` names the first range
/// that differs. That one is cut again, until it has at most ``listedKeys`` keys on the side that cuts; then both list
/// its keys (``FrozenReplica/keys(from:to:limit:)``) and
/// ``firstDifference(_:_:)-([KeyDigest],[KeyDigest])`` names the key. Each round reads only the range in question.
public enum StateDigest {
    /// Of what is hashed, and how; digests of different versions must not be compared.
    public static let version: UInt8 = 2
    /// Ranges of one round, and at most twice as many.
    public static let rangesPerRound = 256
    /// Keys of a list that both sides send.
    public static let listedKeys = 256

    /// The position of the first range in which `left` and `right` differ; nil if they are equal. Both must be digests
    /// of the same ranges, in order.
    public static func firstDifference(_ left: [RangeDigest], _ right: [RangeDigest]) -> Int? {
        precondition(
            left.count == right.count && zip(left, right).allSatisfy { $0.start == $1.start && $0.end == $1.end },
            "digests of different ranges are compared")
        return left.indices.first { left[$0] != right[$0] }
    }

    /// The lowest key that only one side has, or that has another value there; nil if the lists are equal. Both begin at
    /// the same key and are complete, or cut at the same length.
    public static func firstDifference(_ left: [KeyDigest], _ right: [KeyDigest]) -> Bytes? {
        for (left, right) in zip(left, right) where left != right { return min(left.key, right.key) }
        guard left.count != right.count else { return nil }
        let longer = left.count > right.count ? left : right
        return longer[min(left.count, right.count)].key
    }

    /// What `key` holds, in words: for the name of a difference.
    public static func name(of key: Bytes) -> String {
        var reader = ByteReader(key)
        guard let kind = reader.byte().flatMap({ KeyKind(rawValue: $0) }) else { return "unknown key \(key)" }
        switch kind {
        case .meta: return "applied position and replicated time"
        case .map: return "cluster map"
        case .data: return "key \(reader.rest)"
        case .shards: return "shard \(reader.numbersInWords)"
        case .sessions: return "session \(reader.numbersInWords)"
        case .replies: return "stored reply \(reader.numbersInWords)"
        case .fences: return "last operation on shard \(reader.numbersInWords)"
        case .staging: return "shard \(reader.numbersInWords) being staged"
        case .parts: return "part \(reader.numbersInWords) of a value being staged"
        case .changes: return "changes \(reader.numbersInWords) of a moving shard"
        case .operations: return "operation \(reader.numbersInWords)"
        case .counters: return "numbers given out next"
        case .deletedGroups: return "deleted group \(reader.rest)"
        case .removedNodes: return "removed node \(reader.numbersInWords)"
        case .settings: return "settings"
        case .history: return "cluster map of version \(reader.numbersInWords)"
        case .expiry: return "expiry \(reader.number() ?? 0) of key \(reader.rest)"
        }
    }

    /// The hash of one pair, without what tells only which version wrote it: of the meta record its own version and how
    /// its members and its hash of the log are known, of a session's what old ones lack.
    static func hash(_ key: Bytes, _ value: Bytes) -> UInt64 {
        var hash = RollingHash()
        hash.combine(key)
        switch key.isEmpty ? nil : KeyKind(rawValue: key[0]) {
        case .meta where key.count == 1:
            hash.combine(value.slice(from: min(1, value.count), count: min(32, max(0, value.count - 1))))
        case .sessions:
            let start = min(value.isEmpty || value[0] == 1 ? 1 : 9, value.count)
            hash.combine(value.slice(from: start, count: min(16, value.count - start)))
        default: hash.combine(value)
        }
        return hash.value.mixed
    }
}

extension ByteReader {
    /// What is left, number by number.
    fileprivate var numbersInWords: String {
        var (reader, words) = (self, [String]())
        while let number = reader.number() { words.append("\(number)") }
        return words.joined(separator: "/")
    }
}

/// Cuts a run of keys, whose number nobody knows before, into ranges of about the same number of keys.
struct RangeCutter {
    private let count: Int
    private let end: Bytes
    private var ranges: [RangeDigest]
    /// Keys after which the next range begins; doubles whenever there are twice as many ranges as wanted.
    private var keysPerRange: UInt64 = 1

    init(from start: Bytes, to end: Bytes, count: Int) {
        precondition(count > 0)
        self.count = count
        self.end = end
        ranges = [RangeDigest(start: start, end: end)]
    }

    mutating func add(_ key: Bytes, _ hash: UInt64) {
        var last = ranges.count - 1
        if ranges[last].keys == keysPerRange {
            if ranges.count == 2 * count { joinPairs() }
            last = ranges.count - 1
            if ranges[last].keys == keysPerRange {
                ranges[last].end = key
                ranges.append(RangeDigest(start: key, end: end))
                last += 1
            }
        }
        ranges[last].keys += 1
        ranges[last].hash &+= hash
    }

    private mutating func joinPairs() {
        for pair in 0..<ranges.count / 2 {
            var joined = ranges[2 * pair]
            let second = ranges[2 * pair + 1]
            joined.end = second.end
            joined.keys += second.keys
            joined.hash &+= second.hash
            ranges[pair] = joined
        }
        ranges.removeLast(ranges.count / 2)
        keysPerRange *= 2
    }

    var finished: [RangeDigest] { ranges }
}

// MARK: a replica's digests

extension FrozenReplica {
    /// Cuts the keys of `[start, end)` into `count` ranges or up to twice as many, each of about as many keys, and
    /// digests them; together they are `[start, end)`. Reads all of it.
    public func ranges(
        from start: Bytes = Bytes(), to end: Bytes = Bytes(), count: Int = StateDigest.rangesPerRound
    ) throws(StateMachineError) -> [RangeDigest] {
        var cutter = RangeCutter(from: start, to: end, count: count)
        try scan(from: start, to: end) { key, value in
            cutter.add(key, StateDigest.hash(key, value))
            return true
        }
        return cutter.finished
    }

    /// Digests the ranges that another replica chose; what it counted there is ignored. Throws unless each range begins
    /// where the one before ends. Reads all of them.
    public func digests(of ranges: [RangeDigest]) throws(StateMachineError) -> [RangeDigest] {
        guard let first = ranges.first, let last = ranges.last else { return [] }
        let areInOrder = zip(ranges, ranges.dropFirst()).allSatisfy { $0.end == $1.start && $0.start < $1.start }
        guard areInOrder, last.end.isEmpty || last.start < last.end else {
            throw StateMachineError("the ranges to digest do not follow one another")
        }
        var digests = ranges.map { RangeDigest(start: $0.start, end: $0.end) }
        var position = 0
        try scan(from: first.start, to: last.end) { key, value in
            while position < digests.count - 1, !(key < digests[position].end) { position += 1 }
            digests[position].keys += 1
            digests[position].hash &+= StateDigest.hash(key, value)
            return true
        }
        return digests
    }

    /// The first `limit` keys of `[start, end)`.
    public func keys(
        from start: Bytes, to end: Bytes, limit: Int = StateDigest.listedKeys
    ) throws(StateMachineError) -> [KeyDigest] {
        var keys: [KeyDigest] = []
        guard limit > 0 else { return keys }
        try scan(from: start, to: end) { key, value in
            keys.append(KeyDigest(key: key, hash: StateDigest.hash(key, value)))
            return keys.count < limit
        }
        return keys
    }

    /// Visits the replica's keys of `[start, end)`, without the number; an empty `end` is no bound.
    private func scan(
        from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool
    ) throws(StateMachineError) {
        guard end.isEmpty || start < end else { return }
        let bound =
            end.isEmpty ? ReplicaKeys.end(of: replicaNumber) : ReplicaKeys.key(of: replicaNumber, end)
        try view.scan(from: ReplicaKeys.key(of: replicaNumber, start), to: bound) { key, value in
            visit(key.suffix(from: ReplicaKeys.prefixBytes), value)
        }
    }
}

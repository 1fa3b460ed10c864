import RaftCore
import ShardMap

/// Decides which keys an observer sees. Inside the log only replicated time counts; a read also notes when the wall
/// clock would decide otherwise, for then its answer has to wait until replicated time has moved on.
struct ExpiryJudge {
    let replicatedTime: Int64
    /// Not below replicated time; equal to it inside the log.
    let wallClock: Int64
    /// Whether a key was seen that is due by the wall clock and not yet by replicated time.
    private(set) var hasSeenDue = false

    init(replicatedTime: Int64, wallClock: Int64) {
        self.replicatedTime = replicatedTime
        self.wallClock = max(replicatedTime, wallClock)
    }

    /// Whether a key with this expiry is there.
    mutating func isLive(_ expiry: Int64?) -> Bool {
        guard let expiry else { return true }
        guard expiry > replicatedTime else { return false }
        if expiry <= wallClock { hasSeenDue = true }
        return true
    }

    /// `value` unless it has expired.
    mutating func live(_ value: StoredValue?) -> StoredValue? {
        guard let value, isLive(value.expiry) else { return nil }
        return value
    }
}

/// How much one request may return. Once it is spent nothing of the request is done any more: what was executed is a
/// beginning of it, and the rest may be asked for again.
struct ReplyBudget {
    /// Pairs of one scan.
    let scanPairs: Int
    /// Bytes of keys and values of one scan, exceeded by one pair at most.
    let scanBytes: Int
    /// Bytes of everything returned, exceeded by one value or scan at most.
    private(set) var bytesLeft: Int

    /// What a pair of a scan costs besides its bytes, so that many small ones cannot fill the memory.
    static let pairOverhead = 64

    init(_ limits: KeyValueStateMachine.Limits) {
        scanPairs = limits.scanLimit
        scanBytes = limits.scanBytes
        bytesLeft = limits.replyBytes
    }

    var isSpent: Bool { bytesLeft <= 0 }
    mutating func spend(_ bytes: Int) { bytesLeft -= bytes }
}

// MARK: reads

extension Keyspace {
    /// Executes an operation for which ``ShardMap/KeyOperation/isRead`` holds, within `range`.
    func read(
        _ operation: KeyOperation, in range: KeyRange, _ judge: inout ExpiryJudge, _ budget: inout ReplyBudget
    ) throws(StateMachineError) -> KeyResult {
        guard !budget.isSpent else { return .failure(.refused) }
        if let violation = operation.limitViolation { return .failure(violation) }
        switch operation.code {
        case .get:
            let value = try judge.live(stored(operation.key))?.payload
            budget.spend(value?.count ?? 0)
            return KeyResult(value: value)
        case .exists: return KeyResult(integer: try judge.live(stored(operation.key)) == nil ? 0 : 1)
        case .stringLength: return KeyResult(integer: Int64(try judge.live(stored(operation.key))?.payload.count ?? 0))
        case .timeToLive:
            guard let value = try judge.live(stored(operation.key)) else { return KeyResult(integer: -2) }
            return KeyResult(integer: value.expiry.map { $0 - judge.wallClock } ?? -1)
        case .scan: return try scan(operation, range, &judge, &budget)
        case .count: return KeyResult(integer: try count(range, &judge))
        case .set, .delete, .increment, .append, .expire, .persist:
            preconditionFailure("\(operation.code) is not a read")
        }
    }

    /// Pairs of the requested range that lie in the shard's; integer 1 if there are more of them.
    private func scan(
        _ operation: KeyOperation, _ range: KeyRange, _ judge: inout ExpiryJudge, _ budget: inout ReplyBudget
    ) throws(StateMachineError) -> KeyResult {
        let end =
            operation.value.isEmpty || (!range.end.isEmpty && range.end < operation.value)
            ? range.end : operation.value
        let asked = operation.number > 0 ? Int(operation.number) : budget.scanPairs
        let pairsMax = min(asked, budget.scanPairs)
        var result = KeyResult(integer: 0)
        var bytes = 0
        let bytesMax = min(budget.scanBytes, budget.bytesLeft)
        var seen = judge
        try scan(from: max(operation.key, range.start), to: end) { key, value in
            guard seen.isLive(value.expiry) else { return true }
            guard result.pairs.count < pairsMax, bytes < bytesMax else {
                result.integer = 1
                return false
            }
            result.pairs.append(KeyResult.Pair(key: key, value: value.payload))
            bytes += key.count + value.payload.count
            return true
        }
        judge = seen
        budget.spend(bytes + ReplyBudget.pairOverhead * result.pairs.count)
        return result
    }

    private func count(_ range: KeyRange, _ judge: inout ExpiryJudge) throws(StateMachineError) -> Int64 {
        var seen = judge
        var count: Int64 = 0
        try scan(from: range.start, to: range.end) { _, value in
            if seen.isLive(value.expiry) { count += 1 }
            return true
        }
        judge = seen
        return count
    }
}

// MARK: writes

extension Keyspace {
    /// Executes any operation at its place in the log, where replicated time alone decides what has expired.
    mutating func execute(
        _ operation: KeyOperation, in range: KeyRange, _ budget: inout ReplyBudget
    ) throws(StateMachineError) -> KeyResult {
        var judge = ExpiryJudge(replicatedTime: replicatedTime, wallClock: replicatedTime)
        if operation.isRead { return try read(operation, in: range, &judge, &budget) }
        guard !budget.isSpent else { return .failure(.refused) }
        if let violation = operation.limitViolation { return .failure(violation) }
        if operation.code == .set && operation.isBlind { return try setBlindly(operation) }
        let old = try stored(operation.key)
        let live = judge.live(old)
        switch operation.code {
        case .set: return try set(operation, old, live, &budget)
        case .delete: return try delete(operation, old, live, &budget)
        case .increment: return try increment(operation, old, live)
        case .append: return try append(operation, old, live)
        case .expire: return try expire(operation, live)
        case .persist: return try persist(operation, live)
        case .get, .exists, .stringLength, .timeToLive, .scan, .count: preconditionFailure("handled above")
        }
    }

    /// The moment `milliseconds` from now, at most the end of time.
    private func moment(after milliseconds: Int64) -> Int64 {
        let (sum, overflow) = replicatedTime.addingReportingOverflow(milliseconds)
        return overflow ? .max : sum
    }

    /// Stores `value` until `expiry`, or removes what there was if that moment has come.
    private mutating func put(
        _ key: Bytes, _ value: Bytes, until expiry: Int64?, replacing old: StoredValue?
    ) throws(StateMachineError) {
        if expiry.map({ $0 > replicatedTime }) ?? true {
            try put(key, StoredValue(value, expiry: expiry), replacing: old)
        } else if let old {
            try delete(key, old)
        }
    }

    private mutating func setBlindly(_ operation: KeyOperation) throws(StateMachineError) -> KeyResult {
        try put(operation.key, StoredValue(operation.value), replacing: replaced(operation.key))
        return KeyResult()
    }

    private mutating func set(
        _ operation: KeyOperation, _ old: StoredValue?, _ live: StoredValue?, _ budget: inout ReplyBudget
    ) throws(StateMachineError) -> KeyResult {
        guard operation.hasOneExpiry else { return .failure(.badRequest) }
        let holds =
            switch operation.condition {
            case .always: true
            case .ifAbsent: live == nil
            case .ifPresent: live != nil
            }
        let returned = operation.returnsOldValue ? live?.payload : nil
        budget.spend(returned?.count ?? 0)
        if holds {
            let kept = operation.keepsExpiry ? live?.expiry : nil
            let asked = operation.expiresAtMilliseconds ?? operation.expiresInMilliseconds.map { moment(after: $0) }
            try put(operation.key, operation.value, until: asked ?? kept, replacing: old)
        }
        return KeyResult(value: returned, applied: holds)
    }

    private mutating func delete(
        _ operation: KeyOperation, _ old: StoredValue?, _ live: StoredValue?, _ budget: inout ReplyBudget
    ) throws(StateMachineError) -> KeyResult {
        if let old { try delete(operation.key, old) }
        let returned = operation.returnsOldValue ? live?.payload : nil
        budget.spend(returned?.count ?? 0)
        return KeyResult(value: returned, integer: live == nil ? 0 : 1)
    }

    private mutating func increment(
        _ operation: KeyOperation, _ old: StoredValue?, _ live: StoredValue?
    ) throws(StateMachineError) -> KeyResult {
        guard let number = live.map({ Int64(decimal: $0.payload) }) ?? 0 else { return .failure(.notAnInteger) }
        let (sum, overflow) = number.addingReportingOverflow(operation.number)
        guard !overflow else { return .failure(.overflow) }
        try put(operation.key, StoredValue(Bytes(String(sum)), expiry: live?.expiry), replacing: old)
        return KeyResult(integer: sum)
    }

    private mutating func append(
        _ operation: KeyOperation, _ old: StoredValue?, _ live: StoredValue?
    ) throws(StateMachineError) -> KeyResult {
        let head = live?.payload ?? Bytes()
        let count = head.count + operation.value.count
        guard count <= KeyLimits.valueBytes else { return .failure(.valueTooLarge) }
        let joined = ByteWriter.bytes(count) { writer in
            writer.put(head)
            writer.put(operation.value)
        }
        try put(operation.key, StoredValue(joined, expiry: live?.expiry), replacing: old)
        return KeyResult(integer: Int64(count))
    }

    private mutating func expire(_ operation: KeyOperation, _ live: StoredValue?) throws(StateMachineError) -> KeyResult
    {
        guard let live else { return KeyResult(integer: 0) }
        let expiry = operation.expiresAtMilliseconds ?? moment(after: operation.number)
        try put(operation.key, live.payload, until: expiry, replacing: live)
        return KeyResult(integer: 1)
    }

    private mutating func persist(_ operation: KeyOperation, _ live: StoredValue?) throws(StateMachineError)
        -> KeyResult
    {
        guard let live, live.expiry != nil else { return KeyResult(integer: 0) }
        try put(operation.key, StoredValue(live.payload), replacing: live)
        return KeyResult(integer: 1)
    }
}

extension KeyOperation {
    /// Whether a set's outcome depends on nothing that is stored.
    fileprivate var isBlind: Bool {
        condition == .always && !returnsOldValue && !keepsExpiry && expiresInMilliseconds == nil
            && expiresAtMilliseconds == nil
    }

    /// Whether a set says in at most one way when its value expires, and means something by it.
    fileprivate var hasOneExpiry: Bool {
        if let expiresInMilliseconds {
            expiresInMilliseconds > 0 && expiresAtMilliseconds == nil && !keepsExpiry
        } else {
            expiresAtMilliseconds == nil || !keepsExpiry
        }
    }
}

extension Int64 {
    /// The number whose decimal form is exactly `digits`, as Redis reads it: no blanks, no plus, no leading zeros.
    fileprivate init?(decimal digits: Bytes) {
        guard digits.count <= 20, let number = Int64(digits.text), Bytes(String(number)) == digits else { return nil }
        self = number
    }
}

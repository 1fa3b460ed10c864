public import RaftCore

/// One operation on one key (or, for a scan and a count, on one shard).
public struct KeyOperation: Equatable, Sendable {
    /// What to do; numbers are the wire's.
    public enum Code: UInt32, Sendable {
        /// The value.
        case get = 1
        /// Stores ``KeyOperation/value``, subject to the condition.
        case set = 2
        /// Removes the key; integer 1 if it existed.
        case delete = 3
        /// Integer 1 if the key exists.
        case exists = 4
        /// Adds ``KeyOperation/number`` to the integer stored; the integer result is the sum.
        case increment = 5
        /// Appends ``KeyOperation/value``; the integer result is the new length.
        case append = 6
        /// Integer: the value's length.
        case stringLength = 7
        /// Integer: milliseconds to live, -1 without expiry, -2 without key.
        case timeToLive = 8
        /// Expires the key ``KeyOperation/number`` ms from now, or at ``KeyOperation/expiresAtMilliseconds``; deletes
        /// it if that is not in the future. Integer 1 if the key exists.
        case expire = 9
        /// Removes the expiry; integer 1 if there was one.
        case persist = 10
        /// Pairs from ``KeyOperation/key`` on to before ``KeyOperation/value``, at most ``KeyOperation/number``.
        case scan = 11
        /// Integer: live keys of the shard.
        case count = 12
    }

    /// When a set takes place.
    public enum Condition: UInt32, Sendable {
        /// Always.
        case always = 0
        /// Only if there is no such key (NX).
        case ifAbsent = 1
        /// Only if there is one (XX).
        case ifPresent = 2
    }

    /// What to do.
    public var code: Code
    /// On which key; first key of a scan.
    public var key: Bytes
    /// The new value, or the end of a scan.
    public var value: Bytes
    /// When a set takes place.
    public var condition: Condition
    /// Whether a set or a delete returns the value before it.
    public var returnsOldValue: Bool
    /// Milliseconds until a set value expires; positive.
    public var expiresInMilliseconds: Int64?
    /// When a set value, or the key of an ``Code/expire``, expires: milliseconds since 1970, judged by the group's
    /// replicated time and no node's clock. A set whose moment is not in the future takes place and leaves no key.
    public var expiresAtMilliseconds: Int64?
    /// Whether a set keeps the expiry that is there.
    public var keepsExpiry: Bool
    /// Increment, time to live, or limit.
    public var number: Int64

    /// An operation.
    public init(
        _ code: Code, key: Bytes, value: Bytes = Bytes(), condition: Condition = .always, returnsOldValue: Bool = false,
        expiresInMilliseconds: Int64? = nil, expiresAtMilliseconds: Int64? = nil, keepsExpiry: Bool = false,
        number: Int64 = 0
    ) {
        self.code = code
        self.key = key
        self.value = value
        self.condition = condition
        self.returnsOldValue = returnsOldValue
        self.expiresInMilliseconds = expiresInMilliseconds
        self.expiresAtMilliseconds = expiresAtMilliseconds
        self.keepsExpiry = keepsExpiry
        self.number = number
    }

    /// Whether it changes nothing; a request of reads alone needs no entry.
    public var isRead: Bool {
        switch code {
        case .get, .exists, .stringLength, .timeToLive, .scan, .count: true
        case .set, .delete, .increment, .append, .expire, .persist: false
        }
    }

    /// Why the limits forbid it, if they do.
    public var limitViolation: NamedError? {
        switch code {
        case .scan, .count: key.count <= KeyLimits.keyBytes && value.count <= KeyLimits.keyBytes ? nil : .keyTooLarge
        default:
            if key.isEmpty || key.count > KeyLimits.keyBytes {
                .keyTooLarge
            } else if value.count > KeyLimits.valueBytes {
                .valueTooLarge
            } else {
                nil
            }
        }
    }
}

/// The outcome of one ``KeyOperation``.
public struct KeyResult: Equatable, Sendable {
    /// A key and its value.
    public struct Pair: Equatable, Sendable {
        /// The key.
        public var key: Bytes
        /// Its value.
        public var value: Bytes
        /// A pair.
        public init(key: Bytes, value: Bytes) {
            self.key = key
            self.value = value
        }
    }

    /// Nil: done.
    public var error: NamedError?
    /// More about the error, if there is more than its sentence.
    public var message: String?
    /// A value, where the operation returns one and there is one.
    public var value: Bytes?
    /// An integer, where the operation returns one.
    public var integer: Int64?
    /// Of a set: whether its condition held.
    public var applied: Bool
    /// Of a scan.
    public var pairs: [Pair]

    /// An outcome.
    public init(value: Bytes? = nil, integer: Int64? = nil, applied: Bool = true, pairs: [Pair] = []) {
        self.value = value
        self.integer = integer
        self.applied = applied
        self.pairs = pairs
    }

    /// A failure.
    public static func failure(_ error: NamedError, _ message: String? = nil) -> KeyResult {
        var result = KeyResult()
        result.error = error
        result.message = message
        result.applied = false
        return result
    }
}

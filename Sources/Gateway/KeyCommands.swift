internal import RaftCore
internal import ShardMap

/// The commands on keys.
///
/// A command on several keys (DEL, UNLINK, EXISTS, MGET, MSET) becomes one operation for each key. Each of them is
/// atomic, linearizable and executed exactly once, but not all of them together, for the keys may live in different
/// shards: another client may see some keys of an MSET set and others not yet, and if the reply is an error, some of
/// the keys may have been written. A command that is malformed or exceeds a limit executes none of its operations.
enum KeyCommands {
    /// Furthest expiry: so far away that a group's own time can be added to it.
    private static let expiryMillisecondsMax = Int64.max / 2

    /// What `arguments`, the name first and as many as the command admits, come to. `wallClock` is read only to
    /// set an expiry.
    static func plan(
        _ name: CommandName, _ arguments: [Bytes], wallClock: () -> Int64
    ) throws(Refusal) -> ([KeyOperation], ReplyForm) {
        let key = arguments[1]
        let command = name.rawValue
        switch name {
        case .get: return ([KeyOperation(.get, key: key)], .value)
        case .mget: return (each(arguments, .get), .values)
        case .exists: return (each(arguments, .exists), .sum)
        case .del, .unlink: return (each(arguments, .delete), .sum)
        case .strlen: return ([KeyOperation(.stringLength, key: key)], .integer)
        case .type: return ([KeyOperation(.exists, key: key)], .type)
        case .append: return ([KeyOperation(.append, key: key, value: arguments[2])], .integer)
        case .getdel: return ([KeyOperation(.delete, key: key, returnsOldValue: true)], .value)
        case .getset: return ([KeyOperation(.set, key: key, value: arguments[2], returnsOldValue: true)], .value)
        case .setnx: return ([KeyOperation(.set, key: key, value: arguments[2], condition: .ifAbsent)], .applied)
        case .set: return try set(arguments, wallClock)
        case .setex, .psetex:
            let unit: ExpiryUnit = name == .setex ? .seconds : .milliseconds
            let expiry = try timeToLive(arguments[2], unit, command, wallClock)
            return ([KeyOperation(.set, key: key, value: arguments[3], expiresInMilliseconds: expiry)], .ok)
        case .mset: return try (setPairs(arguments), .ok)
        case .incr: return ([KeyOperation(.increment, key: key, number: 1)], .integer)
        case .decr: return ([KeyOperation(.increment, key: key, number: -1)], .integer)
        case .incrby: return ([KeyOperation(.increment, key: key, number: try integer(arguments[2]))], .integer)
        case .decrby:
            let number = try integer(arguments[2])
            guard number != .min else { throw Refusal("ERR decrement would overflow") }
            return ([KeyOperation(.increment, key: key, number: -number)], .integer)
        case .ttl: return ([KeyOperation(.timeToLive, key: key)], .seconds)
        case .pttl: return ([KeyOperation(.timeToLive, key: key)], .integer)
        case .persist: return ([KeyOperation(.persist, key: key)], .integer)
        case .expire: return try expire(arguments, .seconds, command, wallClock)
        case .pexpire: return try expire(arguments, .milliseconds, command, wallClock)
        case .expireat: return try expire(arguments, .secondsSince1970, command, wallClock)
        case .pexpireat: return try expire(arguments, .millisecondsSince1970, command, wallClock)
        case .dbsize, .scan, .client, .command, .config, .echo, .hello, .info, .ping, .quit, .reset, .select, .time:
            preconditionFailure("\(command) is no command on keys")
        }
    }

    private static func each(_ arguments: [Bytes], _ code: KeyOperation.Code) -> [KeyOperation] {
        arguments.dropFirst().map { KeyOperation(code, key: $0) }
    }

    private static func setPairs(_ arguments: [Bytes]) throws(Refusal) -> [KeyOperation] {
        guard arguments.count % 2 == 1 else { throw .arity("mset") }
        return stride(from: 1, to: arguments.count, by: 2).map {
            KeyOperation(.set, key: arguments[$0], value: arguments[$0 + 1])
        }
    }

    static func integer(_ argument: Bytes) throws(Refusal) -> Int64 {
        guard let number = argument.strictInteger else { throw .notAnInteger }
        return number
    }
}

// MARK: SET and its options

extension KeyCommands {
    private static func set(
        _ arguments: [Bytes], _ wallClock: () -> Int64
    ) throws(Refusal) -> ([KeyOperation], ReplyForm) {
        var operation = KeyOperation(.set, key: arguments[1], value: arguments[2])
        var expiry: (unit: ExpiryUnit, number: Bytes)?
        var index = 3
        while index < arguments.count {
            let option = arguments[index]
            if option.isWord("nx"), operation.condition != .ifPresent {
                operation.condition = .ifAbsent
            } else if option.isWord("xx"), operation.condition != .ifAbsent {
                operation.condition = .ifPresent
            } else if option.isWord("get") {
                operation.returnsOldValue = true
            } else if option.isWord("keepttl"), expiry == nil {
                operation.keepsExpiry = true
            } else if let unit = ExpiryUnit(option), expiry == nil || expiry?.unit == unit, !operation.keepsExpiry,
                index + 1 < arguments.count
            {
                expiry = (unit, arguments[index + 1])
                index += 1
            } else {
                throw .syntax
            }
            index += 1
        }
        if let expiry {
            operation.expiresInMilliseconds = try timeToLive(expiry.number, expiry.unit, "set", wallClock)
        }
        return ([operation], operation.returnsOldValue ? .value : operation.condition == .always ? .ok : .okIfApplied)
    }
}

// MARK: expiry

extension KeyCommands {
    private enum ExpiryUnit {
        case seconds
        case milliseconds
        case secondsSince1970
        case millisecondsSince1970

        /// The unit that an option of SET stands for.
        init?(_ option: Bytes) {
            switch option.shortName {
            case "ex": self = .seconds
            case "px": self = .milliseconds
            case "exat": self = .secondsSince1970
            case "pxat": self = .millisecondsSince1970
            default: return nil
            }
        }

        var isSeconds: Bool { self == .seconds || self == .secondsSince1970 }
        var isMoment: Bool { self == .secondsSince1970 || self == .millisecondsSince1970 }
    }

    private static func expire(
        _ arguments: [Bytes], _ unit: ExpiryUnit, _ command: String, _ wallClock: () -> Int64
    ) throws(Refusal) -> ([KeyOperation], ReplyForm) {
        for option in arguments.dropFirst(3) {
            switch option.shortName {
            case "nx", "xx", "gt", "lt":
                throw Refusal("ERR the options NX, XX, GT and LT of '\(command)' are not supported")
            default: throw Refusal("ERR Unsupported option \(option.quotable(limit: 128))")
            }
        }
        let number = try milliseconds(integer(arguments[2]), unit, command, wallClock)
        return ([KeyOperation(.expire, key: arguments[1], number: number)], .integer)
    }

    /// Milliseconds that a value now set has to live. A moment that has passed leaves it one: the set must take place,
    /// for its conditions and its reply, and nothing shorter can be stored.
    private static func timeToLive(
        _ argument: Bytes, _ unit: ExpiryUnit, _ command: String, _ wallClock: () -> Int64
    ) throws(Refusal) -> Int64 {
        let number = try integer(argument)
        guard number > 0 else { throw .invalidExpiry(command) }
        return max(1, try milliseconds(number, unit, command, wallClock))
    }

    /// `number` in milliseconds from now; not positive if that has passed.
    private static func milliseconds(
        _ number: Int64, _ unit: ExpiryUnit, _ command: String, _ wallClock: () -> Int64
    ) throws(Refusal) -> Int64 {
        let (milliseconds, overflows) = number.multipliedReportingOverflow(by: unit.isSeconds ? 1000 : 1)
        if overflows { throw .invalidExpiry(command) }
        let now = wallClock()
        guard unit.isMoment else {
            // Redis computes the moment, and refuses one that its clock cannot show.
            guard milliseconds <= Int64.max - now else { throw .invalidExpiry(command) }
            return min(milliseconds, expiryMillisecondsMax)
        }
        let (left, underflows) = milliseconds.subtractingReportingOverflow(now)
        return underflows ? -1 : min(left, expiryMillisecondsMax)
    }
}

internal import RaftCore
internal import ShardMap

/// The commands on keys.
///
/// A command on several keys (DEL, UNLINK, EXISTS, MGET, MSET) becomes one operation for each key. Each of them is
/// atomic, linearizable and executed at most once, however shards are split, merged and moved meanwhile; a key named
/// twice is treated in the command's order. All of them together are not atomic, for the keys may live in different
/// shards: another client may see some keys of an MSET set and others not yet. If the reply is an error, it says of how
/// many of the keys, unless it is that of all; the others were done. A command that is malformed or exceeds a limit
/// executes none of its operations.
enum KeyCommands {
    /// Longest time to live, 146 million years. Redis refuses one that its clock's range does not hold; no clock is
    /// asked here, so the limit is one to which every clock's time can be added.
    private static let durationMillisecondsMax = Int64.max / 2

    /// What `arguments`, the name first and as many as the command admits, come to.
    static func plan(_ name: CommandName, _ arguments: [Bytes]) throws(Refusal) -> ([KeyOperation], ReplyForm) {
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
        case .set: return try set(arguments)
        case .setex: return try setExpiring(arguments, .seconds, command)
        case .psetex: return try setExpiring(arguments, .milliseconds, command)
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
        case .expire: return try expire(arguments, .seconds, command)
        case .pexpire: return try expire(arguments, .milliseconds, command)
        case .expireat: return try expire(arguments, .secondsSince1970, command)
        case .pexpireat: return try expire(arguments, .millisecondsSince1970, command)
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
    private static func set(_ arguments: [Bytes]) throws(Refusal) -> ([KeyOperation], ReplyForm) {
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
        if let expiry { try set(expiry: expiry.number, expiry.unit, of: &operation, "set") }
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
        _ arguments: [Bytes], _ unit: ExpiryUnit, _ command: String
    ) throws(Refusal) -> ([KeyOperation], ReplyForm) {
        for option in arguments.dropFirst(3) {
            switch option.shortName {
            case "nx", "xx", "gt", "lt":
                throw Refusal("ERR the options NX, XX, GT and LT of '\(command)' are not supported")
            default: throw Refusal("ERR Unsupported option \(option.quotable(limit: 128))")
            }
        }
        var operation = KeyOperation(.expire, key: arguments[1])
        let number = try milliseconds(integer(arguments[2]), unit, command)
        if unit.isMoment { operation.expiresAtMilliseconds = number } else { operation.number = number }
        return ([operation], .integer)
    }

    /// A set as `arguments` of SETEX and PSETEX say.
    private static func setExpiring(
        _ arguments: [Bytes], _ unit: ExpiryUnit, _ command: String
    ) throws(Refusal) -> ([KeyOperation], ReplyForm) {
        var operation = KeyOperation(.set, key: arguments[1], value: arguments[3])
        try set(expiry: arguments[2], unit, of: &operation, command)
        return ([operation], .ok)
    }

    private static func set(
        expiry argument: Bytes, _ unit: ExpiryUnit, of operation: inout KeyOperation, _ command: String
    ) throws(Refusal) {
        let number = try integer(argument)
        guard number > 0 else { throw .invalidExpiry(command) }
        let milliseconds = try milliseconds(number, unit, command)
        if unit.isMoment {
            operation.expiresAtMilliseconds = milliseconds
        } else {
            operation.expiresInMilliseconds = milliseconds
        }
    }

    /// `number` in milliseconds. A moment stays one, and a duration stays one: what time it is only the group knows.
    private static func milliseconds(
        _ number: Int64, _ unit: ExpiryUnit, _ command: String
    ) throws(Refusal) -> Int64 {
        let (milliseconds, overflows) = number.multipliedReportingOverflow(by: unit.isSeconds ? 1000 : 1)
        guard !overflows, unit.isMoment || milliseconds <= durationMillisecondsMax else {
            throw .invalidExpiry(command)
        }
        return milliseconds
    }
}

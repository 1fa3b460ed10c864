internal import RaftCore

/// The commands that are served, by the names clients use for them.
enum CommandName: String, CaseIterable {
    // the keyspace
    case append, decr, decrby, del, exists, expire, expireat, get, getdel, getset, incr, incrby, mget, mset, persist
    case pexpire, pexpireat, psetex, pttl, set, setex, setnx, strlen, ttl, type, unlink
    // over all shards
    case dbsize, scan
    // the connection and the server
    case client, command, config, echo, hello, info, ping, quit, reset, select, time
}

/// What `COMMAND` says of a command, and how its arguments are checked.
struct CommandSpecification {
    /// Where a command's keys stand among its arguments; all zero: it has none.
    struct Keys {
        var first: Int
        /// Negative: counted from the end.
        var last: Int
        var step: Int
        static let none = Keys(first: 0, last: 0, step: 0)
        static let one = Keys(first: 1, last: 1, step: 1)
        static let all = Keys(first: 1, last: -1, step: 1)
        static let everyOther = Keys(first: 1, last: -1, step: 2)
    }

    let name: CommandName
    /// Number of arguments, the name included; negative: at least so many.
    let arity: Int
    let flags: [String]
    let keys: Keys
    let categories: [String]

    /// Whether a call with `count` arguments, the name included, is well-formed.
    func admits(_ count: Int) -> Bool { arity < 0 ? count >= -arity : count == arity }
}

/// All specifications, found by name or in order.
enum CommandTable {
    /// In the order of ``CommandName``.
    static let all: [CommandSpecification] = CommandName.allCases.map(specification)

    private static let positions: [String: Int] = Dictionary(
        uniqueKeysWithValues: CommandName.allCases.enumerated().map { ($1.rawValue, $0) })

    /// The command called `name`, in any case.
    static func position(of name: Bytes) -> Int? { name.shortName.flatMap { positions[$0] } }

    private static func specification(_ name: CommandName) -> CommandSpecification {
        switch name {
        case .get: readsString(name, 2, .one)
        case .strlen: readsString(name, 2, .one)
        case .mget: readsString(name, -2, .all)
        case .exists: readsKeys(name, -2, .all)
        case .pttl, .ttl, .type: readsKeys(name, 2, .one)
        case .append, .decrby, .getset, .incrby, .setnx: writesString(name, 3, .one, isFast: true)
        case .decr, .incr: writesString(name, 2, .one, isFast: true)
        case .getdel: writesString(name, 2, .one, isFast: true)
        case .set: writesString(name, -3, .one, isFast: false)
        case .psetex, .setex: writesString(name, 4, .one, isFast: false)
        case .mset: writesString(name, -3, .everyOther, isFast: false)
        case .del: writesKeys(name, -2, .all, isFast: false)
        case .unlink: writesKeys(name, -2, .all, isFast: true)
        case .expire, .expireat, .pexpire, .pexpireat: writesKeys(name, -3, .one, isFast: true)
        case .persist: writesKeys(name, 2, .one, isFast: true)
        case .dbsize: keyless(name, 1, ["readonly", "fast"], ["@keyspace", "@read", "@fast"])
        case .scan: keyless(name, -2, ["readonly"], ["@keyspace", "@read", "@slow"])
        case .client: keyless(name, -2, [], ["@slow"])
        case .command: keyless(name, -1, ["loading", "stale"], ["@slow", "@connection"])
        case .config: keyless(name, -2, [], ["@slow"])
        case .echo: keyless(name, 2, ["fast"], ["@fast", "@connection"])
        case .hello: keyless(name, -1, ["noscript", "loading", "stale", "fast"], ["@fast", "@connection"])
        case .info: keyless(name, -1, ["loading", "stale"], ["@slow", "@dangerous"])
        case .ping: keyless(name, -1, ["fast"], ["@fast", "@connection"])
        case .quit: keyless(name, -1, ["noscript", "loading", "stale", "fast"], ["@fast", "@connection"])
        case .reset: keyless(name, 1, ["noscript", "loading", "stale", "fast"], ["@fast", "@connection"])
        case .select: keyless(name, 2, ["loading", "stale", "fast"], ["@fast", "@connection"])
        case .time: keyless(name, 1, ["loading", "stale", "fast"], ["@fast"])
        }
    }

    private static func readsString(
        _ name: CommandName, _ arity: Int, _ keys: CommandSpecification.Keys
    ) -> CommandSpecification {
        CommandSpecification(
            name: name, arity: arity, flags: ["readonly", "fast"], keys: keys,
            categories: ["@read", "@string", "@fast"])
    }

    private static func readsKeys(
        _ name: CommandName, _ arity: Int, _ keys: CommandSpecification.Keys
    ) -> CommandSpecification {
        CommandSpecification(
            name: name, arity: arity, flags: ["readonly", "fast"], keys: keys,
            categories: ["@keyspace", "@read", "@fast"])
    }

    private static func writesString(
        _ name: CommandName, _ arity: Int, _ keys: CommandSpecification.Keys, isFast: Bool
    ) -> CommandSpecification {
        CommandSpecification(
            name: name, arity: arity, flags: ["write", "denyoom"] + (isFast ? ["fast"] : []), keys: keys,
            categories: ["@write", "@string", isFast ? "@fast" : "@slow"])
    }

    private static func writesKeys(
        _ name: CommandName, _ arity: Int, _ keys: CommandSpecification.Keys, isFast: Bool
    ) -> CommandSpecification {
        CommandSpecification(
            name: name, arity: arity, flags: ["write"] + (isFast ? ["fast"] : []), keys: keys,
            categories: ["@keyspace", "@write", isFast ? "@fast" : "@slow"])
    }

    private static func keyless(
        _ name: CommandName, _ arity: Int, _ flags: [String], _ categories: [String]
    ) -> CommandSpecification {
        CommandSpecification(name: name, arity: arity, flags: flags, keys: .none, categories: categories)
    }
}

public import RaftCore
public import ShardClient
internal import ShardMap
public import Transport

/// The Redis protocol's face of a node: what its connections share. Lane-confined, like they are.
///
/// It speaks RESP2 and RESP3 and serves Redis's commands on strings over a ``KeyValueRouter``, with the replies and
/// error texts of Redis 7.0. What differs:
///
/// 1. A command on several keys is atomic for each key, not for all of them together (see `KeyCommands`).
/// 2. Commands of one connection are executed in rounds. Within a round, operations on the same key happen in their
///    order; those on different keys are concurrent. A command sent after the reply to another happens after it.
/// 3. No command asks this node what time it is: a time to live, and a moment as of EXPIREAT or SET's EXAT, are both
///    judged by the replicated time of the key's group.
/// 4. Errors of the store have the first word of ``ShardMap/NamedError/redisPrefix``: `TRYAGAIN` and `BUSY` were not
///    executed, `UNKNOWN` may have been.
public final class RedisServer {
    /// The Redis version whose behaviour clients may expect; `HELLO` and `INFO` name it.
    public static let compatibleVersion = "7.0.15"

    /// Limits; each is a connection's unless it says otherwise.
    public struct Settings: Sendable {
        /// How long a command may take before it is answered with an error.
        public var requestTimeout: Interval
        /// Longest argument in bytes. A longer one is skipped as it comes in, and its command refused.
        public var maxBulkBytes: Int
        /// Most arguments of a command; more is a protocol error.
        public var maxArguments: Int
        /// Most commands that wait for their turn; reading pauses there.
        public var maxPendingCommands: Int
        /// Most commands of one round; one that has so many operations takes no further command either.
        public var roundSize: Int
        /// Most bytes of waiting commands (reading pauses there), and of one command (more is refused).
        public var queryBufferLimit: Int
        /// Unsent bytes above which no further round starts. Not below the connections' high-water mark, for they say
        /// that they are drained only after having been above that.
        public var maxUnsentBytes: Int
        /// Upper limit of a SCAN's COUNT.
        public var maxScanCount: Int
        /// Unfinished scans of the whole server; the oldest is forgotten for the newest.
        public var maxScanCursors: Int
        /// Bytes of the keys at which they go on.
        public var maxScanCursorBytes: Int

        /// Limits that fit ``ShardMap/KeyLimits``.
        public init(
            requestTimeout: Interval = .milliseconds(10_000), maxBulkBytes: Int = (8 << 20) + (4 << 10),
            maxArguments: Int = 1 << 20, maxPendingCommands: Int = 1024, roundSize: Int = 128,
            queryBufferLimit: Int = 64 << 20, maxUnsentBytes: Int = 8 << 20, maxScanCount: Int = 1000,
            maxScanCursors: Int = 16_384, maxScanCursorBytes: Int = 64 << 20
        ) {
            precondition(maxBulkBytes > 0 && maxBulkBytes < queryBufferLimit, "an argument must fit into a command")
            precondition(maxArguments > 0 && maxScanCount > 0 && maxScanCursors > 0 && maxScanCursorBytes > 0)
            precondition(roundSize > 0 && roundSize <= maxPendingCommands, "a round must fit into the queue")
            precondition(maxUnsentBytes >= 0 && requestTimeout.nanoseconds > 0)
            self.requestTimeout = requestTimeout
            self.maxBulkBytes = maxBulkBytes
            self.maxArguments = maxArguments
            self.maxPendingCommands = maxPendingCommands
            self.roundSize = roundSize
            self.queryBufferLimit = queryBufferLimit
            self.maxUnsentBytes = maxUnsentBytes
            self.maxScanCount = maxScanCount
            self.maxScanCursors = maxScanCursors
            self.maxScanCursorBytes = maxScanCursorBytes
        }
    }

    let router: any KeyValueRouter
    let clock: any NodeClock
    let settings: Settings
    let writer = ReplyWriter()
    private let info: () -> [(section: String, fields: [(String, String)])]
    private var cursors: ScanCursors

    /// A server over `router`; `info` is asked for the sections of every INFO.
    public init(
        router: any KeyValueRouter, clock: any NodeClock, settings: Settings,
        info: @escaping () -> [(section: String, fields: [(String, String)])]
    ) {
        self.router = router
        self.clock = clock
        self.settings = settings
        self.info = info
        // Below 2^53, so that no client's floating point can spoil a cursor.
        var random = SeededRandom(seed: UInt64(bitPattern: clock.wallClockMilliseconds ^ clock.now.nanoseconds))
        self.cursors = ScanCursors(
            countMax: settings.maxScanCursors, bytesMax: settings.maxScanCursorBytes,
            firstNumber: UInt64(random.number(in: 1..<1 << 48)))
    }

    /// Whether a connection that begins with `bytes` speaks this protocol; nil: more bytes are needed to tell.
    public static func matches(_ bytes: Bytes) -> Bool? { ProtocolOpening.isRedis(bytes) }

    /// A handler for one accepted connection.
    public func makeHandler() -> any ConnectionHandler { RedisConnection(server: self) }

    /// When a request that starts now is given up.
    var deadline: Instant { clock.now + settings.requestTimeout }
}

// MARK: commands

extension RedisServer {
    /// What a command comes to. Commands about the connection have had their effect on `client` when this returns.
    func plan(_ arguments: [Bytes], _ client: inout ClientState) -> Plan {
        do throws(Refusal) {
            guard let position = CommandTable.position(of: arguments[0]) else { throw unserved(arguments) }
            let command = CommandTable.all[position]
            guard command.admits(arguments.count) else { throw .arity(command.name.rawValue) }
            return try plan(command.name, arguments, &client)
        } catch {
            return .reply(.error(error))
        }
    }

    private func plan(
        _ name: CommandName, _ arguments: [Bytes], _ client: inout ClientState
    ) throws(Refusal) -> Plan {
        switch name {
        case .dbsize: return .count
        case .scan: return try ScanStep.plan(arguments, cursors, limitMax: settings.maxScanCount)
        case .client: return .reply(try ConnectionCommands.client(arguments, &client, now: clock.now))
        case .hello: return .reply(try ConnectionCommands.hello(arguments, &client))
        case .ping: return .reply(try ConnectionCommands.ping(arguments))
        case .echo: return .reply(.bulk(arguments[1]))
        case .select: return .reply(try ConnectionCommands.select(arguments))
        case .reset: return .reply(ConnectionCommands.reset(&client))
        case .quit: return .lastReply(.ok)
        case .command: return .reply(try ServerCommands.command(arguments))
        case .config: return .reply(try ServerCommands.config(arguments))
        case .info: return .reply(ServerCommands.info(arguments, info()))
        case .time: return .reply(ServerCommands.time(clock.wallClockMilliseconds))
        case .append, .decr, .decrby, .del, .exists, .expire, .expireat, .get, .getdel, .getset, .incr, .incrby, .mget,
            .mset, .persist, .pexpire, .pexpireat, .psetex, .pttl, .set, .setex, .setnx, .strlen, .ttl, .type, .unlink:
            let (operations, form) = try KeyCommands.plan(name, arguments)
            for operation in operations {
                if let violation = operation.limitViolation { throw Refusal(violation) }
            }
            return .operations(operations, form)
        }
    }

    private func unserved(_ arguments: [Bytes]) -> Refusal {
        switch arguments[0].shortName {
        case "keys": Refusal("ERR KEYS is not supported: it would visit every shard at once; use SCAN")
        case "multi": Refusal("ERR MULTI is not supported: each command is executed by itself, when it comes")
        // what came in between was executed and answered: nobody may take it for a transaction, or for a discarded one
        case "exec": Refusal("ERR EXEC without MULTI")
        case "discard": Refusal("ERR DISCARD without MULTI")
        default: .unknownCommand(arguments)
        }
    }

    /// A number under which a scan that goes on at `key` is found again.
    func cursor(for key: Bytes) -> UInt64 { cursors.number(for: key) }
}

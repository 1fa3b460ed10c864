import RaftCore
import ShardClient
import ShardMap
import Transport

@testable import Gateway

/// Both clocks stand still until a test moves them.
final class ManualClock: NodeClock, @unchecked Sendable {
    var now = Instant(nanoseconds: 1_000_000_000)
    var wallClockMilliseconds: Int64 = 1_700_000_000_123
}

/// A store in a dictionary. Answers at once, or holds its answers until they are released.
final class DictionaryRouter: KeyValueRouter {
    struct Entry {
        var value: Bytes
        var expiresAt: Int64?
    }

    var entries: [Bytes: Entry] = [:]
    var holdsAnswers = false
    /// Operations of each `execute`, in order.
    private(set) var rounds: [[KeyOperation]] = []
    private(set) var deadlines: [Instant] = []
    var failure: NamedErrorThrown?
    private var held: [() -> Void] = []
    private let clock: ManualClock

    init(clock: ManualClock) { self.clock = clock }

    var heldCount: Int { held.count }

    func releaseOne() { held.removeFirst()() }

    func execute(_ operations: [KeyOperation], deadline: Instant, completion: @escaping ([KeyResult]) -> Void) {
        rounds.append(operations)
        deadlines.append(deadline)
        answer {
            completion(
                operations.map { operation in
                    self.failure.map { .failure($0.error, $0.message) } ?? self.execute(operation)
                })
        }
    }

    func scan(
        from start: Bytes, limit: Int, deadline: Instant,
        completion: @escaping (Result<(pairs: [KeyResult.Pair], next: Bytes?), NamedErrorThrown>) -> Void
    ) {
        answer {
            if let failure = self.failure { return completion(.failure(failure)) }
            let keys = self.entries.keys.filter { !($0 < start) }.sorted()
            let pairs = keys.prefix(limit).map { KeyResult.Pair(key: $0, value: Bytes("v")) }
            completion(.success((pairs, keys.count > limit ? keys[limit] : nil)))
        }
    }

    func count(deadline: Instant, completion: @escaping (Result<Int64, NamedErrorThrown>) -> Void) {
        answer { completion(self.failure.map { .failure($0) } ?? .success(Int64(self.entries.count))) }
    }

    private func answer(_ body: @escaping () -> Void) { if holdsAnswers { held.append(body) } else { body() } }

    private func execute(_ operation: KeyOperation) -> KeyResult {
        let entry = entries[operation.key]
        let now = clock.wallClockMilliseconds
        switch operation.code {
        case .get: return KeyResult(value: entry?.value)
        case .set: return set(operation, entry)
        case .delete:
            entries[operation.key] = nil
            return KeyResult(value: operation.returnsOldValue ? entry?.value : nil, integer: entry == nil ? 0 : 1)
        case .exists: return KeyResult(integer: entry == nil ? 0 : 1)
        case .increment:
            guard let old = (entry?.value ?? Bytes("0")).strictInteger else { return .failure(.notAnInteger) }
            let (sum, overflows) = old.addingReportingOverflow(operation.number)
            if overflows { return .failure(.overflow) }
            entries[operation.key] = Entry(value: Bytes(String(sum)), expiresAt: entry?.expiresAt)
            return KeyResult(integer: sum)
        case .append:
            let joined = Bytes((entry?.value.array ?? []) + operation.value.array)
            entries[operation.key] = Entry(value: joined, expiresAt: entry?.expiresAt)
            return KeyResult(integer: Int64(joined.count))
        case .stringLength: return KeyResult(integer: Int64(entry?.value.count ?? 0))
        case .timeToLive: return KeyResult(integer: entry.map { $0.expiresAt.map { $0 - now } ?? -1 } ?? -2)
        case .expire:
            guard entry != nil else { return KeyResult(integer: 0) }
            let expiry = operation.expiresAtMilliseconds ?? now + operation.number
            entries[operation.key]?.expiresAt = expiry
            if expiry <= now { entries[operation.key] = nil }
            return KeyResult(integer: 1)
        case .persist:
            entries[operation.key]?.expiresAt = nil
            return KeyResult(integer: entry?.expiresAt == nil ? 0 : 1)
        case .scan, .count: return .failure(.badRequest)
        }
    }

    private func set(_ operation: KeyOperation, _ entry: Entry?) -> KeyResult {
        let applies =
            switch operation.condition {
            case .always: true
            case .ifAbsent: entry == nil
            case .ifPresent: entry != nil
            }
        if applies {
            let kept = operation.keepsExpiry ? entry?.expiresAt : nil
            let now = clock.wallClockMilliseconds
            let expiry = operation.expiresAtMilliseconds ?? operation.expiresInMilliseconds.map { now + $0 } ?? kept
            let isPast = expiry.map { $0 <= now } ?? false
            entries[operation.key] = isPast ? nil : Entry(value: operation.value, expiresAt: expiry)
        }
        return KeyResult(value: operation.returnsOldValue ? entry?.value : nil, applied: applies)
    }
}

/// A connection that keeps what is sent.
final class FakeConnection: Connection {
    let id: UInt64
    let peerDescription = "10.0.0.1:5000"
    var unsentBytes = 0
    var context: AnyObject?
    var isReadingPaused = false
    private(set) var pieces: [Bytes] = []
    private(set) var closeReason: String?

    init(id: UInt64 = 7) { self.id = id }

    var isClosing: Bool { closeReason != nil }

    func send(_ bytes: Bytes) { pieces.append(bytes) }
    func close(reason: String) { closeReason = reason }
    func closeAfterSending(reason: String) { closeReason = reason }

    /// What was sent since this was last asked.
    func takeSent() -> [UInt8] {
        defer { pieces = [] }
        return pieces.flatMap(\.array)
    }
}

/// A server, one connection to it, and the part of a transport that presents what is not consumed.
final class Harness {
    /// The gateway's.
    let clock = ManualClock()
    /// The store's: what replicated time is to a group.
    let storeClock = ManualClock()
    let router: DictionaryRouter
    let server: RedisServer
    var connection = FakeConnection()
    private var handler: any ConnectionHandler
    private var unread: [UInt8] = []
    /// Most bytes that were ever left unconsumed.
    private(set) var unreadMax = 0
    private(set) var needed = 0

    init(_ settings: RedisServer.Settings = RedisServer.Settings()) {
        router = DictionaryRouter(clock: storeClock)
        server = RedisServer(router: router, clock: clock, settings: settings) {
            [("Server", [("flotilla_version", "1"), ("mode", "test")]), ("Clients", [("connected_clients", "1")])]
        }
        handler = server.makeHandler()
    }

    /// Another client.
    func reconnect(id: UInt64 = 7) {
        connection = FakeConnection(id: id)
        handler = server.makeHandler()
        unread = []
    }

    func feed(_ bytes: [UInt8]) {
        unread += bytes
        present()
    }

    func feed(_ text: String) { feed(Array(text.utf8)) }

    /// The replies to `text`, sent as it is.
    func replies(to text: String) -> String {
        feed(text)
        return sent()
    }

    /// The replies to commands written as inline words and separated by ` ; `, sent as multibulks.
    func run(_ commands: String) -> String {
        feed(Harness.encoded(commands))
        return sent()
    }

    func sent() -> String { String(decoding: connection.takeSent(), as: UTF8.self) }

    func release() {
        router.releaseOne()
        present()
    }

    func drain() {
        connection.unsentBytes = 0
        handler.drained(connection)
        present()
    }

    var owesAnswers: Bool { handler.owesAnswers }

    func close() { handler.closed(connection, reason: "test") }

    /// Presents what is unread, as a transport does when bytes have come or reading resumes.
    private func present() {
        guard !connection.isReadingPaused, !unread.isEmpty else { return }
        let consumption = handler.received(Bytes(unread), on: connection)
        unread.removeFirst(consumption.consumed)
        needed = consumption.needed
        unreadMax = max(unreadMax, unread.count)
    }

    static func encoded(_ commands: String) -> [UInt8] {
        var bytes: [UInt8] = []
        for command in commands.split(separator: " ; ") {
            bytes += encoded(words: (InlineWords.split(Array(command.utf8)) ?? []).map(\.array))
        }
        return bytes
    }

    static func encoded(words: [[UInt8]]) -> [UInt8] {
        words.reduce(into: Array("*\(words.count)\r\n".utf8)) { bytes, word in
            bytes += Array("$\(word.count)\r\n".utf8) + word + [0x0d, 0x0a]
        }
    }
}

import RaftCore

@testable import Transport

/// Bytes written as hexadecimal, spaces ignored; text between quotes stands for itself.
func hex(_ text: String) -> Bytes {
    var bytes: [UInt8] = []
    for (position, part) in text.split(separator: "\"", omittingEmptySubsequences: false).enumerated() {
        if position % 2 == 1 {
            bytes += Array(part.utf8)
        } else {
            bytes += part.split(separator: " ").map { UInt8($0, radix: 16)! }
        }
    }
    return Bytes(bytes)
}

/// The bytes of several pieces.
func joined(_ pieces: [Bytes]) -> Bytes { Bytes(pieces.flatMap(\.array)) }

/// A connection that only notes what is done with it.
final class NotedConnection: Connection {
    let id: UInt64
    let peerDescription = "noted"
    var unsentBytes = 0
    var context: AnyObject?
    var isReadingPaused = false
    var sent: [Bytes] = []
    var closeReason: String?

    init(id: UInt64 = 1) { self.id = id }

    func send(_ bytes: Bytes) { if !bytes.isEmpty { sent.append(bytes) } }
    func close(reason: String) { closeReason = closeReason ?? reason }
    func closeAfterSending(reason: String) { close(reason: reason) }
}

/// A network whose connects are settled by the test.
final class NotedNetwork: Network {
    var attempts: [(connection: NotedConnection, handler: any ConnectionHandler)] = []

    func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection {
        let connection = NotedConnection(id: UInt64(attempts.count + 1))
        attempts.append((connection, handler))
        return connection
    }

    private var accept: ((any Connection) -> any ConnectionHandler)?

    func listen(on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler) {
        self.accept = accept
    }

    /// Somebody connects to this side.
    func acceptOne() {
        let connection = NotedConnection(id: UInt64(attempts.count + 1))
        if let handler = accept?(connection) { attempts.append((connection, handler)) }
    }

    func open(_ attempt: Int) { attempts[attempt].handler.opened(attempts[attempt].connection) }
    func close(_ attempt: Int) { attempts[attempt].handler.closed(attempts[attempt].connection, reason: "broken") }
    func receive(_ bytes: Bytes, _ attempt: Int) -> Consumption {
        attempts[attempt].handler.received(bytes, on: attempts[attempt].connection)
    }
}

/// Set by the test.
final class SetClock: NodeClock, @unchecked Sendable {
    var now = Instant(nanoseconds: 1_000_000_000)
    var wallClockMilliseconds: Int64 = 0
}

/// Presents `stream` to a handler in pieces that end at `cuts`, as a connection does; the unconsumed rest comes again.
func feed(_ stream: Bytes, cutAt cuts: [Int], to handler: any ConnectionHandler, on connection: any Connection) {
    var start = 0
    for end in cuts + [stream.count] where end > start {
        let consumption = handler.received(stream.slice(from: start, count: end - start), on: connection)
        start += consumption.consumed
    }
}

let nodeAddress = NodeAddress(ip: 10 << 24 | 2, port: 8100)

extension RpcResult {
    var code: Int32 {
        switch self {
        case .reply: 0
        case .failed(let error): error.code
        }
    }

    var reply: RpcReply? {
        if case .reply(let reply) = self { reply } else { nil }
    }
}

extension FrameCodec {
    /// A whole request frame.
    func request(
        _ service: String, _ method: String, id: Int64 = 1, body: Bytes = Bytes(), attachment: Bytes = Bytes()
    ) -> Bytes {
        let encoding = encodeRequest(
            service: service, method: method, correlationID: id, body: .encoded(body),
            attachmentBytes: attachment.count)
        guard case .pieces(let head, let following) = encoding else { return Bytes() }
        return joined([head, following, attachment])
    }

    /// A whole answer frame.
    func reply(id: Int64, body: Bytes = Bytes(), attachment: Bytes = Bytes()) -> Bytes {
        let encoding = encodeReply(correlationID: id, body: .encoded(body), attachmentBytes: attachment.count)
        guard case .pieces(let head, let following) = encoding else { return Bytes() }
        return joined([head, following, attachment])
    }
}

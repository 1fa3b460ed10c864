import Glibc
public import RaftCore

/// A blocking connection to a server, for frames that no client of ours would send. One thread at a time.
public final class RawCaller {
    /// Why there is no connection, or no answer.
    public struct Problem: Error, CustomStringConvertible {
        /// One sentence.
        public let description: String
    }

    private let descriptor: Int32
    private var received: [UInt8] = []
    private var nextID: Int64 = 1

    /// Connects; every later wait for an answer gives up after `timeoutMilliseconds`.
    public init(to address: NodeAddress, timeoutMilliseconds: Int = 10_000) throws(Problem) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var limit = timeval(tv_sec: timeoutMilliseconds / 1000, tv_usec: timeoutMilliseconds % 1000 * 1000)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var name = socketName(of: address)
        let result = withUnsafePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            let error = errno
            close(descriptor)
            throw Problem(description: "\(address) does not accept a connection (errno \(error))")
        }
    }

    deinit { close(descriptor) }

    /// Sends all of it, or as much as the other side takes before it closes.
    public func send(_ bytes: [UInt8]) { sendAll(bytes, to: descriptor) }

    /// Sends a request and returns its id; the answer is for ``answer(to:)``.
    public func send(service: String, method: String, body: [UInt8], attachment: [UInt8] = []) -> Int64 {
        defer { nextID += 1 }
        send(
            BraftFrame(service: service, method: method, correlationID: nextID, body: body, attachment: attachment)
                .encoded)
        return nextID
    }

    /// The next frame that comes; nil at the end of the connection, or if nothing comes in time.
    public func next() -> BraftFrame? {
        while true {
            if let size = BraftFrame.size(in: received), received.count >= size {
                defer { received.removeFirst(size) }
                return BraftFrame(received)
            }
            guard let more = receiveSome(from: descriptor) else { return nil }
            received += more
        }
    }

    /// The answer to the request of that id; what comes before it is passed over.
    public func answer(to id: Int64) throws(Problem) -> BraftFrame {
        while let frame = next() {
            if frame.correlationID == id { return frame }
        }
        throw Problem(description: errno == EAGAIN ? "no answer in time" : "the connection ended without an answer")
    }

    /// Calls `braft.RaftService`, or another service, and waits for the answer.
    public func call(
        _ method: String, of service: String = "braft.RaftService", _ body: WireFields, attachment: [UInt8] = []
    ) throws(Problem) -> BraftFrame {
        try answer(to: send(service: service, method: method, body: body.encoded, attachment: attachment))
    }

    /// Whether the other side closes in time; what it says before is passed over.
    public func endsInTime() -> Bool {
        while receiveSome(from: descriptor) != nil {}
        return errno != EAGAIN
    }
}

func socketName(of address: NodeAddress) -> sockaddr_in {
    var name = sockaddr_in()
    name.sin_family = sa_family_t(AF_INET)
    name.sin_port = address.port.bigEndian
    name.sin_addr.s_addr = address.ip.bigEndian
    return name
}

/// Returns when all of it is sent, or the other side has gone.
func sendAll(_ bytes: [UInt8], to descriptor: Int32) {
    var sent = 0
    while sent < bytes.count {
        let count = bytes.withUnsafeBytes {
            send(descriptor, $0.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
        }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return }
        sent += count
    }
}

/// At least one byte; nil at the end, or when the socket's patience is over, which is EAGAIN.
func receiveSome(from descriptor: Int32) -> [UInt8]? {
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    errno = 0
    var count = recv(descriptor, &buffer, buffer.count, 0)
    while count < 0, errno == EINTR { count = recv(descriptor, &buffer, buffer.count, 0) }
    return count > 0 ? Array(buffer[0..<count]) : nil
}

import ClusterProcesses
import Glibc
import RaftCore

/// A blocking socket, for what no client would send.
final class RawConnection {
    private let descriptor: Int32

    /// Connects; every later read gives up after `timeoutMilliseconds`.
    init(to address: NodeAddress, timeoutMilliseconds: Int = 10_000) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var limit = timeval(tv_sec: timeoutMilliseconds / 1000, tv_usec: timeoutMilliseconds % 1000 * 1000)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = address.port.bigEndian
        name.sin_addr.s_addr = address.ip.bigEndian
        let result = withUnsafePointer(to: &name) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            throw Failed("\(address) does not accept a connection (errno \(errno))")
        }
    }

    deinit { close(descriptor) }

    /// Sends all of it, or as much as the other side takes before it closes.
    func send(_ bytes: [UInt8]) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return }
            sent += count
        }
    }

    /// Says that nothing more will come.
    func finishSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// What has come, at least one byte; nil at the end, or after the timeout.
    func receive() -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        errno = 0
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? Array(buffer[0..<count]) : nil
    }

    /// Whether the other side closes before the timeout; what it says before is passed over.
    func endsBeforeTimeout() -> Bool {
        while receive() != nil {}
        return errno != EAGAIN && errno != EWOULDBLOCK
    }

    // MARK: the Redis protocol

    /// Sends a command and returns the first line of its reply, for a bulk string the string itself.
    func redis(_ words: String...) throws -> String { try redis(words.map { Array($0.utf8) }) }

    func redis(_ words: [[UInt8]]) throws -> String {
        send(RawConnection.encoded(words))
        var reply: [UInt8] = []
        while true {
            guard let more = receive() else { throw Failed("no reply to \(String(decoding: words[0], as: UTF8.self))") }
            reply += more
            let text = String(decoding: reply, as: UTF8.self)
            guard text.hasSuffix("\r\n") else { continue }
            let lines = text.split(separator: "\r\n", omittingEmptySubsequences: false)
            guard text.hasPrefix("$"), !text.hasPrefix("$-1") else { return String(lines[0]) }
            if lines.count >= 3 { return String(lines[1]) }
        }
    }

    static func encoded(_ words: [[UInt8]]) -> [UInt8] {
        var bytes = Array("*\(words.count)\r\n".utf8)
        for word in words { bytes += Array("$\(word.count)\r\n".utf8) + word + Array("\r\n".utf8) }
        return bytes
    }
}

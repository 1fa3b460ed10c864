import Glibc
import RaftCore

/// Writes to a descriptor in large pieces. ``flush()`` is its owner's duty: what is not flushed was not written.
struct Output {
    private let descriptor: Int32
    private let name: String
    private var buffer: [UInt8] = []
    private static let pieceBytes = 64 << 10

    /// Standard output.
    init() { self.init(descriptor: STDOUT_FILENO, name: "standard output") }

    init(descriptor: Int32, name: String) {
        self.descriptor = descriptor
        self.name = name
    }

    mutating func write(_ text: String) throws(Failure) {
        buffer.append(contentsOf: text.utf8)
        if buffer.count >= Output.pieceBytes { try flush() }
    }

    mutating func write(_ bytes: [UInt8]) throws(Failure) {
        buffer.append(contentsOf: bytes)
        if buffer.count >= Output.pieceBytes { try flush() }
    }

    mutating func flush() throws(Failure) {
        let failure = buffer.withUnsafeBytes { Output.send($0, to: descriptor) }
        buffer.removeAll(keepingCapacity: true)
        switch failure {
        case 0: return
        case EPIPE: throw .readerGone
        default: throw .failed("cannot write \(name): \(String(cString: strerror(failure)))")
        }
    }

    /// Writes all of `bytes`; 0, or the error's number.
    private static func send(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Int32 {
        var rest = bytes[...]
        while !rest.isEmpty {
            let written = Glibc.write(descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
            if written >= 0 {
                rest = rest.dropFirst(written)
            } else if errno != EINTR {
                return errno
            }
        }
        return 0
    }

    /// A line on standard output.
    static func print(_ text: String) throws(Failure) {
        var output = Output()
        try output.write(text + "\n")
        try output.flush()
    }

    /// A line on standard error, in one piece; nobody can be told if that does not work.
    static func complain(_ text: String) { note(text + "\n") }

    /// As ``complain(_:)``, without the line's end.
    static func note(_ text: String) {
        _ = Array(text.utf8).withUnsafeBytes { send($0, to: STDERR_FILENO) }
    }

    static func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }
}

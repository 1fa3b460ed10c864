import Glibc

/// What is said to whoever leaves by Ctrl-C while something goes on without us. The process ends by the signal, as if
/// nobody had listened.
enum Interruption {
    /// Written by the handler, which may not make one.
    nonisolated(unsafe) private static var hint: UnsafeMutableBufferPointer<UInt8>?

    /// From now on Ctrl-C says `text` on standard error. What was to be said before stays in memory: a handler may be at
    /// it.
    static func explain(_ text: String) {
        let bytes = Array("\n\(text)\n".utf8)
        let buffer = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: bytes.count)
        _ = buffer.initialize(from: bytes)
        hint = buffer
        signal(SIGINT) { _ in
            if let hint = Interruption.hint { _ = write(STDERR_FILENO, hint.baseAddress, hint.count) }
            signal(SIGINT, SIG_DFL)
            raise(SIGINT)
        }
    }
}

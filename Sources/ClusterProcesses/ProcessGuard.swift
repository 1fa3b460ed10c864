import FlotillaTestSupport
import Glibc
import Synchronization

/// Ends the processes that this program has started, and removes its directories, whatever ends the program: a signal,
/// SIGKILL or a trap.
///
/// Who has been killed can do nothing any more, so another process does it: the program once more, which is told of
/// every process and directory over a socket and begins when the other end of that is closed. It is in no terminal's
/// group, so nothing that is typed ends it. SIGINT, SIGTERM and SIGHUP are told to a thread, which lets the guard do its
/// work before the program ends with 128 and the signal's number.
///
/// Before ``begin()``, and in a program that never calls it, nothing is noted. Any thread.
public enum ProcessGuard {
    /// As the first word of the command line: be the guard.
    private static let word = "--process-guard"
    private static let signals = [SIGINT, SIGTERM, SIGHUP]
    /// This program's end of the socket. Held while a process is started or waited for: in between, its number is noted
    /// although it may be another's.
    private static let line = Mutex<Int32?>(nil)
    private static let patienceSeconds = 10

    /// To be called first in `main`, before there are threads. Does not return in the guard.
    public static func begin() throws {
        if CommandLine.arguments.dropFirst().first == word { watch() }
        let socket = try startGuard()
        line.withLock { $0 = socket }
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw Failed("no pipe (errno \(errno))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (signalled, signalling) = (ends[0], ends[1])
        var thread = pthread_t()
        let failure = pthread_create(
            &thread, nil,
            { _ in
                ProcessGuard.awaitSignal()
                return nil
            }, nil)
        precondition(failure == 0, "no thread for signals (errno \(failure))")
        pthread_detach(thread)
        // a handler, not a mask: the thread that Swift's tasks leave behind waits with no signal blocked
        for signal in signals where !isIgnored(signal) {
            var action = sigaction()
            action.__sigaction_handler.sa_handler = { number in
                let before = errno
                var byte = UInt8(truncatingIfNeeded: number)
                _ = write(ProcessGuard.signalling, &byte, 1)
                errno = before
            }
            action.sa_flags = SA_RESTART
            sigaction(signal, &action, nil)
        }
    }

    /// Ends of a pipe, with a byte for each signal that came. Set before the first one can come.
    private nonisolated(unsafe) static var signalled: Int32 = -1
    private nonisolated(unsafe) static var signalling: Int32 = -1

    /// `directory` is this program's, and goes with it.
    public static func note(directory: String) { line.withLock { tell("d\(directory)", on: $0) } }

    /// Starts a process.
    static func starting(_ start: () throws -> pid_t) rethrows -> pid_t {
        try line.withLock { line in
            let pid = try start()
            tell("+\(pid)", on: line)
            return pid
        }
    }

    /// Waits for a process as `waitpid` does; true once it has ended and its number may be another's.
    static func reap(_ pid: pid_t, _ status: inout Int32, _ options: Int32) -> Bool {
        line.withLock { line in
            guard waitpid(pid, &status, options) == pid else { return false }
            tell("-\(pid)", on: line)
            return true
        }
    }

    private static func tell(_ text: String, on line: Int32?) {
        guard let line else { return }
        var text = text + "\n"
        // a guard that is gone must not end us
        text.withUTF8 { _ = send(line, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    private static func isIgnored(_ signal: Int32) -> Bool {
        var action = sigaction()
        sigaction(signal, nil, &action)
        return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1  // SIG_IGN
    }

    /// Returns this program's end of the socket.
    private static func startGuard() throws -> Int32 {
        var ends: [Int32] = [-1, -1]
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, kind, 0, &ends) == 0 else { throw Failed("no socket (errno \(errno))") }
        defer { close(ends[1]) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO)
        // whoever reads what this program prints must not wait for the guard
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0)
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setpgroup(&attributes, 0)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP))
        let texts = [CommandLine.arguments[0], word]
        var words = texts.map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        var pid = pid_t()
        let result = posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, &words, environ)
        guard result == 0 else { throw Failed("no guard can be started (errno \(result))") }
        return ends[0]
    }

    private static func awaitSignal() {
        var signal: UInt8 = 0
        while read(signalled, &signal, 1) != 1 { guard errno == EINTR else { return } }
        // for good: nothing is started any more
        line.withLock { line in
            if let line {
                shutdown(line, Int32(SHUT_WR))
                var byte: UInt8 = 0
                // its end of the socket is closed when it is done
                while read(line, &byte, 1) < 0, errno == EINTR {}
            }
            _exit(128 + Int32(signal))
        }
    }

    // MARK: the guard

    private static func watch() -> Never {
        for signal in signals { Glibc.signal(signal, SIG_IGN) }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(STDIN_FILENO, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            text += buffer[0..<count]
        }
        var processes: [pid_t] = []
        var directories: [String] = []
        for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
            let rest = String(line.dropFirst())
            switch (line.first, pid_t(rest)) {
            case ("+", let pid?): processes.append(pid)
            case ("-", let pid?): processes.removeAll { $0 == pid }
            case ("d", _): directories.append(rest)
            default: continue
            }
        }
        for pid in processes { kill(pid, SIGKILL) }
        wait { processes.allSatisfy(hasEnded) }
        for directory in directories {
            wait {
                TemporaryDirectory.remove(directory)
                return access(directory, F_OK) != 0
            }
        }
        exit(0)
    }

    private static func wait(until isDone: () -> Bool) {
        for _ in 0..<100 * patienceSeconds where !isDone() { usleep(10_000) }
    }

    /// Whether it is gone, or only waits for somebody to ask how it ended.
    private static func hasEnded(_ pid: pid_t) -> Bool {
        guard let text = try? Files.text("/proc/\(pid)/stat"), let name = text.lastIndex(of: ")") else { return true }
        let state = text[name...].split(separator: " ").dropFirst().first
        return state == "Z" || state == "X"
    }
}

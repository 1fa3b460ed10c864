public import Glibc
import Synchronization

/// A process that was started here; killed, by its own number, when this object goes, or by the ``ProcessGuard``.
public final class ChildProcess: Sendable {
    /// Its number.
    public let pid: pid_t
    private let ended = Mutex<Int32?>(nil)

    /// Starts `executable` with the signals `blocked` blocked; what it prints is appended to the file `output`. It reads
    /// from the open file `input`, which stays the caller's, or else nothing.
    public init(
        _ executable: String, _ arguments: [String], output: String, input: Int32? = nil, blocked: [Int32] = []
    ) throws {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        if let input {
            posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO)
        } else {
            posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
        }
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        // the threads of Swift's tasks block most signals, and a child inherits that
        var signals = sigset_t()
        sigemptyset(&signals)
        for signal in blocked { sigaddset(&signals, signal) }
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigemptyset(&signals)
        // a shell's background ignores SIGINT, and so would a child
        for signal in [SIGPIPE, SIGINT] { sigaddset(&signals, signal) }
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var words = ([executable] + arguments).map { strdup($0) } + [nil]
        defer { for word in words { free(word) } }
        pid = try ProcessGuard.starting {
            var pid = pid_t()
            let result = posix_spawn(&pid, executable, &actions, &attributes, &words, environ)
            guard result == 0 else { throw Failed("\(executable) cannot be started (errno \(result))") }
            return pid
        }
    }

    deinit {
        guard ended.withLock({ $0 }) == nil else { return }
        Glibc.kill(pid, SIGKILL)
        var status: Int32 = 0
        _ = ProcessGuard.reap(pid, &status, 0)
    }

    /// Sends a signal, unless the process has ended.
    public func signal(_ number: Int32) {
        ended.withLock { ended in
            // until it is waited for, the number is nobody else's
            if ended == nil { Glibc.kill(pid, number) }
        }
    }

    /// The exit status once the process has ended, or minus the signal that ended it; nil if it still runs.
    public var exitStatus: Int32? {
        ended.withLock { ended in
            var status: Int32 = 0
            if ended == nil, ProcessGuard.reap(pid, &status, WNOHANG) {
                ended = status & 0x7f == 0 ? status >> 8 & 0xff : -(status & 0x7f)
            }
            return ended
        }
    }

    /// Waits for the end; one that takes longer than `timeout` is an error.
    public func waitForExit(timeout: Duration = .seconds(60)) async throws -> Int32 {
        let end = ContinuousClock.now + timeout
        while ContinuousClock.now < end {
            if let exitStatus { return exitStatus }
            try await Task.sleep(for: .milliseconds(10))
        }
        throw Failed("process \(pid) still runs after \(timeout)")
    }
}

/// Why it cannot go on.
public struct Failed: Error, CustomStringConvertible {
    /// One sentence.
    public var description: String
    /// A failure told as `description`.
    public init(_ description: String) { self.description = description }
}

import ClusterProcesses
import Glibc

/// What the kernel says of processes on this machine.
enum ProcessFigures {
    /// Seconds that the process has had processors for, all its threads together.
    static func processorSeconds(of pid: pid_t) throws -> Double {
        var clock = clockid_t()
        guard clock_getcpuclockid(pid, &clock) == 0 else { throw Failed("process \(pid) is gone") }
        return seconds(on: clock)
    }

    /// The same of this process.
    static var ownProcessorSeconds: Double { seconds(on: CLOCK_PROCESS_CPUTIME_ID) }

    /// The same of the calling thread.
    static var processorSecondsOfThisThread: Double { seconds(on: CLOCK_THREAD_CPUTIME_ID) }

    /// Bytes of the process that are in memory.
    static func residentBytes(of pid: pid_t) throws -> Int {
        let fields = try Files.text("/proc/\(pid)/statm").split(separator: " ")
        guard fields.count > 1, let pages = Int(fields[1]) else { throw Failed("process \(pid) is gone") }
        return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
    }

    /// The most of them that there ever were at a time.
    static func peakResidentBytes(of pid: pid_t) throws -> Int {
        let line = try Files.text("/proc/\(pid)/status").split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
        guard let kibibytes = line?.split(separator: " ").compactMap({ Int($0) }).first else {
            throw Failed("process \(pid) is gone")
        }
        return kibibytes << 10
    }

    private static func seconds(on clock: clockid_t) -> Double {
        var time = timespec()
        clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }
}

/// Runs `work`, which blocks, on a thread of its own.
func onOwnThread<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        let start = ThreadStart { continuation.resume(with: Result { try work() }) }
        var thread = pthread_t()
        let failure = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<ThreadStart>.fromOpaque(context).takeRetainedValue().work()
                return nil
            }, Unmanaged.passRetained(start).toOpaque())
        precondition(failure == 0, "no thread (errno \(failure))")
        pthread_detach(thread)
    }
}

/// What a thread begins with.
private final class ThreadStart: Sendable {
    let work: @Sendable () -> Void
    init(_ work: @escaping @Sendable () -> Void) { self.work = work }
}

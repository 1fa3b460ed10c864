internal import Glibc
public import RaftCore

/// The machine's clocks. Any thread may read it.
///
/// Every reading is fresh: a lease is checked again *after* a read was evaluated, and a time remembered from the
/// start of the turn would hide the pause in between. A reading stays in user space and costs some 30 ns.
public final class SystemClock: NodeClock {
    /// The machine's clocks.
    public init() {}

    /// Nanoseconds since boot, including time suspended.
    public var now: Instant {
        let time = SystemClock.read(CLOCK_BOOTTIME)
        return Instant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }

    /// Milliseconds since 1970.
    public var wallClockMilliseconds: Int64 {
        let time = SystemClock.read(CLOCK_REALTIME)
        return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
    }

    private static func read(_ clock: clockid_t) -> timespec {
        var time = timespec()
        let result = clock_gettime(clock, &time)
        precondition(result == 0, "the clock \(clock) cannot be read")
        return time
    }
}

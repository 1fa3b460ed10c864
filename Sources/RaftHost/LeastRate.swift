import RaftCore

/// Whether a source sends enough to keep the place it takes: at least so many bytes in each patience. Only the time in
/// which somebody waits for it counts.
struct LeastRate {
    private let bytes: Int
    private let patience: Interval
    /// Bytes since the deadline was set.
    private var come = 0
    /// Of the patience, while nobody waits.
    private var left: Interval
    /// When too little has come; nil while nobody waits.
    private(set) var deadline: Instant?

    init(of bytes: Int, in patience: Interval) {
        (self.bytes, self.patience) = (bytes, patience)
        left = patience
    }

    /// Somebody waits from now on, with what is left of the patience.
    mutating func resume(_ now: Instant) { deadline = deadline ?? now + left }

    /// Nobody does.
    mutating func pause(_ now: Instant) {
        guard let deadline else { return }
        left = deadline - now
        self.deadline = nil
    }

    /// `count` bytes have come.
    mutating func take(_ count: Int, now: Instant) {
        come += count
        guard come >= bytes, deadline != nil else { return }
        (come, deadline) = (0, now + patience)
    }

    /// What it was kept waiting for by others.
    mutating func excuse(_ time: Interval) { deadline = deadline.map { $0 + time } }
}

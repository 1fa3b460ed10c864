/// The numbers of one client's writes, over all shards.
///
/// A number is opened when a request gets it and answered once nobody waits for its outcome any more. ``floor`` is the
/// lowest that is not answered; every write carries it, so that servers may forget what lies below. At most `size`
/// numbers from the floor on exist at a time: that bounds what a server must remember of a session.
struct SequenceWindow {
    /// The lowest number not answered yet.
    private(set) var floor: UInt64 = 1
    private var next: UInt64 = 1
    /// For each number from the floor on, at its remainder by the size: whether it is answered.
    private var isAnswered: [Bool]

    init(size: Int) {
        precondition(size > 0, "a window needs room for one request")
        isAnswered = [Bool](repeating: false, count: size)
    }

    /// Whether the next number has to wait for the floor to rise.
    var isFull: Bool { next - floor >= UInt64(isAnswered.count) }

    /// The next number.
    mutating func open() -> UInt64 {
        precondition(!isFull, "a sequence beyond the window")
        defer { next += 1 }
        return next
    }

    /// Nobody will ask under `sequence` again.
    mutating func answer(_ sequence: UInt64) {
        precondition(sequence >= floor && sequence < next, "a sequence that is not open")
        precondition(!isAnswered[slot(sequence)], "a sequence answered twice")
        isAnswered[slot(sequence)] = true
        while floor < next, isAnswered[slot(floor)] {
            isAnswered[slot(floor)] = false
            floor += 1
        }
    }

    private func slot(_ sequence: UInt64) -> Int { Int(sequence % UInt64(isAnswered.count)) }
}

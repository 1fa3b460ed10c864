/// The numbers of one client's writes to shards that may share a session: those that were cut from one.
///
/// A number is opened when a request gets it and answered once nobody waits for its outcome any more. ``floor`` is the
/// lowest that is not answered; every write carries it, so that servers may forget what lies below. At most `size`
/// numbers from the floor on exist at a time: that bounds what a server must remember of a session.
struct SequenceWindow {
    /// The lowest number not answered yet.
    private(set) var floor: UInt64 = 1
    /// For each number from the floor on, behind what has left: whether it is answered.
    private var isAnswered: [Bool] = []
    private var head = 0
    private let size: Int

    init(size: Int) {
        precondition(size > 0, "a window needs room for one request")
        self.size = size
    }

    /// Whether the next number has to wait for the floor to rise.
    var isFull: Bool { isAnswered.count - head >= size }

    /// The next number.
    mutating func open() -> UInt64 {
        precondition(!isFull, "a sequence beyond the window")
        isAnswered.append(false)
        return floor + UInt64(isAnswered.count - head - 1)
    }

    /// Nobody will ask under `sequence` again.
    mutating func answer(_ sequence: UInt64) {
        precondition(sequence >= floor && sequence - floor < isAnswered.count - head, "a sequence that is not open")
        let place = head + Int(sequence - floor)
        precondition(!isAnswered[place], "a sequence answered twice")
        isAnswered[place] = true
        while head < isAnswered.count, isAnswered[head] {
            head += 1
            floor += 1
        }
        if head == isAnswered.count {
            isAnswered.removeAll(keepingCapacity: true)
            head = 0
        } else if head >= size {
            isAnswered.removeFirst(head)
            head = 0
        }
    }
}

/// The window of the channels to shards that may share a session. A session that one of them opens goes to those that are
/// cut from its shard, and to no others; so below the floor of a window nothing is asked under any of its sessions, and
/// what has no answer at one group keeps no others waiting.
final class SharedWindow {
    var numbers: SequenceWindow
    /// Channels whose writes wait for it.
    var stalled: [ShardChannel] = []

    init(size: Int) { numbers = SequenceWindow(size: size) }
}

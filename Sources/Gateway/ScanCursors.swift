internal import RaftCore

/// Where unfinished scans go on: the numbers that clients hold, and the keys they stand for.
///
/// Numbers ascend from a start that the caller draws, so that a number of another node, or of this one before its last
/// start, is most probably unknown here rather than somebody else's. A number keeps its key until it is evicted, so a
/// client may ask again with it. The oldest is evicted for the newest when either limit is reached.
struct ScanCursors {
    private let countMax: Int
    private let bytesMax: Int
    /// Number of ``keys``' first.
    private var firstNumber: UInt64
    private var keys: [Bytes] = []
    /// How many of ``keys``, from the front, are evicted already.
    private var evictedCount = 0
    private var bytes = 0

    init(countMax: Int, bytesMax: Int, firstNumber: UInt64) {
        precondition(countMax > 0 && firstNumber > 0)
        self.countMax = countMax
        self.bytesMax = bytesMax
        self.firstNumber = firstNumber
    }

    /// A new number for a scan that goes on at `key`.
    mutating func number(for key: Bytes) -> UInt64 {
        keys.append(key.compacted)
        bytes += key.count
        while keys.count - evictedCount > countMax || (bytes > bytesMax && keys.count - evictedCount > 1) {
            bytes -= keys[evictedCount].count
            keys[evictedCount] = Bytes()
            evictedCount += 1
        }
        // Moving the rest once in a while costs less than moving it each time.
        if evictedCount > countMax {
            keys.removeFirst(evictedCount)
            firstNumber += UInt64(evictedCount)
            evictedCount = 0
        }
        return firstNumber + UInt64(keys.count - 1)
    }

    /// The key that `number` stands for; nil if it is unknown or evicted.
    func key(for number: UInt64) -> Bytes? {
        guard number >= firstNumber, number - firstNumber < UInt64(keys.count) else { return nil }
        let index = Int(number - firstNumber)
        return index < evictedCount ? nil : keys[index]
    }
}

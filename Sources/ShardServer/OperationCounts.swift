import RaftCore
import ShardMap

/// How often each shard is asked on this node, and for which keys.
///
/// Counted for every request: a few instructions, and nothing is allocated but for one request in ``sampling``, whose
/// first key is remembered. Only admitted shards are counted: whoever asks can name what it likes.
struct OperationCounts {
    private struct Slot {
        /// Zero: free.
        var shard: UInt64 = 0
        var operations: UInt64 = 0
        /// The window in which it was admitted last.
        var window: UInt64 = 0
    }

    /// One request in so many gives a key.
    static let sampling: UInt32 = 32
    /// Keys remembered, of all shards; the oldest ones go.
    private static let samplesMax = 2048
    /// A longer key is cut: what divides the keys need not be one of them.
    private static let sampleBytes = 256
    /// Below that many keys of a shard nothing is said about its middle.
    private static let samplesMin = 32
    /// Rates are those of at least so long a time.
    private static let windowMin = Interval.milliseconds(1000)

    /// As many as a power of two, at most half of them used; found by a hash of the shard, or behind it.
    private var slots = [Slot](repeating: Slot(), count: 64)
    private var used = 0
    private var requests: UInt32 = 0
    private var samples: [(shard: UInt64, key: Bytes)] = []
    private var nextSample = 0
    private var windowBegan: Instant
    private var window: UInt64 = 0
    private var rates: [UInt64: Double] = [:]

    init(now: Instant) { windowBegan = now }

    /// Counts a request for `shard`; whether its key is wanted for ``remember(_:of:)``.
    mutating func count(_ operations: Int, of shard: UInt64) -> Bool {
        let place = place(of: shard)
        guard slots[place].shard == shard, shard != 0 else { return false }
        slots[place].operations &+= UInt64(operations)
        requests &+= 1
        return requests % OperationCounts.sampling == 0
    }

    /// Where `shard` is, or belongs.
    private func place(of shard: UInt64) -> Int {
        let mask = slots.count - 1
        // Fibonacci hashing: the high bits are the well-mixed ones
        var place = Int(truncatingIfNeeded: (shard &* 0x9e37_79b9_7f4a_7c15) >> 32) & mask
        while slots[place].shard != shard, slots[place].shard != 0 { place = (place + 1) & mask }
        return place
    }

    /// Counts `shard` from here on, until it was not admitted for a whole window.
    mutating func admit(_ shard: UInt64) {
        guard shard != 0 else { return }
        var place = place(of: shard)
        if slots[place].shard == 0 {
            if 2 * (used + 1) > slots.count { rebuild(2 * slots.count) { _ in true } }
            place = self.place(of: shard)
            slots[place].shard = shard
            used += 1
        }
        slots[place].window = window
    }

    private mutating func rebuild(_ count: Int, keeping isKept: (Slot) -> Bool) {
        let former = slots
        slots = [Slot](repeating: Slot(), count: count)
        used = 0
        for slot in former where slot.shard != 0 && isKept(slot) {
            slots[place(of: slot.shard)] = slot
            used += 1
        }
    }

    /// Remembers a key that was asked for.
    mutating func remember(_ key: Bytes, of shard: UInt64) {
        guard !key.isEmpty else { return }
        let kept = key.slice(from: 0, count: min(key.count, OperationCounts.sampleBytes)).compacted
        if samples.count < OperationCounts.samplesMax {
            samples.append((shard, kept))
        } else {
            samples[nextSample] = (shard, kept)
            nextSample = (nextSample + 1) % OperationCounts.samplesMax
        }
    }

    /// Operations per second of each shard since the last call that was long enough ago; none are zero.
    mutating func rates(now: Instant) -> [UInt64: Double] {
        let passed = now - windowBegan
        guard !(passed < OperationCounts.windowMin) else { return rates }
        windowBegan = now
        rates.removeAll(keepingCapacity: true)
        let seconds = Double(passed.nanoseconds) / 1e9
        var hasStale = false
        for place in slots.indices where slots[place].shard != 0 {
            if slots[place].operations > 0 { rates[slots[place].shard] = Double(slots[place].operations) / seconds }
            slots[place].operations = 0
            hasStale = hasStale || slots[place].window < window
        }
        let ended = window
        if hasStale { rebuild(slots.count) { $0.window == ended } }
        window += 1
        return rates
    }

    /// The keys of which about as many requests of late were below as from it on, of each shard that was asked for
    /// enough of them. None where one key is asked for most: no cut would help.
    func busyKeys(of ranges: [UInt64: KeyRange]) -> [UInt64: Bytes] {
        var keys: [UInt64: [Bytes]] = [:]
        for sample in samples where ranges[sample.shard]?.contains(sample.key) == true {
            keys[sample.shard, default: []].append(sample.key)
        }
        return keys.compactMapValues { keys in
            guard keys.count >= OperationCounts.samplesMin else { return nil }
            let sorted = keys.sorted()
            // the first of its kind, nearest to the middle: so many are below it
            let cut = sorted.indices.dropFirst().filter { sorted[$0 - 1] < sorted[$0] }
                .min { abs(2 * $0 - sorted.count) < abs(2 * $1 - sorted.count) }
            guard let cut, 5 * min(cut, sorted.count - cut) >= sorted.count else { return nil }
            return sorted[cut]
        }
    }
}

import RaftCore

/// A binary heap of wake-up times. A slot may be pushed again with another time; the owner compares what it pops with
/// what it wants now, so nothing is ever searched or removed in the middle.
struct DeadlineHeap {
    private var items: [(at: Instant, slot: Int)] = []

    /// Earliest time, if any.
    var earliest: Instant? { items.first?.at }

    mutating func push(_ at: Instant, slot: Int) {
        items.append((at, slot))
        var child = items.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard items[child].at < items[parent].at else { break }
            items.swapAt(child, parent)
            child = parent
        }
    }

    /// The slot of the earliest time, if that has come.
    mutating func popDue(_ now: Instant) -> (at: Instant, slot: Int)? {
        guard let first = items.first, first.at <= now else { return nil }
        let last = items.removeLast()
        if !items.isEmpty {
            items[0] = last
            sink()
        }
        return first
    }

    private mutating func sink() {
        var parent = 0
        while true {
            let left = 2 * parent + 1
            guard left < items.count else { return }
            let right = left + 1
            let child = right < items.count && items[right].at < items[left].at ? right : left
            guard items[child].at < items[parent].at else { return }
            items.swapAt(child, parent)
            parent = child
        }
    }
}

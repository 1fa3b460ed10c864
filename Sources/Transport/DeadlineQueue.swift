internal import RaftCore

/// Deadlines of numbered things, the earliest at hand. A thing that is done stays in the queue until it comes up or
/// until ``compact(keeping:)``; its owner knows that it is done.
struct DeadlineQueue {
    private struct Entry {
        var deadline: Instant
        var id: Int64

        func precedes(_ other: Entry) -> Bool {
            deadline != other.deadline ? deadline < other.deadline : id < other.id
        }
    }

    /// A binary heap: an entry does not precede the one at half its place.
    private var heap: [Entry] = []

    var count: Int { heap.count }

    /// The earliest, or nil.
    var first: (deadline: Instant, id: Int64)? { heap.first.map { ($0.deadline, $0.id) } }

    mutating func insert(_ id: Int64, deadline: Instant) {
        heap.append(Entry(deadline: deadline, id: id))
        var place = heap.count - 1
        while place > 0, heap[place].precedes(heap[(place - 1) / 2]) {
            heap.swapAt(place, (place - 1) / 2)
            place = (place - 1) / 2
        }
    }

    mutating func removeFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var place = 0
        while true {
            var least = place
            for child in [2 * place + 1, 2 * place + 2] where child < heap.count && heap[child].precedes(heap[least]) {
                least = child
            }
            guard least != place else { return }
            heap.swapAt(place, least)
            place = least
        }
    }

    /// Forgets everything that is done.
    mutating func compact(keeping isWaiting: (Int64) -> Bool) {
        heap.removeAll { !isWaiting($0.id) }
        // A sorted array is a heap.
        heap.sort { $0.precedes($1) }
    }
}

/// What is to happen, by time and then in the order of arrival: a binary heap.
struct Agenda<Element> {
    private var heap: [(time: Int64, order: Int, element: Element)] = []
    private var pushed = 0

    /// When the first happens.
    var nextTime: Int64? { heap.first?.time }

    /// Lets `element` happen at `time`.
    mutating func push(_ element: Element, at time: Int64) {
        heap.append((time, pushed, element))
        pushed += 1
        var child = heap.count - 1
        while child > 0, isBefore(child, (child - 1) / 2) {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    /// Removes the first if it happens not after `time`.
    mutating func pop(notAfter time: Int64) -> Element? {
        guard let first = heap.first, first.time <= time else { return nil }
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var smallest = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && isBefore(child, smallest) {
                smallest = child
            }
            guard smallest != parent else { return first.element }
            heap.swapAt(parent, smallest)
            parent = smallest
        }
    }

    private func isBefore(_ left: Int, _ right: Int) -> Bool {
        (heap[left].time, heap[left].order) < (heap[right].time, heap[right].order)
    }
}

/// A queue that is also joined at its front. Elements leave it without moving the others.
struct Fifo<Element> {
    /// Nil where an element has left, so that nothing is kept alive behind the head.
    private var slots: [Element?] = []
    private var head = 0

    var count: Int { slots.count - head }
    var isEmpty: Bool { head == slots.count }
    var first: Element? { isEmpty ? nil : slots[head] }

    mutating func append(_ element: Element) { slots.append(element) }

    mutating func prepend(_ element: Element) {
        if head > 0 {
            head -= 1
            slots[head] = element
        } else {
            slots.insert(element, at: 0)
        }
    }

    mutating func popFirst() -> Element? {
        guard !isEmpty else { return nil }
        defer {
            slots[head] = nil
            head += 1
            if isEmpty {
                slots.removeAll(keepingCapacity: true)
                head = 0
            } else if head >= 64, head * 2 >= slots.count {
                slots.removeFirst(head)
                head = 0
            }
        }
        return slots[head]
    }

    /// Calls `body` with each element, in order.
    func forEach(_ body: (Element) -> Void) {
        for slot in slots[head...] { if let slot { body(slot) } }
    }

    /// Takes out, in order, the elements for which `matches` is true.
    mutating func remove(where matches: (Element) -> Bool) -> [Element] {
        var removed: [Element] = []
        var kept: [Element?] = []
        forEach { if matches($0) { removed.append($0) } else { kept.append($0) } }
        slots = kept
        head = 0
        return removed
    }
}

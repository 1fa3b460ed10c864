internal import RaftCore

/// The channels that something is due on, the earliest first; among equals the lower shard id.
struct DueHeap {
    private(set) var channels: [ShardChannel] = []

    var first: ShardChannel? { channels.first }

    /// Notes when something is next due on `channel`; far away takes it out.
    mutating func update(_ channel: ShardChannel, due: Instant) {
        guard due != channel.due || channel.heapPosition < 0 else { return }
        channel.due = due
        if due == .distantFuture {
            if channel.heapPosition >= 0 { remove(at: channel.heapPosition) }
            return
        }
        if channel.heapPosition < 0 {
            channel.heapPosition = channels.count
            channels.append(channel)
        }
        siftDown(siftUp(channel.heapPosition))
    }

    private mutating func remove(at position: Int) {
        let last = channels.count - 1
        channels[position].heapPosition = -1
        if position != last {
            channels[position] = channels[last]
            channels[position].heapPosition = position
        }
        channels.removeLast()
        if position != last { siftDown(siftUp(position)) }
    }

    private mutating func siftUp(_ start: Int) -> Int {
        var position = start
        while position > 0, isBefore(position, (position - 1) / 2) {
            swap(position, (position - 1) / 2)
            position = (position - 1) / 2
        }
        return position
    }

    private mutating func siftDown(_ start: Int) {
        var position = start
        while true {
            var earliest = position
            // a range, not an array: this runs for every request
            let firstChild = 2 * position + 1
            for child in firstChild..<max(firstChild, min(firstChild + 2, channels.count))
            where isBefore(child, earliest) {
                earliest = child
            }
            guard earliest != position else { return }
            swap(position, earliest)
            position = earliest
        }
    }

    private func isBefore(_ left: Int, _ right: Int) -> Bool {
        let (left, right) = (channels[left], channels[right])
        return left.due != right.due ? left.due < right.due : left.shard.id < right.shard.id
    }

    private mutating func swap(_ left: Int, _ right: Int) {
        channels.swapAt(left, right)
        channels[left].heapPosition = left
        channels[right].heapPosition = right
    }
}

import RaftCore

/// An ordered map of bytes as a value: copying it costs nothing until one of the copies changes.
///
/// Pairs live in ascending blocks of at most ``blockPairs``, so a change moves one block's pairs and not all.
struct SortedBytesMap: Sendable {
    typealias Pair = (key: Bytes, value: Bytes)

    private static let blockPairs = 256
    /// Never an empty block.
    private var blocks: [[Pair]] = []
    /// Bytes of the keys and values of each block.
    private var sizes: [Int] = []
    /// Number of pairs.
    private(set) var count = 0
    /// Where the last change was, for what is written together lies together; or no block at all.
    private var lastBlock = 0

    subscript(key: Bytes) -> Bytes? {
        get {
            let place = place(of: key)
            return place.found ? blocks[place.block][place.offset].value : nil
        }
        set {
            if let newValue { put(key, newValue) } else { remove(key) }
        }
    }

    /// Removes every key of `[start, end)`; an empty `end` is before every key.
    mutating func removeRange(from start: Bytes, to end: Bytes) {
        guard start < end else { return }
        var doomed: [Bytes] = []
        visit(from: start, to: end) { key, _ in
            doomed.append(key)
            return true
        }
        for key in doomed { remove(key) }
    }

    /// Visits pairs of `[start, end)` in order until `body` returns false; an empty `end` is no bound.
    func visit(from start: Bytes, to end: Bytes, _ body: (Bytes, Bytes) -> Bool) {
        let first = place(of: start)
        var offset = first.offset
        for block in first.block..<max(blocks.count, first.block) {
            for pair in blocks[block][offset...] {
                guard end.isEmpty || pair.key < end, body(pair.key, pair.value) else { return }
            }
            offset = 0
        }
    }

    /// Bytes of the keys and values of `[start, end)`; an empty `end` is no bound. Costs a step for each block.
    func bytes(from start: Bytes, to end: Bytes) -> Int {
        guard end.isEmpty || start < end else { return 0 }
        let first = place(of: start)
        var total = 0
        var offset = first.offset
        for block in first.block..<max(blocks.count, first.block) {
            let isWhole = offset == 0 && (end.isEmpty || block + 1 < blocks.count && blocks[block + 1][0].key <= end)
            if isWhole {
                total += sizes[block]
            } else {
                for pair in blocks[block][offset...] {
                    guard end.isEmpty || pair.key < end else { return total }
                    total += SortedBytesMap.size(of: pair)
                }
            }
            offset = 0
        }
        return total
    }

    private static func size(of pair: Pair) -> Int { pair.key.count + pair.value.count }

    /// Where `key` is, or where it belongs: in the last block that begins at or before it.
    private func place(of key: Bytes) -> (block: Int, offset: Int, found: Bool) {
        guard !blocks.isEmpty else { return (0, 0, false) }
        // through pointers: an array's elements would be retained for each comparison
        return blocks.withUnsafeBufferPointer { blocks in
            var block = lastBlock
            if block >= blocks.count || key < blocks[block][0].key
                || block + 1 < blocks.count && !(key < blocks[block + 1][0].key)
            {
                block = max(0, partitionPoint(blocks.count) { key < blocks[$0][0].key } - 1)
            }
            return blocks[block].withUnsafeBufferPointer { pairs in
                let offset = partitionPoint(pairs.count) { !(pairs[$0].key < key) }
                return (block, offset, offset < pairs.count && pairs[offset].key == key)
            }
        }
    }

    private mutating func put(_ key: Bytes, _ value: Bytes) {
        let place = place(of: key)
        lastBlock = place.block
        if place.found {
            sizes[place.block] += value.count - blocks[place.block][place.offset].value.count
            blocks[place.block][place.offset].value = value
            return
        }
        count += 1
        let size = SortedBytesMap.size(of: (key, value))
        guard !blocks.isEmpty else {
            blocks.append([(key, value)])
            sizes.append(size)
            return
        }
        blocks[place.block].insert((key, value), at: place.offset)
        sizes[place.block] += size
        if blocks[place.block].count > SortedBytesMap.blockPairs {
            let half = SortedBytesMap.blockPairs / 2
            let upper = Array(blocks[place.block][half...])
            blocks[place.block].removeSubrange(half...)
            blocks.insert(upper, at: place.block + 1)
            let moved = upper.reduce(0) { $0 + SortedBytesMap.size(of: $1) }
            sizes[place.block] -= moved
            sizes.insert(moved, at: place.block + 1)
        }
    }

    private mutating func remove(_ key: Bytes) {
        let place = place(of: key)
        lastBlock = place.block
        guard place.found else { return }
        count -= 1
        sizes[place.block] -= SortedBytesMap.size(of: blocks[place.block].remove(at: place.offset))
        guard blocks[place.block].isEmpty else { return }
        blocks.remove(at: place.block)
        sizes.remove(at: place.block)
    }
}

/// The first position of `0 ..< count` for which `isBehind` holds, if it holds for every one after that; else `count`.
func partitionPoint(_ count: Int, _ isBehind: (Int) -> Bool) -> Int {
    var low = 0
    var high = count
    while low < high {
        let middle = (low + high) / 2
        if isBehind(middle) { high = middle } else { low = middle + 1 }
    }
    return low
}

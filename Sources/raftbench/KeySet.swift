import RaftCore
import ShardMap

/// Keys spread evenly over shards; they share one piece of memory.
struct KeySet: Sendable {
    /// The keys; the one at position `n` is of the shard at position `n % shards`.
    private let keys: [Bytes]
    /// How many shards they are of.
    let shards: Int

    /// At least `count` keys, of all `shards` equally many.
    init(_ count: Int, in shards: [Shard]) {
        precondition(!shards.isEmpty, "keys need shards")
        self.shards = shards.count
        let rounds = max(1, (count + shards.count - 1) / shards.count)
        var memory: [UInt8] = []
        var ends: [Int] = []
        for round in 0..<rounds {
            // as long in every round: keys of one shard differ in these digits
            let digits = Array("\(10_000_000_000 + round)".utf8)
            for shard in shards {
                memory += shard.range.start.isEmpty ? [UInt8(ascii: "!")] : shard.range.start.array
                // below every boundary, which has one or two bytes
                memory += [0] + digits
                ends.append(memory.count)
            }
        }
        let slab = Bytes(memory)
        var start = 0
        keys = ends.map { end in
            defer { start = end }
            return slab.slice(from: start, count: end - start)
        }
    }

    var count: Int { keys.count }

    subscript(position: Int) -> Bytes { keys[position] }
}

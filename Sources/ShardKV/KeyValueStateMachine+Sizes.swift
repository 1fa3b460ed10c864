public import RaftCore
public import ShardMap

// How much a replica stores and where the middle of a shard is; any thread, and nothing is scanned.

extension KeyValueStateMachine {
    /// What a replica and the shards that it owns take, about.
    public struct Sizes: Sendable {
        /// Of everything.
        public var bytes: UInt64
        /// Of the keys and values of each shard owned, ascending by id.
        public var shards: [(shard: Shard, bytes: UInt64)]
    }

    /// As ``KeyValueEngine/approximateBytes(of:)``; a few searches for each shard.
    public func sizes() throws(StateMachineError) -> Sizes {
        let shards = ownedShards
        let number = store.layout.replicaNumber
        let whole = (start: ReplicaKeys.start(of: number), end: ReplicaKeys.end(of: number))
        let bytes = try store.approximateBytes(of: [whole] + shards.map { store.layout.dataKeys(of: $0.range) })
        return Sizes(bytes: bytes[0], shards: Array(zip(shards, bytes.dropFirst()).map { ($0, $1) }))
    }

    /// A key of `range` with about as many bytes before it as from it on; nil if none is found. Costs dozens of
    /// searches, or a look at a few thousand keys where the engine cannot tell how large they are.
    public func middleKey(of range: KeyRange) throws(StateMachineError) -> Bytes? {
        let (start, end) = store.layout.dataKeys(of: range)
        return try store.middleKey(from: start, to: end).map { KeyLayout.rest(of: $0) }
    }
}

extension ReplicaStore {
    /// Keys looked at where sizes are not known.
    private static let keysMax = 4096
    private static let searchesMax = 128
    /// After so many searches in a row that found nothing the keys are likely to begin alike.
    private static let failuresMax = 3

    /// Bisects between the bounds' bytes: the sizes on both sides of a key that is there say where to go on.
    func middleKey(from start: Bytes, to end: Bytes) throws(StateMachineError) -> Bytes? {
        let total = try approximateBytes(of: [(start, end)])[0]
        guard total > 0 else { return try countedMiddle(from: start, to: end) }
        guard let first = try firstKey(from: start, to: end) else { return nil }
        var (low, high) = (first, end)
        var best: (key: Bytes, distance: UInt64)?
        var failures = 0
        for _ in 0..<ReplicaStore.searchesMax {
            guard let probe = Bytes.between(low, high) else { break }
            guard let key = try firstKey(from: probe, to: high) else {
                high = probe
                failures += 1
                if failures % ReplicaStore.failuresMax == 0 { high = try endOfKeys(like: low, before: high) }
                continue
            }
            failures = 0
            let below = try approximateBytes(of: [(start, key)])[0]
            let distance = below > total / 2 ? below - total / 2 : total / 2 - below
            if distance < best?.distance ?? .max { best = (key, distance) }
            if distance <= total / 16 { break }
            if below < total / 2 { low = key } else { high = probe }
        }
        return best?.key
    }

    /// The least end of `[low, high)` that follows from how many bytes all its keys have in common with `low`.
    private func endOfKeys(like low: Bytes, before high: Bytes) throws(StateMachineError) -> Bytes {
        var (common, tooMany) = (0, low.count + 1)
        var end = high
        while tooMany - common > 1 {
            let middle = (common + tooMany) / 2
            if let next = low.slice(from: 0, count: middle).endOfPrefixed, next < high {
                if try firstKey(from: next, to: high) == nil {
                    (common, end) = (middle, next)
                } else {
                    tooMany = middle
                }
            } else {
                common = middle
            }
        }
        return end
    }

    private func firstKey(from start: Bytes, to end: Bytes) throws(StateMachineError) -> Bytes? {
        var first: Bytes?
        try scanEngine(from: start, to: end) { key in
            first = key
            return false
        }
        return first
    }

    /// The middle one of the keys, if there are few; what is not in files yet has no size.
    private func countedMiddle(from start: Bytes, to end: Bytes) throws(StateMachineError) -> Bytes? {
        var keys: [Bytes] = []
        try scanEngine(from: start, to: end) { key in
            keys.append(key)
            return keys.count <= ReplicaStore.keysMax
        }
        return keys.count > 1 && keys.count <= ReplicaStore.keysMax ? keys[keys.count / 2] : nil
    }
}

extension Bytes {
    /// Bytes between `low` and `high`, about in the middle; nil if there are none or they are hard to find.
    static func between(_ low: Bytes, _ high: Bytes) -> Bytes? {
        guard low < high else { return nil }
        var common = 0
        while common < low.count, common < high.count, low[common] == high[common] { common += 1 }
        let (bottom, top) = (low.number(at: common), high.number(at: common))
        if top > bottom, top - bottom > 1 {
            return low.slice(from: 0, count: common).followed(by: bottom + (top - bottom) / 2)
        }
        // they differ in the last of eight bytes at most: what is between them begins as `low` does
        guard top > bottom, low.count >= common + 8 else { return nil }
        let rest = low.number(at: common + 8)
        guard rest < .max else { return nil }
        return low.slice(from: 0, count: common + 8).followed(by: rest + (.max - rest) / 2 + 1)
    }

    /// The least bytes behind all that begin with these; nil if there are none.
    var endOfPrefixed: Bytes? {
        guard let last = (0..<count).last(where: { self[$0] < 0xff }) else { return nil }
        return Bytes(slice(from: 0, count: last).array + [self[last] + 1])
    }

    /// Eight bytes from `position` on, those behind the end being zero.
    private func number(at position: Int) -> UInt64 {
        var number: UInt64 = 0
        for offset in position..<position + 8 { number = number << 8 | (offset < count ? UInt64(self[offset]) : 0) }
        return number
    }

    private func followed(by number: UInt64) -> Bytes {
        ByteWriter.bytes(count + 8) { writer in
            writer.put(self)
            writer.put(number)
        }
    }
}

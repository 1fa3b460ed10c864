import RaftCore
import ShardMap

/// The user keys of a replica, their expiry, and the replicated time that decides about it.
///
/// Every key with an expiry has exactly one entry in the expiry index, written and removed together with it. An entry
/// without such a key is left over from a shard that moved away, and means nothing.
struct Keyspace {
    let store: ReplicaStore
    /// Milliseconds since 1970, as the log says; never goes back.
    private(set) var replicatedTime: Int64
    /// Entries of the expiry index.
    private(set) var expiringKeys: UInt64
    /// No expiry is earlier; spares the index a scan. Only a bound, so it decides nothing.
    private var earliestExpiry = Int64.min

    init(store: ReplicaStore, meta: MetaRecord) {
        self.store = store
        replicatedTime = meta.replicatedTime
        expiringKeys = meta.expiringKeys
    }

    // MARK: single keys

    /// What is stored under `key`, expired or not.
    func stored(_ key: Bytes) throws(StateMachineError) -> StoredValue? {
        guard let value = try store.get(store.layout.key(.data, rest: key)) else { return nil }
        return try StoredValue(stored: value)
    }

    /// What is stored under `key`, as far as it decides how to replace it: without any expiring key nothing does, and
    /// a blind write needs no read.
    func replaced(_ key: Bytes) throws(StateMachineError) -> StoredValue? {
        expiringKeys == 0 ? nil : try stored(key)
    }

    /// Stores `value`; `old` is what lies there (see ``replaced(_:)``).
    mutating func put(
        _ key: Bytes, _ value: StoredValue, replacing old: StoredValue?
    ) throws(StateMachineError) {
        store.put(store.layout.key(.data, rest: key), value.encoded)
        if value.expiry != old?.expiry {
            if let expiry = old?.expiry { try unindex(key, expiry) }
            if let expiry = value.expiry { try index(key, expiry) }
        }
    }

    /// Removes `key`; `old` is what lies there.
    mutating func delete(_ key: Bytes, _ old: StoredValue) throws(StateMachineError) {
        store.delete(store.layout.key(.data, rest: key))
        if let expiry = old.expiry { try unindex(key, expiry) }
    }

    private mutating func index(_ key: Bytes, _ expiry: Int64) throws(StateMachineError) {
        let entry = store.layout.expiryKey(expiry, key)
        // it may be there already: left behind by a shard that moved away, and with it this very key
        if try store.get(entry) == nil { expiringKeys += 1 }
        store.put(entry, Bytes([StoreFormat.current]))
        earliestExpiry = min(earliestExpiry, expiry)
    }

    private mutating func unindex(_ key: Bytes, _ expiry: Int64) throws(StateMachineError) {
        // the count comes from the store, and may be damaged
        guard expiringKeys > 0 else { throw StoreFormat.damaged(.meta) }
        store.delete(store.layout.expiryKey(expiry, key))
        expiringKeys -= 1
    }

    // MARK: ranges

    /// Visits stored keys of `[start, end)` in order, expired ones too; an empty `end` is no bound.
    func scan(
        from start: Bytes, to end: Bytes, _ visit: (Bytes, StoredValue) throws(StateMachineError) -> Bool
    ) throws(StateMachineError) {
        let layout = store.layout
        let bound = end.isEmpty ? layout.end(of: .data) : layout.key(.data, rest: end)
        try store.scan(from: layout.key(.data, rest: start), to: bound) { (key, value) throws(StateMachineError) in
            try visit(KeyLayout.rest(of: key), StoredValue(stored: value))
        }
    }

    // MARK: shards that come and go

    /// Removes every key of `range`. Their entries in the expiry index stay until they are due: an entry counts only if
    /// its key has that very expiry.
    func deleteAll(of range: KeyRange) { store.deleteRange(store.layout.dataKeys(of: range)) }

    /// Stores a key of a shard that is being staged as the source has it, or removes it.
    mutating func stage(_ key: Bytes, _ value: Bytes?) throws(StateMachineError) {
        let old = try replaced(key)
        guard let value else {
            if let old { try delete(key, old) } else { store.delete(store.layout.key(.data, rest: key)) }
            return
        }
        try put(key, StoredValue(stored: value), replacing: old)
    }

    /// Moves replicated time on to at least `time`, which a shard brought along.
    mutating func catchUp(to time: Int64) { replicatedTime = max(replicatedTime, time) }

    // MARK: time

    /// Moves replicated time on to at least `time` and removes at most `limit` keys that are expired by then; the rest
    /// counts as absent and goes with a later advance. What lies in a shard that moves is no exception: whoever gets a
    /// copy of an expired key gets the time that it is judged by, too.
    mutating func advance(to time: Int64, removingAtMost limit: Int) throws(StateMachineError) {
        replicatedTime = max(replicatedTime, time)
        guard expiringKeys > 0, earliestExpiry <= replicatedTime else { return }
        for (expiry, key) in try dueKeys(limit) {
            if try stored(key)?.expiry == expiry { store.delete(store.layout.key(.data, rest: key)) }
            try unindex(key, expiry)
        }
    }

    /// The first `limit` expired keys in the order in which they expired; notes the first expiry that lies ahead.
    private mutating func dueKeys(_ limit: Int) throws(StateMachineError) -> [(expiry: Int64, key: Bytes)] {
        var due: [(expiry: Int64, key: Bytes)] = []
        var earliest = Int64.max
        let now = replicatedTime
        // not from the index's beginning: what was removed there lies in the engine's way for a while
        let start = store.layout.key(.expiry, UInt64(max(earliestExpiry, 0)))
        try store.scan(from: start, to: store.layout.end(of: .expiry)) { (key, _) throws(StateMachineError) in
            var reader = ByteReader(key, from: KeyLayout.prefixBytes)
            guard let expiry = reader.signedNumber() else { throw StoreFormat.damaged(.expiry) }
            guard expiry <= now, due.count < limit else {
                earliest = expiry
                return false
            }
            due.append((expiry, reader.rest))
            return true
        }
        earliestExpiry = earliest
        return due
    }
}

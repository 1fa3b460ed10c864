import CRocksDB
public import RaftCore
public import ShardKV
import Synchronization

/// The store of a process: ``KeyValueEngine`` on RocksDB.
///
/// RocksDB's own log is off for every write, because the Raft log is the log; what is durable is what was flushed or
/// ingested. One column family, so a flush takes whole memtables in the order they were filled, and a crash leaves a
/// prefix of the batches. Writes, ingestions and drops come from one thread at a time for each replica number; anything
/// else from any thread, ``flush()`` too: it does not stop writers. Whoever closes it makes sure that nobody uses
/// it, or a view of it, any more.
public final class RocksEngine: KeyValueEngine, @unchecked Sendable {
    /// What may be tuned; nothing here shapes what is stored.
    public struct Settings: Sendable {
        /// How blocks on disk are compressed.
        public enum Compression: Sendable {
            /// Not at all.
            case none
            /// LZ4, from the first level on.
            case lz4
        }
        /// Bytes of uncompressed blocks kept in memory.
        public var blockCacheBytes = 128 << 20
        /// Bytes of a memtable; when one is full it is flushed in the background.
        public var memtableBytes = 64 << 20
        /// Memtables, the one written included; with all of them full, writes wait for the disk.
        public var memtables = 4
        /// Bits of the Bloom filter for each key; 10 let one absent key in a hundred reach the disk.
        public var bloomBitsPerKey = 10.0
        /// Threads' worth of flushes and compactions at a time.
        public var backgroundJobs = 2
        /// Bytes that flushes and compactions write in a second, flushes first. Who writes more than that for long
        /// waits for them in the end.
        public var backgroundBytesPerSecond = 48 << 20
        /// How blocks are compressed.
        public var compression = Compression.lz4
        /// Bytes of an exported file after which the next one begins.
        public var exportedFileBytes = 64 << 20
        /// Sensible values for many small values, written often.
        public init() {}
    }

    let directory: String
    let exportedFileBytes: Int
    /// Kept for the files of exports, which are written as the store's own are.
    let options: OpaquePointer
    /// Views that are alive.
    let viewCount = Mutex(0)
    private let readAll: OpaquePointer
    private let readDurable: OpaquePointer
    private let writing: OpaquePointer
    private let flushing: OpaquePointer
    private(set) var handle: OpaquePointer?

    /// Opens the store in `directory`, which is created if it does not exist (its parent must). Throws if files of the
    /// store are damaged as far as opening reads them; a damaged block of data is found by whoever reads it.
    public init(directory: String, settings: Settings = Settings()) throws(StateMachineError) {
        self.directory = directory
        exportedFileBytes = settings.exportedFileBytes
        let options = RocksEngine.makeOptions(settings)
        do throws(StateMachineError) {
            handle = try RocksEngine.open(directory, options)
        } catch {
            rocksdb_options_destroy(options)
            throw error
        }
        self.options = options
        readAll = RocksEngine.makeReadOptions()
        readDurable = RocksEngine.makeReadOptions()
        rocksdb_readoptions_set_read_tier(readDurable, RocksEngine.persistedTier)
        writing = rocksdb_writeoptions_create()
        rocksdb_writeoptions_disable_WAL(writing, 1)
        flushing = rocksdb_flushoptions_create()
        rocksdb_flushoptions_set_wait(flushing, 1)
    }

    deinit {
        close()
        rocksdb_options_destroy(options)
        rocksdb_readoptions_destroy(readAll)
        rocksdb_readoptions_destroy(readDurable)
        rocksdb_writeoptions_destroy(writing)
        rocksdb_flushoptions_destroy(flushing)
    }

    /// Closes the store; RocksDB flushes what is in memory if it can. Closing again does nothing, any other use after
    /// it traps.
    public func close() {
        guard let open = handle else { return }
        handle = nil
        rocksdb_close(open)
    }

    // MARK: KeyValueEngine

    /// The value of `key`.
    public func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { try get(key, readAll) }

    /// The value of `key` as of the last flush, the store's own background flushes included.
    public func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes? { try get(key, readDurable) }

    /// Applies all of `changes`, in their order, or none.
    public func write(_ changes: [EngineChange]) throws(StateMachineError) {
        guard !changes.isEmpty else { return }
        guard let batch = rocksdb_writebatch_create() else { preconditionFailure("out of memory") }
        defer { rocksdb_writebatch_destroy(batch) }
        for change in changes { RocksEngine.add(change, to: batch) }
        try checked("write") { rocksdb_write(opened, writing, batch, &$0) }
    }

    /// Visits the keys of `[start, end)` as of now, in order, until `visit` returns false; an empty `end` is no bound.
    public func scan(
        from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool
    ) throws(StateMachineError) {
        try scan(from: start, to: end, of: nil) { key, value in visit(Bytes(key), Bytes(value)) }
    }

    /// Makes everything written durable; waits for the disk.
    public func flush() throws(StateMachineError) { try checked("flush") { rocksdb_flush(opened, flushing, &$0) } }
}

extension RocksEngine {
    /// `ReadTier::kPersistedTier`: with RocksDB's log off it passes memtables by.
    private static let persistedTier: Int32 = 2
    /// `InfoLogLevel::FATAL_LEVEL`: in practice the file `LOG` stays empty.
    private static let fatalLevel: Int32 = 4
    /// Small portions: what is let through at once is what a sync of the log may have to wait for.
    private static let refillMicroseconds: Int64 = 20_000
    /// One compaction in so many goes before flushes.
    private static let fairness: Int32 = 10

    private static func makeOptions(_ settings: Settings) -> OpaquePointer {
        guard let options = rocksdb_options_create(), let table = rocksdb_block_based_options_create() else {
            preconditionFailure("out of memory")
        }
        rocksdb_options_set_create_if_missing(options, 1)
        rocksdb_options_set_paranoid_checks(options, 1)
        rocksdb_options_set_write_buffer_size(options, settings.memtableBytes)
        rocksdb_options_set_max_write_buffer_number(options, Int32(settings.memtables))
        rocksdb_options_set_max_background_jobs(options, Int32(settings.backgroundJobs))
        rocksdb_options_set_level_compaction_dynamic_level_bytes(options, 1)
        rocksdb_options_set_compression(options, settings.compression.number)
        rocksdb_options_set_bytes_per_sync(options, 1 << 20)
        // the log is on the same device, and its syncs wait behind whatever the store has sent there
        let limiter = rocksdb_ratelimiter_create(Int64(settings.backgroundBytesPerSecond), refillMicroseconds, fairness)
        rocksdb_options_set_ratelimiter(options, limiter)
        rocksdb_ratelimiter_destroy(limiter)  // the options hold it from here on
        lowerCompactions()
        // A full disk must not end the process: after a failed write of a line to its diary RocksDB aborts at the next
        // one if it was built with assertions, as Debian's is. Errors come to us anyway.
        rocksdb_options_set_info_log_level(options, RocksEngine.fatalLevel)
        rocksdb_options_set_keep_log_file_num(options, 4)

        let cache = rocksdb_cache_create_lru(settings.blockCacheBytes)
        rocksdb_block_based_options_set_block_cache(table, cache)
        rocksdb_cache_destroy(cache)  // the options hold it from here on
        rocksdb_block_based_options_set_filter_policy(
            table, rocksdb_filterpolicy_create_bloom_full(settings.bloomBitsPerKey))
        // indexes and filters count against the cache, so that memory stays bounded however much is stored
        rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1)
        rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(table, 1)
        rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1)
        rocksdb_options_set_block_based_table_factory(options, table)
        rocksdb_block_based_options_destroy(table)
        return options
    }

    /// Compactions get what processors have left: no client waits for one, and many threads for each write.
    private static func lowerCompactions() {
        let environment = rocksdb_create_default_env()  // the process has one
        rocksdb_env_lower_thread_pool_cpu_priority(environment)
        rocksdb_env_destroy(environment)
    }

    var opened: OpaquePointer {
        guard let handle else { preconditionFailure("the store in \(directory) is used after it was closed") }
        return handle
    }

    /// The value of `key` as `options` show it.
    func get(_ key: Bytes, _ options: OpaquePointer) throws(StateMachineError) -> Bytes? {
        let found = try checked("read") { error in
            key.withChars { rocksdb_get_pinned(opened, options, $0, $1, &error) }
        }
        guard let found else { return nil }
        defer { rocksdb_pinnableslice_destroy(found) }
        var count = 0
        let value = rocksdb_pinnableslice_value(found, &count)
        return Bytes(chars: value, count: count)
    }

    /// Every block that is read from disk is compared with its checksum.
    static func makeReadOptions() -> OpaquePointer {
        guard let options = rocksdb_readoptions_create() else { preconditionFailure("out of memory") }
        rocksdb_readoptions_set_verify_checksums(options, 1)
        return options
    }

    /// Visits keys as of `snapshot`, or as of now; the slices are valid during a visit only.
    func scan(
        from start: Bytes, to end: Bytes, of snapshot: OpaquePointer?, isOnce: Bool = false,
        _ visit: (KeySlice, KeySlice) -> Bool
    ) throws(StateMachineError) {
        let options = RocksEngine.makeReadOptions()
        defer { rocksdb_readoptions_destroy(options) }
        if let snapshot { rocksdb_readoptions_set_snapshot(options, snapshot) }
        if isOnce {
            // what is read once shall not push out what is read often
            rocksdb_readoptions_set_fill_cache(options, 0)
            rocksdb_readoptions_set_readahead_size(options, 1 << 20)
        }
        // RocksDB keeps the bound's pointer for as long as the iterator lives
        try end.withChars { (bound, boundBytes) throws(StateMachineError) in
            if boundBytes > 0 { rocksdb_readoptions_set_iterate_upper_bound(options, bound, boundBytes) }
            guard let iterator = rocksdb_create_iterator(opened, options) else { preconditionFailure("out of memory") }
            defer { rocksdb_iter_destroy(iterator) }
            start.withChars { rocksdb_iter_seek(iterator, $0, $1) }
            while rocksdb_iter_valid(iterator) != 0 {
                guard visit(KeySlice(iterator, rocksdb_iter_key), KeySlice(iterator, rocksdb_iter_value)) else {
                    return
                }
                rocksdb_iter_next(iterator)
            }
            try checked("scan") { rocksdb_iter_get_error(iterator, &$0) }
        }
    }

    private static func add(_ change: EngineChange, to batch: OpaquePointer) {
        switch change {
        case .put(let key, let value), .putNew(let key, let value):
            key.withChars { key, keyBytes in
                value.withChars { rocksdb_writebatch_put(batch, key, keyBytes, $0, $1) }
            }
        case .delete(let key):
            key.withChars { rocksdb_writebatch_delete(batch, $0, $1) }
        case .deleteRange(let start, let end):
            guard start < end else { return }  // an empty range is nothing here and an error there
            start.withChars { start, startBytes in
                end.withChars { rocksdb_writebatch_delete_range(batch, start, startBytes, $0, $1) }
            }
        }
    }

    func checked<R>(
        _ task: String, _ body: (inout UnsafeMutablePointer<CChar>?) -> R
    ) throws(StateMachineError) -> R {
        try RocksEngine.checked("\(task) in \(directory)", body)
    }

    /// Whether RocksDB's message means that a file, or the disk below it, does not give back what was stored. All other
    /// failures, such as too many open files, say nothing about the data.
    static func tellsOfDamage(_ message: String) -> Bool {
        message.hasPrefix("Corruption") || message.hasPrefix("IO error") && message.hasSuffix("Input/output error")
    }

    /// Runs a call of RocksDB that may leave a message behind.
    static func checked<R>(
        _ task: @autoclosure () -> String, _ body: (inout UnsafeMutablePointer<CChar>?) -> R
    ) throws(StateMachineError) -> R {
        var message: UnsafeMutablePointer<CChar>?
        let result = body(&message)
        guard let message else { return result }
        defer { rocksdb_free(message) }
        let text = String(cString: message)
        throw StateMachineError("cannot \(task()): \(text)", isDamage: RocksEngine.tellsOfDamage(text))
    }
}

extension RocksEngine.Settings.Compression {
    fileprivate var number: Int32 {
        switch self {
        case .none: Int32(rocksdb_no_compression)
        case .lz4: Int32(rocksdb_lz4_compression)
        }
    }
}

/// Bytes of RocksDB's, valid until it moves on.
struct KeySlice {
    let start: UnsafePointer<CChar>?
    let count: Int

    init(
        _ iterator: OpaquePointer,
        _ read: (OpaquePointer?, UnsafeMutablePointer<Int>?) -> UnsafePointer<CChar>?
    ) {
        var count = 0
        start = read(iterator, &count)
        self.count = count
    }
}

extension Bytes {
    init(_ slice: KeySlice) { self.init(chars: slice.start, count: slice.count) }

    init(chars: UnsafePointer<CChar>?, count: Int) {
        self.init(copying: UnsafeRawBufferPointer(start: chars, count: count))
    }

    /// The bytes as C's pointer and length; RocksDB wants a pointer even to nothing.
    func withChars<R, E: Error>(_ body: (UnsafePointer<CChar>, Int) throws(E) -> R) throws(E) -> R {
        try withUnsafeBytes { (buffer) throws(E) -> R in
            guard let base = buffer.baseAddress else {
                var nothing: CChar = 0
                return try body(&nothing, 0)
            }
            return try body(base.assumingMemoryBound(to: CChar.self), buffer.count)
        }
    }
}

import CRocksDB
import RaftCore
import ShardKV
import Synchronization

/// The store as it was: a snapshot of RocksDB's, which keeps what compactions would otherwise forget.
final class RocksView: EngineView, @unchecked Sendable {
    private let engine: RocksEngine
    private let snapshot: OpaquePointer
    private let reading: OpaquePointer

    init(_ engine: RocksEngine) {
        self.engine = engine
        engine.viewCount.withLock { $0 += 1 }
        guard let snapshot = rocksdb_create_snapshot(engine.opened) else { preconditionFailure("out of memory") }
        self.snapshot = snapshot
        reading = RocksEngine.makeReadOptions()
        rocksdb_readoptions_set_snapshot(reading, snapshot)
    }

    deinit {
        rocksdb_readoptions_destroy(reading)
        if let open = engine.handle { rocksdb_release_snapshot(open, snapshot) }
        engine.viewCount.withLock { $0 -= 1 }
    }

    func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { try engine.get(key, reading) }

    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError) {
        try engine.scan(from: start, to: end, of: snapshot, isOnce: true) { visit(Bytes($0), Bytes($1)) }
    }

    func export(
        _ replica: UInt64, as number: UInt64, into folder: any SnapshotFolder
    ) throws(StateMachineError) -> any SnapshotWriter {
        TableExport(
            of: replica, in: self, writing: try TableFiles(number: number, folder: folder, engine: engine))
    }

    /// Visits keys of `[start, end)` without a copy of each.
    fileprivate func visit(
        from start: Bytes, to end: Bytes, _ body: (KeySlice, KeySlice) -> Bool
    ) throws(StateMachineError) {
        try engine.scan(from: start, to: end, of: snapshot, isOnce: true, body)
    }
}

/// Writes every key of a replica in a view, under a new number.
private final class TableExport: SnapshotWriter, @unchecked Sendable {
    private let end: Bytes
    private let view: RocksView
    private let files: TableFiles
    /// The next key to write.
    private var next: Bytes

    init(of replica: UInt64, in view: RocksView, writing files: TableFiles) {
        end = ReplicaKeys.end(of: replica)
        next = ReplicaKeys.start(of: replica)
        self.view = view
        self.files = files
    }

    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep {
        var written = 0
        var rest: Bytes?
        var failure: StateMachineError?
        try view.visit(from: next, to: end) { key, value in
            guard written < bytes else {
                rest = Bytes(key)
                return false
            }
            do throws(StateMachineError) {
                try files.add(key, value)
                written += key.count + value.count
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
        if let rest { next = rest } else { try files.finish() }
        return SnapshotStep(bytes: written, isLast: rest == nil)
    }
}

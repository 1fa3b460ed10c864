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
    ) throws(StateMachineError) {
        let files = try TableFiles(number: number, folder: folder, engine: engine)
        var failure: StateMachineError?
        let (start, end) = (ReplicaKeys.start(of: replica), ReplicaKeys.end(of: replica))
        try engine.scan(from: start, to: end, of: snapshot, isOnce: true) { key, value in
            do throws(StateMachineError) {
                try files.add(key, value)
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
        try files.finish()
    }
}

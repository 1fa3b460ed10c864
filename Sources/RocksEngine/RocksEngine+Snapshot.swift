import CRocksDB
import Glibc
public import RaftCore
public import ShardKV
import Synchronization

// Replicas come and go as files: the cost is of their data, not of the store.

extension RocksEngine {
    /// The store as it is now: a snapshot of RocksDB's.
    public func freeze() throws(StateMachineError) -> any EngineView { RocksView(self) }

    /// Takes in SST files that a view of a RocksDB store exported as `number`, after comparing every byte with their
    /// hashes. They are moved (linked), so the folder should lie in the store's file system; one entry of RocksDB's
    /// manifest, which is synced, takes in all of them.
    public func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        guard let source = folder.directory else {
            throw StateMachineError("a RocksDB store takes snapshots from a folder in the file system only")
        }
        let exported = try ExportedFiles(folder, kind: .sortedTables, number: number)
        for file in exported.files.indices { _ = try exported.contents(of: file, in: folder) }
        guard try firstNumber(from: ReplicaKeys.start(of: number)) != number else {
            throw StateMachineError("replica number \(number) is in use already in \(directory)")
        }
        let options = rocksdb_ingestexternalfileoptions_create()
        defer { rocksdb_ingestexternalfileoptions_destroy(options) }
        rocksdb_ingestexternalfileoptions_set_move_files(options, 1)
        // nobody has ever looked at the number, so views need no protection, and files no rewriting for their sake
        rocksdb_ingestexternalfileoptions_set_snapshot_consistency(options, 0)
        rocksdb_ingestexternalfileoptions_set_allow_global_seqno(options, 1)
        var paths = exported.files.indices.map {
            strdup("\(source)/\(exported.name(of: $0))").map { UnsafePointer($0) }
        }
        defer { for path in paths { free(UnsafeMutableRawPointer(mutating: path)) } }
        let count = paths.count
        try checked("take in a snapshot from \(source)") {
            rocksdb_ingest_external_file(opened, &paths, count, options, &$0)
        }
    }

    /// Removes every key of `number`: deletes files that hold nothing else at once, unless there is a view, which may
    /// need them, and hides the rest behind one mark, for compactions to remove.
    ///
    /// In this order, for after a compaction that met a damaged block RocksDB refuses the mark, but not to delete the
    /// damaged file.
    public func drop(_ number: UInt64) throws(StateMachineError) {
        let (start, end) = (ReplicaKeys.start(of: number), ReplicaKeys.end(of: number))
        try viewCount.withLock { (count) throws(StateMachineError) in
            guard count == 0 else { return }
            try checked("delete files") { error in
                start.withChars { start, startBytes in
                    end.withChars { rocksdb_delete_file_in_range(opened, start, startBytes, $0, $1, &error) }
                }
            }
        }
        try write([.deleteRange(start, end)])
    }

    /// The replica numbers under which there are keys, ascending; one seek each.
    public func numbers() throws(StateMachineError) -> [UInt64] {
        let options = RocksEngine.makeReadOptions()
        defer { rocksdb_readoptions_destroy(options) }
        guard let iterator = rocksdb_create_iterator(opened, options) else { preconditionFailure("out of memory") }
        defer { rocksdb_iter_destroy(iterator) }
        var numbers: [UInt64] = []
        rocksdb_iter_seek_to_first(iterator)
        while rocksdb_iter_valid(iterator) != 0 {
            guard let number = ReplicaKeys.number(of: Bytes(KeySlice(iterator, rocksdb_iter_key))) else {
                rocksdb_iter_next(iterator)
                continue
            }
            numbers.append(number)
            ReplicaKeys.end(of: number).withChars { rocksdb_iter_seek(iterator, $0, $1) }
        }
        try checked("list the replicas") { rocksdb_iter_get_error(iterator, &$0) }
        return numbers
    }

    private func firstNumber(from start: Bytes) throws(StateMachineError) -> UInt64? {
        var first: UInt64?
        try scan(from: start, to: Bytes()) { key, _ in
            first = ReplicaKeys.number(of: key)
            return first == nil
        }
        return first
    }
}

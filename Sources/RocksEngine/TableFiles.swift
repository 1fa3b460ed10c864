import CRocksDB
import RaftCore
import ShardKV

/// Writes the SST files of an export. All keys come in ascending order and from one replica.
final class TableFiles {
    private let folder: any SnapshotFolder
    private let directory: String
    private let engine: RocksEngine
    private let writer: OpaquePointer
    private let environment: OpaquePointer
    private var exported: ExportedFiles
    private var isFileOpen = false
    /// The key of the pair being added; its first bytes are always the new number's.
    private var key: [CChar]

    init(number: UInt64, folder: any SnapshotFolder, engine: RocksEngine) throws(StateMachineError) {
        guard let directory = folder.directory else {
            throw StateMachineError("a snapshot of a RocksDB store needs a folder in the file system")
        }
        self.folder = folder
        self.directory = directory
        self.engine = engine
        exported = ExportedFiles(kind: .sortedTables, number: number)
        key = ReplicaKeys.start(of: number).array.map { CChar(bitPattern: $0) }
        environment = rocksdb_envoptions_create()
        writer = rocksdb_sstfilewriter_create(environment, engine.options)
    }

    deinit {
        rocksdb_sstfilewriter_destroy(writer)
        rocksdb_envoptions_destroy(environment)
    }

    private var path: String { directory + "/" + exported.nextName }

    /// Adds a pair under the new number.
    func add(_ oldKey: KeySlice, _ value: KeySlice) throws(StateMachineError) {
        if !isFileOpen {
            let path = path
            try engine.checked("open \(path) to export") { rocksdb_sstfilewriter_open(writer, path, &$0) }
            isFileOpen = true
        }
        key.removeSubrange(ReplicaKeys.prefixBytes...)
        key.append(
            contentsOf: UnsafeBufferPointer(start: oldKey.start, count: oldKey.count)[ReplicaKeys.prefixBytes...])
        try engine.checked("export") { error in
            rocksdb_sstfilewriter_put(writer, key, key.count, value.start, value.count, &error)
        }
        exported.keys += 1
        var bytes: UInt64 = 0
        rocksdb_sstfilewriter_file_size(writer, &bytes)
        if bytes >= UInt64(engine.exportedFileBytes) { try finishFile() }
    }

    /// Ends the export with the list of its files.
    func finish() throws(StateMachineError) {
        guard exported.keys > 0 else { throw StateMachineError("there is nothing to export from \(engine.directory)") }
        if isFileOpen { try finishFile() }
        try exported.write(to: folder)
    }

    private func finishFile() throws(StateMachineError) {
        try engine.checked("finish \(path) of an export") { rocksdb_sstfilewriter_finish(writer, &$0) }
        isFileOpen = false
        try exported.addNext(of: folder)
    }
}

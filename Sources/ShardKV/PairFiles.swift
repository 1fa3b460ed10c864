import RaftCore

/// The files of a memory engine's export: pairs one after the other, ascending by key.
///
///     length of the key (4)  length of the value (4)  key  value
///
/// Numbers are big-endian. Hashes are in the list of files.
struct PairFiles {
    /// Bytes after which a new file begins.
    private static let fileBytes = 16 << 20
    /// Bytes handed to the folder at once.
    private static let pieceBytes = 1 << 20

    private let folder: any SnapshotFolder
    private var exported: ExportedFiles
    private var piece: [UInt8] = []
    private var bytesOfFile = 0

    init(number: UInt64, folder: any SnapshotFolder) {
        self.folder = folder
        exported = ExportedFiles(kind: .pairs, number: number)
    }

    /// Ends the export of `replica` with the list of files.
    mutating func finish(_ replica: UInt64) throws(StateMachineError) {
        guard exported.keys > 0 else { throw StateMachineError("there is nothing under replica number \(replica)") }
        try finishFile()
        try exported.write(to: folder)
    }

    /// Adds a pair under the new number; `rest` is its key without the old one.
    mutating func add(_ rest: Bytes, _ value: Bytes) throws(StateMachineError) {
        let keyBytes = ReplicaKeys.prefixBytes + rest.count
        let head = ByteWriter.bytes(8 + ReplicaKeys.prefixBytes) { writer in
            writer.put(UInt32(keyBytes))
            writer.put(UInt32(value.count))
            writer.put(exported.number)
        }
        for part in [head, rest, value] { part.withUnsafeBytes { piece.append(contentsOf: $0) } }
        exported.keys += 1
        if piece.count >= PairFiles.pieceBytes { try flushPiece() }
        if bytesOfFile >= PairFiles.fileBytes { try finishFile() }
    }

    private mutating func flushPiece() throws(StateMachineError) {
        try folder.append(Bytes(piece), to: exported.nextName)
        bytesOfFile += piece.count
        piece.removeAll(keepingCapacity: true)
    }

    private mutating func finishFile() throws(StateMachineError) {
        if !piece.isEmpty { try flushPiece() }
        guard bytesOfFile > 0 else { return }
        try exported.addNext(of: folder)
        bytesOfFile = 0
    }

    /// Every pair in `folder`, ascending; throws unless all are there and as they were written.
    static func read(
        _ folder: any SnapshotFolder, number: UInt64
    ) throws(StateMachineError) -> [(key: Bytes, value: Bytes)] {
        let exported = try ExportedFiles(folder, kind: .pairs, number: number)
        var pairs: [(key: Bytes, value: Bytes)] = []
        for file in exported.files.indices {
            var reader = ByteReader(try exported.contents(of: file, in: folder))
            while !reader.isAtEnd {
                guard let keyBytes = reader.shortNumber(), let valueBytes = reader.shortNumber(),
                    let key = reader.bytes(Int(keyBytes)), let value = reader.bytes(Int(valueBytes)),
                    ReplicaKeys.number(of: key) == number
                else { throw StateMachineError("the snapshot's file \(exported.name(of: file)) is damaged") }
                // memory of its own: a small value must not keep the file alive
                pairs.append((key.compacted, value.compacted))
            }
        }
        guard UInt64(pairs.count) == exported.keys else {
            throw StateMachineError("the snapshot has \(pairs.count) keys of \(exported.keys)")
        }
        return pairs
    }
}

/// Writes every key of a replica in a map, under a new number.
final class PairExport: SnapshotWriter, @unchecked Sendable {
    private let replica: UInt64
    private let map: SortedBytesMap
    private var files: PairFiles
    /// The next key to write.
    private var next: Bytes

    init(of replica: UInt64, in map: SortedBytesMap, as number: UInt64, into folder: any SnapshotFolder) {
        self.replica = replica
        self.map = map
        files = PairFiles(number: number, folder: folder)
        next = ReplicaKeys.start(of: replica)
    }

    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep {
        var written = 0
        var rest: Bytes?
        var failure: StateMachineError?
        map.visit(from: next, to: ReplicaKeys.end(of: replica)) { key, value in
            guard written < bytes else {
                rest = key
                return false
            }
            if planted("session-table-lost-in-a-snapshot"), KeyLayout.isOfSessionTable(key) { return true }
            do throws(StateMachineError) {
                try files.add(key.suffix(from: ReplicaKeys.prefixBytes), value)
                written += key.count + value.count
                return true
            } catch {
                failure = error
                return false
            }
        }
        if let failure { throw failure }
        if let rest { next = rest } else { try files.finish(replica) }
        return SnapshotStep(bytes: written, isLast: rest == nil)
    }
}

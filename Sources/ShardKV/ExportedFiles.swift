public import RaftCore

/// What an export wrote: the file ``fileName`` of the folder, written last. A folder without it is no export.
///
///     format (1)  kind (1)  replica number (8)  keys (8)  files (4)
///     for each file: bytes (8)  hash (8)
///     hash of everything before (8)
///
/// Numbers are big-endian; the hash is a ``RaftCore/RollingHash`` of all bytes at once. The files are called `000001`,
/// `000002`, …, with the ending of their kind; other files of the folder are not the export's.
public struct ExportedFiles: Equatable, Sendable {
    /// How the files hold the keys.
    public enum Kind: UInt8, Sendable {
        /// RocksDB's SST files.
        case sortedTables = 1
        /// Pairs one after the other, as ``MemoryEngine`` writes them.
        case pairs = 2

        fileprivate var ending: String {
            switch self {
            case .sortedTables: ".sst"
            case .pairs: ".pairs"
            }
        }
    }

    /// One file.
    public struct File: Equatable, Sendable {
        /// Its length.
        public var bytes: UInt64
        /// Of its bytes.
        public var hash: UInt64
    }

    /// The name of this list's own file.
    public static let fileName = "STORE"
    /// Format of the list and of what it lists.
    static let format: UInt8 = 1

    /// How the files hold the keys.
    public let kind: Kind
    /// The replica that the keys belong to.
    public let number: UInt64
    /// Keys in all files.
    public var keys: UInt64 = 0
    /// In the order of their keys.
    public private(set) var files: [File] = []

    /// An export without files.
    public init(kind: Kind, number: UInt64) {
        self.kind = kind
        self.number = number
    }

    /// The name of the file at `position` in ``files``, which may be the next one.
    public func name(of position: Int) -> String {
        let number = String(position + 1)
        return String(repeating: "0", count: max(0, 6 - number.utf8.count)) + number + kind.ending
    }

    /// The name of the file that will be added next.
    public var nextName: String { name(of: files.count) }

    /// Adds the file ``nextName`` of `folder`, which is complete; reads it once.
    public mutating func addNext(of folder: any SnapshotFolder) throws(StateMachineError) {
        let contents = try folder.contents(of: nextName)
        files.append(File(bytes: UInt64(contents.count), hash: ExportedFiles.hash(contents)))
    }

    /// Writes the list; the export is complete.
    public func write(to folder: any SnapshotFolder) throws(StateMachineError) {
        let list = ByteWriter.bytes(22 + 16 * files.count) { writer in
            writer.put(ExportedFiles.format)
            writer.put(kind.rawValue)
            writer.put(number)
            writer.put(keys)
            writer.put(UInt32(files.count))
            for file in files {
                writer.put(file.bytes)
                writer.put(file.hash)
            }
        }
        try folder.append(list, to: ExportedFiles.fileName)
        try folder.append(ByteWriter.bytes(8) { $0.put(ExportedFiles.hash(list)) }, to: ExportedFiles.fileName)
    }

    /// Reads the list of `folder`; throws unless it is whole and one of `kind` for `number`.
    public init(_ folder: any SnapshotFolder, kind: Kind, number: UInt64) throws(StateMachineError) {
        guard try folder.fileNames().contains(ExportedFiles.fileName) else {
            throw StateMachineError("the snapshot is not complete: it has no file \(ExportedFiles.fileName)")
        }
        let contents = try folder.contents(of: ExportedFiles.fileName)
        let damaged = StateMachineError("the snapshot's file \(ExportedFiles.fileName) is damaged")
        guard contents.count >= 8 else { throw damaged }
        var trailer = ByteReader(contents, from: contents.count - 8)
        guard let hash = trailer.number() else { throw damaged }
        let list = contents.slice(from: 0, count: contents.count - 8)
        guard ExportedFiles.hash(list) == hash else { throw damaged }
        var reader = ByteReader(list)
        guard let format = reader.byte() else { throw damaged }
        guard format <= ExportedFiles.format else {
            throw StateMachineError(
                "the snapshot has format \(format), this version reads up to \(ExportedFiles.format); upgrade")
        }
        guard let writtenKind = reader.byte(), let writtenNumber = reader.number(), let keys = reader.number(),
            let count = reader.shortNumber()
        else { throw damaged }
        guard writtenKind == kind.rawValue else {
            throw StateMachineError(
                "the snapshot's files are of kind \(writtenKind) and this store takes kind \(kind.rawValue): "
                    + "members of a group need stores of one kind")
        }
        guard writtenNumber == number else {
            throw StateMachineError("the snapshot was written for replica number \(writtenNumber), not \(number)")
        }
        self.kind = kind
        self.number = number
        self.keys = keys
        for _ in 0..<count {
            guard let bytes = reader.number(), let hash = reader.number() else { throw damaged }
            files.append(File(bytes: bytes, hash: hash))
        }
        guard reader.isAtEnd else { throw damaged }
    }

    /// The contents of the file at `position` in `folder`; throws unless they are what was written.
    public func contents(of position: Int, in folder: any SnapshotFolder) throws(StateMachineError) -> Bytes {
        let (file, name) = (files[position], name(of: position))
        let contents = try folder.contents(of: name)
        guard UInt64(contents.count) == file.bytes, ExportedFiles.hash(contents) == file.hash else {
            throw StateMachineError(
                "the snapshot's file \(name) is damaged: it has \(contents.count) bytes of \(file.bytes), or other ones"
            )
        }
        return contents
    }

    static func hash(_ bytes: Bytes) -> UInt64 {
        var hash = RollingHash()
        hash.combine(bytes)
        return hash.value
    }
}

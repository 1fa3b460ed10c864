public import RaftCore

/// Folders for snapshots on a disk, each with a name.
///
/// Any thread; a folder belongs to one thread at a time.
public final class SnapshotStore: Sendable {
    private let disk: any Disk

    /// The folders in `disk`, which holds nothing else.
    public init(disk: any Disk) { self.disk = disk }

    /// Names of the folders there are, ascending.
    public func names() throws(StateMachineError) -> [String] {
        do throws(DiskError) { return try disk.folders() } catch { throw StateMachineError(error.description) }
    }

    /// An empty folder; one of that name is removed first.
    public func makeFolder(_ name: String) throws(StateMachineError) -> StoredFolder {
        do throws(DiskError) {
            try disk.removeFolder(name)
            return StoredFolder(disk: try disk.folder(name), parent: disk)
        } catch {
            throw StateMachineError(error.description)
        }
    }

    /// The folder of that name, created if missing.
    public func folder(_ name: String) throws(StateMachineError) -> StoredFolder {
        do throws(DiskError) {
            return StoredFolder(disk: try disk.folder(name), parent: disk)
        } catch {
            throw StateMachineError(error.description)
        }
    }

    /// Bytes free on the device.
    public func freeBytes() throws(StateMachineError) -> Int {
        do throws(DiskError) { return try disk.freeBytes() } catch { throw StateMachineError(error.description) }
    }

    /// Removes a folder with everything in it; one that does not exist is none.
    public func remove(_ name: String) throws(StateMachineError) {
        do throws(DiskError) { try disk.removeFolder(name) } catch { throw StateMachineError(error.description) }
    }
}

/// A folder of a ``SnapshotStore``. What is written is durable after ``sync()``.
public final class StoredFolder: SnapshotFolder, @unchecked Sendable {
    /// A file as a receiver must find it.
    public struct File: Equatable, Sendable {
        /// Its name.
        public var name: String
        /// Bytes in it.
        public var byteCount: Int
        /// CRC32C of all of them.
        public var checksum: UInt32

        /// A file.
        public init(name: String, byteCount: Int, checksum: UInt32) {
            self.name = name
            self.byteCount = byteCount
            self.checksum = checksum
        }

        /// Whether name, size and checksum are the same; the name by its bytes.
        public static func == (one: File, other: File) -> Bool {
            FileNames.areSame(one.name, other.name) && one.byteCount == other.byteCount
                && one.checksum == other.checksum
        }
    }

    /// The one of `files` with that name.
    public static func file(_ name: String, of files: [File]) -> File? {
        files.first { FileNames.areSame($0.name, name) }
    }

    private let disk: any Disk
    private let parent: any Disk
    /// So many files of it are open at a time: a snapshot of thousands must not take the descriptors that the log needs.
    private static let openFilesMax = 8
    /// A name as the file system tells it from others: two strings may be equal and their bytes not.
    private typealias Key = [UInt8]
    /// Open files, the one that was used last at the end.
    private var files: [(key: Key, file: any DiskFile)] = []
    /// Of the open ones, those that were written since they were synced.
    private var written: Set<Key> = []
    /// Of files that were only appended to, and here from their first byte on.
    private var appended: [Key: (byteCount: Int, checksum: Checksum)] = [:]

    private static func key(_ name: String) -> Key { Array(name.utf8) }

    init(disk: any Disk, parent: any Disk) {
        self.disk = disk
        self.parent = parent
    }

    deinit { for (_, file) in files { file.close() } }

    /// The folder in the file system, if there is one.
    public var directory: String? { disk.directory }

    /// Names of its files, ascending.
    public func fileNames() throws(StateMachineError) -> [String] {
        try checked { () throws(DiskError) in try disk.list() }
    }

    /// Adds `bytes` to the end of a file, which is created if missing.
    public func append(_ bytes: Bytes, to name: String) throws(StateMachineError) {
        try checked { () throws(DiskError) in
            let file = try file(name, isCreated: true)
            let size = try file.size()
            written.insert(StoredFolder.key(name))
            try StoredFolder.write(bytes, to: file, at: size)
            note(bytes, appendedTo: name, at: size)
        }
    }

    private func note(_ bytes: Bytes, appendedTo name: String, at size: Int) {
        let key = StoredFolder.key(name)
        var known = appended.removeValue(forKey: key) ?? (0, Checksum())
        guard known.byteCount == size else { return }
        known.byteCount += bytes.count
        bytes.withUnsafeBytes { known.checksum.update($0) }
        appended[key] = known
    }

    /// Writes `bytes` into a file, which is created if missing, at `offset`.
    public func write(_ bytes: Bytes, to name: String, at offset: Int) throws(StateMachineError) {
        let key = StoredFolder.key(name)
        appended[key] = nil
        try checked { () throws(DiskError) in
            let file = try file(name, isCreated: true)
            written.insert(key)
            try StoredFolder.write(bytes, to: file, at: offset)
        }
    }

    /// Everything in a file.
    public func contents(of name: String) throws(StateMachineError) -> Bytes {
        try checked { () throws(DiskError) in
            let file = try file(name, isCreated: false)
            return try StoredFolder.read(file, at: 0, count: try file.size())
        }
    }

    /// Up to `count` bytes of a file from `offset` on; fewer only at its end.
    public func read(_ name: String, at offset: Int, count: Int) throws(StateMachineError) -> Bytes {
        try checked { () throws(DiskError) in
            let file = try file(name, isCreated: false)
            return try StoredFolder.read(file, at: offset, count: max(0, min(count, try file.size() - offset)))
        }
    }

    /// All files with their sizes and checksums, ascending by name. Reads those that were not written here by appending.
    public func inventory() throws(StateMachineError) -> [File] {
        var inventory = try FolderInventory(of: self)
        while try !inventory.advance(about: 1 << 20) {}
        return inventory.files
    }

    /// A file's size, and its checksum if that came about when it was written.
    fileprivate func known(_ name: String) throws(StateMachineError) -> (byteCount: Int, checksum: UInt32?) {
        let size = try checked { () throws(DiskError) in try file(name, isCreated: false).size() }
        let known = appended[StoredFolder.key(name)]
        return (size, known?.byteCount == size ? known?.checksum.value : nil)
    }

    /// Makes everything in it durable, and the folder itself.
    public func sync() throws(StateMachineError) {
        for name in try fileNames() { try sync(name) }
        try syncDirectory()
    }

    /// Makes what is in one file durable.
    public func sync(_ name: String) throws(StateMachineError) {
        try checked { () throws(DiskError) in
            try file(name, isCreated: false).sync()
            written.remove(StoredFolder.key(name))
        }
    }

    /// Makes durable that the folder is there, and which files it has.
    public func syncDirectory() throws(StateMachineError) {
        try checked { () throws(DiskError) in
            try disk.syncDirectory()
            try parent.syncDirectory()
        }
    }

    private func file(_ name: String, isCreated: Bool) throws(DiskError) -> any DiskFile {
        let key = StoredFolder.key(name)
        if let position = files.lastIndex(where: { $0.key == key }) {
            if position < files.count - 1 { files.append(files.remove(at: position)) }
            return files[files.count - 1].file
        }
        if files.count >= StoredFolder.openFilesMax {
            // a failure to write back is told to who has the file open
            if written.remove(files[0].key) != nil { try files[0].file.sync() }
            files.removeFirst().file.close()
        }
        let file = isCreated && !disk.exists(name) ? try disk.create(name) : try disk.open(name)
        files.append((key, file))
        return file
    }

    private static func write(_ bytes: Bytes, to file: any DiskFile, at offset: Int) throws(DiskError) {
        try bytes.withUnsafeBytes { (buffer) throws(DiskError) in try file.write([buffer], at: offset) }
    }

    private static func read(_ file: any DiskFile, at offset: Int, count: Int) throws(DiskError) -> Bytes {
        guard count > 0 else { return Bytes() }
        var done = 0
        var failure: DiskError?
        let bytes = Bytes(count: count) { buffer in
            do throws(DiskError) { done = try file.read(into: buffer, at: offset) } catch { failure = error }
            // what is missing is zero, and the checksum tells
            for position in done..<count { buffer[position] = 0 }
        }
        if let failure { throw failure }
        return done == count ? bytes : bytes.slice(from: 0, count: done)
    }

    private func checked<R>(_ body: () throws(DiskError) -> R) throws(StateMachineError) -> R {
        do throws(DiskError) { return try body() } catch { throw StateMachineError(error.description) }
    }
}

/// Sizes and checksums of a folder's files, found a part at a time: whoever shares the thread waits for no more than that.
public struct FolderInventory: Sendable {
    /// A file being read.
    private struct Reading {
        var name: String
        var byteCount: Int
        var offset = 0
        var checksum = Checksum()
    }

    /// What is read at once.
    private static let pieceBytes = 1 << 20

    /// Those that were looked at, ascending by name.
    public private(set) var files: [StoredFolder.File] = []
    private let folder: StoredFolder
    /// The next one last.
    private var names: [String]
    private var reading: Reading?

    /// Looks at all that `folder` has now.
    public init(of folder: StoredFolder) throws(StateMachineError) {
        self.folder = folder
        names = try folder.fileNames().reversed()
    }

    /// Reads about `bytes` more, or looks at all that need not be read; true when nothing is left.
    public mutating func advance(about bytes: Int) throws(StateMachineError) -> Bool {
        var left = bytes
        while left > 0 {
            guard var current = reading else {
                guard let name = names.popLast() else { return true }
                let known = try folder.known(name)
                if let checksum = known.checksum {
                    files.append(StoredFolder.File(name: name, byteCount: known.byteCount, checksum: checksum))
                } else {
                    reading = Reading(name: name, byteCount: known.byteCount)
                }
                continue
            }
            let piece = try folder.read(
                current.name, at: current.offset, count: min(FolderInventory.pieceBytes, left))
            piece.withUnsafeBytes { current.checksum.update($0) }
            current.offset += piece.count
            left -= piece.count
            reading = current
            // one that has become shorter ends where it ends, and its checksum tells
            guard piece.isEmpty || current.offset >= current.byteCount else { continue }
            reading = nil
            files.append(
                StoredFolder.File(
                    name: current.name, byteCount: current.byteCount, checksum: current.checksum.value))
        }
        return names.isEmpty && reading == nil
    }
}

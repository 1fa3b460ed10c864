import Glibc
import RaftCore

/// A directory of the real file system.
///
/// Any thread may use it; what the protocol says of one file holds per file.
public final class PosixDisk: Disk {
    /// The directory.
    public let path: String
    private let descriptor: Int32
    /// Holds the lock for as long as it is open; -1 without a lock.
    private let lock: Int32
    /// How existing files are opened.
    private let access: Int32

    /// Opens `directory`, creating it and its parents if they do not exist. With `lockName`, takes a lock of that
    /// name for as long as this object lives, or throws ``DiskError/locked(path:)``: two processes never share a
    /// directory. The lock does not survive the process.
    public init(directory path: String, lockName: String? = nil) throws(DiskError) {
        try PosixDisk.createDirectory(path)
        let descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw DiskError("open", path) }
        do throws(DiskError) {
            lock = if let lockName { try PosixDisk.lock(lockName, in: descriptor, path) } else { -1 }
        } catch {
            Glibc.close(descriptor)
            throw error
        }
        self.path = path
        self.descriptor = descriptor
        access = O_RDWR
    }

    /// Opens an existing directory for reading only: nothing is created, and files that are opened cannot be written.
    public init(reading path: String) throws(DiskError) {
        descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw DiskError("open", path) }
        self.path = path
        lock = -1
        access = O_RDONLY
    }

    deinit {
        if lock >= 0 { Glibc.close(lock) }
        Glibc.close(descriptor)
    }

    /// Opens an existing file for reading and writing.
    public func open(_ name: String) throws(DiskError) -> any DiskFile { try open(name, flags: access) }

    /// Creates a file, which must not exist.
    public func create(_ name: String) throws(DiskError) -> any DiskFile {
        try open(name, flags: O_RDWR | O_CREAT | O_EXCL)
    }

    /// Whether the file exists.
    public func exists(_ name: String) -> Bool { faccessat(descriptor, name, F_OK, 0) == 0 }

    /// Names of all regular files, ascending.
    public func list() throws(DiskError) -> [String] { try names(ofKind: S_IFREG) }

    private func names(ofKind kind: mode_t) throws(DiskError) -> [String] {
        // a descriptor of its own: closedir closes it, and a position is shared between duplicates
        let descriptor = openat(self.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw DiskError("open", path) }
        guard let stream = fdopendir(descriptor) else {
            let error = DiskError("fdopendir", path)
            Glibc.close(descriptor)
            throw error
        }
        defer { closedir(stream) }
        var names: [String] = []
        errno = 0
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            var status = stat()
            if name != ".", name != "..", fstatat(self.descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0,
                status.st_mode & S_IFMT == kind
            {
                names.append(name)
            }
            errno = 0
        }
        guard errno == 0 else { throw DiskError("readdir", path) }
        return names.sorted(by: FileNames.areAscending)
    }

    /// Renames atomically, replacing the target.
    public func rename(_ from: String, to: String) throws(DiskError) {
        guard renameat(descriptor, from, descriptor, to) == 0 else { throw DiskError("rename", "\(path)/\(from)") }
    }

    /// Removes a file.
    public func remove(_ name: String) throws(DiskError) {
        guard unlinkat(descriptor, name, 0) == 0 else { throw DiskError("unlink", "\(path)/\(name)") }
    }

    /// Makes creations, renames and removals durable.
    public func syncDirectory() throws(DiskError) {
        guard fsync(descriptor) == 0 else { throw DiskError("fsync", path) }
    }

    /// Bytes free on the device for processes without privileges.
    public func freeBytes() throws(DiskError) -> Int {
        var status = statvfs()
        guard fstatvfs(descriptor, &status) == 0 else { throw DiskError("fstatvfs", path) }
        return Int(clamping: status.f_bavail.multipliedReportingOverflow(by: UInt(status.f_frsize)).partialValue)
    }

    /// ``path``.
    public var directory: String? { path }

    /// A directory in this one, created if missing.
    public func folder(_ name: String) throws(DiskError) -> any Disk { try PosixDisk(directory: "\(path)/\(name)") }

    /// Names of all directories in this one, ascending.
    public func folders() throws(DiskError) -> [String] { try names(ofKind: S_IFDIR) }

    /// Removes a directory with everything in it; directories and regular files, nothing else.
    public func removeFolder(_ name: String) throws(DiskError) {
        guard faccessat(descriptor, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 else { return }
        let folder = try PosixDisk(directory: "\(path)/\(name)")
        for inner in try folder.folders() { try folder.removeFolder(inner) }
        for file in try folder.list() { try folder.remove(file) }
        guard unlinkat(descriptor, name, AT_REMOVEDIR) == 0 else { throw DiskError("rmdir", "\(path)/\(name)") }
    }

    private func open(_ name: String, flags: Int32) throws(DiskError) -> any DiskFile {
        let file = "\(path)/\(name)"
        let descriptor = openat(self.descriptor, name, flags | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw DiskError("open", file) }
        return PosixFile(descriptor: descriptor, path: file)
    }

    private static func lock(_ name: String, in directory: Int32, _ path: String) throws(DiskError) -> Int32 {
        let descriptor = openat(directory, name, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw DiskError("open", "\(path)/\(name)") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let error = errno == EWOULDBLOCK ? DiskError.locked(path: path) : DiskError("flock", "\(path)/\(name)")
            Glibc.close(descriptor)
            throw error
        }
        return descriptor
    }

    /// Creates a directory and its missing parents, each durable in the one above.
    private static func createDirectory(_ path: String) throws(DiskError) {
        guard mkdir(path, 0o755) != 0 else { return try syncParent(of: path) }
        switch errno {
        case EEXIST:
            return
        case ENOENT:
            guard let parent = parent(of: path) else { throw DiskError("mkdir", path) }
            try createDirectory(parent)
            guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw DiskError("mkdir", path) }
            try syncParent(of: path)
        default:
            throw DiskError("mkdir", path)
        }
    }

    /// The directory that `path` is in; nil if it is the root or the working directory itself.
    private static func parent(of path: String) -> String? {
        var path = Substring(path)
        while path.last == "/" { path.removeLast() }
        guard let slash = path.lastIndex(of: "/") else { return path.isEmpty ? nil : "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private static func syncParent(of path: String) throws(DiskError) {
        guard let parent = parent(of: path) else { return }
        let descriptor = Glibc.open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw DiskError("open", parent) }
        defer { Glibc.close(descriptor) }
        guard fsync(descriptor) == 0 else { throw DiskError("fsync", parent) }
    }
}

/// A file of a ``PosixDisk``. Reading and writing are positioned, so any thread may read while one writes.
final class PosixFile: DiskFile, @unchecked Sendable {
    /// Linux's IOV_MAX: no more buffers than this in one call.
    private static let buffersMax = 1024

    private let path: String
    /// -1 when closed.
    private var descriptor: Int32

    fileprivate init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit { close() }

    func size() throws(DiskError) -> Int {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw DiskError("fstat", path) }
        return Int(status.st_size)
    }

    func write(_ buffers: [UnsafeRawBufferPointer], at offset: Int) throws(DiskError) {
        let isWritten = PosixFile.write(buffers, at: offset) { vectors, count, offset in
            pwritev(descriptor, vectors, count, off_t(offset))
        }
        guard isWritten else { throw DiskError("pwritev", path) }
    }

    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(DiskError) -> Int {
        var done = 0
        while done < buffer.count {
            let count = pread(descriptor, buffer.baseAddress! + done, buffer.count - done, off_t(offset + done))
            if count == 0 { break }
            guard count > 0 else {
                if errno == EINTR { continue }
                throw DiskError("pread", path)
            }
            done += count
        }
        return done
    }

    func sync() throws(DiskError) {
        guard fdatasync(descriptor) == 0 else { throw DiskError("fdatasync", path) }
    }

    func preallocate(_ count: Int) throws(DiskError) {
        var result = posix_fallocate(descriptor, 0, off_t(count))
        while result == EINTR { result = posix_fallocate(descriptor, 0, off_t(count)) }
        guard result == 0 else { throw DiskError("posix_fallocate", path, errno: result) }
    }

    func truncate(to count: Int) throws(DiskError) {
        while ftruncate(descriptor, off_t(count)) != 0 {
            guard errno == EINTR else { throw DiskError("ftruncate", path) }
        }
    }

    func close() {
        guard descriptor >= 0 else { return }
        Glibc.close(descriptor)
        descriptor = -1
    }
}

extension PosixFile {
    /// Writes all of `buffers`, starting at `offset`, with as many calls as that takes: one may write a part only, or be
    /// interrupted. `call` is pwritev on some file. False: a call failed, and `errno` says why; one that writes nothing
    /// at all counts as EIO.
    static func write(
        _ buffers: [UnsafeRawBufferPointer], at offset: Int, call: (UnsafePointer<iovec>, Int32, Int) -> Int
    ) -> Bool {
        var vectors: [iovec] = []
        vectors.reserveCapacity(buffers.count)
        for buffer in buffers where !buffer.isEmpty {
            let base = UnsafeMutableRawPointer(mutating: buffer.baseAddress)
            vectors.append(iovec(iov_base: base, iov_len: buffer.count))
        }
        var next = 0
        var offset = offset
        while next < vectors.count {
            let chunk = Int32(min(vectors.count - next, buffersMax))
            var written = vectors.withUnsafeBufferPointer { call($0.baseAddress! + next, chunk, offset) }
            if written < 0, errno == EINTR { continue }
            if written == 0 { errno = EIO }
            guard written > 0 else { return false }
            offset += written
            while next < vectors.count, written >= vectors[next].iov_len {
                written -= vectors[next].iov_len
                next += 1
            }
            if written > 0 {
                vectors[next].iov_base += written
                vectors[next].iov_len -= written
            }
        }
        return true
    }
}

extension DiskError {
    /// What `errno` says of a call that has just failed. A descriptor or an address of ours that is not one is a bug.
    fileprivate init(_ call: String, _ path: String, errno code: Int32 = Glibc.errno) {
        precondition(code != EBADF && code != EFAULT, "\(call) \(path): errno \(code)")
        self = code == ENOSPC || code == EDQUOT ? .full(path: path) : .system(call: call, path: path, errno: code)
    }
}

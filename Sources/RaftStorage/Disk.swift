import Glibc

/// Why the disk did not do as asked.
public enum DiskError: Error, Sendable, Equatable, CustomStringConvertible {
    /// No room left (ENOSPC, EDQUOT). Never damage.
    case full(path: String)
    /// A system call failed.
    case system(call: String, path: String, errno: Int32)
    /// The directory is locked by another process.
    case locked(path: String)

    /// One sentence.
    public var description: String {
        switch self {
        case .full(let path): "no space left on the device that holds \(path)"
        case .system(let call, let path, let errno): "\(call) \(path): \(String(cString: strerror(errno)))"
        case .locked(let path): "\(path) is locked by another process"
        }
    }
}

/// A file that is open. Positions and counts are bytes.
public protocol DiskFile: AnyObject, Sendable {
    /// Size of the file.
    func size() throws(DiskError) -> Int
    /// Writes all of `buffers`, one after the other, starting at `offset`.
    func write(_ buffers: [UnsafeRawBufferPointer], at offset: Int) throws(DiskError)
    /// Reads up to `count` bytes from `offset` on; fewer only at the end of the file.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws(DiskError) -> Int
    /// Makes everything written durable (fdatasync). After a failure the file's state is unknown: never retried.
    func sync() throws(DiskError)
    /// Reserves the space `0 ..< count` on the device; the file reads as zeros there.
    func preallocate(_ count: Int) throws(DiskError)
    /// Cuts the file to `count` bytes.
    func truncate(to count: Int) throws(DiskError)
    /// Closes the file; it may not be used afterwards.
    func close()
}

/// The seam to the file system: `PosixDisk` in a process, `MemoryDisk` with faults in a test. Names are relative to
/// the directory the disk stands for.
public protocol Disk: AnyObject, Sendable {
    /// What error messages call the directory.
    var path: String { get }
    /// Opens an existing file for reading and writing.
    func open(_ name: String) throws(DiskError) -> any DiskFile
    /// Creates a file, which must not exist.
    func create(_ name: String) throws(DiskError) -> any DiskFile
    /// Whether the file exists.
    func exists(_ name: String) -> Bool
    /// Names of all files, ascending.
    func list() throws(DiskError) -> [String]
    /// Renames atomically, replacing the target.
    func rename(_ from: String, to: String) throws(DiskError)
    /// Removes a file.
    func remove(_ name: String) throws(DiskError)
    /// Makes creations, renames and removals durable (fsync of the directory).
    func syncDirectory() throws(DiskError)
    /// Bytes free on the device.
    func freeBytes() throws(DiskError) -> Int

    /// The directory in the file system, for libraries that read and write files by themselves; nil where there is
    /// none, as in a simulation.
    var directory: String? { get }
    /// A directory in this one, created if missing. That it exists is durable after ``syncDirectory()``; what is in it
    /// has a ``syncDirectory()`` of its own.
    func folder(_ name: String) throws(DiskError) -> any Disk
    /// Names of all directories in this one, ascending.
    func folders() throws(DiskError) -> [String]
    /// Removes a directory with everything in it; one that does not exist is none.
    func removeFolder(_ name: String) throws(DiskError)
}

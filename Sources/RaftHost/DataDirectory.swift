public import RaftCore
public import RaftStorage

/// A node's data directory, opened: `LOCK` and `IDENTITY` at its top, the log in `log`, snapshots in
/// `snapshots`.
///
/// Opening takes the lock, counts the run durably, and replays the log.
public struct DataDirectory {
    /// The directory itself.
    public let disk: PosixDisk
    /// Who the node is.
    public let node: NodeDirectory
    /// The log's own directory.
    public let logDisk: PosixDisk
    /// Snapshots sent, received, and kept for a restart.
    public let snapshots: SnapshotStore
    /// The log.
    public let log: WriteAheadLog
    /// What it holds.
    public let recovered: [LogGroup: RecoveredGroup]

    /// Opens `path`, which is created if missing, for the node at `address`, whose promises last `promise`.
    public init(
        path: String, address: NodeAddress, freshIncarnation: UInt64, promise: Interval,
        log settings: WriteAheadLog.Settings, logger: Logger
    ) throws(DirectoryError) {
        do throws(DiskError) {
            disk = try PosixDisk(directory: path, lockName: "LOCK")
            logDisk = try PosixDisk(directory: path + "/log")
            snapshots = SnapshotStore(disk: try PosixDisk(directory: path + "/snapshots"))
        } catch {
            throw .disk(error)
        }
        // the identity is older than the log: without it nobody knows whose votes and promises these are
        guard disk.exists(NodeDirectory.file) || !WriteAheadLog.isKept(on: logDisk) else {
            throw .damaged(path: "\(path)/\(NodeDirectory.file)", reason: "it is missing, though there is a log")
        }
        node = try NodeDirectory(disk: disk, address: address, freshIncarnation: freshIncarnation, promise: promise)
        var settings = settings
        // any number nobody can guess beforehand will do; the incarnation is one
        settings.identity = freshIncarnation
        do throws(StorageError) {
            (log, recovered) = try WriteAheadLog.open(disk: logDisk, settings: settings) { finding in
                logger.log(.warning, finding)
            }
        } catch {
            throw .log(error)
        }
    }
}

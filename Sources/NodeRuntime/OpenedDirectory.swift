import RaftCore
import RaftHost
import RaftStorage
import RocksEngine
import ShardKV

/// A server's data directory, opened: what every host has, and the store in `store`.
struct OpenedDirectory {
    let data: DataDirectory
    let engine: any KeyValueEngine
    /// Where snapshots of guests are; nil: this node never had any.
    let guests: GuestStates?

    init(_ configuration: NodeConfiguration, incarnation: UInt64, _ logger: Logger) throws(NodeError) {
        var settings = WriteAheadLog.Settings()
        settings.segmentBytes = configuration.segmentBytes
        settings.reserveBytes = configuration.reserveBytes
        settings.spaceBytes = configuration.logSpace
        do throws(DirectoryError) {
            data = try DataDirectory(
                path: configuration.dataDirectory, address: configuration.advertise, freshIncarnation: incarnation,
                promise: configuration.host.liveness.promise, log: settings, logger: logger)
        } catch {
            throw NodeError(error)
        }
        do throws(StateMachineError) {
            guests = try OpenedDirectory.openGuests(
                in: data.disk, isWanted: !configuration.guests.isEmpty,
                minimumFreeBytes: configuration.host.minimumFreeBytes)
        } catch {
            throw NodeError(error.description)
        }
        do throws(StateMachineError) {
            switch configuration.engine {
            case .memory: engine = MemoryEngine()
            case .rocksdb:
                var settings = RocksEngine.Settings()
                settings.backgroundBytesPerSecond = configuration.storeBytesPerSecond
                engine = CollectingEngine(
                    over: try RocksEngine(directory: configuration.storeDirectory, settings: settings))
            }
        } catch {
            throw NodeError(error, store: configuration.storeDirectory)
        }
    }

    private static func openGuests(
        in disk: any Disk, isWanted: Bool, minimumFreeBytes: Int
    ) throws(StateMachineError) -> GuestStates? {
        let folder: (any Disk)?
        do throws(DiskError) {
            let isThere = try disk.folders().contains("guests")
            folder = isWanted || isThere ? try disk.folder("guests") : nil
            try disk.syncDirectory()
        } catch {
            throw StateMachineError(error.description)
        }
        return try folder.map { (folder) throws(StateMachineError) in
            try GuestStates(disk: folder, minimumFreeBytes: minimumFreeBytes)
        }
    }
}

extension NodeConfiguration {
    /// Where the engine keeps the state of the groups, if it does so on disk.
    var storeDirectory: String { dataDirectory + "/store" }
}

extension NodeError {
    /// A directory that cannot be used; with the flag of `raftd` that leads out.
    fileprivate init(_ error: DirectoryError) {
        switch error {
        case .disk(.locked), .damaged: self.init("\(error) (--data-dir)")
        case .otherAddress(_, let recorded, _): self.init("\(error) (--advertise \(recorded), --data-dir)")
        case .disk, .log, .newerFormat, .otherCluster: self.init(error.description)
        }
    }

    /// The state in `store` cannot be opened or read at the start. What is corrupt there is a copy: the log,
    /// opened before it, has what it has not been compacted by, and the other members have the rest.
    init(_ error: StateMachineError, store: String) {
        // RocksDB's C interface tells errors apart by their text only; a file that is missing is no corruption to it
        let isCorrupt = ["Corruption: ", "No such file or directory"].contains { error.description.contains($0) }
        let advice =
            "; remove that directory: it is rebuilt from the log, and from the other members where that is compacted"
        self.init(isCorrupt ? "the store in \(store) is damaged (\(error))\(advice)" : error.description)
    }
}

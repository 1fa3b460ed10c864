import RaftCore
import RaftHost
import RaftStorage
import RocksEngine
import ShardKV

/// A server's data directory, opened: what every host has, and the store in `store`.
struct OpenedDirectory {
    let data: DataDirectory
    let engine: any KeyValueEngine

    init(_ configuration: NodeConfiguration, incarnation: UInt64, _ logger: Logger) throws(NodeError) {
        var settings = WriteAheadLog.Settings()
        settings.segmentBytes = configuration.segmentBytes
        settings.reserveBytes = configuration.reserveBytes
        do throws(DirectoryError) {
            data = try DataDirectory(
                path: configuration.dataDirectory, address: configuration.advertise, freshIncarnation: incarnation,
                promise: configuration.host.liveness.promise, log: settings, logger: logger)
        } catch {
            throw NodeError(error.description)
        }
        do throws(StateMachineError) {
            switch configuration.engine {
            case .memory: engine = MemoryEngine()
            case .rocksdb:
                engine = try RocksEngine(
                    directory: configuration.dataDirectory + "/store", settings: RocksEngine.Settings())
            }
        } catch {
            throw NodeError(error.description)
        }
    }
}

import RaftCore
import RaftHost
import Simulator
import RaftStorage
import ShardKV
import ShardServer
import Synchronization
import Transport

/// A node of a simulated key-value cluster: composed as `raftd` is, over disks and an engine that forget.
final class ShardedNode {
    let address: NodeAddress
    private let world: SimulatedWorld
    private let controllers: [NodeAddress]
    private let directoryDisk: MemoryDisk
    let logDisk: MemoryDisk
    let engine = MemoryEngine()
    /// Asked for free space instead of the log's disk.
    let room = RoomyDisk()
    /// Of the host, from the next start on; its seed is replaced.
    var settings = RaftHost.Settings()
    /// The zone that it is started in.
    var zone: String?
    private var random: SeededRandom
    private(set) var isRunning = false
    private(set) var lane: SimulatedLane!
    private(set) var host: RaftHost!
    private(set) var server: ShardServer!
    /// Lines that the server logged, of level warning and above.
    let log = LockedLines()
    /// Why the host gave up, if it did.
    private(set) var failure: String?

    init(number: Int, world: SimulatedWorld, controllers: [NodeAddress], seed: UInt64) {
        address = SimulatedNode.address(number)
        self.world = world
        self.controllers = controllers
        random = SeededRandom(seed: seed)
        directoryDisk = MemoryDisk(seed: random.next())
        logDisk = MemoryDisk(seed: random.next())
    }

    func start() throws {
        let directory = try NodeDirectory(
            disk: directoryDisk, address: address, freshIncarnation: random.next() | 1,
            promise: RaftHost.Settings().liveness.promise)
        let (log, recovered) = try WriteAheadLog.open(
            disk: logDisk, settings: .init(segmentBytes: 64 << 10, reserveBytes: 1, identity: random.next())
        ) { _ in }
        let lane = world.addNode(at: address)
        let workers = RaftHost.Workers(
            log: lane.makeWorker(name: "log"), reader: lane.makeWorker(name: "reader"),
            apply: lane.makeWorker(name: "apply"), maintenance: lane.makeWorker(name: "maintenance"))
        var settings = self.settings
        settings.seed = random.next()
        let host = RaftHost(
            settings: settings, identity: directory.identity, nonce: random.next(), lane: lane, network: lane,
            workers: workers, disk: room, snapshots: SnapshotStore(disk: MemoryDisk(seed: 1)), log: log,
            recovered: recovered, logger: .silent)
        var serverSettings = ShardServer.Settings(controllers: controllers)
        serverSettings.zone = zone
        let server = try ShardServer(
            settings: serverSettings, host: host, directory: directory,
            engine: engine, lane: lane, logger: Logger(level: .warning) { [log = self.log] in log.append($0) },
            seed: random.next())
        let rpc = RpcServer(address: address)
        host.register(on: rpc)
        server.register(on: rpc)
        host.onFatal = { [unowned self] in failure = $0 }
        lane.setTurn { now in
            [server.turn(now: now), host.turn(now: now)].lazy.compactMap { $0 }.min()
        }
        try lane.listen(on: address) { _ in rpc.makeHandler() }
        self.lane = lane
        self.host = host
        self.server = server
        failure = nil
        isRunning = true
    }

    /// Ends the process as a loss of power does.
    func crash() {
        guard isRunning else { return }
        isRunning = false
        world.crash(address)
        directoryDisk.crash()
        logDisk.crash()
        engine.crash()
    }
}

/// What a logger wrote; any thread.
final class LockedLines: Sendable {
    private let lines = Mutex<[String]>([])

    func append(_ line: String) { lines.withLock { $0.append(line) } }
    func containing(_ text: String) -> [String] { lines.withLock { $0.filter { $0.contains(text) } } }
    func count(containing text: String) -> Int { lines.withLock { $0.count { $0.contains(text) } } }
}

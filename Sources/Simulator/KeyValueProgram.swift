import RaftCore
import RaftHost
import ShardKV
import ShardServer
import Transport

/// The key-value service of a node, composed as `raftd` does, over an engine that forgets.
final class KeyValueProgram: NodeProgram {
    private let settings: ShardServer.Settings
    private let engine: ForgetfulEngine
    /// Of what is collected before it goes to the engine; another amount in each simulation.
    private let collects: CollectingEngine.Limits
    /// The service of this life; nil while there is no process.
    private(set) var server: ShardServer?
    /// Reads in the turns, if set before a start.
    var reader: InProcessReader?

    /// With churn the members of groups change behind the map's back.
    init(
        controllers: [NodeAddress], moveChunkBytes: Int, hasQuickScheduler: Bool = false, hasChurn: Bool = false,
        seed: UInt64
    ) {
        var settings = ShardServer.Settings(controllers: controllers)
        settings.moveChunkBytes = moveChunkBytes
        settings.followsResets = !hasChurn
        if hasQuickScheduler {
            settings.loadPace = .milliseconds(500)
            settings.scheduler = .quick
        }
        self.settings = settings
        engine = ForgetfulEngine(seed: seed)
        var collects = CollectingEngine.Limits()
        collects.replicaBytes = [0, 2 << 10, 8 << 10, 512 << 10][Int(seed % 4)]
        collects.bytes = 3 * collects.replicaBytes
        collects.batchBytes = collects.replicaBytes
        collects.scannedChanges = 4
        self.collects = collects
    }

    /// Bytes of keys and values in the engine, of all replicas together.
    var storedBytes: Int {
        var bytes = 0
        try? engine.scan(from: Bytes(), to: Bytes()) { key, value in
            bytes += key.count + value.count
            return true
        }
        return bytes
    }

    func prepare(_ directory: NodeDirectory, _ number: Int) {}

    func start(_ process: SimulatedNode.Process) throws -> (Instant) -> Instant? {
        let server = try ShardServer(
            settings: settings, host: process.host,
            directory: process.directory, engine: CollectingEngine(over: engine, limits: collects),
            lane: process.lane, logger: .silent, seed: process.seed)
        server.register(on: process.rpc)
        self.server = server
        return { [reader] now in
            reader?.turn(process.host)
            return server.turn(now: now)
        }
    }

    func crashed() {
        server?.close()
        server = nil
        reader?.crashed()
        engine.crash()
    }
}

/// The memory engine with a mind of its own about when what was written becomes durable, as RocksDB has.
private final class ForgetfulEngine: KeyValueEngine, @unchecked Sendable {
    private let memory = MemoryEngine()
    private var random: SeededRandom

    init(seed: UInt64) { random = SeededRandom(seed: seed) }

    func crash() { memory.crash() }

    func get(_ key: Bytes) throws(StateMachineError) -> Bytes? { try memory.get(key) }

    func write(_ changes: [EngineChange]) throws(StateMachineError) {
        // whoever says so leaves nothing behind when the key goes: another replica would still have it
        for case .putNew(let key, _) in changes where !planted("replies-are-lost-at-a-restart") {
            let old = try memory.get(key)
            let isRemoved = changes.contains { change in
                if case .deleteRange(let start, let end) = change { !(key < start) && key < end } else { false }
            }
            precondition(old == nil || isRemoved, "what is stored as new is there already")
        }
        try memory.write(changes)
        if random.number(in: 0..<32) == 0 { try memory.flush() }
    }

    func scan(from start: Bytes, to end: Bytes, _ visit: (Bytes, Bytes) -> Bool) throws(StateMachineError) {
        try memory.scan(from: start, to: end, visit)
    }

    func flush() throws(StateMachineError) { try memory.flush() }

    func durableGet(_ key: Bytes) throws(StateMachineError) -> Bytes? { try memory.durableGet(key) }

    func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        try memory.approximateBytes(of: ranges)
    }

    func freeze() throws(StateMachineError) -> any EngineView { try memory.freeze() }

    func ingest(_ folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) {
        try memory.ingest(folder, as: number)
    }

    func drop(_ number: UInt64) throws(StateMachineError) { try memory.drop(number) }

    func numbers() throws(StateMachineError) -> [UInt64] { try memory.numbers() }
}

extension SchedulerSettings {
    /// How long what was decided may have its consequences: longer than everything that these settings wait for.
    static let quickPatience = Interval.milliseconds(40_000)

    /// Seconds instead of minutes, and loads as little as simulated clients make them.
    fileprivate static var quick: SchedulerSettings {
        var settings = SchedulerSettings()
        settings.scale(toCooldown: .milliseconds(2000))
        settings.repairAfter = .milliseconds(3000)
        settings.retry = .milliseconds(5000)
        (settings.splitBytes, settings.splitOperations, settings.shards) = (2000, 30, 30)
        (settings.operationsOfEveryShard, settings.bytesOfEveryShard) = (1, 100)
        return settings
    }
}

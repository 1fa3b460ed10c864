import Gateway
public import RaftCore
public import RaftHost
import RaftStorage
import RocksEngine
import ShardClient
import ShardKV
import ShardMap
public import ShardServer
public import Transport

/// Why a node cannot start.
public struct NodeError: Error, Sendable, CustomStringConvertible {
    /// What, and what to do about it.
    public var description: String
    /// An error told as `description`.
    public init(_ description: String) { self.description = description }
}

/// What a node is started with.
public struct NodeConfiguration: Sendable {
    /// Where the state of the groups is kept.
    public enum Engine: String, Sendable, CaseIterable {
        /// On disk.
        case rocksdb
        /// In memory: rebuilt from the log at every start.
        case memory
    }

    /// Where the node accepts connections.
    public var listen: NodeAddress
    /// What others call it.
    public var advertise: NodeAddress
    /// Directory of its identity, its log and its store.
    public var dataDirectory: String
    /// Seeds of the cluster; the first one creates the bootstrap record.
    public var controllers: [NodeAddress]
    /// Groups of other programs. If there are any and no ``controllers``, the node looks for no cluster.
    public var guests: [GuestGroup] = []
    /// Groups of other programs whose replica here is removed at the start, for good.
    public var droppedGuests: [String] = []
    /// As ``ShardServer/ShardServer/Settings/zone``.
    public var zone: String?
    /// Where the state of the groups is kept.
    public var engine = Engine.rocksdb
    /// Of the host.
    public var host = RaftHost.Settings()
    /// Size of a log segment in bytes.
    public var segmentBytes = 64 << 20
    /// Bytes that the log may occupy.
    public var logSpace = 16 << 30
    /// As ``ShardServer/ShardServer/Settings/scheduler``.
    public var scheduler = SchedulerSettings()
    /// Bytes that the store on disk flushes and compacts in a second.
    public var storeBytesPerSecond = 48 << 20
    /// Free bytes the log leaves on the device.
    public var reserveBytes = 64 << 20
    /// Connections at most. Some more are let in, for other nodes, and to tell clients that there are too many.
    public var connectionsMax = 10_000
    /// As ``ShardServer/ShardServer/Settings/admission``; the node's own faces keep to it as well, each by itself.
    public var admission = ShardServer.Settings.Admission()
    /// How long a Redis command may take in all, retries included.
    public var requestTimeout = Interval.milliseconds(10_000)
    /// Longest wait for leaders to be handed over at a stop.
    public var stopPatience = Interval.milliseconds(5_000)
    /// As ``ShardServer/ShardServer/Settings/knownLevel``; for tests only.
    public var knownLevel = ClusterLevel.newest
    /// Faults of the network can be ordered, by whoever reaches the node: ``FaultService``. For tests on loopback.
    public var takesFaultOrders = false
    /// Version shown to users.
    public var version = "0.1.0"

    /// A node that listens where it is advertised.
    public init(listen: NodeAddress, dataDirectory: String, controllers: [NodeAddress]) {
        self.listen = listen
        self.advertise = listen
        self.dataDirectory = dataDirectory
        self.controllers = controllers
    }
}

/// One running node: lane, log, store, host, services and faces, joined.
///
/// Made and run on one thread; ``stop()`` and ``kill()`` may be called from any.
public final class ServerNode: @unchecked Sendable {
    private let configuration: NodeConfiguration
    private let loop: EventLoop
    private let workers: [ThreadWorker]
    private let sockets: UVNetwork
    private let network: any Network
    /// Only if faults can be ordered.
    private let faults: FaultyNetwork?
    private let host: RaftHost
    private let server: ShardServer
    private let router: Router
    private let remote: RpcTransport
    private let rpc: RpcServer
    private let redis: RedisServer
    private let http: HttpServer
    private let sweep: DeadlineSweep
    private let data: DataDirectory
    private let logger: Logger
    private var isStopping = false
    /// Why the node ended by itself, if it did.
    public private(set) var failure: String?

    /// Opens the data directory, replays the log, starts the replicas and listens.
    ///
    /// - Parameter wrap: puts something between the node and its sockets; tests cut connections there.
    public init(
        _ configuration: NodeConfiguration, logger: Logger,
        wrap: (any Network, EventLoop) -> any Network = { network, _ in network }
    ) throws(NodeError) {
        self.configuration = configuration
        self.logger = logger
        do throws(TransportError) { loop = try EventLoop() } catch { throw NodeError(error.description) }
        sockets = loop.makeNetwork()
        sockets.connectionsMax = configuration.connectionsMax + ServerNode.connectionsReserved
        let wrapped = wrap(sockets, loop)
        faults =
            configuration.takesFaultOrders
            ? FaultyNetwork(wrapped, lane: loop, introduction: RaftHost.node(introducedBy:_:_:)) : nil
        network = faults ?? wrapped

        var generator = SystemRandomNumberGenerator()
        let opened = try OpenedDirectory(configuration, incarnation: generator.next() | 1, logger)
        data = opened.data
        workers = ["log", "reader", "apply", "maintenance"].map(loop.makeWorker)
        var hostSettings = configuration.host
        hostSettings.seed = generator.next()
        // what is in memory is rebuilt from the log
        if configuration.engine == .memory { hostSettings.compacts = false }
        host = RaftHost(
            settings: hostSettings, identity: data.node.identity, nonce: generator.next(), lane: loop,
            network: network,
            workers: RaftHost.Workers(
                log: workers[0], reader: workers[1], apply: workers[2], maintenance: workers[3]),
            disk: data.logDisk, snapshots: data.snapshots, log: data.log, recovered: data.recovered, logger: logger)
        if let damage = host.nodeRecordDamage {
            throw NodeError(
                "the node's own record in the log cannot be used (\(damage)); "
                    + "start it with an empty --data-dir and let it join anew")
        }
        host.isOnItsOwn = configuration.controllers.isEmpty && data.node.identity.clusterID == 0
        var settings = ShardServer.Settings(controllers: configuration.controllers)
        settings.zone = configuration.zone
        settings.version = configuration.version
        settings.knownLevel = configuration.knownLevel
        settings.scheduler = configuration.scheduler
        settings.admission = configuration.admission
        // what is decided by the second needs news by the second
        let quarter = Interval.milliseconds(configuration.scheduler.cooldown.milliseconds / 4)
        settings.loadPace = min(settings.loadPace, max(.milliseconds(500), quarter))
        do throws(StateMachineError) {
            server = try ShardServer(
                settings: settings, host: host, directory: data.node, engine: opened.engine, lane: loop,
                logger: logger, seed: generator.next(), guests: opened.guests)
        } catch {
            throw NodeError(error, store: configuration.storeDirectory)
        }
        remote = RpcTransport(network: network, clock: loop.clock)
        var routing = Router.Settings()
        routing.queuePatience = configuration.admission.patience
        router = Router(
            seeds: [configuration.advertise] + configuration.controllers,
            transport: LocalTransport(address: configuration.advertise, server: server, remote: remote),
            clock: loop.clock, settings: routing, seed: generator.next())
        rpc = RpcServer(address: configuration.advertise)
        var redisSettings = RedisServer.Settings()
        redisSettings.requestTimeout = configuration.requestTimeout
        let info = NodeInfo(host: host, server: server, configuration: configuration, clock: loop.clock)
        redis = RedisServer(router: router, clock: loop.clock, settings: redisSettings) { info.sections() }
        sweep = DeadlineSweep(clock: loop.clock)
        let metrics = MetricsPage(
            host: host, server: server, network: sockets, version: configuration.version, clock: loop.clock)
        http = HttpServer(
            rpc: rpc, sweep: sweep, version: configuration.version, status: { info.page }, metrics: { metrics.text })
        // the page knows the server
        server.metricsPage = { [weak metrics] in metrics?.text ?? "" }
        connect()
        do throws(NodeError) {
            if let problem = server.startProblem { throw NodeError(problem) }
            if let states = opened.guests {
                for group in configuration.droppedGuests { try GuestGroup(group: group).leave(host, logger) }
                for guest in configuration.guests { try guest.join(host, states, at: configuration.advertise, logger) }
            }
            try listen()
        } catch {
            end()
            throw error
        }
    }

    private func connect() {
        host.register(on: rpc)
        server.register(on: rpc)
        if let faults {
            FaultService(faults, of: configuration.advertise, logger).register(on: rpc)
            logger.log(.warning, "faults of the network can be ordered: this node is for tests")
        }
        router.requestTurn = { [unowned loop] in loop.requestTurn() }
        server.onMap = { [unowned router] map in router.updateMap(map) }
        if let map = server.map { router.updateMap(map) }
        host.onFatal = { [unowned self] reason in
            failure = reason
            loop.stop()
        }
        loop.setTurn { [unowned self] now in turn(now) }
    }

    /// The order matters: what the faces queued goes to the host in the same turn.
    private func turn(_ now: Instant) -> Instant? {
        var earliest: Instant?
        for next in [
            faults?.turn(now: now), sweep.turn(now: now), router.turn(now: now), remote.turn(now: now),
            server.turn(now: now), host.turn(now: now),
        ] {
            guard let next else { continue }
            earliest = earliest.map { min($0, next) } ?? next
        }
        return earliest
    }

    /// Connections above ``NodeConfiguration/connectionsMax``.
    private static let connectionsReserved = 256
    /// Who says nothing does not keep one of those from another node for long.
    private static let silenceOfMany = Interval.milliseconds(2000)

    private func listen() throws(NodeError) {
        let rpc = self.rpc
        let redis = self.redis
        let http = self.http
        let sweep = self.sweep
        func match(_ matches: @escaping (Bytes) -> Bool?) -> (Bytes) -> ProtocolSniffer.Match {
            { bytes in matches(bytes).map { $0 ? .yes : .no } ?? .needMore }
        }
        let (isHttp, isRedis) = (match(HttpServer.matches), match(RedisServer.matches))
        let isRpc = ProtocolSniffer.beginning(with: "PRPC")
        let (sockets, limit) = (self.sockets, configuration.connectionsMax)
        do throws(TransportError) {
            try network.listen(on: configuration.listen) { [unowned sockets] connection in
                // other nodes come all the same: it must not be their groups that pay for too many clients
                let isCrowded = sockets.connectionCount > limit
                let choices: [ProtocolSniffer.Choice] =
                    isCrowded
                    ? [
                        (isRpc, { rpc.makeHandler(unwelcome: "flotilla.KvService") }),
                        (isHttp, { Farewell(Farewell.http) }), (isRedis, { Farewell(Farewell.redis) }),
                    ]
                    : [
                        (isRpc, { rpc.makeHandler() }), (isHttp, { http.makeHandler() }),
                        (isRedis, { redis.makeHandler() }),
                    ]
                return ProtocolSniffer(
                    choices: choices, of: connection, sweep: sweep, patience: http.settings.requestTime,
                    silence: isCrowded ? ServerNode.silenceOfMany : http.settings.silenceTime)
            }
        } catch {
            if case .addressInUse = error { throw NodeError("\(error) (--listen)") }
            throw NodeError(error.description)
        }
        logger.log(
            .info, "listens",
            [
                ("address", configuration.listen.description), ("advertise", configuration.advertise.description),
                ("run", "\(host.identity.runNumber)"), ("replicas", "\(host.records.count)"),
            ])
    }

    /// Serves until the node is stopped; on the thread that made it. Once the node is released after this returns,
    /// its data directory is free.
    public func run() {
        loop.run()
        end()
    }

    /// Nobody who waits for the workers, the host or the router keeps them alive any longer.
    private func end() {
        for worker in workers { worker.finish() }
        server.close()
        router.close()
        remote.close()
        host.dismiss()
    }

    /// Calls `handler` on the lane when one of `signals` comes.
    public func onSignals(_ signals: [Int32], _ handler: @escaping (Int32) -> Void) { loop.onSignals(signals, handler) }

    /// Hands leaderships over, makes everything durable, and ends ``run()``. Any thread.
    public func stop() {
        loop.post { [self] in
            guard !isStopping else { return }
            isStopping = true
            server.isStopping = true
            logger.log(.info, "stopping")
            host.stop(patience: configuration.stopPatience) { [self] in
                logger.log(.info, "stopped")
                loop.stop()
            }
        }
    }

    /// Runs `work` on the lane. Any thread.
    public func onLane(_ work: @escaping @Sendable () -> Void) { loop.post(work) }

    /// Ends ``run()`` without a farewell, much as a crash would: nothing is handed over, and the log is not closed in
    /// order. Any thread.
    public func kill() {
        loop.post { [self] in loop.stop() }
    }
}

/// Says one thing to whoever speaks first, and closes.
private final class Farewell: ConnectionHandler {
    /// As a Redis has it.
    static let redis = "-ERR max number of clients reached\r\n"
    static let http =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 27\r\nConnection: close\r\n\r\nthere are too many clients\n"

    private let text: Bytes

    init(_ text: String) { self.text = Bytes(text) }

    func opened(_ connection: any Connection) {}

    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        connection.send(text)
        connection.closeAfterSending(reason: "there are too many connections")
        return Consumption(consumed: bytes.count)
    }

    func closed(_ connection: any Connection, reason: String) {}
    func drained(_ connection: any Connection) {}
}

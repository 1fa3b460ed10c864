public import RaftCore
public import RaftHost
public import RaftStorage
public import Transport

/// What runs on the host of a ``SimulatedNode``; the same object in all lives of the node.
public protocol NodeProgram: AnyObject {
    /// Before the host of node `number` is made: the directory may have to join a cluster.
    func prepare(_ directory: NodeDirectory, _ number: Int) throws
    /// The host is there and has no replicas yet; returns what is done in a turn before the host's.
    func start(_ process: SimulatedNode.Process) throws -> (Instant) -> Instant?
    /// The process has ended without notice.
    func crashed()
}

/// One node of a simulated cluster: its disks, which outlive it, and while it runs its lane and its host. Composed as
/// `raftd` is.
public final class SimulatedNode {
    /// What is the same for all nodes, and for all lives of one.
    public struct Settings: Sendable {
        /// Of the host; its seed is replaced.
        public var host = RaftHost.Settings()
        /// Of the log; small segments, so that there are several.
        public var log = WriteAheadLog.Settings(segmentBytes: 64 << 10, reserveBytes: 1)
        /// Where the host writes what an operator would read.
        public var logger = Logger.silent
        /// The defaults.
        public init() {}
    }

    /// A started node, as its program gets it.
    public struct Process {
        /// Its number, from 1.
        public var number: Int
        /// The host.
        public var host: RaftHost
        /// The lane.
        public var lane: SimulatedLane
        /// The services; the host's are registered.
        public var rpc: RpcServer
        /// Who the node is.
        public var directory: NodeDirectory
        /// Of everything random in this life of the program.
        public var seed: UInt64
    }

    /// Counts from 1.
    public let number: Int
    /// `10.0.0.number:8100`.
    public let address: NodeAddress
    /// Holds who the node is.
    public let directoryDisk: MemoryDisk
    /// Holds the log.
    public let logDisk: MemoryDisk
    /// Holds snapshots sent and received.
    public let snapshotDisk: MemoryDisk
    /// What runs on the host.
    public let program: any NodeProgram
    /// What is changed counts from the next start on.
    public var settings: Settings
    /// Makes the workers called `log`, `reader`, `apply` and `maintenance` on a lane.
    public var makeWorker: (_ lane: SimulatedLane, _ name: String) -> any Worker = { $0.makeWorker(name: $1) }
    /// Makes what the host reaches other nodes by, in each life; to disturb what comes back.
    public var makeNetwork: (_ lane: SimulatedLane) -> any Network = { $0 }
    private let world: SimulatedWorld
    private var random: SeededRandom
    /// Asked for free space instead of the log's disk, if set.
    private var freeSpaceDisk: (any Disk)?
    /// Sees what the replicas do, if set before a start.
    public var observer: (any ReplicaObserver)?

    /// The host of this life.
    public private(set) var host: RaftHost!
    /// The lane of this life.
    public private(set) var lane: SimulatedLane!
    /// Whether there is a process.
    public private(set) var isRunning = false
    /// How often it was started.
    public private(set) var life = 0
    /// Why the host gave up, if it did.
    public private(set) var failure: String?
    /// Its log's syncs fail, or will.
    public private(set) var mayFail = false
    /// An orderly stop was asked for.
    public private(set) var isStopping = false
    /// An orderly stop is done.
    public private(set) var hasStopped = false
    /// What must not happen and did.
    public private(set) var violations: [Violation] = []

    /// A node that has never run, with empty disks.
    public init(number: Int, world: SimulatedWorld, settings: Settings, program: any NodeProgram, seed: UInt64) {
        self.number = number
        address = SimulatedNode.address(number)
        self.world = world
        self.settings = settings
        self.program = program
        random = SeededRandom(seed: seed)
        directoryDisk = MemoryDisk(seed: random.next())
        logDisk = MemoryDisk(seed: random.next())
        snapshotDisk = MemoryDisk(seed: random.next())
    }

    /// Where the node of this number is.
    public static func address(_ number: Int) -> NodeAddress {
        NodeAddress(ip: 10 << 24 | UInt32(number), port: 8100)
    }

    /// The node as a member of groups.
    public var peer: PeerID { PeerID(address: address) }

    /// Starts a process on the node's disks. Throws what a disk, a log or a store that cannot be used throws; the node
    /// is down then.
    public func start(driftPartsPerMillion: Int64 = 0) throws {
        precondition(!isRunning)
        logDisk.failsSyncs = false
        mayFail = false
        let directory = try NodeDirectory(
            disk: directoryDisk, address: address, freshIncarnation: random.next() | 1,
            promise: settings.host.liveness.promise)
        try program.prepare(directory, number)
        var logSettings = settings.log
        logSettings.identity = random.next()
        let (log, recovered) = try WriteAheadLog.open(disk: logDisk, settings: logSettings) { _ in }
        let lane = world.addNode(at: address, driftPartsPerMillion: driftPartsPerMillion)
        let workers = RaftHost.Workers(
            log: makeWorker(lane, "log"), reader: makeWorker(lane, "reader"), apply: makeWorker(lane, "apply"),
            maintenance: makeWorker(lane, "maintenance"))
        var hostSettings = settings.host
        hostSettings.seed = random.next()
        let host = RaftHost(
            settings: hostSettings, identity: directory.identity, nonce: random.next(), lane: lane,
            network: makeNetwork(lane),
            workers: workers, disk: freeSpaceDisk ?? logDisk, snapshots: SnapshotStore(disk: snapshotDisk), log: log,
            recovered: recovered, logger: settings.logger)
        if let damage = host.nodeRecordDamage {
            world.crash(address)
            throw NodeRecordDamaged(description: damage)
        }
        (self.lane, self.host) = (lane, host)
        (isRunning, isStopping, hasStopped, failure) = (true, false, false, nil)
        life += 1
        host.observer = observer
        host.onFatal = { [unowned self] in gaveUp($0) }
        let rpc = RpcServer(address: address)
        host.register(on: rpc)
        let seed = random.next()
        do {
            let turn = try program.start(
                Process(number: number, host: host, lane: lane, rpc: rpc, directory: directory, seed: seed))
            lane.setTurn { now in [turn(now), host.turn(now: now)].lazy.compactMap { $0 }.min() }
            try lane.listen(on: address) { _ in rpc.makeHandler() }
        } catch {
            crash(.nothing)
            throw error
        }
    }

    /// The node's own record in the log is unreadable.
    public struct NodeRecordDamaged: Error, CustomStringConvertible {
        /// Where.
        public var description: String
    }

    private func gaveUp(_ reason: String) {
        if failure != nil { violations.append(Violation("NodeLives", nodes: [number], "gave up twice")) }
        if !mayFail {
            violations.append(Violation("NodeLives", nodes: [number], "gave up on a sound disk: \(reason)"))
        }
        failure = reason
    }

    /// Ends the process without notice: with the power, unless nothing is lost.
    public func crash(_ loss: MemoryDisk.Loss = .some) {
        guard isRunning else { return }
        isRunning = false
        world.crash(address)
        // nobody hears of it: its connections are gone
        host.dismiss()
        directoryDisk.crash(loss)
        logDisk.crash(loss)
        snapshotDisk.crash(loss)
        program.crashed()
    }

    /// From the next start on the host asks `disk` how much room there is.
    public func useForFreeSpace(_ disk: any Disk) { freeSpaceDisk = disk }

    /// Lets `count` more syncs of this life's log succeed, and no more: the host must give up.
    public func failSyncs(after count: Int) {
        mayFail = true
        logDisk.failSyncs(after: count)
    }

    /// Stops in order; the process is gone some time after ``hasStopped``.
    public func stop(patience: Interval = .milliseconds(2000)) {
        guard isRunning, !isStopping else { return }
        let host = self.host!
        isStopping = true
        lane.post { [self] in
            // it may have given up meanwhile
            guard failure == nil else { return }
            host.stop(patience: patience) { [self] in hasStopped = true }
        }
    }

    /// How the replica of `group` is doing; nil if there is none, or no process.
    public func status(of group: String) -> ReplicaStatus? { isRunning ? host.status(of: group) : nil }

    /// Whether the node leads `group`.
    public func leads(_ group: String) -> Bool { isRunning && host.leads(group) }
}

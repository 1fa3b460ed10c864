import RaftCore
import RaftHost
import RaftStorage
import Transport

/// One node of a simulated cluster: its disks, which outlive it, and while it runs its lane and its host. Composed as
/// a real node is.
final class SimulatedNode {
    /// What is the same for all nodes, and for all lives of one.
    struct Plan {
        var settings = RaftHost.Settings()
        var log = WriteAheadLog.Settings(segmentBytes: 64 << 10, reserveBytes: 1)
        /// A machine is flushed after about so many of its jobs.
        var flushesOneOf: Int64 = 16
        var clusterID: UInt64 = 99
        var groups: [String] = ["g0"]
        /// Members by node number, from 1.
        var size = 3
        var logger = Logger.silent
    }

    let number: Int
    let address: NodeAddress
    /// What is changed in it counts from the next start on.
    var plan: Plan
    let directoryDisk: MemoryDisk
    let logDisk: MemoryDisk
    let stores: [MachineStore]
    private let world: SimulatedWorld
    private let histories: [AppliedHistory]
    private var random: SeededRandom
    /// Asked for free space instead of the log's disk, if set.
    private var freeSpaceDisk: (any Disk)?

    private(set) var host: RaftHost!
    private(set) var lane: SimulatedLane!
    private(set) var logWorker: StallingWorker!
    private(set) var applyWorker: StallingWorker!
    private(set) var machines: [RecordingMachine] = []
    private(set) var isRunning = false
    /// How often it was started.
    private(set) var life = 0
    /// Why the host gave up, if it did.
    private(set) var failure: String?
    /// Its log's syncs fail, or will.
    private(set) var mayFail = false
    /// An orderly stop was asked for, and is done.
    private(set) var isStopping = false
    private(set) var hasStopped = false
    /// What must not happen and did.
    private(set) var violations: [String] = []

    init(number: Int, world: SimulatedWorld, plan: Plan, histories: [AppliedHistory], seed: UInt64) {
        self.number = number
        self.address = SimulatedNode.address(number)
        self.world = world
        self.plan = plan
        self.histories = histories
        random = SeededRandom(seed: seed)
        directoryDisk = MemoryDisk(seed: random.next())
        logDisk = MemoryDisk(seed: random.next())
        stores = plan.groups.map { _ in MachineStore() }
    }

    static func address(_ number: Int) -> NodeAddress { NodeAddress(ip: 10 << 24 | UInt32(number), port: 8100) }

    var peer: PeerID { PeerID(address: address) }

    /// Starts a process on the node's disks.
    func start(driftPartsPerMillion: Int64 = 0) throws {
        precondition(!isRunning)
        logDisk.failsSyncs = false
        mayFail = false
        let directory = try NodeDirectory(
            disk: directoryDisk, address: address, freshIncarnation: random.next(),
            promise: plan.settings.liveness.promise)
        if directory.identity.clusterID == 0 {
            try directory.join(clusterID: plan.clusterID, nodeID: UInt64(number), bootstrap: nil)
        }
        var logSettings = plan.log
        logSettings.identity = random.next()
        let (log, recovered) = try WriteAheadLog.open(disk: logDisk, settings: logSettings) { _ in }
        let lane = world.addNode(at: address, driftPartsPerMillion: driftPartsPerMillion)
        let logWorker = StallingWorker(lane.makeWorker(name: "log"))
        let applyWorker = StallingWorker(lane.makeWorker(name: "apply"))
        let workers = RaftHost.Workers(log: logWorker, reader: lane.makeWorker(name: "reader"), apply: applyWorker)
        var settings = plan.settings
        settings.seed = random.next()
        let host = RaftHost(
            settings: settings, identity: directory.identity, nonce: random.next(), lane: lane, network: lane,
            workers: workers, disk: freeSpaceDisk ?? logDisk, log: log, recovered: recovered, logger: plan.logger)
        self.lane = lane
        self.logWorker = logWorker
        self.applyWorker = applyWorker
        self.host = host
        isRunning = true
        life += 1
        isStopping = false
        hasStopped = false
        failure = nil
        host.onFatal = { [unowned self] in gaveUp($0) }
        let rpc = RpcServer(address: address)
        host.register(on: rpc)
        try lane.listen(on: address) { _ in rpc.makeHandler() }
        lane.setTurn { host.turn(now: $0) }
        startReplicas(host)
    }

    private func startReplicas(_ host: RaftHost) {
        machines = stores.indices.map { position in
            RecordingMachine(
                node: number, history: histories[position], store: stores[position], seed: random.next(),
                flushesOneOf: plan.flushesOneOf)
        }
        let birth = Configuration(peers: (1...plan.size).map { PeerID(address: SimulatedNode.address($0)) })
        for (group, machine) in zip(plan.groups, machines) {
            if let record = host.records.first(where: { $0.group == group }) {
                host.open(record, stateMachine: machine)
            } else {
                host.create(group: group, peer: peer, birth: birth, kind: "recording") { _ in
                    machine
                } completion: {
                    [unowned self] problem in
                    if let problem { violations.append("node \(number) cannot create \(group): \(problem)") }
                }
            }
        }
    }

    private func gaveUp(_ reason: String) {
        if failure != nil { violations.append("node \(number) gave up twice") }
        if !mayFail { violations.append("node \(number) gave up on a sound disk: \(reason)") }
        failure = reason
    }

    /// Ends the process as a loss of power does.
    func crash() {
        guard isRunning else { return }
        isRunning = false
        world.crash(address)
        directoryDisk.crash()
        logDisk.crash()
    }

    /// From the next start on the host asks `disk` how much room there is.
    func useForFreeSpace(_ disk: any Disk) { freeSpaceDisk = disk }

    /// Lets `count` more syncs of this life's log succeed, and no more: the host must give up.
    func failSyncs(after count: Int) {
        mayFail = true
        logDisk.failSyncs(after: count)
    }

    /// Stops in order; the process is gone some time after ``hasStopped``.
    func stop(patience: Interval = .milliseconds(2000)) {
        let host = self.host!
        isStopping = true
        lane.post { [self] in host.stop(patience: patience) { [self] in hasStopped = true } }
    }

    /// What the log holds on the disk, file by file.
    var loggedBytes: [[UInt8]?] {
        ((try? logDisk.list()) ?? []).filter { $0.hasSuffix(".log") }.map { logDisk.contents($0) }
    }

    func status(_ position: Int) -> ReplicaStatus? { host.status(of: plan.groups[position]) }

    func leads(_ position: Int) -> Bool { isRunning && host.leads(plan.groups[position]) }
}

/// A worker that can be made to hang: it takes jobs and runs none until it goes on.
final class StallingWorker: Worker, @unchecked Sendable {
    private let worker: any Worker
    private var held: [(job: @Sendable () -> Void, completion: @Sendable () -> Void)] = []

    /// Called before and after each job, if set.
    var onJob: ((_ isDone: Bool) -> Void)?

    init(_ worker: any Worker) { self.worker = worker }

    var hangs = false {
        didSet {
            guard !hangs else { return }
            let waiting = held
            held = []
            for (job, completion) in waiting { submit(job, completion: completion) }
        }
    }

    func submit(_ job: @escaping @Sendable () -> Void, completion: @escaping @Sendable () -> Void) {
        guard !hangs else { return held.append((job, completion)) }
        worker.submit {
            self.onJob?(false)
            job()
            self.onJob?(true)
        } completion: {
            completion()
        }
    }
}

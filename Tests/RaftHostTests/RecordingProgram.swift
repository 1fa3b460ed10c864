import RaftCore
import RaftHost
import Simulator
import Synchronization
import Transport

/// What a node of a ``HostCluster`` runs: one replica with a ``RecordingMachine`` of every group.
final class RecordingProgram: NodeProgram {
    private let plan: HostCluster.Plan
    private let histories: [AppliedHistory]
    /// What survives a crash, by number; what a snapshot brought is there from its installation on.
    let stored = LockedStores()
    private(set) var stores: [MachineStore]
    /// Numbers whose state was dropped.
    let dropped = LockedNumbers()
    /// The states that a step of an installation was taken for.
    let installing = LockedNumbers()
    private(set) var machines: [RecordingMachine] = []
    private(set) var problems: [String] = []
    /// Nothing of the states can be read at the next start.
    var isUnreadable = false
    /// The store takes no states.
    var keepsStatesItself = false
    /// Of the present life, by name.
    private var workers: [String: StallingWorker] = [:]

    init(plan: HostCluster.Plan, histories: [AppliedHistory]) {
        self.plan = plan
        self.histories = histories
        stores = plan.groups.map { _ in MachineStore() }
    }

    func makeWorker(_ lane: SimulatedLane, _ name: String) -> any Worker {
        let worker = StallingWorker(lane.makeWorker(name: name))
        workers[name] = worker
        return worker
    }

    func worker(_ name: String) -> StallingWorker {
        guard let worker = workers[name] else { preconditionFailure("no worker is called \(name)") }
        return worker
    }

    func group(at position: Int) -> String { plan.groups[position] }

    func prepare(_ directory: NodeDirectory, _ number: Int) throws {
        guard directory.identity.clusterID == 0 else { return }
        try directory.join(clusterID: plan.clusterID, nodeID: UInt64(number), bootstrap: nil)
    }

    func start(_ process: SimulatedNode.Process) throws -> (Instant) -> Instant? {
        var random = SeededRandom(seed: process.seed)
        let host = process.host
        host.isOnItsOwn = plan.isOnItsOwn
        for (position, group) in plan.groups.enumerated() {
            if let record = host.records.first(where: { $0.group == group }), record.store != record.number {
                guard let store = stored.of(record.store) else {
                    problems.append("node \(process.number) has no state \(record.store) of \(group)")
                    continue
                }
                stores[position] = store
            }
        }
        machines = stores.indices.map { position in
            RecordingMachine(
                node: process.number, history: histories[position], store: stores[position], seed: random.next(),
                flushesOneOf: plan.flushesOneOf)
        }
        for machine in machines { machine.snapshotBytes = plan.snapshotBytes }
        setInstallation(host, process.number)
        let birth = Configuration(peers: (1...plan.size).map { PeerID(address: SimulatedNode.address($0)) })
        let peer = PeerID(address: SimulatedNode.address(process.number))
        for (group, machine) in zip(plan.groups, machines) {
            if let record = host.records.first(where: { $0.group == group }) {
                if isUnreadable {
                    host.open(record, unreadable: "told to be unreadable")
                } else {
                    host.open(record, stateMachine: machine)
                }
            } else {
                host.create(group: group, peer: peer, birth: birth, kind: plan.kind) { _ in
                    machine
                } completion: { [unowned self] problem in
                    if let problem { problems.append("node \(process.number) cannot create \(group): \(problem)") }
                }
            }
        }
        return { _ in nil }
    }

    private func setInstallation(_ host: RaftHost, _ number: Int) {
        host.store = RecordedStores(
            node: number, plan: plan, histories: histories, stored: stored, dropped: dropped, installing: installing,
            takesStates: !keepsStatesItself, takesBraftFiles: plan.takesBraftFiles)
        host.onStateMachine = { [unowned self] record, machine in
            guard let position = plan.groups.firstIndex(of: record.group), let machine = machine as? RecordingMachine,
                let store = stored.of(record.store)
            else { return }
            machines[position] = machine
            stores[position] = store
        }
    }

    func crashed() {}
}

extension SimulatedNode {
    /// What the node runs.
    var recording: RecordingProgram {
        guard let recording = program as? RecordingProgram else { preconditionFailure("a node of another cluster") }
        return recording
    }

    var machines: [RecordingMachine] { recording.machines }
    var stores: [MachineStore] { recording.stores }

    func status(_ position: Int) -> ReplicaStatus? { status(of: recording.group(at: position)) }
    func leads(_ position: Int) -> Bool { leads(recording.group(at: position)) }
}

/// States by number; any thread.
final class LockedStores: Sendable {
    private let stores = Mutex<[UInt64: MachineStore]>([:])

    func keep(_ store: MachineStore, as number: UInt64) { stores.withLock { $0[number] = store } }
    var numbers: [UInt64] { stores.withLock { $0.keys.sorted() } }
    func of(_ number: UInt64) -> MachineStore? { stores.withLock { $0[number] } }
}

/// Numbers in order; any thread.
final class LockedNumbers: Sendable {
    private let numbers = Mutex<[UInt64]>([])

    func append(_ number: UInt64) { numbers.withLock { $0.append(number) } }
    var all: [UInt64] { numbers.withLock { $0 } }
}

/// The store of the machines of one node.
private struct RecordedStores: StateMachineStore {
    let node: Int
    let plan: HostCluster.Plan
    let histories: [AppliedHistory]
    let stored: LockedStores
    let dropped: LockedNumbers
    let installing: LockedNumbers
    let takesStates: Bool
    let takesBraftFiles: Bool

    func takesBraftFiles(_ group: String, kind: String) -> Bool { takesBraftFiles }
    func takes(_ group: String, kind: String) -> Bool { takesStates }

    func install(
        _ folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> any SnapshotStateMachine {
        guard let position = plan.groups.firstIndex(of: group) else { throw StateMachineError("no group \(group)") }
        let store = try RecordedState.install(folder, as: number)
        guard SnapshotMeta(last: store.durable, configuration: store.configuration) == meta else {
            throw StateMachineError("the state of \(store.durable), not of \(meta.last)")
        }
        stored.keep(store, as: number)
        let machine = RecordingMachine(
            node: node, history: histories[position], store: store, seed: number, flushesOneOf: plan.flushesOneOf)
        machine.snapshotBytes = plan.snapshotBytes
        return machine
    }

    func installer(
        of folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) -> (any SnapshotInstaller)? {
        guard plan.installSteps > 0 else { return nil }
        return RecordedInstaller(plan.installSteps, of: number, noting: installing) { () throws(StateMachineError) in
            try install(folder, as: number, group: group, kind: kind, expecting: meta)
        }
    }

    func drop(_ number: UInt64) { dropped.append(number) }
    func numbers() -> [UInt64] { stored.numbers }
    func flush() {}
}

/// Takes its time, and does everything in the last step.
private final class RecordedInstaller: SnapshotInstaller, @unchecked Sendable {
    static let stepBytes = 50_000
    private var stepsLeft: Int
    private let number: UInt64
    private let steps: LockedNumbers
    private let install: () throws(StateMachineError) -> any SnapshotStateMachine

    init(
        _ count: Int, of number: UInt64, noting steps: LockedNumbers,
        _ install: @escaping () throws(StateMachineError) -> any SnapshotStateMachine
    ) {
        (stepsLeft, self.number, self.steps, self.install) = (count, number, steps, install)
    }

    func advance(about bytes: Int) throws(StateMachineError) -> SnapshotInstallStep {
        stepsLeft -= 1
        steps.append(number)
        return stepsLeft > 0 ? .took(RecordedInstaller.stepBytes) : .done(try install())
    }
}

import RaftCore
import RaftHost
import Simulator
import Transport

/// What a node of a ``HostCluster`` runs: one replica with a ``RecordingMachine`` of every group.
final class RecordingProgram: NodeProgram {
    private let plan: HostCluster.Plan
    private let histories: [AppliedHistory]
    let stores: [MachineStore]
    private(set) var machines: [RecordingMachine] = []
    private(set) var problems: [String] = []
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
        machines = stores.indices.map { position in
            RecordingMachine(
                node: process.number, history: histories[position], store: stores[position], seed: random.next(),
                flushesOneOf: plan.flushesOneOf)
        }
        let host = process.host
        let birth = Configuration(peers: (1...plan.size).map { PeerID(address: SimulatedNode.address($0)) })
        let peer = PeerID(address: SimulatedNode.address(process.number))
        for (group, machine) in zip(plan.groups, machines) {
            if let record = host.records.first(where: { $0.group == group }) {
                host.open(record, stateMachine: machine)
            } else {
                host.create(group: group, peer: peer, birth: birth, kind: "recording") { _ in
                    machine
                } completion: { [unowned self] problem in
                    if let problem { problems.append("node \(process.number) cannot create \(group): \(problem)") }
                }
            }
        }
        return { _ in nil }
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

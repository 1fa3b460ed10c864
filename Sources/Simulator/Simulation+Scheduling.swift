import RaftCore
import ShardMap
import ShardServer

// The scheduler decides for itself all the while; an operator says now and then what it shall be about.

extension Simulation {
    /// An operator has the cluster kept spread, or not, or a node emptied for a while.
    func schedule(_ fault: Fault) {
        switch fault.amount % 6 {
        case 0..<2: order(.rebalance(.on), fault)
        case 2: order(.rebalance(.once), fault)
        case 3: order(.rebalance(.off), fault)
        default:
            guard let node = controllersMap?.node(at: nodes[fault.node - 1].address) else { return }
            order(.node(NodeChange(node: node.id, isDraining: true)), fault)
            later(3000 + fault.milliseconds) { [self] in
                order(.node(NodeChange(node: node.id, isDraining: false)), fault)
            }
        }
    }

    private var controllersMap: ClusterMap? {
        leader(of: ClusterMap.controllerGroup).flatMap { server(of: $0) }?.map
    }

    private func order(_ command: ControllerCommand, _ fault: Fault) {
        guard let leader = leader(of: ClusterMap.controllerGroup) else { return }
        tell("operator: \(command)")
        ask(command, of: leader, by: clients[fault.amount % clients.count]) { [self] reply in
            tell("controller: \(reply.map { $0.message ?? "done" } ?? "no answer")")
        }
    }

    /// When the faults are over and the clients rest, there is an end to what the scheduler wants: for a long time
    /// nothing begins and no leader changes.
    func awaitDecisionsEnd() {
        var last = whatWasDecided()
        for _ in 0..<10 {
            _ = run(limit: SchedulerSettings.quickPatience) { false }
            let now = whatWasDecided()
            guard now != last || !operationsHaveEnded() else { return }
            last = now
        }
        guard judge.violation == nil else { return }
        judge.note(Violation("Schedules", "the scheduler comes to no end: \(lastOperations())"))
    }

    /// The number of the newest operation, and how many elections there were.
    private func whatWasDecided() -> [UInt64] {
        let operations = leader(of: ClusterMap.controllerGroup).flatMap { server(of: $0) }?.recordedOperations
        return [operations?.last?.id ?? 0, UInt64(judge.elections)]
    }

    private func lastOperations() -> String {
        let operations = leader(of: ClusterMap.controllerGroup).flatMap { server(of: $0) }?.recordedOperations ?? []
        return operations.suffix(12).map { "\($0) \($0.state)" }.joined(separator: "; ")
    }
}

import RaftCore
import RaftHost
import ShardServer

extension Simulation {
    /// The node that leads `group` in the latest term; nil while nobody does.
    func leader(of group: String) -> SimulatedNode? {
        func term(_ node: SimulatedNode) -> Term { node.status(of: group)?.term ?? .zero }
        return nodes.filter { $0.leads(group) }.max { term($0) < term($1) }
    }

    /// The nodes in the membership in force, as the leader has it; nil while there is no leader, or a change is under
    /// way.
    func members(of group: String) -> [SimulatedNode]? {
        guard let raft = leader(of: group)?.host.raft(of: group), !raft.isChangingMembership else { return nil }
        let addresses = raft.configuration.listed.map(\.address)
        return nodes.filter { addresses.contains($0.address) }
    }

    /// The nodes that will not lose data for good.
    var soundNodes: [SimulatedNode] {
        let rotting = plan.schedule.faults.filter { $0.kind == .bitRot }.map(\.node)
        return nodes.filter { !rotting.contains($0.number) }
    }

    /// The leader of a group of keys is asked for other members, once the newcomers have replicas. If one of them cannot
    /// have any now, or the leader leads no more by then, nobody is asked. The map does not learn of it.
    func churn(_ fault: Fault) {
        let group = "g\(1 + fault.amount % plan.groups)"
        guard let leader = leader(of: group), let raft = leader.host.raft(of: group),
            let inMap = server(of: leader)?.map?.groups.first(where: { $0.id == group })?.peers
        else { return }
        let draw = MembershipDraw(everybody: nodes.map(\.peer), sound: soundNodes.map(\.peer), inMap: inMap)
        // of its own, so that a fault does the same without the faults before it
        var random = SeededRandom(seed: UInt64(fault.amount))
        guard let target = draw.next(after: raft.configuration, leader: leader.peer, &random) else { return }
        tell("\(group): from \(raft.configuration) to \(target)")
        let newcomers = nodes.filter { target.contains($0.peer) && !raft.configuration.contains($0.peer) }
        var awaited = newcomers.count
        let noteCreated = { [self] in
            if awaited == 0 { askForMembers(target, of: group, leader) }
            awaited -= 1
        }
        for newcomer in newcomers {
            guard newcomer.isRunning, let server = server(of: newcomer) else { return }
            newcomer.lane.post { [self] in
                server.createNewcomer(of: group) { [self] problem in
                    guard let problem else { return noteCreated() }
                    tell("node \(newcomer.number) has no replica of \(group): \(problem)")
                }
            }
        }
        noteCreated()
    }

    private func askForMembers(_ target: Configuration, of group: String, _ leader: SimulatedNode) {
        guard leader.leads(group), let host = leader.host else { return }
        leader.lane.post { [self] in
            host.changeMembership(of: group, to: target) { [self] outcome in
                tell("\(group): members \(target): \(outcome)")
                if case .done = outcome { changes += 1 }
            }
        }
    }
}

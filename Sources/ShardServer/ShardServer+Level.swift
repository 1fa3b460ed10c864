import RaftCore
import RaftHost
import ShardMap

// Nothing is proposed that a node of the cluster might not know. Where the map here is an old one, its level is too low
// at most: then something is refused that would be allowed by now.

extension ShardServer {
    /// The level of the cluster, as far as it is known here.
    var level: UInt32 { map?.level ?? ClusterLevel.first }

    /// Why this node cannot be part of a cluster with this map; nil: it can.
    func outdated(by map: ClusterMap) -> String? {
        map.refusal(ofProgramAt: address, knowing: settings.knownLevel)
    }

    /// Has a group's leader here propose `command`, unless the cluster's level does not allow it.
    func propose(_ command: GroupCommand, to group: String, completion: @escaping (ProposalOutcome) -> Void) {
        // without a map yet, as for a while after a start, nobody knows
        guard command.level <= level else {
            return host.refuse(map == nil ? .stopping : .levelTooLow, completion: completion)
        }
        host.propose(command.encoded(arena), to: group, completion: completion)
    }

    /// Has the controller's leader here propose `command`, unless the cluster's level does not allow it.
    func propose(_ command: ControllerCommand, completion: @escaping (ProposalOutcome) -> Void) {
        guard command.level <= level else { return host.refuse(.levelTooLow, completion: completion) }
        host.propose(command.encoded(arena), to: ClusterMap.controllerGroup, completion: completion)
    }
}

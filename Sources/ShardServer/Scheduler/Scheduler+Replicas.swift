import RaftCore
import ShardMap

// Rules 3 and 4: replicas of a group in different zones, and as many on each node.

extension Scheduler {
    mutating func separateZones(_ round: inout Round) {
        for group in round.outlook.groups.indices where round.operationsLeft > 0 && mayChange(group, round) {
            let outlook = round.outlook
            let members = outlook.groups[group].members
            let crowded = members.filter { peer in
                !outlook.zone(of: peer).isEmpty && members.count { outlook.zone(of: $0) == outlook.zone(of: peer) } > 1
            }
            let leaver = crowded.compactMap { peer in outlook.node(of: peer).map { (peer: peer, node: $0) } }
                .max { left, right in
                    (left.peer == outlook.groups[group].leader ? 0 : 1, outlook.nodes[left.node].replicas, left.node)
                        < (
                            right.peer == outlook.groups[group].leader ? 0 : 1, outlook.nodes[right.node].replicas,
                            right.node
                        )
                }
            guard let leaver, let best = outlook.bestNode(for: group, insteadOf: leaver.peer),
                !outlook.nodes[best].node.zone.isEmpty, outlook.sharingZone(members, with: best) == 0
            else { continue }
            let reason =
                "zones: group \(outlook.groups[group].name) has more than one replica in zone "
                + "\(outlook.zone(of: leaver.peer)): the one on node \(outlook.nodes[leaver.node].node.id) goes to "
                + outlook.described(best)
            order(.begin(outlook.replacement(of: leaver.peer, in: group, by: best), reason: reason), &round)
        }
    }

    mutating func spreadReplicas(_ round: inout Round) {
        while round.operationsLeft > 0, let swap = bestSwap(round) {
            let outlook = round.outlook
            let reason =
                "replicas: node \(outlook.nodes[swap.from].node.id) has \(outlook.nodes[swap.from].replicas): its one "
                + "of group \(outlook.groups[swap.group].name) goes to \(outlook.described(swap.to))"
            order(.begin(outlook.replacement(of: swap.leaver, in: swap.group, by: swap.to), reason: reason), &round)
        }
    }

    /// A change passes through a joint stage in which a foreign member has a say: that is left to its operator.
    private func mayChange(_ group: Int, _ round: Round) -> Bool {
        round.outlook.isCalm(group) && !round.outlook.hasForeigners(group)
            && !memory.isResting(members: round.outlook.groups[group].name, settings.cooldown, round.now)
    }

    /// The swap between the two nodes whose numbers of replicas are farthest apart and that have a group for it, whose
    /// zones are not worse afterwards; one that is led elsewhere if possible, the smallest. A replica that came of late stays.
    private func bestSwap(_ round: Round) -> (from: Int, to: Int, group: Int, leaver: PeerID)? {
        let outlook = round.outlook
        let usable = outlook.nodes.indices.filter { outlook.nodes[$0].isUsable }
        let byFewest = usable.sorted { (outlook.nodes[$0].replicas, $0) < (outlook.nodes[$1].replicas, $1) }
        guard let fewest = byFewest.first else { return nil }
        let least = outlook.nodes[fewest].replicas + settings.replicaDifference
        for from in byFewest.reversed() where outlook.nodes[from].replicas >= least {
            let address = outlook.nodes[from].node.address
            func cost(_ group: Int) -> (Int, UInt64, Int) {
                let group = (members: outlook.groups[group], position: group)
                return (group.members.leader?.address == address ? 1 : 0, group.members.bytes, group.position)
            }
            let groups = outlook.groups.indices.filter { group in
                guard let leaver = outlook.member(of: group, on: from), mayChange(group, round) else { return false }
                return !memory.isResting(
                    placeOf: leaver, in: outlook.groups[group].name, settings.stay, round.now)
            }.sorted { cost($0) < cost($1) }
            for to in byFewest
            where outlook.nodes[from].replicas - outlook.nodes[to].replicas >= settings.replicaDifference {
                for group in groups where outlook.mayHold(group, to) {
                    guard let leaver = outlook.member(of: group, on: from) else { continue }
                    let others = outlook.groups[group].members.filter { $0 != leaver }
                    if outlook.sharingZone(others, with: to) <= outlook.sharingZone(others, with: from) {
                        return (from, to, group, leaver)
                    }
                }
            }
        }
        return nil
    }
}

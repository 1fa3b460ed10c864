import RaftCore
import ShardMap

// Rules 1 and 2: nodes that drain and nodes that are silent lose what they have.

extension Scheduler {
    mutating func emptyNodes(_ round: inout Round) {
        let nodes = round.outlook.nodes
        for node in nodes.indices where nodes[node].node.isDraining {
            empty(node, "drain: node \(nodes[node].node.id) is draining", &round)
        }
        for node in nodes.indices where !nodes[node].node.isDraining && settings.repairAfter < nodes[node].silence {
            let minutes = nodes[node].silence.milliseconds / 60_000
            empty(node, "repair: node \(nodes[node].node.id) has been silent for \(minutes) min", &round)
        }
    }

    private mutating func empty(_ node: Int, _ cause: String, _ round: inout Round) {
        for group in round.outlook.groups.indices {
            guard let leaver = round.outlook.member(of: group, on: node),
                !round.outlook.groups[group].isChanging,
                !memory.isResting(members: round.outlook.groups[group].name, settings.retry, round.now)
            else { continue }
            if !handOver(group, from: leaver, cause, &round) { replace(leaver, of: group, on: node, cause, &round) }
        }
    }

    /// Whether the leadership goes first, so that the group need not elect anybody when its leader leaves. That is tried
    /// once: a leader that cannot hand over leaves all the same.
    private mutating func handOver(_ group: Int, from leaver: PeerID, _ cause: String, _ round: inout Round) -> Bool {
        let outlook = round.outlook
        let name = outlook.groups[group].name
        if memory.isTransferring(name) { return true }
        guard outlook.groups[group].leader == leaver, outlook.isUp(leaver, in: group),
            !memory.isResting(leaderOf: name, settings.cooldown, round.now),
            let heir = outlook.bestLeader(for: group), let node = outlook.node(of: heir)
        else { return false }
        guard round.transfersLeft > 0 else { return true }
        let leaderships = outlook.nodes[node].leaderships
        let reason =
            "\(cause): the leadership of group \(name) goes to node \(outlook.nodes[node].node.id), which has the "
            + "fewest of the group's nodes (\(leaderships))"
        order(.transfer(group: name, to: heir, reason: reason), &round)
        return true
    }

    private mutating func replace(
        _ leaver: PeerID, of group: Int, on node: Int, _ cause: String, _ round: inout Round
    ) {
        let outlook = round.outlook
        let name = outlook.groups[group].name
        let voters = outlook.voters(of: group)
        func block(_ why: String) {
            blocked.append(
                Blocked(
                    node: outlook.nodes[node].node.id, group: name,
                    reason: "\(cause), but its replica of group \(name) stays: \(why)"))
        }
        guard voters.up > voters.all / 2 else {
            return block(
                "\(voters.up) of its \(voters.all) voters are up, and without a majority "
                    + "its members cannot be changed; start the others' nodes again")
        }
        guard outlook.groups[group].leader != nil else {
            return block("the group has no leader at present, see raftctl why \(name)")
        }
        guard let best = outlook.bestNode(for: group, insteadOf: leaver) else {
            let isGuest = outlook.nodes.contains { $0.isUsable && $0.guests.contains(name) }
            return block(
                "no other node is up, not draining and without a replica of it"
                    + (isGuest ? " or of another program's group of that name" : "") + "; start another node")
        }
        guard round.operationsLeft > 0 else { return }
        let reason = "\(cause): its replica of group \(name) goes to \(outlook.described(best))"
        order(.begin(outlook.replacement(of: leaver, in: group, by: best), reason: reason), &round)
    }
}

import RaftCore

// Rule 5: as many leaderships on each node.

extension Scheduler {
    mutating func spreadLeaderships(_ round: inout Round) {
        while round.transfersLeft > 0, let transfer = bestTransfer(round) {
            let nodes = round.outlook.nodes
            let name = round.outlook.groups[transfer.group].name
            let reason =
                "leaders: node \(nodes[transfer.from].node.id) leads \(nodes[transfer.from].leaderships) groups: the "
                + "leadership of group \(name) goes to node \(nodes[transfer.to].node.id), which leads "
                + "\(nodes[transfer.to].leaderships)"
            order(.transfer(group: name, to: transfer.heir, reason: reason), &round)
        }
    }

    /// The transfer between the two nodes whose numbers of leaderships are farthest apart and that have a group for it.
    private func bestTransfer(_ round: Round) -> (from: Int, to: Int, group: Int, heir: PeerID)? {
        let outlook = round.outlook
        let usable = outlook.nodes.indices.filter { outlook.nodes[$0].isUsable }
        let byFewest = usable.sorted { (outlook.nodes[$0].leaderships, $0) < (outlook.nodes[$1].leaderships, $1) }
        let mean = Double(usable.reduce(0) { $0 + outlook.nodes[$1].leaderships }) / Double(max(usable.count, 1))
        func isWorthwhile(_ from: Int, _ to: Int) -> Bool {
            let difference = outlook.nodes[from].leaderships - outlook.nodes[to].leaderships
            return difference >= settings.leadershipDifference && Double(difference) > settings.leadershipShare * mean
        }
        guard let fewest = byFewest.first else { return nil }
        for from in byFewest.reversed() where isWorthwhile(from, fewest) {
            let address = outlook.nodes[from].node.address
            let led = outlook.groups.indices.filter { group in
                outlook.groups[group].leader?.address == address && outlook.isCalm(group)
                    && !memory.isResting(leaderOf: outlook.groups[group].name, settings.cooldown, round.now)
            }
            for to in byFewest where isWorthwhile(from, to) {
                for group in led {
                    if let heir = outlook.member(of: group, on: to), heir.role == .replica {
                        return (from, to, group, heir)
                    }
                }
            }
        }
        return nil
    }
}

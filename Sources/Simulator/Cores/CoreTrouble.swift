import RaftCore

// What clients, operators and misfortune do to a cluster.

extension CoreCluster {
    /// Whoever leads, as far as it knows; of several the one of the highest term.
    var leader: Int? {
        var best: Int?
        for node in nodes.indices where nodes[node].isUp && nodes[node].raft.isLeader {
            if best == nil || nodes[node].raft.term > nodes[best!].raft.term { best = node }
        }
        return best
    }

    var upNodes: [Int] { nodes.indices.filter { nodes[$0].isUp } }

    mutating func pick<T>(_ choices: [T]) -> T? {
        choices.isEmpty ? nil : choices[Int(random.number(in: 0..<Int64(choices.count)))]
    }

    mutating func isLikely(_ perMille: Int64) -> Bool { random.number(in: 0..<1000) < perMille }

    // MARK: Clients

    /// Proposes new entries of `size` bytes at `node`, if it hears proposals.
    mutating func propose(_ count: Int, size: Int = 64, at node: Int) {
        let values = (0..<count).map { _ in
            nextValue += 1
            return CoreEntry(term: .zero, kind: .data, value: nextValue, size: size)
        }
        propose(values, at: node)
    }

    mutating func propose(_ values: [CoreEntry], at node: Int) {
        guard nodes[node].isUp, nodes[node].pausedUntil <= time, nodes[node].raft.acceptsProposals else { return }
        step(node, .proposed(count: values.count), values: values)
    }

    /// Asks a node that has the state to read.
    mutating func read(at node: Int, lease: Bool) {
        guard nodes[node].isUp, nodes[node].pausedUntil <= time, !nodes[node].isWitness else { return }
        step(node, .readRequested(judge.beginRead(), lease: lease))
    }

    // MARK: Misfortune

    mutating func pause(_ node: Int, milliseconds: Range<Int64>) {
        nodes[node].pausedUntil = max(nodes[node].pausedUntil, time + random.number(in: milliseconds) * 1_000_000)
    }

    mutating func stallDisk(_ node: Int, milliseconds: Range<Int64>) {
        nodes[node].diskStalledUntil = time + random.number(in: milliseconds) * 1_000_000
    }

    /// Cuts the nodes in two, sometimes in one direction only.
    mutating func partition() {
        severed = []
        let sides = nodes.map { _ in random.number(in: 0..<2) }
        let isOneWay = isLikely(250)
        for from in nodes.indices {
            for to in nodes.indices where sides[from] < sides[to] || (!isOneWay && sides[from] > sides[to]) {
                sever(from, to)
            }
        }
    }

    /// Cuts a node off, sometimes only what it hears or what it says.
    mutating func isolate(_ node: Int) {
        severed = []
        let (hears, speaks) = (isLikely(200), isLikely(200))
        for other in nodes.indices where other != node {
            if !hears { sever(other, node) }
            if !speaks { sever(node, other) }
        }
    }

    /// Lets two nodes not talk to each other.
    mutating func cutLink(_ one: Int, _ other: Int) {
        sever(one, other)
        sever(other, one)
    }

    // MARK: Operators

    /// Asks the leader for another membership; returns the number of the change.
    @discardableResult
    mutating func change(to target: Configuration, at node: Int) -> UInt64 {
        let change = nextNumber
        nextNumber += 1
        changes[change] = target
        step(node, .membershipRequested(change, target))
        return change
    }

    /// A random next membership: some join, some leave, some change their duty.
    mutating func nextMembership(after present: Configuration) -> Configuration {
        var peers = present.peers
        var learners = present.learners
        for _ in 0..<random.number(in: 1..<4) {
            switch random.number(in: 0..<9) {
            case 0..<2 where nodes.count < 14 && peers.count < 6: peers.append(addNode())
            case 2 where nodes.count < 14 && peers.count > 2: peers.append(addNode(role: .witness))
            case 3 where nodes.count < 14 && learners.count < 2: learners.append(addNode(role: .learner))
            case 4..<7 where peers.count > 1: peers.remove(at: Int(random.number(in: 0..<Int64(peers.count))))
            case 7 where !learners.isEmpty:
                let learner = learners.removeFirst()
                peers.append(PeerID(address: learner.address, idx: learner.idx))
            case 8 where peers.count > 2:
                let voter = peers.remove(at: Int(random.number(in: 0..<Int64(peers.count))))
                if voter.role == .replica { learners.append(voter) }
            default: break
            }
        }
        // else the state machines alone could not elect a leader when witnesses hold more of the log than any of them
        let witnesses = peers.filter { $0.role == .witness }.count
        guard 2 * witnesses < peers.count else { return present }
        return Configuration(peers: peers, learners: learners)
    }

    /// Asks for a change, if none is under way or it `waits` for none.
    mutating func changeSomewhere(waits: Bool = true) {
        guard let leader, nodes[leader].pausedUntil <= time else { return }
        guard !waits || !nodes[leader].raft.isChangingMembership else { return }
        let present = nodes[leader].raft.configuration
        guard !waits || !present.isJoint else { return }
        let target = nextMembership(after: present)
        // the new nodes were started in between, and the leader may have been told so
        guard nodes[leader].isUp else { return }
        change(to: target, at: leader)
    }

    /// Asks for a change to a membership without this one; false if there is none to be asked for now.
    private mutating func dismissSomebody(_ node: Int) -> Bool {
        guard let leader, nodes[leader].pausedUntil <= time, !nodes[leader].raft.isChangingMembership else {
            return false
        }
        let present = nodes[leader].raft.configuration
        let peers = present.peers.filter { $0 != nodes[node].id }
        guard peers.count < present.peers.count, peers.contains(where: { $0.role == .replica }) else { return false }
        change(to: Configuration(peers: peers, learners: present.learners), at: leader)
        return true
    }

    /// Whether anybody, as far as it knows, has to do with `node`'s replica.
    func isNeeded(_ node: Int) -> Bool {
        let id = nodes[node].id
        return nodes.contains { other in
            guard other.standing != .gone, other.id != id else { return false }
            if other.isUp, other.raft.targetConfiguration?.contains(id) == true { return true }
            return other.raft.configurations.contains { $0.configuration.contains(id) }
                || other.disk.log.configurations.contains { $0.configuration.contains(id) }
        }
    }

    /// Takes those away that have left.
    mutating func removeLeavers() {
        for node in nodes.indices where nodes[node].standing != .gone && node != leader && !isNeeded(node) {
            // the last one of all is needed by nobody else
            if nodes[node].raft.configuration.members != [nodes[node].id] { remove(node) }
        }
    }

    /// Destroys a majority of the voters, and makes the fittest survivor a group of its own, as an operator would.
    mutating func loseMajority() {
        guard let leader, !nodes[leader].raft.configuration.isJoint else { return }
        let voters = nodes[leader].raft.configuration.peers.map(Self.position(of:)).filter { nodes[$0].isUp }
        let all = nodes[leader].raft.configuration.peers.count
        let fit = voters.filter { !nodes[$0].isWitness && $0 != leader }
        guard all >= 3, voters.count == all, !fit.isEmpty else { return }
        judge.isMajorityLost = true
        let lucky = fit[Int(random.number(in: 0..<Int64(fit.count)))]
        let isSpared = { (node: Int) in node == lucky || (all > 4 && node == fit[0]) }
        for node in voters where !isSpared(node) { remove(node) }
        run(milliseconds: 4000)
        var best = lucky
        for node in fit where nodes[node].isUp && nodes[node].last > nodes[best].last { best = node }
        for node in nodes.indices where node != best { remove(node) }
        start(best)
        nodes[best].pausedUntil = 0
        run(milliseconds: 4000)
        judge.loseMajority(but: nodes[best])
        let id = nodes[best].id
        let target = Configuration(peers: [PeerID(address: id.address, idx: id.idx)])
        for _ in 0..<20 where !nodes[best].raft.isLeader {
            let order = nextNumber
            nextNumber += 1
            step(best, .resetRequested(order, target))
            judge.check(outcomes[order] != nil, "ChangesAreDone", "an order without an answer", at: time)
            run(milliseconds: 3000)
        }
        judge.check(nodes[best].raft.isLeader, "Heals", "the survivor does not lead", at: time)
        judge.isMajorityLost = false
        faults.lost = 0
    }

    // MARK: A life

    /// Some time in the life of a cluster: every now and then somebody does something. Where misfortune is mixed with the
    /// rest it comes in spells, else there would seldom be a leader to suffer it.
    mutating func suffer(_ life: CoreLife) {
        let end = time + life.milliseconds * 1_000_000
        var isDoomed = life.losesMajority
        while time < end, judge.violation == nil {
            if isDoomed, time > end - life.milliseconds * 500_000 {
                isDoomed = false
                loseMajority()
            }
            guard let node = pick(upNodes) else {
                run(milliseconds: 50)
                continue
            }
            let isRough = !life.comesInSpells || time / 1_000_000 % 4000 < 1500
            if !isRough { severed = [] }
            if let deed = draw(life.deeds), isRough || !deed.isMisfortune { act(deed, on: node) }
            run(milliseconds: random.number(in: life.between))
        }
    }

    private mutating func draw(_ deeds: [(deed: CoreLife.Deed, perMille: Int64)]) -> CoreLife.Deed? {
        var place = random.number(in: 0..<1000)
        for (deed, perMille) in deeds {
            if place < perMille { return deed }
            place -= perMille
        }
        return nil
    }

    private mutating func act(_ deed: CoreLife.Deed, on node: Int) {
        let isAwake = nodes[node].pausedUntil <= time
        switch deed {
        case .propose: for leader in leaders { propose(Int(random.number(in: 1..<6)), at: leader) }
        case .readByLease: for leader in leaders { read(at: leader, lease: true) }
        case .read: for leader in leaders { read(at: leader, lease: false) }
        case .readAnywhere: read(at: node, lease: isLikely(500))
        case .partition: partition()
        case .mend: severed = []
        case .isolateLeader: if let leader { isolate(leader) }
        case .crash: crash(node)
        case .crashLeader: if let leader { crash(leader) }
        case .crashOthers: for other in upNodes where other != leader { crash(other) }
        case .handOver: if isAwake { step(node, .transferRequested(nil)) }
        case .transfer:
            if let leader, let target = pick(nodes[leader].raft.configuration.peers) { transfer(to: target) }
        case .stepDown: if isAwake { step(node, .stepDownRequested) }
        case .stepDownLeader: for leader in leaders { step(leader, .stepDownRequested) }
        case .disconnect: if isAwake { step(node, .connectionLost(nodes[0].id.address)) }
        case .pause: pause(node, milliseconds: 1..<3000)
        case .pauseLeader: if let leader { pause(leader, milliseconds: 500..<4000) }
        case .stallDisk: stallDisk(node, milliseconds: 10..<3000)
        case .flush: if isAwake { flush(node) }
        case .compact: if isAwake { compactSomewhere(node) }
        case .change: changeSomewhere()
        case .changeAnyway: changeSomewhere(waits: false)
        case .removeLeavers: removeLeavers()
        case .damage: damageWhileRunning(node)
        case .cutLink: if let leader, node != leader { cutLink(leader, node) }
        case .loseChange: if let leader, dismissSomebody(node) { isolate(leader) }
        case .retireLeader:
            guard let leader, dismissSomebody(leader) else { return }
            // what it says last is lost with it
            run(milliseconds: 500) { !$0.nodes[leader].raft.isLeader }
            for other in nodes.indices where other != leader { sever(leader, other) }
            flush(leader)
            crash(leader)
        }
    }

    /// All who believe that they lead.
    private var leaders: [Int] { upNodes.filter { nodes[$0].raft.isLeader && nodes[$0].pausedUntil <= time } }

    private mutating func transfer(to target: PeerID) {
        guard let leader, nodes[leader].pausedUntil <= time else { return }
        step(leader, .transferRequested(target))
    }

    private mutating func compactSomewhere(_ node: Int) {
        let applied = nodes[node].state.index
        let held = Int64(nodes[node].log.base.index.distance(to: applied))
        guard held > 0 else { return }
        compact(node, through: applied.advanced(by: -Int(random.number(in: 0..<min(held, 8)))))
    }

    /// Ends all trouble.
    mutating func heal() {
        faults = Faults()
        pausesBeforeJudging = 0
        severed = []
        for node in nodes.indices {
            nodes[node].pausedUntil = min(nodes[node].pausedUntil, time)
            nodes[node].diskStalledUntil = min(nodes[node].diskStalledUntil, time)
            start(node)
        }
    }
}

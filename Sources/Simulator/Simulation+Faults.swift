import RaftCore
import RaftHost
import RaftStorage
import Transport

extension Simulation {
    /// Begins `fault`; it ends by itself.
    func strike(_ fault: Fault) {
        guard fault.node <= nodes.count, fault.other <= nodes.count else { return }
        tell("fault \(fault)")
        faultCounts[fault.kind, default: 0] += 1
        let node = nodes[fault.node - 1]
        switch fault.kind {
        case .loss, .duplicate, .delay, .reorder, .oneway, .partition:
            strikeNetwork(fault, node, nodes[fault.other - 1])
        case .clockJump, .drift: strikeClock(fault, node)
        case .unsyncedLost, .tornWrite, .bitRot, .readError, .fsyncError, .diskFull, .slowDisk, .hangingDisk:
            strikeDisk(fault, node)
        case .crash: crash(fault, node)
        case .pause: world.pause(node.address, for: .milliseconds(fault.milliseconds))
        case .stall: world.stall(node.address, for: .milliseconds(fault.milliseconds))
        case .transfer: transfer(fault)
        case .stop:
            node.stop()
            let life = node.life
            later(2500 + fault.milliseconds) { [self] in
                if node.life == life { restartLater(node, .nothing, after: 1) }
            }
        case .churn: churn(fault)
        case .operate: operate(fault)
        case .schedule: schedule(fault)
        }
    }

    // MARK: the network

    private func strikeNetwork(_ fault: Fault, _ node: SimulatedNode, _ other: SimulatedNode) {
        guard node !== other else { return }
        switch fault.kind {
        case .oneway: cut([(node, other)], for: fault.milliseconds)
        case .partition:
            let side = fault.amount >> 2 & (1 << nodes.count - 1)
            // one link only, now and then, and when a side would be empty
            let isPartial = fault.amount & 3 == 0 || side == 0 || side == 1 << nodes.count - 1
            var links: [(SimulatedNode, SimulatedNode)] = []
            for one in nodes {
                for another in nodes where one !== another {
                    let isBetween =
                        isPartial
                        ? [one.number, another.number].sorted() == [node.number, other.number].sorted()
                        : (side >> (one.number - 1)) & 1 != (side >> (another.number - 1)) & 1
                    if isBetween { links.append((one, another)) }
                }
            }
            cut(links, for: fault.milliseconds)
        default: disturb(fault, node, other)
        }
    }

    private func cut(_ links: [(SimulatedNode, SimulatedNode)], for milliseconds: Int) {
        for (from, to) in links { world.cut(from: from.address, to: to.address) }
        later(milliseconds) { [self] in
            for (from, to) in links { world.heal(from: from.address, to: to.address) }
        }
    }

    private func disturb(_ fault: Fault, _ node: SimulatedNode, _ other: SimulatedNode) {
        var disturbance = SimulatedWorld.Disturbance()
        let oneOf = Int64(1 + fault.amount % 10)
        switch fault.kind {
        case .loss: disturbance.lossOneOf = oneOf
        case .duplicate:
            disturbance.duplicateOneOf = oneOf
            // every other time long after the first
            if fault.amount % 2 == 0 {
                disturbance.duplicateDelay = 0..<2_000_000_000
                keys.hasLateCopies = true
            }
        case .reorder: disturbance.reorderOneOf = oneOf + 1
        default: disturbance.linkDelay = 1_000_000..<Int64(2_000_000 + fault.amount % 300_000_000)
        }
        // clients suffer as nodes do, if the node's own link is meant
        let ends = [other.address] + (fault.amount % 3 == 0 ? clients.map(\.lane.address) : [])
        for end in ends {
            world.disturb(from: node.address, to: end, disturbance)
            world.disturb(from: end, to: node.address, disturbance)
        }
        later(fault.milliseconds) { [self] in
            for end in ends {
                world.disturb(from: node.address, to: end, nil)
                world.disturb(from: end, to: node.address, nil)
                if fault.kind == .loss { world.breakConnections(between: node.address, and: end) }
            }
        }
    }

    // MARK: clocks

    private func strikeClock(_ fault: Fault, _ node: SimulatedNode) {
        if fault.kind == .clockJump {
            // up to a day, back or ahead
            let seconds = fault.amount % 172_800 - 86_400
            world.jumpWallClock(of: node.address, milliseconds: Int64(seconds) * 1000)
        } else {
            world.drift(node.address, partsPerMillion: Int64(fault.amount % 40_001) - 20_000)
        }
    }

    // MARK: disks

    private func strikeDisk(_ fault: Fault, _ node: SimulatedNode) {
        let disk = node.logDisk
        switch fault.kind {
        case .unsyncedLost, .tornWrite:
            guard node.isRunning else { return }
            let loss = fault.kind == .tornWrite ? MemoryDisk.Loss.some : .everything
            disk.failPower(after: fault.amount % 8) { [unowned self] in powerless.append((node, loss)) }
        case .bitRot: rot(fault, node)
        case .readError: disk.failReads(1 + fault.amount % 3)
        case .fsyncError: if node.isRunning { node.failSyncs(after: fault.amount % 5) }
        case .diskFull:
            // at once, or when the log needs its next segment
            disk.copiesOnWrite = fault.amount % 2 == 0
            disk.isFull = true
            later(fault.milliseconds) { disk.isFull = false }
        case .slowDisk:
            world.setJobDelay(of: node.address, 5_000_000..<Int64(6_000_000 + fault.amount % 80_000_000))
            later(fault.milliseconds) { [self] in world.setJobDelay(of: node.address, nil) }
        default: world.holdJobs(of: node.address, for: .milliseconds(fault.milliseconds))
        }
        if fault.kind == .fsyncError { watchForFailure(of: node) }
    }

    /// A process that has given up ends, and is started again.
    private func watchForFailure(of node: SimulatedNode) {
        let life = node.life
        later(20) { [self] in
            guard node.life == life, node.isRunning else { return }
            if node.failure != nil { restartLater(node, .some, after: 100) } else { watchForFailure(of: node) }
        }
    }

    /// Bits turn around in a segment that is not the last: what is in the last one may still pass for a torn tail,
    /// which is the log's stated limit.
    private func rot(_ fault: Fault, _ node: SimulatedNode) {
        let disk = node.logDisk
        guard disk.isSynced, let files = try? disk.list() else { return }
        let segments = files.filter { $0.hasSuffix(".log") }.dropLast()
        guard !segments.isEmpty else { return }
        let name = segments[segments.startIndex + fault.amount % segments.count]
        guard let size = disk.contents(name)?.count, size > 0 else { return }
        rotten.insert(node.number)
        judge.rots(node.number)
        disk.flipBit(name, offset: fault.amount / 7 % size, bit: fault.amount % 8)
        tell("node \(node.number): a bit of \(name) has turned around")
        if fault.amount % 2 == 0 { restartLater(node, .nothing, after: fault.milliseconds) }
    }

    // MARK: nodes

    /// The group's leader is asked to hand over; often it is cut off from the others in the middle of that, but not
    /// from its clients: it learns late that it leads no longer.
    private func transfer(_ fault: Fault) {
        let group = groupNames[fault.amount % groupNames.count]
        guard let leader = nodes.first(where: { $0.leads(group) }), let host = leader.host else { return }
        let target = nodes[fault.other - 1]
        let member = host.raft(of: group)?.configuration.members.first { $0.address == target.address }
        let peer = target === leader ? nil : member ?? target.peer
        leader.lane.post { host.transferLeadership(of: group, to: peer) }
        guard fault.amount & 8 != 0 else { return }
        later((fault.amount >> 4) % 6) { [self] in
            let links = nodes.filter { $0 !== leader }.map { (leader, $0) }
            cut(links + links.map { ($0.1, $0.0) }, for: fault.milliseconds)
        }
    }

    /// Kills a process, every other time in the middle of a write: what the disk has not synced is found by the next
    /// one.
    private func crash(_ fault: Fault, _ node: SimulatedNode) {
        guard node.isRunning, fault.amount % 2 == 0 else {
            return restartLater(node, .nothing, after: fault.milliseconds)
        }
        node.logDisk.failPower(after: fault.amount / 2 % 8) { [unowned self] in powerless.append((node, .nothing)) }
    }

    /// Ends the process of a node, if there is one, and starts another after a while.
    func restartLater(_ node: SimulatedNode, _ loss: MemoryDisk.Loss, after milliseconds: Int) {
        guard node.isRunning else { return }
        node.crash(loss)
        later(milliseconds) { [self] in start(node) }
    }

    /// Starts a node that is down; if that fails, again and again.
    private func start(_ node: SimulatedNode) {
        guard !node.isRunning else { return }
        do {
            try node.start(driftPartsPerMillion: random.number(in: -20_000..<20_001))
        } catch {
            tell("node \(node.number) cannot start: \(error)")
            if rotten.contains(node.number), isDamage(error) { return }
            later(300) { [self] in start(node) }
        }
    }

    /// Whether nothing will help.
    private func isDamage(_ error: any Error) -> Bool {
        if error is SimulatedNode.NodeRecordDamaged { return true }
        if case .damaged? = error as? StorageError { return true }
        return false
    }

    /// Ends all faults, and starts every process anew that has given up, is stopping, or has met a fault of its disk.
    func endFaults() {
        world.healAll()
        world.calm()
        agenda = []
        for node in nodes {
            node.logDisk.isFull = false
            node.logDisk.failReads(0)
            world.setJobDelay(of: node.address, nil)
            world.pause(node.address, for: .milliseconds(0))
            world.holdJobs(of: node.address, for: .milliseconds(0))
            let isHurt = groupNames.contains { node.status(of: $0)?.problem != nil }
            if node.isRunning, node.mayFail || node.isStopping || isHurt { node.crash(.some) }
            // a power failure that has not come yet will not
            if node.isRunning { node.logDisk.failPower(after: .max) {} }
        }
        for one in nodes + [] {
            for another in nodes where one !== another {
                world.breakConnections(between: one.address, and: another.address)
            }
        }
        for node in nodes where !node.isRunning { start(node) }
    }
}

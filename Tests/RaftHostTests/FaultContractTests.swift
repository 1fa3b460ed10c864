import RaftCore
import RaftStorage
import Simulator
import Testing
import Transport

@testable import RaftHost

@Suite("What a disk may do to a node, and what comes of it")
struct FaultContractTests {
    private func cluster(
        seed: UInt64, size: Int = 3, groups: [String] = ["g0"], _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> HostCluster {
        var plan = HostCluster.Plan()
        (plan.size, plan.groups) = (size, groups)
        change(&plan)
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    /// Logs that are compacted after a few dozen entries.
    private func compacting(_ plan: inout HostCluster.Plan) {
        plan.flushesOneOf = 2
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.settings.snapshotChunkBytes = 4 << 10
        plan.settings.snapshotBytesPerSecond = 1_000_000
    }

    private func command(_ tag: UInt64) -> Bytes { Command.payload(tag: tag &* 0x9e37_79b9_7f4a_7c15, byteCount: 200) }

    private func write(_ tags: ClosedRange<UInt64>, to position: Int = 0, _ cluster: HostCluster) throws {
        for tag in tags {
            let leader = try #require(cluster.leader(of: position))
            #expect(cluster.propose(command(tag), to: position, on: leader)?.position != nil, "\(tag)")
        }
    }

    private func isCaughtUp(_ node: SimulatedNode, _ cluster: HostCluster, _ position: Int = 0) -> Bool {
        node.machines[position].appliedPosition.index == cluster.histories[position].lastIndex
    }

    private func base(_ node: SimulatedNode) -> LogIndex { node.host.raft(of: "g0")?.base.index ?? .zero }

    /// A node that was away for so long that the others have compacted what it lacks.
    private func late(_ cluster: HostCluster) throws -> SimulatedNode {
        let late = try #require(cluster.nodes.last { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        try write(1...150, cluster)
        cluster.run(.milliseconds(1000))
        #expect(base(try #require(cluster.leader(of: 0))) > LogIndex(60))
        return late
    }

    // MARK: no room

    @Test("All disks full at once: nothing acknowledged is lost, reads go on, and writes do when there is room")
    func allFull() throws {
        let cluster = try cluster(seed: 1)
        try write(1...10, cluster)
        for node in cluster.nodes { node.logDisk.isFull = true }
        var acknowledged = Set(1...10 as ClosedRange<UInt64>)
        var outcomes: [UInt64: ProposalOutcome] = [:]
        for tag in 11...600 as ClosedRange<UInt64> {
            guard let leader = cluster.leader(of: 0) else { continue }
            leader.lane.post { [host = leader.host!, payload = command(tag)] in
                host.propose(payload, to: "g0") { outcomes[tag] = $0 }
            }
            cluster.run(.milliseconds(20))
        }
        #expect(outcomes.values.contains { $0.refusal == .diskFull })
        #expect(cluster.nodes.allSatisfy { $0.failure == nil })
        if let leader = cluster.leader(of: 0) {
            #expect(cluster.read(on: leader)?.value == leader.machines[0].appliedPosition.index.description)
        }
        for node in cluster.nodes { node.logDisk.isFull = false }
        cluster.run(.milliseconds(2000))
        cluster.awaitLeaders()
        try write(1001...1005, cluster)
        #expect(cluster.run(limit: 20_000) { cluster.nodes.allSatisfy { isCaughtUp($0, cluster) } })
        for (tag, outcome) in outcomes where outcome.position != nil { acknowledged.insert(tag) }
        let applied = Set(cluster.histories[0].entries.map(\.tag))
        #expect(acknowledged.allSatisfy { applied.contains(Command.tag(of: command($0))) })
        #expect(cluster.nodes.allSatisfy { $0.failure == nil } && cluster.allViolations == [])
    }

    @Test("No room for a snapshot that comes: it is given up, and comes again when there is; the node is unharmed")
    func noRoomToReceive() throws {
        let cluster = try cluster(seed: 2, compacting)
        let late = try late(cluster)
        let lines = LockedLines()
        late.settings.logger = Logger(level: .info) { lines.append($0) }
        try late.start()
        #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= 3 })
        late.snapshotDisk.isFull = true
        #expect(cluster.run(limit: 20_000) { lines.count(containing: "snapshot given up") > 0 })
        cluster.run(.milliseconds(1000))
        #expect(try late.snapshotDisk.folders() == [])
        try write(151...160, cluster)
        // not for ever anew: a pause lies between
        cluster.run(.milliseconds(20_000))
        #expect(lines.count(containing: "snapshot given up") <= 6)
        #expect(late.failure == nil && late.host.receiving.order.count <= 1)
        late.snapshotDisk.isFull = false
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(lines.count(containing: "no space left") > 0)
        #expect(cluster.allViolations == [])
    }

    @Test("No room for a snapshot to be sent: it is tried again until there is, and the sender leads on")
    func noRoomToSend() throws {
        let cluster = try cluster(seed: 3, compacting)
        let late = try late(cluster)
        let sender = try #require(cluster.leader(of: 0))
        sender.snapshotDisk.isFull = true
        try late.start()
        cluster.run(.milliseconds(15_000))
        #expect(!isCaughtUp(late, cluster) && sender.leads(0) && sender.failure == nil)
        #expect(try sender.snapshotDisk.folders().count <= 1)
        try write(151...160, cluster)
        sender.snapshotDisk.isFull = false
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(cluster.allViolations == [])
    }

    // MARK: a device that fails

    @Test("A write that fails ends the node, as a failed sync does; it comes back with all that it acknowledged")
    func failedWrite() throws {
        let cluster = try cluster(seed: 4)
        try write(1...10, cluster)
        let leader = try #require(cluster.leader(of: 0))
        // none of its syncs fails, but the simulation has to know that this disk is not sound
        leader.failSyncs(after: .max)
        leader.logDisk.failWrites(1)
        var outcome: ProposalOutcome?
        leader.lane.post { leader.host.propose(command(11), to: "g0") { outcome = $0 } }
        #expect(cluster.run(limit: 5000) { leader.failure != nil })
        #expect(leader.failure?.contains("the log cannot be written") == true)
        cluster.run(.milliseconds(500))
        guard case .unknown = outcome else {
            Issue.record("nobody can say what becomes of it: \(String(describing: outcome))")
            return
        }
        leader.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        try write(12...15, cluster)
        try leader.start()
        #expect(cluster.run(limit: 20_000) { isCaughtUp(leader, cluster) && leader.status(0)?.problem == nil })
        #expect(cluster.allViolations == [])
    }

    @Test("A device that reads nothing any more costs a leader its leadership, and nobody a write")
    func failedReads() throws {
        let cluster = try cluster(seed: 5) {
            $0.flushesOneOf = .max
            $0.settings.tailBytes = 1 << 10
        }
        let late = try #require(cluster.nodes.first { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        try write(1...30, cluster)
        let hurt = try #require(cluster.leader(of: 0))
        hurt.logDisk.failReads(.max)
        try late.start()
        let whole = cluster.nodes.filter { $0 !== hurt }
        #expect(cluster.run(limit: 90_000) { whole.allSatisfy { isCaughtUp($0, cluster) } })
        #expect(!hurt.leads(0) && hurt.failure == nil)
        cluster.awaitLeaders()
        try write(31...35, cluster)
        hurt.logDisk.failReads(0)
        #expect(
            cluster.run(limit: 90_000) {
                isCaughtUp(hurt, cluster) && hurt.status(0)?.debt == nil && hurt.status(0)?.problem == nil
            })
        #expect(cluster.allViolations == [])
    }

    // MARK: rot

    @Test("Rot in a hard state: the replica does not take part, and says why; its group and the other groups serve on")
    func lostPromises() throws {
        let cluster = try cluster(seed: 6, groups: ["hurt", "well"]) { $0.log.segmentBytes = 1 << 20 }
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        let number = try #require(hurt.host.records.first { $0.group == "hurt" }).number
        try write(1...5, cluster)
        try write(1...5, to: 1, cluster)
        cluster.run(.milliseconds(500))
        hurt.crash()
        try rotHardState(of: number, on: hurt.logDisk)
        try hurt.start()
        let status = try #require(hurt.host.status(of: "hurt"))
        #expect(status.state == "damaged" && status.problem?.contains("damaged at offset") == true)
        cluster.run(.milliseconds(3000))
        #expect(hurt.host.status(of: "hurt")?.term == status.term, "it votes in no term")
        try write(6...10, cluster)
        try write(6...10, to: 1, cluster)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster, 1) })
        #expect(!hurt.leads(0) && hurt.status(1)?.problem == nil)
        #expect(cluster.allViolations == [])
    }

    /// Turns a bit in each hard state of a group that the log holds.
    private func rotHardState(of number: UInt64, on disk: MemoryDisk) throws {
        let name = try #require(try disk.list().first { $0.hasSuffix(".log") })
        let content = try #require(disk.contents(name))
        // a record of kind 1: crc, length, group, term, index 0, kind and three zeros
        let group = (0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) }
        let end: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        let places = content.indices.dropLast(36).filter { place in
            content[place + 8] == group[0] && Array(content[place + 8..<place + 16]) == group
                && Array(content[place + 24..<place + 36]) == end
        }
        try #require(!places.isEmpty)
        for place in places { disk.flipBit(name, offset: place + 16) }
    }

    @Test("A state that is gone while the log no longer has it all: that replica serves nothing, and nobody is harmed")
    func lostState() throws {
        let cluster = try cluster(seed: 7, compacting)
        try write(1...150, cluster)
        cluster.run(.milliseconds(1000))
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        #expect(base(hurt) > .zero)
        hurt.crash()
        (hurt.stores[0].durable, hurt.stores[0].configuration) = (.zero, .empty)
        try hurt.start()
        let status = try #require(hurt.status(0))
        #expect(status.state == "damaged" && status.problem?.contains("the log begins behind") == true)
        try write(151...160, cluster)
        #expect(!hurt.leads(0) && hurt.failure == nil && cluster.allViolations == [])
    }

    // MARK: slow and far

    @Test("A leader with a slow disk leads on, and a follower with one keeps nobody waiting", arguments: [true, false])
    func slowDisk(isLeader: Bool) throws {
        let cluster = try cluster(seed: 8)
        cluster.run(.milliseconds(2000))
        let leader = try #require(cluster.leader(of: 0))
        let slow = try #require(cluster.nodes.first { ($0 === leader) == isLeader })
        cluster.world.setJobDelay(of: slow.address, 300_000_000..<300_000_001)
        let before = try #require(leader.status(0)).term
        let begin = cluster.world.now
        try write(1...20, cluster)
        // a follower's disk is in nobody's way
        if !isLeader { #expect(cluster.world.now - begin < .milliseconds(20 * 100)) }
        cluster.run(.milliseconds(5000))
        #expect(leader.leads(0) && leader.status(0)?.term == before)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(slow, cluster) })
        #expect(cluster.allViolations == [])
    }
}

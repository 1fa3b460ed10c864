import RaftCore
import RaftStorage
import Simulator
import Testing
import Transport

@testable import RaftHost

@Suite("Compaction, and snapshots for those who fall behind")
struct SnapshotTests {
    /// Logs that are compacted after a few dozen entries, and snapshots that take a while.
    private func plan(_ change: (inout HostCluster.Plan) -> Void = { _ in }) -> HostCluster.Plan {
        var plan = HostCluster.Plan()
        plan.flushesOneOf = 2
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.settings.snapshotChunkBytes = 4 << 10
        plan.settings.snapshotBytesPerSecond = 100_000
        change(&plan)
        return plan
    }

    private func cluster(seed: UInt64, _ change: (inout HostCluster.Plan) -> Void = { _ in }) throws -> HostCluster {
        let cluster = HostCluster(seed: seed, plan: plan(change))
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    private func write(_ count: Int, _ cluster: HostCluster, to position: Int = 0, bytes: Int = 200) {
        for tag in 0..<count {
            guard let leader = cluster.leader(of: position) else { continue }
            let (host, group) = (leader.host!, cluster.histories[position].group)
            let payload = Command.payload(tag: UInt64(tag + 1), byteCount: bytes)
            leader.lane.post { host.propose(payload, to: group) { _ in } }
            cluster.run(.milliseconds(20))
        }
    }

    private func isCaughtUp(_ node: SimulatedNode, _ cluster: HostCluster, _ position: Int = 0) -> Bool {
        node.machines[position].appliedPosition.index == cluster.histories[position].lastIndex
    }

    private func base(_ node: SimulatedNode, _ position: Int = 0) -> LogIndex {
        node.host.raft(of: node.recording.group(at: position))?.base.index ?? .zero
    }

    /// A node that was away for so long that the others have compacted what it lacks.
    private func late(_ cluster: HostCluster, groups: Int = 1) throws -> SimulatedNode {
        let late = try #require(cluster.nodes.last { node in (0..<groups).allSatisfy { !node.leads($0) } })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        for position in 0..<groups { write(150, cluster, to: position) }
        for position in 0..<groups {
            let leader = try #require(cluster.leader(of: position))
            #expect(base(leader, position) > LogIndex(60))
        }
        return late
    }

    @Test("Logs that grow are compacted on every node, and what is left continues what is gone, also after a restart")
    func compaction() throws {
        let cluster = try cluster(seed: 1)
        write(200, cluster)
        cluster.run(.milliseconds(1000))
        for node in cluster.nodes {
            #expect(base(node) > LogIndex(100), "node \(node.number) begins behind \(base(node))")
            let before = base(node)
            node.crash()
            try node.start()
            #expect(node.host.raft(of: "g0")?.base.index == before)
            cluster.awaitLeaders()
        }
        write(20, cluster)
        #expect(cluster.run(limit: 20_000) { cluster.nodes.allSatisfy { isCaughtUp($0, cluster) } })
        #expect(cluster.allViolations == [])
    }

    @Test("Nothing is compacted beyond what the state machine holds durably") func nothingDurable() throws {
        let cluster = try cluster(seed: 2) { $0.flushesOneOf = .max }
        write(200, cluster)
        cluster.run(.milliseconds(3000))
        #expect(cluster.nodes.allSatisfy { base($0) == .zero })
    }

    @Test("Whoever lacks what is compacted gets a snapshot, under a fresh number, and keeps it over a restart")
    func catchUp() throws {
        let cluster = try cluster(seed: 3)
        let late = try late(cluster)
        try late.start()
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        let record = try #require(late.host.records.first)
        #expect(record.store != record.number)
        #expect(base(late) > LogIndex(60))
        write(20, cluster)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(late, cluster) })
        #expect(late.recording.dropped.all == [record.number])
        cluster.run(.milliseconds(2000))
        #expect(try late.snapshotDisk.folders() == [])
        #expect(cluster.nodes.allSatisfy { (try? $0.snapshotDisk.folders()) == [] })
        late.crash()
        try late.start()
        #expect(late.host.records.first?.store == record.store)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(late, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test("A broken connection does not start a snapshot over") func resumes() throws {
        let cluster = try cluster(seed: 4)
        let late = try late(cluster)
        try late.start()
        for _ in 0..<5 {
            let asked = late.host.receiving.piecesAsked
            #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= asked + 3 })
            for node in cluster.nodes where node !== late {
                cluster.world.breakConnections(between: node.address, and: late.address)
            }
        }
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        // what was under way when a connection broke is asked for again: at most four pieces each time, and one that finds
        // no connection yet
        let pieces = 2 * ((50_000 + 4095) / 4096) + 1
        #expect(late.host.receiving.piecesAsked <= pieces + 5 * 5, "\(late.host.receiving.piecesAsked) pieces")
        #expect(cluster.allViolations == [])
    }

    @Test("All snapshots of a node together keep to its budget, several at a time, and the receiver says how many")
    func budget() throws {
        let groups = ["g0", "g1", "g2", "g3"]
        let cluster = try cluster(seed: 5) { $0.groups = groups }
        for position in groups.indices {
            cluster.nodes[0].host.transferLeadership(of: groups[position], to: nil)
        }
        cluster.run(.milliseconds(2000))
        let late = try #require(cluster.nodes.last { node in groups.indices.contains { !node.leads($0) } })
        late.crash()
        cluster.run(.milliseconds(3000))
        cluster.awaitLeaders()
        for position in groups.indices { write(150, cluster, to: position) }
        try late.start()
        let begin = cluster.world.now
        var most = 0
        #expect(
            cluster.run(limit: 120_000) {
                most = max(most, late.host.receiving.order.count(where: { $0.isActive }))
                return groups.indices.allSatisfy { isCaughtUp(late, cluster, $0) }
            })
        #expect(most == 2)
        // 400 KB in all; whoever sends most of them sends at most 100 KB in a second
        let senders = Set(groups.indices.compactMap { cluster.leader(of: $0)?.number })
        let least = Interval.milliseconds(4 * 1000 / max(senders.count, 1) - 200)
        #expect(cluster.world.now - begin >= least, "\(cluster.world.now - begin)")
        #expect(cluster.allViolations == [])
    }

    @Test("Files are written out of the same budget, and nobody waits for more than a step of that")
    func pacedExport() throws {
        let cluster = try cluster(seed: 14)
        let late = try late(cluster)
        let leader = try #require(cluster.leader(of: 0))
        try late.start()
        var begin: Instant?
        var (jobs, others, waits) = (0, 0, false)
        leader.recording.worker("maintenance").onJob = { isDone in if isDone { jobs += 1 } }
        #expect(
            cluster.run(limit: 20_000) {
                guard case .writing? = leader.host.sending.order.first?.phase else { return begin != nil }
                begin = begin ?? cluster.world.now
                guard !waits else { return false }
                waits = true
                leader.lane.post { [host = leader.host!] in
                    host.runAside {
                    } completion: {
                        (others, waits) = (others + 1, false)
                    }
                }
                return false
            })
        // 100 KB in pieces of 4 KB, 100 KB in a second
        let took = cluster.world.now - (try #require(begin))
        #expect(took >= .milliseconds(800) && took <= .milliseconds(1500), "\(took)")
        #expect(jobs - others >= 25 && others >= 25, "\(jobs) jobs, \(others) of others")
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test("A receiver that loses its power at any moment has the old state or the new one", arguments: 1...12)
    func receiverCrashes(seed: UInt64) throws {
        let cluster = try cluster(seed: 100 + seed) {
            $0.settings.snapshotBytesPerSecond = 1_000_000
            $0.flushesOneOf = 4
        }
        let late = try late(cluster)
        var random = SeededRandom(seed: seed)
        for _ in 0..<6 {
            try late.start()
            _ = cluster.run(limit: 20_000) { late.host.receiving.piecesAsked > 0 || isCaughtUp(late, cluster) }
            cluster.run(Interval(nanoseconds: random.number(in: 0..<600_000_000)))
            late.crash()
        }
        try late.start()
        write(20, cluster)
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test("A sender that crashes is replaced by the next leader") func senderCrashes() throws {
        let cluster = try cluster(seed: 6)
        let late = try late(cluster)
        try late.start()
        #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= 5 })
        let sender = try #require(cluster.leader(of: 0))
        sender.crash()
        cluster.run(.milliseconds(500))
        try sender.start()
        #expect(cluster.run(limit: 90_000) { isCaughtUp(late, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test("The log is kept for a snapshot that takes longer than it otherwise would be: one is enough")
    func longSnapshot() throws {
        let cluster = try cluster(seed: 7) {
            $0.settings.snapshotBytesPerSecond = 10_000
            $0.settings.snapshotChunkBytes = 1000
        }
        let late = try late(cluster)
        let lines = LockedLines()
        late.settings.logger = Logger(level: .info) { lines.append($0) }
        try late.start()
        #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= 5 })
        // ten seconds for the snapshot, and more written meanwhile than is ever kept otherwise
        write(300, cluster)
        #expect(late.host.receiving.order.count == 1)
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(lines.count(containing: "snapshot installed") == 1)
        #expect(lines.count(containing: "snapshot wanted") == 1)
        write(100, cluster)
        cluster.run(.milliseconds(1000))
        let leader = try #require(cluster.leader(of: 0))
        #expect(base(leader) > LogIndex(450))
        #expect(cluster.allViolations == [])
    }

    @Test("Whose state is gone votes on, and gets another from its leader that its log goes on from")
    func lostState() throws {
        let cluster = try cluster(seed: 10)
        write(150, cluster)
        cluster.run(.milliseconds(1000))
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        #expect(base(hurt) > .zero)
        let log = try #require(hurt.host.raft(of: "g0")?.lastIndex)
        hurt.crash()
        hurt.stores[0].durable = .zero
        try hurt.start()
        #expect(hurt.status(0)?.state == "damaged" && hurt.status(0)?.problem != nil)
        write(20, cluster)
        #expect(cluster.run(limit: 60_000) { isCaughtUp(hurt, cluster) && hurt.status(0)?.problem == nil })
        let record = try #require(hurt.host.records.first)
        #expect(record.store != record.number && hurt.host.raft(of: "g0")?.lastIndex ?? .zero > log)
        // for good
        hurt.crash()
        try hurt.start()
        #expect(hurt.status(0)?.problem == nil)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster) })
        #expect(cluster.allViolations == [])
    }

    /// Has `leader` want `peer` to have a snapshot.
    private func askAgain(_ leader: SimulatedNode, for peer: SimulatedNode) {
        leader.lane.post { leader.host.sendSnapshot(to: peer.peer, of: leader.host.replicas[0]) }
    }

    @Test("A state is frozen once for a peer, however often that asks while the state machines are busy")
    func frozenOnce() throws {
        let cluster = try cluster(seed: 12)
        write(150, cluster)
        cluster.run(.milliseconds(1000))
        let leader = try #require(cluster.leader(of: 0))
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        hurt.crash()
        hurt.stores[0].durable = .zero
        let lines = LockedLines()
        hurt.settings.logger = Logger(level: .info) { lines.append($0) }
        try hurt.start()
        #expect(cluster.run(limit: 5000) { hurt.status(0)?.leader == leader.peer })
        leader.applyWorker.hangs = true
        for _ in 0..<3 {
            askAgain(leader, for: hurt)
            cluster.run(.milliseconds(200))
        }
        #expect(leader.host.replicas[0].freezing == [hurt.peer])
        leader.applyWorker.hangs = false
        var most = 0
        #expect(
            cluster.run(limit: 60_000) {
                most = max(most, leader.host.sending.order.count)
                return isCaughtUp(hurt, cluster) && hurt.status(0)?.problem == nil
            })
        #expect(most == 1 && leader.host.replicas[0].freezing == [])
        #expect(lines.count(containing: "snapshot wanted") == 1)
        #expect(cluster.allViolations == [])
    }

    @Test("A snapshot that is offered once more, before its files were asked for, is the one that is installed")
    func offeredTwice() throws {
        let cluster = try cluster(seed: 13)
        let late = try late(cluster)
        let leader = try #require(cluster.leader(of: 0))
        let lines = LockedLines()
        late.settings.logger = Logger(level: .info) { lines.append($0) }
        try late.start()
        // the receiver gets no further than to the folder that it needs first
        late.recording.worker("reader").hangs = true
        #expect(cluster.run(limit: 20_000) { late.host.receiving.order.count == 1 })
        let id = try #require(late.host.receiving.order.first?.id)
        cluster.run(.milliseconds(200))
        askAgain(leader, for: late)
        cluster.run(.milliseconds(200))
        #expect(leader.host.sending.snapshots[id]?.offersUnderWay == 1)
        #expect(leader.host.raft(of: "g0")?.progress(of: late.peer)?.isInstalling == true)
        late.recording.worker("reader").hangs = false
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(lines.count(containing: "snapshot wanted") == 1)
        #expect(lines.count(containing: "snapshot installed") == 1)
        #expect(cluster.allViolations == [])
    }

    @Test("A state machine that fails again and again is given up for a snapshot; what was offered before is no loss")
    func failingState() throws {
        let cluster = try cluster(seed: 11)
        write(20, cluster)
        let hurt = try #require(cluster.nodes.first { !$0.leads(0) })
        let (store, history, number) = (hurt.stores[0], cluster.histories[0], hurt.number)
        let failsAt = history.lastIndex.advanced(by: 5)
        hurt.machines[0].failsAt = failsAt
        hurt.host.remakeStateMachine = { _ in
            let machine = RecordingMachine(node: number, history: history, store: store, seed: 1, flushesOneOf: .max)
            machine.failsAt = failsAt
            return machine
        }
        write(20, cluster)
        #expect(cluster.run(limit: 60_000) { isCaughtUp(hurt, cluster) && hurt.status(0)?.problem == nil })
        #expect(hurt.host.records.first?.store != hurt.host.records.first?.number)
        write(20, cluster)
        #expect(cluster.run(limit: 20_000) { isCaughtUp(hurt, cluster) })
        #expect(cluster.allViolations == [])
    }

    @Test("A state that cannot be read costs leadership; the second time it is given up for a snapshot of its leader")
    func unreadableState() throws {
        let cluster = try cluster(seed: 12)
        write(20, cluster)
        let hurt = try #require(cluster.leader(of: 0))
        let (history, number) = (cluster.histories[0], hurt.number)
        let store = hurt.stores[0]
        hurt.host.remakeStateMachine = { _ in
            RecordingMachine(node: number, history: history, store: store, seed: 1, flushesOneOf: .max)
        }
        let damage = StateMachineError("a block is rotten", isDamage: true)
        func fail() { hurt.lane.post { hurt.host.couldNotRead("g0", damage) } }
        for round in 1...2 {
            let (before, number) = (hurt.host.replicas[0].stateMachine, hurt.host.records.first?.store)
            fail()
            // reads that were under way together fail together
            fail()
            #expect(cluster.run(limit: 20_000) { cluster.leader(of: 0).map { $0 !== hurt } ?? false })
            #expect(hurt.status(0)?.problem == "a block is rotten")
            #expect(
                cluster.run(limit: 60_000) {
                    hurt.status(0)?.problem == nil && hurt.status(0)?.appliedIndex == history.lastIndex
                }, "\(round)")
            #expect(hurt.host.replicas[0].stateMachine !== before)
            #expect((hurt.host.records.first?.store == number) == (round == 1))
            write(20, cluster)
            hurt.lane.post { cluster.leader(of: 0)?.host.transferLeadership(of: "g0", to: hurt.peer) }
            #expect(cluster.run(limit: 20_000) { hurt.leads(0) })
        }
        #expect(hurt.host.replicas[0].failedReads == 0)
        #expect(cluster.allViolations == [])
    }

    @Test("A failure that says nothing about the data costs leadership, and no state, however often it comes")
    func unreadableForAWhile() throws {
        let cluster = try cluster(seed: 12)
        let hurt = try #require(cluster.leader(of: 0))
        let (history, number, store) = (cluster.histories[0], hurt.number, hurt.stores[0])
        let record = hurt.host.records.first?.store
        hurt.host.remakeStateMachine = { _ in
            RecordingMachine(node: number, history: history, store: store, seed: 1, flushesOneOf: .max)
        }
        for _ in 0..<4 {
            hurt.lane.post { hurt.host.couldNotRead("g0", StateMachineError("too many open files")) }
            #expect(cluster.run(limit: 20_000) { hurt.status(0)?.problem != nil })
            #expect(cluster.run(limit: 20_000) { hurt.status(0)?.problem == nil })
        }
        #expect(hurt.host.records.first?.store == record)
    }

    @Test("The only voter of a group goes on serving what it can read")
    func unreadableSoleVoter() throws {
        let cluster = try self.cluster(seed: 12) { $0.size = 1 }
        let leader = try #require(cluster.leader(of: 0))
        let damage = StateMachineError("a block is rotten", isDamage: true)
        for _ in 0..<3 { leader.lane.post { leader.host.couldNotRead("g0", damage) } }
        cluster.run(.milliseconds(3000))
        #expect(leader.status(0)?.problem == nil && leader.leads(0))
    }

    @Test("A state machine that does not know an entry stops there, and passes it over by nobody's snapshot")
    func outdatedProgram() throws {
        let cluster = try cluster(seed: 11)
        write(20, cluster)
        let old = try #require(cluster.nodes.first { $0.leads(0) })
        let (store, history, number) = (old.stores[0], cluster.histories[0], old.number)
        let unknown = history.lastIndex.advanced(by: 5)
        @Sendable func machine(isOutdated: Bool) -> RecordingMachine {
            let machine = RecordingMachine(node: number, history: history, store: store, seed: 1, flushesOneOf: .max)
            (machine.failsAt, machine.isOutdatedThere) = (isOutdated ? unknown : nil, isOutdated)
            return machine
        }
        (old.machines[0].failsAt, old.machines[0].isOutdatedThere) = (unknown, true)
        old.host.remakeStateMachine = { _ in machine(isOutdated: true) }
        write(20, cluster)
        // far more often than what is broken is tried again
        cluster.run(.milliseconds(60_000))
        #expect(!old.leads(0) && cluster.leader(of: 0) != nil, "it gives leadership away")
        #expect(old.status(0)?.problem?.contains("told to fail") == true && old.status(0)?.state == "damaged")
        #expect(old.host.byGroup["g0"]?.needsState == false)
        #expect(old.host.byGroup["g0"].map { $0.applied < unknown } == true)
        #expect(old.host.records.first?.store == old.host.records.first?.number, "nothing took the state's place")
        old.host.remakeStateMachine = { _ in machine(isOutdated: false) }
        #expect(
            cluster.run(limit: 20_000) {
                old.status(0)?.appliedIndex == history.lastIndex && old.status(0)?.problem == nil
            })
        #expect(old.host.records.first?.store == old.host.records.first?.number)
        #expect(cluster.allViolations == [])
    }

    @Test("A log that may take no more refuses writes, and takes them again once there is something to compact it by")
    func fullLog() throws {
        let cluster = try cluster(seed: 9) {
            $0.flushesOneOf = .max
            $0.log = WriteAheadLog.Settings(segmentBytes: 16 << 10, reserveBytes: 1, spaceBytes: 160 << 10)
        }
        let leader = try #require(cluster.leader(of: 0))
        var refusal: ProposalRefusal?
        for tag in 1...400 where refusal == nil {
            refusal = cluster.propose(Command.payload(tag: UInt64(tag), byteCount: 1000), on: leader)?.refusal
        }
        #expect(refusal == .busy && leader.host.isLogTight)
        #expect(leader.host.logBytes <= 160 << 10)
        for node in cluster.nodes { node.machines[0].flush() }
        #expect(cluster.run(limit: 30_000) { cluster.nodes.allSatisfy { !$0.host.isLogTight } })
        #expect(cluster.propose(Command.payload(tag: 999, byteCount: 1000), on: leader)?.position != nil)
        #expect(cluster.run(limit: 20_000) { cluster.nodes.allSatisfy { isCaughtUp($0, cluster) } })
        #expect(cluster.allViolations == [])
    }

    @Test("Files that are not those that were sent are not installed") func damagedFiles() throws {
        let cluster = try cluster(seed: 8)
        let late = try late(cluster)
        try late.start()
        #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= 12 })
        let store = try #require(late.host.receiving.order.first?.store)
        // what is here already goes bad
        late.snapshotDisk.damage("in-\(store)/first", offset: 100)
        cluster.run(.milliseconds(3000))
        #expect(late.recording.stored.of(store) == nil)
        #expect(cluster.run(limit: 60_000) { isCaughtUp(late, cluster) })
        #expect(late.host.records.first?.store != store)
        #expect(cluster.allViolations == [])
    }
}

extension MemoryDisk {
    /// Changes a byte of a file, synced or not.
    fileprivate func damage(_ name: String, offset: Int) {
        guard var bytes = contents(name), bytes.count > offset else { return }
        bytes[offset] ^= 0xff
        do {
            let file = try open(name)
            try bytes.withUnsafeBytes { buffer in try file.write([buffer], at: 0) }
        } catch {
            Issue.record("\(error)")
        }
    }
}

import RaftCore
import RaftStorage
import ShardKV
import Simulator
import Testing
import Transport

@testable import RaftHost

@Suite("The end of a replica")
struct RemovalTests {
    private func cluster(seed: UInt64, groups: [String] = ["g0"]) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.groups = groups
        plan.log.segmentBytes = 1 << 20
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    /// What came of a removal: nil if nothing has within ten seconds.
    private func remove(_ peer: PeerID, of group: String = "g0", from node: SimulatedNode, _ cluster: HostCluster)
        -> String??
    {
        var problem: String??
        let host = node.host!
        node.lane.post { host.remove(group: group, peer: peer) { problem = .some($0) } }
        cluster.run(limit: 10_000) { problem != nil }
        return problem
    }

    private func create(
        _ peer: PeerID, of group: String = "g0", mapVersion: UInt64? = nil, on node: SimulatedNode,
        _ cluster: HostCluster
    ) -> String?? {
        var problem: String??
        let host = node.host!
        node.lane.post {
            host.create(
                group: group, peer: peer, birth: .empty, kind: "recording", mapVersion: mapVersion
            ) { number in
                RecordingMachine(
                    node: node.number, history: AppliedHistory(group: group), store: MachineStore(), seed: number,
                    flushesOneOf: .max)
            } completion: {
                problem = .some($0)
            }
        }
        cluster.run(limit: 10_000) { problem != nil }
        return problem
    }

    private func peer(_ node: SimulatedNode, _ idx: Int32) -> PeerID { PeerID(address: node.address, idx: idx) }

    // MARK: what is left

    @Test("Parts of the log that no replica has are dropped at the start; one that the record is too old to know stays")
    func unknownLogs() throws {
        let cluster = try cluster(seed: 9)
        let node = try #require(cluster.nodes.first { !$0.leads(0) })
        #expect(try #require(create(node.peer, of: "former", on: node, cluster)) == nil)
        let number = try #require(node.host.records.first { $0.group == "former" }).number
        #expect(try #require(remove(node.peer, of: "former", from: node, cluster)) == nil)
        node.crash()
        // as an earlier version might have left it
        let (log, _) = try WriteAheadLog.open(disk: node.logDisk, settings: WriteAheadLog.Settings()) { _ in }
        let entry = LogEntry(position: LogPosition(term: Term(1), index: LogIndex(1)), kind: .noOp, payload: Bytes())
        let state = HardState(term: Term(1), vote: nil)
        try log.write([
            LogWrite(group: number, hardState: state, entries: [entry]), LogWrite(group: 999, hardState: state),
        ])
        try log.close()
        try node.start()
        node.lane.post { [host = node.host!] in host.removeUnknownStates() }
        cluster.run(.milliseconds(2000))
        #expect(try node.host.log.entries(of: number, from: LogIndex(1), count: 1, maxBytes: 1 << 20).isEmpty)
        node.crash()
        let (_, left) = try WriteAheadLog.open(disk: node.logDisk, settings: WriteAheadLog.Settings()) { _ in }
        #expect(left[number] == nil && left[999] != nil)
        #expect(node.host.records.count == 1)
        try node.start()
        cluster.awaitLeaders()
        #expect(try #require(create(node.peer, of: "next", on: node, cluster)) == nil)
        #expect(try #require(node.host.records.last).number > 999, "it must not get a log that is there")
        #expect(cluster.allViolations == [])
    }

    @Test("Nothing is left of it in record, log and store, its group goes on, and its idx stays taken over a restart")
    func everythingGoes() throws {
        let cluster = try cluster(seed: 1)
        let leader = try #require(cluster.leader(of: 0))
        for tag in 1...5 as ClosedRange<UInt64> {
            #expect(cluster.propose(Command.payload(tag: tag, byteCount: 100), on: leader)?.position != nil)
        }
        let node = try #require(cluster.nodes.first { $0 !== leader })
        let number = try #require(node.host.records.first).number
        #expect(try !node.host.log.entries(of: number, from: LogIndex(1), count: 1, maxBytes: 1 << 20).isEmpty)
        #expect(try #require(remove(node.peer, from: node, cluster)) == nil)
        #expect(node.host.records.isEmpty && node.host.status().isEmpty && node.host.raft(of: "g0") == nil)
        #expect(try node.host.log.entries(of: number, from: LogIndex(1), count: 1, maxBytes: 1 << 20).isEmpty)
        #expect(node.recording.dropped.all == [number])
        #expect(node.host.removedReplica(of: "g0") == node.peer)
        #expect(cluster.propose(Command.payload(tag: 6, byteCount: 8), on: leader)?.position != nil)
        node.crash()
        try node.start()
        cluster.run(.milliseconds(2000))
        #expect(node.host.records.isEmpty && node.host.status().isEmpty)
        // the program wants it back under its old name
        #expect(node.recording.problems.count { $0.contains("was removed from this node") } == 1)
        #expect(try #require(remove(node.peer, from: node, cluster)) == nil, "it is gone")
    }

    @Test("An idx that was here is refused, a higher one is another replica; each is there once, however often ordered")
    func higherIdx() throws {
        let cluster = try cluster(seed: 2)
        let node = cluster.nodes[0]
        #expect(try #require(remove(peer(node, 1), from: node, cluster))?.contains("holds no replica") == true)
        #expect(try #require(remove(node.peer, from: node, cluster)) == nil)
        #expect(try #require(create(node.peer, on: node, cluster))?.contains("higher idx") == true)
        #expect(try #require(create(peer(node, 3), mapVersion: 5, on: node, cluster)) == nil)
        #expect(try #require(create(peer(node, 3), mapVersion: 7, on: node, cluster)) == nil)
        #expect(try #require(create(peer(node, 3), mapVersion: 6, on: node, cluster)) == nil)
        #expect(try #require(create(peer(node, 4), on: node, cluster))?.contains("another replica") == true)
        #expect(node.host.records.map(\.number) == [2] && node.host.records.map(\.mapVersion) == [7])
        #expect(try #require(remove(peer(node, 3), from: node, cluster)) == nil)
        for idx in 0...3 as ClosedRange<Int32> {
            #expect(try #require(create(peer(node, idx), on: node, cluster))?.contains("higher idx") == true)
        }
        #expect(try #require(create(peer(node, 4), mapVersion: 9, on: node, cluster)) == nil)
        node.crash()
        try node.start()
        #expect(node.host.records.map(\.peer) == [peer(node, 4)] && node.host.records.map(\.mapVersion) == [9])
        #expect(node.host.removedReplica(of: "g0") == peer(node, 3))
    }

    @Test("One that is out of service goes like any other, and the states of the others stay") func damaged() throws {
        let cluster = try cluster(seed: 3, groups: ["hurt", "well"])
        let node = try #require(cluster.nodes.first { !$0.leads(0) })
        let records = node.host.records
        let leader = try #require(cluster.leader(of: 0))
        for tag in 1...5 as ClosedRange<UInt64> {
            #expect(cluster.propose(Command.payload(tag: tag, byteCount: 8), on: leader)?.position != nil)
        }
        cluster.run(.milliseconds(500))
        node.crash()
        try rotHardState(of: records[0].number, on: node.logDisk)
        try node.start()
        #expect(node.host.status(of: "hurt")?.state == "damaged")
        #expect(try #require(remove(node.peer, of: "hurt", from: node, cluster)) == nil)
        #expect(node.host.status(of: "hurt") == nil)
        #expect(node.recording.dropped.all.contains(records[0].number))
        #expect(!node.recording.dropped.all.contains(records[1].store))
        #expect(try #require(create(peer(node, 1), of: "hurt", on: node, cluster)) == nil)
        node.crash()
        try node.start()
        #expect(node.host.status(of: "hurt")?.peer == peer(node, 1) && node.host.status(of: "hurt")?.problem == nil)
        #expect(node.host.records.map(\.group) == ["well", "hurt"])
    }

    /// Turns a bit in each hard state of a group that the log holds.
    private func rotHardState(of number: UInt64, on disk: MemoryDisk) throws {
        let name = try #require(try disk.list().first { $0.hasSuffix(".log") })
        let content = try #require(disk.contents(name))
        let group = (0..<8).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) }
        let end: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        let places = content.indices.dropLast(36).filter { place in
            content[place + 8] == group[0] && Array(content[place + 8..<place + 16]) == group
                && Array(content[place + 24..<place + 36]) == end
        }
        try #require(!places.isEmpty)
        for place in places { disk.flipBit(name, offset: place + 16) }
    }

    // MARK: those who wait

    @Test("Whoever waits for a leader that goes is answered once, and nobody waits for its promise to end")
    func waiters() throws {
        let cluster = try cluster(seed: 4)
        let leader = try #require(cluster.leader(of: 0))
        let others = cluster.nodes.filter { $0 !== leader }
        #expect(cluster.propose(Command.payload(tag: 4, byteCount: 8), on: leader)?.position != nil)
        // the workers hang, so nothing that is asked for gets on
        leader.applyWorker.hangs = true
        leader.logWorker.hangs = true
        let host = leader.host!
        // nobody is there to catch up
        let absent = PeerID(address: SimulatedNode.address(9))
        let target = Configuration(peers: cluster.nodes.map(\.peer) + [absent])
        var (proposals, reads, changes): ([ProposalOutcome], [ReadOutcome], [ChangeOutcome]) = ([], [], [])
        leader.lane.post {
            host.propose(Command.payload(tag: 1, byteCount: 8), to: "g0") { proposals.append($0) }
            host.read("g0", lease: false) { reads.append($0) }
            host.changeMembership(of: "g0", to: target) {
                changes.append($0)
            }
        }
        cluster.run(.milliseconds(5))
        #expect(proposals.isEmpty && changes.isEmpty)
        var problem: String??
        leader.lane.post {
            host.remove(group: "g0", peer: leader.peer) { problem = .some($0) }
            // of the same turn
            host.propose(Command.payload(tag: 2, byteCount: 8), to: "g0") { proposals.append($0) }
        }
        cluster.run(.milliseconds(5))
        #expect(proposals.count == 2 && reads.count == 1 && changes.count == 1)
        #expect(problem == nil, "it is not durable")
        #expect(cluster.run(limit: 300) { others.contains { $0.leads(0) } })
        leader.applyWorker.hangs = false
        leader.logWorker.hangs = false
        #expect(cluster.run(limit: 5000) { problem != nil })
        #expect(problem == .some(nil))
        guard case .refused(.noSuchGroup) = cluster.propose(Command.payload(tag: 3, byteCount: 8), on: leader) else {
            Issue.record("there is no such group any more")
            return
        }
        #expect(leader.recording.dropped.all == [1])
        #expect((proposals.count, reads.count, changes.count) == (2, 1, 1))
    }

    @Test("A follower's read that waits for the leader is refused by name") func followerRead() throws {
        let cluster = try cluster(seed: 5)
        let leader = try #require(cluster.leader(of: 0))
        let node = try #require(cluster.nodes.first { $0 !== leader })
        cluster.world.cut(from: node.address, to: leader.address)
        var outcome: ReadOutcome?
        let host = node.host!
        node.lane.post { host.read("g0", atFollower: true) { outcome = $0 } }
        cluster.run(.milliseconds(5))
        #expect(try #require(remove(node.peer, from: node, cluster)) == nil)
        guard case .refused(.noSuchGroup) = outcome else {
            Issue.record("\(String(describing: outcome))")
            return
        }
    }

    @Test("A state that may have gone before it was read is no answer", arguments: [true, false])
    func lateRead(lease: Bool) throws {
        let cluster = try cluster(seed: 7)
        let node = try #require(cluster.leader(of: 0))
        var moment: ReadMoment?
        let host = node.host!
        node.lane.post { host.read("g0", lease: lease) { if case .ready(let found) = $0 { moment = found } } }
        cluster.run(limit: 2000) { moment != nil }
        let found = try #require(moment)
        #expect(try #require(remove(node.peer, from: node, cluster)) == nil)
        #expect(try #require(create(peer(node, 1), on: node, cluster)) == nil)
        var answers: [Bool] = []
        node.lane.post { host.evaluate(at: found, { true }, completion: { answers.append($0 != nil) }) }
        cluster.run(limit: 2000) { !answers.isEmpty }
        #expect(answers == [false])
    }

    @Test("Messages for the replica that was here find none, though another one is") func otherName() throws {
        let cluster = try cluster(seed: 6)
        let leader = try #require(cluster.leader(of: 0))
        let node = try #require(cluster.nodes.first { $0 !== leader })
        #expect(try #require(remove(node.peer, from: node, cluster)) == nil)
        #expect(try #require(create(peer(node, 1), on: node, cluster)) == nil)
        #expect(cluster.propose(Command.payload(tag: 1, byteCount: 8), on: leader)?.position != nil)
        cluster.run(.milliseconds(3000))
        let raft = try #require(node.host.raft(of: "g0"))
        #expect(raft.lastIndex == .zero && raft.term == .zero && raft.leader == nil, "nobody has spoken to it")
        #expect(leader.leads(0))
    }

    // MARK: crashes

    @Test("Whenever the power is lost on the way, the replica is there as a whole, or gone when the node is back")
    func crashes() throws {
        var (stayed, went) = (0, 0)
        for moment in 0..<40 {
            let cluster = ShardedCluster(seed: 60)
            try #require(try cluster.form())
            for number in 0..<cluster.keyCount { cluster.increment(number, timeout: 5000) }
            cluster.world.run(for: .milliseconds(1000))
            let node = cluster.nodes[1]
            let record = try #require(node.host.records.first { $0.group == "g1" })
            let host = node.host!
            node.lane.post { host.remove(group: "g1", peer: record.peer) { _ in } }
            cluster.world.run(for: Interval(nanoseconds: Int64(moment) * 150_000))
            node.crash()
            try node.start()
            cluster.world.run(for: .milliseconds(2000))
            let found = node.host.records.first { $0.group == "g1" }
            if let found {
                stayed += 1
                #expect(found == record && node.host.status(of: "g1")?.problem == nil)
            } else {
                went += 1
                #expect(node.host.removedReplica(of: "g1") == record.peer && node.host.status(of: "g1") == nil)
            }
            #expect(try node.engine.numbers() == node.host.records.map(\.store).sorted(), "moment \(moment)")
        }
        #expect(stayed > 0 && went > 0, "\(stayed) stayed, \(went) went")
    }
}

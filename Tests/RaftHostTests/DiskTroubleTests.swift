import RaftCore
import RaftStorage
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

@Suite("Disks that are full, fail, or rot")
struct DiskTroubleTests {
    private func cluster(
        seed: UInt64, size: Int = 3, groups: [String] = ["g0"], _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.size = size
        plan.groups = groups
        change(&plan)
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    private func command(_ tag: UInt64, bytes: Int = 100) -> Bytes { Command.payload(tag: tag, byteCount: bytes) }

    @Test(
        "While the disk is full proposals are refused; what was accepted before waits, and is done with room",
        arguments: [false, true])
    func fullDisk(copiesOnWrite: Bool) throws {
        let cluster = try cluster(seed: 1, size: 1)
        let node = cluster.nodes[0]
        node.logDisk.copiesOnWrite = copiesOnWrite
        // else the segment that is there has room for less than this
        let bytes = copiesOnWrite ? 100 : 1 << 16
        #expect(cluster.propose(command(1), on: node)?.position != nil)
        node.logDisk.isFull = true
        var outcomes = [ProposalOutcome?](repeating: nil, count: 7)
        for tag in 2...6 {
            node.lane.post { node.host.propose(command(UInt64(tag), bytes: bytes), to: "g0") { outcomes[tag] = $0 } }
            cluster.run(.milliseconds(700))
        }
        #expect(node.host.refusesWrites)
        #expect(outcomes[2] == nil && outcomes[6]?.refusal == .diskFull)
        node.logDisk.isFull = false
        cluster.run(.milliseconds(1500))
        #expect(cluster.propose(command(7), on: node)?.position != nil)
        let tags = cluster.histories[0].entries.map(\.tag)
        for tag in 2...6 {
            #expect(tags.contains(UInt64(tag)) == (outcomes[tag]?.position != nil), "\(tag)")
            #expect(outcomes[tag] != nil)
        }
        #expect(node.failure == nil && cluster.allViolations == [])
    }

    @Test("A leader whose disk fills at once hands over: the group goes on without its disk") func fullLeader() throws {
        let cluster = try cluster(seed: 1)
        let leader = try #require(cluster.leader(of: 0))
        let others = cluster.nodes.filter { $0 !== leader }
        leader.logDisk.isFull = true
        leader.lane.post { leader.host.propose(command(1, bytes: 1 << 16), to: "g0") { _ in } }
        #expect(cluster.run(limit: 2000) { others.contains { $0.leads(0) } })
        let successor = try #require(others.first { $0.leads(0) })
        #expect(cluster.propose(command(2), on: successor)?.position != nil)
        #expect(cluster.read(on: successor)?.value == cluster.histories[0].lastIndex.description)
        leader.logDisk.isFull = false
        #expect(
            cluster.run(limit: 5000) {
                leader.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(leader.failure == nil && cluster.allViolations == [])
    }

    @Test("While entries of one group wait for room, another group's votes are written") func votesPassEntries() throws
    {
        let cluster = try cluster(seed: 1, groups: ["large", "small"])
        let leader = try #require(cluster.leader(of: 1))
        let source = try #require(cluster.leader(of: 0))
        let full = try #require(cluster.nodes.first { $0 !== leader && $0 !== source })
        cluster.run(.milliseconds(500))
        full.logDisk.isFull = true
        source.lane.post { source.host.propose(command(1, bytes: 1 << 16), to: "large") { _ in } }
        #expect(cluster.run(limit: 5000) { full.host.isLogFull })
        leader.crash()
        // of the two that are left both must vote
        #expect(cluster.run(limit: 20_000) { cluster.nodes.contains { $0 !== leader && $0.leads(1) } })
        #expect(full.host.isLogFull)
        full.logDisk.isFull = false
        try leader.start()
        #expect(
            cluster.run(limit: 20_000) {
                cluster.nodes.allSatisfy { node in
                    [0, 1].allSatisfy { node.machines[$0].appliedPosition.index == cluster.histories[$0].lastIndex }
                }
            })
        #expect(full.failure == nil && cluster.allViolations == [])
    }

    @Test("A vote goes ahead of its own group's entries that wait for room, and outlives a crash") func voteOvertakes()
        throws
    {
        let cluster = try cluster(seed: 5)
        let leader = try #require(cluster.leader(of: 0))
        let full = try #require(cluster.nodes.first { $0 !== leader })
        let other = try #require(cluster.nodes.first { $0 !== leader && $0 !== full })
        cluster.run(.milliseconds(500))
        full.logDisk.isFull = true
        leader.lane.post { leader.host.propose(command(1, bytes: 1 << 16), to: "g0") { _ in } }
        #expect(cluster.run(limit: 5000) { full.host.isLogFull })
        leader.crash()
        // of the two that are left both must vote
        #expect(cluster.run(limit: 20_000) { other.leads(0) })
        #expect(full.host.isLogFull && full.host.raft(of: "g0")?.vote == other.peer)
        let term = try #require(other.host.raft(of: "g0")?.term)
        full.logDisk.isFull = false
        full.crash()
        other.crash()
        try full.start()
        #expect(full.host.raft(of: "g0").map { $0.term == term && $0.vote == other.peer } == true)
        try leader.start()
        try other.start()
        #expect(
            cluster.run(limit: 20_000) {
                cluster.nodes.allSatisfy { $0.machines[0].appliedPosition.index == cluster.histories[0].lastIndex }
            })
        #expect(cluster.allViolations == [])
    }

    @Test("When there is room the entries do not bring back a hard state that a vote has overtaken")
    func overtakenHardState() throws {
        let cluster = try cluster(seed: 6)
        let leader = try #require(cluster.leader(of: 0))
        let full = try #require(cluster.nodes.first { $0 !== leader })
        let other = try #require(cluster.nodes.first { $0 !== leader && $0 !== full })
        cluster.run(.milliseconds(500))
        full.logDisk.isFull = true
        leader.lane.post { leader.host.propose(command(1, bytes: 1 << 16), to: "g0") { _ in } }
        #expect(cluster.run(limit: 5000) { full.host.isLogFull })
        // a term that waits behind the entries, and then a vote in the next one
        for (former, next) in [(leader, other), (other, leader)] {
            former.crash()
            #expect(cluster.run(limit: 20_000) { next.leads(0) || full.leads(0) })
            try former.start()
            cluster.run(.milliseconds(300))
        }
        let state = try #require(full.host.raft(of: "g0").map { HardState(term: $0.term, vote: $0.vote) })
        full.logDisk.isFull = false
        cluster.run(limit: 5000) { !full.host.isLogFull }
        cluster.run(.milliseconds(200))
        full.crash()
        try full.start()
        let found = try #require(full.host.raft(of: "g0").map { HardState(term: $0.term, vote: $0.vote) })
        #expect(found.term > state.term || found == state, "\(found) after \(state)")
        #expect(
            cluster.run(limit: 20_000) {
                cluster.nodes.allSatisfy { $0.machines[0].appliedPosition.index == cluster.histories[0].lastIndex }
            })
        #expect(cluster.allViolations == [])
    }

    @Test("What needs little room, or none, waits for no other group's entries", arguments: [false, true])
    func callsPass(noRoomAtAll: Bool) throws {
        let cluster = try cluster(seed: 7, size: 1)
        let node = cluster.nodes[0]
        let peer = node.peer
        func create(_ group: String, _ isDone: Box<Bool>) {
            node.lane.post {
                node.host.create(group: group, peer: peer, birth: Configuration(peers: [peer]), kind: "k") { _ in
                    RecordingMachine(
                        node: 1, history: AppliedHistory(group: group), store: MachineStore(), seed: 1,
                        flushesOneOf: .max)
                } completion: { _ in
                    isDone.value = true
                }
            }
        }
        let (isOldThere, isNewThere) = (Box(false), Box(false))
        create("old", isOldThere)
        #expect(cluster.run(limit: 5000) { isOldThere.value })
        cluster.run(.milliseconds(500))
        (node.logDisk.isFull, node.logDisk.copiesOnWrite) = (true, noRoomAtAll)
        node.lane.post { node.host.propose(command(1, bytes: 1 << 16), to: "g0") { _ in } }
        #expect(cluster.run(limit: 5000) { node.host.isLogFull })
        isOldThere.value = false
        create("old", isOldThere)
        #expect(cluster.run(limit: 5000) { isOldThere.value }, "it is there, and nothing is left to write")
        create("new", isNewThere)
        #expect(cluster.run(limit: 5000) { isNewThere.value } == !noRoomAtAll)
        #expect(node.host.isLogFull)
        node.logDisk.isFull = false
        #expect(cluster.run(limit: 5000) { isNewThere.value && cluster.histories[0].entries.last?.tag == 1 })
        #expect(node.failure == nil && cluster.allViolations == [])
    }

    @Test("Too little room refuses proposals until there is enough, whatever the log still manages to write")
    func littleRoom() throws {
        let cluster = try cluster(seed: 2, size: 1)
        let node = cluster.nodes[0]
        let disk = RoomyDisk()
        node.useForFreeSpace(disk)
        node.crash()
        try node.start()
        cluster.awaitLeaders()
        disk.free = 1 << 20
        #expect(cluster.propose(command(1), on: node)?.position != nil, "nobody has looked yet")
        cluster.run(.milliseconds(1500))
        for tag in 2...8 as ClosedRange<UInt64> {
            // the log writes something: a replica is born
            var isDone = false
            node.lane.post {
                node.host.create(
                    group: "new\(tag)", peer: node.peer, birth: Configuration(peers: [node.peer]), kind: "k"
                ) { _ in
                    RecordingMachine(
                        node: 1, history: AppliedHistory(group: "new"), store: MachineStore(), seed: 1,
                        flushesOneOf: .max)
                } completion: { _ in
                    isDone = true
                }
            }
            cluster.run(limit: 2000) { isDone }
            let outcome = cluster.propose(command(tag), on: node)
            #expect(tag == 2 || outcome?.refusal == .diskFull, "proposal \(tag): \(String(describing: outcome))")
            #expect(cluster.read(on: node)?.value == cluster.histories[0].lastIndex.description, "reads go on")
        }
        disk.free = 1 << 40
        cluster.run(.milliseconds(1500))
        #expect(cluster.propose(command(9), on: node)?.position != nil, "nobody has to be refused first")
    }

    @Test("A sync that fails ends the node, once, and nothing is said that hangs on it") func failedSync() throws {
        let cluster = try cluster(seed: 3)
        let leader = try #require(cluster.leader(of: 0))
        leader.failSyncs(after: 0)
        var outcome: ProposalOutcome?
        leader.lane.post { leader.host.propose(command(1), to: "g0") { outcome = $0 } }
        cluster.run(limit: 5000) { leader.failure != nil }
        let reason = try #require(leader.failure)
        #expect(reason.contains("log"))
        cluster.run(.milliseconds(500))
        guard case .unknown = outcome else {
            Issue.record("nobody can say what becomes of it: \(String(describing: outcome))")
            return
        }
        // it does not get back up
        leader.logDisk.failsSyncs = false
        #expect(cluster.propose(command(2), on: leader)?.refusal == .stopping)
        leader.crash()
        let others = cluster.nodes.filter { $0 !== leader }
        #expect(cluster.run(limit: 10_000) { others.contains { $0.leads(0) } })
        let successor = try #require(others.first { $0.leads(0) })
        #expect(cluster.propose(command(3), on: successor)?.position != nil)
        try leader.start()
        #expect(
            cluster.run(limit: 10_000) {
                leader.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(cluster.allViolations == [])
    }

    @Test("A group that alone held what its log lost shows its debt and does not serve; the others serve")
    func damagedGroup() throws {
        let cluster = try cluster(seed: 4, size: 1, groups: ["hurt", "well"]) { $0.log.segmentBytes = 1 << 20 }
        let node = cluster.nodes[0]
        #expect(cluster.propose(command(0x1122_3344_5566_7788), to: 0, on: node)?.position != nil)
        cluster.run(.milliseconds(500))
        for tag in 1...5 as ClosedRange<UInt64> {
            #expect(cluster.propose(command(tag), to: 1, on: node)?.position != nil)
        }
        cluster.run(.milliseconds(500))
        let known = cluster.histories[1].lastIndex
        node.crash()
        try rot(node.logDisk, at: command(0x1122_3344_5566_7788).array)
        try node.start()
        #expect(cluster.run(limit: 10_000) { node.leads(1) })

        let status = try #require(node.host.status(of: "hurt"))
        #expect(status.state != "leader" && status.debt == cluster.histories[0].lastPosition)
        #expect(node.host.status().map(\.group).sorted() == ["hurt", "well"])
        guard case .notLeader(nil) = cluster.propose(command(6), to: 0, on: node),
            case .refused(.notLeader(nil)) = cluster.read(0, on: node)
        else {
            Issue.record("a damaged group serves")
            return
        }
        #expect(cluster.propose(command(7), to: 1, on: node)?.position?.index ?? .zero > known)
        #expect(cluster.read(1, on: node)?.value == cluster.histories[1].lastIndex.description)
        #expect(cluster.allViolations == [])
    }

    /// Turns a bit in the middle of `payload`, wherever the log keeps it.
    private func rot(_ disk: MemoryDisk, at payload: [UInt8]) throws {
        for name in try disk.list() {
            guard let content = disk.contents(name), content.count > payload.count else { continue }
            let starts = content.indices.dropLast(payload.count)
            guard
                let start = starts.first(where: { start in
                    content[start] == payload[0] && content[start..<start + payload.count].elementsEqual(payload)
                })
            else { continue }
            return disk.flipBit(name, offset: start + payload.count / 2)
        }
        Issue.record("the log does not hold the payload")
    }

    @Test("A machine that fails stops its replica: everybody waiting is told, another replica leads")
    func failedMachine() throws {
        let cluster = try cluster(seed: 8)
        let leader = try #require(cluster.leader(of: 0))
        leader.machines[0].failsAt = cluster.histories[0].lastIndex.advanced(by: 2)
        var outcomes: [String] = []
        leader.lane.post {
            for tag in 1...3 as ClosedRange<UInt64> {
                leader.host.propose(command(tag), to: "g0") { outcomes.append("\($0)") }
            }
        }
        cluster.run(limit: 5000) { leader.host.status(of: "g0")?.problem != nil }
        // while it still leads: nobody may be left waiting
        leader.lane.post {
            leader.host.propose(command(4), to: "g0") { outcomes.append("\($0)") }
            leader.host.read("g0") { outcomes.append("\($0)") }
        }
        cluster.run(.milliseconds(3000))
        #expect(outcomes.count == 5, "\(outcomes)")
        #expect(!leader.leads(0))
        let successor = try #require(cluster.leader(of: 0))
        #expect(cluster.propose(command(9), on: successor)?.position != nil)
        // it never keeps the leadership it cannot serve
        leader.lane.post {}
        successor.lane.post { successor.host.transferLeadership(of: "g0", to: leader.peer) }
        cluster.run(.milliseconds(5000))
        #expect(!leader.leads(0))
        #expect(cluster.allViolations == [])
    }

    @Test("A read that is on its way when the machine fails is refused, not forgotten")
    func readDuringFailure() throws {
        let cluster = try cluster(seed: 9)
        let node = try #require(cluster.leader(of: 0))
        let last = cluster.histories[0].lastIndex
        cluster.world.settings.linkDelay = 20_000_000..<30_000_000
        node.machines[0].failsAt = last.advanced(by: 2)
        var answers = 0
        for tag in 1...8 as ClosedRange<UInt64> {
            node.lane.post {
                node.host.propose(command(tag), to: "g0") { _ in answers += 1 }
                node.host.read("g0") { _ in answers += 1 }
            }
            cluster.run(.milliseconds(10))
        }
        cluster.run(.milliseconds(2000))
        #expect(answers == 16)
    }

    @Test("With a healthy replica left, it leads in the end, whichever of the others are asked first")
    func oneHealthyMachine() throws {
        let cluster = try cluster(seed: 10)
        let leader = try #require(cluster.leader(of: 0))
        let healthy = try #require(cluster.nodes.last { $0 !== leader })
        let last = cluster.histories[0].lastIndex
        for node in cluster.nodes where node !== healthy { node.machines[0].failsAt = last.next }
        leader.lane.post { leader.host.propose(command(1), to: "g0") { _ in } }
        #expect(cluster.run(limit: 10_000) { healthy.leads(0) })
        #expect(cluster.propose(command(2), on: healthy)?.position != nil)
        #expect(cluster.allViolations == [])
    }

    @Test("With no healthy replica left the leadership does not go in circles") func noHealthyMachine() throws {
        let cluster = try cluster(seed: 11)
        let leader = try #require(cluster.leader(of: 0))
        for node in cluster.nodes { node.machines[0].failsAt = cluster.histories[0].lastIndex.next }
        let before = try #require(leader.status(0)).term.rawValue
        leader.lane.post { leader.host.propose(command(1), to: "g0") { _ in } }
        cluster.run(.milliseconds(20_000))
        let after = cluster.nodes.compactMap { $0.status(0)?.term.rawValue }.max() ?? .max
        #expect(after - before < 5, "\(after - before) elections")
        #expect(cluster.nodes.allSatisfy { $0.status(0)?.problem != nil })
        #expect(cluster.allViolations == [])
    }
}

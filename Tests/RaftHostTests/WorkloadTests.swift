import RaftCore
import RaftStorage
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

@Suite("Loads and limits")
struct WorkloadTests {
    private func cluster(
        seed: UInt64, size: Int = 3, _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.size = size
        change(&plan)
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    /// Proposes `count` commands at once and waits until all are applied on `node`.
    private func write(_ count: Int, bytes: Int, from first: UInt64, on node: SimulatedNode, _ cluster: HostCluster) {
        var applied = 0
        node.lane.post {
            for tag in first..<first + UInt64(count) {
                node.host.propose(Command.payload(tag: tag, byteCount: bytes), to: "g0") { outcome in
                    if outcome.position != nil { applied += 1 }
                }
            }
        }
        cluster.run(limit: 60_000) { applied == count }
        #expect(applied == count)
    }

    @Test("A node that was down while more was written than any memory keeps catches up from the disk")
    func catchUp() throws {
        let cluster = try cluster(seed: 11) {
            $0.settings.tailBytes = 8 << 10
            $0.settings.frameBytes = 4 << 10
            $0.settings.raft.maxEntriesPerAppend = 64
        }
        let leader = try #require(cluster.leader(of: 0))
        let late = try #require(cluster.nodes.first { $0 !== leader })
        late.crash()
        for round in 0..<10 as Range<UInt64> {
            write(100, bytes: 500, from: 1 + round * 100, on: leader, cluster)
        }
        try late.start()
        #expect(
            cluster.run(limit: 20_000) {
                late.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(cluster.histories[0].entries.count > 1000)
        #expect(cluster.allViolations == [])
    }

    @Test("A replica that restarts with an old state applies the rest from its own log") func replay() throws {
        let cluster = try cluster(seed: 12, size: 1) {
            $0.flushesOneOf = .max
            $0.settings.tailBytes = 8 << 10
        }
        let node = cluster.nodes[0]
        write(2000, bytes: 100, from: 1, on: node, cluster)
        let last = cluster.histories[0].lastIndex
        node.crash()
        try node.start()
        #expect(node.machines[0].appliedPosition == .zero)
        #expect(cluster.run(limit: 20_000) { node.machines[0].appliedPosition.index > last })
        #expect(cluster.allViolations == [])
    }

    @Test("A value of 8 MiB is committed, applied and answered, and sent from the disk to who missed it")
    func largeValue() throws {
        let cluster = try cluster(seed: 13) {
            $0.log.segmentBytes = 1 << 20
            $0.settings.tailBytes = 1 << 20
        }
        let leader = try #require(cluster.leader(of: 0))
        let late = try #require(cluster.nodes.first { $0 !== leader })
        late.crash()
        leader.machines[0].repeatsPayload = true
        let value = Command.payload(tag: 1, byteCount: 8 << 20)
        guard case .applied(value, _) = cluster.propose(value, on: leader) else {
            Issue.record("not applied, or the reply is another")
            return
        }
        try late.start()
        #expect(
            cluster.run(limit: 30_000) {
                cluster.nodes.allSatisfy { $0.machines[0].appliedPosition.index == cluster.histories[0].lastIndex }
            })
        #expect(cluster.histories[0].entries.contains { $0.byteCount == 8 << 20 })
        #expect(cluster.leader(of: 0) === leader, "a large value does not cost the leadership")
        #expect(cluster.allViolations == [])
    }

    @Test("More bytes than may wait are refused as busy, and accepted again when what waits is applied")
    func busy() throws {
        let cluster = try cluster(seed: 14, size: 1) { $0.settings.proposalBytes = 10_000 }
        let node = cluster.nodes[0]
        var applied = 0
        var busy = 0
        node.lane.post {
            for tag in 1...30 as ClosedRange<UInt64> {
                node.host.propose(Command.payload(tag: tag, byteCount: 1000), to: "g0") { outcome in
                    if outcome.position != nil { applied += 1 }
                    if outcome.refusal == .busy { busy += 1 }
                }
            }
        }
        cluster.run(.milliseconds(500))
        #expect(applied == 10 && busy == 20)
        #expect(cluster.propose(Command.payload(tag: 99, byteCount: 1000), on: node)?.position != nil)
    }

    @Test("More reads than may wait are refused as busy, and served again when those that wait are")
    func busyReads() throws {
        let cluster = try cluster(seed: 16, size: 1) { $0.settings.reads = 10 }
        let node = cluster.nodes[0]
        func ask(_ count: Int) -> (ready: Int, busy: Int) {
            var (ready, busy) = (0, 0)
            node.lane.post {
                for _ in 0..<count {
                    node.host.read("g0") { outcome in
                        if case .ready = outcome { ready += 1 }
                        if case .refused(.busy) = outcome { busy += 1 }
                    }
                }
            }
            cluster.run(.milliseconds(500))
            return (ready, busy)
        }
        #expect(ask(30) == (10, 20))
        #expect(ask(10) == (10, 0))
        // evaluations that wait for the worker count as well
        var evaluated = 0
        node.lane.post {
            node.host.read("g0") { outcome in
                guard case .ready(let moment) = outcome else { return }
                for _ in 0..<10 { node.host.evaluate(at: moment, { 1 }, completion: { evaluated += $0 ?? 0 }) }
                node.host.read("g0") { if case .refused(.busy) = $0 { evaluated += 100 } }
            }
        }
        cluster.run(.milliseconds(500))
        #expect(evaluated == 110)
    }

    @Test("Above its bound a log that stands still takes no more appends; the follower gets them when it goes on")
    func busyFollower() throws {
        let cluster = try cluster(seed: 17) {
            $0.settings.batchBytes = 10_000
            $0.settings.frameBytes = 4_000
        }
        let leader = try #require(cluster.leader(of: 0))
        let late = try #require(cluster.nodes.first { $0 !== leader })
        cluster.run(.milliseconds(500))
        late.logDisk.copiesOnWrite = true
        late.logDisk.isFull = true
        var most = 0
        for round in 0..<40 as Range<UInt64> {
            write(5, bytes: 1000, from: 1 + round * 5, on: leader, cluster)
            most = max(most, late.host.waitingBytes)
        }
        #expect(most > 4_000 && most < 10_000 + 4_000, "\(most)")
        late.logDisk.isFull = false
        #expect(
            cluster.run(limit: 20_000) {
                late.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(cluster.leader(of: 0) === leader && cluster.allViolations == [])
    }

    @Test("Answers that wait for a log that stands still are bounded, on both sides")
    func waitingAnswers() throws {
        let cluster = try cluster(seed: 18) { $0.settings.batchAnswers = 20 }
        let old = try #require(cluster.leader(of: 0))
        let late = try #require(cluster.nodes.first { $0 !== old })
        let next = try #require(cluster.nodes.first { $0 !== old && $0 !== late })
        late.logDisk.copiesOnWrite = true
        late.logDisk.isFull = true
        old.lane.post { old.host.transferLeadership(of: "g0", to: next.peer) }
        #expect(cluster.run(limit: 5000) { next.leads(0) })
        cluster.run(.milliseconds(60_000))
        #expect(late.host.waitingDuties <= 20, "\(late.host.waitingDuties)")
        #expect(next.host.linkByNode[late.address].map { $0.data.pendingCalls <= 25 } == true)
        late.logDisk.isFull = false
        write(5, bytes: 100, from: 1, on: next, cluster)
        #expect(
            cluster.run(limit: 20_000) {
                late.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(next.leads(0) && cluster.allViolations == [])
    }

    @Test("A state machine that falls behind does not keep the log in memory; made anew it goes on from the disk")
    func stalledMachine() throws {
        let cluster = try cluster(seed: 19) {
            $0.settings.tailBytes = 8_000
            $0.settings.proposalBytes = 20_000
        }
        let leader = try #require(cluster.leader(of: 0))
        let late = try #require(cluster.nodes.first { $0 !== leader })
        let replacement = Box<RecordingMachine?>(nil)
        late.host.remakeStateMachine = { (_) throws(StateMachineError) in
            guard let machine = replacement.value else { throw StateMachineError("not yet") }
            return machine
        }
        late.machines[0].failsAt = cluster.histories[0].lastIndex.next
        for round in 0..<40 as Range<UInt64> { write(5, bytes: 1000, from: 1 + round * 5, on: leader, cluster) }
        cluster.run(.milliseconds(1000))
        #expect(late.status(0)?.problem != nil)
        #expect(late.host.replicas[0].tail.bytes <= 20_000, "\(late.host.replicas[0].tail.bytes)")
        let machine = RecordingMachine(
            node: late.number, history: cluster.histories[0], store: late.stores[0], seed: 1, flushesOneOf: .max)
        replacement.value = machine
        #expect(cluster.run(limit: 5000) { late.status(0)?.problem == nil })
        #expect(machine.appliedPosition.index == cluster.histories[0].lastIndex && cluster.allViolations == [])
    }

    @Test("Who never has much waiting is never refused, however long there is always something waiting")
    func sustained() throws {
        let cluster = try cluster(seed: 15, size: 1) { $0.settings.proposalBytes = 20_000 }
        let node = cluster.nodes[0]
        var tag: UInt64 = 0
        var applied = 0
        var refused = 0
        func proposeNext() {
            tag += 1
            guard tag <= 300 else { return }
            node.host.propose(Command.payload(tag: tag, byteCount: 1000), to: "g0") { outcome in
                if outcome.position != nil { applied += 1 } else { refused += 1 }
                proposeNext()
            }
        }
        // chains a few milliseconds apart: the queue is hardly ever empty
        for _ in 0..<3 {
            node.lane.post { proposeNext() }
            cluster.run(.milliseconds(3))
        }
        cluster.run(limit: 20_000) { applied + refused == 300 }
        #expect(applied == 300 && refused == 0)
    }

    @Test("More proposals than may wait are refused as busy") func count() throws {
        let cluster = try cluster(seed: 16, size: 1) { $0.settings.proposals = 5 }
        let node = cluster.nodes[0]
        var outcomes: [String] = []
        node.lane.post {
            for tag in 1...8 as ClosedRange<UInt64> {
                node.host.propose(Command.payload(tag: tag, byteCount: 8), to: "g0") { outcome in
                    outcomes.append(outcome.position != nil ? "applied" : "\(outcome)")
                }
            }
        }
        cluster.run(.milliseconds(500))
        #expect(outcomes.count { $0 == "applied" } == 5)
        #expect(outcomes.count { $0 == "refused(RaftHost.ProposalRefusal.busy)" } == 3)
    }

    @Test("A group that is not here, and a replica that does not lead, say so") func elsewhere() throws {
        let cluster = try cluster(seed: 17)
        let leader = try #require(cluster.leader(of: 0))
        let other = try #require(cluster.nodes.first { $0 !== leader })
        var refusal: ProposalRefusal?
        leader.lane.post {
            leader.host.propose(Bytes("x"), to: "nowhere") { outcome in refusal = outcome.refusal }
        }
        cluster.run(limit: 1000) { refusal != nil }
        #expect(refusal == .noSuchGroup)
        guard case .notLeader(leader.peer) = cluster.propose(Bytes("12345678"), on: other) else {
            Issue.record("a follower took a proposal")
            return
        }
        guard case .refused(.notLeader(leader.peer)) = cluster.read(on: other) else {
            Issue.record("a follower took a read")
            return
        }
    }
}

@Suite("A stop in order")
struct StopTests {
    private func cluster(seed: UInt64, size: Int = 3) throws -> HostCluster {
        var plan = HostCluster.Plan()
        plan.groups = ["g0", "g1", "g2"]
        plan.size = size
        plan.flushesOneOf = .max
        let cluster = HostCluster(seed: seed, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        return cluster
    }

    @Test("Leaderships are handed over before the node is gone", arguments: 21...26 as ClosedRange<UInt64>)
    func handOver(seed: UInt64) throws {
        let cluster = try cluster(seed: seed)
        let leader = try #require(cluster.leader(of: 0))
        leader.stop()
        #expect(cluster.run(limit: 2500) { leader.hasStopped })
        let others = cluster.nodes.filter { $0 !== leader }
        leader.crash()
        // sooner than the promises to the node that is gone lapse
        let isTaken = cluster.run(limit: 500) { (0..<3).allSatisfy { group in others.contains { $0.leads(group) } } }
        #expect(isTaken && leader.failure == nil)
        let successor = try #require(others.first { $0.leads(0) })
        #expect(cluster.propose(Command.payload(tag: 1, byteCount: 8), on: successor)?.position != nil)
        #expect(cluster.allViolations == [])
    }

    @Test("What was applied is durable in the store, and nothing is replayed") func flushed() throws {
        let cluster = try cluster(seed: 27, size: 1)
        let node = cluster.nodes[0]
        #expect(cluster.propose(Command.payload(tag: 1, byteCount: 8), on: node)?.position != nil)
        let applied = node.machines.map(\.appliedPosition)
        node.stop()
        #expect(cluster.run(limit: 2500) { node.hasStopped })
        #expect(node.stores.map(\.durable) == applied)
    }

    @Test("A node without a living successor stops when its patience ends") func alone() throws {
        let cluster = try cluster(seed: 28)
        let leader = try #require(cluster.leader(of: 0))
        for node in cluster.nodes where node !== leader { node.crash() }
        leader.stop(patience: .milliseconds(1000))
        #expect(cluster.run(limit: 1500) { leader.hasStopped })
        #expect(leader.failure == nil)
    }

    @Test("Whoever waits at its end is answered, and whoever then asks again is refused") func dismissed() throws {
        let cluster = try cluster(seed: 30)
        let leader = try #require(cluster.leader(of: 0))
        let host = leader.host!
        var answers: [String] = []
        leader.lane.post {
            host.propose(Command.payload(tag: 1, byteCount: 8), to: "g0") {
                answers.append("\($0)")
                host.propose(Command.payload(tag: 2, byteCount: 8), to: "g0") { answers.append("\($0)") }
                host.read("g0") { answers.append("\($0)") }
            }
        }
        #expect(cluster.run(limit: 100) { host.replicas.contains { !$0.proposed.isEmpty } })
        leader.crash()
        host.dismiss()
        let refusal = "refused(RaftHost.ProposalRefusal.stopping)"
        #expect(answers == ["unknown", refusal, refusal])
    }

    @Test("Once it has stopped its workers are asked for nothing more") func afterwards() throws {
        let cluster = try cluster(seed: 29)
        let leader = try #require(cluster.leader(of: 0))
        for node in cluster.nodes where node !== leader { node.crash() }
        leader.stop(patience: .milliseconds(200))
        #expect(cluster.run(limit: 500) { leader.hasStopped } && leader.leads(0))
        #expect(cluster.propose(Command.payload(tag: 1, byteCount: 8), on: leader)?.refusal == .stopping)
        #expect(leader.host.freeSpaceChecked == .distantPast)
    }

    @Test(
        "Traffic that goes on while it stops, and after, is no reason to fail",
        arguments: 31...40 as ClosedRange<UInt64>)
    func traffic(seed: UInt64) throws {
        let cluster = try cluster(seed: seed)
        let leader = try #require(cluster.leader(of: 0))
        var tag: UInt64 = 0
        leader.stop()
        for _ in 0..<300 {
            for position in 0..<3 {
                guard let node = cluster.leader(of: position) else { continue }
                tag += 1
                let payload = Command.payload(tag: tag, byteCount: 100)
                node.lane.post { node.host.propose(payload, to: "g\(position)") { _ in } }
            }
            cluster.run(.milliseconds(5))
        }
        #expect(leader.hasStopped && leader.failure == nil, "\(leader.failure ?? "")")
        #expect(cluster.allViolations == [])
    }
}

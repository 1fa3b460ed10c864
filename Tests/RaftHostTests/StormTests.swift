import RaftCore
import RaftHost
import RaftStorage
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

/// Counts what the replicas of one node do, and lets it take time.
private final class BusyObserver: ReplicaObserver, @unchecked Sendable {
    /// How long the node is busy with each event of a core.
    var cost: Interval?
    private let spend: (Interval) -> Void
    private(set) var steps = 0
    private(set) var notes: [ElectionNotes] = []
    /// Terms in which a replica of a group stood for election.
    private(set) var terms: [String: Set<Int64>] = [:]

    /// Replicas that were applied to in one job: all of it happens in one event.
    private var job = (event: 0, replicas: 0)
    private(set) var largestJob = 0
    private let event: () -> Int

    init(event: @escaping () -> Int, spend: @escaping (Interval) -> Void) {
        self.event = event
        self.spend = spend
    }

    func forget() { (steps, notes, terms, largestJob) = (0, [], [:], 0) }

    func count(_ note: ElectionNotes) -> Int { notes.count { $0.contains(note) } }

    func stepped(_ group: String, _ event: Event, _ raft: Raft, _ effects: Effects, _ write: LogWrite?) {
        steps += 1
        if !effects.elections.isEmpty { notes.append(effects.elections) }
        if effects.elections.contains(.stood) { terms[group, default: []].insert(raft.term.rawValue) }
        if let cost { spend(cost) }
    }

    func acknowledged(_ group: String, _ message: Message) {}
    func promised(_ group: String, _ state: HardState) {}
    func applied(_ group: String, _ entries: [CommittedEntry], _ replies: [Bytes]) {
        job = (event(), job.event == event() ? job.replicas + 1 : 1)
        largestJob = max(largestJob, job.replicas)
    }
    func cut(_ group: String) {}
    func switched(_ group: String, to position: LogPosition) {}
    func fenced(_ group: String, at index: LogIndex) {}
    func removed(_ group: String) {}
}

/// Hundreds of groups at rest, on nodes that tell what they do.
private struct CalmCluster {
    let cluster: HostCluster
    let observers: [BusyObserver]

    init(groups: Int, promiseMilliseconds: Int = 500, seed: UInt64 = 7) throws {
        var plan = HostCluster.Plan()
        plan.groups = (0..<groups).map { "g\($0)" }
        plan.settings.liveness.promise = .milliseconds(promiseMilliseconds)
        plan.settings.liveness.interval = .milliseconds(promiseMilliseconds / 5)
        let cluster = HostCluster(seed: seed, plan: plan)
        let world = cluster.world
        observers = cluster.nodes.map { node in
            BusyObserver(
                event: { [unowned world] in world.stepCount }, spend: { [unowned node] in node.lane.spend($0) })
        }
        for (node, observer) in zip(cluster.nodes, observers) { node.observer = observer }
        self.cluster = cluster
        try cluster.start()
        cluster.awaitLeaders(limit: 60_000)
        cluster.run(.milliseconds(3000))
        for observer in observers { observer.forget() }
    }

    func led(by node: SimulatedNode) -> [Int] { (0..<cluster.groupCount).filter { node.leads($0) } }

    var busiest: SimulatedNode { cluster.nodes.max { led(by: $0).count < led(by: $1).count }! }

    func isLed(_ group: Int) -> Bool { cluster.nodes.contains { $0.isRunning && $0.leads(group) } }

    func total(_ note: ElectionNotes) -> Int { observers.map { $0.count(note) }.reduce(0, +) }
}

@Suite("When a node dies, the elections of its groups are no storm (Liveness, rules 19 to 21)")
struct StormTests {
    @Test(
        "However long elections take their nodes, these stand by each other all the while, and each group elects once",
        arguments: [0, 300, 1000])
    func busyNodes(costMicroseconds: Int) throws {
        let calm = try CalmCluster(groups: 240)
        let cluster = calm.cluster
        let dead = calm.busiest
        let orphans = calm.led(by: dead)
        #expect(orphans.count >= 60)
        let alive = zip(cluster.nodes, calm.observers).filter { $0.0 !== dead }
        let nodes = alive.map(\.0)
        func stamps() -> [SupportStamp?] {
            [
                nodes[0].host.liveness.supportStamp(from: nodes[1].address, now: nodes[0].lane.clock.now),
                nodes[1].host.liveness.supportStamp(from: nodes[0].address, now: nodes[1].lane.clock.now),
            ]
        }
        let before = stamps()
        #expect(before.allSatisfy { $0 != nil })
        for (_, observer) in alive { observer.cost = Interval(nanoseconds: Int64(costMicroseconds) * 1000) }
        dead.crash()
        // the promise, and a step for each of some events of a group one after another
        let work = 500 + 2 * costMicroseconds * cluster.groupCount * 4 / 1000
        #expect(cluster.run(limit: work + 1000) { orphans.allSatisfy(calm.isLed) })
        for (_, observer) in alive { observer.cost = nil }
        cluster.run(.milliseconds(1000))
        #expect(stamps() == before, "no promise has lapsed meanwhile")
        // where elections take long the second voter asks before the first one has won
        let most = costMicroseconds == 0 ? orphans.count * 11 / 10 : orphans.count * 4
        #expect((orphans.count...most).contains(calm.total(.asked)))
        #expect(calm.total(.won) == orphans.count)
        // who led goes on leading
        #expect((0..<cluster.groupCount).allSatisfy(calm.isLed))
        #expect(cluster.allViolations == [])
    }

    @Test("No group needs a second round: all are led soon after the promise is over, by both that are left")
    func oneRound() throws {
        for seed in 1...5 as ClosedRange<UInt64> {
            let calm = try CalmCluster(groups: 120, seed: seed)
            let cluster = calm.cluster
            let dead = calm.busiest
            let orphans = calm.led(by: dead)
            dead.crash()
            // promise, pace, an eighth of the jitter and the election itself; a second round would take 1,000 ms
            #expect(cluster.run(limit: 500 + 400) { orphans.allSatisfy(calm.isLed) }, "seed \(seed)")
            let heirs = cluster.nodes.filter { $0 !== dead }.map { node in orphans.count { node.leads($0) } }
            #expect(heirs.allSatisfy { $0 >= orphans.count / 4 }, "seed \(seed): \(heirs)")
            #expect(cluster.allViolations == [], "seed \(seed)")
        }
    }

    @Test("However many groups have something to apply, a job takes some: the check of the vitals waits for one job")
    func jobs() throws {
        let calm = try CalmCluster(groups: 400)
        let leader = calm.busiest
        let groups = calm.led(by: leader)
        #expect(groups.count > RaftHost.replicasPerJob)
        var applied = 0
        leader.lane.post { [host = leader.host!] in
            for group in groups {
                host.propose(Bytes("value"), to: "g\(group)") { if case .applied = $0 { applied += 1 } }
            }
        }
        #expect(calm.cluster.run(limit: 10_000) { applied == groups.count })
        let largest = calm.observers.map(\.largestJob)
        #expect(largest.allSatisfy { $0 <= RaftHost.replicasPerJob } && largest.contains(RaftHost.replicasPerJob))
    }

    @Test("Once a dead node's groups are led again it keeps nobody awake: not one event of a core in twenty seconds")
    func deadNode() throws {
        let calm = try CalmCluster(groups: 200)
        let cluster = calm.cluster
        let dead = calm.busiest
        let others = zip(cluster.nodes, calm.observers).filter { $0.0 !== dead }
        let bystanders = Set((0..<cluster.groupCount)).subtracting(calm.led(by: dead))
        dead.crash()
        #expect(cluster.run(limit: 5000) { (0..<cluster.groupCount).allSatisfy(calm.isLed) })
        let elected = Set(others.flatMap { $0.1.terms.keys })
        #expect(elected.isDisjoint(with: bystanders.map { "g\($0)" }))
        cluster.run(.milliseconds(3000))
        for (_, observer) in others { observer.forget() }
        cluster.run(.milliseconds(20_000))
        for (node, observer) in others {
            #expect(observer.steps == 0)
            #expect(node.host.replicas.allSatisfy { $0.raft.deadline == nil })
        }
    }

    @Test(
        "A node with many groups comes back without an election, and each leader has a word with it",
        arguments: [100, 400])
    func restart(groups: Int) throws {
        let calm = try CalmCluster(groups: groups)
        let cluster = calm.cluster
        let node = calm.busiest
        node.crash()
        #expect(cluster.run(limit: 5000) { (0..<groups).allSatisfy(calm.isLed) })
        cluster.run(.milliseconds(3000))
        for observer in calm.observers { observer.forget() }
        try node.start()
        let peer = node.peer
        let isBack = cluster.run(limit: 10_000) {
            (0..<groups).allSatisfy { group in
                cluster.leader(of: group).map { node.status(group)?.leader == $0.peer && $0.peer != peer } ?? false
            }
        }
        #expect(isBack)
        cluster.run(.milliseconds(5000))
        #expect(calm.total(.asked) == 0)
        let steps = calm.observers.map(\.steps).reduce(0, +)
        #expect(steps <= 24 * groups, "\(steps) events of \(groups) groups")
        #expect(cluster.nodes.allSatisfy { $0.host.replicas.allSatisfy { $0.raft.deadline == nil } })
    }

    @Test("A whole cluster starts anew: each group elects once, or little more", arguments: [100, 400])
    func allAnew(groups: Int) throws {
        let calm = try CalmCluster(groups: groups)
        let cluster = calm.cluster
        for node in cluster.nodes { node.crash() }
        for observer in calm.observers { observer.forget() }
        for node in cluster.nodes { try node.start() }
        cluster.awaitLeaders(limit: 20_000)
        cluster.run(.milliseconds(5000))
        #expect(calm.total(.won) <= groups * 11 / 10)
        let steps = calm.observers.map(\.steps).reduce(0, +)
        #expect(steps <= 60 * groups, "\(steps) events of \(groups) groups")
        #expect(cluster.nodes.allSatisfy { $0.host.replicas.allSatisfy { $0.raft.deadline == nil } })
        #expect(cluster.allViolations == [])
    }
}

@Suite("Replicas at rest give back memory")
struct CoolingTests {
    @Test("Entries of a group at rest are kept in the log only; who was away gets them from there")
    func cools() throws {
        let calm = try CalmCluster(groups: 4, promiseMilliseconds: 1000)
        let cluster = calm.cluster
        let leader = try #require(cluster.leader(of: 0))
        let away = try #require(cluster.nodes.first { $0 !== leader })
        away.crash()
        for number in 0..<20 { #expect(cluster.propose(Bytes("value \(number)"), on: leader)?.position != nil) }
        let replica = try #require(leader.host.byGroup["g0"])
        #expect(replica.tail.count >= 20)
        #expect(cluster.run(limit: 60_000) { replica.tail.count == 0 })
        #expect(!replica.isWarm)
        // nothing is left to be looked at
        #expect(cluster.run(limit: 60_000) { leader.host.warm.isEmpty })
        cluster.run(.milliseconds(1000))
        #expect(leader.host.coolingDue == nil)
        try away.start()
        let last = replica.applied
        #expect(cluster.run(limit: 20_000) { away.status(0)?.appliedIndex == last })
        #expect(cluster.propose(Bytes("one more"), on: leader)?.position?.index == last.next)
        #expect(cluster.run(limit: 20_000) { away.status(0)?.appliedIndex == last.next })
        #expect(cluster.allViolations == [])
    }

    @Test("What has been applied lately stays")
    func staysWarm() throws {
        let calm = try CalmCluster(groups: 1, promiseMilliseconds: 1000)
        let cluster = calm.cluster
        let leader = try #require(cluster.leader(of: 0))
        let replica = try #require(leader.host.byGroup["g0"])
        for number in 0..<8 {
            #expect(cluster.propose(Bytes("value \(number)"), on: leader)?.position != nil)
            cluster.run(.milliseconds(2500))
            #expect(replica.tail.count > number)
        }
    }
}

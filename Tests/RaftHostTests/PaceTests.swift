import RaftCore
import RaftHost
import RaftStorage
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

/// When the replicas of one node spoke of their own accord.
private final class PaceObserver: ReplicaObserver, @unchecked Sendable {
    private let clock: () -> Instant
    /// Campaigns begun, and leaders' appends for news of a node.
    private(set) var campaigns: [Instant] = []
    private(set) var probes: [(group: String, at: Instant)] = []

    init(clock: @escaping () -> Instant) { self.clock = clock }

    func forget() { (campaigns, probes) = ([], []) }

    func stepped(_ group: String, _ event: Event, _ raft: Raft, _ effects: Effects, _ write: LogWrite?) {
        switch event {
        case .deadlineReached:
            let asks = effects.messages.contains { if case .vote = $0.body { true } else { false } }
            if asks { campaigns.append(clock()) }
        case .livenessChanged(let node):
            let probes = effects.messages.contains {
                if case .append = $0.body { $0.to.address == node } else { false }
            }
            if probes { self.probes.append((group, clock())) }
        default: break
        }
    }

    func acknowledged(_ group: String, _ message: Message) {}
    func promised(_ group: String, _ state: HardState) {}
    func applied(_ group: String, _ entries: [CommittedEntry], _ replies: [Bytes]) {}
    func cut(_ group: String) {}
    func switched(_ group: String, to position: LogPosition) {}
    func fenced(_ group: String, at index: LogIndex) {}
    func removed(_ group: String) {}
}

@Suite("Replicas of a node speak of their own accord one after another (Liveness, rule 19)")
struct PaceTests {
    private static let most = 4
    private let cluster: HostCluster
    private let observers: [PaceObserver]

    /// Forty groups, at rest, on nodes that let four replicas speak in ten milliseconds.
    init() throws {
        var plan = HostCluster.Plan()
        plan.groups = (0..<40).map { "g\($0)" }
        (plan.settings.pace.fewest, plan.settings.pace.most) = (1, PaceTests.most)
        // so short that it spreads nothing
        plan.settings.raft.electionJitter = .milliseconds(10)
        cluster = HostCluster(seed: 31, plan: plan)
        let world = cluster.world
        observers = cluster.nodes.map { _ in PaceObserver { world.now } }
        for (node, observer) in zip(cluster.nodes, observers) { node.observer = observer }
        try cluster.start()
        cluster.awaitLeaders()
        cluster.run(.milliseconds(3000))
        for observer in observers { observer.forget() }
    }

    /// Whether no more than two beats can hold were in any span as long as a beat.
    private func isPaced(_ moments: [Instant]) -> Bool {
        let most = 2 * PaceTests.most
        return moments.indices.dropFirst(most).allSatisfy {
            moments[$0 - most] + Pacer.Settings().beat <= moments[$0]
        }
    }

    /// Groups whose leader `node` is.
    private func led(by node: SimulatedNode) -> [Int] { (0..<cluster.groupCount).filter { node.leads($0) } }

    @Test("Where all groups rest nobody waits for a turn, and nothing is due but the next promises")
    func rests() {
        cluster.run(.milliseconds(2000))
        for (node, observer) in zip(cluster.nodes, observers) {
            #expect(node.host.pacer.deadline == nil && node.host.pacer.count == 0)
            #expect(observer.campaigns.isEmpty && observer.probes.isEmpty)
            #expect(node.host.replicas.allSatisfy { $0.raft.deadline == nil })
        }
    }

    @Test("When a node dies, the replicas of its groups campaign by turns, and all groups are led again")
    func campaigns() throws {
        let dead = try #require(cluster.nodes.max { led(by: $0).count < led(by: $1).count })
        let orphans = led(by: dead)
        #expect(orphans.count > 2 * PaceTests.most)
        dead.crash()
        let isLed = cluster.run(limit: 3000) {
            orphans.allSatisfy { group in cluster.nodes.contains { $0.isRunning && $0.leads(group) } }
        }
        #expect(isLed)
        for observer in observers { #expect(isPaced(observer.campaigns)) }
        #expect(observers.map(\.campaigns.count).reduce(0, +) >= orphans.count)
        #expect(cluster.allViolations == [])
    }

    @Test("When a node comes back, leaders that it supports again tell it so by turns, each once")
    func probes() throws {
        let away = cluster.nodes[0]
        for other in cluster.nodes.dropFirst() {
            cluster.world.cut(from: away.address, to: other.address)
            cluster.world.cut(from: other.address, to: away.address)
        }
        #expect(
            cluster.run(limit: 20_000) {
                (0..<cluster.groupCount).allSatisfy { group in cluster.nodes.dropFirst().contains { $0.leads(group) } }
            })
        cluster.run(.milliseconds(2000))
        for observer in observers { observer.forget() }
        cluster.world.healAll()
        cluster.run(.milliseconds(10_000))
        for (node, observer) in zip(cluster.nodes, observers).dropFirst() {
            let probed = observer.probes.map(\.group)
            #expect(isPaced(observer.probes.map(\.at)))
            #expect(probed.count == Set(probed).count, "each once")
            #expect(Set(probed).isSuperset(of: led(by: node).map { "g\($0)" }))
        }
        #expect(cluster.allViolations == [])
    }
}

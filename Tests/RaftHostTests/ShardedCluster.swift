import CMessages
import RaftCore
import RaftHost
import Simulator
import ShardClient
import ShardMap
import Testing
import Transport
import WireMessages

/// Three nodes with the real services and a client with the real router and wire, who counts.
final class ShardedCluster {
    let world: SimulatedWorld
    let nodes: [ShardedNode]
    var random: SeededRandom
    private let lane: SimulatedLane
    private let router: Router
    private let remote: RpcTransport
    /// Per key: increments acknowledged, increments of unknown outcome, sums that were answered.
    private var counters: [(acknowledged: Int64, unknown: Int64, sums: [Int64])]
    private(set) var violations: [String] = []
    private(set) var underWay = 0

    init(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let world = SimulatedWorld(seed: random.next())
        let addresses = (1...3).map { SimulatedNode.address($0) }
        nodes = (1...3).map {
            ShardedNode(number: $0, world: world, controllers: addresses, seed: random.next())
        }
        let lane = world.addNode(at: SimulatedNode.address(100))
        let remote = RpcTransport(network: lane, clock: lane.clock)
        let router = Router(
            seeds: addresses, transport: remote, clock: lane.clock, settings: Router.Settings(), seed: random.next())
        router.requestTurn = { [unowned lane] in lane.requestTurn() }
        lane.setTurn { now in [router.turn(now: now), remote.turn(now: now)].lazy.compactMap { $0 }.min() }
        self.world = world
        self.random = random
        self.lane = lane
        self.router = router
        self.remote = remote
        counters = Array(repeating: (0, 0, []), count: 8)
    }

    /// The results of `operations`, once they are there; fails the test after 10 s.
    func execute(_ operations: [KeyOperation]) -> [KeyResult] {
        var answered: [KeyResult]?
        lane.post { [self] in
            router.execute(operations, deadline: lane.clock.now + .milliseconds(10_000)) { answered = $0 }
        }
        #expect(world.runUntil(limit: .milliseconds(12_000)) { answered != nil }, "no answer to \(operations)")
        return answered ?? operations.map { _ in .failure(.unreachable) }
    }

    var acknowledged: Int64 { counters.reduce(0) { $0 + $1.acknowledged } }
    var keyCount: Int { counters.count }

    private func key(_ number: Int) -> Bytes { Bytes([UInt8(number * 32 + 1)] + Array("key".utf8)) }

    /// Starts the nodes and forms a cluster of so many groups; false if it is not formed within a minute.
    func form(groups: Int = 2) throws -> Bool {
        for node in nodes { try node.start() }
        return initialize(groups: groups)
    }

    /// Repeats an init at the first node until the cluster stands, or `isEnough` holds.
    func initialize(groups: Int = 2, replicas: Int = 3, until isEnough: () -> Bool = { false }) -> Bool {
        var isDone = false
        for _ in 0..<120 where !isDone && !isEnough() {
            lane.post { [self] in
                let body = Arena().scope { arena in
                    let message = arena.make(flotilla__init_request__init)
                    message.pointee.groups = UInt32(groups)
                    message.pointee.replicas = UInt32(replicas)
                    message.pointee.has_nodes = 1
                    message.pointee.nodes = 3
                    return arena.pack(message)
                }
                remote.call(
                    nodes[0].address, service: "flotilla.ClusterService", method: "init", body: body,
                    deadline: lane.clock.now + .milliseconds(2000)
                ) { result in
                    guard case .reply(let reply) = result else { return }
                    isDone = Arena().scope { arena in
                        arena.unpack(flotilla__init_reply__init, reply.body)?.pointee.done ?? 0 != 0
                    }
                }
                lane.requestTurn()
            }
            world.runUntil(limit: .milliseconds(500), isEnough)
        }
        return isDone
    }

    /// Adds one to a key; whether that happened is noted.
    func increment(_ number: Int, timeout milliseconds: Int) {
        underWay += 1
        lane.post { [self] in
            router.execute(
                [KeyOperation(.increment, key: key(number), number: 1)],
                deadline: lane.clock.now + .milliseconds(milliseconds)
            ) { [self] results in
                underWay -= 1
                guard let error = results[0].error else { return noteSum(results[0].integer ?? 0, of: number) }
                if error.outcome == .unknown { counters[number].unknown += 1 }
                if error.outcome == .executed { violations.append("an increment ended in \(error)") }
            }
        }
    }

    private func noteSum(_ sum: Int64, of number: Int) {
        counters[number].acknowledged += 1
        if counters[number].sums.contains(sum) { violations.append("key \(number) was \(sum) twice") }
        counters[number].sums.append(sum)
    }

    /// Reads a key; it must hold whatever was acknowledged before.
    func read(_ number: Int, timeout milliseconds: Int, _ done: @escaping (Int64) -> Void = { _ in }) {
        let least = counters[number].sums.max() ?? 0
        lane.post { [self] in
            router.execute(
                [KeyOperation(.get, key: key(number))], deadline: lane.clock.now + .milliseconds(milliseconds)
            ) { [self] results in
                guard results[0].error == nil else { return }
                let value = results[0].value.flatMap { Int64($0.text) } ?? 0
                if value < least { violations.append("key \(number) was read as \(value), \(least) was known") }
                done(value)
            }
        }
    }

    /// Every key holds what was acknowledged, and at most what nobody knows besides.
    func expectSums() {
        for number in counters.indices {
            var value: Int64?
            read(number, timeout: 10_000) { value = $0 }
            world.runUntil(limit: .milliseconds(12_000)) { value != nil }
            let counter = counters[number]
            guard let value else {
                Issue.record("key \(number) cannot be read")
                continue
            }
            #expect(value >= counter.acknowledged && value <= counter.acknowledged + counter.unknown)
        }
    }
}

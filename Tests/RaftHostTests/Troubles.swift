import RaftCore
import RaftHost
import Transport

/// Faults, drawn from the cluster's seed, while clients go on.
final class Troubles {
    private let cluster: HostCluster
    private let clients: ClientHistory
    /// Nodes that are down, and when they come back.
    private var down: [(node: SimulatedNode, until: Instant)] = []
    /// Of about so many steps one brings a fault.
    var faultOneOf: Int64 = 12
    /// How many faults of each kind there were, in the order of ``Kind``.
    private(set) var counts = [Int](repeating: 0, count: Kind.allCases.count)

    enum Kind: Int, CaseIterable {
        case crash, stop, cutOneWay, cutBoth, heal, breakConnections, slowDisks, fastDisks, fullDisk, roomOnDisk
        case failedSync, transfer
    }

    init(_ cluster: HostCluster, _ clients: ClientHistory) {
        self.cluster = cluster
        self.clients = clients
    }

    private func number(_ bound: Int) -> Int { Int(cluster.random.number(in: 0..<Int64(bound))) }

    private func anyNode() -> SimulatedNode { cluster.nodes[number(cluster.nodes.count)] }

    /// Lets `steps` steps of 1 to 40 ms happen, each with clients and perhaps a fault.
    func suffer(steps: Int) throws {
        for _ in 0..<steps {
            act()
            if cluster.random.number(in: 0..<faultOneOf) == 0 { try strike() }
            try tend()
            cluster.run(.milliseconds(1 + number(40)))
        }
    }

    /// Ends all faults and brings every node back.
    func heal() throws {
        cluster.world.healAll()
        cluster.world.settings.jobDelay = SimulatedWorld.Settings().jobDelay
        for node in cluster.nodes {
            node.logDisk.isFull = false
            if node.isRunning, node.mayFail || node.isStopping { node.crash() }
        }
        down = []
        for node in cluster.nodes where !node.isRunning { try node.start(driftPartsPerMillion: drift()) }
    }

    private func drift() -> Int64 { cluster.random.number(in: -20_000..<20_001) }

    /// A few clients do something; most of them know the leader.
    private func act() {
        for _ in 0..<number(5) {
            let position = number(cluster.groupCount)
            var node = anyNode()
            if number(4) > 0, let leader = cluster.leader(of: position) { node = leader }
            guard node.isRunning else { continue }
            if number(3) == 0 {
                clients.read(position, on: node)
            } else {
                for _ in 0...number(4) {
                    let size = number(20) == 0 ? number(20_000) : number(200)
                    clients.propose(to: position, byteCount: size, on: node)
                }
            }
        }
    }

    private func strike() throws {
        let kind = Kind.allCases[number(Kind.allCases.count)]
        counts[kind.rawValue] += 1
        let node = anyNode()
        let other = anyNode()
        let world = cluster.world
        switch kind {
        case .crash: crash(node)
        case .stop: if node.isRunning, !node.isStopping { node.stop() }
        case .cutOneWay:
            if node !== other { world.cut(from: node.address, to: other.address) }
        case .cutBoth:
            guard node !== other else { return }
            world.cut(from: node.address, to: other.address)
            world.cut(from: other.address, to: node.address)
        case .heal: world.healAll()
        case .breakConnections: world.breakConnections(between: node.address, and: other.address)
        case .slowDisks: world.settings.jobDelay = 5_000_000..<80_000_000
        case .fastDisks: world.settings.jobDelay = SimulatedWorld.Settings().jobDelay
        case .fullDisk: node.logDisk.isFull = true
        case .roomOnDisk: for node in cluster.nodes { node.logDisk.isFull = false }
        case .failedSync: if node.isRunning { node.failSyncs(after: number(5)) }
        case .transfer:
            let group = cluster.histories[number(cluster.groupCount)].group
            guard node.isRunning else { return }
            let host = node.host!
            node.lane.post { host.transferLeadership(of: group, to: node === other ? nil : other.peer) }
        }
    }

    private func crash(_ node: SimulatedNode) {
        guard node.isRunning else { return }
        node.crash()
        down.append((node, cluster.world.now + .milliseconds(50 + number(1500))))
    }

    /// Ends processes that gave up or have stopped, and starts those whose time has come.
    private func tend() throws {
        for node in cluster.nodes where node.isRunning {
            if node.failure != nil || node.hasStopped { crash(node) }
        }
        let due = down.filter { $0.until <= cluster.world.now }
        down.removeAll { $0.until <= cluster.world.now }
        for (node, _) in due {
            // what is full cannot be opened for writing its tail again
            node.logDisk.isFull = false
            try node.start(driftPartsPerMillion: drift())
        }
    }
}

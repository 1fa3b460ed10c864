import CMessages
import RaftCore
import Simulator
import ShardMap
import Testing
import Transport
import WireMessages

@Suite("How a cluster comes to be, with nodes that are not started alike")
struct FormationTests {
    /// What a node answers to an init; nil if it does not within 8 s.
    private func initialize(_ node: NodeAddress, from lane: SimulatedLane, _ world: SimulatedWorld) -> NamedError? {
        let channel = RpcChannel(address: node, network: lane, clock: lane.clock)
        lane.setTurn { channel.expire(now: $0) }
        var error: NamedError?
        lane.post {
            let body = Arena().scope { arena in
                let message = arena.make(flotilla__init_request__init)
                message.pointee.groups = 1
                message.pointee.replicas = 1
                return arena.pack(message)
            }
            channel.call(service: "flotilla.ClusterService", method: "init", body: body) { result in
                guard case .reply(let reply) = result else { return }
                error = Arena().scope { arena in
                    arena.unpack(flotilla__init_reply__init, reply.body).flatMap {
                        NamedError(rawValue: $0.pointee.error)
                    }
                }
            }
        }
        world.runUntil(limit: .milliseconds(8000)) { error != nil }
        return error
    }

    @Test("Two nodes that each take the other for the first controller refuse an init and do not pass it on for ever")
    func firstControllers() throws {
        let world = SimulatedWorld(seed: 3)
        let addresses = (1...2).map { SimulatedNode.address($0) }
        let nodes = [
            ShardedNode(number: 1, world: world, controllers: addresses.reversed(), seed: 1),
            ShardedNode(number: 2, world: world, controllers: addresses, seed: 2),
        ]
        for node in nodes { try node.start() }
        let lane = world.addNode(at: SimulatedNode.address(100))
        #expect(initialize(addresses[0], from: lane, world) == .refused)
        #expect(initialize(addresses[1], from: lane, world) == .refused)
    }

    @Test("Many groups come to be together: no order is given in vain, and replicas are recorded together")
    func manyGroups() throws {
        let groups = 300
        let cluster = ShardedCluster(seed: 7)
        #expect(try cluster.form(groups: groups))
        #expect(cluster.nodes[0].server.map?.groups.count { $0.isBorn } ?? 0 >= groups)
        for node in cluster.nodes {
            #expect(node.log.count(containing: "could not be created") == 0)
            #expect(node.host.records.count == groups + 1)
            // the node's own record has some hundred bytes for each replica: once for each of them, that is megabytes
            #expect(node.host.logBytes < groups * 8192, "\(node.host.logBytes)")
        }
    }

    @Test("Groups that wait for a node that is down keep no others waiting")
    func blockedGroups() throws {
        let cluster = ShardedCluster(seed: 9)
        for node in cluster.nodes { try node.start() }
        let (first, dead) = (cluster.nodes[0], cluster.nodes[2])
        _ = cluster.initialize(groups: 900, replicas: 1) {
            cluster.nodes.allSatisfy { $0.host.identity.clusterID != 0 }
        }
        dead.crash()
        func unborn() -> [Group] { first.server.map?.groups.filter { !$0.isBorn } ?? [] }
        let areBorn = cluster.world.runUntil(limit: .milliseconds(120_000)) {
            first.server.map?.groups.count ?? 0 >= 900
                && unborn().allSatisfy { $0.peers.contains { $0.address == dead.address } }
        }
        #expect(areBorn)
        // more than are worked on at a time
        #expect(unborn().count > 256)
    }

    @Test("A first controller that does not answer is named before the caller's patience ends")
    func silentFirstController() throws {
        let world = SimulatedWorld(seed: 4)
        let addresses = (1...2).map { SimulatedNode.address($0) }
        let nodes = [1, 2].map { ShardedNode(number: $0, world: world, controllers: addresses, seed: UInt64($0)) }
        for node in nodes { try node.start() }
        let lane = world.addNode(at: SimulatedNode.address(100))
        world.run(for: .milliseconds(500))
        world.cut(from: addresses[0], to: addresses[1])
        let start = world.now
        #expect(initialize(addresses[1], from: lane, world) == .unreachable)
        // raftctl waits for 5 s
        #expect(world.now - start <= .milliseconds(4500))
    }

    @Test("A latecomer hears of newer maps though one of the seeds is silent")
    func silentSeed() throws {
        let cluster = ShardedCluster(seed: 6)
        #expect(try cluster.form())
        let world = cluster.world
        let controllers = cluster.nodes.map(\.address)
        func join(_ number: Int) throws -> ShardedNode {
            let node = ShardedNode(number: number, world: world, controllers: controllers, seed: UInt64(number))
            try node.start()
            #expect(world.runUntil(limit: .milliseconds(20_000)) { node.server.map?.node(at: node.address) != nil })
            return node
        }
        let latecomer = try join(4)
        // time to have asked each of them before
        world.run(for: .milliseconds(20_000))
        world.cut(from: controllers[0], to: latecomer.address)
        world.run(for: .milliseconds(30_000))
        let next = try join(5)
        #expect(world.runUntil(limit: .milliseconds(30_000)) { latecomer.server.map?.node(at: next.address) != nil })
    }

    @Test("An init that a node's death interrupts is complained about now and then, and done when the node is back")
    func halfFinished() throws {
        let cluster = ShardedCluster(seed: 7)
        for node in cluster.nodes { try node.start() }
        let (first, dead) = (cluster.nodes[0], cluster.nodes[2])
        _ = cluster.initialize { cluster.nodes.allSatisfy { $0.host.identity.clusterID != 0 } }
        dead.crash()
        cluster.world.run(for: .milliseconds(20_000))
        #expect(first.server.map?.groups.count == 3)
        let complaints = cluster.nodes.map { $0.log.count(containing: "a replica could not be created") }
        // two groups, every ten seconds, perhaps by two leaders of the controller
        #expect((2...8).contains(complaints.reduce(0, +)), "\(complaints)")
        try dead.start()
        #expect(cluster.initialize())
    }

    @Test("A node's zone comes to be in the map when it is started in one, and stays there") func zones() throws {
        let cluster = ShardedCluster(seed: 8)
        cluster.nodes[0].zone = "west"
        #expect(try cluster.form())
        func expectZones(_ zones: [String], sourceLocation: SourceLocation = #_sourceLocation) {
            let isThere = cluster.world.runUntil(limit: .milliseconds(20_000)) {
                cluster.nodes.allSatisfy { $0.server.map?.nodes.map(\.zone) == zones }
            }
            let found = cluster.nodes.map { $0.server.map?.nodes.map(\.zone) }
            #expect(isThere, "\(found)", sourceLocation: sourceLocation)
        }
        expectZones(["west", "", ""])
        func restart(_ position: Int, in zone: String?) throws {
            cluster.nodes[position].crash()
            cluster.nodes[position].zone = zone
            try cluster.nodes[position].start()
        }
        try restart(1, in: "east")
        expectZones(["west", "east", ""])
        // without a word about it, a node stands where it stood
        try restart(0, in: nil)
        try restart(1, in: "north")
        expectZones(["west", "north", ""])
        try restart(1, in: "")
        expectZones(["west", "", ""])
    }
}

import CMessages
import RaftCore
import ShardMap
import Simulator
import Testing
import Transport
import WireMessages

@testable import RaftHost
@testable import ShardServer

/// Three nodes with a cluster of two groups, and others that came later.
final class Members {
    let cluster: ShardedCluster
    private(set) var nodes: [ShardedNode]
    var world: SimulatedWorld { cluster.world }

    init(seed: UInt64, _ settings: (inout RaftHost.Settings) -> Void = { _ in }) throws {
        cluster = ShardedCluster(seed: seed)
        nodes = cluster.nodes
        for node in nodes { settings(&node.settings) }
        try #require(try cluster.form())
    }

    /// A node that the cluster takes in.
    func join(_ number: Int, controllers: [NodeAddress]? = nil) throws -> ShardedNode {
        let node = ShardedNode(
            number: number, world: world, controllers: controllers ?? cluster.nodes.map(\.address),
            seed: UInt64(number))
        node.settings = nodes[0].settings
        try node.start()
        nodes.append(node)
        try #require(world.runUntil(limit: .milliseconds(20_000)) { node.server.map?.node(at: node.address) != nil })
        return node
    }

    func leader(of group: String) throws -> ShardedNode {
        _ = world.runUntil(limit: .milliseconds(10_000)) {
            self.nodes.contains { $0.isRunning && $0.host.leads(group) }
        }
        return try #require(nodes.first { $0.isRunning && $0.host.leads(group) })
    }

    /// Has all nodes adopt a map that differs from the newest by `change`. There is no controller behind it.
    func publish(_ change: (inout ClusterMap) -> Void) throws {
        var map = try #require(nodes.compactMap { $0.isRunning ? $0.server.map : nil }.max { $0.version < $1.version })
        map.version += 1
        change(&map)
        for node in nodes where node.isRunning {
            let (server, map) = (node.server!, map)
            node.lane.post { server.adoptMap(map) }
        }
        world.run(for: .milliseconds(100))
    }

    func setPeers(of group: String, _ peers: [PeerID], joining: [PeerID] = []) throws {
        try publish { map in
            guard let position = map.groups.firstIndex(where: { $0.id == group }) else { return }
            (map.groups[position].peers, map.groups[position].joining) = (peers, joining)
        }
    }

    /// What `node` answers to a call of `from`, with a hello or without.
    func call(
        _ node: ShardedNode, _ method: String, from: ShardedNode, isStranger: Bool = false,
        limit milliseconds: Int = 10_000, _ body: @escaping (Arena) -> Bytes
    ) throws -> RpcResult {
        var result: RpcResult?
        let (host, server) = (from.host!, from.server!)
        var stranger: RpcChannel?
        from.lane.post {
            let channel = isStranger ? host.makeStrangerChannel(to: node.address) : server.channel(to: node.address)
            stranger = channel
            channel.call(
                service: "flotilla.ClusterService", method: method, body: Arena().scope(body), attachment: [],
                deadline: nil
            ) { result = $0 }
            from.lane.requestTurn()
        }
        world.runUntil(limit: .milliseconds(milliseconds)) { result != nil }
        if isStranger { stranger?.close() }
        return try #require(result)
    }

    func createReplica(
        of group: String, _ peer: PeerID, on node: ShardedNode, mapVersion: UInt64? = nil
    ) throws -> String? {
        let version = mapVersion ?? node.server.map?.version ?? 0
        let result = try call(node, "create_replica", from: nodes[0]) { arena in
            let message = arena.make(flotilla__create_replica_request__init)
            message.pointee.group = arena.string(group)
            message.pointee.peer = arena.string(peer.description)
            message.pointee.has_map_version = 1
            message.pointee.map_version = version
            return arena.pack(message)
        }
        guard case .reply(let reply) = result else { return "no answer" }
        return Arena().scope { arena in
            let message = arena.unpack(flotilla__create_replica_reply__init, reply.body)!.pointee
            return message.error == 0 ? nil : String(field: message.message)
        }
    }

    /// Whether who asks `node` for a map that nobody has waits for as long as that.
    func waits(at node: ShardedNode, for milliseconds: UInt32) throws -> Bool {
        let known = try #require(node.server.map?.version)
        let start = nodes[0].lane.clock.now
        _ = try call(node, "get_map", from: nodes[0], isStranger: true) { arena in
            let message = arena.make(flotilla__get_map_request__init)
            (message.pointee.has_known_version, message.pointee.known_version) = (1, known + 100)
            (message.pointee.has_wait_ms, message.pointee.wait_ms) = (1, milliseconds)
            return arena.pack(message)
        }
        return nodes[0].lane.clock.now - start >= .milliseconds(Int(milliseconds))
    }

    struct Peers: Equatable {
        var error: NamedError?
        var message = ""
        var leader = ""
        var peers: [PeerID] = []
        var isDone = false
    }

    func changePeers(
        of group: String, from: [PeerID], to: [PeerID], at node: ShardedNode, operation: UInt64 = 1
    ) throws -> Peers {
        let asking = try #require(nodes.first { $0 !== node && $0.isRunning })
        let result = try call(node, "change_peers", from: asking) { arena in
            let message = arena.make(flotilla__change_peers_request__init)
            message.pointee.group = arena.string(group)
            message.pointee.operation = operation
            message.pointee.n_from = from.count
            message.pointee.from = arena.strings(from.map(\.description))
            message.pointee.n_to = to.count
            message.pointee.to = arena.strings(to.map(\.description))
            return arena.pack(message)
        }
        guard case .reply(let reply) = result else { return Peers(error: .unreachable) }
        return Arena().scope { arena in
            let message = arena.unpack(flotilla__change_peers_reply__init, reply.body)!.pointee
            return Peers(
                error: NamedError(rawValue: message.error), message: String(field: message.message),
                leader: String(field: message.leader),
                peers: PeerID.decoded(message.peers, count: message.n_peers) ?? [], isDone: message.done != 0)
        }
    }

    /// Orders the change until it is done; what was said last.
    func change(_ group: String, from: [PeerID], to: [PeerID]) throws -> Peers {
        var said = Peers()
        for _ in 0..<10 {
            said = try changePeers(of: group, from: from, to: to, at: leader(of: group))
            if said.isDone { break }
            world.run(for: .milliseconds(200))
        }
        return said
    }

    func transfer(_ group: String, to peer: PeerID?, at node: ShardedNode) throws -> (NamedError?, String, String) {
        let asking = try #require(nodes.first { $0 !== node && $0.isRunning })
        let result = try call(node, "transfer", from: asking, isStranger: true) { arena in
            let message = arena.make(flotilla__transfer_request__init)
            message.pointee.group = arena.string(group)
            if let peer { message.pointee.peer = arena.string(peer.description) }
            return arena.pack(message)
        }
        guard case .reply(let reply) = result else { return (.unreachable, "", "") }
        return Arena().scope { arena in
            let message = arena.unpack(flotilla__transfer_reply__init, reply.body)!.pointee
            return (
                NamedError(rawValue: message.error), String(field: message.message), String(field: message.leader)
            )
        }
    }

    func write() {
        for number in 0..<cluster.keyCount { cluster.increment(number, timeout: 5000) }
        world.run(for: .milliseconds(500))
    }
}

@Suite("The members of a group, as the map orders them")
struct MemberTests {
    private func peer(_ node: ShardedNode, _ idx: Int32 = 0) -> PeerID { PeerID(address: node.address, idx: idx) }

    @Test("A fourth node catches up by a snapshot, the leader leaves, and nothing of its replica stays on its node")
    func replaceLeader() throws {
        let members = try Members(seed: 20) { settings in
            settings.compactionEntries = 40
            settings.keptEntries = 10
            settings.keptBytes = 1 << 10
            settings.compactionPace = .milliseconds(100)
        }
        for _ in 0..<20 { members.write() }
        let before = members.nodes.map { peer($0) }
        let fourth = try members.join(4)
        let leader = try members.leader(of: "g1")
        #expect(leader.host.raft(of: "g1")!.base.index > LogIndex(10))
        // in
        try members.setPeers(of: "g1", before, joining: [peer(fourth)])
        #expect(try members.createReplica(of: "g1", peer(fourth), on: fourth) == nil)
        #expect(try members.createReplica(of: "g1", peer(fourth), on: fourth) == nil, "it is there")
        let four = try members.change("g1", from: before, to: before + [peer(fourth)])
        #expect(four.isDone && four.peers.sorted() == (before + [peer(fourth)]).sorted())
        try members.setPeers(of: "g1", before + [peer(fourth)])
        #expect(fourth.host.raft(of: "g1")!.base.index > .zero, "it began with a snapshot")
        // out
        let record = try #require(leader.host.records.first { $0.group == "g1" })
        let after = four.peers.filter { $0 != record.peer }
        let three = try members.change("g1", from: four.peers, to: after)
        #expect(three.isDone && three.peers == after)
        #expect(leader.host.status(of: "g1") != nil, "the map has not spoken")
        try members.setPeers(of: "g1", after)
        #expect(members.world.runUntil(limit: .milliseconds(5000)) { !leader.host.records.contains(record) })
        members.world.run(for: .milliseconds(500))
        #expect(leader.host.status(of: "g1") == nil && leader.server.machines["g1"] == nil)
        #expect(try leader.host.log.entries(of: record.number, from: .zero.next, count: 1, maxBytes: 1).isEmpty)
        #expect(try leader.engine.numbers() == leader.host.records.map(\.store).sorted())
        members.write()
        members.cluster.expectSums()
        // it does not come back by itself, nor on an order that was long under way
        leader.crash()
        try leader.start()
        members.world.run(for: .milliseconds(3000))
        #expect(leader.host.status(of: "g1") == nil)
        #expect(try members.createReplica(of: "g1", record.peer, on: leader, mapVersion: 1)?.isEmpty == false)
        #expect(members.cluster.violations == [])
    }

    @Test("Nobody waits for a newer map at a node that the controller has left") func behindTheMap() throws {
        let members = try Members(seed: 26)
        let fourth = try members.join(4)
        let controllers = members.cluster.nodes.map { peer($0) }
        for isMember in [false, true] {
            // to the fourth node it looks as if the controller had it; that it was removed it is not told by any log
            try members.setPeers(of: ClusterMap.controllerGroup, controllers + (isMember ? [peer(fourth)] : []))
            #expect(try members.waits(at: fourth, for: 3000) == !isMember)
        }
    }

    @Test("A map removes what it does not want, and nothing that a newer one wanted") func mapVersions() throws {
        let members = try Members(seed: 21)
        let fourth = try members.join(4)
        let version = try #require(fourth.server.map?.version)
        #expect(try members.createReplica(of: "g1", peer(fourth, 2), on: fourth, mapVersion: version) != nil)
        #expect(try members.createReplica(of: "g1", peer(fourth, 2), on: fourth, mapVersion: version + 2) == nil)
        try members.publish { _ in }
        #expect(fourth.server.map?.version == version + 1)
        #expect(fourth.host.status(of: "g1")?.peer == peer(fourth, 2), "that map is older than the order")
        try members.publish { _ in }
        #expect(members.world.runUntil(limit: .milliseconds(5000)) { fourth.host.records.isEmpty })
        #expect(fourth.host.removedReplica(of: "g1") == peer(fourth, 2))
        // a group that is deleted
        try members.publish { map in map.groups.removeAll { $0.id == "g2" } }
        #expect(
            members.world.runUntil(limit: .milliseconds(5000)) {
                members.nodes.allSatisfy { $0.host.status(of: "g2") == nil }
            })
        #expect(members.cluster.nodes.allSatisfy { $0.host.records.map(\.group).sorted() == ["controller", "g1"] })
    }

    @Test("An order that does not fit the members is refused, one that was carried out is done") func refusals() throws
    {
        let members = try Members(seed: 22)
        let fourth = try members.join(4)
        let present = members.cluster.nodes.map { peer($0) }
        let leader = try members.leader(of: "g1")
        let follower = try #require(members.cluster.nodes.first { $0 !== leader })
        let elsewhere = try members.changePeers(of: "g1", from: present, to: present, at: follower)
        #expect(elsewhere.error == .notLeader && elsewhere.leader == leader.address.description)
        #expect(try members.changePeers(of: "g1", from: present, to: [], at: leader).error == .refused)
        #expect(try members.changePeers(of: "g9", from: present, to: present, at: leader).error == .noSuchGroup)
        let fewer = Array(present.dropLast())
        #expect(try members.changePeers(of: "g1", from: fewer, to: [present[0]], at: leader).error == .conflict)
        let done = try members.changePeers(of: "g1", from: fewer, to: present, at: leader)
        #expect(done.error == nil && done.peers == present.sorted() && done.isDone)
        // nobody is there to catch up
        let wanted = present + [peer(fourth)]
        let slow = try members.changePeers(of: "g1", from: present, to: wanted, at: leader, operation: 5)
        #expect(slow.error == nil && !slow.isDone, "it is under way")
        #expect(try members.changePeers(of: "g1", from: present, to: fewer, at: leader).error == .conflict)
        members.world.run(for: .milliseconds(60_000))
        let failed = try members.changePeers(of: "g1", from: present, to: wanted, at: leader, operation: 5)
        #expect(failed.error == .refused && failed.message.contains("did not catch up"))
        #expect(members.world.runUntil(limit: .milliseconds(1)) { !leader.host.raft(of: "g1")!.isChangingMembership })
        #expect(try members.changePeers(of: "g1", from: present, to: present, at: leader).isDone)
    }

    @Test("Leadership goes to whom it is ordered to go, and whoever cannot take it is named") func transfer() throws {
        let members = try Members(seed: 23)
        let leader = try members.leader(of: "g1")
        let others = members.cluster.nodes.filter { $0 !== leader }
        let done = try members.transfer("g1", to: peer(others[1]), at: leader)
        #expect(done.0 == nil && done.2 == others[1].address.description)
        #expect(others[1].host.leads("g1") && !leader.host.leads("g1"))
        let elsewhere = try members.transfer("g1", to: nil, at: leader)
        #expect(elsewhere.0 == .notLeader && elsewhere.2 == others[1].address.description)
        let stranger = try members.transfer("g1", to: PeerID(address: SimulatedNode.address(9)), at: others[1])
        #expect(stranger.0 == .refused && stranger.1.contains("no voter"))
        #expect(try members.transfer("g1", to: peer(others[1]), at: others[1]).0 == nil, "it leads")
        let anybody = try members.transfer("g1", to: nil, at: others[1])
        #expect(anybody.0 == nil && !others[1].host.leads("g1"))
        let last = try members.leader(of: "g1")
        let dead = try #require(members.cluster.nodes.first { $0 !== last })
        dead.crash()
        members.world.run(for: .milliseconds(5000))
        let inVain = try members.transfer("g1", to: peer(dead), at: last)
        #expect(inVain.0 == .refused && inVain.1.contains("did not take over") && last.host.leads("g1"))
    }

    @Test("Orders about members are taken from nodes that said who they are, and from nobody else")
    func strangers() throws {
        let members = try Members(seed: 24)
        for method in ["create_replica", "change_peers"] {
            let result = try members.call(members.nodes[0], method, from: members.nodes[1], isStranger: true) {
                $0.pack($0.make(flotilla__get_map_request__init))
            }
            guard case .failed(let error) = result else {
                Issue.record("\(method) was answered")
                continue
            }
            #expect(error.text.contains("hello"))
        }
    }

    // MARK: the controller

    @Test("A node may lose its replica of the controller, and does not take it up again; another one gains one")
    func controller() throws {
        let members = try Members(seed: 25)
        let fourth = try members.join(4)
        let before = members.cluster.nodes.map { peer($0) }
        let leaver = members.cluster.nodes[0]
        let after = before.dropFirst() + [peer(fourth)]
        try members.setPeers(of: "controller", before, joining: [peer(fourth)])
        #expect(try members.createReplica(of: "controller", peer(fourth), on: fourth, mapVersion: .max) == nil)
        #expect(try members.change("controller", from: before, to: Array(after)).isDone)
        #expect(members.world.runUntil(limit: .milliseconds(5000)) { fourth.server.controller?.map != nil })
        try members.setPeers(of: "controller", Array(after))
        #expect(members.world.runUntil(limit: .milliseconds(5000)) { leaver.server.controller == nil })
        #expect(leaver.host.status(of: "controller") == nil)
        leaver.crash()
        try leaver.start()
        members.world.run(for: .milliseconds(3000))
        #expect(leaver.host.status(of: "controller") == nil && leaver.host.status(of: "g1") != nil)
        #expect(leaver.log.count(containing: "controller's replica cannot be created") == 0)
        // the seeds name none but the one that left: it knows who can take a newcomer in
        let fifth = ShardedNode(number: 5, world: members.world, controllers: [leaver.address], seed: 5)
        try fifth.start()
        #expect(members.world.runUntil(limit: .milliseconds(10_000)) { fifth.server.belongsToCluster })
        #expect(fifth.host.identity.clusterID == leaver.host.identity.clusterID)
    }
}

@Suite("Following the map")
struct MapWatchTests {
    private func known(_ version: UInt64, wait milliseconds: UInt32) -> (Arena) -> Bytes {
        { arena in
            let message = arena.make(flotilla__get_map_request__init)
            (message.pointee.has_known_version, message.pointee.known_version) = (1, version)
            (message.pointee.has_wait_ms, message.pointee.wait_ms) = (1, milliseconds)
            return arena.pack(message)
        }
    }

    @Test("A change reaches a node without a replica of the controller within a round trip") func prompt() throws {
        let members = try Members(seed: 30)
        let watcher = try members.join(4)
        for number in 5...8 {
            members.world.run(for: .milliseconds(number * 700))
            let node = ShardedNode(
                number: number, world: members.world, controllers: members.cluster.nodes.map(\.address), seed: 1)
            try node.start()
            let leader = try members.leader(of: "controller")
            func knows(_ other: ShardedNode) -> Bool { other.server.map?.node(at: node.address) != nil }
            #expect(members.world.runUntil(limit: .milliseconds(20_000)) { knows(leader) })
            let start = members.nodes[0].lane.clock.now
            #expect(members.world.runUntil(limit: .milliseconds(20_000)) { knows(watcher) })
            let took = members.nodes[0].lane.clock.now - start
            #expect(took < .milliseconds(100), "it took \(took.milliseconds) ms")
        }
    }

    @Test("Whoever waits in vain is answered when the time is over, and nobody waits for what is there already")
    func waiting() throws {
        let members = try Members(seed: 31)
        let (asked, asking) = (members.nodes[0], members.nodes[1])
        let version = try #require(asked.server.map?.version)
        var start = members.nodes[0].lane.clock.now
        _ = try members.call(asked, "get_map", from: asking, known(version, wait: 800))
        #expect((800...900).contains((members.nodes[0].lane.clock.now - start).milliseconds))
        start = members.nodes[0].lane.clock.now
        _ = try members.call(asked, "get_map", from: asking, known(version - 1, wait: 800))
        _ = try members.call(asked, "get_map", from: asking, known(version, wait: 0))
        #expect((members.nodes[0].lane.clock.now - start).milliseconds < 100)
        #expect(asked.server.mapWatch.waiting.count <= 2)
    }
}

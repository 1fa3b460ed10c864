import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("What the controller refuses, with the reason and the way out, changing nothing")
struct ControllerRefusalTests {
    private typealias World = ControllerWorld

    @Test func beforeThereIsAMap() {
        var state = ControllerState()
        let commands: [ControllerCommand] = [
            .begin(.move(MoveOperation(shard: 1, destination: "g1")), wallClock: 1),
            .step(operation: 1, to: .done, wallClock: 1), .node(NodeChange(node: 1)), .groupBorn("g1"),
        ]
        for command in commands { #expect(state.apply(command).error == .notInitialized) }
        #expect(state == ControllerState())
    }

    @Test func splits() throws {
        var world = try World()
        func split(_ shard: UInt64, _ key: Bytes) -> ClusterOperation.Kind {
            .split(SplitOperation(shard: shard, key: key))
        }
        world.expectRefusal(split(99, Bytes("b")), .noSuchShard, "99", "raftctl shard list")
        world.expectRefusal(split(2, Bytes("b")), .refused, "does not cut shard 2", "[b, c)", "behind its first one")
        world.expectRefusal(split(2, Bytes("c")), .refused, "does not cut shard 2")
        world.expectRefusal(split(2, Bytes("a")), .refused, "does not cut shard 2")
        world.expectRefusal(split(1, Bytes()), .refused, "does not cut shard 1")
        world.expectRefusal(
            split(6, Bytes(Array(repeating: 0x78, count: KeyLimits.keyBytes + 1))), .keyTooLarge, "65536")
        let operation = try world.begin(split(2, Bytes("bb")))
        world.expectRefusal(split(2, Bytes("bc")), .conflict, "operation \(operation.id)", "split shard 2", "wait")
    }

    @Test func foreignMembers() throws {
        var world = try World(level: ClusterLevel.foreignMembers)
        let present = try world.group("g1").peers
        let braft = World.peer(40, idx: 3)
        func change(_ group: String = "g1", from: [PeerID]? = nil, to: [PeerID], foreign: Bool = true)
            -> ClusterOperation.Kind
        {
            .changePeers(
                ChangePeersOperation(group: group, from: from ?? present, to: to, allowsForeign: foreign))
        }
        world.expectRefusal(change(to: present + [braft], foreign: false), .noSuchNode, "10.0.0.40", "--foreign")
        world.expectRefusal(
            change(to: [present[0], present[1], braft, World.peer(41)]), .refused, "2 of 4 voters", "more than half")
        world.expectRefusal(change(to: [present[0], braft]), .refused, "1 of 2 voters")
        let learner = World.peer(4, role: .learner)
        world.expectRefusal(change(to: present + [braft, learner]), .refused, "learners")
        let controller = try world.group("controller").peers
        world.expectRefusal(
            change("controller", from: controller, to: controller + [braft]), .refused, "only nodes", "controller")
        // it keeps the idx that it has, and counts from then on without being named again
        try world.run(change(to: present + [braft]))
        let mixed = try world.group("g1").peers
        #expect(mixed.contains { $0 == braft && $0.idx == 3 })
        world.expectRefusal(
            change(from: mixed, to: [present[0], braft], foreign: false), .refused, "1 of 2 voters")
        try world.run(change(from: mixed, to: [present[0], present[1], World.peer(4), braft], foreign: false))
        try world.run(
            change(from: try world.group("g1").peers, to: present, foreign: false))
        #expect(try world.group("g1").peers.contains(braft) == false)
        // it may have voted under its name; what comes next at its address has another one
        let now = try world.group("g1").peers
        for idx in [0, 3, -1, 1 << 20, .max] as [Int32] {
            world.expectRefusal(
                change(from: now, to: now + [World.peer(40, idx: idx)]), .conflict, "idx from 4 to 1048575")
        }
        world.expectRefusal(
            change(from: now, to: now + [World.peer(41, idx: .max)]), .conflict, "idx from 0 to 1048575")
        try world.run(change(from: now, to: now + [World.peer(40, idx: 4)]))
    }

    @Test("A node does not join at the address of another program's member, which it would be taken for")
    func aForeignMembersAddress() throws {
        var world = try World(level: ClusterLevel.foreignMembers)
        let braft = World.peer(40, idx: 3)
        let present = try world.group("g2").peers
        let join = ControllerCommand.join(
            address: braft.address, incarnation: 40, level: ClusterLevel.foreignMembers)
        func expectRefusal(_ location: SourceLocation = #_sourceLocation) {
            let before = world.state
            let reply = world.state.apply(join)
            #expect(reply.error == .refused, sourceLocation: location)
            for word in ["group g2", "10.0.0.40:7000", "raftctl group remove-peer g2 10.0.0.40:7000"] {
                #expect(reply.message?.contains(word) == true, "\(reply.message ?? "-")", sourceLocation: location)
            }
            #expect(world.state == before, sourceLocation: location)
        }
        func change(_ from: [PeerID], _ to: [PeerID]) -> ClusterOperation.Kind {
            .changePeers(ChangePeersOperation(group: "g2", from: from, to: to, allowsForeign: true))
        }
        let operation = try world.begin(change(present, present + [braft]))
        expectRefusal()
        world.step(operation.id, .done)
        expectRefusal()
        try world.run(change(try world.group("g2").peers, present))
        #expect(world.state.apply(join).error == nil)
        // now a node is there, whose members get an idx from the controller
        let now = try world.group("g2").peers
        try world.run(change(now, now + [World.peer(40)]))
        #expect(try world.group("g2").peers.contains { $0.address == braft.address && $0.idx == 4 })
    }

    @Test("A foreign member takes nobody's place when a node drains")
    func drainBesideAForeignMember() throws {
        var world = try World(nodes: 4, level: ClusterLevel.foreignMembers)
        let present = try world.group("g2").peers
        let change = ChangePeersOperation(
            group: "g2", from: present, to: present + [World.peer(40)], allowsForeign: true)
        try world.run(.changePeers(change))
        #expect(present.contains(World.peer(4)))
        #expect(world.state.apply(.node(NodeChange(node: 4, isDraining: true))).error == nil)
    }

    @Test func merges() throws {
        var world = try World()
        func merge(_ left: UInt64, _ right: UInt64) -> ClusterOperation.Kind {
            .merge(MergeOperation(left: left, right: right))
        }
        world.expectRefusal(merge(1, 99), .noSuchShard, "99")
        world.expectRefusal(merge(1, 3), .refused, "does not follow", "right neighbour is shard 2")
        world.expectRefusal(merge(2, 1), .refused, "does not follow", "right neighbour is shard 3")
        world.expectRefusal(merge(6, 1), .refused, "the last one")
        world.expectRefusal(merge(1, 1), .refused, "does not follow")
        world.expectRefusal(
            merge(2, 3), .refused, "shard 2 is at g1", "shard 3 at g2", "raftctl shard move 3 --to g1")
        let operation = try world.begin(.move(MoveOperation(shard: 2, destination: "g2")))
        world.expectRefusal(merge(1, 2), .conflict, "operation \(operation.id)", "raftctl operation cancel")
    }

    @Test func moves() throws {
        var world = try World()
        func move(_ shard: UInt64, _ group: String) -> ClusterOperation.Kind {
            .move(MoveOperation(shard: shard, destination: group))
        }
        world.expectRefusal(move(99, "g2"), .noSuchShard, "99")
        world.expectRefusal(move(1, "g9"), .noSuchGroup, "g9", "raftctl group list")
        world.expectRefusal(move(1, "controller"), .refused, "holds no shards")
        world.expectRefusal(move(1, "g1"), .refused, "at g1 already")
        _ = try world.begin(.createGroup(CreateGroupOperation(group: "new", peers: [World.peer(4)])))
        world.expectRefusal(move(1, "new"), .refused, "not born yet")
        try world.run(.createGroup(CreateGroupOperation(group: "old", peers: [World.peer(4)])))
        let deletion = try world.begin(.deleteGroup(DeleteGroupOperation(group: "old")))
        world.expectRefusal(move(1, "old"), .conflict, "operation \(deletion.id)", "delete group old")
        let operation = try world.begin(move(1, "g2"))
        world.expectRefusal(move(1, "g3"), .conflict, "operation \(operation.id)")
        world.expectRefusal(.split(SplitOperation(shard: 1, key: Bytes("aa"))), .conflict, "operation \(operation.id)")
        // switched, it cannot be cancelled any more
        world.step(operation.id, .switched)
        let reply = world.state.apply(.begin(move(1, "g3"), wallClock: 1))
        #expect(reply.error == .conflict && reply.message?.contains("cancel") == false)
        #expect(reply.operation?.id == operation.id)
    }

    @Test func shardsOfAGroupThatIsNotBorn() throws {
        var record = try ControllerTests.record()
        record.boundaries = [Bytes("m")]
        record.groups = 2
        var world = try World()
        world.state = ControllerState()
        _ = world.state.apply(.initialize(record))
        world.expectRefusal(.split(SplitOperation(shard: 1, key: Bytes("a"))), .refused, "g1", "not born yet")
        world.expectRefusal(.deleteGroup(DeleteGroupOperation(group: "g1")), .refused, "not born yet")
        world.expectRefusal(
            .changePeers(ChangePeersOperation(group: "g1", from: [World.peer(1)], to: [World.peer(2)])), .refused,
            "not born yet")
    }

    @Test func creationsOfGroups() throws {
        var world = try World()
        func create(_ name: String, _ peers: [PeerID]) -> ClusterOperation.Kind {
            .createGroup(CreateGroupOperation(group: name, peers: peers))
        }
        let peers = [World.peer(1)]
        for name in ["", "a b", "ä", "a/b", String(repeating: "x", count: 65)] {
            world.expectRefusal(create(name, peers), .refused, "letters, digits")
        }
        world.expectRefusal(create("controller", peers), .refused, "choose another name")
        world.expectRefusal(create("g1", peers), .conflict, "there is a group g1 already")
        world.expectRefusal(create("new", []), .refused, "at least one")
        world.expectRefusal(create("new", [World.peer(1, role: .witness)]), .refused, "holds its data")
        world.expectRefusal(create("new", [World.peer(1), World.peer(1, idx: 1)]), .refused, "named twice")
        world.expectRefusal(create("new", [World.peer(9)]), .noSuchNode, "10.0.0.9:7000", "start raftd there")
        let many = (1...33).map { World.peer($0) }
        world.expectRefusal(create("new", many), .refused, "at most 32")
        #expect(world.state.apply(.node(NodeChange(node: 4, isDraining: true))).error == nil)
        world.expectRefusal(create("new", [World.peer(4)]), .refused, "node 4", "draining", "raftctl node resume 4")
        try world.run(create("old", peers))
        try world.run(.deleteGroup(DeleteGroupOperation(group: "old")))
        world.expectRefusal(create("old", peers), .refused, "names are not used again")
    }

    @Test func deletionsOfGroups() throws {
        var world = try World()
        func delete(_ name: String) -> ClusterOperation.Kind { .deleteGroup(DeleteGroupOperation(group: name)) }
        world.expectRefusal(delete("controller"), .refused, "holds the map")
        world.expectRefusal(delete("g9"), .noSuchGroup, "g9")
        world.expectRefusal(delete("g1"), .refused, "shards 1, 2", "raftctl shard move 1")
        try world.run(.createGroup(CreateGroupOperation(group: "new", peers: [World.peer(4)])))
        let move = try world.begin(.move(MoveOperation(shard: 1, destination: "new")))
        world.expectRefusal(delete("new"), .conflict, "operation \(move.id)")
        world.step(move.id, .aborted)
        world.expectRefusal(delete("new"), .conflict, "operation \(move.id)")
        world.step(move.id, .cancelled)
        let deletion = try world.begin(delete("new"))
        world.expectRefusal(delete("new"), .conflict, "operation \(deletion.id)")
    }

    @Test func changesOfMembers() throws {
        var world = try World(nodes: 6)
        let present = try world.group("g1").peers
        #expect(present.map(\.address) == (2...4).map { World.peer($0 - 1).address })
        func change(_ to: [PeerID], from: [PeerID]? = nil, group: String = "g1") -> ClusterOperation.Kind {
            .changePeers(ChangePeersOperation(group: group, from: from ?? present, to: to))
        }
        world.expectRefusal(change([World.peer(1)], group: "g9"), .noSuchGroup, "g9")
        world.expectRefusal(
            change([World.peer(1)], from: [World.peer(1)]), .conflict, "members of group g1 are", "again")
        world.expectRefusal(change([]), .refused, "at least one")
        world.expectRefusal(change([World.peer(1, role: .learner)]), .refused, "at least one voting")
        world.expectRefusal(change([World.peer(5), World.peer(5)]), .refused, "named twice")
        world.expectRefusal(change(present + [World.peer(9)]), .noSuchNode, "10.0.0.9:7000")
        world.expectRefusal(change(present.reversed()), .refused, "has these members already")
        world.expectRefusal(
            change([World.peer(1, idx: 3), World.peer(2)]), .conflict, "is a member", "remove it first")
        world.expectRefusal(
            change(present + [World.peer(5, idx: 3)]), .conflict, "the next member there is 10.0.0.5:7000:0")
        world.expectRefusal(
            change([World.peer(1), World.peer(2), World.peer(3, role: .witness)]), .refused, "witness", "add it again")
        #expect(world.state.apply(.node(NodeChange(node: 6, isDraining: true))).error == nil)
        world.expectRefusal(change(present + [World.peer(6)]), .refused, "node 6", "draining")
        let operation = try world.begin(change(present + [World.peer(5)]))
        world.expectRefusal(change([World.peer(1)]), .conflict, "operation \(operation.id)", "raftctl operation wait")
        world.expectRefusal(.deleteGroup(DeleteGroupOperation(group: "g1")), .conflict, "operation \(operation.id)")
        // its shards may move all the same
        _ = try world.begin(.move(MoveOperation(shard: 1, destination: "g2")))
    }

    @Test func changesOfNodes() throws {
        var world = try World(nodes: 4)
        func node(_ change: NodeChange, _ error: NamedError, _ words: String...) {
            world.expectRefusal(.node(change), error, words)
        }
        node(NodeChange(node: 9, isDraining: true), .noSuchNode, "9", "raftctl node list")
        node(NodeChange(node: 1, zone: "a b"), .refused, "zone")
        node(NodeChange(node: 1, isRemoved: true), .refused, "controller, g1, g3", "raftctl node drain 1")
        #expect(world.state.apply(.node(NodeChange(node: 1, isDraining: true))).error == nil)
        node(
            NodeChange(node: 2, isDraining: true), .refused, "3 members", "2 nodes would be left", "start another node")
        // one that has nothing may still drain, but not the last one
        for id in [5, 6] as [UInt64] {
            let address = try ControllerTests.node(id).address
            #expect(world.state.apply(.join(address: address, incarnation: id)).error == nil)
        }
        #expect(world.state.apply(.node(NodeChange(node: 2, isDraining: true))).error == nil)
        var lonely = try World(nodes: 3, groups: 1, shards: 1)
        let address = try ControllerTests.node(4).address
        #expect(lonely.state.apply(.join(address: address, incarnation: 4)).error == nil)
        lonely.state.map?.groups.removeAll()
        for id in 1...3 as ClosedRange<UInt64> {
            #expect(lonely.state.apply(.node(NodeChange(node: id, isDraining: true))).error == nil)
        }
        lonely.expectRefusal(.node(NodeChange(node: 4, isDraining: true)), .refused, ["the last one", "resume"])
    }

    @Test func joins() throws {
        var world = try World(nodes: 3)
        let address = try ControllerTests.node(9).address
        world.expectRefusal(.join(address: address, incarnation: 9, zone: "a b"), .refused, ["zone"])
        #expect(world.state.apply(.join(address: address, incarnation: 9)).nodeID == 4)
        world.expectRefusal(.join(address: address, incarnation: 10), .wrongIdentity, ["node 4"])
        #expect(world.state.apply(.node(NodeChange(node: 4, isRemoved: true))).error == nil)
        world.expectRefusal(
            .join(address: address, incarnation: 9), .wrongIdentity, ["node 4", "removed", "empty data directory"])
        #expect(world.state.apply(.join(address: address, incarnation: 10)).nodeID == 5)
        for number in 0..<UInt16(ControllerState.Limits.nodes - 4) {
            let join = ControllerCommand.join(
                address: NodeAddress(ip: 1, port: number), incarnation: UInt64(number) + 100)
            #expect(world.state.apply(join).error == nil)
        }
        world.expectRefusal(.join(address: NodeAddress(ip: 2, port: 1), incarnation: 1), .refused, ["4096 nodes"])
    }

    @Test func whatWasPlannedOnAnotherMap() throws {
        var world = try World()
        let version = try world.map.version
        let split = ClusterOperation.Kind.split(SplitOperation(shard: 1, key: Bytes("aa")))
        for stale in [version - 1, version + 1] {
            world.expectRefusal(
                .begin(split, expectedVersion: stale, wallClock: 1), .conflict, ["version \(version)", "plan it again"])
            world.expectRefusal(
                .node(NodeChange(node: 1, zone: "a"), expectedVersion: stale), .conflict, ["plan it again"])
        }
        #expect(world.state.apply(.begin(split, expectedVersion: version, wallClock: 1)).error == nil)
    }

    @Test func moreOperationsThanThereMayBe() throws {
        var world = try World(nodes: 3, groups: 1, shards: 1)
        for number in 1...ControllerState.Limits.pendingOperations {
            _ = try world.begin(.createGroup(CreateGroupOperation(group: "n\(number)", peers: [World.peer(1)])))
        }
        world.expectRefusal(
            .createGroup(CreateGroupOperation(group: "more", peers: [World.peer(1)])), .busy, "1024", "try again")
    }

    @Test func stepsThatDoNotFollow() throws {
        var world = try World()
        func step(_ id: UInt64, _ state: ClusterOperation.State) -> ControllerCommand {
            .step(operation: id, to: state, wallClock: 1)
        }
        world.expectRefusal(step(7, .done), .noSuchOperation, ["7", "raftctl operation list"])
        typealias State = ClusterOperation.State
        /// Which states can be entered from where each of these has come to; its own is no change.
        let paths: [(kind: ClusterOperation.Kind, path: [State], next: [State])] = [
            (.move(MoveOperation(shard: 1, destination: "g2")), [], [.switched, .aborted]),
            (.move(MoveOperation(shard: 1, destination: "g2")), [.switched], [.done]),
            (.move(MoveOperation(shard: 1, destination: "g2")), [.switched, .done], []),
            (.move(MoveOperation(shard: 1, destination: "g2")), [.aborted], [.cancelled]),
            (.move(MoveOperation(shard: 1, destination: "g2")), [.aborted, .cancelled], []),
            (.split(SplitOperation(shard: 1, key: Bytes("aa"))), [], [.done]),
            (.split(SplitOperation(shard: 1, key: Bytes("aa"))), [.done], []),
            (.merge(MergeOperation(left: 1, right: 2)), [], [.done]),
            (.merge(MergeOperation(left: 1, right: 2)), [.done], []),
            (
                .changePeers(
                    ChangePeersOperation(group: "g1", from: try world.group("g1").peers, to: [World.peer(1)])), [],
                [.done, .aborted]
            ),
            (
                .changePeers(
                    ChangePeersOperation(group: "g1", from: try world.group("g1").peers, to: [World.peer(1)])),
                [.aborted], [.cancelled]
            ),
            // not born yet
            (.createGroup(CreateGroupOperation(group: "new", peers: [World.peer(1)])), [], [.aborted]),
            (.createGroup(CreateGroupOperation(group: "new", peers: [World.peer(1)])), [.aborted], [.cancelled]),
        ]
        for (kind, path, next) in paths {
            var world = world
            let id = try world.begin(kind).id
            for state in path { world.step(id, state) }
            let present = path.last ?? .begun
            for state in State.allCases where state != present && !next.contains(state) {
                world.expectRefusal(step(id, state), .conflict, ["operation \(id)"].filter { _ in state != .done })
            }
            for state in next {
                var world = world
                world.step(id, state)
            }
            // the same once more changes nothing
            var again = world.state
            let reply = again.apply(step(id, present))
            #expect(reply.error == nil && reply.operation == world.state.operation(id) && again == world.state)
        }
        try world.run(.createGroup(CreateGroupOperation(group: "new", peers: [World.peer(1)])))
        let deletion = try world.begin(.deleteGroup(DeleteGroupOperation(group: "new")))
        for state in [State.switched, .aborted, .cancelled] {
            world.expectRefusal(step(deletion.id, state), .conflict, ["delete group new"])
        }
    }
}

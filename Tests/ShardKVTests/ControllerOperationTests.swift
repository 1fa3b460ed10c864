import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("What the controller's operations do to the map")
struct ControllerOperationTests {
    private typealias World = ControllerWorld

    @Test func aSplitEndsWithBothHalvesUnderTheNextEpoch() throws {
        var world = try World()
        let before = try world.map
        let operation = try world.begin(.split(SplitOperation(shard: 2, epoch: 99, key: Bytes("bb"), newShard: 99)))
        #expect(
            operation.kind
                == .split(SplitOperation(shard: 2, epoch: 1, key: Bytes("bb"), newShard: 7, group: "g1")))
        #expect(try world.map == before, "nothing happens before the group has split")
        world.step(operation.id, .done)
        let map = try world.map
        #expect(map.version == before.version + 1)
        #expect(
            Array(map.shards[1...2]) == [
                Shard(id: 2, range: KeyRange(start: Bytes("b"), end: Bytes("bb")), group: "g1", epoch: 2),
                Shard(id: 7, range: KeyRange(start: Bytes("bb"), end: Bytes("c")), group: "g1", epoch: 2),
            ])
    }

    @Test func theLastShardIsSplitToo() throws {
        var world = try World()
        try world.run(.split(SplitOperation(shard: 6, key: Bytes("z"))))
        #expect(try world.shard(6).range == KeyRange(start: Bytes("f"), end: Bytes("z")))
        #expect(try world.shard(7).range == KeyRange(start: Bytes("z"), end: Bytes()))
    }

    @Test func aMergeEndsUnderTheHigherEpochPlusOne() throws {
        var world = try World()
        for group in ["g2", "g1", "g2"] { try world.run(.move(MoveOperation(shard: 1, destination: group))) }
        try world.run(.move(MoveOperation(shard: 2, destination: "g2")))
        try world.run(.merge(MergeOperation(left: 1, right: 2)))
        #expect(
            try world.shard(1)
                == Shard(id: 1, range: KeyRange(start: Bytes(), end: Bytes("c")), group: "g2", epoch: 5))
        // a number that was is never given out again
        try world.run(.merge(MergeOperation(left: 5, right: 6)))
        let split = try world.begin(.split(SplitOperation(shard: 5, key: Bytes("f"))))
        #expect(split.kind.shards == [5, 7])
    }

    @Test func aMoveIsSwitchedOrAborted() throws {
        var world = try World()
        let before = try world.shard(1)
        let operation = try world.begin(.move(MoveOperation(shard: 1, destination: "g2")))
        #expect(operation.kind == .move(MoveOperation(shard: 1, epoch: 1, source: "g1", destination: "g2")))
        #expect(try world.shard(1) == before)

        var switched = world
        switched.step(operation.id, .switched)
        #expect(try switched.shard(1) == Shard(id: 1, range: before.range, group: "g2", epoch: 2))
        let version = try switched.map.version
        switched.step(operation.id, .done)
        #expect(try switched.map.version == version)
        #expect(switched.state.ended.map(\.id) == [operation.id] && switched.state.pending.isEmpty)
        #expect(switched.state.operation(operation.id)?.endedMilliseconds != nil)

        world.step(operation.id, .aborted, reason: "why not")
        #expect(try world.shard(1) == Shard(id: 1, range: before.range, group: "g1", epoch: 2))
        #expect(world.state.operation(operation.id)?.reason == "why not")
        #expect(world.state.operation(operation.id)?.endedMilliseconds == nil)
        world.step(operation.id, .cancelled)
        #expect(world.state.operation(operation.id)?.state == .cancelled)
        #expect(world.state.operation(operation.id)?.reason == "why not")
    }

    @Test func aReasonIsCut() throws {
        var world = try World()
        let operation = try world.begin(.move(MoveOperation(shard: 1, destination: "g2")))
        world.step(operation.id, .aborted, reason: String(repeating: "ä", count: 600))
        #expect(world.state.operation(operation.id)?.reason == String(repeating: "ä", count: 512))
    }

    @Test func aGroupIsInTheMapFromTheBeginningAndLeavesItAtTheEnd() throws {
        var world = try World()
        let peers = [World.peer(5, idx: 9), World.peer(4, role: .witness)]
        let creation = try world.begin(.createGroup(CreateGroupOperation(group: "new", peers: peers)))
        let group = try world.group("new")
        #expect(group.peers.map(\.description) == ["10.0.0.5:7000:0:0", "10.0.0.4:7000:0:1"] && !group.isBorn)
        #expect(world.state.apply(.groupBorn("new")).error == nil)
        world.step(creation.id, .done)
        #expect(try world.group("new").isBorn)
        let deletion = try world.begin(.deleteGroup(DeleteGroupOperation(group: "new")))
        #expect(try world.map.group("new") != nil)
        world.step(deletion.id, .done)
        #expect(try world.map.group("new") == nil)
    }

    @Test func membersComeGoAndComeBackUnderANewIdx() throws {
        var world = try World()
        let before = try world.group("g1")
        let operation = try world.begin(
            .changePeers(
                ChangePeersOperation(
                    group: "g1", from: before.peers.reversed(), to: [World.peer(2), World.peer(4), World.peer(5)])))
        #expect(
            operation.kind
                == .changePeers(
                    ChangePeersOperation(
                        group: "g1", from: before.peers, to: [World.peer(2), World.peer(4), World.peer(5)])))
        #expect(try world.group("g1").peers == before.peers)
        #expect(try world.group("g1").joining == [World.peer(4), World.peer(5)])
        world.step(operation.id, .done)
        var group = try world.group("g1")
        #expect(group.peers == [World.peer(2), World.peer(4), World.peer(5)] && group.joining.isEmpty)
        #expect(group.retired == [World.peer(1), World.peer(3)])

        // everybody at once, twice
        for round in 1...2 as ClosedRange<Int32> {
            try world.run(
                .changePeers(
                    ChangePeersOperation(group: "g1", from: group.peers, to: [World.peer(1), World.peer(3)])))
            group = try world.group("g1")
            #expect(group.peers.map(\.idx) == [round, round])
            try world.run(.changePeers(ChangePeersOperation(group: "g1", from: group.peers, to: [World.peer(2)])))
            group = try world.group("g1")
            #expect(group.peers.map(\.idx) == [round])
        }
        #expect(
            group.retired.map(\.description).sorted() == [
                "10.0.0.1:7000:2:0", "10.0.0.2:7000:1:0", "10.0.0.3:7000:2:0", "10.0.0.4:7000:0:0", "10.0.0.5:7000:0:0",
            ])
    }

    @Test func aMemberChangesItsRoleInPlace() throws {
        var world = try World()
        let before = try world.group("g1").peers
        try world.run(
            .changePeers(
                ChangePeersOperation(group: "g1", from: before, to: before + [World.peer(5, role: .learner)])))
        #expect(try world.group("g1").peers.map(\.role) == [.replica, .replica, .replica, .learner])
        let present = try world.group("g1").peers
        try world.run(.changePeers(ChangePeersOperation(group: "g1", from: present, to: before + [World.peer(5)])))
        #expect(try world.group("g1").peers.map(\.role) == [.replica, .replica, .replica, .replica])
        #expect(try world.group("g1").retired.isEmpty)
    }

    @Test func theControllersOwnMembersChangeLikeAnyGroups() throws {
        var world = try World()
        let present = try world.group("controller").peers
        try world.run(
            .changePeers(ChangePeersOperation(group: "controller", from: present, to: present + [World.peer(4)])))
        #expect(try world.group("controller").peers == present + [World.peer(4)])
    }

    @Test func aNodeDrainsComesBackAndGoes() throws {
        var world = try World(nodes: 5)
        let address = try ControllerTests.node(6).address
        #expect(world.state.apply(.join(address: address, incarnation: 6, zone: "east")).nodeID == 6)
        #expect(try world.map.node(6)?.zone == "east")
        #expect(world.state.apply(.join(address: address, incarnation: 6, zone: "west")).nodeID == 6)
        #expect(try world.map.node(6)?.zone == "west")
        let version = try world.map.version
        for command in [
            .join(address: address, incarnation: 6), .join(address: address, incarnation: 6, zone: "west"),
            .node(NodeChange(node: 6, zone: "west", isDraining: false)),
        ] as [ControllerCommand] {
            #expect(world.state.apply(command).version == version)
        }
        #expect(world.state.apply(.node(NodeChange(node: 6, isDraining: true))).error == nil)
        #expect(try world.map.node(6)?.isDraining == true)
        #expect(world.state.apply(.node(NodeChange(node: 6, zone: "", isDraining: false))).error == nil)
        #expect(try world.map.node(6) == Node(id: 6, address: address, incarnation: 6))
        #expect(world.state.apply(.node(NodeChange(node: 6, isRemoved: true))).version == version + 3)
        #expect(try world.map.node(6) == nil)
        #expect(world.state.apply(.join(address: address, incarnation: 7)).nodeID == 7)
    }

    @Test func operationsThatEndedAreForgottenOldestFirst() throws {
        var world = try World()
        let early = try world.begin(.split(SplitOperation(shard: 6, key: Bytes("z"))))
        for _ in 0..<ControllerState.Limits.endedOperations / 2 + 1 {
            try world.run(.move(MoveOperation(shard: 1, destination: "g2")))
            try world.run(.move(MoveOperation(shard: 1, destination: "g1")))
        }
        #expect(world.state.ended.count == ControllerState.Limits.endedOperations)
        #expect(world.state.ended.first?.id == 4 && world.state.ended.last?.id == 1003)
        #expect(world.state.operation(early.id) != nil)
        world.expectRefusal(.step(operation: 2, to: .done, wallClock: 1), .noSuchOperation, ["ended too long ago"])
        world.step(early.id, .done)
        #expect(world.state.operation(early.id)?.state == .done, "who waits for it hears of its end")
        #expect(world.state.ended.first?.id == 5 && world.state.ended.last?.id == early.id)
        for round in 1...ControllerState.Limits.endedOperations / 2 {
            try world.run(.move(MoveOperation(shard: 1, destination: "g2")))
            #expect(world.state.operation(early.id) != nil, "round \(round)")
            try world.run(.move(MoveOperation(shard: 1, destination: "g1")))
        }
        #expect(world.state.operation(early.id) == nil)
    }

    @Test func everyOperationCrossesTheWire() throws {
        let arena = Arena()
        let peers = [World.peer(1), World.peer(2, idx: 3, role: .learner)]
        let kinds: [ClusterOperation.Kind] = [
            .split(SplitOperation(shard: 1, epoch: 2, key: Bytes("k"), newShard: 3, group: "g")),
            .merge(MergeOperation(left: 1, leftEpoch: 2, right: 3, rightEpoch: .max, group: "g")),
            .move(MoveOperation(shard: 1, epoch: 2, source: "g1", destination: "g2")),
            .createGroup(CreateGroupOperation(group: "g", peers: peers)),
            .deleteGroup(DeleteGroupOperation(group: "g")),
            .changePeers(ChangePeersOperation(group: "g", from: [], to: peers)),
        ]
        for kind in kinds {
            for state in ClusterOperation.State.allCases {
                let operation = ClusterOperation(
                    id: 7, state: state, kind: kind, begunMilliseconds: 5,
                    endedMilliseconds: state.isOver ? 6 : nil, reason: state == .aborted ? "" : nil)
                #expect(ClusterOperation(operation.packed(arena), arena) == operation)
                let reply = ControllerReply(error: .conflict, message: "no", version: 3, operation: operation)
                #expect(ControllerReply(reply.packed(arena), arena) == reply)
                let step = ControllerCommand.step(operation: 7, to: state, reason: operation.reason, wallClock: -1)
                #expect(try ControllerCommand.decoded(step.encoded(arena), arena) == step)
            }
            for version in [nil, 9] as [UInt64?] {
                let begin = ControllerCommand.begin(kind, expectedVersion: version, wallClock: 8)
                #expect(try ControllerCommand.decoded(begin.encoded(arena), arena) == begin)
            }
        }
        let changes = [
            NodeChange(node: 1), NodeChange(node: 2, zone: "", isDraining: false),
            NodeChange(node: 3, zone: "z", isDraining: true, isRemoved: true),
        ]
        for change in changes {
            let command = ControllerCommand.node(change, expectedVersion: change.node == 1 ? nil : 4)
            #expect(try ControllerCommand.decoded(command.encoded(arena), arena) == command)
        }
        let join = ControllerCommand.join(address: peers[0].address, incarnation: 1, zone: "")
        #expect(try ControllerCommand.decoded(join.encoded(arena), arena) == join)
    }
}

import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("What a forced reset of a group's members leaves in the map")
struct ControllerResetTests {
    private typealias World = ControllerWorld

    @Test func theMapFollowsAndWhoIsLeftOutIsAFormerMember() throws {
        var world = try World()
        let peers = try world.group("g1").peers
        let reply = world.state.apply(.resetMembers(group: "g1", peers: [peers[0]], wallClock: 9))
        #expect(reply.error == nil, "\(reply.message ?? "")")
        let group = try world.group("g1")
        #expect(group.peers == [peers[0]] && group.retired == peers[1...].sorted() && group.joining.isEmpty)
        // the next one there is a new member, not the one whose disk was lost
        let change = ChangePeersOperation(
            group: "g1", from: group.peers, to: [peers[0], PeerID(address: peers[1].address)])
        let operation = try world.begin(.changePeers(change))
        guard case .changePeers(let begun) = operation.kind else { return }
        #expect(begun.to.last == PeerID(address: peers[1].address, idx: 1))
        let version = try world.map.version
        #expect(
            world.state.apply(.resetMembers(group: "g2", peers: try world.group("g2").peers, wallClock: 9)).error == nil
        )
        #expect(try world.map.version == version, "nothing has changed")
    }

    @Test(arguments: [false, true]) func aChangeUnderWayIsOver(isAborted: Bool) throws {
        var world = try World()
        let peers = try world.group("g1").peers
        let newcomer = World.peer(5)
        let change = ChangePeersOperation(group: "g1", from: peers, to: [peers[0], newcomer])
        let operation = try world.begin(.changePeers(change))
        if isAborted { world.step(operation.id, .aborted) }
        #expect(world.state.apply(.resetMembers(group: "g1", peers: [newcomer], wallClock: 9)).error == nil)
        let group = try world.group("g1")
        #expect(group.peers == [newcomer] && group.joining.isEmpty && group.retired == peers.sorted())
        let ended = try #require(world.state.operation(operation.id))
        #expect(ended.state == .cancelled && ended.endedMilliseconds == 9)
        #expect(ended.reason?.contains("by force") == true && world.state.pending.isEmpty)
    }

    @Test("What a reset has ended is numbered like any other end") func numbered() throws {
        var world = try World()
        try world.run(.split(SplitOperation(shard: 1, key: Bytes("aa"))))
        try world.run(.split(SplitOperation(shard: 2, key: Bytes("ba"))))
        let peers = try world.group("g1").peers
        let change = ChangePeersOperation(group: "g1", from: peers, to: [peers[0], World.peer(5)])
        let operation = try world.begin(.changePeers(change))
        #expect(world.state.apply(.resetMembers(group: "g1", peers: [peers[0]], wallClock: 9)).error == nil)
        #expect(world.state.operation(operation.id)?.endNumber == 3)
        try world.run(.split(SplitOperation(shard: 3, key: Bytes("ca"))))
        #expect(world.state.ended.map(\.endNumber) == [1, 2, 3, 4])
    }

    @Test func aChangeThatHasNotBegunAtTheGroupGoesOn() throws {
        var world = try World()
        let peers = try world.group("g1").peers
        let change = ChangePeersOperation(group: "g1", from: peers, to: peers + [World.peer(5)])
        let operation = try world.begin(.changePeers(change))
        let before = world.state
        #expect(world.state.apply(.resetMembers(group: "g1", peers: peers, wallClock: 9)).error == nil)
        #expect(world.state == before && world.state.pending.map(\.id) == [operation.id])
    }

    @Test func whatCannotHaveHappenedIsRefused() throws {
        let world = try World()
        let peers = try world.group("g1").peers
        func reset(_ group: String, _ peers: [PeerID]) -> ControllerCommand {
            .resetMembers(group: group, peers: peers, wallClock: 9)
        }
        world.expectRefusal(reset("g1", [peers[0], World.peer(5)]), .conflict, ["the members of group g1 are"])
        world.expectRefusal(reset("g1", [peers[0], peers[0]]), .conflict, ["the members of group g1 are"])
        let late = ControllerCommand.resetMembers(group: "g1", peers: [peers[0]], expectedVersion: 1, wallClock: 9)
        world.expectRefusal(late, .conflict, ["this was planned on version 1"])
        world.expectRefusal(reset("g1", []), .conflict, ["name some of them"])
        world.expectRefusal(reset("g9", peers), .noSuchGroup, ["there is no group g9"])
    }

    @Test func itsEntryComesBackAsItWas() throws {
        let arena = Arena()
        let command = ControllerCommand.resetMembers(
            group: "g1", peers: [World.peer(1), World.peer(2, idx: 3)], wallClock: 7)
        #expect(try ControllerCommand.decoded(command.encoded(arena), arena) == command)
    }

    @Test func aPreviewIsWhatAnEntryWouldDoAndChangesNothing() throws {
        var world = try World()
        let before = world.state
        let command = ControllerCommand.begin(.split(SplitOperation(shard: 2, key: Bytes("bb"))), wallClock: 5)
        let preview = world.state.previewing(command)
        #expect(world.state == before)
        #expect(preview.reply == world.state.apply(command) && preview.map == world.state.map)
        let refused = ControllerCommand.begin(.split(SplitOperation(shard: 99, key: Bytes("bb"))), wallClock: 5)
        #expect(world.state.previewing(refused).reply == world.state.apply(refused))
    }
}

import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardServer

@Suite("What a plan says")
struct PlanTests {
    private let arena = Arena()
    private static func address(_ node: Int) -> NodeAddress { NodeAddress(ip: 10 << 24 | UInt32(node), port: 7000) }
    private static func peer(_ node: Int) -> PeerID { PeerID(address: address(node)) }

    private var map: ClusterMap {
        BootstrapRecord(
            clusterID: 7, nodes: (1...5).map { Node(id: UInt64($0), address: Self.address($0), incarnation: 1) },
            controllerPeers: (1...3).map(Self.peer), groups: 2, replicas: 3, boundaries: [Bytes("m")]
        ).initialMap
    }

    private func load(up: [UInt64], down: [UInt64] = []) -> ClusterLoad {
        ClusterLoad(
            nodes: up.map { ClusterLoad.NodeLoad(node: $0, isUp: true, lastHeard: nil) }
                + down.map { ClusterLoad.NodeLoad(node: $0, isUp: false, lastHeard: nil) },
            groups: [ClusterLoad.GroupLoad(group: "g1", leader: Self.peer(1), bytes: 500)],
            shards: [ClusterLoad.ShardLoad(shard: 1, bytes: 300, operationsPerSecond: 0)])
    }

    @Test func aChangeOfMembersPassesThroughTheJointStage() throws {
        let peers = try #require(map.group("g1")).peers
        let newcomers = (1...5).map(Self.peer).filter { !peers.contains($0) }
        let change = ChangePeersOperation(group: "g1", from: peers, to: [peers[0]] + newcomers)
        let operation = ClusterOperation(id: 1, kind: .changePeers(change), begunMilliseconds: 0)
        let down = try #require(map.node(at: peers[1].address)).id
        let plan = OperationPlan(operation, map, load(up: (1...5).filter { $0 != down }, down: [down]))
        #expect(plan.bytes == 1000, "the state of the group, to each newcomer")
        #expect(plan.stages.map(\.name) == ["before", "joint: old members", "joint: new members", "after"])
        #expect(plan.stages.map(\.up) == [2, 2, 3, 3] && plan.stages.map(\.needed) == [2, 2, 2, 2])
        #expect(plan.replicas.map(\.change) == [.stays, .goes, .goes, .new, .new])
        #expect(plan.notes == ["g1 bears no failure (before)"])
        #expect(
            plan.steps.contains { $0.hasPrefix("joint stage") } && plan.steps.last?.contains("are deleted at") == true)
    }

    @Test func ofAForeignMemberTheLeaderTells() throws {
        let braft = PeerID(address: Self.address(40), idx: 2)
        var map = map
        let position = try #require(map.groups.firstIndex { $0.id == "g1" })
        let peers = map.groups[position].peers
        map.groups[position].peers.append(braft)
        let change = ChangePeersOperation(group: "g1", from: peers + [braft], to: Array(peers.dropFirst()) + [braft])
        let operation = ClusterOperation(id: 1, kind: .changePeers(change), begunMilliseconds: 0)
        var load = load(up: [1, 2, 3, 4, 5])
        let silent = OperationPlan(operation, map, load)
        #expect(silent.stages.map(\.up) == [3, 2] && silent.stages.map(\.voters) == [4, 3])
        #expect(silent.replicas.first { $0.peer == braft }?.isUp == false)
        load.groups[0].caughtUp = [braft]
        let plan = OperationPlan(operation, map, load)
        #expect(plan.stages.map(\.up) == [4, 3])
        #expect(plan.replicas.first { $0.peer == braft }?.isUp == true)
        // of one that is to come nobody knows
        let other = PeerID(address: Self.address(41), idx: 2)
        let more = ChangePeersOperation(
            group: "g1", from: peers + [braft], to: peers + [braft, other], allowsForeign: true)
        let coming = OperationPlan(
            ClusterOperation(id: 2, kind: .changePeers(more), begunMilliseconds: 0), map, load)
        #expect(coming.stages.map(\.up) == [4, nil])
    }

    @Test func oneMemberMoreNeedsNoJointStage() throws {
        let peers = try #require(map.group("g1")).peers
        let newcomer = try #require((1...5).map(Self.peer).first { !peers.contains($0) })
        let change = ChangePeersOperation(group: "g1", from: peers, to: peers + [newcomer])
        let operation = ClusterOperation(id: 1, kind: .changePeers(change), begunMilliseconds: 0)
        let plan = OperationPlan(operation, map, ClusterLoad())
        #expect(plan.stages.map(\.name) == ["before", "after"] && plan.stages.map(\.up) == [nil, nil])
        #expect(plan.bytes == nil && plan.notes.isEmpty, "nobody knows")
        let missing = try #require(map.node(at: newcomer.address)).id
        let late = OperationPlan(operation, map, load(up: (1...5).filter { $0 != missing }, down: [missing]))
        #expect(late.notes.contains { $0.contains("\(newcomer.address) does not answer") })
    }

    @Test func aMoveTellsItsBytesAndWhereItCanBeTakenBack() throws {
        let move = MoveOperation(shard: 1, epoch: 1, source: "g1", destination: "g2")
        let operation = ClusterOperation(id: 1, kind: .move(move), begunMilliseconds: 0)
        let plan = OperationPlan(operation, map, load(up: [1, 2, 3, 4, 5]))
        #expect(plan.bytes == 300 && plan.stages.map(\.group) == ["g1", "g2"])
        #expect(plan.steps.count == 8 && plan.steps.contains { $0.contains("can be taken back until here") })
    }

    @Test func aTokenIsOfOneCommandOnOneMapOfOneCluster() throws {
        let move = ControllerCommand.begin(.move(MoveOperation(shard: 1, destination: "g2")), wallClock: 5)
        let token = PlanToken(move, nil, cluster: 7, version: 4, arena)
        #expect(PlanToken(token.description) == token)
        let later = ControllerCommand.begin(
            .move(MoveOperation(shard: 1, destination: "g2")), expectedVersion: 4, wallClock: 6)
        #expect(PlanToken(later, nil, cluster: 7, version: 4, arena) == token)
        #expect(PlanToken(move, nil, cluster: 8, version: 4, arena) != token)
        #expect(PlanToken(move, nil, cluster: 7, version: 5, arena) != token)
        let other = ControllerCommand.begin(.move(MoveOperation(shard: 2, destination: "g2")), wallClock: 5)
        #expect(PlanToken(other, nil, cluster: 7, version: 4, arena) != token)
        // as it would begin, with its numbers
        let fixed = MoveOperation(shard: 1, epoch: 3, source: "g1", destination: "g2")
        let tokens = (UInt64(5)...6).map { number in
            let operation = ClusterOperation(id: number, kind: .move(fixed), begunMilliseconds: 0)
            return PlanToken(move, operation, cluster: 7, version: 4, arena)
        }
        #expect(tokens[0] != tokens[1] && tokens[0] != token)
    }

    @Test func aTokenThatLostOrChangedALetterIsNone() throws {
        let text = Array(PlanToken(version: 41, planned: [Bytes("something")]).description)
        #expect(PlanToken(String(text)) != nil)
        for position in text.indices {
            var shorter = text
            shorter.remove(at: position)
            #expect(PlanToken(String(shorter)) == nil)
            for letter in ["0", "7", "f", "-", "G"].map({ Character($0) }) where letter != text[position] {
                var other = text
                other[position] = letter
                #expect(PlanToken(String(other)) == nil, "\(String(other))")
            }
        }
        for nonsense in ["", "-", "1-2-3", "x"] { #expect(PlanToken(nonsense) == nil) }
    }
}

@Suite("Members that come from a reset by force")
struct ResetFromTests {
    private static func peer(_ node: Int, _ idx: Int32 = 0) -> PeerID {
        PeerID(address: NodeAddress(ip: 10 << 24 | UInt32(node), port: 7000), idx: idx)
    }

    private func operation(
        _ kind: ClusterOperation.Kind, _ state: ClusterOperation.State = .begun
    ) -> ClusterOperation {
        ClusterOperation(id: 1, state: state, kind: kind, begunMilliseconds: 0)
    }

    @Test func areInTheMapAndNoOperationLeadsToThem() {
        let (a, b, c, d) = (Self.peer(1), Self.peer(2), Self.peer(3), Self.peer(4))
        var group = Group(id: "g1", peers: [a, b, c], isBorn: true)
        #expect(group.wasReset(to: [b], []) && group.wasReset(to: [c, a], []))
        #expect(!group.wasReset(to: [c, a, b], []), "those that the map has")
        #expect(!group.wasReset(to: [a, d], []) && !group.wasReset(to: [Self.peer(1, 1)], []), "others")
        // while they change
        group.joining = [d]
        let change = ClusterOperation.Kind.changePeers(
            ChangePeersOperation(group: "g1", from: [a, b, c], to: [d, a]))
        for state in [ClusterOperation.State.begun, .aborted] {
            #expect(!group.wasReset(to: [a, d], [operation(change, state)]), "the change has got that far")
            #expect(group.wasReset(to: [d], [operation(change, state)]))
        }
        #expect(group.wasReset(to: [a, d], [operation(change, .cancelled)]), "it is over")
        let other = ClusterOperation.Kind.changePeers(
            ChangePeersOperation(group: "g2", from: [a, b, c], to: [d, a]))
        #expect(group.wasReset(to: [a, d], [operation(other)]))
        #expect(!group.wasReset(to: [a], [operation(.deleteGroup(DeleteGroupOperation(group: "g1")))]))
    }
}

import RaftCore
import RaftHost
import ShardMap
import Testing
import WireMessages

@testable import ShardServer

@Suite("Members by force, and the map behind them")
struct ForcedResetTests {
    private func confirm(
        _ peers: [PeerID], of group: String, at node: ShardedNode, _ members: Members
    ) throws -> Result<ControllerCommand, OrderRefusal> {
        var result: Result<ControllerCommand, OrderRefusal>?
        let server = node.server!
        node.lane.post { server.confirmReset(of: group, to: peers) { result = $0 } }
        members.world.runUntil(limit: .milliseconds(20_000)) { result != nil }
        return try #require(result)
    }

    private func error(_ result: Result<ControllerCommand, OrderRefusal>) -> NamedError? {
        if case .failure(let refusal) = result { refusal.error } else { nil }
    }

    @Test("a reset is recorded only of a group whose leader says that these are its members")
    func confirmed() throws {
        let members = try Members(seed: 31)
        let controller = try members.leader(of: ClusterMap.controllerGroup)
        let map = try #require(controller.server.map)
        let peers = try #require(map.group("g1")).peers
        _ = try members.leader(of: "g1")
        for peer in peers {
            let refusal = error(try confirm([peer], of: "g1", at: controller, members))
            #expect(refusal == .conflict || refusal == .busy, "\(peer)")
        }
        let own = try #require(map.group(ClusterMap.controllerGroup)).peers
        #expect(error(try confirm(own, of: ClusterMap.controllerGroup, at: controller, members)) == .refused)
        guard
            case .success(.resetMembers("g1", peers, let version, _)) = try confirm(
                peers, of: "g1", at: controller, members)
        else { return #expect(Bool(false), "the members as they are were refused") }
        #expect(version == map.version)
    }

    @Test("the map does not follow the reset of a minority while the other members are led; once they are not, it does")
    func minority() throws {
        let members = try Members(seed: 36)
        let controller = try members.leader(of: ClusterMap.controllerGroup)
        let peers = try #require(controller.server.map?.group("g1")).peers
        let others = members.nodes.filter { $0 !== controller }
        let (leader, lone) = (others[0], others[1])
        func peer(_ node: ShardedNode) throws -> PeerID { try #require(peers.first { $0.address == node.address }) }
        let (successor, own) = (try peer(leader), try peer(lone))
        for _ in 0..<10 where !leader.host.leads("g1") {
            let now = try members.leader(of: "g1")
            let host = now.host!
            now.lane.post { host.transferLeadership(of: "g1", to: successor) }
            _ = members.world.runUntil(limit: .milliseconds(5000)) { leader.host.leads("g1") }
        }
        try #require(leader.host.leads("g1") && controller.host.leads(ClusterMap.controllerGroup))
        members.world.cut(from: lone.address, to: leader.address)
        members.world.cut(from: leader.address, to: lone.address)
        var isReset = false
        for _ in 0..<40 where !isReset {
            let host = lone.host!
            lane(lone) {
                host.resetMembership(of: "g1", to: Configuration(peers: [own])) {
                    if case .done = $0 { isReset = true }
                }
            }
            members.world.run(for: .milliseconds(500))
        }
        try #require(isReset)
        #expect(members.world.runUntil(limit: .milliseconds(20_000)) { lone.host.leads("g1") })
        #expect(error(try confirm([own], of: "g1", at: controller, members)) == .busy)
        members.world.run(for: .milliseconds(30_000))
        #expect(leader.host.leads("g1") && lone.host.leads("g1"))
        #expect(controller.server.map?.group("g1")?.peers == peers)
        leader.crash()
        #expect(
            members.world.runUntil(limit: .milliseconds(120_000)) { controller.server.map?.group("g1")?.peers == [own] }
        )
    }

    private func lane(_ node: ShardedNode, _ body: @escaping () -> Void) {
        node.lane.post {
            body()
            node.lane.requestTurn()
        }
    }

    @Test("a leader that is cut off, and does not know it yet, confirms no members")
    func cutOff() throws {
        let members = try Members(seed: 33)
        let node = try members.leader(of: "g1")
        let peers = try #require(node.server.map?.group("g1")).peers
        for other in members.nodes where other !== node {
            members.world.cut(from: node.address, to: other.address)
            members.world.cut(from: other.address, to: node.address)
        }
        #expect(node.host.leads("g1"))
        let said = try changePeersQuestion(peers, at: node, members)
        #expect(said.error != nil && !said.isDone, "\(said)")
        for other in members.nodes where other !== node {
            members.world.heal(from: node.address, to: other.address)
            members.world.heal(from: other.address, to: node.address)
        }
        var isConfirmed = false
        for _ in 0..<40 where !isConfirmed {
            members.world.run(for: .milliseconds(500))
            isConfirmed = try changePeersQuestion(peers, at: members.leader(of: "g1"), members).isDone
        }
        #expect(isConfirmed)
    }

    private func changePeersQuestion(
        _ peers: [PeerID], at node: ShardedNode, _ members: Members
    ) throws -> PeersAnswer {
        var said: PeersAnswer?
        let server = node.server!
        node.lane.post {
            server.changePeers(of: "g1", operation: 0, from: peers, to: peers) { said = $0 }
            node.lane.requestTurn()
        }
        members.world.runUntil(limit: .milliseconds(20_000)) { said != nil }
        return try #require(said)
    }

    @Test("the map follows a reset of the controller, also while a change of its members waits for one that is gone")
    func controller() throws {
        let members = try Members(seed: 32)
        let late = try members.join(4)
        let survivor = try members.leader(of: ClusterMap.controllerGroup)
        let peers = try #require(survivor.server.map?.group(ClusterMap.controllerGroup)).peers
        let own = try #require(peers.first { $0.address == survivor.address })
        let other = try #require(peers.first { $0 != own })
        late.crash()
        let change = ChangePeersOperation(
            group: ClusterMap.controllerGroup, from: peers, to: [own, other, PeerID(address: late.address)])
        let host = survivor.host!
        survivor.lane.post {
            let begin = ControllerCommand.begin(.changePeers(change), wallClock: 1)
            host.propose(begin.encoded(Arena()), to: ClusterMap.controllerGroup) { _ in }
        }
        #expect(
            members.world.runUntil(limit: .milliseconds(10_000)) {
                survivor.server.recordedOperations.contains { !$0.state.isOver }
            })
        for node in members.nodes where node !== survivor && node.isRunning { node.crash() }
        members.world.run(for: .milliseconds(10_000))
        var outcome: ChangeOutcome?
        survivor.lane.post {
            host.resetMembership(of: ClusterMap.controllerGroup, to: Configuration(peers: [own])) { outcome = $0 }
        }
        #expect(
            members.world.runUntil(limit: .milliseconds(20_000)) {
                survivor.server.map?.group(ClusterMap.controllerGroup)?.peers == [own]
            }, "\(String(describing: outcome))")
        let operation = try #require(survivor.server.recordedOperations.last)
        #expect(operation.state == .cancelled && operation.reason?.contains("by force") == true)
    }
}

import RaftCore
import Testing

@testable import RaftHost
import Simulator
@testable import Transport

/// A node that hangs, or whose packets are lost: connections to it stay open and bring nothing.
@Suite("Connections to silent nodes")
struct SilenceTests {
    private let cluster: HostCluster
    private let leader: SimulatedNode
    private let silent: SimulatedNode

    init() throws {
        cluster = HostCluster(seed: 21)
        try cluster.start()
        cluster.awaitLeaders()
        cluster.run(.milliseconds(1000))
        leader = try #require(cluster.leader(of: 0))
        let leads = leader
        silent = try #require(cluster.nodes.first { $0 !== leads })
    }

    private var link: PeerLink { leader.host.linkByNode[silent.address]! }

    private func cut() {
        for other in cluster.nodes where other !== silent {
            cluster.world.cut(from: silent.address, to: other.address)
            cluster.world.cut(from: other.address, to: silent.address)
        }
    }

    @Test("They are given up after three promises, so that calls do not gather on them, and opened anew later")
    func reset() throws {
        #expect(link.data.isConnected && link.liveness.isConnected)
        cut()
        #expect(cluster.propose(Command.payload(tag: 1, byteCount: 100), on: leader)?.position != nil)
        cluster.run(.milliseconds(2500))
        #expect(link.data.isConnected && link.data.pendingCalls > 0)
        cluster.run(.milliseconds(2000))
        #expect(!link.data.isConnected && link.data.pendingCalls == 0)
        #expect(!link.liveness.isConnected, "what is lost is sent again ever more seldom")
        #expect(cluster.propose(Command.payload(tag: 2, byteCount: 100), on: leader)?.position != nil)
        cluster.world.healAll()
        #expect(
            cluster.run(limit: 8000) {
                link.data.isConnected && link.liveness.isConnected
                    && silent.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(cluster.leader(of: 0) === leader && cluster.allViolations == [])
    }

    @Test("One that was silent from its first word on is given up too") func neverSupported() throws {
        for node in cluster.nodes { node.crash() }
        for node in cluster.nodes where node !== silent { try node.start() }
        let address = silent.address
        // hello is answered, nothing else ever
        let lane = cluster.world.addNode(at: address)
        let server = RpcServer(address: address)
        server.register(RaftHost.nodeService) { _, request in
            request.responder.reply(body: Bytes([0x08, 0x00]))
            return true
        }
        for service in [RaftHost.livenessService, RaftHost.raftService] { server.register(service) { _, _ in true } }
        var accepted = 0
        try lane.listen(on: address) { _ in
            accepted += 1
            return server.makeHandler()
        }
        lane.setTurn { _ in nil }
        #expect(cluster.run(limit: 20_000) { cluster.leader(of: 0) != nil })
        let peer = try #require(cluster.leader(of: 0))
        #expect(cluster.run(limit: 10_000) { peer.host.linkByNode[address]!.data.isConnected })
        let before = accepted
        for tag in 1...100 as ClosedRange<UInt64> {
            _ = cluster.propose(Command.payload(tag: tag, byteCount: 100), on: peer)
            cluster.run(.milliseconds(100))
        }
        #expect(accepted > before + 2, "\(accepted - before) new connections")
    }

    @Test("One that rests and is well is left alone") func idle() throws {
        #expect(cluster.run(limit: 5000) { link.data.pendingCalls == 0 })
        var breaks = 0
        link.data.onStateChange = { _ in breaks += 1 }
        link.liveness.onStateChange = { _ in breaks += 1 }
        cluster.run(.milliseconds(10_000))
        #expect(breaks == 0 && link.data.isConnected && link.liveness.isConnected)
    }
}

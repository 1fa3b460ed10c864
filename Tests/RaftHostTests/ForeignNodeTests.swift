import RaftCore
import Testing

@testable import RaftHost
import Simulator
@testable import Transport

@Suite("A node that does not speak our services")
struct ForeignNodeTests {
    /// Two nodes of three run; at the third's address something else answers.
    private func cluster(answering services: [String]) throws -> HostCluster {
        let cluster = HostCluster(seed: 11)
        for node in cluster.nodes.prefix(2) { try node.start() }
        let address = SimulatedNode.address(3)
        let lane = cluster.world.addNode(at: address)
        let server = RpcServer(address: address)
        for service in services { server.register(service) { _, _ in false } }
        try lane.listen(on: address) { [server] _ in server.makeHandler() }
        cluster.run(.milliseconds(5000))
        return cluster
    }

    @Test(
        "It is foreign, supports nobody, and counts as reachable, once hello is answered with 1001 or 1002",
        arguments: [["braft.RaftService"], ["braft.RaftService", RaftHost.nodeService]])
    func foreign(_ services: [String]) throws {
        let cluster = try cluster(answering: services)
        for node in cluster.nodes.prefix(2) {
            let liveness = node.host.liveness
            #expect(liveness.isForeign(SimulatedNode.address(3)) && liveness.isReachable(SimulatedNode.address(3)))
            #expect(!liveness.supportStands(from: SimulatedNode.address(3), now: node.lane.clock.now))
            #expect(!liveness.isForeign(SimulatedNode.address(3 - node.number)))
        }
        #expect(cluster.nodes.prefix(2).contains { $0.leads(0) }, "two of three are a majority")
    }

    @Test("A node that is down, or nobody's, is not foreign") func silent() throws {
        let cluster = HostCluster(seed: 12)
        for node in cluster.nodes.prefix(2) { try node.start() }
        cluster.run(.milliseconds(5000))
        let liveness = cluster.nodes[0].host.liveness
        #expect(!liveness.isForeign(SimulatedNode.address(3)) && !liveness.isReachable(SimulatedNode.address(3)))
    }

    @Test("When one of ours comes back to the address, it is foreign no more, and is supported") func familiar() throws
    {
        let cluster = try cluster(answering: ["braft.RaftService"])
        cluster.world.crash(SimulatedNode.address(3))
        try cluster.nodes[2].start()
        cluster.run(.milliseconds(6000))
        for node in cluster.nodes.prefix(2) {
            let liveness = node.host.liveness
            #expect(!liveness.isForeign(SimulatedNode.address(3)))
            #expect(liveness.supportStands(from: SimulatedNode.address(3), now: node.lane.clock.now))
        }
        cluster.awaitLeaders()
    }
}

import RaftCore
import Testing

@Suite("Replicas for a coming change of membership")
struct NewcomerTests {
    private func createNewcomer(of group: String, on node: ShardedNode, in cluster: ShardedCluster) -> String?? {
        var problem: String??
        node.lane.post { node.server.createNewcomer(of: group) { problem = .some($0) } }
        cluster.world.runUntil(limit: .milliseconds(2000)) { problem != nil }
        return problem
    }

    @Test("There is none of a group that the map does not know, and one that is there stays as it is")
    func refused() throws {
        let cluster = ShardedCluster(seed: 6)
        #expect(try cluster.form())
        let node = cluster.nodes[1]
        let problem = try #require(createNewcomer(of: "g9", on: node, in: cluster))
        #expect(problem?.contains("g9") == true && node.host.status(of: "g9") == nil)
        let members = node.host.status(of: "g1")?.configuration
        #expect(try #require(createNewcomer(of: "g1", on: node, in: cluster)) == nil)
        #expect(node.host.status(of: "g1")?.configuration == members && members?.peers.count == 3)
    }
}

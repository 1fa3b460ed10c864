import RaftCore
import ShardMap
import Testing

@Suite("The replicated time of a group goes on under every leader")
struct GroupClockTests {
    /// Has `node` lead `group`.
    private func lead(_ group: String, _ node: ShardedNode, in cluster: ShardedCluster) {
        let peer = PeerID(address: node.address)
        for _ in 0..<20 where !node.host.leads(group) {
            for other in cluster.nodes where other.host.leads(group) {
                other.lane.post { other.host.transferLeadership(of: group, to: peer) }
            }
            cluster.world.runUntil(limit: .milliseconds(1000)) { node.host.leads(group) }
        }
        #expect(node.host.leads(group))
    }

    @Test("A first time that was refused for want of room is proposed again when there is room")
    func refusedFirstTime() throws {
        let cluster = ShardedCluster(seed: 5)
        #expect(try cluster.form())
        let node = cluster.nodes[1]
        for other in [cluster.nodes[0], cluster.nodes[2]] {
            for group in ["g1", "g2"] where node.host.leads(group) { lead(group, other, in: cluster) }
        }
        cluster.world.run(for: .milliseconds(1500))
        // the first time of one group has the node look for room, that of the next is refused
        node.room.free = 1 << 20
        lead("g1", node, in: cluster)
        #expect(cluster.world.runUntil(limit: .milliseconds(5000)) { node.host.refusesWrites })
        lead("g2", node, in: cluster)
        let key = Bytes([0x70])
        #expect(cluster.execute([KeyOperation(.set, key: key, value: key)])[0].error == .diskFull)

        node.room.free = 1 << 40
        #expect(cluster.world.runUntil(limit: .milliseconds(5000)) { !node.host.refusesWrites })
        #expect(node.host.leads("g2"))
        let set = KeyOperation(.set, key: key, value: key, expiresInMilliseconds: 200)
        #expect(cluster.execute([set])[0].error == nil)
        #expect(cluster.execute([KeyOperation(.get, key: key)])[0].value == key)
        cluster.world.run(for: .milliseconds(1000))
        #expect(cluster.execute([KeyOperation(.get, key: key)])[0] == KeyResult())
    }
}

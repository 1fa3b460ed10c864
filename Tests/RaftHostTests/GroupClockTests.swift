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

    @Test("A wall clock that jumps by years, ahead or back, makes no key expire early and keeps none for ever")
    func oneWrongClock() throws {
        let cluster = ShardedCluster(seed: 6)
        #expect(try cluster.form())
        let key = Bytes([0x10])
        let years: Int64 = 10 * 365 * 86_400_000
        let set = KeyOperation(.set, key: key, value: key, expiresInMilliseconds: 120_000)
        for (node, jump) in zip(cluster.nodes, [years, -years, years]) {
            #expect(cluster.execute([set])[0].error == nil)
            cluster.world.jumpWallClock(of: node.address, milliseconds: jump)
            // it begins a term with that clock
            for other in cluster.nodes where other !== node {
                for group in ["g1", "g2"] { lead(group, other, in: cluster) }
                break
            }
            for group in ["g1", "g2"] { lead(group, node, in: cluster) }
            #expect(cluster.execute([KeyOperation(.get, key: key)])[0].value == key)
            let left = try #require(cluster.execute([KeyOperation(.timeToLive, key: key)])[0].integer)
            #expect((1...120_000).contains(left), "\(left) ms left")
            // and again under another, with this clock among those that are asked
            for other in cluster.nodes.reversed() where other !== node {
                for group in ["g1", "g2"] { lead(group, other, in: cluster) }
                break
            }
            #expect(cluster.execute([KeyOperation(.get, key: key)])[0].value == key)
            let brief = Bytes([0x11])
            let short = KeyOperation(.set, key: brief, value: brief, expiresInMilliseconds: 200)
            #expect(cluster.execute([short])[0].error == nil)
            cluster.world.run(for: .milliseconds(1000))
            #expect(cluster.execute([KeyOperation(.get, key: brief)])[0] == KeyResult())
            // one wrong clock at a time: it is set right
            cluster.world.jumpWallClock(of: node.address, milliseconds: -jump)
        }
    }
}

import RaftCore
import Testing

@Suite("A key-value cluster from one seed, on the real wire")
struct ShardedClusterTests {
    private static func run(seed: UInt64) throws -> (digest: UInt64, acknowledged: Int64) {
        let cluster = ShardedCluster(seed: seed)
        let world = cluster.world
        #expect(try cluster.form(), "the cluster does not form")
        func number(_ bound: Int) -> Int { Int(cluster.random.number(in: 0..<Int64(bound))) }
        for _ in 0..<150 {
            for _ in 0..<number(6) { cluster.increment(number(cluster.keyCount), timeout: 500 + number(4000)) }
            if number(2) == 0 { cluster.read(number(cluster.keyCount), timeout: 4000) }
            let (node, other) = (cluster.nodes[number(3)], cluster.nodes[number(3)])
            switch number(40) {
            case 0: node.crash()
            case 1...2: world.healAll()
            case 3 where node !== other: world.cut(from: node.address, to: other.address)
            case 4: world.breakConnections(between: node.address, and: other.address)
            default: break
            }
            if number(20) == 0 { for node in cluster.nodes where !node.isRunning { try node.start() } }
            world.run(for: .milliseconds(1 + number(80)))
        }
        world.healAll()
        for node in cluster.nodes where !node.isRunning { try node.start() }
        let before = cluster.acknowledged
        world.run(for: .milliseconds(8000))
        for key in 0..<cluster.keyCount { cluster.increment(key, timeout: 8000) }
        world.runUntil(limit: .milliseconds(10_000)) { cluster.underWay == 0 }
        #expect(cluster.underWay == 0, "every call has an end")
        #expect(cluster.acknowledged >= before + Int64(cluster.keyCount), "seed \(seed): it serves again")
        cluster.expectSums()
        #expect(cluster.violations == [], "seed \(seed)")
        #expect(cluster.nodes.allSatisfy { $0.failure == nil })
        return (world.digest, cluster.acknowledged)
    }

    @Test("Increments happen exactly once, whatever happens to nodes and links", arguments: SimulationTests.fewSeeds)
    func exactlyOnce(seed: UInt64) throws { _ = try ShardedClusterTests.run(seed: seed) }

    @Test("The same seed gives the same run") func determinism() throws {
        #expect(try ShardedClusterTests.run(seed: 77) == ShardedClusterTests.run(seed: 77))
    }
}

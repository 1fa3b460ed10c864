import RaftCore
import Testing

@testable import RaftHost
@testable import Transport

@Suite("Promises of different lengths")
struct PromiseSettingTests {
    @Test("A node restarted with shorter promises is quiet for the longest it can have given") func shorterRun() throws
    {
        var plan = HostCluster.Plan()
        plan.settings.liveness.promise = .milliseconds(5000)
        let cluster = HostCluster(seed: 21, plan: plan)
        try cluster.start()
        cluster.run(.milliseconds(1000))
        let node = cluster.nodes[0]
        for _ in 0..<2 {
            node.crash()
            node.settings.host.liveness.promise = .milliseconds(500)
            try node.start()
            let liveness = node.host.liveness
            #expect(liveness.settings.promise == .milliseconds(500))
            #expect(liveness.quietUntil == node.lane.clock.now + .milliseconds(5000))
            cluster.run(.milliseconds(100))
        }
    }

    @Test("A node that expects longer promises than the others keep counts theirs") func longerAsker() throws {
        let cluster = HostCluster(seed: 22)
        let asker = cluster.nodes[0]
        asker.settings.host.liveness.promise = .milliseconds(10_000)
        try cluster.start()
        let supporter = cluster.nodes[1].address
        let isSupported = cluster.run(limit: 3000) {
            asker.host.liveness.supportStands(from: supporter, now: asker.lane.clock.now)
        }
        #expect(isSupported)
        let end = asker.lane.clock.now + .milliseconds(950)
        #expect(!asker.host.liveness.supportStands(from: supporter, now: end))
    }
}

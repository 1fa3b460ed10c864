import RaftCore
import Simulator
import Testing
import Transport

@testable import RaftHost

@Suite("States that are to be saved") struct SaveOrderTests {
    @Test("Who comes when too many wait is told so, and nobody waits for ever") func numbers() throws {
        var plan = HostCluster.Plan()
        plan.size = 1
        let cluster = HostCluster(seed: 3, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        let node = cluster.nodes[0]
        _ = cluster.propose(Command.payload(tag: 1, byteCount: 100), on: node)
        node.recording.worker("maintenance").hangs = true
        var outcomes: [SaveOutcome] = []
        let host = node.host!
        node.lane.post { for _ in 0..<66 { host.save("g0") { outcomes.append($0) } } }
        node.lane.post { host.save("g9") { outcomes.append($0) } }
        cluster.run(.milliseconds(1000))
        func codes() -> [Int32] { outcomes.map { if case .failed(let code, _) = $0 { code } else { 0 } } }
        #expect(codes() == [16, 16, 2])
        cluster.run(.milliseconds(601_000))
        #expect(codes() == [16, 16, 2] + [Int32](repeating: 110, count: 64))
    }
}

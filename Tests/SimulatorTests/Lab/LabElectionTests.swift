import Testing

@testable import RaftCore
@testable import Simulator

@Suite("MIT 6.5840, 3A: elections")
struct LabElectionTests {
    @Test("initial election", arguments: LabCluster.seeds)
    func initialElection(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        _ = try lab.oneLeader()
        lab.sleep(50)
        let term = try lab.agreedTerm()
        #expect(term >= Term(1))
        lab.sleep(2 * LabCluster.electionTime)
        #expect(try lab.agreedTerm() == term, "a leader was replaced for no reason")
        _ = try lab.oneLeader()
    }

    @Test("election after network failure", arguments: LabCluster.seeds)
    func reelection(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        let first = try lab.oneLeader()
        lab.disconnect(first)
        _ = try lab.oneLeader()
        // the old leader comes back and changes nothing
        lab.connect(first)
        let second = try lab.oneLeader()
        // without a majority nobody leads
        lab.disconnect(second, lab.next(second))
        lab.sleep(2 * LabCluster.electionTime)
        try lab.expectNoLeader()
        lab.connect(lab.next(second))
        _ = try lab.oneLeader()
        lab.connect(second)
        _ = try lab.oneLeader()
    }

    @Test("many elections", arguments: LabCluster.seeds)
    func manyElections(seed: UInt64) throws {
        var lab = LabCluster(servers: 7, seed: seed)
        _ = try lab.oneLeader()
        for _ in 1..<10 {
            let cut = (0..<3).map { _ in Int(lab.chance(0..<7)) }
            for server in cut { lab.disconnect(server) }
            // a majority is left: somebody leads it
            _ = try lab.oneLeader()
            for server in cut { lab.connect(server) }
        }
        _ = try lab.oneLeader()
    }
}

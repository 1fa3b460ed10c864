import RaftCore
import Testing

@Suite("Comparing replicas")
struct AppliedComparisonTests {
    private func peer(_ number: UInt32, _ role: PeerID.Role = .replica) -> PeerID {
        PeerID(address: NodeAddress(ip: number, port: 1), idx: 0, role: role)
    }

    private func judge(_ values: [(UInt32, UInt64)], of members: Int) -> AppliedComparison {
        let configuration = Configuration(peers: (1...UInt32(members)).map { peer($0) })
        return AppliedComparison(values.map { (peer($0.0), $0.1) }, in: configuration)
    }

    @Test("Whoever differs from a majority is named, the one who asks too")
    func majority() {
        #expect(judge([(1, 7), (2, 7), (3, 8)], of: 3) == .divergent([peer(3)], standard: peer(1)))
        #expect(judge([(1, 8), (2, 7), (3, 7)], of: 3) == .divergent([peer(1)], standard: peer(2)))
        #expect(
            judge([(1, 7), (2, 7), (3, 7), (4, 8), (5, 9)], of: 5) == .divergent([peer(4), peer(5)], standard: peer(1)))
    }

    @Test("Without a majority of all voters nobody is called wrong")
    func noMajority() {
        #expect(judge([(1, 7), (2, 8)], of: 3) == .undecided([peer(2)]))
        #expect(judge([(1, 7), (2, 8)], of: 2) == .undecided([peer(2)]))
        #expect(judge([(1, 7), (2, 8), (3, 9)], of: 3) == .undecided([peer(2), peer(3)]))
        #expect(judge([(1, 7), (2, 7), (3, 8), (4, 8)], of: 4) == .undecided([peer(3), peer(4)]))
    }

    @Test("Those that do not answer are not judged")
    func silence() {
        #expect(judge([(1, 7)], of: 3) == .equal)
        #expect(judge([(1, 7), (3, 7)], of: 3) == .equal)
        #expect(judge([], of: 3) == .equal)
    }

    @Test("A learner counts for no majority, and can be wrong")
    func learner() {
        let learner = peer(3, .learner)
        let configuration = Configuration(peers: [peer(1), peer(2), learner])
        #expect(
            AppliedComparison([(peer(1), 7), (peer(2), 7), (learner, 8)], in: configuration)
                == .divergent([learner], standard: peer(1)))
        #expect(
            AppliedComparison([(peer(1), 7), (peer(2), 8), (learner, 7)], in: configuration)
                == .undecided([peer(2)]))
    }

    @Test("While joint both majorities must have it")
    func joint() {
        let configuration = Configuration(
            peers: (1...3).map { peer($0) }, oldPeers: (3...5).map { peer($0) })
        #expect(
            AppliedComparison((1...5).map { (peer($0), $0 == 5 ? 8 : 7) }, in: configuration)
                == .divergent([peer(5)], standard: peer(1)))
        #expect(
            AppliedComparison((1...5).map { (peer($0), $0 >= 4 ? 8 : 7) }, in: configuration)
                == .undecided([peer(4), peer(5)]))
    }
}

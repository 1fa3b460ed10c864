import RaftCore
import Simulator
import Testing

@Suite("Memberships drawn for churn") struct MembershipDrawTests {
    private let nodes = (1...6).map { SimulatedNode.address($0) }.map { PeerID(address: $0) }

    private func draw(sound: [Int], inMap: [Int]) -> MembershipDraw {
        MembershipDraw(everybody: nodes, sound: sound.map { nodes[$0 - 1] }, inMap: inMap.map { nodes[$0 - 1] })
    }

    private func members(_ voters: [Int], learners: [Int] = []) -> Configuration {
        Configuration(peers: voters.map { nodes[$0 - 1] }, learners: learners.map { nodes[$0 - 1] })
    }

    @Test("Three voters, a majority of them sound, and one of these in the map") func legal() {
        let draw = draw(sound: [1, 2, 3, 4], inMap: [2, 5])
        #expect(draw.isLegal(members([1, 2, 3])) && draw.isLegal(members([2, 3, 5], learners: [6])))
        #expect(!draw.isLegal(members([1, 2], learners: [3, 4])), "two voters")
        #expect(!draw.isLegal(members([1, 2, 5, 6])), "half are sound")
        #expect(!draw.isLegal(members([1, 3, 5])), "the one in the map is not sound")
    }

    @Test("Whatever is drawn is legal, and every kind of change is drawn") func changes() throws {
        let draw = draw(sound: [1, 2, 3, 4, 5], inMap: [1, 2, 3])
        var random = SeededRandom(seed: 1)
        var current = members([1, 2, 3])
        var kinds: Set<String> = []
        for _ in 0..<500 {
            let leader = current.peers[0]
            let next = try #require(draw.next(after: current, leader: leader, &random))
            #expect(next != current && draw.isLegal(next) && !next.isJoint)
            let (joined, left) = (
                next.peers.filter { !current.peers.contains($0) }, current.peers.filter { !next.peers.contains($0) }
            )
            if joined.count + left.count > 2 { kinds.insert("several") }
            if joined.count == 1, left.count == 1 { kinds.insert("swap") }
            if joined.count == 1, left.isEmpty { kinds.insert("add") }
            if joined.isEmpty, left.count == 1 { kinds.insert("remove") }
            if left.contains(leader) { kinds.insert("leader removed") }
            if joined.contains(where: { current.learners.contains($0) }) { kinds.insert("promote") }
            if next.learners.contains(where: { !current.contains($0) }) { kinds.insert("learner added") }
            if current.learners.contains(where: { !next.contains($0) }) { kinds.insert("learner removed") }
            current = next
        }
        #expect(kinds.count == 8, "\(kinds.sorted())")
    }

    @Test("Where no other membership is legal none is drawn") func nothing() {
        let three = MembershipDraw(
            everybody: Array(nodes[..<3]), sound: Array(nodes[..<3]), inMap: Array(nodes[..<3]))
        var random = SeededRandom(seed: 1)
        #expect(three.next(after: members([1, 2, 3]), leader: nodes[0], &random) == nil)
    }
}

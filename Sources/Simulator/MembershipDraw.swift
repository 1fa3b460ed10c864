public import RaftCore

/// Draws memberships that a group may be given: voters swapped for nodes outside, a learner added, promoted or removed,
/// the leader removed, several at once.
///
/// A legal membership has at least three voters, a majority of them on sound nodes, and among the sound ones one of the
/// group's peers in the map: by that clients find the group, whoever leads it.
public struct MembershipDraw: Sendable {
    private enum Move: CaseIterable {
        case swapVoter, addVoter, removeVoter, removeLeader, addLearner, promoteLearner, removeLearner, several
    }

    private let everybody: [PeerID]
    private let sound: [PeerID]
    private let inMap: [PeerID]

    /// Draws for a group.
    ///
    /// - Parameters:
    ///   - everybody: the nodes, as members.
    ///   - sound: those of them that will not lose data for good.
    ///   - inMap: the group's peers in the map.
    public init(everybody: [PeerID], sound: [PeerID], inMap: [PeerID]) {
        self.everybody = everybody
        self.sound = sound
        self.inMap = inMap
    }

    /// Whether a group may be given these members.
    public func isLegal(_ members: Configuration) -> Bool {
        let reliable = members.peers.filter { sound.contains($0) }
        return members.peers.count >= 3 && reliable.count * 2 > members.peers.count
            && reliable.contains { inMap.contains($0) }
    }

    /// Another legal membership than `current`, whose leader is `leader`; nil if none was found in some tries.
    public func next(
        after current: Configuration, leader: PeerID, _ random: inout SeededRandom
    ) -> Configuration? {
        for _ in 0..<32 {
            let move = Move.allCases[MembershipDraw.number(below: Move.allCases.count, &random)]
            let drawn = apply(move, to: current, leader, &random)
            if drawn != current, isLegal(drawn) { return drawn }
        }
        return nil
    }

    private func apply(
        _ move: Move, to current: Configuration, _ leader: PeerID, _ random: inout SeededRandom
    ) -> Configuration {
        let strangers = everybody.filter { !current.contains($0) }
        let learners = everybody.filter { current.learners.contains($0) && !current.isVoter($0) }
        let outside = strangers + learners
        var voters = current.peers
        var listeners = current.learners
        func pick(_ list: [PeerID]) -> [PeerID] {
            list.isEmpty ? [] : [list[MembershipDraw.number(below: list.count, &random)]]
        }
        func without(_ leaving: [PeerID], in list: [PeerID]) -> [PeerID] { list.filter { !leaving.contains($0) } }
        switch move {
        case .swapVoter: voters = without(pick(voters), in: voters) + pick(outside)
        case .addVoter: voters += pick(strangers)
        case .removeVoter: voters = without(pick(voters), in: voters)
        case .removeLeader:
            voters = without([leader], in: voters)
            if voters.count < 3 { voters += pick(outside.filter { $0 != leader }) }
        case .addLearner: listeners += pick(strangers)
        case .promoteLearner: voters += pick(learners)
        case .removeLearner: listeners = without(pick(listeners), in: listeners)
        case .several:
            var rest = everybody
            voters = []
            for _ in 0..<3 + MembershipDraw.number(below: 3, &random) {
                voters += pick(rest)
                rest = without(voters, in: rest)
            }
            listeners = rest.filter { _ in MembershipDraw.number(below: 3, &random) == 0 }
        }
        return Configuration(peers: voters, learners: listeners)
    }

    private static func number(below bound: Int, _ random: inout SeededRandom) -> Int {
        Int(random.number(in: 0..<Int64(bound)))
    }
}

import RaftCore
import RaftHost

/// Reads in the middle of its node's turns, as an application in the same process may: what it asks for can be younger
/// than the turn's reading of the clock, which a request from the network never is.
///
/// It lives as long as the node, and in each life of it with another host. Everything of a world runs on one thread, its
/// workers too.
final class InProcessReader: @unchecked Sendable {
    private let node: Int
    private let groups: [String]
    private unowned let judge: Judge
    private var random: SeededRandom
    private var isUnderWay = false
    /// Counts the node's lives: an answer to an earlier one is nobody's.
    private var life = 0
    /// Whether it reads; it does not by itself.
    var isReading = false

    /// In one turn of so many it reads.
    private static let readsOneOf: Int64 = 4

    init(node: Int, groups: [String], judge: Judge, seed: UInt64) {
        (self.node, self.groups, self.judge) = (node, groups, judge)
        random = SeededRandom(seed: seed)
    }

    /// The process has ended; what was asked for gets no answer.
    func crashed() {
        life += 1
        isUnderWay = false
    }

    /// To be called in the turns of the node's lane.
    func turn(_ host: RaftHost) {
        guard isReading, !isUnderWay, random.number(in: 0..<InProcessReader.readsOneOf) == 0 else { return }
        let group = groups[Int(random.number(in: 0..<Int64(groups.count)))]
        guard host.leads(group) else { return }
        isUnderWay = true
        read(group, of: host, from: judge.appliedSequencesEqual.lastApplied(of: group), lease: true)
    }

    private func read(_ group: String, of host: RaftHost, from floor: LogIndex, lease: Bool) {
        let life = self.life
        let replica = ReplicaName(group, on: node)
        host.read(group, lease: lease) { [self] outcome in
            guard life == self.life else { return }
            guard case .ready(let moment) = outcome else { return isUnderWay = false }
            host.evaluate(at: moment) { [self] in
                judge.appliedSequencesEqual.lastApplied(by: replica)
            } completion: { [self] index in
                guard life == self.life else { return }
                // the lease had lapsed
                guard let index else { return read(group, of: host, from: floor, lease: false) }
                isUnderWay = false
                judge.read(replica, from: floor, saw: index ?? .zero)
            }
        }
    }
}

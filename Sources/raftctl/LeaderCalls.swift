import RaftCore
import ShardMap
import WireMessages

// What is asked of a group's leader, whoever that is at the moment.

/// What somebody who was asked says.
enum LeaderAnswer<Value> {
    case answer(Value)
    case refused(LeaderRefusal)
}

/// Why the one who was asked did not do it.
struct LeaderRefusal {
    var error: NamedError
    var message: String?
    /// Who leads the group, as far as that one knows.
    var leader: NodeAddress?

    /// The error of a reply, which is gone with its memory; nil if there is none.
    init?(_ error: UInt32, _ message: UnsafeMutablePointer<CChar>?, _ leader: UnsafeMutablePointer<CChar>? = nil) {
        guard error != 0 else { return nil }
        self.error = NamedError(rawValue: error) ?? .internalError
        self.message = message.map { String(cString: $0) }
        self.leader = leader.flatMap { NodeAddress(String(cString: $0)) }
    }
}

/// A question to a group's leader.
struct LeaderQuestion {
    var group: String
    var method: String
    var body: Bytes
    /// What it is about, for whoever reads of its failure.
    var action: String
    /// How long an answer may take.
    var patience = Interval.milliseconds(5000)
    /// Whether it may be asked again while its answer to the first time may only have been lost.
    var isRepeatable = true
    /// Whether one who is busy is asked again.
    var insists = false
    /// Where to look after an answer was lost.
    var trail = "see its log"

    /// Whether another one, or the same one later, may do what was refused so.
    fileprivate func isWorthAnotherTry(_ error: NamedError) -> Bool {
        switch error {
        case .notLeader, .noLeader, .stopping: true
        case .busy: insists
        default: false
        }
    }
}

extension Cluster {
    /// How long a leader is looked for.
    private static let leaderPatience = Duration.seconds(10)

    /// Asks whoever leads the group: the members in turn, and whom they name.
    func ask<Value>(
        _ question: LeaderQuestion, _ read: (Bytes, Arena) throws(Failure) -> LeaderAnswer<Value>?
    ) async throws(Failure) -> Value {
        let (group, action) = (question.group, question.action)
        let start = ContinuousClock.now
        var last = Failure.failed("\(action): nobody leads \(group); see raftctl why \(group)")
        var candidates = try await members(of: group)
        while start.duration(to: .now) < Cluster.leaderPatience {
            if candidates.isEmpty {
                await pause(milliseconds: 200)
                candidates = try await members(of: group, afresh: true)
            }
            guard !candidates.isEmpty else { throw last }
            let node = candidates.removeFirst()
            guard let answer = await call(node, question.method, question.body, patience: question.patience) else {
                last = .failed(
                    question.isRepeatable
                        ? "\(action): \(node) gave no answer; see raftctl why \(group)"
                        : "\(action): \(node) gave no answer, so it may be done or not; \(question.trail)")
                // what was sent may have been done: asking again would do it twice
                if !question.isRepeatable, await status(of: node) != nil { throw last }
                continue
            }
            let arena = Arena()
            defer { withExtendedLifetime(arena) {} }
            switch try read(answer, arena) {
            case nil: throw Failure(.badRequest, "an answer that does not parse", while: action)
            case .answer(let value): return value
            case .refused(let refusal):
                last = Failure(refusal.error, refusal.message, while: action)
                guard question.isWorthAnotherTry(refusal.error) else { throw last }
                if let leader = refusal.leader, leader != node {
                    candidates = [leader] + candidates.filter { $0 != leader }
                }
            }
        }
        throw last
    }

    /// The nodes of the group's members, who seems to lead first. Of the controller, of which much is asked, those that
    /// any map has; `afresh` those of the newest one.
    private func members(of group: String, afresh: Bool = false) async throws(Failure) -> [NodeAddress] {
        if group == ClusterMap.controllerGroup, let map = try? await afresh ? newestMap() : map() {
            return map.controllers
        }
        guard let view = try await state(needsGroups: true).groups.first(where: { $0.id == group }) else {
            throw .failed("there is no group '\(group)'; raftctl group list shows them")
        }
        let leader = view.leader.map { [$0.address] } ?? []
        return leader + view.members.map(\.peer.address).filter { !leader.contains($0) }
    }
}

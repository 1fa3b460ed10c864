@testable import RaftCore

/// Knows the properties of Figure 3, and what may be said before it is durable; a script that breaks one is a bug.
struct TraceJudge {
    private var leaders: [Term: Int] = [:]
    /// What is committed, with the term of whoever knew it first.
    private var committed: [Int64: (entry: TraceEntry, knownIn: Term)] = [:]
    /// An operator has given up what only a lost majority knew.
    var isLawless = false

    /// What is wrong after a step.
    mutating func flaws(of nodes: [TraceNode]) -> [String] {
        var flaws: [String] = []
        for node in nodes where node.isUp && !isLawless {
            inspectCommitted(node, &flaws)
            if node.raft.isLeader { inspectLeader(node, &flaws) }
        }
        for (place, left) in nodes.enumerated() {
            for right in nodes[(place + 1)...] { inspectMatching(left.log, right.log, &flaws) }
        }
        return flaws
    }

    private mutating func inspectCommitted(_ node: TraceNode, _ flaws: inout [String]) {
        for (offset, entry) in node.log.entries.enumerated() {
            let index = node.log.base.index.rawValue + Int64(offset) + 1
            guard index <= node.raft.commitIndex.rawValue else { return }
            if let known = committed[index] {
                if known.entry != entry { flaws.append("committed entry \(index) changed on \(node.number)") }
            } else {
                committed[index] = (entry, node.raft.term)
            }
        }
    }

    private mutating func inspectLeader(_ node: TraceNode, _ flaws: inout [String]) {
        if let known = leaders[node.raft.term] {
            if known != node.number { flaws.append("\(known) and \(node.number) lead term \(node.raft.term)") }
            return
        }
        leaders[node.raft.term] = node.number
        for index in committed.keys.sorted() where index > node.log.base.index.rawValue {
            guard let past = committed[index], past.knownIn < node.raft.term else { continue }
            if node.log.entry(at: LogIndex(index)) != past.entry {
                flaws.append("leader \(node.number) lacks committed entry \(index)")
            }
        }
    }

    /// The same term at the same index: the same log up to there.
    private func inspectMatching(_ left: TraceLog, _ right: TraceLog, _ flaws: inout [String]) {
        let first = max(left.base.index, right.base.index).rawValue + 1
        let last = min(left.lastIndex, right.lastIndex).rawValue
        guard first <= last else { return }
        var agrees = false
        for index in stride(from: last, through: first, by: -1) {
            let (ours, theirs) = (left.entry(at: LogIndex(index)), right.entry(at: LogIndex(index)))
            if ours?.term == theirs?.term { agrees = true }
            if agrees, ours != theirs { flaws.append("logs that agree at a later index part at \(index)") }
        }
    }

    /// When a message leaves: what it vouches for although it is not on the sender's disk.
    func flaw(of packet: TracePacket, _ disk: TraceDisk) -> String? {
        switch packet.message {
        case .voteReply(let reply) where reply.granted && !reply.isPreVote:
            let holds = disk.hardState.term == reply.term && Int(disk.hardState.vote?.address.port ?? 0) == packet.to
            return holds ? nil : "\(packet.from) says a vote that is not durable"
        case .voteRequest(let request) where !request.isPreVote:
            return disk.hardState.term == request.term ? nil : "\(packet.from) asks before its own vote is durable"
        case .appendReply(let reply) where reply.success:
            let through = reply.ticket.previous.advanced(by: reply.ticket.count)
            let holds = disk.log.lastIndex >= through && disk.hardState.term >= reply.term
            return holds ? nil : "\(packet.from) acknowledges what is not durable"
        default: return nil
        }
    }
}

@testable import RaftCore

// Whole clusters moved by a test instead of a script: the same nodes, disks, network and judge as in traces.
extension TraceCluster {
    /// Voters that promise nothing to anybody, so that whoever stands is heard; every step of an election is a choice.
    static func free(size: Int = 5) -> TraceCluster {
        var options = Options()
        (options.size, options.promises) = (size, false)
        return TraceCluster(options)
    }

    /// Properties of the paper's Figure 3 that were broken, and what was said before it was durable.
    var violations: [String] { record.lines.filter { $0.contains("VIOLATION") } }

    /// Moves everything between `node` and these others, both ways, until nothing is left.
    mutating func talk(_ node: Int, with others: [Int]) {
        for _ in 0..<100 {
            var isDone = true
            for other in others {
                for filter in [TraceFilter(from: node, to: other), TraceFilter(from: other, to: node)]
                where network.contains(where: filter.matches) {
                    isDone = false
                    deliver(filter)
                }
            }
            if isDone { return }
        }
        record.violation("messages without end")
    }

    /// Whatever is under way is lost, and nobody hears of that.
    mutating func loseAll() { network = [] }

    /// `leader` is elected by `voters`, and these hold what it has then proposed, committed if they are a majority with
    /// it. Nobody else hears of anything.
    mutating func lead(_ leader: Int, with voters: [Int], proposing count: Int = 0) {
        elect(leader, with: voters)
        if count > 0 { step(leader, .proposed(count: count)) }
        talk(leader, with: voters)
        loseAll()
    }

    /// `node` stands for election until it leads, or has asked for votes in a term that none of these has voted in yet.
    mutating func stand(_ node: Int, with voters: [Int]) {
        let highest = nodes.map(\.raft.term).max()!
        while !isLeader(node), self[node].raft.term <= highest {
            let before = self[node].raft.term
            elect(node, with: voters)
            // not even a pre-vote
            if self[node].raft.term == before { return }
        }
    }

    /// `node` crashes and starts again.
    mutating func revive(_ node: Int) {
        crash(node)
        restart(node)
    }

    func terms(_ node: Int) -> [Int64] { self[node].log.entries.map(\.term.rawValue) }
    func entry(_ node: Int, at place: Int64) -> TraceEntry? { self[node].log.entry(at: index(place)) }
    func isLeader(_ node: Int) -> Bool { self[node].isUp && self[node].raft.isLeader }

    /// All subsets of `nodes` of this size, in order.
    static func subsets(of nodes: [Int], size: Int) -> [[Int]] {
        guard size > 0 else { return [[]] }
        return nodes.indices.flatMap { first in
            subsets(of: Array(nodes[(first + 1)...]), size: size - 1).map { [nodes[first]] + $0 }
        }
    }
}

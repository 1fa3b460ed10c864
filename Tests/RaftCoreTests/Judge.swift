import Testing

@testable import RaftCore

/// Watches a cluster and knows the properties of Figure 3.
struct Judge {
    private var leaders: [Term: PeerID] = [:]
    /// What is committed, with the term of whoever knew it first.
    private var committed: [(entry: SimulatedEntry, knownIn: Term)] = []
    private var inspected = 0
    private var reads: [UInt64: LogIndex] = [:]
    private var nextRead: UInt64 = 0
    private(set) var finishedReads = 0
    private(set) var terms = 0

    var commitIndex: LogIndex { LogIndex(Int64(committed.count)) }

    mutating func inspect(_ nodes: [SimulatedNode], at time: Int64) {
        for node in nodes where node.isUp {
            inspectCommitted(node)
            if node.raft.isLeader { inspectLeader(node) }
        }
        inspectPromises(nodes, at: time)
        inspected += 1
        if inspected % 64 == 0 { inspectMatching(nodes) }
    }

    mutating func beginRead() -> UInt64 {
        nextRead += 1
        reads[nextRead] = commitIndex
        return nextRead
    }

    /// ReadIndex: a read sees whatever was committed when it was asked for.
    mutating func finishRead(_ read: UInt64, at index: LogIndex) {
        finishedReads += 1
        #expect(index >= reads[read]!, "a stale read")
    }

    /// Between ourselves nobody breaks the protocol.
    func noteRefusal(_ refusal: Refusal?) {
        guard let refusal else { return }
        #expect(refusal == .unexpectedReply, "refused: \(refusal)")
    }

    /// State Machine Safety: what is committed is the same everywhere and never changes.
    private mutating func inspectCommitted(_ node: SimulatedNode) {
        let commit = Int(node.raft.commitIndex.rawValue)
        for entry in node.entries[min(committed.count, commit)..<commit] {
            committed.append((entry, node.raft.term))
        }
        guard commit > 0 else { return }
        #expect(node.entries[commit - 1] == committed[commit - 1].entry, "a committed entry changed")
    }

    /// Election Safety and Leader Completeness.
    private mutating func inspectLeader(_ node: SimulatedNode) {
        if let known = leaders[node.raft.term] {
            #expect(known == node.id, "two leaders in one term")
            return
        }
        leaders[node.raft.term] = node.id
        terms += 1
        for (offset, past) in committed.enumerated() where past.knownIn < node.raft.term {
            let holds = offset < node.entries.count && node.entries[offset] == past.entry
            #expect(holds, "a leader lacks a committed entry")
        }
    }

    /// Log Matching: same index and term, same log up to there.
    private func inspectMatching(_ nodes: [SimulatedNode]) {
        for (position, left) in nodes.enumerated() {
            for right in nodes[(position + 1)...] {
                let common = min(left.entries.count, right.entries.count)
                guard let last = (0..<common).last(where: { left.entries[$0].term == right.entries[$0].term }) else {
                    continue
                }
                #expect(left.entries[...last] == right.entries[...last], "logs do not match")
            }
        }
    }

    /// An asker never counts longer on a promise than the supporter.
    private func inspectPromises(_ nodes: [SimulatedNode], at time: Int64) {
        for asker in nodes where asker.isUp {
            for supporter in nodes where supporter.isUp && supporter.id != asker.id {
                let isCounted = asker.liveness.supportStands(
                    from: supporter.id.address, now: asker.localTime(time))
                guard isCounted, asker.liveness.runNumber(of: supporter.id.address) == supporter.incarnation else {
                    continue
                }
                let isKept = supporter.liveness.promiseStands(
                    to: asker.id.address, now: supporter.localTime(time))
                #expect(isKept, "a promise counted on has ended")
            }
        }
    }
}

/// Reads that wait for proof that this replica still leads (dissertation §6.4).
struct ReadQueue: Sendable {
    /// Came while a round was under way, or before the leader's first commit.
    var waiting: [UInt64] = []
    /// Share the round under way.
    var confirming: [UInt64] = []
    /// That round, and the commit index at its start: whatever was acknowledged to anybody before is at most that.
    var round: UInt64 = 0
    var index: LogIndex = .zero

    mutating func startRound(_ round: UInt64, index: LogIndex) {
        swap(&waiting, &confirming)
        self.round = round
        self.index = index
    }
}

extension Raft {
    mutating func requestRead(_ read: UInt64, _ effects: inout Effects) {
        if role == .leader { leadership!.reads.waiting.append(read) } else { effects.failedReads.append(read) }
    }

    /// Finishes the round under way if a majority answered it, and starts the next if reads wait.
    mutating func pursueReads(_ around: Surroundings, _ effects: inout Effects) {
        finishRound(&effects)
        // before an entry of its own term commits, a leader may not know the newest commit index (§6.4)
        guard leadership!.reads.confirming.isEmpty, !leadership!.reads.waiting.isEmpty,
            commitIndex >= leadership!.firstIndex
        else { return }
        leadership!.round += 1
        leadership!.reads.startRound(leadership!.round, index: commitIndex)
        for position in leadership!.peers.indices {
            send(to: position, after: leadership!.peers[position].match, count: 0, around, &effects)
        }
        finishRound(&effects)
    }

    private mutating func finishRound(_ effects: inout Effects) {
        guard !leadership!.reads.confirming.isEmpty, isRoundConfirmed else { return }
        for read in leadership!.reads.confirming {
            effects.readyReads.append((read: read, index: leadership!.reads.index))
        }
        leadership!.reads.confirming.removeAll(keepingCapacity: true)
    }

    private var isRoundConfirmed: Bool {
        guard let leadership else { return false }
        return configuration.hasMajority { member in
            guard member != id else { return true }
            guard let position = leadership.position(of: member) else { return false }
            return leadership.peers[position].answeredRound >= leadership.reads.round
        }
    }

    /// Leadership is over: nobody may be answered from here.
    mutating func failReads(_ effects: inout Effects) {
        guard let reads = leadership?.reads else { return }
        effects.failedReads.append(contentsOf: reads.confirming)
        effects.failedReads.append(contentsOf: reads.waiting)
    }
}

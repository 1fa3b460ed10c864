/// Reads that wait for proof that this replica still leads (dissertation §6.4).
struct ReadQueue: Sendable {
    /// Who wants to read.
    enum Reader: Sendable {
        /// Somebody on this node.
        case local(UInt64)
        /// A follower, which asked with this sequence number.
        case follower(PeerID, UInt64)
    }

    /// Came while a round was under way, or before the leader's first commit.
    var waiting: [Reader] = []
    /// Share the round under way.
    var confirming: [Reader] = []
    /// That round, and the commit index at its start: whatever was acknowledged to anybody before is at most that.
    var round: UInt64 = 0
    var index: LogIndex = .zero

    var isEmpty: Bool { waiting.isEmpty && confirming.isEmpty }

    mutating func startRound(_ round: UInt64, index: LogIndex) {
        swap(&waiting, &confirming)
        self.round = round
        self.index = index
    }
}

extension Raft {
    mutating func requestRead(
        _ read: UInt64, lease: Bool, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard role == .leader else {
            if planted("follower-reads-by-itself") {
                effects.readyReads.append(ReadyRead(read: read, index: commitIndex, lease: nil))
            } else if planted("follower-reads-share-an-old-question"), followerReads.question != nil {
                followerReads.asking.append(read)
            } else {
                followerReads.waiting.append(read)
            }
            return
        }
        if planted("read-without-asking") {
            return effects.readyReads.append(ReadyRead(read: read, index: commitIndex, lease: nil))
        }
        if planted("read-joins-the-round-under-way"), !leadership!.reads.confirming.isEmpty {
            return leadership!.reads.confirming.append(.local(read))
        }
        if lease, settings.leaseReads, commitIndex >= leadership!.firstIndex,
            holdsLease(of: term, now: around.now, liveness: around.liveness)
        {
            effects.readyReads.append(ReadyRead(read: read, index: commitIndex, lease: term))
        } else {
            leadership!.reads.waiting.append(.local(read))
        }
    }

    /// Whether this replica leads `term` and nobody else can have been elected up to `now` (Liveness, rule 14): in each
    /// majority, voters have accepted it in this term under promises that still stand under exactly the numbers that
    /// they named.
    public func holdsLease(of term: Term, now: Instant, liveness: NodeLiveness) -> Bool {
        guard let leadership, self.term == term, !leadership.hasGivenUpLease else { return false }
        if planted("lease-without-quorum") { return true }
        return leadership.hasMajority(itself: true) { peer in
            if planted("lease-without-acceptance") {
                return liveness.supportStands(from: peer.peer.address, now: now)
            }
            if planted("lease-without-looking-again") { return peer.support != nil }
            guard let accepted = peer.support, !liveness.isForeign(peer.peer.address) else { return false }
            return accepted == liveness.supportStamp(from: peer.peer.address, now: now)
        }
    }

    /// Finishes the round under way if a majority answered it, and starts the next if reads wait.
    mutating func pursueReads(_ around: Surroundings, _ effects: inout Effects) {
        guard !leadership!.reads.isEmpty else { return }
        finishRound(&effects)
        // before an entry of its own term commits, a leader may not know the newest commit index (§6.4)
        guard leadership!.reads.confirming.isEmpty, !leadership!.reads.waiting.isEmpty,
            commitIndex >= leadership!.firstIndex || planted("read-before-own-term")
        else { return }
        leadership!.round += 1
        leadership!.reads.startRound(leadership!.round, index: commitIndex)
        for position in leadership!.peers.indices { sendBare(to: position, around, &effects) }
        finishRound(&effects)
    }

    private mutating func finishRound(_ effects: inout Effects) {
        guard !leadership!.reads.confirming.isEmpty, isRoundConfirmed else { return }
        let index = leadership!.reads.index
        for reader in leadership!.reads.confirming {
            switch reader {
            case .local(let read): effects.readyReads.append(ReadyRead(read: read, index: index, lease: nil))
            case .follower(let peer, let sequence):
                effects.readIndexReplies.append((peer, ReadIndexReply(sequence: sequence, index: index)))
            }
        }
        leadership!.reads.confirming.removeAll(keepingCapacity: true)
    }

    private var isRoundConfirmed: Bool {
        guard let leadership else { return false }
        return leadership.hasMajority(itself: true) {
            $0.answeredRound >= leadership.reads.round || (planted("any-answer-confirms") && $0.answeredRound > 0)
        }
    }

    #if MUTANTS
        mutating func answerReadsAnyway(_ effects: inout Effects) {
            for case .local(let read) in leadership!.reads.confirming + leadership!.reads.waiting {
                effects.readyReads.append(ReadyRead(read: read, index: commitIndex, lease: nil))
            }
            (leadership!.reads.confirming, leadership!.reads.waiting) = ([], [])
        }
    #endif

    /// Leadership is over: nobody may be answered from here.
    mutating func failReads(_ effects: inout Effects) {
        guard let reads = leadership?.reads else { return }
        for reader in reads.confirming + reads.waiting {
            switch reader {
            case .local(let read): effects.failedReads.append(read)
            case .follower(let peer, let sequence):
                effects.readIndexReplies.append((peer, ReadIndexReply(sequence: sequence, index: nil)))
            }
        }
    }
}

// MARK: Follower

/// Reads of a replica that does not lead (dissertation §6.4, last paragraph): the leader is asked up to where to apply.
/// One question is under way; whoever comes later shares the next, for an answer counts only for who was there when
/// it was asked.
struct FollowerReads: Sendable {
    var waiting: [UInt64] = []
    var asking: [UInt64] = []
    /// The question under way.
    var question: ReadIndexRequest?
    /// Whom it went to.
    var asked: PeerID?
    var sequence: UInt64 = 0
    /// When to ask again.
    var deadline: Instant?

    /// Whom the question under way was asked for.
    mutating func endQuestion() -> [UInt64] {
        let ended = asking
        asking.removeAll()
        (question, asked, deadline) = (nil, nil, nil)
        return ended
    }

    /// Everybody.
    mutating func close() -> [UInt64] {
        let all = endQuestion() + waiting
        waiting.removeAll()
        return all
    }
}

extension Raft {
    /// Asks the leader if reads wait; without one they fail.
    mutating func pursueFollowerReads(_ around: Surroundings, _ effects: inout Effects) {
        guard !followerReads.waiting.isEmpty || !followerReads.asking.isEmpty else { return }
        guard let leader, leader == followerReads.asked ?? leader, !around.isForeign(leader) else {
            return effects.failedReads.append(contentsOf: followerReads.close())
        }
        if let deadline = followerReads.deadline, deadline <= around.now {
            // the host reports what fails, so this is a leader that is stuck
            return effects.failedReads.append(contentsOf: followerReads.close())
        }
        guard followerReads.question == nil else { return }
        followerReads.sequence += 1
        let question = ReadIndexRequest(term: term, sequence: followerReads.sequence)
        swap(&followerReads.waiting, &followerReads.asking)
        (followerReads.question, followerReads.asked) = (question, leader)
        followerReads.deadline = around.now + settings.retryInterval
        effects.messages.append(Outbound(to: leader, body: .readIndex(question)))
    }

    /// A question got lost: those who share it may ask again, or elsewhere.
    mutating func loseQuestion(_ question: ReadIndexRequest, _ effects: inout Effects) {
        guard followerReads.question == question else { return }
        effects.failedReads.append(contentsOf: followerReads.endQuestion())
    }

    mutating func note(
        _ reply: ReadIndexReply, from sender: PeerID, _ around: Surroundings, _ effects: inout Effects
    ) {
        guard let question = followerReads.question, question.sequence == reply.sequence,
            followerReads.asked == sender
        else { return }
        for read in followerReads.endQuestion() {
            if let index = reply.index {
                effects.readyReads.append(ReadyRead(read: read, index: index, lease: nil))
            } else {
                effects.failedReads.append(read)
            }
        }
    }

    /// A follower's question shares the leader's next round. An answer by lease would have to be judged after it was
    /// given, which only this node could do.
    mutating func answer(_ request: ReadIndexRequest, of asker: PeerID, _ effects: inout Effects) {
        guard role == .leader, configuration.contains(asker), request.term <= term else {
            if role == .leader, request.term <= term { effects.refusal = .unknownPeer }
            effects.reply = .readIndexReply(ReadIndexReply(sequence: request.sequence, index: nil))
            return
        }
        leadership!.reads.waiting.append(.follower(asker, request.sequence))
    }
}

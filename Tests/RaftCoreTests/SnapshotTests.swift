import Testing

@testable import RaftCore

/// A leader of three that compacted its log up to index 21 while b was slow, and the append b still has to answer.
private func compactedLeader() -> (stage: Stage, open: AppendTicket) {
    var settings = RaftSettings()
    settings.maxEntriesPerAppend = 4
    settings.maxEntriesInFlight = 4
    var stage = Stage.settled(settings: settings)
    let open = stage.step(.proposed(count: 20)).appends(to: b)[0]
    stage.persist()
    for end in stride(from: 5, through: 21, by: 4) {
        stage.answer(stage.ticket(after: Int64(end) - 4, count: 4), from: c)
    }
    stage.step(.compacted(through: index(21)))
    return (stage, open)
}

/// A leader that sends b a snapshot of everything up to index 21.
private func sendingLeader() -> Stage {
    var (stage, open) = compactedLeader()
    stage.answer(open, from: b)
    return stage
}

@Suite("§7 Log compaction: the leader (dissertation §5)")
struct SnapshotLeaderTests {
    @Test("a peer whose next entry was compacted away while its window was full is sent a snapshot")
    func overtakenInReplicate() {
        var (stage, open) = compactedLeader()
        #expect(stage.raft.base == position(21, term: 1) && stage.raft.commitIndex == index(21))
        let effects = stage.answer(open, from: b)
        #expect(effects.snapshots == [b] && effects.appends(to: b).isEmpty)
        #expect(stage.raft.progress(of: b)?.isInstalling == true)
    }

    @Test("a peer whose next entry was compacted away while it was probed is sent a snapshot")
    func overtakenInProbe() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b, c])
        stage.step(.proposed(count: 20))
        stage.persist()
        stage.catchUp([c])
        stage.step(.compacted(through: index(15)))
        #expect(stage.answer(stage.ticket(after: 0, count: 1), from: b).snapshots == [b])
    }
}

@Suite("§7 Log compaction: the follower")
struct SnapshotFollowerTests {
    @Test("a snapshot without the replica in its membership ends a campaign", arguments: [false, true])
    func endsCampaign(hasTerm: Bool) {
        var stage = Stage()
        let meta = SnapshotMeta(last: position(5, term: 1), configuration: Configuration(peers: [b, c]))
        stage.receive(.snapshotRequest(SnapshotRequest(term: Term(1), meta: meta)), from: b)
        stage.reachDeadline()
        if hasTerm { stage.answerVotes([c]) }
        #expect(stage.raft.role == (hasTerm ? .candidate : .preCandidate))
        #expect(stage.step(.snapshotReceived(meta)).install?.meta == meta)
        #expect(stage.raft.role == .follower && stage.raft.deadline == nil)
    }
}

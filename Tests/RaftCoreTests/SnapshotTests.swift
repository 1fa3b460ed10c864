import Testing

@testable import RaftCore

/// A leader of three that compacted its log up to index 21 while b was slow, and so sends it a snapshot.
private func sendingLeader() -> Stage {
    var settings = RaftSettings()
    settings.maxEntriesPerAppend = 4
    settings.maxEntriesInFlight = 4
    var stage = Stage.settled(settings: settings)
    stage.step(.proposed(count: 20))
    stage.persist()
    for end in stride(from: 5, through: 21, by: 4) {
        stage.answer(stage.ticket(after: Int64(end) - 4, count: 4), from: c)
    }
    stage.step(.compacted(through: index(21)))
    return stage
}

@Suite("§7 Log compaction: the leader (dissertation §5)")
struct SnapshotLeaderTests {
    @Test("a peer whose next entry was compacted away while its window was full is sent a snapshot")
    func overtakenInReplicate() {
        let stage = sendingLeader()
        #expect(stage.raft.base == position(21, term: 1) && stage.raft.commitIndex == index(21))
        #expect(stage.effects.snapshots == [b] && stage.effects.appends(to: b).isEmpty)
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

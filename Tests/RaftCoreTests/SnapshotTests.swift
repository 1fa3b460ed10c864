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

    @Test("while it installs it is sent no entries, and afterwards those behind the snapshot")
    func goesOn() {
        var stage = sendingLeader()
        #expect(stage.step(.proposed(count: 2)).appends(to: b).isEmpty)
        let effects = stage.step(.snapshotSent(to: b, installed: index(21)))
        #expect(effects.appends(to: b) == [stage.ticket(after: 21, count: 2, round: effects.appends(to: b)[0].round)])
        #expect(stage.raft.progress(of: b)?.match == index(21))
        #expect(stage.raft.progress(of: b)?.isInstalling == false)
    }

    @Test("an installed snapshot counts for commits like entries, but no further than it reaches")
    func counts() {
        var stage = sendingLeader()
        stage.step(.proposed(count: 1))
        stage.persist()
        stage.step(.snapshotSent(to: b, installed: index(21)))
        #expect(stage.raft.commitIndex == index(21))
    }

    @Test("a report of more than is committed is not believed")
    func tooMuch() {
        var stage = sendingLeader()
        stage.step(.proposed(count: 4))
        stage.persist()
        stage.step(.snapshotSent(to: b, installed: index(25)))
        #expect(stage.raft.commitIndex == index(21) && stage.raft.progress(of: b)?.match == index(1))
    }

    @Test("a failed snapshot is sent again after a while, not at once")
    func failure() {
        var stage = sendingLeader()
        #expect(stage.step(.snapshotSent(to: b, installed: nil)).messages.isEmpty)
        stage.wait(milliseconds: 1000, supportedBy: [b, c])
        #expect(stage.step(.deadlineReached).snapshots == [b])
    }

    @Test("a report of a leadership that is over, or of nothing under way, changes nothing")
    func staleReport() {
        var stage = Stage.settled()
        stage.step(.snapshotSent(to: b, installed: index(1)))
        stage.step(.snapshotSent(to: e, installed: index(1)))
        #expect(stage.effects.messages.isEmpty && stage.raft.isLeader)
        var follower = Stage.resting()
        follower.step(.snapshotSent(to: b, installed: nil))
        #expect(follower.effects.messages.isEmpty)
    }

    @Test("a peer being sent a snapshot still answers rounds of reads")
    func reads() {
        var stage = sendingLeader()
        let ticket = stage.step(.readRequested(1, lease: false)).appends(to: b)[0]
        #expect(ticket.count == 0)
        #expect(stage.answer(ticket, from: b, success: false, hint: 1).readyReads.map(\.read) == [1])
        #expect(stage.raft.progress(of: b)?.isInstalling == true)
    }

    @Test("a foreign member that is silent while it installs is not hurried without end")
    func foreign() {
        var stage = Stage.settled(terms: [1, 1, 1])
        stage.makeForeign(c)
        stage.step(.proposed(count: 3))
        stage.persist()
        stage.catchUp([b])
        stage.step(.compacted(through: index(7)))
        stage.step(.connectionLost(c.address))
        stage.wait(milliseconds: 1000, supportedBy: [b])
        #expect(stage.step(.deadlineReached).snapshots == [c])
        stage.wait(milliseconds: 1500, supportedBy: [b])
        stage.step(.deadlineReached)
        #expect(stage.raft.isLeader && stage.raft.deadline! > stage.now)
    }

    @Test("compaction keeps the term of the last entry that goes, and what lies behind it")
    func compaction() {
        var stage = Stage(terms: [1, 2, 2, 3], applied: 3)
        stage.step(.compacted(through: index(2)))
        #expect(stage.raft.base == position(2, term: 2) && stage.raft.lastIndex == index(4))
        #expect(stage.raft.term(at: index(2)) == Term(2) && stage.raft.term(at: index(1)) == nil)
        stage.step(.compacted(through: index(1)))
        #expect(stage.raft.base == position(2, term: 2), "never back")
        #expect(stage.hearVote(from: b, term: 9, last: position(3, term: 2)).voteReply?.granted == false)
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

    @Test("a snapshot that reaches further than what is committed is wanted, and in force only when it has come")
    func wanted() {
        var stage = Stage(terms: [1], applied: 1)
        let meta = SnapshotMeta(last: position(9, term: 2), configuration: Configuration(peers: [a, b]))
        let effects = stage.receive(.snapshotRequest(SnapshotRequest(term: Term(3), meta: meta)), from: b)
        #expect(effects.snapshotWanted == meta && effects.reply == nil && effects.acknowledgement == nil)
        #expect(stage.raft.leader == b && stage.raft.lastIndex == index(1))
        stage.step(.snapshotReceived(meta))
        #expect(stage.raft.base == meta.last && stage.raft.commitIndex == index(9))
        #expect(stage.raft.configuration == meta.configuration && stage.effects.applicable == nil)
    }

    @Test("one of an older term is refused with the term")
    func oldTerm() {
        var stage = Stage(term: 5)
        let meta = SnapshotMeta(last: position(9, term: 2), configuration: Configuration(peers: [a, b]))
        let effects = stage.receive(.snapshotRequest(SnapshotRequest(term: Term(4), meta: meta)), from: b)
        #expect(effects.reply == .snapshotReply(SnapshotReply(term: Term(5), success: false)))
        #expect(effects.snapshotWanted == nil && stage.raft.leader == nil)
    }

    @Test("if the log holds the snapshot's last entry, what lies behind it stays")
    func keepsSuffix() {
        var stage = Stage(terms: [1, 1, 2, 2], applied: 1)
        let effects = stage.install(last: position(3, term: 2), term: 2)
        #expect(effects.install?.keepsSuffix == true && stage.raft.lastIndex == index(4))
        #expect(stage.raft.base == position(3, term: 2) && stage.raft.durableIndex == index(4))
    }

    @Test("otherwise the whole log goes", arguments: [[1, 1, 1, 1, 1], [1]] as [[Int64]])
    func dropsLog(terms: [Int64]) {
        var stage = Stage(terms: terms, applied: 1)
        let effects = stage.install(last: position(3, term: 2), term: 2)
        #expect(effects.install?.keepsSuffix == false && stage.raft.lastIndex == index(3))
        #expect(stage.raft.lastTerm == Term(2) && stage.raft.term(at: index(1)) == nil)
    }

    @Test("a membership behind the snapshot stays in force with the suffix, and goes with it otherwise")
    func membership() {
        for (term, members) in [(1, [a]), (2, [a, b, c])] as [(Int64, [PeerID])] {
            var stage = Stage(terms: [1, 1])
            let placed = PlacedConfiguration(index: index(3), configuration: Configuration(peers: [a]))
            stage.receive(
                .appendRequest(
                    AppendRequest(
                        term: Term(1), previous: position(2, term: 1),
                        entries: [EntryHeader(term: Term(1), kind: .configuration)], configurations: [placed],
                        commit: .zero)), from: b)
            stage.install(last: position(2, term: term), from: b, term: 2)
            #expect(stage.raft.configuration == Configuration(peers: members))
        }
    }

    @Test("it is acknowledged only when it is durable, and so is what the log held before it")
    func afterDisk() {
        var stage = Stage(terms: [1, 1, 1, 1, 1])
        let effects = stage.install(last: position(3, term: 2), term: 2)
        #expect(effects.reply == nil)
        #expect(effects.acknowledgement == .snapshotReply(SnapshotReply(term: Term(2), success: true)))
        #expect(stage.hear(from: b, term: 2, after: (3, 2)).acknowledgement != nil, "the disk does not have it yet")
        stage.persist()
        #expect(stage.hear(from: b, term: 2, after: (3, 2)).reply != nil)
    }

    @Test("the completion of a write from before the snapshot vouches for nothing behind it")
    func durableMarks() {
        var stage = Stage(terms: [1])
        stage.hear(from: b, term: 1, after: (1, 1), terms: [1, 1, 1, 1, 1, 1, 1])
        let old = stage.raft.durableMark
        stage.install(last: position(3, term: 2), from: c, term: 2)
        stage.hear(from: c, term: 2, after: (3, 2), terms: [2, 2], commit: 5)
        #expect(stage.step(.persisted(old)).applicable == nil && stage.raft.durableIndex == .zero)
        #expect(stage.persist().applicable == index(5))
    }

    @Test("what is committed already is acknowledged without a transfer, but after the disk")
    func overtakenRequest() {
        var stage = Stage(terms: [1, 1, 1], applied: 2)
        let meta = SnapshotMeta(last: position(2, term: 1), configuration: Configuration(peers: [a, b]))
        let effects = stage.receive(.snapshotRequest(SnapshotRequest(term: Term(1), meta: meta)), from: b)
        #expect(effects.snapshotWanted == nil && effects.reply == nil)
        #expect(effects.acknowledgement == .snapshotReply(SnapshotReply(term: Term(1), success: true)))
    }

    @Test("a snapshot that the log has overtaken while it came is acknowledged and not installed")
    func overtakenTransfer() {
        var stage = Stage()
        let meta = SnapshotMeta(last: position(2, term: 1), configuration: Configuration(peers: [a, b, c]))
        stage.receive(.snapshotRequest(SnapshotRequest(term: Term(1), meta: meta)), from: b)
        stage.hear(from: b, term: 1, terms: [1, 1, 1], commit: 3)
        let effects = stage.step(.snapshotReceived(meta))
        #expect(effects.install == nil && stage.raft.lastIndex == index(3))
        #expect(effects.acknowledgement == .snapshotReply(SnapshotReply(term: Term(1), success: true)))
    }

    @Test("whoever has come to lead installs nothing")
    func leader() {
        var stage = Stage.settled()
        let meta = SnapshotMeta(last: position(9, term: 1), configuration: Configuration(peers: [a, b, c]))
        let effects = stage.step(.snapshotReceived(meta))
        #expect(effects.install == nil && stage.raft.isLeader && stage.raft.lastIndex == index(1))
    }

    @Test("an offer lets a follower rest under its leader's promise like an append")
    func rests() {
        var stage = Stage()
        stage.promise(to: b)
        let meta = SnapshotMeta(last: position(9, term: 2), configuration: Configuration(peers: [a, b, c]))
        stage.receive(.snapshotRequest(SnapshotRequest(term: Term(3), meta: meta)), from: b)
        #expect(stage.raft.deadline == nil)
    }

    @Test("a newcomer learns the membership from a snapshot, and campaigns when its leader is gone")
    func newcomer() {
        var stage = Stage(id: d, members: [], neighbours: [a, b, c])
        #expect(stage.raft.deadline == nil)
        stage.install(last: position(9, term: 2), members: [a, b, c, d], from: b, term: 3)
        #expect(stage.raft.deadline != nil && stage.raft.peers == [a, b, c])
    }

    @Test("appends go on behind a snapshot, and entries that it stands for are skipped")
    func appends() {
        var stage = Stage(base: position(5, term: 2))
        let effects = stage.hear(from: b, term: 3, after: (3, 1), terms: [2, 2, 3])
        #expect(effects.logChange?.first == index(6) && effects.logChange?.source == .message(offset: 2))
        #expect(stage.hear(from: b, term: 3, after: (5, 1)).appendReply?.success == false)
    }
}

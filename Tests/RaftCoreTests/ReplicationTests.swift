import Testing

@testable import RaftCore

@Suite("§5.3 Log replication")
struct ReplicationTests {
    @Test("a leader's first append carries the entry of its term, before its own disk has it")
    func firstAppend() {
        var stage = Stage(terms: [1, 1])
        let effects = stage.lead()
        #expect(effects.logChange?.source == .configuration(Configuration(peers: [a, b, c])))
        #expect(effects.logChange?.first == index(3) && stage.raft.durableIndex == index(2))
        for peer in [b, c] {
            #expect(effects.appends(to: peer) == [stage.ticket(after: 2, count: 1)])
        }
    }

    @Test("appends are pipelined up to the window, each up to its limit")
    func window() {
        var settings = RaftSettings()
        settings.maxEntriesPerAppend = 4
        settings.maxEntriesInFlight = 10
        var stage = Stage(settings: settings)
        stage.lead()
        #expect(stage.step(.proposed(count: 20)).messages.isEmpty, "nothing behind a probe")
        var effects = stage.answer(stage.ticket(after: 0, count: 1), from: b)
        #expect(effects.appends(to: b).map(\.count) == [4, 4, 2])
        effects = stage.answer(stage.ticket(after: 1, count: 4), from: b)
        #expect(effects.appends(to: b).map { [$0.previous.rawValue, Int64($0.count)] } == [[11, 4]])
        #expect(stage.raft.progress(of: b)?.match == index(5) && stage.raft.progress(of: b)?.next == index(16))
    }

    @Test("answers may come in any order and more than once; a later one covers the earlier")
    func anyOrder() {
        var settings = RaftSettings()
        settings.maxEntriesPerAppend = 2
        settings.maxEntriesInFlight = 100
        var stage = Stage(settings: settings)
        stage.lead()
        stage.answer(stage.ticket(after: 0, count: 1), from: b)
        stage.step(.proposed(count: 6))
        stage.answer(stage.ticket(after: 5, count: 2), from: b)
        stage.answer(stage.ticket(after: 1, count: 2), from: b)
        stage.answer(stage.ticket(after: 1, count: 2), from: b)
        #expect(stage.raft.progress(of: b)?.match == index(7) && stage.raft.progress(of: b)?.next == index(8))
    }

    @Test(
        "Figure 7: whatever a follower's log is, it becomes the leader's",
        arguments: [
            [1, 1, 1, 4, 4, 5, 5, 6, 6], [1, 1, 1, 4], [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
            [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7], [1, 1, 1, 4, 4, 4, 4], [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], [],
        ] as [[Int64]])
    func figure7(terms: [Int64]) {
        var leader = Stage(terms: [1, 1, 1, 4, 4, 5, 5, 6, 6, 6], term: 7)
        var follower = Stage(id: b, terms: terms, term: 7)
        var pending = leader.lead(with: [c]).appends(to: b)
        var exchanges = 0
        while let ticket = pending.first {
            pending.removeFirst()
            exchanges += 1
            follower.receive(.appendRequest(leader.request(ticket)), from: a)
            var reply = follower.effects.appendReply!
            follower.persist()
            reply.ticket = ticket
            pending += leader.receive(.appendReply(reply), from: b).appends(to: b)
        }
        #expect(follower.terms == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8] && follower.terms == leader.terms)
        #expect(leader.raft.progress(of: b)!.match == index(11))
        #expect(exchanges <= 5, "one term per exchange, not one entry")
    }

    @Test("a mismatch is hinted at with the last entry that may match: not behind the leader's, nor of a later term")
    func hints() {
        var stage = Stage(terms: [1, 2, 2, 5, 5], applied: 1)
        func hint(_ index: Int64, _ term: Int64) -> [Int64?] {
            let reply = stage.hear(from: b, term: 6, after: (index, term)).appendReply
            return [reply?.lastIndex?.rawValue, reply?.lastTerm?.rawValue]
        }
        #expect(hint(9, 6) == [5, 5])
        #expect(hint(9, 4) == [3, 2])
        #expect(hint(5, 4) == [3, 2])
        #expect(hint(3, 1) == [1, 1])
    }

    @Test("a hint is never below the commit index, for what is committed matches")
    func hintAtCommit() {
        var stage = Stage(terms: [1, 2, 2, 2], applied: 3)
        let reply = stage.hear(from: b, term: 5, after: (4, 1)).appendReply
        #expect(reply?.lastIndex == index(3) && reply?.lastTerm == Term(2))
    }

    @Test("a braft is hinted at the entry before the conflicting term, or at the log's end")
    func hintsForBraft() {
        var stage = Stage(terms: [1, 2, 2, 2], applied: 1)
        var ignored = NodeLiveness.Effects()
        stage.liveness.step(.foreign(b.address), now: stage.now, into: &ignored)
        #expect(stage.hear(from: b, term: 5, after: (9, 5)).appendReply?.lastIndex == index(4))
        let reply = stage.hear(from: b, term: 5, after: (4, 5)).appendReply
        #expect(reply?.lastIndex == index(1) && reply?.lastTerm == nil)
    }

    @Test("an absent hint reads as zero")
    func absentHint() {
        var stage = Stage(terms: [1, 1, 1])
        stage.lead()
        let effects = stage.answer(stage.ticket(after: 3, count: 1), from: b, success: false)
        #expect(effects.appends(to: b).map(\.previous) == [.zero])
    }

    @Test("a peer that denies what it acknowledged has lost it, and gets it again")
    func denial() throws {
        var stage = Stage(terms: [1, 1, 1])
        stage.lead()
        stage.gainSupport(from: [b, c])
        stage.answer(stage.ticket(after: 3, count: 1), from: b)
        #expect(stage.raft.progress(of: b)?.match == index(4))
        var ticket = stage.ticket(after: 4, count: 0)
        var sent = 0
        while let next = stage.answer(ticket, from: b, success: false, hint: 2).appends(to: b).first, sent < 9 {
            ticket = next
            sent += 1
            if next.previous == index(2) { break }
        }
        #expect(sent <= 2 && ticket.previous == index(2) && ticket.count == 2)
        #expect(stage.raft.progress(of: b)?.match == index(2))
        stage.answer(ticket, from: b)
        #expect(stage.raft.progress(of: b)?.match == index(4))
    }

    @Test("an append twice changes nothing the second time")
    func duplicate() {
        var stage = Stage()
        stage.hear(from: b, term: 1, terms: [1, 1])
        let effects = stage.hear(from: b, term: 1, terms: [1])
        #expect(effects.logChange == nil && effects.appendReply?.success == true && stage.terms == [1, 1])
    }

    @Test("a conflict is cut from the first differing entry on")
    func truncation() {
        var stage = Stage(terms: [1, 2, 2, 2])
        let effects = stage.hear(from: b, term: 3, after: (1, 1), terms: [2, 3, 3])
        #expect(
            effects.logChange
                == LogChange(
                    truncateFrom: index(3), first: index(3), count: 2, term: Term(3), source: .message(offset: 1)))
        #expect(stage.terms == [1, 2, 3, 3] && stage.raft.durableIndex == index(2))
    }

    @Test("committed entries are never cut")
    func committedStay() {
        var stage = Stage(terms: [1, 2, 2], applied: 2)
        let effects = stage.hear(from: b, term: 3, after: (1, 1), terms: [3])
        #expect(effects.refusal == .conflictsWithCommitted && effects.appendReply?.success == false)
        #expect(effects.logChange == nil && stage.terms == [1, 2, 2])
    }

    @Test("a configuration is in force when appended, and the one before again when it is cut (§4.1)")
    func configurations() {
        var stage = Stage()
        let birth = stage.raft.configuration
        let new = Configuration(peers: [a, b, c, d])
        let request = AppendRequest(
            term: Term(1), previous: .zero, entries: [EntryHeader(term: Term(1), kind: .configuration)],
            configurations: [PlacedConfiguration(index: index(1), configuration: new)], commit: .zero)
        stage.receive(.appendRequest(request), from: b)
        #expect(stage.raft.configuration == new)
        stage.hear(from: c, term: 2, terms: [2])
        #expect(stage.raft.configuration == birth)
    }

    @Test("a success says only what is durable: the disk comes first unless it has been")
    func acknowledgements() {
        var stage = Stage(terms: [1])
        #expect(stage.hear(from: b, term: 1, after: (1, 1)).reply != nil)
        #expect(stage.hear(from: b, term: 1, after: (1, 1), terms: [1]).acknowledgement != nil)
        #expect(stage.hear(from: b, term: 1, after: (2, 1)).acknowledgement != nil)
        stage.persist()
        #expect(stage.hear(from: b, term: 1, after: (2, 1)).reply != nil)
        #expect(stage.hear(from: c, term: 2, after: (2, 1)).acknowledgement != nil, "the term is not durable")
    }

    @Test("a follower commits what the append vouches for, and applies what its disk has")
    func followerCommit() {
        var stage = Stage()
        let effects = stage.hear(from: b, term: 1, terms: [1, 1], commit: 9)
        #expect(stage.raft.commitIndex == index(2) && effects.applicable == nil)
        #expect(stage.persist().applicable == index(2))
    }

    @Test("everybody learns the commit index once; then the group rests")
    func notification() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b, c])
        stage.persist()
        let effects = stage.answer(stage.ticket(after: 0, count: 1), from: b)
        #expect(stage.raft.commitIndex == index(1))
        #expect(effects.appends(to: b).map(\.count) == [0] && effects.appends(to: c).isEmpty)
        let toC = stage.answer(stage.ticket(after: 0, count: 1), from: c).appends(to: c)
        #expect(toC.map(\.count) == [0])
        #expect(stage.raft.deadline != nil)
        #expect(stage.answer(effects.appends(to: b)[0], from: b).messages.isEmpty)
        #expect(stage.answer(toC[0], from: c).messages.isEmpty)
        #expect(stage.raft.deadline == nil)
    }

    @Test("what stays unanswered is probed again while the peer's node is alive, and not before it lives again")
    func retry() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b])
        stage.wait(milliseconds: 900)
        stage.gainSupport(from: [b], tells: false)
        let effects = stage.reachDeadline()
        #expect(effects.appends(to: b).count == 1 && effects.appends(to: c).isEmpty)
        stage.wait(milliseconds: 300)
        stage.gainSupport(from: [c])
        #expect(stage.effects.appends(to: c).count == 1)
    }

    @Test("a failed append is probed again after a while")
    func failedAppend() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b])
        stage.answer(stage.ticket(after: 0, count: 1), from: b)
        let ticket = stage.step(.proposed(count: 3)).appends(to: b)[0]
        #expect(stage.step(.appendFailed(ticket, peer: b)).messages.isEmpty)
        #expect(stage.raft.progress(of: b)?.match == index(1) && stage.raft.progress(of: b)?.next == index(2))
        #expect(stage.raft.deadline == stage.now + RaftSettings().retryInterval)
    }
}

@Suite("§5.4.2 Committing entries from previous terms")
struct CommitTests {
    @Test("Figure 8: an old entry on a majority is not committed by counting, only under one of the own term")
    func figure8() {
        var stage = Stage(terms: [1, 2], term: 3, members: [a, b, c, d, e])
        stage.lead(with: [b, c])
        for peer in [b, c] {
            stage.answer(stage.ticket(after: 2, count: 1), from: peer, success: false, hint: 1)
            stage.answer(stage.ticket(after: 1, count: 1), from: peer)
        }
        #expect(stage.raft.progress(of: c)!.match == index(2) && stage.raft.commitIndex == .zero)
        stage.persist()
        for peer in [b, c] { stage.answer(stage.ticket(after: 2, count: 1), from: peer) }
        #expect(stage.raft.commitIndex == index(3))
    }

    @Test("the leader's own disk is one vote and may be the last")
    func ownDisk() {
        var stage = Stage()
        stage.lead()
        stage.answer(stage.ticket(after: 0, count: 1), from: b)
        #expect(stage.raft.commitIndex == .zero)
        #expect(stage.persist().applicable == index(1))
        var other = Stage()
        other.lead()
        for peer in [b, c] { other.answer(other.ticket(after: 0, count: 1), from: peer) }
        #expect(other.raft.commitIndex == index(1) && other.raft.durableIndex == .zero)
    }
}

@Suite("Durable marks")
struct DurableMarkTests {
    @Test("the completion of a write does not vouch for what replaced it")
    func overwritten() {
        var stage = Stage()
        stage.hear(from: b, term: 1, terms: [1, 1, 1])
        let old = stage.raft.durableMark
        stage.hear(from: c, term: 2, after: (1, 1), terms: [2, 2], commit: 3)
        #expect(stage.step(.persisted(old)).applicable == nil)
        #expect(stage.raft.durableIndex == .zero)
        #expect(stage.persist().applicable == index(3))
    }

    @Test("nor does a write made between a leader's first contact and its first entries")
    func hardStateWrite() {
        var stage = Stage(terms: [1, 1, 1])
        stage.hear(from: b, term: 2, after: (9, 2))
        let onlyHardState = stage.raft.durableMark
        stage.hear(from: b, term: 2, after: (1, 1), terms: [2, 2])
        stage.step(.persisted(onlyHardState))
        #expect(stage.raft.durableIndex == index(1))
    }

    @Test("a new leader that changes nothing leaves earlier writes their worth")
    func unchanged() {
        var stage = Stage()
        stage.hear(from: b, term: 1, terms: [1])
        let mark = stage.raft.durableMark
        stage.hear(from: c, term: 2, after: (1, 1), commit: 1)
        #expect(stage.step(.persisted(mark)).applicable == index(1))
    }
}

extension Stage {
    /// The append that a host makes of this ticket.
    func request(_ ticket: AppendTicket) -> AppendRequest {
        let indexes = (0..<ticket.count).map { ticket.previous.advanced(by: $0 + 1) }
        let placed = raft.configurations.filter { indexes.contains($0.index) }
        return AppendRequest(
            term: ticket.term,
            previous: LogPosition(term: raft.term(at: ticket.previous)!, index: ticket.previous),
            entries: indexes.map { index in
                let isConfiguration = placed.contains { $0.index == index }
                return EntryHeader(term: raft.term(at: index)!, kind: isConfiguration ? .configuration : .data)
            },
            configurations: placed, commit: raft.commitIndex)
    }
}

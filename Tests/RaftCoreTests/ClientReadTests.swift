import Testing

@testable import RaftCore

@Suite("Dissertation §6.4.1 Reads under a lease")
struct LeaseTests {
    private func holds(_ stage: Stage) -> Bool {
        stage.raft.holdsLease(of: stage.raft.term, now: stage.now, liveness: stage.liveness)
    }

    @Test("with the named promises of a majority a leader answers without asking, at its commit index, for its term")
    func ready() {
        var stage = Stage.settled()
        let effects = stage.step(.readRequested(1, lease: true))
        #expect(effects.readyReads == [ReadyRead(read: 1, index: index(1), lease: Term(1))])
        #expect(effects.messages.isEmpty)
    }

    @Test("support alone is no lease: the voters must have accepted this leader in this term")
    func needsAcceptance() {
        var stage = Stage()
        stage.lead()
        stage.gainSupport(from: [b, c])
        stage.persist()
        stage.catchUp([b, c], isStamped: false)
        #expect(stage.raft.commitIndex == index(1) && !holds(stage))
        let effects = stage.step(.readRequested(1, lease: true))
        #expect(effects.readyReads.isEmpty && !effects.messages.isEmpty, "it falls back to asking")
    }

    @Test("a promise under other numbers than those named does not count")
    func exactNumbers() {
        for stamp in [
            SupportStamp(epoch: 2, supporterRun: 1, askerRun: 1), SupportStamp(epoch: 1, supporterRun: 2, askerRun: 1),
            SupportStamp(epoch: 1, supporterRun: 1, askerRun: 2),
        ] {
            var stage = Stage()
            stage.lead()
            stage.gainSupport(from: [b, c])
            stage.persist()
            let reply = AppendReply(
                ticket: stage.ticket(after: 0, count: 1), term: Term(1), success: true, lastIndex: nil, support: stamp)
            stage.receive(.appendReply(reply), from: b)
            #expect(!holds(stage), "\(stamp)")
        }
    }

    @Test("it ends with the promises, whatever the leader believes")
    func ends() {
        var stage = Stage.settled()
        stage.wait(milliseconds: 949)
        #expect(holds(stage))
        stage.wait(milliseconds: 1)
        #expect(!holds(stage) && stage.raft.isLeader)
    }

    @Test("it is none in another term, or after leading")
    func otherTerm() {
        var stage = Stage.settled()
        #expect(!stage.raft.holdsLease(of: Term(2), now: stage.now, liveness: stage.liveness))
        stage.step(.stepDownRequested)
        #expect(!stage.raft.holdsLease(of: Term(1), now: stage.now, liveness: stage.liveness))
    }

    @Test("a leader that has told somebody to take over gives it up for the rest of its term, even if that fails")
    func transfer() {
        var stage = Stage.settled()
        stage.step(.transferRequested(b))
        #expect(!holds(stage))
        stage.receive(.timeoutNowReply(TimeoutNowReply(term: Term(1), success: false)), from: b)
        #expect(!stage.raft.isTransferring && !holds(stage))
        #expect(stage.step(.readRequested(1, lease: true)).readyReads.isEmpty)
    }

    @Test("before an entry of its term is committed a leader answers none")
    func ownEntryFirst() {
        var stage = Stage(terms: [1, 1], applied: 1)
        stage.lead()
        stage.gainSupport(from: [b, c])
        for peer in [b, c] {
            let stamp = stage.liveness.supportStamp(from: peer.address, now: stage.now)
            let reply = AppendReply(
                ticket: stage.ticket(after: 2, count: 0), term: Term(2), success: true, lastIndex: nil, support: stamp)
            stage.receive(.appendReply(reply), from: peer)
        }
        #expect(holds(stage) && stage.raft.commitIndex == index(1))
        #expect(stage.step(.readRequested(1, lease: true)).readyReads.isEmpty)
    }

    @Test("while joint it needs the promises of both majorities")
    func joint() {
        var stage = Stage.settled(neighbours: [d, e])
        stage.step(.membershipRequested(1, Configuration(peers: [a, d, e])))
        stage.gainSupport(from: [d, e])
        for newcomer in [d, e] { stage.answer(stage.ticket(after: 0, count: 1), from: newcomer) }
        #expect(stage.raft.configuration.isJoint && !holds(stage))
        stage.catchUp([d])
        #expect(holds(stage))
    }

    @Test("switched off, every read asks")
    func off() {
        var settings = RaftSettings()
        settings.leaseReads = false
        var stage = Stage.settled(settings: settings)
        #expect(stage.step(.readRequested(1, lease: true)).readyReads.isEmpty)
    }

    @Test("a follower names its promise to the leader in its answers, and none when it has given none")
    func stamps() {
        var stage = Stage()
        #expect(stage.hear(from: b, term: 3).appendReply?.support == nil)
        stage.promise(to: b)
        let stamp = SupportStamp(epoch: 1, supporterRun: 1, askerRun: 1)
        #expect(stage.hear(from: b, term: 3, terms: [3]).appendReply?.support == stamp)
        #expect(stage.hear(from: b, term: 3, after: (9, 3)).appendReply?.support == stamp)
    }
}

@Suite("Dissertation §6.4 Reads at followers")
struct FollowerReadTests {
    private func question(_ effects: Effects) -> ReadIndexRequest? {
        for message in effects.messages { if case .readIndex(let request) = message.body { return request } }
        return nil
    }

    @Test("a follower asks its leader up to where it must have applied, and reads there")
    func asks() throws {
        var stage = Stage.resting()
        let request = try #require(question(stage.step(.readRequested(1, lease: true))))
        let effects = stage.receive(
            .readIndexReply(ReadIndexReply(sequence: request.sequence, index: index(7))), from: b)
        #expect(effects.readyReads == [ReadyRead(read: 1, index: index(7), lease: nil)])
        #expect(stage.raft.deadline == nil)
    }

    @Test("reads that come while a question is under way share the next one, for the answer may be older than they")
    func batches() throws {
        var stage = Stage.resting()
        let first = try #require(question(stage.step(.readRequested(1, lease: false))))
        #expect(question(stage.step(.readRequested(2, lease: false))) == nil)
        stage.step(.readRequested(3, lease: false))
        let reply = ReadIndexReply(sequence: first.sequence, index: index(7))
        let effects = stage.receive(.readIndexReply(reply), from: b)
        #expect(effects.readyReads.map(\.read) == [1])
        let second = try #require(question(effects))
        #expect(second.sequence != first.sequence)
        #expect(stage.receive(.readIndexReply(reply), from: b).readyReads.isEmpty, "an old answer")
        let next = ReadIndexReply(sequence: second.sequence, index: index(8))
        #expect(stage.receive(.readIndexReply(next), from: c).readyReads.isEmpty, "not the one asked")
        #expect(stage.receive(.readIndexReply(next), from: b).readyReads.map(\.read) == [2, 3])
    }

    @Test("reads fail without a leader, when it says that it leads no more, is lost, is another or does not answer")
    func fails() throws {
        var alone = Stage()
        #expect(alone.step(.readRequested(1, lease: false)).failedReads == [1])
        let endings: [(inout Stage, ReadIndexRequest) -> Effects] = [
            { $0.receive(.readIndexReply(ReadIndexReply(sequence: $1.sequence, index: nil)), from: b) },
            { $0.step(.readIndexFailed($1)) },
            { stage, _ in stage.hear(from: c, term: 4) },
            { stage, _ in stage.receive(.releaseRequest(ReleaseRequest(term: Term(3))), from: b) },
            { stage, _ in stage.reachDeadline() },
        ]
        for (number, ending) in endings.enumerated() {
            var stage = Stage.resting()
            let request = try #require(question(stage.step(.readRequested(1, lease: false))))
            #expect(ending(&stage, request).failedReads == [1], "\(number)")
        }
    }

    @Test("a follower that comes to lead answers the reads itself")
    func elected() throws {
        var stage = Stage.resting()
        stage.step(.readRequested(1, lease: false))
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: true)), from: b)
        #expect(stage.effects.failedReads == [1], "not while it campaigns")
    }

    @Test("a leader answers a follower's question when a majority answered a round begun after it came")
    func leader() {
        var stage = Stage.settled()
        let question = ReadIndexRequest(term: Term(1), sequence: 42)
        let effects = stage.receive(.readIndexRequest(question), from: c)
        #expect(effects.reply == nil && effects.readIndexReplies.isEmpty)
        let replies = stage.answer(effects.appends(to: b)[0], from: b).readIndexReplies
        #expect(replies.map(\.to) == [c] && replies.map(\.reply) == [ReadIndexReply(sequence: 42, index: index(1))])
    }

    @Test("whoever does not lead says so, at once or when its leadership ends")
    func notLeader() {
        let question = ReadIndexRequest(term: Term(1), sequence: 42)
        var follower = Stage.resting()
        let none = ReadIndexReply(sequence: 42, index: nil)
        #expect(follower.receive(.readIndexRequest(question), from: c).reply == .readIndexReply(none))
        var leader = Stage.settled()
        leader.receive(.readIndexRequest(question), from: c)
        #expect(leader.hear(from: b, term: 5).readIndexReplies.map(\.reply) == [none])
    }

    @Test("towards a foreign leader, which does not know the question, reads fail")
    func foreign() {
        var stage = Stage()
        stage.makeForeign(b)
        stage.hear(from: b, term: 3)
        #expect(stage.step(.readRequested(1, lease: false)).failedReads == [1])
    }
}

import Testing

@testable import RaftCore

/// A voter whose leader, `b`, has just gone: its node's promise is over.
private func orphan(
    order: UInt64 = 0, members: [PeerID] = [a, b, c], terms: [Int64] = []
) -> Stage {
    var settings = RaftSettings()
    settings.electionOrder = order
    var stage = Stage(terms: terms, members: members, settings: settings)
    stage.promise(to: b)
    stage.hear(from: b, term: 3, after: (Int64(terms.count), terms.last ?? 0))
    stage.wait(milliseconds: 1000)
    stage.step(.livenessChanged(b.address))
    return stage
}

private let jitter = RaftSettings().electionJitter

/// An eighth, rounded up: how far those of one place may be apart.
private let short = Interval(nanoseconds: jitter.nanoseconds / 8 + 1)

@Suite("Liveness of a group: who asks first when a leader has gone (rule 20)")
struct CampaignOrderTests {
    private func delay(_ stage: Stage) -> Interval { stage.raft.deadline! - stage.now }

    @Test("one voter asks at once, the next one a jitter later, and so on; who is first differs from group to group")
    func turns() {
        // b is lost: a, c, d and e are left
        for order in 0..<8 as Range<UInt64> {
            let stage = orphan(order: order, members: [a, b, c, d, e])
            let place = (4 - Int64(order % 4)) % 4
            let least = place * jitter.nanoseconds
            #expect((least...least + short.nanoseconds).contains(delay(stage).nanoseconds), "order \(order)")
        }
    }

    @Test("all members agree on the order")
    func agreement() {
        for order in 0..<6 as Range<UInt64> {
            var places: Set<Int64> = []
            for own in [a, c] {
                var settings = RaftSettings()
                settings.electionOrder = order
                var stage = Stage(id: own, settings: settings)
                stage.promise(to: b)
                stage.hear(from: b, term: 3)
                stage.wait(milliseconds: 1000)
                stage.step(.livenessChanged(b.address))
                places.insert(delay(stage).nanoseconds / jitter.nanoseconds)
            }
            #expect(places == [0, 1], "order \(order)")
        }
    }

    @Test("witnesses have no place in it")
    func witnesses() {
        let witness = PeerID(address: c.address, role: .witness)
        for order in 0..<4 as Range<UInt64> {
            let stage = orphan(order: order, members: [a, b, witness])
            #expect(delay(stage) <= short, "order \(order)")
        }
    }

    @Test("a lower priority waits longer, whatever its place")
    func priority() {
        var settings = RaftSettings()
        settings.electionPriority = RaftSettings.highestPriority - 2
        var stage = Stage.resting(settings: settings)
        stage.wait(milliseconds: 1000)
        stage.step(.livenessChanged(b.address))
        #expect(delay(stage).nanoseconds > 2 * jitter.nanoseconds)
    }
}

@Suite("Liveness of a group: what is lost by the voters' own word is soon tried again (rule 21)")
struct LostCampaignTests {
    @Test("refused by the only other voter left, it does not wait for the leader that has gone")
    func refused() {
        var stage = orphan()
        stage.reachDeadline()
        let effects = stage.answerVotes([c], granted: false)
        #expect(stage.raft.role == .preCandidate && effects.elections.contains(.refused))
        #expect(stage.raft.deadline! - stage.now <= Interval(nanoseconds: 3 * short.nanoseconds))
        stage.reachDeadline()
        #expect(stage.effects.elections == [.asked])
        stage.answerVotes([c])
        #expect(stage.raft.role == .candidate)
    }

    @Test("as long as others may still grant it, it waits for them")
    func undecided() {
        var stage = orphan(members: [a, b, c, d, e])
        stage.reachDeadline()
        stage.answerVotes([c], granted: false)
        #expect(stage.raft.deadline! - stage.now > RaftSettings().electionTimeout)
        stage.answerVotes([d, e])
        #expect(stage.raft.role == .candidate)
    }

    @Test("a split vote is tried again at once by whose turn comes first")
    func split() {
        var waits: [Interval] = []
        for order in 0..<2 as Range<UInt64> {
            var stage = orphan(order: order)
            stage.reachDeadline()
            stage.answerVotes([c])
            #expect(stage.raft.role == .candidate)
            stage.answerVotes([c], granted: false)
            #expect(stage.raft.role == .candidate)
            waits.append(stage.raft.deadline! - stage.now)
        }
        #expect(waits[0].nanoseconds <= 3 * short.nanoseconds)
        #expect(waits[1].nanoseconds > waits[0].nanoseconds + jitter.nanoseconds / 4)
        #expect(waits[1] < RaftSettings().electionTimeout)
    }

    @Test("each time in a row it waits longer, up to an election timeout; a leader ends that")
    func backsOff() {
        var stage = orphan()
        var waits: [Int64] = []
        for _ in 0..<8 {
            stage.reachDeadline()
            stage.answerVotes([c], granted: false)
            waits.append((stage.raft.deadline! - stage.now).nanoseconds)
        }
        #expect(waits[2] > waits[0] && waits[4] > 2 * waits[2])
        #expect(waits[6...].allSatisfy { $0 >= RaftSettings().electionTimeout.nanoseconds })
        stage.hear(from: c, term: 4)
        stage.reachDeadline()
        stage.answerVotes([b, c], granted: false)
        #expect((stage.raft.deadline! - stage.now).nanoseconds < 4 * short.nanoseconds)
    }

    @Test("nobody who has refused is heard twice, and a foreign voter's refusal settles nothing")
    func foreign() {
        var stage = orphan()
        stage.makeForeign(c)
        stage.reachDeadline()
        stage.answerVotes([c], granted: false)
        #expect(stage.raft.deadline! - stage.now > RaftSettings().electionTimeout)
    }

    @Test("asked by somebody with a shorter log, a voter that was about to campaign does so soon")
    func longerLog() {
        var stage = orphan(order: 1, terms: [1, 2])
        #expect(stage.raft.deadline! - stage.now > jitter)
        let effects = stage.hearVote(from: c, term: 4, last: position(1, term: 1), isPreVote: true)
        #expect(effects.verdict == .shorterLog && effects.voteReply?.granted == false)
        #expect(stage.raft.deadline! - stage.now <= short)
    }

    @Test("one that gave its vote away, or rests, does not")
    func patient() {
        var stage = orphan(order: 1, terms: [1, 2])
        stage.hearVote(from: c, term: 4, last: position(2, term: 2))
        let due = stage.raft.deadline
        stage.hearVote(from: c, term: 5, last: position(1, term: 1), isPreVote: true)
        #expect(stage.raft.deadline == due)
        var resting = Stage.resting()
        resting.hearVote(from: c, term: 5, last: .zero, isPreVote: true)
        #expect(resting.raft.deadline == nil)
    }

    @Test("no pre-vote for a term in which this voter has given its vote to another; brafts are answered as brafts do")
    func taken() {
        for isForeign in [false, true] {
            var stage = orphan()
            stage.reachDeadline()
            stage.answerVotes([c])
            #expect(stage.raft.role == .candidate && stage.raft.term == Term(4))
            let effects = stage.hearVote(from: c, term: 4, last: .zero, isPreVote: true, isForeign: isForeign)
            #expect(effects.voteReply?.granted == isForeign && effects.voteReply?.term == Term(4))
            #expect(effects.verdict == (isForeign ? .granted : .taken))
        }
    }

    @Test("what becomes of campaigns is told, each once")
    func notes() {
        var stage = orphan()
        #expect(stage.reachDeadline().elections == [.asked])
        #expect(stage.answerVotes([c]).elections == [.stood])
        #expect(stage.answerVotes([c]).elections == [.won])

        stage = orphan()
        stage.reachDeadline()
        #expect(stage.reachDeadline().elections == [.asked, .unanswered])
        #expect(stage.hear(from: c, term: 4).elections.contains(.lostToLeader) == false, "its term came first")
        stage = orphan()
        stage.reachDeadline()
        stage.answerVotes([c])
        #expect(stage.hear(from: c, term: 4).elections == [.lostToLeader])
        stage = orphan()
        stage.reachDeadline()
        #expect(stage.hearVote(from: c, term: 9, last: .zero).elections == [.lostToTerm])
    }
}

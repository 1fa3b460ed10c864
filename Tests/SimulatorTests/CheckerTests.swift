import RaftCore
import Simulator
import Testing

/// A log of entries, each a term and a number that stands for its content.
private func log(_ entries: (term: Int64, content: UInt64)...) -> LogChain {
    var log = LogChain()
    for entry in entries { log.append(term: Term(entry.term), fingerprint: entry.content) }
    return log
}

private let one = ReplicaName("g", on: 1)
private let two = ReplicaName("g", on: 2)
private let elsewhere = ReplicaName("h", on: 2)
private let peers = (1...3).map { PeerID(address: SimulatedNode.address($0)) }

private func index(_ number: Int64) -> LogIndex { LogIndex(number) }

/// Each checker accepts what Raft does, and names what it must never do.
@Suite("The checkers") struct CheckerTests {
    @Test("One leader per term") func oneLeaderPerTerm() {
        var checker = OneLeaderPerTerm()
        #expect(checker.leads(one, in: Term(1)) == nil)
        #expect(checker.leads(one, in: Term(1)) == nil, "the same one")
        #expect(checker.leads(two, in: Term(2)) == nil && checker.leads(elsewhere, in: Term(1)) == nil)
        let violation = checker.leads(two, in: Term(1))
        #expect(violation?.checker == "OneLeaderPerTerm" && violation?.nodes == [1, 2] && violation?.group == "g")
    }

    @Test("Log matching looks at everything before an entry, too") func logMatching() {
        var checker = LogMatching()
        #expect(checker.grew(one, log((1, 5), (1, 6), (2, 7)), from: index(1)) == nil)
        #expect(checker.grew(two, log((1, 5)), from: index(1)) == nil)
        #expect(checker.grew(two, log((1, 5), (3, 6)), from: index(2)) == nil, "another term, another entry")
        #expect(checker.grew(elsewhere, log((1, 9)), from: index(1)) == nil)
        // the last entry is the same, the one before is not
        let violation = checker.grew(ReplicaName("g", on: 3), log((1, 5), (1, 8), (2, 7)), from: index(3))
        #expect(violation?.checker == "LogMatching" && violation?.index == index(3) && violation?.nodes == [1, 3])
    }

    @Test("A leader has what was committed before") func leaderCompleteness() {
        var checker = LeaderCompleteness()
        let full = log((1, 5), (1, 6))
        #expect(checker.elected(one, in: Term(1), log()) == nil)
        #expect(checker.committed(one, through: index(2), in: Term(1), full, logOf: { _ in nil }) == nil)
        #expect(checker.elected(two, in: Term(2), log((1, 5), (1, 6), (1, 7))) == nil)
        let violation = checker.elected(ReplicaName("g", on: 3), in: Term(3), log((1, 5)))
        #expect(violation?.checker == "LeaderCompleteness" && violation?.index == index(2) && violation?.nodes == [3])
    }

    @Test("A leader does not commit by counting an older term's entry") func ownTerm() {
        var checker = LeaderCompleteness()
        let full = log((1, 5), (2, 6))
        #expect(checker.committed(one, through: index(2), in: Term(2), full, logOf: { _ in nil }) == nil)
        let violation = checker.committed(two, through: index(2), in: Term(3), full, logOf: { _ in nil })
        #expect(violation?.checker == "LeaderCompleteness" && violation?.index == index(2) && violation?.nodes == [2])
    }

    @Test("A leader has what an older one commits after its election") func lateCommit() {
        var checker = LeaderCompleteness()
        #expect(checker.elected(two, in: Term(2), log((1, 5))) == nil)
        let violation = checker.committed(one, through: index(2), in: Term(1), log((1, 5), (1, 6))) { _ in
            log((1, 5), (2, 9))
        }
        #expect(violation?.checker == "LeaderCompleteness" && violation?.nodes == [1, 2])
    }

    @Test("What is committed stays") func committedNeverChanges() {
        var checker = CommittedNeverChanges()
        let agreed = log((1, 5), (1, 6))
        let (three, four) = (Term(3), Term(4))
        #expect(checker.committed(one, index(1)...index(2), in: three, agreed) == nil)
        #expect(checker.committed(two, index(1)...index(2), in: three, agreed) == nil)
        #expect(checker.lastCommitted(of: "g") == index(2))
        let another = log((1, 5), (2, 9))
        #expect(checker.truncates(two, from: index(2), in: four, of: another) == nil, "it never had the entry")
        #expect(checker.truncates(two, from: index(3), in: four, of: log((1, 5), (1, 6), (1, 7))) == nil)
        #expect(checker.truncates(two, from: index(2), in: three, of: agreed)?.checker == "CommittedNeverChanges")
        #expect(checker.truncates(two, from: index(2), in: Term(2), of: agreed) == nil, "the order of an older leader")
        let violation = checker.committed(two, index(2)...index(2), in: three, another)
        #expect(violation?.index == index(2) && violation?.nodes == [1, 2])
        #expect(checker.committed(two, index(3)...index(3), in: three, agreed) != nil, "beyond its log")
    }

    @Test("Everybody applies the same and answers the same") func appliedSequencesEqual() {
        func checker() -> AppliedSequencesEqual {
            var checker = AppliedSequencesEqual()
            for number in 1...2 as ClosedRange<Int64> {
                let position = LogPosition(term: Term(1), index: index(number))
                #expect(checker.applied(one, position, entry: UInt64(number), reply: 7) == nil)
            }
            return checker
        }
        let first = LogPosition(term: Term(1), index: index(1))
        let second = LogPosition(term: Term(1), index: index(2))
        var same = checker()
        #expect(same.starts(two, at: index(1)) == nil && same.applied(two, second, entry: 2, reply: 7) == nil)
        var another = checker()
        #expect(another.applied(two, first, entry: 9, reply: 7)?.nodes == [1, 2])
        var reply = checker()
        #expect(reply.applied(two, first, entry: 1, reply: 8)?.facts.contains("reply") == true)
        var gap = checker()
        #expect(gap.applied(two, second, entry: 2, reply: 7)?.checker == "AppliedSequencesEqual")
        var twice = checker()
        #expect(twice.applied(one, second, entry: 2, reply: 7) != nil)
        var ahead = checker()
        #expect(ahead.starts(two, at: index(3)) != nil, "nobody has applied that")
    }

    @Test("Terms and votes do not go back") func hardState() {
        func state(_ term: Int64, _ vote: Int?) -> HardState {
            HardState(term: Term(term), vote: vote.map { peers[$0 - 1] })
        }
        var checker = HardStateNeverGoesBack()
        #expect(checker.changed(one, to: state(1, nil)) == nil && checker.changed(one, to: state(1, 2)) == nil)
        #expect(checker.changed(one, to: state(2, 3)) == nil && checker.changed(one, to: state(2, 3)) == nil)
        var term = checker
        #expect(term.changed(one, to: state(1, 2))?.checker == "HardStateNeverGoesBack")
        var vote = checker
        #expect(vote.changed(one, to: state(2, 1))?.nodes == [1])
        checker.persisted(one, state(2, 3))
        var lost = checker
        #expect(lost.restarted(one, with: state(2, nil)) != nil, "a durable vote")
        #expect(checker.restarted(one, with: state(2, 3)) == nil)
        #expect(checker.restarted(two, with: .initial) == nil)
    }

    @Test("Acknowledgements, votes and commits need the disk") func durable() {
        let checker = DurableBeforeAcknowledged()
        let whole = log((1, 5), (1, 6))
        let (first, both) = (whole.chain(at: index(1)), whole.chain(at: index(2)))
        #expect(checker.acknowledges(one, through: index(2), chain: both, durable: whole) == nil)
        #expect(checker.acknowledges(one, through: index(1), chain: first, durable: log((1, 5))) == nil)
        #expect(checker.acknowledges(one, through: index(2), chain: both, durable: log((1, 5)))?.index == index(2))
        #expect(checker.acknowledges(one, through: index(2), chain: both, durable: log((1, 5), (1, 9))) != nil)
        let vote = HardState(term: Term(3), vote: peers[0])
        #expect(checker.votes(one, in: Term(3), durable: vote) == nil)
        #expect(checker.votes(one, in: Term(4), durable: vote) != nil)
        #expect(checker.votes(one, in: Term(3), durable: HardState(term: Term(3), vote: nil)) != nil)
        let second = LogPosition(term: Term(1), index: index(2))
        #expect(checker.applies(one, second, durable: whole) == nil)
        #expect(checker.applies(one, second, durable: log((1, 5)))?.index == index(2))
        #expect(checker.applies(one, second, durable: log((1, 5), (2, 6))) != nil)
        func commits(_ holders: [Int], _ configuration: Configuration) -> Violation? {
            checker.commits(one, through: index(2), whole, configuration) { peer in
                peers.firstIndex(of: peer).map { [holders.contains($0 + 1) ? whole : log((1, 5))] } ?? []
            }
        }
        #expect(commits([1, 2], Configuration(peers: peers)) == nil)
        #expect(commits([1], Configuration(peers: peers))?.facts.contains("1 of 3") == true)
        // who lost to damage what it had acknowledged still vouches for it
        let damaged = checker.commits(one, through: index(2), whole, Configuration(peers: peers)) { peer in
            peer == peers[0] ? [whole] : peer == peers[1] ? [log((1, 5)), whole] : []
        }
        #expect(damaged == nil)
        let joint = Configuration(peers: [peers[0]], oldPeers: peers)
        #expect(commits([1, 3], joint) == nil && commits([1], joint) != nil && commits([2, 3], joint) != nil)
    }

    @Test("A disk that is read back must hold what was reported durable") func readBack() {
        let checker = DurableBeforeAcknowledged()
        let state = HardState(term: Term(2), vote: peers[0])
        func holds(_ last: Int64, _ found: HardState) -> Violation? {
            checker.holds(
                one, last: LogPosition(term: Term(1), index: index(last)), termAt: { _ in Term(1) }, found,
                log: log((1, 5), (1, 6)), state: state)
        }
        #expect(holds(2, state) == nil && holds(3, HardState(term: Term(3), vote: nil)) == nil)
        #expect(holds(1, state)?.index == index(2))
        #expect(holds(2, HardState(term: Term(1), vote: nil)) != nil)
        #expect(holds(2, HardState(term: Term(2), vote: nil)) != nil)
    }

    @Test("A request has one effect") func exactlyOnce() {
        var checker = ExactlyOnce()
        let request = ExactlyOnce.Request(session: 2, sequence: 3)
        #expect(checker.applied(request, content: 1, reply: nil, in: "g") == nil, "refused: it may come again")
        #expect(checker.applied(request, content: 1, reply: 10, in: "g") == nil)
        #expect(checker.applied(request, content: 1, reply: 10, in: "g") == nil, "told again what it was told")
        #expect(checker.applied(request, content: 1, reply: nil, in: "g") == nil, "forgotten, and refused")
        #expect(checker.repetitions == 2)
        var twice = checker
        #expect(twice.applied(request, content: 1, reply: 11, in: "g")?.checker == "ExactlyOnce")
        #expect(checker.applied(request, content: 2, reply: 10, in: "g") != nil, "another content")
    }

    @Test("One lease at a time, and none while a later leader commits") func leases() {
        let checker = LeaseSafety()
        let old = LeaseSafety.Believer(node: 1, term: Term(3))
        let new = LeaseSafety.Believer(node: 2, term: Term(4))
        #expect(checker.believed("g", []) == nil && checker.believed("g", [old]) == nil)
        #expect(checker.believed("g", [old, new])?.nodes == [1, 2])
        #expect(checker.commits("g", by: 2, in: Term(4), [new]) == nil)
        #expect(checker.commits("g", by: 2, in: Term(4), [old])?.checker == "LeaseSafety")
    }

    @Test("A read sees what anybody had applied when it was asked for") func freshReads() {
        let checker = ReadsAreFresh()
        #expect(checker.read(one, from: index(5), saw: index(5)) == nil)
        #expect(checker.read(one, from: index(5), saw: index(6)) == nil)
        let violation = checker.read(one, from: index(5), saw: index(4))
        #expect(violation?.checker == "ReadsAreFresh" && violation?.nodes == [1] && violation?.index == index(4))
    }
}

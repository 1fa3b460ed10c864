import Testing

@testable import RaftCore

/// The proof that a leader of term U holds what a leader of an earlier term T committed, claim by claim. Five nodes; node
/// 1 is the leader of term T, and what it commits is entry 2.
@Suite("§5.4.3 Safety argument")
struct SafetyArgumentTests {
    /// Entry 2 of term 1 is committed by node 1 and these two.
    private static func committed(by followers: [Int]) -> TraceCluster {
        var cluster = TraceCluster.free()
        cluster.lead(1, with: followers, proposing: 1)
        return cluster
    }

    private static let followerPairs = TraceCluster.subsets(of: [2, 3, 4, 5], size: 2)

    @Test("1: a leader never overwrites or deletes entries of its own log (Leader Append-Only)")
    func appendOnly() {
        var stage = Stage.settled(terms: [1, 1])
        let before = stage.terms
        stage.hear(from: b, term: 2, after: (1, 1), terms: [2])
        #expect(stage.raft.term == Term(3), "two leaders in one term leave it")
        #expect(stage.effects.logChange == nil && stage.terms == before)
        var leader = Stage.settled(terms: [1, 1])
        leader.hear(from: b, term: 1, after: (1, 1), terms: [1])
        leader.install(last: position(2, term: 1), term: 1)
        #expect(leader.raft.isLeader && leader.terms == before)
    }

    @Test(
        "2: any majority that accepted the entry and any majority that votes share a voter, who refuses a candidate without it",
        arguments: followerPairs)
    func voterInCommon(followers: [Int]) {
        for candidate in [2, 3, 4, 5] where !followers.contains(candidate) {
            for voters in TraceCluster.subsets(of: [1, 2, 3, 4, 5].filter { $0 != candidate }, size: 2) {
                var cluster = SafetyArgumentTests.committed(by: followers)
                #expect(cluster[1].raft.commitIndex == index(2))
                cluster.stand(candidate, with: voters)
                #expect(!cluster.isLeader(candidate), "\(followers) accepted, \(voters) voted for \(candidate)")
                #expect(Set(voters + [candidate]).intersection(followers + [1]).isEmpty == false)
            }
        }
    }

    @Test("3: a voter that has voted in a later term accepts the entry no more, so that it is not committed by it")
    func acceptedBeforeVoting() {
        var cluster = TraceCluster.free()
        cluster.elect(1, with: [2, 3])
        cluster.step(1, .proposed(count: 1))
        cluster.talk(1, with: [2])
        // the vote of term 2 comes before the entry of term 1
        let delayed = cluster.take(TraceFilter(from: 1))
        cluster.stand(5, with: [3, 4])
        #expect(cluster.isLeader(5) && cluster[3].raft.term == Term(2))
        cluster.network = delayed
        cluster.talk(1, with: [3, 4])
        #expect(cluster[1].raft.commitIndex < index(2) && !cluster.isLeader(1))
        #expect(cluster.terms(3) == [] && cluster.violations == [])
    }

    @Test("4: until it votes the voter keeps the entry: older and shorter appends of the same leader cut nothing off")
    func keptUntilVoting() {
        var cluster = TraceCluster.free()
        cluster.elect(1, with: [2, 3])
        let first = cluster.take(TraceFilter(from: 1, to: 2))
        #expect(!first.isEmpty)
        cluster.network += first
        cluster.step(1, .proposed(count: 1))
        cluster.talk(1, with: [2, 3])
        #expect(cluster.terms(2) == [1, 1])
        cluster.network = first
        cluster.deliver(TraceFilter(to: 2))
        #expect(cluster.terms(2) == [1, 1] && cluster[2].disk.log.entries.count == 2 && cluster.violations == [])
    }

    @Test("4: leaders between both terms hold the entry, and spread it instead of removing it")
    func leadersBetween() {
        var cluster = SafetyArgumentTests.committed(by: [2, 3])
        let entry = cluster.entry(1, at: 2)
        cluster.lead(2, with: [3, 4])
        cluster.lead(4, with: [2, 5])
        #expect((2...5).allSatisfy { cluster.entry($0, at: 2) == entry } && cluster.violations == [])
    }

    @Test("5: the voter grants its vote only to a log at least as up to date as its own", arguments: [1, 2, 3, 4])
    func upToDate(held: Int) {
        // the candidate holds that many of the voter's four entries
        var cluster = TraceCluster.free()
        cluster.setUp(3, terms: [1, 1, 2, 2], hardState: HardState(term: Term(2), vote: nil), commit: 0)
        let terms = Array([1, 1, 2, 2].prefix(held)) as [Int64]
        cluster.setUp(5, terms: terms, hardState: HardState(term: Term(2), vote: nil), commit: 0)
        cluster.elect(5, with: [3, 4])
        #expect(cluster.isLeader(5) == (held == 4))
    }

    @Test("5: a log that ends in an earlier term is not, however long it is")
    func longerButOlder() {
        var cluster = TraceCluster.free()
        cluster.setUp(3, terms: [1, 2], hardState: HardState(term: Term(2), vote: nil), commit: 0)
        cluster.setUp(5, terms: [1, 1, 1, 1], hardState: HardState(term: Term(2), vote: nil), commit: 0)
        cluster.stand(5, with: [3, 4])
        #expect(!cluster.isLeader(5))
        cluster.stand(3, with: [4, 5])
        #expect(cluster.isLeader(3) && cluster.violations == [])
    }

    @Test("6: of two logs that end in the same term the longer one holds all of the other")
    func sameLastTerm() {
        var cluster = TraceCluster.free()
        cluster.lead(1, with: [2, 3], proposing: 1)
        cluster.elect(2, with: [1, 3])
        cluster.step(2, .proposed(count: 1))
        cluster.talk(2, with: [3])
        cluster.step(2, .proposed(count: 2))
        cluster.talk(2, with: [4])
        cluster.loseAll()
        #expect(cluster.terms(3) == [1, 1, 2, 2] && cluster.terms(4) == [1, 1, 2, 2, 2, 2])
        #expect((1...4).allSatisfy { cluster.entry(3, at: $0) == cluster.entry(4, at: $0) })
        cluster.elect(4, with: [3, 5])
        #expect(cluster.isLeader(4) && cluster.violations == [])
    }

    @Test("7: a log that ends in a later term has the entry from the leader of that term, along with its last entry")
    func laterLastTerm() {
        var cluster = SafetyArgumentTests.committed(by: [2, 3])
        let entry = cluster.entry(1, at: 2)
        // node 4 never heard of term 1; what it gets from the leader of term 2 begins before entry 2
        cluster.lead(3, with: [2, 4])
        #expect(cluster.terms(4) == [1, 1, 2] && cluster.entry(4, at: 2) == entry)
        cluster.elect(4, with: [1, 5])
        #expect(cluster.isLeader(4), "its log is shorter than none and ends later than all")
        cluster.talk(4, with: [1, 5])
        #expect(cluster.entry(5, at: 2) == entry && cluster.violations == [])
    }

    @Test("7: whoever lacks the entry gets no entry of a later term either")
    func noHole() {
        var cluster = SafetyArgumentTests.committed(by: [2, 3])
        cluster.elect(3, with: [2, 4])
        let probe = cluster.take(TraceFilter(from: 3, to: 4))
        for packet in probe {
            guard case .appendRequest(let request) = packet.message else { continue }
            #expect(request.previous == position(2, term: 1), "what comes before is named")
        }
        cluster.network = probe
        cluster.deliver(TraceFilter(to: 4))
        #expect(cluster.terms(4) == [])
    }

    @Test(
        "8: whoever leads after term T holds what was committed in it (Leader Completeness)", arguments: followerPairs)
    func leaderCompleteness(followers: [Int]) {
        let entry = SafetyArgumentTests.committed(by: followers).entry(1, at: 2)
        for candidate in [1, 2, 3, 4, 5] {
            var leaders = 0
            for voters in TraceCluster.subsets(of: [1, 2, 3, 4, 5].filter { $0 != candidate }, size: 2) {
                var cluster = SafetyArgumentTests.committed(by: followers)
                cluster.stand(candidate, with: voters)
                guard cluster.isLeader(candidate), cluster[candidate].raft.term == Term(2) else { continue }
                leaders += 1
                #expect(cluster.entry(candidate, at: 2) == entry && cluster.violations == [])
            }
            #expect((leaders > 0) == followers.contains(candidate) || candidate == 1)
        }
    }

    @Test("9: it also holds what was committed indirectly, before the entry that was counted (Log Matching)")
    func committedIndirectly() {
        // Figure 8 d and e: entry 2 is of term 2, and committed by entry 3 of term 3
        var cluster = TraceCluster.free()
        cluster.lead(1, with: [2, 3, 4, 5])
        cluster.revive(1)
        cluster.elect(1, with: [2, 3])
        cluster.talk(1, with: [2])
        cluster.loseAll()
        cluster.revive(1)
        cluster.lead(1, with: [2, 3])
        #expect(cluster.terms(3) == [1, 2, 3] && cluster[1].raft.commitIndex == index(3))
        for candidate in [4, 5] {
            var attempt = cluster
            attempt.stand(candidate, with: [2, 3])
            #expect(!attempt.isLeader(candidate))
        }
        cluster.lead(3, with: [4, 5])
        #expect(cluster.entry(5, at: 2) == cluster.entry(1, at: 2) && cluster.violations == [])
    }

    @Test("State Machine Safety: whoever applies at an index applies the same entry there, in the order of the log")
    func stateMachineSafety() throws {
        var cluster = SafetyArgumentTests.committed(by: [2, 3])
        // a deposed leader's entry at index 3, which is never committed, and another one there that is
        cluster.elect(1, with: [2, 3])
        cluster.step(1, .proposed(count: 2))
        cluster.loseAll()
        cluster.lead(3, with: [2, 4], proposing: 1)
        #expect(cluster[3].applied == index(4) && cluster.entry(1, at: 3) != cluster.entry(3, at: 3))
        #expect(cluster[1].applied == index(2), "it applies only what is committed")
        cluster.elect(4, with: [1, 5])
        cluster.settle()
        let leader = try #require([2, 3, 4, 5].first { cluster.isLeader($0) })
        let applied = cluster[leader].applied
        #expect(applied >= index(5))
        for node in 1...5 {
            #expect(cluster[node].applied == applied)
            let same = (1...applied.rawValue).allSatisfy {
                cluster.entry(node, at: $0) == cluster.entry(leader, at: $0)
            }
            #expect(same, "node \(node)")
        }
        #expect(cluster.violations == [])
    }
}

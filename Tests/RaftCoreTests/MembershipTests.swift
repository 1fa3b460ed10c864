import Testing

@testable import RaftCore

private func voters(_ peers: [PeerID], old: [PeerID] = [], learners: [PeerID] = []) -> Configuration {
    Configuration(peers: peers, oldPeers: old, learners: learners)
}

extension Stage {
    fileprivate mutating func change(to peers: [PeerID], learners: [PeerID] = []) {
        step(.membershipRequested(1, voters(peers, learners: learners)))
    }
}

@Suite("§6 and dissertation §4.1 Changes of one member")
struct SingleChangeTests {
    @Test("a configuration is in force as soon as the leader has appended it, before it is committed")
    func inForceAtOnce() {
        var stage = Stage.settled()
        stage.change(to: [a, b])
        #expect(stage.raft.configuration == voters([a, b]) && stage.raft.commitIndex == index(1))
        #expect(stage.effects.logChange?.source == .configuration(voters([a, b])))
        #expect(stage.outcomes.isEmpty)
    }

    @Test("one voter more or less needs no joint stage, two do")
    func size() {
        var one = Stage.settled(members: [a, b, c, d])
        one.change(to: [a, b, c])
        #expect(!one.raft.configuration.isJoint)
        var two = Stage.settled(members: [a, b, c, d])
        two.change(to: [a, b])
        #expect(two.raft.configuration == voters([a, b], old: [a, b, c, d]))
    }

    @Test("a change is answered when its entry is committed by the new majority, and once")
    func answeredOnce() {
        var stage = Stage.settled(members: [a, b, c, d])
        stage.change(to: [a, b, c])
        stage.persist()
        #expect(stage.outcomes.isEmpty)
        stage.catchUp([b])
        stage.catchUp([b, c])
        #expect(stage.outcomes == [.done(index(2))])
    }

    @Test("the acknowledgement of whoever was removed does not count")
    func removedDoNotCount() {
        var stage = Stage.settled(members: [a, b, c, d])
        stage.change(to: [a, b, c])
        stage.persist()
        stage.catchUp([d])
        #expect(stage.raft.commitIndex == index(1))
        stage.catchUp([b])
        #expect(stage.raft.commitIndex == index(2))
    }

    @Test("a second change waits for the first, and is refused until then")
    func oneAtATime() {
        var stage = Stage.settled(members: [a, b, c, d])
        stage.change(to: [a, b, c])
        stage.change(to: [a, b])
        #expect(stage.outcomes == [.refused(.busy)])
    }

    @Test("a new leader changes nothing before an entry of its own term is committed (the correction of §4.1)")
    func ownTermFirst() {
        var stage = Stage(terms: [1, 1], applied: 2)
        stage.lead()
        stage.change(to: [a, b])
        #expect(stage.outcomes == [.refused(.busy)] && stage.raft.configuration == voters([a, b, c]))
        stage.gainSupport(from: [b, c])
        stage.persist()
        stage.catchUp([b])
        stage.change(to: [a, b])
        #expect(stage.raft.configuration == voters([a, b]))
    }

    @Test("only a leader changes the membership, and nobody can do without voters that hold a state")
    func refused() {
        var follower = Stage()
        follower.change(to: [a])
        #expect(follower.outcomes == [.refused(.notLeader)])
        var stage = Stage.settled()
        stage.change(to: [])
        stage.change(to: [PeerID(address: d.address, role: .witness)])
        stage.step(.membershipRequested(1, voters([a], old: [a, b])))
        #expect(stage.outcomes == [.refused(.noVoters), .refused(.noVoters), .refused(.noVoters)])
    }

    @Test("what is in force already is done at once, without an entry")
    func nothingToDo() {
        var stage = Stage.settled()
        stage.change(to: [c, b, a])
        #expect(stage.outcomes == [.done(index(1))] && stage.effects.logChange == nil)
    }

    @Test("a leader that loses its office cannot tell what becomes of the change, and says so once")
    func unknown() {
        var stage = Stage.settled()
        stage.change(to: [a, b])
        stage.hear(from: b, term: 5)
        stage.hear(from: c, term: 6)
        #expect(stage.outcomes == [.unknown])
    }

    @Test("a follower whose entry of the change is cut has the membership before it again, also behind a snapshot")
    func truncated() {
        var stage = Stage(base: position(5, term: 1))
        let entry = [EntryHeader(term: Term(1), kind: .configuration)]
        for (last, members) in [(5, [a, b]), (6, [a])] as [(Int64, [PeerID])] {
            let placed = PlacedConfiguration(index: index(last + 1), configuration: voters(members))
            stage.receive(
                .appendRequest(
                    AppendRequest(
                        term: Term(1), previous: position(last, term: 1), entries: entry, configurations: [placed],
                        commit: index(5))), from: b)
        }
        #expect(stage.raft.configuration == voters([a]))
        stage.hear(from: c, term: 2, after: (6, 1), terms: [2])
        #expect(stage.raft.configuration == voters([a, b]))
        stage.hear(from: b, term: 3, after: (5, 1), terms: [3])
        #expect(stage.raft.configuration == voters([a, b, c]))
    }

    @Test("a newcomer does not count before its node stands by the leader's, which might fall otherwise")
    func newVotersNode() {
        var stage = Stage.settled(members: [a], neighbours: [d])
        stage.change(to: [a, d])
        stage.answer(stage.ticket(after: 0, count: 1), from: d)
        #expect(stage.raft.configuration == voters([a]))
        stage.gainSupport(from: [d])
        #expect(stage.raft.configuration == voters([a, d]) && stage.raft.isLeader)
        stage.persist()
        stage.catchUp([d])
        #expect(stage.outcomes == [.done(index(2))])
    }

    @Test("a removed member gets the log, the commit of its removal included, and then no more")
    func leaverIsTold() {
        var stage = Stage.settled()
        stage.change(to: [a, b])
        stage.persist()
        stage.answer(stage.ticket(after: 1, count: 1), from: c)
        #expect(stage.raft.progress(of: c)?.match == index(2))
        let told = stage.answer(stage.ticket(after: 1, count: 1), from: b)
        #expect(told.messages.contains { $0.to == c } && stage.raft.progress(of: c) == nil)
        #expect(stage.step(.proposed(count: 1)).messages.map(\.to) == [b])
    }
}

@Suite("§6 and dissertation §4.1, §4.3 Majorities that meet")
struct MajorityTests {
    private static let everybody = [a, b, c, d, e]
    private static let subsets = (0..<1 << 5).map { bits in
        everybody.enumerated().filter { bits >> $0.offset & 1 == 1 }.map(\.element)
    }

    /// Whether there are a majority of one and a majority of the other that have nobody in common.
    private func canPart(_ left: Configuration, _ right: Configuration) -> Bool {
        MajorityTests.subsets.contains { some in
            left.hasMajority { some.contains($0) } && right.hasMajority { !some.contains($0) }
        }
    }

    @Test("any majority of a membership and any of one with one voter more or less have a member in common (§4.1)")
    func oneVoter() {
        for members in MajorityTests.subsets where !members.isEmpty {
            for other in MajorityTests.everybody where members != [other] {
                let changed = members.contains(other) ? members.filter { $0 != other } : (members + [other]).sorted()
                #expect(!canPart(voters(members), voters(changed)), "\(members) and \(changed)")
            }
        }
    }

    @Test("with two voters more or less they may have none, so that there must be a stage between (Figure 4.3)")
    func twoVoters() {
        #expect(canPart(voters([a]), voters([a, b, c])))
        #expect(canPart(voters([a, b, c]), voters([a, d, e])))
    }

    @Test("while joint, any majority meets any of the old membership, any of the new, and any joint one (§4.3)")
    func joint() {
        for old in MajorityTests.subsets where !old.isEmpty {
            for new in MajorityTests.subsets where !new.isEmpty {
                let between = voters(new, old: old)
                #expect(!canPart(between, voters(old)) && !canPart(between, voters(new)) && !canPart(between, between))
            }
        }
    }
}

@Suite("Dissertation §4.2.1 Catching up new servers")
struct CatchUpTests {
    private func settled(margin: Int = 2) -> Stage {
        var settings = RaftSettings()
        settings.catchUpMargin = margin
        var stage = Stage.settled(terms: [1, 1, 1, 1], neighbours: [d, e], settings: settings)
        stage.change(to: [a, b, c, d])
        return stage
    }

    @Test("a newcomer gets the log before it counts, and the change begins when it lacks little")
    func catchesUp() {
        var stage = settled()
        #expect(stage.effects.appends(to: d).count == 1 && !stage.raft.configuration.contains(d))
        #expect(stage.raft.peers == [b, c, d] && stage.raft.isChangingMembership)
        stage.answer(stage.ticket(after: 4, count: 1), from: d, success: false, hint: 0)
        stage.answer(stage.ticket(after: 0, count: 2), from: d)
        #expect(stage.raft.configuration == voters([a, b, c]), "three entries are too many")
        stage.gainSupport(from: [d])
        #expect(stage.raft.configuration == voters([a, b, c]), "nor does its node's promise help")
        stage.answer(stage.ticket(after: 2, count: 1), from: d)
        #expect(stage.raft.configuration == voters([a, b, c, d]))
    }

    @Test("a newcomer's acknowledgements commit nothing before it is a member")
    func doesNotCount() {
        var stage = settled(margin: 0)
        stage.step(.proposed(count: 1))
        stage.persist()
        stage.answer(stage.ticket(after: 0, count: 5), from: d)
        #expect(stage.raft.commitIndex == index(5) && stage.raft.progress(of: d)?.match == index(5))
        stage.answer(stage.ticket(after: 5, count: 1), from: d)
        #expect(stage.raft.commitIndex == index(5))
    }

    @Test("a newcomer that gets nowhere in time ends the change, which changed nothing")
    func standsStill() {
        var stage = settled()
        stage.wait(milliseconds: 9900, supportedBy: [b, c, d])
        stage.step(.deadlineReached)
        #expect(stage.outcomes.isEmpty)
        stage.wait(milliseconds: 200, supportedBy: [b, c, d])
        stage.step(.deadlineReached)
        #expect(stage.outcomes == [.notCaughtUp(d)] && stage.raft.configuration == voters([a, b, c]))
        #expect(stage.raft.progress(of: d) == nil && !stage.raft.isChangingMembership)
        stage.change(to: [a, b])
        #expect(stage.raft.configuration == voters([a, b]))
    }

    @Test("one that gets on is given more time")
    func getsOn() {
        var stage = settled()
        stage.wait(milliseconds: 9000, supportedBy: [b, c, d])
        stage.answer(stage.ticket(after: 0, count: 1), from: d)
        stage.wait(milliseconds: 9000, supportedBy: [b, c, d])
        stage.step(.deadlineReached)
        #expect(stage.outcomes.isEmpty)
    }

    @Test("one whose snapshots fail again and again ends the change too, but not one that is being sent its first")
    func failingSnapshots() {
        var stage = Stage.settled(terms: [1, 1, 1], neighbours: [d])
        stage.step(.compacted(through: index(3)))
        stage.change(to: [a, b, c, d])
        stage.answer(stage.ticket(after: 3, count: 1), from: d, success: false, hint: 0)
        #expect(stage.effects.snapshots == [d])
        for _ in 0..<3 {
            stage.wait(milliseconds: 10_000, supportedBy: [b, c, d])
            stage.step(.deadlineReached)
            #expect(stage.outcomes.isEmpty && stage.raft.progress(of: d)?.isInstalling == true)
        }
        stage.step(.snapshotSent(to: d, installed: nil))
        stage.reachDeadline()
        #expect(stage.outcomes == [.notCaughtUp(d)])
    }

    @Test("a snapshot that fails early is tried again within the newcomer's time")
    func failingOnce() {
        var stage = Stage.settled(terms: [1, 1, 1], neighbours: [d])
        stage.step(.compacted(through: index(3)))
        stage.change(to: [a, b, c, d])
        stage.gainSupport(from: [d])
        stage.answer(stage.ticket(after: 3, count: 1), from: d, success: false, hint: 0)
        stage.step(.snapshotSent(to: d, installed: nil))
        stage.wait(milliseconds: 1000, supportedBy: [b, c, d])
        #expect(stage.step(.deadlineReached).snapshots == [d] && stage.outcomes.isEmpty)
        stage.step(.snapshotSent(to: d, installed: index(4)))
        #expect(stage.raft.configuration == voters([a, b, c, d]))
    }
}

@Suite("Dissertation §4.2.2 Removing the current leader")
struct RemovedLeaderTests {
    private func removed() -> Stage {
        var stage = Stage.settled()
        stage.change(to: [b, c])
        stage.persist()
        return stage
    }

    @Test("it manages the cluster until its removal is committed, and does not count itself")
    func doesNotCount() {
        var stage = removed()
        stage.catchUp([b])
        #expect(stage.raft.isLeader && stage.raft.commitIndex == index(1), "one of two others is no majority")
    }

    @Test("then it answers, steps down, wakes a successor and releases the voters")
    func stepsDown() {
        var stage = removed()
        stage.catchUp([b, c])
        #expect(stage.raft.role == .follower && stage.raft.commitIndex == index(2))
        #expect(stage.outcomes == [.done(index(2))])
        #expect(stage.sent.contains { if case .timeoutNow = $0.body { true } else { false } })
        let released = stage.sent.filter { if case .release = $0.body { true } else { false } }
        #expect(released.map(\.to) == [b, c])
    }

    @Test("and never campaigns again")
    func rests() {
        var stage = removed()
        stage.catchUp([b, c])
        for voter in [b, c] { stage.receive(.releaseReply(ReleaseReply(term: stage.raft.term)), from: voter) }
        #expect(stage.raft.deadline == nil)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(1), oldLeaderSteppedDown: false)), from: b)
        #expect(stage.raft.role == .follower)
    }
}

@Suite("Dissertation §4.2.3 Disruptive servers")
struct DisruptionTests {
    @Test("a member that does not know of its removal disturbs neither the term nor the leader")
    func removedMember() {
        var stage = Stage.settled()
        stage.change(to: [a, b])
        stage.persist()
        stage.catchUp([b, c])
        for isPreVote in [true, false] {
            stage.hearVote(from: c, term: 9, last: stage.lastPosition, isPreVote: isPreVote)
            #expect(stage.raft.isLeader && stage.raft.term == Term(1))
        }
    }

    @Test("whoever has left, as far as it knows for good, does not campaign, not even when its leader is gone")
    func outsiderRests() {
        var stage = Stage.resting()
        let placed = PlacedConfiguration(index: index(1), configuration: voters([b, c]))
        stage.receive(
            .appendRequest(
                AppendRequest(
                    term: Term(3), previous: .zero, entries: [EntryHeader(term: Term(3), kind: .configuration)],
                    configurations: [placed], commit: index(1))), from: b)
        stage.wait(milliseconds: 1000)
        stage.step(.livenessChanged(b.address))
        #expect(stage.raft.deadline == nil)
    }

    @Test("but it votes: its vote may be the one that its cluster needs")
    func outsiderVotes() {
        var stage = Stage(members: [b, c])
        #expect(stage.hearVote(from: b, term: 1, last: .zero).voteReply?.granted == true)
    }
}

@Suite("§6 and dissertation §4.3 Joint consensus")
struct JointConsensusTests {
    /// From a, b, c to a, d, e, in the joint stage.
    private func joint() -> Stage {
        var stage = Stage.settled(neighbours: [d, e])
        stage.change(to: [a, d, e])
        stage.gainSupport(from: [d, e])
        for newcomer in [d, e] { stage.answer(stage.ticket(after: 0, count: 1), from: newcomer) }
        stage.persist()
        return stage
    }

    @Test("the joint configuration commits only with a majority of each")
    func bothMajorities() {
        for (answering, commits) in [([b, c], false), ([d, e], false), ([b, d], true)] as [([PeerID], Bool)] {
            var stage = joint()
            #expect(stage.raft.configuration == voters([a, d, e], old: [a, b, c]))
            for peer in answering { stage.answer(stage.ticket(after: 1, count: 1), from: peer) }
            #expect((stage.raft.commitIndex == index(2)) == commits, "\(answering)")
        }
    }

    @Test("a voter of both configurations counts in each")
    func countsTwice() {
        var stage = Stage.settled(members: [a, b, c, d])
        stage.change(to: [a, b])
        stage.persist()
        stage.answer(stage.ticket(after: 1, count: 1), from: b)
        #expect(stage.raft.commitIndex == index(1), "two of four are no majority")
        stage.answer(stage.ticket(after: 1, count: 1), from: c)
        #expect(stage.raft.commitIndex == index(2))
    }

    @Test("reads, support and leases need both majorities as well")
    func everythingNeedsBoth() {
        var stage = joint()
        for peer in [b, d] { stage.answer(stage.ticket(after: 1, count: 0), from: peer) }
        let ticket = stage.step(.readRequested(1, lease: false)).appends(to: d)[0]
        stage.answer(ticket, from: d)
        #expect(stage.answer(ticket, from: e).readyReads.isEmpty)
        #expect(stage.answer(ticket, from: b).readyReads.map(\.read) == [1])
    }

    @Test("once the joint stage is committed the leader goes on to the new configuration by itself, and answers then")
    func goesOn() {
        var stage = joint()
        for peer in [b, d] { stage.answer(stage.ticket(after: 1, count: 1), from: peer) }
        #expect(stage.raft.configuration == voters([a, d, e]) && stage.outcomes.isEmpty)
        stage.persist()
        stage.catchUp([b, c])
        #expect(stage.raft.commitIndex == index(2), "the old ones count no more")
        stage.catchUp([d])
        #expect(stage.outcomes == [.done(index(3))])
    }

    @Test("a new leader completes the joint stage that it inherits, without being asked, and answers nobody")
    func inherited() {
        var stage = Stage(terms: [1], neighbours: [d, e])
        stage.raft.adopt(PlacedConfiguration(index: index(1), configuration: voters([a, d, e], old: [a, b, c])))
        stage.reachDeadline()
        stage.answerVotes([b, d])
        stage.answerVotes([b, d])
        #expect(stage.raft.isLeader && stage.raft.isChangingMembership)
        stage.gainSupport(from: [b, c, d, e])
        stage.persist()
        stage.catchUp([b, d])
        #expect(stage.raft.configuration == voters([a, d, e]))
        stage.persist()
        stage.catchUp([d])
        #expect(!stage.raft.isChangingMembership && stage.outcomes.isEmpty && stage.raft.isLeader)
    }

    @Test("a hand-over and a change exclude each other")
    func transfer() {
        var changing = joint()
        changing.step(.transferRequested(b))
        #expect(!changing.raft.isTransferring)
        var transferring = Stage.settled()
        transferring.step(.transferRequested(b))
        transferring.change(to: [a, b])
        #expect(transferring.outcomes == [.refused(.busy)])
    }

    @Test("a change that finds no majority ends with the leadership, as unknown")
    func stalls() {
        var stage = joint()
        stage.wait(milliseconds: 2100, supportedBy: [b, c, d, e])
        stage.step(.deadlineReached)
        #expect(!stage.raft.isLeader && stage.outcomes == [.unknown])
    }
}

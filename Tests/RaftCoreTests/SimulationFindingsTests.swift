import Testing

@testable import RaftCore

extension Stage {
    /// A replica before its start, of a group whose members are others than those whose nodes it knows.
    fileprivate init(_ configuration: Configuration, knowing nodes: [PeerID], settings: RaftSettings = RaftSettings()) {
        self.init(members: nodes, settings: settings, starts: false)
        raft.configurations = [PlacedConfiguration(index: .zero, configuration: configuration)]
        raft.configuration = configuration
        step(.started)
    }

    /// Leads, supported by `voters`, who hold its first entry.
    fileprivate mutating func settle(with voters: [PeerID]) {
        lead(with: [voters[0]])
        gainSupport(from: voters)
        persist()
        for peer in voters {
            for next in answer(ticket(after: 0, count: 1), from: peer).appends(to: peer) { answer(next, from: peer) }
        }
    }
}

extension Effects {
    fileprivate func releases(to peer: PeerID) -> Int {
        messages.count {
            if case .release = $0.body { return $0.to == peer }
            return false
        }
    }
}

/// Each was found by a seed of a simulated cluster.
@Suite("What simulated clusters have found")
struct SimulationFindingsTests {
    @Test("a follower whose full window lags behind a compaction gets a snapshot")
    func compactionBeyondWindow() {
        var settings = RaftSettings()
        settings.maxEntriesPerAppend = 1
        settings.maxEntriesInFlight = 1
        var stage = Stage(settings: settings)
        stage.settle(with: [b, c])
        stage.step(.proposed(count: 3))
        stage.persist()
        for previous in 1..<4 { stage.answer(stage.ticket(after: Int64(previous), count: 1), from: b) }
        #expect(stage.raft.commitIndex == index(4))
        let effects = stage.step(.compacted(through: index(4)))
        #expect(effects.messages.contains(Outbound(to: c, body: .snapshot(stage.raft.term))))
    }

    @Test("a newcomer votes only once its node supports the leader, which else might lose its majority")
    func newcomerSupports() {
        let target = Configuration(peers: [a, c])
        var stage = Stage(Configuration(peers: [a, b]), knowing: [a, b, c])
        stage.settle(with: [b])
        let tickets = stage.step(.membershipRequested(1, target)).appends(to: c)
        #expect(stage.answer(tickets[0], from: c).logChange == nil)
        stage.gainSupport(from: [b, c])
        #expect(stage.raft.configuration.oldPeers == [a, b])
    }

    @Test("a sole voter sends nothing in a term that a crash could wipe out")
    func soleVoterWaits() {
        var stage = Stage(Configuration(peers: [a], learners: [b]), knowing: [a, b])
        let effects = stage.reachDeadline()
        #expect(stage.raft.isLeader && effects.messages.isEmpty && effects.durableMessages.count == 1)
        stage.gainSupport(from: [b])
        stage.persist()
        #expect(!stage.answer(stage.ticket(after: 0, count: 1), from: b).messages.isEmpty)
    }

    @Test("§4.2.2: whoever is about to leave campaigns until that is committed", arguments: [0, 1])
    func leaverCampaigns(commit: Int64) {
        var stage = Stage(members: [a, b])
        let leaving = PlacedConfiguration(index: index(1), configuration: Configuration(peers: [b]))
        stage.receive(
            .appendRequest(
                AppendRequest(
                    term: Term(1), previous: .zero, entries: [EntryHeader(term: Term(1), kind: .configuration)],
                    configurations: [leaving], commit: index(commit))), from: b)
        stage.receive(.releaseRequest(ReleaseRequest(term: Term(1))), from: b)
        #expect((stage.raft.deadline != nil) == (commit == 0))
    }

    @Test("a leader that lost its support releases whoever supports it again: that promise may never have ended")
    func releaseAfterLapse() {
        var stage = Stage()
        stage.settle(with: [b, c])
        stage.wait(milliseconds: 2000)
        #expect(stage.step(.livenessChanged(b.address)).releases(to: b) == 0)
        #expect(!stage.raft.isLeader)
        stage.gainSupport(from: [b])
        #expect(stage.reachDeadline().releases(to: b) == 1)
        stage.receive(.releaseReply(ReleaseReply(term: stage.raft.term)), from: b)
        stage.gainSupport(from: [b])
        #expect(stage.reachDeadline().releases(to: b) == 0)
    }

    @Test("what a leader said before its release does not bind anybody when it arrives after")
    func lateAppend() {
        var stage = Stage()
        stage.promise(to: b)
        stage.hear(from: b, term: 1, terms: [1])
        stage.receive(.releaseRequest(ReleaseRequest(term: Term(1))), from: b)
        #expect(stage.hear(from: b, term: 1, after: (1, 1), terms: [1]).appendReply?.success == false)
        #expect(stage.raft.leader == nil && stage.raft.pledge == nil)
        #expect(stage.hear(from: b, term: 2, after: (1, 1), terms: [2]).appendReply?.success == true)
    }

    @Test("what a leader said before it died binds nobody to the next run of its node, which would not end that")
    func lateAppendOfFormerRun() {
        var stage = Stage()
        stage.promise(to: b)
        stage.hear(from: b, term: 1, terms: [1])
        #expect(stage.raft.deadline == nil)
        stage.promise(to: b, run: 2)
        stage.step(.livenessChanged(b.address))
        stage.hear(from: b, term: 1, after: (1, 1), terms: [1])
        #expect(stage.raft.deadline != nil)
        #expect(
            stage.hearVote(from: c, term: 2, last: position(2, term: 1), isPreVote: true).voteReply?.granted == true)
    }
}

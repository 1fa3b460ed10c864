import Testing

@testable import RaftCore
@testable import Simulator

@Suite("MIT 6.5840, 3B: the log")
struct LabAgreementTests {
    private let pause = LabCluster.electionTime

    @Test("basic agreement", arguments: LabCluster.seeds)
    func basicAgree(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        for number in 1...3 {
            #expect(lab.commands.count == number - 1, "committed before it was started")
            let index = try lab.one(UInt64(number) * 100, 3)
            #expect(lab.ordinal(of: index) == number)
        }
    }

    @Test("RPC byte count", arguments: LabCluster.seeds)
    func byteCount(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(99, 3)
        let before = lab.traffic.bytes
        var sent = 0
        for _ in 0..<10 {
            try lab.one(lab.anyCommand(), size: 5000, 3)
            sent += 5000
        }
        let used = lab.traffic.bytes - before
        #expect(used <= 3 * sent + 50_000, "the lab's bound: once to each server")
        // ours: once to each of the others, and what frames a command costs
        #expect(used <= 2 * sent + 10 * 1200, "\(used)")
    }

    @Test("progressive failure of followers", arguments: LabCluster.seeds)
    func followerFailure(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(101, 3)
        let first = try lab.oneLeader()
        lab.disconnect(lab.next(first))
        try lab.one(102, 2)
        lab.sleep(pause)
        try lab.one(103, 2)
        let second = try lab.oneLeader()
        lab.disconnect(lab.next(second), lab.next(second, 2))
        let index = try lab.mustStart(104, at: second)
        lab.sleep(2 * pause)
        #expect(lab.committed(index) == 0, "committed without a majority")
    }

    @Test("failure of leaders", arguments: LabCluster.seeds)
    func leaderFailure(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(101, 3)
        lab.disconnect(try lab.oneLeader())
        try lab.one(102, 2)
        lab.sleep(pause)
        try lab.one(103, 2)
        lab.disconnect(try lab.oneLeader())
        for server in lab.servers { lab.start(104, at: server) }
        lab.sleep(2 * pause)
        #expect(lab.commands == [101, 102, 103], "committed without a majority")
    }

    @Test("agreement after follower reconnects", arguments: LabCluster.seeds)
    func failAgree(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(101, 3)
        let follower = lab.next(try lab.oneLeader())
        lab.disconnect(follower)
        try lab.one(102, 2)
        try lab.one(103, 2)
        lab.sleep(pause)
        try lab.one(104, 2)
        try lab.one(105, 2)
        lab.connect(follower)
        try lab.one(106, 3, retry: true)
        lab.sleep(pause)
        try lab.one(107, 3, retry: true)
    }

    @Test("no agreement if too many followers disconnect", arguments: LabCluster.seeds)
    func failNoAgree(seed: UInt64) throws {
        var lab = LabCluster(servers: 5, seed: seed)
        try lab.one(10, 5)
        let first = try lab.oneLeader()
        for distance in 1...3 { lab.disconnect(lab.next(first, distance)) }
        let lost = try lab.mustStart(20, at: first)
        lab.sleep(2 * pause)
        #expect(lab.committed(lost) == 0, "committed without a majority")
        for distance in 1...3 { lab.connect(lab.next(first, distance)) }
        // the three may have chosen a leader of their own, which then does not have the lost command
        let second = try lab.oneLeader()
        let index = try lab.mustStart(30, at: second)
        try lab.wait(index, 5)
        #expect([2, 3].contains(lab.ordinal(of: index)))
        try lab.one(1000, 5, retry: true)
    }

    @Test("concurrent starts", arguments: LabCluster.seeds)
    func concurrentStarts(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        // another attempt if the leader changes in between
        for attempt in 0..<5 {
            if attempt > 0 { lab.sleep(3000) }
            let leader = try lab.oneLeader()
            let term = lab.term(of: leader)
            guard lab.start(1, at: leader) != nil else { continue }
            let started = (0..<5).map { (command: UInt64(100 + $0), index: lab.start(UInt64(100 + $0), at: leader)) }
            guard lab.term(of: leader) == term, let last = started.last?.index else { continue }
            try lab.wait(last, 3)
            guard lab.term(of: leader) == term else { continue }
            for (command, index) in started { #expect(lab.command(at: try #require(index)) == command) }
            return
        }
        Issue.record("the leader keeps changing")
    }

    @Test("rejoin of partitioned leader", arguments: LabCluster.seeds)
    func rejoin(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        try lab.one(101, 3)
        let first = try lab.oneLeader()
        lab.disconnect(first)
        for command in 102...104 { lab.start(UInt64(command), at: first) }
        try lab.one(103, 2, retry: true)
        let second = try lab.oneLeader()
        lab.disconnect(second)
        lab.connect(first)
        try lab.one(104, 2, retry: true)
        lab.connect(second)
        try lab.one(105, 3, retry: true)
        #expect(lab.commands == [101, 103, 104, 105])
    }

    @Test("leader backs up quickly over incorrect follower logs", arguments: LabCluster.seeds)
    func backup(seed: UInt64) throws {
        var lab = LabCluster(servers: 5, seed: seed)
        try lab.one(lab.anyCommand(), 5)
        // a leader and one follower get fifty commands that nobody else hears of
        let first = try lab.oneLeader()
        let (partner, others) = (lab.next(first), [2, 3, 4].map { lab.next(first, $0) })
        for server in others { lab.disconnect(server) }
        for _ in 0..<50 { lab.start(lab.anyCommand(), at: first) }
        lab.sleep(pause / 2)
        // the other three agree on fifty others
        lab.disconnect(first, partner)
        for server in others { lab.connect(server) }
        for _ in 0..<50 { try lab.one(lab.anyCommand(), 3, retry: true) }
        // two of those get fifty more that the third does not hear of
        let second = try lab.oneLeader()
        let spare = others[0] == second ? others[1] : others[0]
        lab.disconnect(spare)
        for _ in 0..<50 { lab.start(lab.anyCommand(), at: second) }
        lab.sleep(pause / 2)
        // the third and the first two agree on fifty more
        for server in lab.servers { lab.disconnect(server) }
        lab.connect(first, partner, spare)
        let before = lab.traffic.requests
        for _ in 0..<50 { try lab.one(lab.anyCommand(), 3, retry: true) }
        // fifty entries in conflict cost no fifty messages: backing up goes by terms
        #expect(lab.traffic.requests - before <= 50 * 4 + 60, "\(lab.traffic.requests - before)")
        for server in lab.servers { lab.connect(server) }
        try lab.one(lab.anyCommand(), 5, retry: true)
        #expect(lab.commands.count == 102)
    }

    @Test("RPC counts aren't too high", arguments: LabCluster.seeds)
    func counts(seed: UInt64) throws {
        var lab = LabCluster(servers: 3, seed: seed)
        let leader = try lab.oneLeader()
        let election = lab.traffic.requests
        #expect((1...30).contains(election), "the lab's bound for the initial election")
        // ours: two pre-votes and two votes, then an entry, its commit index and a new promise for each of the others
        #expect(election <= 16, "\(election)")

        let term = lab.term(of: leader)
        let before = lab.traffic.requests
        let indexes = (0..<11).map { lab.start(UInt64($0) + 1, at: leader) }
        try lab.wait(try #require(indexes[10]), 3)
        #expect(lab.term(of: leader) == term, "a leader was replaced for no reason")
        for (offset, index) in indexes.enumerated() {
            #expect(lab.command(at: try #require(index)) == UInt64(offset) + 1)
        }
        let agreement = lab.traffic.requests - before
        #expect(agreement <= (10 + 1 + 3) * 3, "the lab's bound for ten commands")
        #expect(agreement <= 11 * 2 + 12, "ours: an append to each of the others for each, and news of commits")

        lab.sleep(pause)
        let rest = (group: lab.traffic.requests, nodes: lab.traffic.livenessRequests)
        lab.sleep(pause)
        let idle = lab.traffic.requests - rest.group
        let liveness = lab.traffic.livenessRequests - rest.nodes
        #expect(idle + liveness <= 3 * 20, "the lab's bound for a second of idleness")
        #expect(idle == 0, "ours: a group at rest says nothing")
        #expect(liveness <= 3 * 2 * 6, "ours: five times a second each node asks each, for all groups together")
    }
}

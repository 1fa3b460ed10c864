import RaftCore
import ShardMap
import Testing

import struct ShardServer.ClusterLoad
import struct ShardServer.DrainProgress
import struct ShardServer.Scheduler
import enum ShardServer.StopSafety

/// A small cluster told by hand: nodes 1…n, groups by the nodes of their members, the first of which leads.
struct Told {
    var map = ClusterMap(clusterID: 1, version: 1, nodes: [], groups: [], shards: [])
    var load = ClusterLoad()

    init(zones: [String], groups: [[UInt64]], shards: [(group: Int, operations: Double, mebibytes: UInt64)] = []) {
        for (index, zone) in zones.enumerated() {
            let id = UInt64(index + 1)
            map.nodes.append(Node(id: id, address: Told.address(id), incarnation: id, zone: zone))
            load.nodes.append(ClusterLoad.NodeLoad(node: id, isUp: true, lastHeard: nil))
        }
        for (index, members) in groups.enumerated() {
            let name = index == 0 ? ClusterMap.controllerGroup : "g\(index)"
            let peers = members.map { PeerID(address: Told.address($0)) }
            map.groups.append(Group(id: name, peers: peers, isBorn: true))
            load.groups.append(ClusterLoad.GroupLoad(group: name, leader: peers.first, caughtUp: peers, bytes: 1))
        }
        for (index, shard) in shards.enumerated() {
            let start = index == 0 ? Bytes() : SimulatedCluster.key(index << 8)
            let end = index == shards.count - 1 ? Bytes() : SimulatedCluster.key((index + 1) << 8)
            let id = UInt64(index + 1)
            map.shards.append(
                Shard(id: id, range: KeyRange(start: start, end: end), group: "g\(shard.group)", epoch: 1))
            load.shards.append(
                ClusterLoad.ShardLoad(
                    shard: id, bytes: shard.mebibytes << 20, operationsPerSecond: shard.operations,
                    splitKey: SimulatedCluster.key(index << 8 + 1)))
        }
    }

    static func address(_ node: UInt64) -> NodeAddress { NodeAddress(ip: 0x7f00_0001, port: UInt16(7000 + node)) }

    mutating func stop(_ node: UInt64) {
        load.nodes[Int(node - 1)].isUp = false
        for index in load.groups.indices {
            load.groups[index].caughtUp.removeAll { $0.address == Told.address(node) }
            if load.groups[index].leader?.address == Told.address(node) {
                load.groups[index].leader = load.groups[index].caughtUp.first
            }
        }
    }

    /// What an experienced scheduler decides: one that looks again after `minutes` in which nothing happened.
    func decisions(
        after minutes: Int = 6, pending: [ClusterOperation] = [], _ scheduler: inout Scheduler
    ) -> [Scheduler.Decision] {
        _ = scheduler.decide(map, pending: [], load: load, now: Instant(nanoseconds: 0))
        return scheduler.decide(
            map, pending: pending, load: load, now: Instant(nanoseconds: 0) + .milliseconds(minutes * 60_000))
    }

    func decisions(after minutes: Int = 6, pending: [ClusterOperation] = []) -> [Scheduler.Decision] {
        var scheduler = Scheduler()
        return decisions(after: minutes, pending: pending, &scheduler)
    }

    /// Who leaves a group, and who comes.
    static func swap(_ decision: Scheduler.Decision?) -> String? {
        guard case .begin(.changePeers(let change), _)? = decision else { return nil }
        let leavers = change.from.filter { !change.to.contains($0) }.map { $0.address.port - 7000 }
        let newcomers = change.to.filter { !change.from.contains($0) }.map { $0.address.port - 7000 }
        return "\(change.group) \(leavers)→\(newcomers)"
    }
}

@Suite("The scheduler's rules")
struct SchedulerRuleTests {
    @Test("1: a draining node gives its leadership away, then its replica")
    func drain() {
        var told = Told(zones: ["a", "b", "c", "c", "a"], groups: [[1, 2, 3]])
        told.map.nodes[0].isDraining = true
        guard case .transfer(_, let heir, let reason)? = told.decisions(after: 1).first else {
            Issue.record("no transfer")
            return
        }
        #expect(heir.address == Told.address(2))
        #expect(reason.hasPrefix("drain: node 1 is draining: the leadership of group controller goes to node 2"))
        told.load.groups[0].leader = heir
        // node 4 is in the zone of node 3
        #expect(told.decisions(after: 1).map { Told.swap($0) } == ["controller [1]→[5]"])
    }

    @Test("1: the replica goes as soon as another one leads, or after a while from under its leader")
    func drainWithoutDelay() {
        var told = Told(zones: ["a", "b", "c", "c", "a"], groups: [[1, 2, 3]])
        told.map.nodes[0].isDraining = true
        var scheduler = Scheduler()
        guard case .transfer(_, let heir, _)? = told.decisions(after: 1, &scheduler).first else {
            Issue.record("no transfer")
            return
        }
        func swaps(_ seconds: Int, _ scheduler: inout Scheduler) -> [String?] {
            let now = Instant(nanoseconds: 0) + .milliseconds(60_000 + 1000 * seconds)
            return scheduler.decide(told.map, pending: [], load: told.load, now: now).map { Told.swap($0) }
        }
        #expect(swaps(3, &scheduler).isEmpty, "it is on its way")
        var stuck = scheduler
        #expect(swaps(29, &stuck).isEmpty)
        #expect(swaps(31, &stuck) == ["controller [1]→[5]"])
        told.load.groups[0].leader = heir
        #expect(swaps(6, &scheduler) == ["controller [1]→[5]"])
    }

    @Test("1: what cannot leave a draining node is told, with what is in the way")
    func blocked() {
        var told = Told(zones: ["", "", ""], groups: [[2, 3, 1]])
        told.map.nodes[0].isDraining = true
        var scheduler = Scheduler()
        #expect(told.decisions(after: 1, &scheduler).isEmpty)
        #expect(scheduler.blocked.map(\.node) == [1])
        #expect(scheduler.blocked[0].reason.hasSuffix("without a replica of it; start another node"))
        told.stop(2)
        told.stop(3)
        #expect(told.decisions(after: 1, &scheduler).isEmpty)
        #expect(scheduler.blocked.first?.reason.contains("1 of its 3 voters are up") == true)
    }

    @Test("2: a node is replaced after 30 minutes of silence, not before, and not without a quorum")
    func repair() {
        var told = Told(zones: ["", "", "", ""], groups: [[1, 2, 3]])
        told.stop(3)
        #expect(told.decisions(after: 30).isEmpty)
        #expect(told.decisions(after: 31).map { Told.swap($0) } == ["controller [3]→[4]"])
        told.stop(2)
        #expect(told.decisions(after: 31).isEmpty)
    }

    @Test("3: two members in one zone are separated")
    func zones() {
        #expect(
            Told(zones: ["a", "a", "b", "c"], groups: [[1, 2, 3]]).decisions().map { Told.swap($0) }
                == ["controller [2]→[4]"])
        #expect(Told(zones: ["a", "a", "b", "a"], groups: [[1, 2, 3]]).decisions().isEmpty)
    }

    @Test("4: replicas are spread, but not at the expense of zones")
    func replicas() {
        let groups: [[UInt64]] = [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
        #expect(Told(zones: ["", "", "", ""], groups: groups).decisions().count == 2)
        #expect(Told(zones: ["a", "b", "c", "a"], groups: groups).decisions().map { Told.swap($0) } == ["g1 [1]→[4]"])
        #expect(Told(zones: ["", "", "", ""], groups: [[1, 2, 3]]).decisions().isEmpty)
    }

    @Test("5: leaderships are spread")
    func leaders() {
        let decisions = Told(zones: ["", "", ""], groups: Array(repeating: [1, 2, 3], count: 6)).decisions()
        let heirs = decisions.compactMap { decision in
            if case .transfer(_, let heir, _) = decision { heir.address.port - 7000 } else { nil }
        }
        #expect(heirs == [2, 3, 2, 3])
        #expect(Told(zones: ["", "", ""], groups: [[1, 2, 3], [2, 3, 1]]).decisions().isEmpty)
    }

    @Test("6: a large or hot shard is split at the key its leader proposes, if there is one")
    func split() {
        var told = Told(zones: [""], groups: [[1], [1]], shards: [(1, 0, 1025), (1, 10, 10)])
        guard case .begin(.split(let split), let reason)? = told.decisions().first else {
            Issue.record("no split")
            return
        }
        #expect(split.shard == 1)
        #expect(reason == "split: shard 1 has 1025 MiB and 0 operations per second")
        told.load.shards[0].bytes = 0
        told.load.shards[0].operationsPerSecond = 20_001
        #expect(told.decisions().count == 1)
        told.load.shards[0].splitKey = nil
        #expect(told.decisions().isEmpty)
    }

    @Test("7: a shard goes from the most to the least loaded group, if that helps")
    func load() {
        let told = Told(
            zones: [""], groups: [[1], [1], [1]], shards: [(1, 4000, 100), (1, 3000, 100), (2, 100, 100)])
        guard case .begin(.move(let move), _)? = told.decisions().first else {
            Issue.record("no move")
            return
        }
        #expect(move.shard == 2 && move.destination == "g2")
        // moving the only loaded shard moves the load, and lowers nothing
        #expect(
            Told(zones: [""], groups: [[1], [1], [1]], shards: [(1, 9000, 100), (2, 100, 100)]).decisions().isEmpty)
        // idle shards are spread by their number
        #expect(
            Told(zones: [""], groups: [[1], [1], [1]], shards: [(1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0)])
                .decisions().count == 1)
    }

    @Test("Numbers beyond all reason are counted with, too", arguments: [Double.nan, .infinity, -.infinity, 1e300])
    func nonsense(_ operations: Double) {
        let told = Told(
            zones: [""], groups: [[1], [1], [1]], shards: [(1, operations, 1 << 43), (1, operations, 0), (2, 0, 0)])
        #expect(!told.decisions().isEmpty)
    }

    @Test("A node that is a guest of another program's group gets no member of the group of that name")
    func guests() {
        var told = Told(zones: ["", "", "", "", ""], groups: [[2, 3, 5], [1, 2, 3]])
        told.stop(3)
        told.load.nodes[3].guests = ["controller", "g1"]
        #expect(told.decisions(after: 31).map { Told.swap($0) } == ["controller [3]→[1]", "g1 [3]→[5]"])
        told.load.nodes[0].guests = ["controller"]
        var scheduler = Scheduler()
        #expect(told.decisions(after: 31, &scheduler).map { Told.swap($0) } == ["g1 [3]→[5]"])
        #expect(
            scheduler.blocked.map(\.group) == ["controller"]
                && scheduler.blocked[0].reason.contains("or of another program's group of that name"))
        // nor for balance
        var crowded = Told(zones: ["", "", "", ""], groups: [[1, 2, 3], [2, 3, 1], [3, 1, 2]])
        #expect(crowded.decisions().count == 2)
        crowded.load.nodes[3].guests = ["controller", "g1", "g2"]
        #expect(crowded.decisions().isEmpty)
    }

    @Test("A foreign member counts where its group's leader is in touch with it, leads nothing, and is left alone")
    func foreignMembers() {
        let braft = PeerID(address: NodeAddress(ip: 0x7f00_0001, port: 9000), idx: 2)
        /// g1 … have a foreign member each.
        func world(nodes: Int, _ groups: [[UInt64]], isInTouch: Bool = true) -> Told {
            var told = Told(zones: Array(repeating: "", count: nodes), groups: groups)
            for group in 1..<groups.count {
                told.map.groups[group].peers.append(braft)
                if isInTouch { told.load.groups[group].caughtUp.append(braft) }
            }
            return told
        }
        func swaps(_ told: Told, _ minutes: Int = 6) -> [String?] {
            told.decisions(after: minutes).map { Told.swap($0) }
        }
        // members do not change for balance alone
        let crowded: [[UInt64]] = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
        #expect(swaps(world(nodes: 4, crowded)) == ["controller [3]→[4]"])
        // leaders are spread, among the nodes
        let led = world(nodes: 3, Array(repeating: [1, 2, 3], count: 6))
        let heirs = led.decisions().compactMap { decision in
            if case .transfer(_, let heir, _) = decision { heir.address.port - 7000 } else { nil }
        }
        #expect(heirs == [2, 3, 2, 3])
        // but not where the foreign member is out of touch: its group has lost a failure it could bear
        let silent = world(nodes: 3, Array(repeating: [1, 2, 3], count: 6), isInTouch: false)
        #expect(!silent.decisions().contains { if case .transfer("g1", _, _) = $0 { true } else { false } })
        // a node that is gone is replaced, with the foreign member for the majority
        var gone = world(nodes: 5, [[3, 4, 5], [1, 2]])
        gone.stop(2)
        #expect(swaps(gone, 31) == ["g1 [2]→[3]"])
        var lonely = world(nodes: 5, [[3, 4, 5], [1, 2]], isInTouch: false)
        lonely.stop(2)
        var scheduler = Scheduler()
        #expect(lonely.decisions(after: 31, &scheduler).isEmpty)
        #expect(scheduler.blocked.first?.reason.contains("1 of its 3 voters are up") == true)
        // shards come and go as elsewhere
        var loaded = Told(
            zones: [""], groups: [[1], [1], [1]], shards: [(1, 4000, 100), (1, 3000, 100), (2, 100, 100)])
        loaded.map.groups[2].peers.append(braft)
        loaded.load.groups[2].caughtUp.append(braft)
        guard case .begin(.move(let move), _)? = loaded.decisions().first else {
            Issue.record("no move")
            return
        }
        #expect(move.shard == 2 && move.destination == "g2")
    }

    @Test("8: with rebalancing off nodes are emptied, and nothing is spread")
    func off() {
        var told = Told(zones: ["", "", "", ""], groups: [[2, 1, 3], [2, 3, 1], [3, 1, 2]])
        var scheduler = Scheduler(rebalancing: .off)
        #expect(told.decisions(&scheduler).isEmpty)
        told.map.nodes[0].isDraining = true
        #expect(told.decisions(after: 7, &scheduler).count == 3)
    }

    @Test("8: once ends when nothing is left to do")
    func once() {
        var scheduler = Scheduler(rebalancing: .once)
        let told = Told(zones: ["", "", "", ""], groups: [[1, 2, 3], [2, 3, 1], [3, 1, 2]])
        #expect(!told.decisions(&scheduler).isEmpty)
        #expect(scheduler.rebalancing == .once)
        let spread = Told(zones: ["", "", "", ""], groups: [[1, 2, 3], [2, 3, 4], [3, 4, 1], [4, 1, 2]])
        #expect(spread.decisions(after: 12, &scheduler).isEmpty)
        #expect(scheduler.rebalancing == .off)
    }

    @Test("10: operations under way count, and what they will bring about is not ordered again")
    func limits() {
        var told = Told(zones: ["", "", "", "", "", ""], groups: Array(repeating: [2, 3, 1], count: 9))
        told.map.nodes[0].isDraining = true
        #expect(told.decisions(after: 1).count == 4)
        let change = ChangePeersOperation(
            group: "g5", from: told.map.groups[5].peers, to: [2, 3, 6].map { PeerID(address: Told.address($0)) })
        let pending = [ClusterOperation(id: 7, kind: .changePeers(change), begunMilliseconds: 0)]
        let swaps = told.decisions(after: 1, pending: pending).compactMap { Told.swap($0) }
        #expect(swaps == ["controller [1]→[4]", "g1 [1]→[5]", "g2 [1]→[4]"])
    }

    @Test("13: what was ordered and never seen is ordered again after half a minute")
    func retry() {
        var told = Told(zones: ["", "", "", ""], groups: [[2, 3, 1]])
        told.map.nodes[0].isDraining = true
        var scheduler = Scheduler()
        let first = told.decisions(after: 1, &scheduler)
        #expect(first.count == 1)
        func look(_ seconds: Int) -> [Scheduler.Decision] {
            scheduler.decide(
                told.map, pending: [], load: told.load, now: Instant(nanoseconds: 0) + .milliseconds(seconds * 1000))
        }
        #expect(look(89).isEmpty)
        #expect(look(91) == first)
    }

    @Test("14: nothing is decided right after a start")
    func settle() {
        var told = Told(zones: ["", "", "", ""], groups: [[2, 3, 1]])
        told.map.nodes[0].isDraining = true
        var scheduler = Scheduler()
        #expect(scheduler.decide(told.map, pending: [], load: told.load, now: Instant(nanoseconds: 0)).isEmpty)
        #expect(Told(zones: ["a", "a", "b", "c"], groups: [[1, 2, 3]]).decisions(after: 4).isEmpty)
    }
}

@Suite("Stopping a node")
struct StopSafetyTests {
    @Test func isSafeWhileTheOthersAreAMajorityThatIsCaughtUp() {
        var told = Told(zones: ["", "", ""], groups: [[1, 2, 3], [2]])
        #expect(StopSafety.reasonsNotToStop(1, told.map, told.load).isEmpty)
        #expect(
            StopSafety.reasonsNotToStop(2, told.map, told.load) == ["node 2 has the only copy of group g1"])
        told.load.groups[0].caughtUp.removeAll { $0.address == Told.address(3) }
        #expect(
            StopSafety.reasonsNotToStop(1, told.map, told.load) == [
                "group controller would lose its quorum: 1 of its 3 voters would be up and caught up, and it needs 2"
            ])
        #expect(StopSafety.reasonsNotToStop(3, told.map, told.load).isEmpty)
        #expect(StopSafety.reasonsNotToStop(9, told.map, told.load).count == 1)
    }

    @Test func whatNobodyTellsOfCountsAsLost() {
        var told = Told(zones: ["", "", ""], groups: [[1, 2, 3]])
        told.load.groups = []
        #expect(StopSafety.reasonsNotToStop(1, told.map, told.load).count == 1)
    }

    @Test func membersToBeCountWhileTheyChange() {
        var told = Told(zones: ["", "", "", "", ""], groups: [[1, 2, 3]])
        told.map.groups[0].joining = [1, 4, 5].map { PeerID(address: Told.address($0)) }
        #expect(StopSafety.reasonsNotToStop(4, told.map, told.load).count == 1)
        told.load.groups[0].caughtUp += told.map.groups[0].joining
        #expect(StopSafety.reasonsNotToStop(4, told.map, told.load).isEmpty)
    }

    @Test func foreignMembersCountForTheMajorityAndServeNobody() {
        let braft = PeerID(address: NodeAddress(ip: 0x7f00_0001, port: 9000), idx: 2)
        var told = Told(zones: ["", "", ""], groups: [[1, 2, 3], [1, 2]])
        told.map.groups[1].peers.append(braft)
        let lost = "group g1 would lose its quorum: 1 of its 3 voters would be up and caught up, and it needs 2"
        #expect(StopSafety.reasonsNotToStop(1, told.map, told.load) == [lost], "it is out of touch")
        told.load.groups[1].caughtUp.append(braft)
        #expect(StopSafety.reasonsNotToStop(1, told.map, told.load).isEmpty)
        told.map.groups[1].peers.removeAll { $0.address == Told.address(2) }
        #expect(StopSafety.reasonsNotToStop(1, told.map, told.load) == ["node 1 has the only copy of group g1"])
    }

    @Test func witnessesDoNotLead() {
        var told = Told(zones: ["", "", ""], groups: [[1, 2, 3]])
        let peers = [
            PeerID(address: Told.address(1)), PeerID(address: Told.address(2), role: .witness),
            PeerID(address: Told.address(3), role: .witness),
        ]
        told.map.groups[0].peers = peers
        #expect(StopSafety.reasonsNotToStop(1, told.map, told.load) == ["node 1 has the only copy of group controller"])
        #expect(StopSafety.reasonsNotToStop(2, told.map, told.load).isEmpty)
    }

    @Test func progressOfADrain() {
        var told = Told(zones: ["", "", "", ""], groups: [[1, 2, 3], [2, 1, 3]])
        told.map.nodes[0].isDraining = true
        let change = ChangePeersOperation(
            group: "g1", from: told.map.groups[1].peers, to: [2, 4, 3].map { PeerID(address: Told.address($0)) })
        let pending = [ClusterOperation(id: 7, kind: .changePeers(change), begunMilliseconds: 0)]
        let progress = DrainProgress(of: 1, told.map, pending: pending, load: told.load, blocked: [])
        #expect(progress.replicas == ["controller", "g1"] && progress.leaderships == ["controller"])
        #expect(progress.operations == [7] && !progress.isDone)
        #expect(DrainProgress(of: 4, told.map, pending: [], load: told.load, blocked: []).isDone)
    }
}

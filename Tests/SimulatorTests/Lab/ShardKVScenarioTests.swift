import RaftCore
import ShardMap
import Testing

@testable import Simulator

/// The scenarios of the shardkv lab of MIT 6.5840, by the names they have there. ``ShardLab`` says how its groups are
/// ours, and what every one of them is judged by.
@Suite("MIT 6.5840: sharded key-value service")
struct ShardKVScenarioTests {
    @Test("basic", arguments: ShardLab.seeds) func basic(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, groups: ["a"])
        lab.join("a")
        try lab.settle()
        #expect(lab.slots(of: "a").count == ShardLab.shards)
        try lab.expectService()
        lab.beginClients()
        try lab.sleep(1000)
        try lab.stopClients()
        #expect(lab.simulation.keys.answered > 200)
        try lab.end()
    }

    @Test("multiple groups join and leave at once", arguments: ShardLab.seeds) func multi(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed)
        try lab.expectService()
        lab.join("a", "b", "c")
        try lab.settle()
        try lab.expectService()
        lab.leave("a", "c")
        try lab.settle()
        #expect(lab.slots(of: "b").count == ShardLab.shards)
        try lab.expectService()
        try lab.end()
    }

    /// The keys of a group that is gone wait for it, the others do not.
    @Test("static shards", arguments: ShardLab.seeds) func staticShards(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, groups: ["a", "b"])
        lab.join("a", "b")
        try lab.settle()
        try lab.expectService()
        lab.shutDown(lab.nodes(of: "b"))
        let reads = lab.reads()
        try lab.sleep(2000)
        #expect(lab.slots(of: "a").count == ShardLab.shards / 2)
        for slot in ShardLab.slots { #expect(reads[slot].isAnswered == lab.slots(of: "a").contains(slot)) }
        try lab.start(lab.nodes(of: "b"))
        try lab.expect(reads)
        try lab.expectService()
        try lab.end()
    }

    @Test("join then leave", arguments: ShardLab.seeds) func joinLeave(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, groups: ["a", "b"])
        lab.join("a")
        try lab.expectService()
        lab.join("b")
        try lab.expectService()
        lab.leave("a")
        try lab.expectService()
        // when the shards have gone, nobody needs who had them
        try lab.settle()
        lab.shutDown(lab.nodes(of: "a"))
        try lab.expectService()
        try lab.end()
    }

    @Test("snapshots, join, and leave", arguments: ShardLab.seeds) func snapshot(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, logEntries: 20)
        lab.join("a")
        try lab.expectService()
        lab.join("b", "c")
        lab.leave("a")
        try lab.expectService()
        lab.leave("b")
        lab.join("a")
        try lab.expectService()
        try lab.settle()
        lab.beginClients()
        try lab.sleep(1500)
        try lab.stopClients()
        #expect(lab.simulation.judge.compactions > 0)
        lab.shutDown(lab.simulation.nodes)
        try lab.start(lab.simulation.nodes)
        try lab.expectService()
        try lab.end()
    }

    /// A member of each group is down while the map changes several times, and then another one.
    @Test("servers miss configuration changes", arguments: ShardLab.seeds) func missChange(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, logEntries: 30, deletesGroups: false)
        func members(_ place: Int) -> [SimulatedNode] { ["a", "b", "c"].map { lab.nodes(of: $0)[place] } }
        lab.join("a", "b", "c")
        try lab.settle()
        try lab.expectService()
        lab.shutDown(members(0))
        lab.leave("b")
        try lab.expectService()
        try lab.settle()
        lab.leave("a")
        try lab.expectService()
        try lab.settle()
        lab.join("b")
        try lab.expectService()
        try lab.start(members(0))
        try lab.expectService()
        try lab.settle()
        lab.shutDown(members(1))
        lab.join("a")
        lab.leave("c")
        try lab.expectService()
        try lab.settle()
        try lab.start(members(1))
        try lab.expectService()
        try lab.end()
    }
}

// MARK: clients that go on all the time

extension ShardKVScenarioTests {
    @Test("concurrent puts and configuration changes", arguments: ShardLab.seeds)
    func concurrent1(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, logEntries: 100)
        lab.join("a")
        try lab.settle()
        lab.beginClients()
        lab.join("b")
        try lab.sleep(300)
        lab.join("c")
        try lab.sleep(300)
        lab.leave("a")
        try lab.sleep(100)
        for group in ["a", "b", "c"] {
            lab.shutDown(lab.nodes(of: group))
            try lab.sleep(100)
        }
        lab.leave("c")
        for group in ["a", "b", "c"] { try lab.start(lab.nodes(of: group)) }
        try lab.sleep(300)
        lab.join("a")
        lab.leave("b")
        try lab.sleep(300)
        lab.join("b")
        try lab.settle()
        try lab.stopClients()
        try lab.expectService()
        try lab.end()
    }

    @Test("more concurrent puts and configuration changes", arguments: ShardLab.seeds)
    func concurrent2(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed)
        lab.join("a", "b", "c")
        lab.beginClients()
        lab.leave("a")
        lab.leave("c")
        try lab.sleep(1000)
        lab.join("a")
        lab.join("c")
        lab.leave("b")
        try lab.sleep(1000)
        lab.join("b")
        lab.leave("a")
        lab.leave("c")
        try lab.sleep(1000)
        lab.shutDown(lab.nodes(of: "b"))
        try lab.sleep(200)
        lab.shutDown(lab.nodes(of: "c"))
        try lab.sleep(200)
        try lab.start(lab.nodes(of: "b") + lab.nodes(of: "c"))
        try lab.settle()
        try lab.stopClients()
        try lab.expectService()
        try lab.end()
    }

    @Test("concurrent configuration change and restart", arguments: ShardLab.seeds)
    func concurrent3(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, logEntries: 100)
        let servers = ["a", "b", "c"].flatMap { lab.nodes(of: $0) }
        lab.join("a")
        lab.beginClients()
        for _ in 0..<3 {
            lab.join("c")
            lab.join("b")
            try lab.sleep(lab.chance(0..<900))
            lab.shutDown(servers)
            try lab.start(servers)
            try lab.sleep(lab.chance(0..<900))
            lab.leave("b")
            lab.leave("c")
            try lab.sleep(lab.chance(0..<900))
        }
        try lab.settle()
        try lab.stopClients()
        try lab.expectService()
        try lab.end()
    }

    @Test("unreliable 1", arguments: ShardLab.seeds) func unreliable1(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, isReliable: false)
        lab.join("a")
        try lab.expectService()
        lab.join("b", "c")
        lab.leave("a")
        try lab.expectService()
        try lab.expectService()
        lab.join("a")
        lab.leave("b")
        try lab.expectService()
        try lab.settle()
        try lab.end()
    }

    @Test("unreliable 2", arguments: ShardLab.seeds) func unreliable2(seed: UInt64) throws {
        try unreliable(seed: seed, pauses: 300..<301)
    }

    @Test("unreliable 3", arguments: ShardLab.seeds) func unreliable3(seed: UInt64) throws {
        try unreliable(seed: seed &+ 1000, pauses: 0..<900, logEntries: 60)
    }

    private func unreliable(seed: UInt64, pauses: Range<Int>, logEntries: Int? = nil) throws {
        let lab = try ShardLab(seed: seed, isReliable: false, logEntries: logEntries)
        lab.join("a")
        lab.beginClients()
        let changes: [() -> Void] = [
            { lab.join("b") }, { lab.join("c") }, { lab.leave("a") }, { lab.leave("b") },
            { lab.join("b", "a") },
        ]
        for change in changes {
            try lab.sleep(lab.chance(pauses))
            change()
        }
        try lab.sleep(1000)
        try lab.settle()
        try lab.stopClients()
        try lab.expectService()
        try lab.end()
    }
}

// MARK: the challenges

extension ShardKVScenarioTests {
    /// What a shard leaves behind where it was is deleted: groups that come and go do not fill the disks.
    @Test("shard deletion (challenge 1)", arguments: ShardLab.seeds) func challenge1Delete(seed: UInt64) throws {
        let valueBytes = 4000
        let lab = try ShardLab(seed: seed)
        lab.join("a")
        try lab.settle()
        try lab.expect(lab.appends(bytes: valueBytes))
        for _ in 0..<2 {
            lab.join("b")
            try lab.settle()
            lab.join("c")
            lab.leave("a")
            try lab.settle()
            try lab.expect(lab.reads())
            lab.join("a")
            lab.leave("b", "c")
            try lab.settle()
        }
        lab.join("b", "c")
        try lab.settle()
        try lab.expect(lab.reads())
        try lab.sleep(1000)
        // each value lies at three replicas, and there is a little more than values
        let nodes = ["a", "b", "c"].flatMap { lab.nodes(of: $0) }
        let bytes = nodes.map { ($0.program as? KeyValueProgram)?.storedBytes ?? 0 }.reduce(0, +)
        let values = 3 * ShardLab.shards * valueBytes
        #expect(bytes >= values && bytes < values * 5 / 4, "\(bytes) bytes are stored, \(values) of them values")
        try lab.end()
    }

    @Test("unaffected shard access (challenge 2)", arguments: ShardLab.seeds)
    func challenge2Unaffected(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, groups: ["a", "b"])
        lab.join("a", "b")
        try lab.settle()
        try lab.expectService()
        let unaffected = lab.slots(of: "b")
        #expect(unaffected.count == ShardLab.shards / 2)
        // what the dead group owns is to move, and cannot
        lab.shutDown(lab.nodes(of: "a"))
        lab.leave("a")
        try lab.sleep(1000)
        try lab.expectService(unaffected)
        #expect(lab.slots(of: "b") == unaffected)
        try lab.start(lab.nodes(of: "a"))
        try lab.settle()
        try lab.expectService()
        try lab.end()
    }

    @Test("partial migration shard access (challenge 2)", arguments: ShardLab.seeds)
    func challenge2Partial(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed)
        lab.join("a", "b", "c")
        try lab.settle()
        try lab.expectService()
        let served = lab.slots(of: "b") + lab.slots(of: "c")
        // both leave: what the living one owns arrives, and is served, whatever becomes of the dead one's
        lab.shutDown(lab.nodes(of: "a"))
        lab.leave("a", "c")
        try lab.wait("what can move has not moved") { Set(lab.slots(of: "b")) == Set(served) }
        try lab.expectService(served)
        try lab.start(lab.nodes(of: "a"))
        try lab.settle()
        try lab.expectService()
        try lab.end()
    }
}

// MARK: the controller

extension ShardKVScenarioTests {
    /// The shard controller's scenarios are tests of its state machine; here is what they lack there: leaders that fail
    /// while groups come and go.
    @Test("shardctrler: concurrent leave/join, with failures of the leader", arguments: ShardLab.seeds)
    func controllerFailures(seed: UInt64) throws {
        let lab = try ShardLab(seed: seed, logEntries: 30)
        lab.join("a", "b", "c")
        lab.beginClients()
        for round in 0..<4 {
            try lab.sleep(lab.chance(0..<500))
            lab.leave(["a", "b", "c"][round % 3])
            let leader = lab.simulation.leader(of: ClusterMap.controllerGroup)
            if let leader { lab.shutDown([leader]) }
            try lab.sleep(lab.chance(100..<1000))
            lab.join(["a", "b", "c"][round % 3])
            if let leader { try lab.start([leader]) }
        }
        try lab.settle()
        try lab.stopClients()
        try lab.wait("the controller's replicas differ") {
            let maps = lab.simulation.nodes.prefix(3).map { lab.simulation.server(of: $0)?.map }
            return maps.allSatisfy { $0 != nil && $0 == maps[0] }
        }
        #expect(["a", "b", "c"].allSatisfy { lab.slots(of: $0).count >= 3 })
        try lab.end()
    }
}

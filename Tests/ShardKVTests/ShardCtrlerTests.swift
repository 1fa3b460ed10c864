import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

/// The shard controller of MIT 6.5840 in this controller's terms: `join` creates groups and evens the shards out,
/// `leave` does so without some groups and deletes them, `move` moves a shard, `query` asks for any version.
private final class ShardCtrler {
    static let shards = 10
    let engine = MemoryEngine()
    let machine: ControllerStateMachine
    private let others: [ControllerStateMachine]

    init() throws {
        machine = try ControllerStateMachine(engine: engine, replicaNumber: 1)
        others = try [2, 3].map { try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: $0) }
        // the first group stands for MIT's group 0, which owns what nobody else does
        var record = try ControllerTests.record()
        (record.groups, record.replicas) = (1, 1)
        record.boundaries = (1..<ShardCtrler.shards).map { Bytes([UInt8($0)]) }
        try apply(.initialize(record), .groupBorn("g1"))
    }

    /// Every replica applies every command, and all answer alike.
    @discardableResult func apply(_ commands: ControllerCommand...) throws -> [ControllerReply] {
        var replies: [ControllerReply] = []
        for command in commands {
            let reply = try ControllerTests.apply(machine, command)
            for other in others { #expect(try ControllerTests.apply(other, command) == reply) }
            #expect(reply[0].error == nil, "\(reply[0].message ?? "")")
            replies += reply
        }
        return replies
    }

    var map: ClusterMap { get throws { try #require(machine.map) } }

    func query(_ version: UInt64? = nil) throws -> ClusterMap? {
        for other in others { #expect(other.map == machine.map) }
        guard let version else { return machine.map }
        return try machine.map(at: version)
    }

    func join(_ groups: String...) throws {
        for group in groups {
            let peer = PeerID(address: try map.nodes[0].address)
            let begin = ControllerCommand.begin(
                .createGroup(CreateGroupOperation(group: group, peers: [peer])), wallClock: 1)
            let operation = try #require(try apply(begin)[0].operation)
            try apply(.groupBorn(group), .step(operation: operation.id, to: .done, wallClock: 1))
        }
        try even(leaving: ["g1"])
    }

    func leave(_ groups: String...) throws {
        let isLast = try map.groups.count == groups.count + 2
        try even(leaving: isLast ? groups : groups + ["g1"])
        for group in groups {
            let begin = ControllerCommand.begin(.deleteGroup(DeleteGroupOperation(group: group)), wallClock: 1)
            let operation = try #require(try apply(begin)[0].operation)
            try apply(.step(operation: operation.id, to: .done, wallClock: 1))
        }
    }

    func move(_ shard: UInt64, _ group: String) throws {
        let move = MoveOperation(shard: shard, destination: group)
        let operation = try #require(try apply(.begin(.move(move), wallClock: 1))[0].operation)
        try apply(
            .step(operation: operation.id, to: .switched, wallClock: 1),
            .step(operation: operation.id, to: .done, wallClock: 1))
    }

    private func even(leaving: [String]) throws {
        for next in ShardPlacement.moves(try map, leaving: leaving) { try move(next.shard, next.destination) }
    }

    /// Exactly these groups own the shards, evenly.
    func check(_ groups: [String]) throws {
        let owners = try map.shards.map(\.group)
        #expect(owners.count == ShardCtrler.shards)
        #expect(ShardPlacementTests.isEven(owners, groups.isEmpty ? ["g1"] : groups), "\(owners)")
        #expect(try map.groups.map(\.id) == ["controller", "g1"] + groups)
    }

    var owners: [String] { get throws { try map.shards.map(\.group) } }
}

@Suite("MIT 6.5840: the shard controller")
struct ShardCtrlerTests {
    private static func kept(_ before: [String], _ after: [String], by groups: [String]) -> Int {
        zip(before, after).count { $0 == $1 && groups.contains($0) }
    }

    @Test("Basic leave/join") func basic() throws {
        let controller = try ShardCtrler()
        try controller.check([])
        try controller.join("a")
        try controller.check(["a"])
        try controller.join("b")
        try controller.check(["a", "b"])
        try controller.leave("a")
        try controller.check(["b"])
        try controller.leave("b")
        try controller.check([])
    }

    @Test("Historical queries") func historical() throws {
        let controller = try ShardCtrler()
        var maps: [ClusterMap] = [try controller.map]
        func note() throws { maps.append(try controller.map) }
        for group in ["a", "b"] {
            try controller.join(group)
            try note()
        }
        for group in ["a", "b"] {
            try controller.leave(group)
            try note()
        }
        for map in maps { #expect(try controller.query(map.version) == map) }
        #expect(try controller.query() == maps.last)
    }

    @Test("Move") func move() throws {
        let controller = try ShardCtrler()
        try controller.join("a", "b")
        for shard in 1...10 as ClosedRange<UInt64> {
            let group = shard <= 5 ? "a" : "b"
            if try controller.owners[Int(shard) - 1] != group { try controller.move(shard, group) }
        }
        #expect(try controller.owners == (1...10).map { $0 <= 5 ? "a" : "b" })
    }

    @Test("Concurrent leave/join") func concurrent() throws {
        // what runs at the same time comes to be some order of entries
        for seed in 1...10 as ClosedRange<UInt64> {
            var random = SeededRandom(seed: seed)
            let controller = try ShardCtrler()
            var steps = (0..<10).map { ["j\($0)", "k\($0)"] }
            while let client = steps.indices.filter({ !steps[$0].isEmpty }).randomElement(using: &random) {
                let step = steps[client].removeFirst()
                if step.hasPrefix("j") {
                    try controller.join("x\(client)", "y\(client)")
                } else {
                    try controller.leave("y\(client)")
                }
            }
            let names = try controller.map.groups.map(\.id).filter { $0.hasPrefix("x") }
            #expect(names.sorted() == (0..<10).map { "x\($0)" })
            #expect(ShardPlacementTests.isEven(try controller.owners, names))
        }
    }

    @Test("Minimal transfers after joins") func minimalJoins() throws {
        let controller = try ShardCtrler()
        try controller.join("a", "b", "c", "d")
        for group in ["e", "f", "g", "h"] {
            let before = try controller.owners
            try controller.join(group)
            // what moved went to the newcomer
            for (old, new) in zip(before, try controller.owners) { #expect(old == new || new == group) }
        }
    }

    @Test("Minimal transfers after leaves") func minimalLeaves() throws {
        let controller = try ShardCtrler()
        try controller.join("a", "b", "c", "d", "e", "f")
        for group in ["f", "e", "d"] {
            let before = try controller.owners
            try controller.leave(group)
            for (old, new) in zip(before, try controller.owners) { #expect(old == new || old == group) }
        }
    }

    @Test("Multi-group join/leave") func multi() throws {
        let controller = try ShardCtrler()
        try controller.join("a", "b")
        try controller.check(["a", "b"])
        try controller.join("c", "d", "e")
        try controller.check(["a", "b", "c", "d", "e"])
        try controller.leave("a", "c")
        try controller.check(["b", "d", "e"])
        try controller.leave("b", "d")
        try controller.check(["e"])
    }

    @Test("Minimal transfers after multijoins and multileaves") func minimalMulti() throws {
        let controller = try ShardCtrler()
        try controller.join("a", "b", "c")
        var before = try controller.owners
        try controller.join("d", "e", "f", "g", "h")
        for (old, new) in zip(before, try controller.owners) {
            #expect(old == new || ["d", "e", "f", "g", "h"].contains(new))
        }
        before = try controller.owners
        try controller.leave("b", "d", "f")
        for (old, new) in zip(before, try controller.owners) { #expect(old == new || ["b", "d", "f"].contains(old)) }
        #expect(ShardCtrlerTests.kept(before, try controller.owners, by: ["a", "c", "e", "g", "h"]) >= 6)
    }

    @Test("Check same config on servers") func sameOnAll() throws {
        let controller = try ShardCtrler()
        try controller.join("a", "b", "c")
        try controller.leave("b")
        // query and apply compare the replicas
        let map = try #require(try controller.query())
        let restarted = try ControllerStateMachine(engine: controller.engine, replicaNumber: 1)
        #expect(restarted.map == map)
    }
}

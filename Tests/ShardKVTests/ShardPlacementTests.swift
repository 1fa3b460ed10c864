import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("Shards are spread over groups evenly, with the fewest moves")
struct ShardPlacementTests {
    /// A map whose shards belong to these groups, in order.
    static func map(_ owners: [String], _ groups: [String]) -> ClusterMap {
        let shards = owners.enumerated().map { position, owner in
            let start = position == 0 ? Bytes() : Bytes([UInt8(position)])
            let end = position + 1 == owners.count ? Bytes() : Bytes([UInt8(position + 1)])
            return Shard(id: UInt64(position + 1), range: KeyRange(start: start, end: end), group: owner, epoch: 1)
        }
        let names = [ClusterMap.controllerGroup] + groups
        return ClusterMap(
            clusterID: 1, version: 1, nodes: [], groups: names.map { Group(id: $0, peers: [], isBorn: true) },
            shards: shards)
    }

    static func owners(_ map: ClusterMap, after moves: [ShardPlacement.Move]) -> [String] {
        map.shards.map { shard in moves.first { $0.shard == shard.id }?.destination ?? shard.group }
    }

    static func counts(_ owners: [String], _ groups: [String]) -> [Int] {
        groups.map { group in owners.count { $0 == group } }
    }

    static func isEven(_ owners: [String], _ groups: [String]) -> Bool {
        let counts = counts(owners, groups)
        return counts.reduce(0, +) == owners.count && (counts.max() ?? 0) - (counts.min() ?? 0) <= 1
    }

    @Test func everySmallCaseAgainstTryingEverything() {
        for (groupCount, shardCount) in [(1, 4), (2, 5), (3, 5), (4, 4)] {
            let groups = (1...groupCount).map { "g\($0)" }
            // the last one leaves
            let names = groups + ["leaver"]
            func assignments(_ count: Int, _ names: [String]) -> [[String]] {
                count == 0 ? [[]] : assignments(count - 1, names).flatMap { rest in names.map { rest + [$0] } }
            }
            let even = assignments(shardCount, groups).filter { ShardPlacementTests.isEven($0, groups) }
            for before in assignments(shardCount, names) {
                let map = ShardPlacementTests.map(before, names)
                let moves = ShardPlacement.moves(map, leaving: ["leaver"])
                let after = ShardPlacementTests.owners(map, after: moves)
                #expect(ShardPlacementTests.isEven(after, groups), "\(before) \(moves)")
                let fewest = even.map { zip(before, $0).count { $0 != $1 } }.min()
                #expect(moves.count == fewest && zip(before, after).count { $0 != $1 } == fewest, "\(before) \(moves)")
            }
        }
    }

    @Test func theOrderOfGroupsSaysNothing() {
        var random = SeededRandom(seed: 7)
        for _ in 0..<300 {
            let groups = (0..<random.number(in: 1..<12)).map { "g\($0)" }
            let owners = (0..<random.number(in: 1..<200)).map { _ in
                groups[Int(random.number(in: 0..<Int64(groups.count)))]
            }
            let moves = ShardPlacement.moves(ShardPlacementTests.map(owners, groups))
            #expect(moves == ShardPlacement.moves(ShardPlacementTests.map(owners, groups.shuffled(using: &random))))
            let map = ShardPlacementTests.map(owners, groups)
            let after = ShardPlacementTests.owners(map, after: moves)
            #expect(ShardPlacementTests.isEven(after, groups))
            #expect(ShardPlacement.moves(ShardPlacementTests.map(after, groups)).isEmpty)
        }
    }

    @Test func whoCannotOwnTakesNoPart() {
        var map = ShardPlacementTests.map(["a", "a", "a"], ["a", "b"])
        map.groups[2].isBorn = false
        #expect(ShardPlacement.moves(map).isEmpty)
        #expect(ShardPlacement.moves(map, leaving: ["a"]).isEmpty, "there is nowhere to go")
        // what the unborn one owns cannot move yet, and nobody has to make up for it
        map = ShardPlacementTests.map(["a", "b", "b", "b", "b", "a", "a", "c"], ["a", "b", "c"])
        map.groups[2].isBorn = false
        #expect(ShardPlacement.moves(map) == [ShardPlacement.Move(shard: 7, destination: "c")])
        #expect(ShardPlacement.moves(map, leaving: ["a"]).map(\.shard) == [1, 6, 7])
    }
}

import RaftCore
import ShardMap
import Simulator
import Testing

/// The checker of shards and their owners accepts what the protocol of moves allows, and names everything else.
@Suite("The checker OneOwner") struct OneOwnerTests {
    /// `g1` has the keys below `m`, `g2` the others.
    private static func checker() -> OneOwner {
        var checker = OneOwner()
        #expect(checker.installed([shard(1, "", "m")], in: "g1") == nil)
        #expect(checker.installed([shard(2, "m", "", group: "g2")], in: "g2") == nil)
        return checker
    }

    private static func shard(
        _ id: UInt64, _ start: String, _ end: String, group: String = "g1", epoch: UInt64 = 1
    ) -> Shard {
        let range = KeyRange(start: Bytes(Array(start.utf8)), end: Bytes(Array(end.utf8)))
        return Shard(id: id, range: range, group: group, epoch: epoch)
    }

    private static func write(_ shard: UInt64, epoch: UInt64) -> SessionWrite {
        SessionWrite(shard: shard, epoch: epoch, session: 7, sequence: 1, floor: 1, operations: [])
    }

    /// The steps of the operation that moves shard 1, which is at epoch 1.
    private static func step(
        _ operation: UInt64, _ action: ShardStep.Action, shard: UInt64 = 1, epoch: UInt64 = 1
    ) -> ShardStep {
        ShardStep(operation: operation, shard: shard, epoch: epoch, action: action)
    }

    private static func split(_ key: String, _ newShard: UInt64) -> ShardStep.Action {
        .split(key: Bytes(Array(key.utf8)), newShard: newShard)
    }

    private static let received = ShardStep.Action.receive(shard(1, "", "m", group: "g2", epoch: 2))

    /// Has the groups carry out `steps`; the first violation, and its number.
    private static func firstViolation(
        _ checker: inout OneOwner, _ steps: [(group: String, step: ShardStep)]
    ) -> (number: Int, violation: Violation)? {
        for (number, (group, step)) in steps.enumerated() {
            if let violation = checker.stepped(step, in: group) { return (number, violation) }
        }
        return nil
    }

    /// Expects that of `steps` only the last one is wrong, with `text` in what is said.
    private func expect(
        _ text: String, of steps: [(group: String, step: ShardStep)], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        var checker = OneOwnerTests.checker()
        let found = OneOwnerTests.firstViolation(&checker, steps)
        #expect(found?.number == steps.count - 1, sourceLocation: sourceLocation)
        #expect(found?.violation.checker == "OneOwner", sourceLocation: sourceLocation)
        #expect(found?.violation.facts.contains(text) == true, "\(found as Any)", sourceLocation: sourceLocation)
    }

    private typealias Own = OneOwnerTests

    @Test("A move passes a shard on, and each step may be repeated") func move() {
        var checker = Own.checker()
        let steps = [
            ("g1", Own.step(3, .open)), ("g2", Own.step(3, Own.received)), ("g1", Own.step(3, .freeze)),
            ("g2", Own.step(3, .adopt)), ("g1", Own.step(3, .release)),
        ]
        for (group, step) in steps {
            #expect(checker.stepped(step, in: group) == nil && checker.stepped(step, in: group) == nil)
        }
        #expect(checker.moves == 1)
        #expect(checker.held.map(\.group) == ["g2", "g2"] && checker.held.map(\.epoch) == [2, 1])
        #expect(checker.executed(Own.write(1, epoch: 2), in: "g2") == nil)
        // repeated much later, it means nothing
        #expect(checker.stepped(steps[2].1, in: "g1") == nil)
        #expect(checker.executed(Own.write(1, epoch: 2), in: "g2") == nil)
    }

    @Test("A move that is taken back, a split and a merge") func others() {
        var checker = Own.checker()
        let steps = [
            ("g1", Own.step(3, .open)), ("g1", Own.step(3, .freeze)), ("g1", Own.step(3, .resume)),
            ("g2", Own.step(3, .discard)), ("g1", Own.step(4, Own.split("f", 9), epoch: 2)),
        ]
        #expect(Own.firstViolation(&checker, steps) == nil)
        #expect(checker.held.map(\.id) == [1, 9, 2] && checker.held.map(\.epoch) == [3, 3, 1])
        #expect(checker.executed(Own.write(9, epoch: 3), in: "g1") == nil)
        let merge = Own.step(5, .merge(right: 9, rightEpoch: 3), epoch: 3)
        #expect(checker.stepped(merge, in: "g1") == nil)
        #expect(checker.held == [Own.shard(1, "", "m", epoch: 4), Own.shard(2, "m", "", group: "g2")])
        #expect(checker.cuts == 2 && checker.moves == 0)
    }

    @Test("Only the owner writes, under its epoch, and not while frozen") func writes() {
        var checker = Own.checker()
        #expect(checker.executed(Own.write(1, epoch: 1), in: "g1") == nil)
        #expect(checker.executed(Own.write(3, epoch: 1), in: "g1")?.facts.contains("nobody has") == true)
        #expect(checker.executed(Own.write(1, epoch: 1), in: "g2")?.facts.contains("g1 has it under 1") == true)
        #expect(checker.executed(Own.write(1, epoch: 2), in: "g1")?.group == "g1")
        #expect(checker.stepped(Own.step(3, .freeze), in: "g1") == nil)
        #expect(checker.executed(Own.write(1, epoch: 1), in: "g1")?.facts.contains("frozen") == true)
        #expect(checker.stepped(Own.step(3, .resume), in: "g1") == nil)
        #expect(checker.executed(Own.write(1, epoch: 1), in: "g1") != nil, "the epoch has risen")
        #expect(checker.executed(Own.write(1, epoch: 2), in: "g1") == nil)
    }

    @Test("No key has two owners") func overlaps() {
        var checker = Own.checker()
        #expect(checker.installed([Own.shard(1, "", "m")], in: "g1") == nil, "installed again")
        let violation = checker.installed([Own.shard(5, "k", "n")], in: "g1")
        #expect(violation?.checker == "OneOwner" && violation?.facts.contains("keys in common") == true)
        var last = Own.checker()
        #expect(last.installed([Own.shard(5, "z", "")], in: "g1") != nil)
        var first = OneOwner()
        #expect(first.installed([Own.shard(1, "f", "m")], in: "g1") == nil)
        #expect(first.installed([Own.shard(2, "m", ""), Own.shard(3, "", "f")], in: "g1") == nil, "adjacent")
    }

    @Test("Splits and merges are the owner's, of what it has") func cuts() {
        expect("nothing to split", of: [("g2", Own.step(3, Own.split("f", 9)))])
        expect("nothing to split", of: [("g1", Own.step(3, Own.split("x", 9)))])
        expect("there is a shard 2 already", of: [("g1", Own.step(3, Own.split("f", 2)))])
        expect("nobody has shard 4", of: [("g1", Own.step(3, Own.split("f", 9), shard: 4))])
        expect("nothing to merge", of: [("g1", Own.step(3, .merge(right: 2, rightEpoch: 1)))])
        expect("nothing to merge", of: [("g1", Own.step(3, .merge(right: 8, rightEpoch: 1)))])
        expect("nothing to merge", of: [("g2", Own.step(3, .merge(right: 2, rightEpoch: 1)))])
    }

    @Test("A shard is adopted once its source is frozen, and deleted where it does not belong") func moves() {
        let frozen = ("g1", Own.step(3, .freeze))
        let adopted = ("g2", Own.step(3, .adopt))
        expect("g1 still serves it", of: [adopted])
        expect("g1 still serves it", of: [frozen, ("g1", Own.step(3, .adopt))])
        expect("the epoch does not rise", of: [frozen, ("g2", Own.step(3, .adopt, epoch: 0))])
        expect("it still belongs", of: [frozen, ("g1", Own.step(3, .release))])
        // both outcomes of one move
        expect("g1 still serves it", of: [frozen, ("g1", Own.step(3, .resume)), adopted])
        expect("the shard is g2's", of: [frozen, adopted, ("g1", Own.step(3, .resume))])
        // one that is over
        expect("the shard is g2's", of: [frozen, adopted, ("g1", Own.step(2, .freeze))])
        let resumed = ("g1", Own.step(3, .resume))
        expect("the epoch does not rise", of: [frozen, resumed, ("g1", Own.step(2, .resume))])
    }
}

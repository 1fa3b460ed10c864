import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("A write keeps its identity while its shard is split, merged and moved") struct MovingShardTests {
    /// One shard over `[a, z)` in two halves, as a split at "m" leaves it.
    static func halves(version: UInt64 = 2, epoch: UInt64 = 2) -> ClusterMap {
        .split(at: ["m"], version: version, epoch: epoch, owners: ["g1", "g1"])
    }

    /// A script with a lost write over both halves, which the map has come to know.
    private static func split() -> (Script, Answer, first: Sent, again: Sent) {
        let script = Script()
        let answer = script.execute([set("a"), set("z")])
        let first = script.takeOne()
        first.answer(.lost("connection broke"))
        script.turn()
        script.router.updateMap(halves())
        return (script, answer, first, script.takeOne())
    }

    private func expectSameIdentity(_ first: Sent, _ second: Sent) {
        #expect(second.write?.session == first.write?.session && second.write?.sequence == first.write?.sequence)
        #expect(second.write?.operations == first.write?.operations)
    }

    // MARK: split

    @Test func aSplitThroughAWriteThatWasExecutedFindsItsAnswer() {
        let (script, answer, first, again) = MovingShardTests.split()
        #expect(again.request.shard == 1 && again.request.epoch == 2 && again.keys == ["a", "z"])
        #expect(again.time == .ms(0), "a new map ends the pause")
        expectSameIdentity(first, again)
        again.answer([.text("A"), .text("Z")])
        script.turn()
        #expect(answer.results == [.text("A"), .text("Z")])
        #expect(script.take().isEmpty)
    }

    @Test func aSplitThroughAWriteThatWasNotExecutedDividesIt() {
        let (script, answer, first, again) = MovingShardTests.split()
        again.answer(.reply(ExecuteReply(error: .wrongShard, route: MovingShardTests.halves().shards[0])))
        let parts = script.take()
        #expect(parts.map(\.keys) == [["a"], ["z"]] && parts.map(\.request.shard) == [1, 2])
        for part in parts {
            #expect((part.write?.sequence ?? 0) > (first.write?.sequence ?? 0))
            #expect(part.write?.floor == (first.write?.sequence ?? 0) + 1, "nobody asks under the first number again")
        }
        // both under the session that both tables know
        #expect(parts.map { $0.write?.session } == [71, 71] && script.opened == [71])
        for part in parts { part.answer([.done]) }
        script.turn()
        #expect(answer.errors == [nil, nil])
    }

    @Test func aRefusalUnderAnotherEpochLeavesItWhole() {
        let (script, answer, first, again) = MovingShardTests.split()
        // a node that is late, and one that is ahead of the map, say nothing about the range
        again.answer(.wrongShard)
        script.run(to: 4)
        let third = script.takeOne()
        expectSameIdentity(first, third)
        var ahead = MovingShardTests.halves().shards[0]
        ahead.epoch = 3
        third.answer(.reply(ExecuteReply(error: .wrongShard, route: ahead)))
        script.run(to: 20)
        expectSameIdentity(first, script.takeOne())
        script.run(to: 10_000)
        #expect(answer.errors == [.outcomeUnknown, .outcomeUnknown])
    }

    @Test func aSessionThatIsGoneAfterTheSplitLeavesItUnknown() {
        let (script, answer, _, again) = MovingShardTests.split()
        again.answer(.sessionExpired)
        #expect(script.take().isEmpty)
        #expect(answer.errors == [.outcomeUnknown, .outcomeUnknown])
    }

    @Test func whatFollowsInTheCallWaitsUntilItIsKnown() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 2 })
        let answer = script.execute([set("a", "1"), set("z", "2"), set("a", "3"), set("z", "4")])
        script.takeOne().answer(.lost("connection broke"))
        script.turn()
        script.router.updateMap(MovingShardTests.halves())
        let again = script.takeOne()
        #expect(again.keys == ["a", "z"])
        again.answer(.reply(ExecuteReply(error: .wrongShard, route: MovingShardTests.halves().shards[0])))
        let parts = script.take()
        #expect(parts.map { $0.write?.operations.map(\.value.text) } == [["1", "3"], ["2", "4"]])
        for part in parts { part.answer([.done, .done]) }
        script.turn()
        #expect(answer.errors == [nil, nil, nil, nil])
    }

    @Test func whoHasHeardThatItIsUnknownIsNotExecutedAfterwards() {
        let script = Script()
        let early = script.execute([set("a")], by: 10)
        let late = script.execute([set("z")])
        script.takeOne().answer(.lost("connection broke"))
        script.router.updateMap(MovingShardTests.halves())
        script.run(to: 10)
        #expect(early.errors == [.outcomeUnknown])
        script.takeOne().answer(.reply(ExecuteReply(error: .wrongShard, route: MovingShardTests.halves().shards[0])))
        let again = script.takeOne()
        #expect(again.keys == ["z"] && again.request.shard == 2)
        again.answer([.done])
        script.turn()
        #expect(late.errors == [nil])
    }

    @Test func aSplitBesideAWriteTakesItAlong() {
        let script = Script()
        let answer = script.execute([set("y"), set("z")])
        let first = script.takeOne()
        first.answer(.lost("connection broke"))
        script.turn()
        script.router.updateMap(MovingShardTests.halves())
        let second = script.takeOne()
        #expect(second.request.shard == 2 && second.write?.shard == 2)
        expectSameIdentity(first, second)
        second.answer([.done, .done])
        script.turn()
        #expect(answer.errors == [nil, nil])
    }

    @Test func aNewShardIsWrittenUnderTheSessionThatItsTableHasACopyOf() {
        let script = Script()
        _ = script.execute([set("a")])
        script.takeOne().answer([.done])
        script.turn()
        script.router.updateMap(MovingShardTests.halves())
        let answer = script.execute([set("z")])
        let write = script.takeOne()
        #expect(write.write?.session == 71 && script.opened == [71])
        // should the table not have it, nothing is lost
        write.answer(.sessionExpired)
        let again = script.takeOne()
        #expect(again.write?.session == 72)
        again.answer([.done])
        script.turn()
        #expect(answer.errors == [nil])
    }

    // MARK: merge

    @Test func aMergeTakesUncertainWritesAlongUnderTheirOwnSessions() {
        let script = Script(map: .two)
        let answers = ["a", "z"].map { script.execute([set($0)]) }
        let first = script.take()
        #expect(first.map { $0.write?.session } == [71, 72])
        for sent in first { sent.answer(.lost("connection broke")) }
        script.turn()
        script.router.updateMap(.split(at: [], version: 2, epoch: 2))
        let again = script.take()
        #expect(again.map(\.request.shard) == [1, 1])
        for (sent, other) in zip(first, again.sorted { $0.keys[0] < $1.keys[0] }) { expectSameIdentity(sent, other) }
        for sent in again { sent.answer([.done]) }
        script.turn()
        #expect(answers.map(\.errors) == [[nil], [nil]])
    }

    @Test func aSplitAndAMergeBackLeaveItOneWrite() {
        let (script, answer, first, again) = MovingShardTests.split()
        again.answer(.lost("connection broke"))
        script.turn()
        script.router.updateMap(.split(at: [], version: 3, epoch: 3))
        let third = script.takeOne()
        #expect(third.request.shard == 1 && third.request.epoch == 3)
        expectSameIdentity(first, third)
        third.answer([.done, .done])
        script.turn()
        #expect(answer.errors == [nil, nil])
    }

    // MARK: move

    @Test func aFrozenShardIsAskedSoonAgainAndTheMapWatched() {
        let script = Script()
        script.served = nil
        let answer = script.execute([set("a")])
        var times: [Int64] = []
        for milliseconds in 0...200 {
            script.run(to: milliseconds)
            for sent in script.take() {
                times.append(sent.time.nanoseconds / 1_000_000)
                sent.answer(.shardFrozen)
            }
        }
        #expect(times == [0, 4, 12, 28, 60, 110, 160])
        #expect(script.mapAsked.count == 1 && script.mapAsked[0].version == 1)
        #expect(script.mapAsked[0].patience == .milliseconds(1000))
        script.mapAsked[0].completion(.map(.split(at: [], version: 2, epoch: 2, owners: ["g2"])))
        let second = script.takeOne()
        #expect(second.time == .ms(200) && second.request.group == "g2" && second.request.epoch == 2)
        #expect(second.write?.session == 71 && second.write?.sequence == 1)
        // the new owner has not heard of it yet
        second.answer(.wrongShard)
        script.run(to: 204)
        script.takeOne().answer([.done])
        script.turn()
        #expect(answer.errors == [nil])
    }

    @Test func twoMovesInARowKeepTheWritesIdentity() {
        let script = Script()
        let answer = script.execute([set("a")])
        let first = script.takeOne()
        first.answer(.lost("connection broke"))
        script.turn()
        for version in [2, 3] as [UInt64] {
            script.router.updateMap(.split(at: [], version: version, epoch: version, owners: ["g\(version)"]))
            let again = script.takeOne()
            #expect(again.request.group == "g\(version)" && again.request.epoch == version)
            expectSameIdentity(first, again)
            if version == 2 { again.answer(.shardFrozen) } else { again.answer([.done]) }
            script.turn()
        }
        #expect(answer.errors == [nil])
    }

    @Test func anAnswerAboutAnOldRouteSendsItToTheNewOneAtOnce() {
        let script = Script()
        _ = script.execute([get("a")])
        let old = script.takeOne()
        script.router.updateMap(.split(at: [], version: 2, epoch: 2, owners: ["g2"]))
        script.turn()
        old.answer(.shardFrozen)
        #expect(script.takeOne().request.group == "g2")
        #expect(script.mapAsked.isEmpty)
    }

    @Test func aCancelledMoveIsGoneOnWithWhereItWas() {
        let script = Script()
        let answer = script.execute([set("a")])
        script.takeOne().answer(.shardFrozen)
        script.router.updateMap(.split(at: [], version: 2, epoch: 2))
        let again = script.takeOne()
        #expect(again.request.group == "g1" && again.write?.epoch == 2)
        again.answer([.done])
        script.turn()
        #expect(answer.errors == [nil])
    }

    // MARK: the map

    @Test func aGroupWhoseMembersAreGoneIsLookedForInTheMap() {
        let script = Script()
        let answer = script.execute([get("a")])
        script.takeOne().answer(.notSent("connection refused"))
        script.run(to: 20)
        #expect(script.mapAsked.isEmpty, "once is an accident")
        script.served = .split(at: [], version: 2, epoch: 1, owners: ["g1"]).with(nodes: [4])
        script.takeOne().answer(.notSent("connection refused"))
        let again = script.takeOne()
        #expect(again.node == .n(4) && again.time == .ms(20))
        again.answer([.text("A")])
        script.turn()
        #expect(answer.results == [.text("A")])
    }

    @Test func aNodeThatHeldItsAnswerIsFollowedByTheNextQuestionAtOnce() {
        let script = Script(settings: Settings.with { $0.mapPatience = .milliseconds(2000) })
        script.served = nil
        _ = script.execute([get("a")])
        script.run(to: 1000, answering: .wrongShard)
        script.mapAsked[0].completion(.unchanged)
        script.run(to: 1400, answering: .wrongShard)
        #expect(script.mapAsked.map(\.time) == [.ms(0), .ms(1000)])
        // one that does not hold it is not asked as often
        script.mapAsked[1].completion(.unchanged)
        script.run(to: 1600, answering: .wrongShard)
        #expect(script.mapAsked.count == 3)
        script.mapAsked[2].completion(.unchanged)
        script.run(to: 1610, answering: .wrongShard)
        #expect(script.mapAsked.count == 3)
    }

    @Test func whoAsksForTheMapItselfDoesNotWaitForANewerOne() {
        let script = Script()
        script.served = nil
        _ = script.execute([get("a")])
        script.run(to: 50, answering: .wrongShard)
        #expect(script.mapAsked.count == 1)
        var version: UInt64?
        script.router.fetchMap(deadline: .ms(500)) { version = (try? $0.get())?.version }
        script.run(to: 50, answering: .wrongShard)
        #expect(script.mapAsked.count == 2 && script.mapAsked[1].patience == .milliseconds(0))
        script.mapAsked[1].completion(.unchanged)
        script.turn()
        #expect(version == 1)
    }
}

extension ClusterMap {
    /// The same map with every group on `numbers`.
    fileprivate func with(nodes numbers: [Int]) -> ClusterMap {
        var map = self
        for position in map.groups.indices { map.groups[position].peers = numbers.map { PeerID(address: .n($0)) } }
        map.nodes = numbers.map { Node(id: UInt64($0), address: .n($0), incarnation: UInt64($0)) }
        return map
    }
}

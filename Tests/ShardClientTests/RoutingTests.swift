import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Routes follow the map") struct RoutingTests {
    @Test func withoutAMapASeedIsAskedOnce() {
        let script = Script(map: nil)
        let answer = script.execute([get("a")])
        _ = script.execute([get("b")])
        #expect(script.take().isEmpty)
        #expect(script.mapAsked.map(\.node) == [.n(9)])
        script.mapAsked[0].completion(.map(.one))
        let sent = script.takeOne()
        #expect(sent.keys == ["a", "b"])
        sent.answer([.text("A"), .done])
        script.turn()
        #expect(answer.results == [.text("A")])
    }

    @Test func theMapIsAskedForWithDoublingPausesAndNobodyToWaitForEndsIt() {
        let script = Script(map: nil)
        let answer = script.execute([set("a")], by: 500)
        for milliseconds in 0..<2000 {
            script.run(to: milliseconds)
            let asked = script.mapAsked
            script.mapAsked = []
            for question in asked {
                #expect([0, 20, 60, 140, 300].contains(milliseconds))
                question.completion(.silence)
            }
        }
        #expect(answer.errors == [.deadlineExceeded] && answer.time == .ms(500))
    }

    @Test func nobodyWaitsForAClusterThatWasNeverInitialised() {
        // the node itself is among its seeds twice
        let script = Script(map: nil, seeds: [.n(1), .n(1), .n(2), .n(3)])
        for _ in 0..<2 {
            let start = Int(script.clock.now.nanoseconds / 1_000_000)
            let answer = script.execute([get("a"), set("b")], by: start + 10_000)
            var failure: NamedErrorThrown?
            script.router.count(deadline: .ms(start + 10_000)) { if case .failure(let error) = $0 { failure = error } }
            for milliseconds in start...start + 200 {
                script.run(to: milliseconds)
                let asked = script.mapAsked
                script.mapAsked = []
                for question in asked { question.completion(.noCluster) }
            }
            #expect(answer.errors == [.notInitialized, .notInitialized] && failure?.error == .notInitialized)
            #expect(answer.results?[0].message == nil)
        }
        // after an init the first question that finds the map is enough
        let answer = script.execute([get("a")], by: 60_000)
        script.served = .one
        script.run(to: Int(script.clock.now.nanoseconds / 1_000_000) + 100)
        #expect(script.takeOne().keys == ["a"] && answer.results == nil)
    }

    @Test func seedsThatSayNothingAreNotWaitedForLong() {
        let script = Script(map: nil, seeds: [.n(1), .n(2), .n(3)])
        let answer = script.execute([get("a")])
        script.turn()
        script.mapAsked[0].completion(.noCluster)
        script.run(to: 900)
        #expect(script.mapAsked.map(\.node) == [.n(1), .n(2), .n(3)])
        #expect(answer.errors == [.notInitialized])
        #expect(answer.results?[0].message?.contains("2 of 3") == true)
    }

    @Test(arguments: [MapAnswer.noMap, .silence])
    func aClusterThatIsThereOrMayBeThereIsWaitedFor(second: MapAnswer) {
        let script = Script(map: nil, seeds: [.n(1), .n(2)])
        let answer = script.execute([get("a")], by: 3000)
        for milliseconds in 0...3000 {
            script.run(to: milliseconds)
            let asked = script.mapAsked
            script.mapAsked = []
            for question in asked {
                // a node of a cluster that has just started; or nobody at all
                if case .noMap = second, question.node == .n(1) {
                    question.completion(.noCluster)
                } else {
                    question.completion(second)
                }
            }
        }
        #expect(answer.errors == [.deadlineExceeded] && answer.time == .ms(3000))
    }

    @Test func whileANodeOwesTheMapTheNextIsAskedToo() {
        let script = Script()
        script.served = nil
        _ = script.execute([get("a")])
        script.run(to: 650, answering: .wrongShard)
        #expect(script.mapAsked.map(\.node) == [.n(1), .n(2), .n(3)])
        #expect(script.mapAsked.map(\.time) == [.ms(0), .ms(300), .ms(600)])
        script.mapAsked[1].completion(.map(.split(at: [], version: 2, epoch: 2)))
        #expect(script.takeOne().request.epoch == 2)
        script.run(to: 5000)
        #expect(script.mapAsked.count == 3)
    }

    @Test func aNewerMapIsTakenHoweverLateItComes() {
        let script = Script()
        script.served = nil
        _ = script.execute([get("a")])
        script.run(to: 310, answering: .wrongShard)
        // the other one has said that it knows no newer one
        script.mapAsked[1].completion(.unchanged)
        script.run(to: 320, answering: .wrongShard)
        script.mapAsked[0].completion(.map(.split(at: [], version: 2, epoch: 2)))
        #expect(script.takeOne().request.epoch == 2)
    }

    @Test func aNodeThatHasNoMapIsNotWaitedFor() {
        let script = Script()
        script.served = nil
        _ = script.execute([get("a")])
        script.run(to: 0, answering: .wrongShard)
        script.mapAsked[0].completion(.silence)
        script.run(to: 28, answering: .wrongShard)
        #expect(script.mapAsked.map(\.time) == [.ms(0), .ms(20)])
    }

    @Test func wrongShardAsksForTheMapAndGoesToTheNewGroupWithTheNewEpoch() {
        let script = Script()
        let answer = script.execute([set("a")])
        script.served = .split(at: [], version: 2, epoch: 2, owners: ["g7"])
        let first = script.takeOne()
        first.answer(.wrongShard)
        let second = script.takeOne()
        #expect(script.mapAsked.count == 1)
        #expect(second.request.group == "g7" && second.request.epoch == 2 && second.time == .ms(0))
        #expect(second.write?.epoch == 2 && second.write?.sequence == first.write?.sequence)
        #expect(second.write?.session == first.write?.session)
        second.answer([.done])
        script.turn()
        #expect(answer.errors == [nil])
    }

    @Test func manyWrongShardsAskOnce() {
        let script = Script()
        var flying: [Sent] = []
        for key in ["a", "b", "c"] {
            _ = script.execute([get(key)])
            flying += script.take()
        }
        script.served = .split(at: [], version: 2, epoch: 2)
        for sent in flying { sent.answer(.wrongShard) }
        #expect(script.take().map(\.request.epoch) == [2, 2, 2])
        #expect(script.mapAsked.count == 1)
    }

    @Test func withoutANewerMapTheNodeIsAskedAgainWithPauses() {
        let script = Script()
        let answer = script.execute([get("a")], by: 400)
        var times: [Int64] = []
        for milliseconds in 0...400 {
            script.run(to: milliseconds)
            for sent in script.take() {
                times.append(sent.time.nanoseconds / 1_000_000)
                sent.answer(.wrongShard, "not here")
            }
        }
        #expect(times == [0, 4, 12, 28, 60, 124, 252])
        #expect(answer.errors == [.deadlineExceeded])
    }

    @Test func aSplitDividesWhatWasNotExecuted() {
        let script = Script()
        let answer = script.execute([set("a", "1"), set("z", "2"), set("a", "3")])
        script.served = .split(at: ["m"], version: 2, epoch: 2)
        script.takeOne().answer(.wrongShard)
        let halves = script.take()
        #expect(halves.map(\.keys) == [["a", "a"], ["z"]])
        #expect(halves.map(\.request.shard) == [1, 2])
        halves[0].answer([.text("1"), .text("3")])
        halves[1].answer([.text("2")])
        script.turn()
        #expect(answer.results == [.text("1"), .text("2"), .text("3")])
    }

    @Test func whatIsQueuedFollowsANewMap() {
        let script = Script(settings: Settings.with { $0.maxRequestsInFlightPerShard = 1 })
        _ = script.execute([get("first")])
        _ = script.takeOne()
        _ = script.execute([get("a"), get("z")])
        script.router.updateMap(.split(at: ["m"], version: 2, epoch: 2))
        #expect(script.take().map(\.keys) == [["z"]], "the first shard is still busy")
    }

    @Test func aRequestInPiecesIsMadeWholeBeforeItIsDivided() {
        let script = Script(settings: Settings.with { $0.maxOperationsPerRequest = 2 })
        let answer = script.execute([set("z", "1"), set("a", "2"), set("z", "3"), set("a", "4")])
        script.served = .split(at: ["m"], version: 2, epoch: 2)
        script.takeOne().answer(.wrongShard)
        let halves = script.take()
        #expect(halves.map(\.keys) == [["a", "a"], ["z", "z"]])
        for half in halves { half.answer(half.write?.operations.map { .text($0.value.text) } ?? []) }
        script.turn()
        #expect(answer.results?.map { $0.value?.text } == ["1", "2", "3", "4"])
    }

    @Test func aNodeWithoutTheGroupIsPassedOver() {
        let script = Script()
        _ = script.execute([get("a")])
        script.takeOne().answer(.noSuchGroup)
        script.run(to: 4)
        #expect(script.takeOne().node == .n(2))
    }

    @Test func olderMapsAndThoseOfOtherClustersAreNotTaken() {
        let script = Script(map: .split(at: [], version: 5))
        script.router.updateMap(.split(at: ["m"], version: 4))
        #expect(script.router.map?.version == 5)
        var foreign = ClusterMap.split(at: ["m"], version: 6)
        foreign.clusterID = 8
        script.router.updateMap(foreign)
        #expect(script.router.map?.shards.count == 1)
    }

    @Test func whoeverAsksForTheMapGetsTheNewest() {
        let script = Script()
        script.served = .split(at: ["m"], version: 2)
        var version: UInt64?
        script.router.fetchMap(deadline: .ms(100)) { version = (try? $0.get())?.version }
        script.turn()
        #expect(version == 2)
    }

    @Test func andHearsWhenThereIsNone() {
        let script = Script(map: nil)
        var error: NamedError?
        script.router.fetchMap(deadline: .ms(100)) { if case .failure(let thrown) = $0 { error = thrown.error } }
        script.run(to: 99)
        #expect(error == nil)
        script.run(to: 100)
        #expect(error == .deadlineExceeded)
    }
}

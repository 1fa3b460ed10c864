import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Too many wait for a shard") struct CrowdTests {
    private static let settings = Settings.with {
        $0.maxRequestsInFlightPerShard = 1
        $0.maxOperationsPerRequest = 1
        $0.queuePatience = .milliseconds(50)
    }

    /// Four wait for shard 1, two of them are answered: the queue is 60 ms old, and moves.
    private func crowded(_ map: ClusterMap) -> Script {
        let script = Script(map: map, settings: Self.settings)
        for key in ["a", "b", "c", "d"] { _ = script.execute([get(key)]) }
        script.run(to: 40)
        script.takeOne().answer([.text("A")])
        script.run(to: 60)
        script.takeOne().answer([.text("B")])
        script.turn()
        return script
    }

    @Test("who comes then is told at once that it was not executed")
    func busy() {
        let script = crowded(.one)
        let late = script.execute([get("e")])
        #expect(late.errors == [.busy] && late.time == .ms(60))
        #expect(script.takeOne().keys == ["c"])
    }

    @Test("in a queue that does not move everybody waits: that is no load")
    func standstill() {
        let script = crowded(.one)
        script.run(to: 1061)
        let patient = script.execute([get("e")])
        script.turn()
        #expect(patient.results == nil)
        for key in ["c", "d", "e"] {
            let sent = script.takeOne()
            #expect(sent.keys == [key])
            sent.answer([.text(key)])
        }
        script.turn()
        #expect(patient.results == [.text("e")])
    }

    @Test("operations of one call for other shards are executed")
    func otherShards() {
        let script = crowded(.two)
        let answer = script.execute([get("z"), get("a"), get("b")])
        let sent = script.take().filter { $0.request.shard == 2 }
        #expect(sent.map(\.keys) == [["z"]] && answer.results == nil)
        sent[0].answer([.text("Z")])
        script.turn()
        #expect(answer.errors == [nil, .busy, .busy] && answer.results?[0] == .text("Z") && answer.count == 1)
    }

    @Test("without that patience they wait until their deadline")
    func noPatience() {
        let script = Script(
            settings: Settings.with {
                $0.maxRequestsInFlightPerShard = 1
                $0.maxOperationsPerRequest = 1
            })
        _ = script.execute([get("a")])
        let queued = script.execute([get("b")])
        script.run(to: 2000)
        script.takeOne().answer([.text("A")])
        script.turn()
        let late = script.execute([get("c")])
        script.turn()
        #expect(queued.results == nil && late.results == nil)
    }

    @Test("a server that is busy until the deadline is what the caller is told of", arguments: [true, false])
    func busyToTheEnd(isWrite: Bool) {
        let script = Script()
        let answer = script.execute([isWrite ? set("a") : get("a")], by: 300)
        let attempts = script.run(to: 400, answering: .busy)
        #expect(attempts > 2 && answer.errors == [.busy] && answer.time == .ms(300))
    }
}

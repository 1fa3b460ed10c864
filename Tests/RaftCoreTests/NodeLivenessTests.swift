import Testing

@testable import RaftCore

@Suite("Liveness rule 1: a promise is a duration")
struct PromiseDurationTests {
    @Test("the supporter counts it from the receipt of the request, and reports its end")
    func supporter() {
        var stage = LivenessStage()
        #expect(stage.hear(at: 100).changed == [stage.other])
        #expect(stage.effects.reply?.granted == true)
        #expect(stage.isPromised(at: 1099) && !stage.isPromised(at: 1100))
        #expect(stage.liveness.deadline == stage.at(1100))
        #expect(stage.wait(until: 1100).changed == [stage.other])
    }

    @Test("the asker counts it from the sending of the request, shortened by the drift, and reports its end")
    func asker() {
        var stage = LivenessStage.asking()
        #expect(stage.answer(at: 30).changed == [stage.other])
        #expect(stage.isSupported(at: 959) && !stage.isSupported(at: 960))
        #expect(stage.wait(until: 960).changed == [stage.other])
    }

    @Test("the drift is a setting") func drift() {
        var settings = NodeLiveness.Settings()
        settings.maxClockDriftPercent = 20
        #expect(settings.counted(of: nil) == .milliseconds(800))
    }

    @Test("the asker counts the shorter one of what it expects and what the supporter keeps", arguments: [400, 4000])
    func differentSettings(kept: Int) {
        var stage = LivenessStage.asking()
        stage.answer(promise: .milliseconds(kept), at: 30)
        let end = 10 + min(kept, 1000) * 95 / 100
        #expect(stage.isSupported(at: end - 1) && !stage.isSupported(at: end))
    }

    @Test("the supporter says how long it keeps one") func said() {
        var stage = LivenessStage()
        #expect(stage.hear(at: 0).reply?.promise == .milliseconds(1000))
    }

    @Test("a grant that comes when the count is over gives nothing") func late() {
        var stage = LivenessStage.asking()
        #expect(stage.answer(at: 960).changed == [])
        #expect(!stage.isSupported(at: 960) && stage.liveness.isReachable(stage.other))
    }

    @Test("a renewal prolongs it") func renewal() {
        var stage = LivenessStage.supported()
        #expect(stage.wait(until: 200).requests.map(\.request.asks) == [true])
        #expect(stage.answer(at: 230).changed == [])
        #expect(stage.isSupported(at: 1149) && !stage.isSupported(at: 1150))
    }

    @Test("a node stands by itself, without a promise") func itself() {
        let liveness = LivenessStage().liveness
        let now = LivenessStage().at(0)
        #expect(liveness.promiseStands(to: a.address, now: now) && liveness.supportStands(from: a.address, now: now))
        #expect(liveness.isReachable(a.address) && !liveness.isForeign(a.address))
        #expect(liveness.promiseStamp(to: a.address, now: now) == nil)
        #expect(liveness.supportStamp(from: a.address, now: now) == nil)
    }

    @Test("it outlives the last shared group; then the node rests") func untracked() {
        var stage = LivenessStage.supported()
        stage.hear(at: 41)
        stage.step(.track([]), at: 50)
        #expect(stage.isPromised(at: 500) && stage.isSupported(at: 500))
        #expect(stage.wait(until: 300).requests.isEmpty)
        #expect(stage.wait(until: 2000).changed == [stage.other])
        #expect(stage.liveness.deadline == nil)
    }

    @Test("several changes come once each, in order") func order() {
        var stage = LivenessStage()
        for node in [c, b] { stage.hear(from: node, at: 10) }
        #expect(stage.wait(until: 1500).changed == [b.address, c.address])
    }
}

@Suite("Liveness rule 2: epochs")
struct EpochTests {
    @Test("a renewal in time keeps the epoch") func renewal() {
        var stage = LivenessStage()
        #expect(stage.hear(at: 0).reply?.epoch == 1)
        let renewed = stage.hear(at: 900)
        #expect(renewed.reply?.epoch == 1 && renewed.changed.isEmpty)
    }

    @Test("after the supporter's count has run out the next grant has a higher epoch, though nobody looked meanwhile")
    func lapse() {
        var stage = LivenessStage()
        stage.hear(at: 0)
        let late = stage.hear(at: 1000)
        #expect(late.reply?.epoch == 2 && late.changed == [stage.other])
    }

    @Test("no two promises of a run share an epoch, not even to different nodes or after a node was forgotten")
    func unique() {
        var stage = LivenessStage()
        var epochs = [stage.hear(at: 0).reply?.epoch, stage.hear(from: c, at: 0).reply?.epoch]
        stage.wait(until: 5000)
        epochs += [stage.hear(at: 5000).reply?.epoch]
        #expect(epochs == [1, 2, 3])
    }

    @Test("both name the promise by its epoch and both runs, while it stands") func stamps() {
        var stage = LivenessStage.supported()
        stage.hear(run: 1, at: 50)
        let given = SupportStamp(epoch: 1, supporterRun: 3, askerRun: 1)
        let gained = SupportStamp(epoch: 1, supporterRun: 1, askerRun: 3)
        #expect(stage.liveness.promiseStamp(to: stage.other, now: stage.at(1049)) == given)
        #expect(stage.liveness.promiseStamp(to: stage.other, now: stage.at(1050)) == nil)
        #expect(stage.liveness.supportStamp(from: stage.other, now: stage.at(959)) == gained)
        #expect(stage.liveness.supportStamp(from: stage.other, now: stage.at(960)) == nil)
        #expect(stage.liveness.supportStamp(from: c.address, now: stage.at(50)) == nil)
    }

    @Test("the asker takes a new epoch for a new promise, and reports it") func newEpoch() {
        var stage = LivenessStage.supported()
        stage.wait(until: 200)
        #expect(stage.answer(epoch: 2, at: 230).changed == [stage.other])
        #expect(stage.liveness.supportStamp(from: stage.other, now: stage.at(230))?.epoch == 2)
    }
}

@Suite("Liveness rule 3: a new run number voids everything older")
struct NewRunTests {
    @Test("heard from one who asks, it voids promise and support") func asking() {
        var stage = LivenessStage.supported()
        stage.hear(at: 50)
        #expect(stage.hear(asks: false, run: 2, at: 60).changed == [stage.other])
        #expect(!stage.isPromised(at: 60) && !stage.isSupported(at: 60))
        #expect(stage.liveness.runNumber(of: stage.other) == 2)
        #expect(stage.liveness.supportStamp(from: stage.other, now: stage.at(60)) == nil)
    }

    @Test("heard from one who answers, it voids promise and support") func answering() {
        var stage = LivenessStage.supported()
        stage.hear(at: 50)
        stage.wait(until: 200)
        #expect(stage.answer(granted: false, run: 2, at: 230).changed == [stage.other])
        #expect(!stage.isPromised(at: 230) && !stage.isSupported(at: 230))
    }

    @Test("a promise asked by the new run has an epoch of its own") func epoch() {
        var stage = LivenessStage()
        stage.hear(run: 1, at: 0)
        #expect(stage.hear(run: 2, at: 10).reply?.epoch == 2)
        let stamp = SupportStamp(epoch: 2, supporterRun: 3, askerRun: 2)
        #expect(stage.liveness.promiseStamp(to: stage.other, now: stage.at(10)) == stamp)
    }

    @Test("what an older run asks is not granted") func olderAsker() {
        var stage = LivenessStage()
        stage.step(.track([stage.other]), at: 0)
        stage.hear(asks: false, run: 2, at: 0)
        #expect(stage.hear(run: 1, at: 10).reply?.granted == false)
        #expect(!stage.isPromised(at: 10))
    }

    @Test("what an older run answers is not counted") func olderSupporter() {
        var stage = LivenessStage.asking()
        stage.hear(asks: false, run: 2, at: 20)
        #expect(stage.answer(run: 1, at: 30).changed == [stage.other])
        #expect(!stage.isSupported(at: 30) && !stage.liveness.isReachable(stage.other))
    }
}

@Suite("Liveness rule 4: a starting node is quiet")
struct QuietTests {
    @Test("for one whole promise") func promise() {
        let stage = LivenessStage()
        #expect(stage.liveness.quietUntil == stage.at(1000))
        #expect(stage.liveness.isQuiet(now: stage.at(999)) && !stage.liveness.isQuiet(now: stage.at(1000)))
    }

    @Test("for the longest promise that an earlier run can have given") func earlierPromise() {
        var settings = NodeLiveness.Settings()
        settings.earlierPromise = .milliseconds(5000)
        #expect(LivenessStage(settings: settings).liveness.quietUntil == LivenessStage().at(5000))
        settings.earlierPromise = .milliseconds(500)
        #expect(LivenessStage(settings: settings).liveness.quietUntil == LivenessStage().at(1000))
    }

    @Test("unless it never promised before") func firstRun() {
        var settings = NodeLiveness.Settings()
        settings.startupQuiet = false
        let stage = LivenessStage(settings: settings)
        #expect(!stage.liveness.isQuiet(now: stage.at(0)))
    }
}

@Suite("Liveness rule 5: who is asked")
struct AskingTests {
    @Test("the first message is a ping") func first() {
        var stage = LivenessStage()
        let requests = stage.step(.track([stage.other]), at: 0).requests
        #expect(requests.map(\.request) == [NodeLiveness.Request(runNumber: 3, sequence: 1, asks: false)])
        #expect(requests.map(\.to) == [stage.other])
    }

    @Test("a ping grants nothing") func ping() {
        var stage = LivenessStage()
        #expect(stage.hear(asks: false, at: 0).reply?.granted == false)
        #expect(!stage.isPromised(at: 0))
    }

    @Test("what a ping's answer says is granted is not counted") func grantedPing() {
        var stage = LivenessStage()
        stage.step(.track([stage.other]), at: 0)
        stage.answer(granted: true, at: 5)
        #expect(!stage.isSupported(at: 5))
    }

    @Test("an answered ping reopens asking as soon as the vitals are confirmed, before the next beat") func reopening()
    {
        var stage = LivenessStage()
        stage.step(.track([stage.other]), at: 0)
        #expect(stage.answer(granted: false, at: 5).requests.isEmpty)
        #expect(stage.confirm(from: 5, at: 10).requests.map(\.request.asks) == [true])
    }

    @Test("a check of the vitals starts when an answer has come, one at a time") func checks() {
        var stage = LivenessStage()
        #expect(!stage.step(.track([stage.other]), at: 0).checksVitals)
        #expect(stage.answer(granted: false, at: 5).checksVitals)
        #expect(!stage.wait(until: 300).checksVitals)
        #expect(!stage.confirm(from: 5, at: 310).checksVitals, "nothing has been answered since")
        #expect(stage.answer(at: 320).checksVitals)
    }

    @Test("a node without others, or whom nobody answers, checks nothing") func unneeded() {
        var stage = LivenessStage()
        #expect(!stage.wait(until: 0).checksVitals)
        stage.step(.track([stage.other]), at: 10)
        for time in stride(from: 10, to: 3000, by: 100) { #expect(!stage.wait(until: time).checksVitals) }
    }

    @Test("a check that was started before the previous message left proves nothing") func olderCheck() {
        var stage = LivenessStage.supported()
        stage.wait(until: 200)
        stage.confirm(from: 199, at: 205)
        stage.answer(at: 210)
        #expect(stage.wait(until: 400).requests.isEmpty)
        #expect(stage.confirm(from: 200, at: 410).requests.map(\.request.asks) == [true])
    }

    @Test("a message that waits for a slow check is held back, and then asks") func slowCheck() {
        var stage = LivenessStage.asking()
        #expect(stage.answer(at: 30).checksVitals)
        for time in stride(from: 200, to: 1000, by: 200) { #expect(stage.wait(until: time).requests.isEmpty) }
        #expect(stage.confirm(from: 30, at: 900).requests.map(\.request.asks) == [true])
    }

    @Test("while a check hangs there are pings, one per promise, and the support ends; its good end reopens asking")
    func hangingCheck() {
        var stage = LivenessStage.asking()
        #expect(stage.answer(at: 30).checksVitals)
        #expect(stage.liveness.deadline == stage.at(960))
        #expect(stage.wait(until: 960).changed == [stage.other] && !stage.isSupported(at: 960))
        #expect(stage.liveness.deadline == stage.at(1010))
        #expect(stage.wait(until: 1010).requests.map(\.request.asks) == [false])
        #expect(stage.answer(granted: false, at: 1020).requests.isEmpty)
        #expect(!stage.wait(until: 2000).checksVitals, "the one under way has not ended")
        #expect(stage.wait(until: 2010).requests.map(\.request.asks) == [false])
        stage.answer(granted: false, at: 2020)
        #expect(stage.confirm(from: 30, at: 2500).checksVitals, "that one is too old")
        #expect(stage.confirm(from: 2500, at: 2510).requests.map(\.request.asks) == [true])
    }

    @Test("after an unanswered message comes a ping, on the next beat", arguments: [false, true])
    func unanswered(isToldOf: Bool) {
        var stage = LivenessStage.supported()
        stage.wait(until: 200)
        let failure = isToldOf ? 310 : 1200
        if isToldOf { stage.step(.failed(stage.other), at: failure) } else { stage.wait(until: failure) }
        #expect(stage.effects.requests.isEmpty)
        #expect(stage.wait(until: failure / 200 * 200 + 200).requests.map(\.request.asks) == [false])
        stage.answer(at: failure / 200 * 200 + 210)
        #expect(!stage.isSupported(at: 1500), "it was a ping")
    }

    @Test("one check serves all nodes: they are asked on one beat") func beat() {
        var stage = LivenessStage()
        let nodes = [b.address, c.address, d.address]
        var asked = stage.step(.track(nodes), at: 0).requests
        for time in [0, 50, 200, 400, 600] {
            var checks = 0
            for (offset, (node, request)) in asked.enumerated() {
                let reply = NodeLiveness.Reply(
                    sequence: request.sequence, granted: true, epoch: 1, runNumber: 1, wallClockMilliseconds: 0)
                stage.step(.answered(reply, from: node), at: time + 10 * (offset + 1))
                if stage.effects.checksVitals { checks += 1 }
            }
            #expect(asked.map(\.to) == nodes && checks == 1)
            // after the first pings they are asked at once
            asked = stage.confirm(from: time + 10, at: time + 50).requests
            if time > 0 { asked = stage.wait(until: (time / 200 + 1) * 200).requests }
        }
    }
}

@Suite("Liveness rule 6: one request at a time; reachable and foreign nodes")
struct ReachabilityTests {
    @Test("requests come an interval apart, and one at a time") func pace() {
        var stage = LivenessStage.supported()
        #expect(stage.liveness.deadline == stage.at(200))
        #expect(stage.wait(until: 199).requests.isEmpty)
        #expect(stage.wait(until: 200).requests.map(\.request.asks) == [true])
        #expect(stage.wait(until: 600).requests.isEmpty)
    }

    @Test("a node is reachable once it has answered, and reported as such") func reachable() {
        var stage = LivenessStage()
        stage.step(.track([stage.other]), at: 0)
        #expect(!stage.liveness.isReachable(stage.other) && !stage.liveness.isReachable(c.address))
        #expect(stage.answer(granted: false, at: 5).changed == [stage.other])
        #expect(stage.liveness.isReachable(stage.other))
    }

    @Test("after one promise without an answer it is unreachable, and reported as such") func timeout() {
        var stage = LivenessStage.supported()
        stage.wait(until: 200)
        stage.wait(until: 960)
        #expect(stage.wait(until: 1199).changed == [] && stage.liveness.isReachable(stage.other))
        #expect(stage.wait(until: 1200).changed == [stage.other] && !stage.liveness.isReachable(stage.other))
    }

    @Test("a failed request makes it unreachable at once; support already gained stands to its end") func failure() {
        var stage = LivenessStage.supported()
        stage.wait(until: 200)
        #expect(stage.step(.failed(stage.other), at: 300).changed == [stage.other])
        #expect(!stage.liveness.isReachable(stage.other) && stage.isSupported(at: 300))
        #expect(stage.step(.failed(stage.other), at: 310).changed == [], "nothing was under way")
    }

    @Test("an answer to an earlier request is not heard") func olderAnswer() {
        var stage = LivenessStage.supported()
        stage.wait(until: 200)
        let reply = NodeLiveness.Reply(
            sequence: 2, granted: true, epoch: 1, runNumber: 1, wallClockMilliseconds: 0)
        stage.step(.answered(reply, from: stage.other), at: 210)
        #expect(!stage.isSupported(at: 970))
    }

    @Test("a foreign node is reachable, supports nobody, and is reported once") func foreign() {
        var stage = LivenessStage.supported()
        #expect(stage.step(.foreign(stage.other), at: 50).changed == [stage.other])
        #expect(stage.liveness.isForeign(stage.other) && !stage.isSupported(at: 50))
        #expect(stage.step(.foreign(stage.other), at: 60).changed == [])
        stage.wait(until: 200)
        stage.step(.failed(stage.other), at: 210)
        #expect(stage.liveness.isReachable(stage.other))
    }

    @Test("a promise to a node found foreign is kept: the asker at that address may still live") func keptPromise() {
        var stage = LivenessStage()
        stage.step(.track([stage.other]), at: 0)
        stage.hear(at: 10)
        stage.step(.foreign(stage.other), at: 20)
        #expect(stage.isPromised(at: 1009))
    }

    @Test("a foreign node that answers, or is heard asking, is one of ours", arguments: [false, true])
    func familiar(answers: Bool) {
        var stage = LivenessStage()
        stage.step(.track([stage.other]), at: 0)
        stage.step(.foreign(stage.other), at: 10)
        if answers { stage.answer(granted: false, at: 20) } else { stage.hear(asks: false, at: 20) }
        #expect(stage.effects.changed == [stage.other] && !stage.liveness.isForeign(stage.other))
    }

    @Test("the difference of the clocks is remembered") func clocks() {
        let stage = LivenessStage.supported()
        let offset: Int64 = 9000 - 5030
        #expect(stage.liveness.wallClockOffset(of: stage.other) == offset)
        #expect(stage.liveness.wallClockOffset(of: c.address) == nil)
    }
}

import Testing

@testable import RaftCore

@Suite("Node liveness")
struct NodeLivenessTests {
    private let start = Instant(nanoseconds: 5_000_000_000)
    private var other: NodeAddress { b.address }

    private func make() -> NodeLiveness {
        NodeLiveness(node: a.address, runNumber: 3, settings: NodeLiveness.Settings(), startedAt: start)
    }

    private func at(_ milliseconds: Int) -> Instant { start + .milliseconds(milliseconds) }

    private func step(
        _ liveness: inout NodeLiveness, _ event: NodeLiveness.Event, at time: Int
    ) -> NodeLiveness.Effects {
        var effects = NodeLiveness.Effects()
        liveness.step(event, now: at(time), into: &effects)
        return effects
    }

    private func ask(_ sequence: UInt64, asks: Bool = true, run: UInt64 = 1) -> NodeLiveness.Event {
        let request = NodeLiveness.Request(runNumber: run, sequence: sequence, asks: asks)
        return .received(request, from: other, wallClock: 77)
    }

    private func reply(_ sequence: UInt64, granted: Bool, epoch: UInt64 = 1, run: UInt64 = 1) -> NodeLiveness.Event {
        let reply = NodeLiveness.Reply(
            sequence: sequence, granted: granted, epoch: epoch, runNumber: run, wallClockMilliseconds: 9000)
        return .answered(reply, from: other)
    }

    /// Asked at 10 ms, granted at 30 ms.
    private func supported() -> NodeLiveness {
        var liveness = make()
        _ = step(&liveness, .track([other]), at: 0)
        _ = step(&liveness, reply(1, granted: false), at: 10)
        _ = step(&liveness, reply(2, granted: true), at: 30)
        return liveness
    }

    @Test("the supporter counts a promise from receipt, and reports its end")
    func promise() {
        var liveness = make()
        let effects = step(&liveness, ask(1), at: 100)
        #expect(effects.reply?.granted == true && effects.reply?.epoch == 1 && effects.reply?.runNumber == 3)
        #expect(effects.reply?.wallClockMilliseconds == 77 && effects.changed == [other])
        #expect(liveness.promiseStands(to: other, now: at(1099)) && !liveness.promiseStands(to: other, now: at(1100)))
        #expect(liveness.deadline == at(1100))
        #expect(step(&liveness, .deadlineReached, at: 1100).changed == [other])
    }

    @Test("renewing in time keeps the epoch; after a lapse it is a higher one")
    func epochs() {
        var liveness = make()
        _ = step(&liveness, ask(1), at: 0)
        let renewed = step(&liveness, ask(2), at: 900)
        #expect(renewed.reply?.epoch == 1 && renewed.changed.isEmpty)
        let late = step(&liveness, ask(3), at: 1900)
        #expect(late.reply?.epoch == 2 && late.changed == [other])
    }

    @Test("the asker counts from the sending, shortened by the drift")
    func support() {
        var liveness = supported()
        #expect(liveness.supportStands(from: other, now: at(959)))
        #expect(!liveness.supportStands(from: other, now: at(960)))
        #expect(step(&liveness, .failed(other), at: 700).changed.isEmpty)
        #expect(step(&liveness, .deadlineReached, at: 960).changed == [other])
    }

    @Test("an answer that comes too late gives nothing")
    func lateAnswer() {
        var liveness = make()
        _ = step(&liveness, .track([other]), at: 0)
        _ = step(&liveness, reply(1, granted: false), at: 10)
        _ = step(&liveness, reply(2, granted: true), at: 970)
        #expect(!liveness.supportStands(from: other, now: at(970)))
    }

    @Test("the first message is a ping; its answer reopens asking at once")
    func ping() {
        var liveness = make()
        let first = step(&liveness, .track([other]), at: 0).requests
        #expect(first.map(\.request.asks) == [false] && first[0].request.runNumber == 3)
        #expect(step(&liveness, reply(1, granted: false), at: 10).requests.map(\.request.asks) == [true])
        #expect(!liveness.supportStands(from: other, now: at(10)))
    }

    @Test("a ping grants nothing")
    func pingGrantsNothing() {
        var liveness = make()
        let effects = step(&liveness, ask(1, asks: false), at: 0)
        #expect(effects.reply?.granted == false && !liveness.promiseStands(to: other, now: at(0)))
    }

    @Test("one request at a time, an interval apart")
    func pace() {
        var liveness = supported()
        #expect(liveness.deadline == at(210))
        #expect(step(&liveness, .deadlineReached, at: 209).requests.isEmpty)
        #expect(step(&liveness, .deadlineReached, at: 210).requests.map(\.request.asks) == [true])
        #expect(step(&liveness, .deadlineReached, at: 500).requests.isEmpty)
    }

    @Test("after an unanswered request comes a ping", arguments: [false, true])
    func unanswered(isToldOf: Bool) {
        var liveness = supported()
        _ = step(&liveness, .deadlineReached, at: 210)
        let failure = isToldOf ? 300 : 1210
        let event = isToldOf ? NodeLiveness.Event.failed(other) : .deadlineReached
        #expect(step(&liveness, event, at: failure).requests.isEmpty)
        #expect(step(&liveness, .deadlineReached, at: failure + 200).requests.map(\.request.asks) == [false])
        #expect(step(&liveness, reply(3, granted: true), at: failure + 210).changed.isEmpty, "too late to count")
    }

    @Test("a new run voids promise and support, and an old one is not heard")
    func runs() {
        var liveness = supported()
        _ = step(&liveness, ask(1), at: 40)
        let effects = step(&liveness, ask(1, asks: false, run: 2), at: 50)
        #expect(effects.changed == [other] && liveness.runNumber(of: other) == 2)
        #expect(!liveness.promiseStands(to: other, now: at(50)) && !liveness.supportStands(from: other, now: at(50)))
        #expect(step(&liveness, ask(9, run: 1), at: 60).reply?.granted == false)
    }

    @Test("a starting node is quiet for one promise, and stands by itself")
    func quiet() {
        let liveness = make()
        #expect(liveness.isQuiet(now: at(999)) && !liveness.isQuiet(now: at(1000)) && liveness.quietUntil == at(1000))
        #expect(liveness.promiseStands(to: a.address, now: at(0)))
        #expect(liveness.supportStands(from: a.address, now: at(0)))
    }

    @Test("a promise outlives the last shared group; then the node rests")
    func untracked() {
        var liveness = supported()
        _ = step(&liveness, ask(1), at: 40)
        _ = step(&liveness, .track([]), at: 50)
        #expect(liveness.promiseStands(to: other, now: at(500)))
        #expect(step(&liveness, .deadlineReached, at: 300).requests.isEmpty)
        #expect(step(&liveness, .deadlineReached, at: 2000).changed == [other])
        #expect(liveness.deadline == nil)
    }

    @Test("the difference of the clocks is remembered")
    func clocks() {
        let liveness = supported()
        #expect(liveness.wallClockOffset(of: other) == 9000 - 5030 && liveness.wallClockOffset(of: c.address) == nil)
    }

    @Test("several changes come once each, in order")
    func order() {
        var liveness = make()
        _ = step(&liveness, .track([b.address, c.address]), at: 0)
        for node in [c, b] {
            let request = NodeLiveness.Request(runNumber: 1, sequence: 1, asks: true)
            _ = step(&liveness, .received(request, from: node.address, wallClock: 0), at: 10)
        }
        #expect(step(&liveness, .deadlineReached, at: 1500).changed == [b.address, c.address])
    }
}

@testable import RaftCore

/// The liveness of one node, `a`, in its third run, driven event by event; the other node is `b`. Times are milliseconds
/// since its start.
struct LivenessStage {
    private static let start = Instant(nanoseconds: 5_000_000_000)
    var liveness: NodeLiveness
    let other = b.address
    /// Of the last step.
    private(set) var effects = NodeLiveness.Effects()
    private var lastSequence: UInt64 = 0

    init(settings: NodeLiveness.Settings = NodeLiveness.Settings()) {
        liveness = NodeLiveness(node: a.address, runNumber: 3, settings: settings, startedAt: LivenessStage.start)
    }

    func at(_ milliseconds: Int) -> Instant { LivenessStage.start + .milliseconds(milliseconds) }

    @discardableResult
    mutating func step(_ event: NodeLiveness.Event, at time: Int) -> NodeLiveness.Effects {
        effects.removeAll()
        liveness.step(event, now: at(time), into: &effects)
        if let request = effects.requests.last?.request { lastSequence = request.sequence }
        return effects
    }

    @discardableResult
    mutating func wait(until time: Int) -> NodeLiveness.Effects { step(.deadlineReached, at: time) }

    /// `node` asks this one.
    @discardableResult
    mutating func hear(
        from node: PeerID = b, asks: Bool = true, run: UInt64 = 1, sequence: UInt64 = 1, at time: Int
    ) -> NodeLiveness.Effects {
        let request = NodeLiveness.Request(runNumber: run, sequence: sequence, asks: asks)
        return step(.received(request, from: node.address, wallClock: 77), at: time)
    }

    /// The other node answers the last request.
    @discardableResult
    mutating func answer(
        granted: Bool = true, epoch: UInt64 = 1, run: UInt64 = 1, promise: Interval? = nil, at time: Int
    ) -> NodeLiveness.Effects {
        let reply = NodeLiveness.Reply(
            sequence: lastSequence, granted: granted, epoch: epoch, runNumber: run, wallClockMilliseconds: 9000,
            promise: promise)
        return step(.answered(reply, from: other), at: time)
    }

    /// A check of the vitals started at `start` has ended well.
    @discardableResult
    mutating func confirm(from start: Int, at time: Int) -> NodeLiveness.Effects {
        step(.vitalsConfirmed(startedAt: at(start)), at: time)
    }

    func isPromised(at time: Int) -> Bool { liveness.promiseStands(to: other, now: at(time)) }
    func isSupported(at time: Int) -> Bool { liveness.supportStands(from: other, now: at(time)) }

    /// Pinged at 0 and asked at 10 ms.
    static func asking() -> LivenessStage {
        var stage = LivenessStage()
        stage.step(.track([b.address]), at: 0)
        stage.answer(granted: false, at: 5)
        stage.confirm(from: 5, at: 10)
        return stage
    }

    /// Asked at 10 ms and granted at 30 ms; the vitals are confirmed.
    static func supported() -> LivenessStage {
        var stage = LivenessStage.asking()
        stage.answer(at: 30)
        stage.confirm(from: 30, at: 40)
        return stage
    }
}

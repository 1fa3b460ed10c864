import Testing

@testable import RaftCore
@testable import Simulator

/// Nodes that ask each other for support while clocks drift, messages are late, lost and doubled, vitals hang, and
/// nodes pause and restart. Messages travel as they do between hosts: an answer reaches only the run that asked.
private struct PromiseWorld {
    private struct Node {
        var liveness: NodeLiveness
        var run: UInt64
        /// Of all its runs; on its disk.
        var longestPromise = Interval(nanoseconds: 0)
        var offset: Int64
        /// Clock ticks per 1000 ns.
        var rate: Int64
        var isUp = true
        /// Takes no step before then: a lane that spins, or a process that was suspended.
        var pausedUntil: Int64 = 0
        /// No check of its vitals ends before then.
        var hangsUntil: Int64 = 0
    }

    private enum Happening {
        case request(NodeLiveness.Request, from: Int, run: UInt64, to: Int)
        case reply(NodeLiveness.Reply, from: Int, to: Int, run: UInt64)
        case failed(node: Int, run: UInt64, peer: Int)
        case vitals(node: Int, run: UInt64, startedAt: Instant)
        case restart(Int)
    }

    private var random: SeededRandom
    private var nodes: [Node] = []
    private var queue = Agenda<Happening>()
    private var time: Int64 = 0
    private let settings: NodeLiveness.Settings
    private(set) var problems: [String] = []
    /// How often a promise was counted when somebody looked, so that a run that never gets there does not pass.
    private(set) var counted = 0

    init(seed: UInt64, size: Int, settings: NodeLiveness.Settings) {
        random = SeededRandom(seed: seed)
        self.settings = settings
        for _ in 0..<size {
            nodes.append(
                Node(
                    liveness: NodeLiveness(
                        node: PromiseWorld.address(0), runNumber: 1, settings: settings, startedAt: .distantPast),
                    run: 0, offset: chance(in: 0..<1_000_000_000_000), rate: 1000))
        }
        for node in nodes.indices { start(node) }
    }

    private static func address(_ node: Int) -> NodeAddress { NodeAddress(ip: 10 << 24 | UInt32(node), port: 8000) }
    private static let millisecond: Int64 = 1_000_000

    private mutating func chance(in range: Range<Int64>) -> Int64 { random.number(in: range) }
    private mutating func happens(oneOf count: Int64) -> Bool { chance(in: 0..<count) == 0 }

    private func clock(_ node: Int) -> Instant {
        Instant(nanoseconds: nodes[node].offset + time / 1000 * nodes[node].rate)
    }

    private mutating func start(_ node: Int) {
        nodes[node].run += 1
        nodes[node].isUp = true
        nodes[node].pausedUntil = 0
        nodes[node].hangsUntil = 0
        // the fastest clock runs as much faster than the slowest as is permitted
        let rates: [Int64] = [1000, 1000 + 10 * Int64(settings.maxClockDriftPercent)]
        nodes[node].offset += time / 1000 * nodes[node].rate
        nodes[node].rate = rates[Int(chance(in: 0..<2))]
        nodes[node].offset -= time / 1000 * nodes[node].rate
        var own = settings
        own.startupQuiet = nodes[node].run > 1
        // not always the same on all nodes, nor in all runs of one
        own.promise = [settings.promise, .milliseconds(600), .milliseconds(2500)][Int(chance(in: 0..<3))]
        own.earlierPromise = nodes[node].longestPromise
        nodes[node].longestPromise = max(nodes[node].longestPromise, own.promise)
        nodes[node].liveness = NodeLiveness(
            node: PromiseWorld.address(node), runNumber: nodes[node].run, settings: own, startedAt: clock(node))
        step(node, .track(nodes.indices.map(PromiseWorld.address)))
    }

    mutating func run(steps: Int) {
        for _ in 0..<steps {
            if happens(oneOf: 200) { makeTrouble() }
            advance()
            inspect()
        }
    }

    /// To the next thing that happens, or that a clock makes due; looked at now and then in between.
    private mutating func advance() {
        var next = time + chance(in: 1..<40) * PromiseWorld.millisecond
        if let soonest = queue.nextTime { next = min(next, max(time, soonest)) }
        time = next
        while let happening = queue.pop(notAfter: time) { handle(happening) }
        for node in nodes.indices where isAwake(node) {
            if let deadline = nodes[node].liveness.deadline, deadline <= clock(node) { step(node, .deadlineReached) }
        }
    }

    private func isAwake(_ node: Int) -> Bool { nodes[node].isUp && nodes[node].pausedUntil <= time }

    private mutating func makeTrouble() {
        let node = Int(chance(in: 0..<Int64(nodes.count)))
        guard nodes[node].isUp else { return }
        let until = time + chance(in: 1..<4000) * PromiseWorld.millisecond
        switch chance(in: 0..<4) {
        case 0: nodes[node].pausedUntil = until
        case 1: nodes[node].hangsUntil = until
        case 2: step(node, .foreign(PromiseWorld.address(Int(chance(in: 0..<Int64(nodes.count))))))
        default:
            nodes[node].isUp = false
            queue.push(.restart(node), at: time + chance(in: 1..<1500) * PromiseWorld.millisecond)
        }
    }

    /// What comes to a node that does not turn waits for it.
    private func pause(of node: Int) -> Int64? {
        nodes[node].isUp && nodes[node].pausedUntil > time ? nodes[node].pausedUntil : nil
    }

    private mutating func handle(_ happening: Happening) {
        let receiver =
            switch happening {
            case .request(_, _, _, let to), .reply(_, _, let to, _): to
            case .failed(let node, _, _), .vitals(let node, _, _), .restart(let node): node
            }
        if let later = pause(of: receiver) { return queue.push(happening, at: later) }
        switch happening {
        case .request(let request, let from, let run, let to):
            guard nodes[to].isUp, nodes[from].run == run else { return }
            step(to, .received(request, from: PromiseWorld.address(from), wallClock: 0), asker: (from, run))
        case .reply(let reply, let from, let to, let run):
            guard nodes[to].isUp, nodes[to].run == run else { return }
            step(to, .answered(reply, from: PromiseWorld.address(from)))
        case .failed(let node, let run, let peer):
            guard nodes[node].isUp, nodes[node].run == run else { return }
            step(node, .failed(PromiseWorld.address(peer)))
        case .vitals(let node, let run, let startedAt):
            guard nodes[node].isUp, nodes[node].run == run else { return }
            if nodes[node].hangsUntil > time { return queue.push(happening, at: nodes[node].hangsUntil) }
            step(node, .vitalsConfirmed(startedAt: startedAt))
        case .restart(let node): start(node)
        }
    }

    private mutating func step(_ node: Int, _ event: NodeLiveness.Event, asker: (node: Int, run: UInt64)? = nil) {
        var effects = NodeLiveness.Effects()
        nodes[node].liveness.step(event, now: clock(node), into: &effects)
        for (to, request) in effects.requests {
            let peer = Int(to.ip & 0xff)
            send(.request(request, from: node, run: nodes[node].run, to: peer), from: node, to: peer)
        }
        if let reply = effects.reply, let asker {
            send(.reply(reply, from: node, to: asker.node, run: asker.run), from: asker.node, to: node)
        }
        if effects.checksVitals {
            let check = Happening.vitals(node: node, run: nodes[node].run, startedAt: clock(node))
            queue.push(check, at: time + delay())
        }
    }

    private mutating func delay() -> Int64 {
        let bound: Int64 = happens(oneOf: 10) ? 1500 : 20
        return chance(in: 1..<bound * 1000) * 1000
    }

    /// A message of the request from `asker` to `supporter`, either way.
    private mutating func send(_ happening: Happening, from asker: Int, to supporter: Int) {
        if happens(oneOf: 12) {
            if happens(oneOf: 2) {
                let failure = Happening.failed(node: asker, run: nodes[asker].run, peer: supporter)
                queue.push(failure, at: time + delay())
            }
            return
        }
        queue.push(happening, at: time + delay())
        if happens(oneOf: 20) { queue.push(happening, at: time + delay()) }
    }

    /// Rules 1 to 4: at any moment, what an asker counts the supporter keeps, under exactly that name; or the supporter
    /// has started again since, and is quiet.
    private mutating func inspect() {
        for asker in nodes.indices where nodes[asker].isUp {
            for supporter in nodes.indices where supporter != asker {
                let stamp = nodes[asker].liveness.supportStamp(
                    from: PromiseWorld.address(supporter), now: clock(asker))
                guard let stamp else { continue }
                counted += 1
                // a node that is down helps nobody to win
                guard nodes[supporter].isUp else { continue }
                let kept = nodes[supporter].liveness.promiseStamp(
                    to: PromiseWorld.address(asker), now: clock(supporter))
                let isRestarted = nodes[supporter].run > stamp.supporterRun
                let isQuiet = nodes[supporter].liveness.isQuiet(now: clock(supporter))
                if kept == stamp || isRestarted && isQuiet { continue }
                problems.append(
                    "at \(time): \(asker) counts \(stamp) of \(supporter), which keeps \(String(describing: kept))")
            }
        }
    }
}

@Suite("Liveness rules 1 to 6, whatever happens")
struct RandomPromiseTests {
    @Test("an asker never counts a promise that the supporter does not keep exactly", arguments: 1...12)
    func promises(seed: UInt64) {
        var settings = NodeLiveness.Settings()
        settings.maxClockDriftPercent = [5, 20, 0][Int(seed % 3)]
        var world = PromiseWorld(seed: seed, size: 2 + Int(seed % 3), settings: settings)
        world.run(steps: 20_000)
        #expect(world.problems == [])
        #expect(world.counted > 5_000, "a world without promises proves nothing")
    }
}

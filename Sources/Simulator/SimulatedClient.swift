import RaftCore
import ShardClient
import ShardMap
import Transport

/// A client with the real router and wire: it calls, thinks, and calls again.
final class SimulatedClient {
    let number: Int
    let lane: SimulatedLane
    let remote: RpcTransport
    private let router: Router
    private let keys: KeyTable
    private var random: SeededRandom
    private var nextCall: Instant?
    private var lastValue = 0
    private(set) var underWay = 0
    /// Hears how every call ended.
    var onEnd: (_ key: KeyTable.Key, _ operation: KeyModel.Operation, _ end: KeyTable.CallEnd) -> Void = { _, _, _ in }
    /// Hears of contradictions.
    var onViolation: (Violation) -> Void = { _ in }

    private static let underWayMax = 4
    private var isReader: Bool { number % 2 == 0 }

    init(number: Int, world: SimulatedWorld, seeds: [NodeAddress], keys: KeyTable, seed: UInt64) {
        self.number = number
        self.keys = keys
        random = SeededRandom(seed: seed)
        let lane = world.addNode(at: SimulatedNode.address(100 + number))
        let remote = RpcTransport(network: lane, clock: lane.clock)
        let router = Router(
            seeds: seeds, transport: remote, clock: lane.clock, settings: Router.Settings(), seed: random.next())
        (self.lane, self.remote, self.router) = (lane, remote, router)
        router.requestTurn = { [unowned lane] in lane.requestTurn() }
        lane.setTurn { [unowned self] now in
            callIfDue(now)
            return [router.turn(now: now), remote.turn(now: now), nextCall].lazy.compactMap { $0 }.min()
        }
    }

    /// Begins to call.
    func begin() {
        nextCall = lane.clock.now
        lane.requestTurn()
    }

    /// Calls no more by itself.
    func rest() { nextCall = nil }

    /// Ends; nobody hears of calls under way.
    func close() {
        (onEnd, onViolation) = ({ _, _, _ in }, { _ in })
        router.close()
        remote.close()
    }

    private func chance(_ bound: Int) -> Int { Int(random.number(in: 0..<Int64(bound))) }

    private func callIfDue(_ now: Instant) {
        guard let due = nextCall, due <= now else { return }
        nextCall = now + Interval(nanoseconds: random.number(in: 200_000..<30_000_000))
        guard underWay < SimulatedClient.underWayMax else { return }
        var calls: [(KeyTable.Key, KeyModel.Operation)] = []
        // some keys are used more than others
        let first = min(chance(keys.count), chance(keys.count))
        for offset in 0..<(chance(6) == 0 ? 3 : 1) {
            calls.append((keys.key(at: (first + offset) % keys.count), randomOperation()))
        }
        call(calls, within: .milliseconds(chance(4) == 0 ? 300 + chance(700) : 2000 + chance(4000)))
    }

    private func randomOperation() -> KeyModel.Operation {
        // one that reads hardly ever hears from a refused write that its leader leads no longer
        switch isReader ? chance(120) : chance(20) {
        case 0..<7, 20...: return .get
        case 7..<11:
            lastValue += 1
            return .put(Bytes("\(number * 100_000 + lastValue)"))
        case 11..<13: return .delete
        case 13..<15: return .append(Bytes("\(chance(10))"))
        default: return .increment(Int64(1 + chance(9)))
        }
    }

    /// Calls, in one request where that is possible; `done` hears how each ended.
    func call(
        _ calls: [(key: KeyTable.Key, operation: KeyModel.Operation)], within interval: Interval,
        _ done: @escaping ([KeyTable.CallEnd]) -> Void = { _ in }
    ) {
        underWay += 1
        let slots = calls.map { keys.called($0.key, $0.operation) }
        router.execute(
            calls.map { $0.operation.keyOperation(on: $0.key.name) }, deadline: lane.clock.now + interval
        ) { [unowned self] results in
            underWay -= 1
            var ends: [KeyTable.CallEnd] = []
            for ((call, slot), result) in zip(zip(calls, slots), results) {
                let end = call.operation.end(with: result)
                ends.append(end)
                let violation = keys.ended(call.key, slot, call.operation, end)
                onEnd(call.key, call.operation, end)
                if let violation { onViolation(violation) }
            }
            done(ends)
        }
    }
}

extension KeyModel.Operation {
    /// Writes ask for the value before, so that executing one twice shows.
    fileprivate func keyOperation(on key: Bytes) -> KeyOperation {
        switch self {
        case .get: KeyOperation(.get, key: key)
        case .put(let value): KeyOperation(.set, key: key, value: value, returnsOldValue: true)
        case .delete: KeyOperation(.delete, key: key, returnsOldValue: true)
        case .append(let value): KeyOperation(.append, key: key, value: value)
        case .increment(let number): KeyOperation(.increment, key: key, number: number)
        }
    }

    fileprivate func end(with result: KeyResult) -> KeyTable.CallEnd {
        switch result.error {
        case nil:
            switch self {
            case .get, .put, .delete: .answered(.value(result.value))
            case .append, .increment: .answered(.number(result.integer ?? 0))
            }
        case .notAnInteger: .answered(.notAnInteger)
        case .some(let error): error.outcome == .notExecuted ? .refused : .lost
        }
    }
}

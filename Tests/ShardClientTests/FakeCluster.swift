import RaftCore
import ShardMap
import WireMessages

@testable import ShardClient

/// A cluster without Raft, on virtual time, as bad as the network allows: requests and replies are delayed, lost with
/// and without notice, and executed long after they were given up; leaders change, sessions are evicted, shards move
/// and are split. Its state is what the servers' contract says: sessions with their replies, epochs, floors.
///
/// The only write is an append of a unique tag, so that the values themselves tell how often each was executed.
final class FakeCluster: RouterTransport {
    private struct Session {
        var floor: UInt64 = 0
        var replies: [UInt64: (operations: [KeyOperation], results: [KeyResult])] = [:]
    }

    private struct Event {
        var time: Instant
        var number: Int
        var action: () -> Void
    }

    let clock = ManualClock()
    private(set) var map: ClusterMap
    private(set) var values: [Bytes: String] = [:]
    private var sessions: [UInt64: [UInt64: Session]] = [:]
    private var sessionsOpened: UInt64 = 0
    private var leaders: [String: NodeAddress] = [:]
    private var events: [Event] = []
    private var eventNumber = 0
    private var random: SeededRandom
    /// Whether things go wrong.
    var isHostile = true
    /// Every write command that left, by (session, sequence): all that may have been executed must be the same.
    private(set) var contradictions = 0
    private(set) var executions = 0
    private(set) var duplicates = 0

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        map = .split(at: ["h", "q"])
    }

    func chance(_ oneIn: Int64) -> Bool { random.number(in: 0..<oneIn) == 0 }
    func number(_ range: Range<Int64>) -> Int64 { random.number(in: range) }

    /// Runs `action` a random while from now.
    func later(upTo milliseconds: Int64, _ action: @escaping () -> Void) {
        let delay = Interval(nanoseconds: random.number(in: 10_000..<milliseconds * 1_000_000))
        at(clock.now + delay, action)
    }

    func at(_ time: Instant, _ action: @escaping () -> Void) {
        eventNumber += 1
        events.append(Event(time: time, number: eventNumber, action: action))
    }

    /// Lets everything happen until nothing is left, with a turn of `router` after each event.
    func run(_ router: Router) {
        var due = router.turn(now: clock.now)
        while true {
            let next = events.indices.min {
                (events[$0].time, events[$0].number) < (events[$1].time, events[$1].number)
            }
            if let due, next.map({ due <= events[$0].time }) ?? true {
                clock.now = max(clock.now, due)
            } else if let next {
                let event = events.remove(at: next)
                clock.now = max(clock.now, event.time)
                event.action()
            } else {
                return
            }
            due = router.turn(now: clock.now)
        }
    }

    // MARK: mischief

    /// Something changes in the cluster.
    func disturb() {
        let shard = Int(number(0..<Int64(map.shards.count)))
        switch number(0..<10) {
        case 0..<5: leaders[map.shards[shard].group] = .n(Int(number(1..<4)))
        case 5..<7: sessions[map.shards[shard].id] = nil
        case 7..<9:
            map.shards[shard].group = "g\(number(1..<4))"
            map.shards[shard].epoch += 1
            map.version += 1
        default: split(shard)
        }
    }

    private func split(_ position: Int) {
        let shard = map.shards[position]
        let middle = Bytes([UInt8(number(0x61..<0x7b))])
        guard shard.range.start < middle, shard.range.end.isEmpty || middle < shard.range.end else { return }
        let half = Shard(
            id: (map.shards.map(\.id).max() ?? 0) + 1, range: KeyRange(start: middle, end: shard.range.end),
            group: shard.group, epoch: shard.epoch + 1)
        map.shards[position].range.end = middle
        map.shards[position].epoch += 1
        map.shards.insert(half, at: position + 1)
        map.version += 1
        sessions[half.id] = sessions[shard.id]
    }

    // MARK: transport

    func execute(
        _ request: ExecuteRequest, command: Bytes?, at node: NodeAddress, deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void
    ) {
        guard isHostile else {
            return later(upTo: 2) { completion(.reply(self.evaluate(request, command, at: node))) }
        }
        switch number(0..<12) {
        case 0: later(upTo: 5) { completion(.notSent("connection refused")) }
        case 1: later(upTo: 50) { completion(.lost("connection broke")) }
        case 2:
            // reported lost, executed all the same, perhaps much later
            later(upTo: 50) { completion(.lost("connection broke")) }
            later(upTo: 3000) { _ = self.evaluate(request, command, at: node) }
        case 3: later(upTo: 3000) { _ = self.evaluate(request, command, at: node) }
        case 4:
            later(upTo: 300) {
                let reply = self.evaluate(request, command, at: node)
                self.later(upTo: 3000) { completion(.reply(reply)) }
            }
        case 5: later(upTo: 5) { completion(.reply(ExecuteReply(error: .busy))) }
        case 6:
            later(upTo: 5) {
                let reply = self.evaluate(request, command, at: node)
                // a leader that stepped down before it knew
                completion(.reply(reply.error == nil ? ExecuteReply(error: .outcomeUnknown) : reply))
            }
        default:
            later(upTo: 5) {
                let reply = self.evaluate(request, command, at: node)
                self.later(upTo: 5) { completion(.reply(reply)) }
            }
        }
    }

    func fetchMap(
        at node: NodeAddress, newerThan version: UInt64, patience: Interval, deadline: Instant,
        completion: @escaping (MapAnswer) -> Void
    ) {
        let answered = map
        guard !(isHostile && chance(4)) else { return later(upTo: 5) { completion(.silence) } }
        later(upTo: 10) { completion(.map(answered)) }
    }

    // MARK: the servers

    private func evaluate(_ request: ExecuteRequest, _ command: Bytes?, at node: NodeAddress) -> ExecuteReply {
        let leader = leaders[request.group] ?? .n(1)
        guard node == leader else { return ExecuteReply(error: .notLeader, leader: chance(2) ? leader : nil) }
        guard let shard = map.shards.first(where: { $0.id == request.shard }), shard.group == request.group,
            shard.epoch == request.epoch
        else { return ExecuteReply(error: .wrongShard) }
        guard let command else {
            return ExecuteReply(results: request.reads.map { KeyResult(value: values[$0.key].map { Bytes($0) }) })
        }
        switch try? GroupCommand.decoded(command, Arena()) {
        case .openSession:
            sessionsOpened += 1
            sessions[shard.id, default: [:]][sessionsOpened] = Session()
            return ExecuteReply(session: sessionsOpened)
        case .write(let write): return apply(write, shard)
        default: return ExecuteReply(error: .badRequest)
        }
    }

    private func apply(_ write: SessionWrite, _ shard: Shard) -> ExecuteReply {
        guard var session = sessions[shard.id]?[write.session] else { return ExecuteReply(error: .sessionExpired) }
        session.floor = max(session.floor, write.floor)
        session.replies = session.replies.filter { $0.key >= session.floor }
        defer { sessions[shard.id]?[write.session] = session }
        guard write.sequence >= session.floor else { return ExecuteReply(error: .sequenceTooOld) }
        guard write.sequence < session.floor + 64 else { return ExecuteReply(error: .windowExceeded) }
        if let known = session.replies[write.sequence] {
            duplicates += 1
            guard known.operations == write.operations else {
                contradictions += 1
                return ExecuteReply(error: .sequenceReused)
            }
            return ExecuteReply(results: known.results)
        }
        guard write.operations.allSatisfy({ shard.range.contains($0.key) }) else {
            return ExecuteReply(error: .wrongShard)
        }
        executions += 1
        let results = write.operations.map { operation -> KeyResult in
            if operation.code == .append { values[operation.key, default: ""] += operation.value.text }
            return KeyResult(value: values[operation.key].map { Bytes($0) })
        }
        session.replies[write.sequence] = (write.operations, results)
        return ExecuteReply(results: results)
    }
}

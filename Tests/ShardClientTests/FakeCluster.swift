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
    /// A shard as its group has it.
    struct Owned {
        var shard: Shard
        var isFrozen = false
        var sessions: [UInt64: Session] = [:]
        /// Whether sessions had to go, here or in a table that this one was made of.
        var hasEvicted = false
    }

    struct Session {
        var floor: UInt64 = 0
        var replies: [UInt64: (operations: [KeyOperation], results: [KeyResult])] = [:]
    }

    private struct Event {
        var time: Instant
        var action: () -> Void
    }

    let clock = ManualClock()
    /// As the controller has it.
    private(set) var map: ClusterMap
    var owned: [UInt64: Owned] = [:]
    /// Shards that an operation is going on with.
    var inOperation: Set<UInt64> = []
    var lastShard: UInt64 = 3
    private var watchers: [(MapAnswer) -> Void] = []
    private(set) var values: [Bytes: String] = [:]
    private var sessionsOpened: UInt64 = 0
    var leaders: [String: NodeAddress] = [:]
    /// The next one last; of those at one moment, the one that came first.
    private var events: [Event] = []
    private var random: SeededRandom
    /// Whether things go wrong.
    var isHostile = true
    /// Every write command that left, by (session, sequence): all that may have been executed must be the same.
    private(set) var contradictions = 0
    private(set) var executions = 0
    private(set) var duplicates = 0
    /// Writes that were answered though a key was not the shard's any more, and those refused for their range.
    private(set) var strayAnswers = 0
    private(set) var rangeRefusals = 0
    private(set) var frozenRefusals = 0
    /// Operations that ended.
    var changes: [String: Int] = [:]

    init(seed: UInt64) {
        random = SeededRandom(seed: seed)
        map = .split(at: ["h", "q"], owners: ["g1", "g2", "g2"])
        for number in [1, 3] where !map.groups.contains(where: { $0.id == "g\(number)" }) {
            map.groups.append(Group(id: "g\(number)", peers: map.groups[0].peers, isBorn: true))
        }
        for shard in map.shards { owned[shard.id] = Owned(shard: shard) }
    }

    func chance(_ oneIn: Int64) -> Bool { random.number(in: 0..<oneIn) == 0 }
    func number(_ range: Range<Int64>) -> Int64 { random.number(in: range) }

    /// Runs `action` a random while from now.
    func later(upTo milliseconds: Int64, _ action: @escaping () -> Void) {
        let delay = Interval(nanoseconds: random.number(in: 10_000..<milliseconds * 1_000_000))
        at(clock.now + delay, action)
    }

    func at(_ time: Instant, _ action: @escaping () -> Void) {
        var (low, high) = (0, events.count)
        while low < high {
            let middle = (low + high) / 2
            if events[middle].time <= time { high = middle } else { low = middle + 1 }
        }
        events.insert(Event(time: time, action: action), at: low)
    }

    /// Lets everything happen until nothing is left, with a turn of `router` after each event.
    func run(_ router: Router) {
        var due = router.turn(now: clock.now)
        while true {
            let next = events.last?.time
            if let due, next.map({ due <= $0 }) ?? true {
                clock.now = max(clock.now, due)
            } else if let event = events.popLast() {
                clock.now = max(clock.now, event.time)
                event.action()
            } else {
                return
            }
            due = router.turn(now: clock.now)
        }
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
        guard !(isHostile && chance(4)) else { return later(upTo: 5) { completion(.silence) } }
        let answered = map
        if answered.version > version { return later(upTo: 10) { completion(.map(answered)) } }
        // a server may not know how to hold its answer
        if patience.milliseconds == 0 || chance(4) { return later(upTo: 10) { completion(.unchanged) } }
        var isAnswered = false
        let answer = { (answer: MapAnswer) in
            if !isAnswered { completion(answer) }
            isAnswered = true
        }
        watchers.append(answer)
        at(clock.now + patience) { answer(.unchanged) }
    }

    /// The controller has another map: `change` says which.
    func publish(_ change: (inout ClusterMap) -> Void) {
        change(&map)
        map.version += 1
        let (answered, waiting) = (map, watchers)
        watchers = []
        for answer in waiting { later(upTo: 5) { answer(.map(answered)) } }
    }

    // MARK: the servers

    private func evaluate(_ request: ExecuteRequest, _ command: Bytes?, at node: NodeAddress) -> ExecuteReply {
        let leader = leaders[request.group] ?? .n(1)
        guard node == leader else { return ExecuteReply(error: .notLeader, leader: chance(2) ? leader : nil) }
        guard let place = owned[request.shard], place.shard.group == request.group,
            place.shard.epoch == request.epoch
        else { return ExecuteReply(error: .wrongShard) }
        guard !place.isFrozen else {
            frozenRefusals += 1
            return ExecuteReply(error: .shardFrozen)
        }
        guard let command else { return read(request.reads, place.shard) }
        switch try? GroupCommand.decoded(command, Arena()) {
        case .openSession:
            sessionsOpened += 1
            owned[request.shard]?.sessions[sessionsOpened] = Session()
            return ExecuteReply(session: sessionsOpened)
        case .write(let write): return apply(write, place.shard)
        default: return ExecuteReply(error: .badRequest)
        }
    }

    private func read(_ operations: [KeyOperation], _ shard: Shard) -> ExecuteReply {
        guard operations.allSatisfy({ shard.range.contains($0.key) }) else {
            return ExecuteReply(error: .wrongShard, route: shard)
        }
        return ExecuteReply(
            results: operations.map { operation in
                guard operation.code != .get else { return KeyResult(value: values[operation.key].map { Bytes($0) }) }
                let keys = values.keys.sorted().filter {
                    !($0 < operation.key) && shard.range.contains($0)
                }
                guard operation.code == .scan else { return KeyResult(integer: Int64(keys.count)) }
                let page = keys.prefix(min(Int(operation.number), 3))
                let pairs = page.map { KeyResult.Pair(key: $0, value: Bytes(values[$0] ?? "")) }
                return KeyResult(integer: page.count < keys.count ? 1 : 0, pairs: pairs)
            })
    }

    private func apply(_ write: SessionWrite, _ shard: Shard) -> ExecuteReply {
        guard var session = owned[shard.id]?.sessions[write.session] else {
            return ExecuteReply(error: .sessionExpired)
        }
        session.floor = max(session.floor, write.floor)
        session.replies = session.replies.filter { $0.key >= session.floor }
        defer { owned[shard.id]?.sessions[write.session] = session }
        guard write.sequence >= session.floor else { return ExecuteReply(error: .sequenceTooOld) }
        let isInRange = write.operations.allSatisfy { shard.range.contains($0.key) }
        if let known = session.replies[write.sequence] {
            duplicates += 1
            if !isInRange { strayAnswers += 1 }
            guard known.operations == write.operations else {
                contradictions += 1
                return ExecuteReply(error: .sequenceReused)
            }
            return ExecuteReply(results: known.results)
        }
        guard write.sequence < session.floor + 64 else { return ExecuteReply(error: .windowExceeded) }
        guard isInRange else {
            rangeRefusals += 1
            return ExecuteReply(error: .wrongShard, route: shard)
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

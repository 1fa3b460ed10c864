import RaftCore
import ShardMap
import WireMessages

@testable import ShardClient

/// A clock moved by hand.
final class ManualClock: NodeClock, @unchecked Sendable {
    var now = Instant(nanoseconds: 0)
    var wallClockMilliseconds: Int64 { now.nanoseconds / 1_000_000 }
}

/// A request that left the router.
final class Sent {
    let request: ExecuteRequest
    let command: Bytes?
    let node: NodeAddress
    let time: Instant
    let deadline: Instant
    private let completion: (RouterOutcome) -> Void

    init(
        _ request: ExecuteRequest, _ command: Bytes?, _ node: NodeAddress, _ time: Instant, _ deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void
    ) {
        self.request = request
        self.command = command
        self.node = node
        self.time = time
        self.deadline = deadline
        self.completion = completion
    }

    func answer(_ outcome: RouterOutcome) { completion(outcome) }
    func answer(_ error: NamedError, _ message: String? = nil, leader: NodeAddress? = nil) {
        completion(.reply(ExecuteReply(error: error, message: message, leader: leader)))
    }
    func answer(_ results: [KeyResult]) { completion(.reply(ExecuteReply(results: results))) }

    var decoded: GroupCommand? {
        guard let command else { return nil }
        return try? GroupCommand.decoded(command, Arena())
    }
    var write: SessionWrite? {
        if case .write(let write)? = decoded { write } else { nil }
    }
    var opensSession: Bool {
        if case .openSession? = decoded { true } else { false }
    }
    /// The operations' keys, whatever kind of request it is.
    var keys: [String] { (write?.operations ?? request.reads).map(\.key.text) }
}

/// A question for the map that left the router.
struct MapAsked {
    let node: NodeAddress
    let time: Instant
    let version: UInt64
    let patience: Interval
    let completion: (MapAnswer) -> Void
}

/// A router in a world without nodes: the test answers every request itself.
final class Script: RouterTransport {
    let clock = ManualClock()
    private(set) var router: Router!
    var sent: [Sent] = []
    var mapAsked: [MapAsked] = []
    /// Given to whoever asks; nil: the test answers.
    var served: ClusterMap?
    /// Opens are answered at once, and not noted.
    var opensSessions = true
    /// The tokens given.
    var opened: [UInt64] = []
    var turnsRequested = 0
    private(set) var nextTurn: Instant?

    init(
        map: ClusterMap? = .one, seeds: [NodeAddress] = [.n(9)], settings: Router.Settings = Router.Settings(),
        seed: UInt64 = 1
    ) {
        served = map
        router = Router(seeds: seeds, transport: self, clock: clock, settings: settings, seed: seed)
        router.requestTurn = { [unowned self] in self.turnsRequested += 1 }
        if let map { router.updateMap(map) }
    }

    func execute(
        _ request: ExecuteRequest, command: Bytes?, at node: NodeAddress, deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void
    ) {
        let sent = Sent(request, command, node, clock.now, deadline, completion: completion)
        if opensSessions, sent.opensSession {
            opened.append(UInt64(opened.count) + 71)
            completion(.reply(ExecuteReply(session: opened.last)))
        } else {
            self.sent.append(sent)
        }
    }

    func fetchMap(
        at node: NodeAddress, newerThan version: UInt64, patience: Interval, deadline: Instant,
        completion: @escaping (MapAnswer) -> Void
    ) {
        if let served { completion(.map(served)) }
        mapAsked.append(
            MapAsked(node: node, time: clock.now, version: version, patience: patience, completion: completion))
    }

    /// Turns at the present moment until there is nothing left to do now.
    func turn() {
        repeat { nextTurn = router.turn(now: clock.now) } while nextTurn == clock.now
    }

    /// Moves time to `milliseconds` after the start, with turns whenever the router wants one.
    func run(to milliseconds: Int) {
        let end = Instant(nanoseconds: Int64(milliseconds) * 1_000_000)
        turn()
        while let due = nextTurn, due <= end {
            clock.now = due
            turn()
        }
        clock.now = end
        turn()
    }

    /// The same, while every request is answered `error` at once; how many there were.
    @discardableResult func run(to milliseconds: Int, answering error: NamedError) -> Int {
        var count = 0
        for time in Int(clock.now.nanoseconds / 1_000_000)...milliseconds {
            run(to: time)
            for sent in take() {
                sent.answer(error)
                count += 1
            }
        }
        turn()
        return count
    }

    /// Everything sent since the last call.
    func take() -> [Sent] {
        turn()
        defer { sent = [] }
        return sent
    }

    /// The one request sent since the last call.
    func takeOne() -> Sent {
        let all = take()
        precondition(all.count == 1, "\(all.count) requests instead of one")
        return all[0]
    }

    /// Executes, with a deadline so many milliseconds after the start.
    func execute(_ operations: [KeyOperation], by milliseconds: Int = 10_000) -> Answer {
        let answer = Answer()
        router.execute(operations, deadline: Instant(nanoseconds: Int64(milliseconds) * 1_000_000)) {
            answer.results = $0
            answer.time = self.clock.now
            answer.count += 1
        }
        return answer
    }
}

/// What came of a call.
final class Answer {
    var results: [KeyResult]?
    var time: Instant?
    var count = 0
    var errors: [NamedError?]? { results?.map(\.error) }
}

extension NodeAddress {
    static func n(_ number: Int) -> NodeAddress { NodeAddress(ip: 0x0a00_0000 + UInt32(number), port: 80) }
}

extension Instant {
    static func ms(_ count: Int) -> Instant { Instant(nanoseconds: Int64(count) * 1_000_000) }
}

extension Settings {
    static func with(_ change: (inout Router.Settings) -> Void) -> Router.Settings {
        var settings = Router.Settings()
        change(&settings)
        return settings
    }
}

/// Makes settings that differ in something.
enum Settings {}

func get(_ key: String) -> KeyOperation { KeyOperation(.get, key: Bytes(key)) }
func set(_ key: String, _ value: String = "v") -> KeyOperation {
    KeyOperation(.set, key: Bytes(key), value: Bytes(value))
}

extension ClusterMap {
    /// A map whose shards `1, 2, …` are split at `boundaries`; shard `i` belongs to group `gi`, all on nodes 1, 2, 3.
    static func split(
        at boundaries: [String], version: UInt64 = 1, epoch: UInt64 = 1, owners: [String] = []
    ) -> ClusterMap {
        let starts = [""] + boundaries
        let peers = [1, 2, 3].map { PeerID(address: .n($0)) }
        var groups: [Group] = [Group(id: controllerGroup, peers: peers, isBorn: true)]
        var shards: [Shard] = []
        for (number, start) in starts.enumerated() {
            let end = number + 1 < starts.count ? Bytes(starts[number + 1]) : Bytes()
            let group = number < owners.count ? owners[number] : "g\(number + 1)"
            let range = KeyRange(start: Bytes(start), end: end)
            shards.append(Shard(id: UInt64(number + 1), range: range, group: group, epoch: epoch))
            if !groups.contains(where: { $0.id == group }) {
                groups.append(Group(id: group, peers: peers, isBorn: true))
            }
        }
        let nodes = [1, 2, 3].map { Node(id: UInt64($0), address: .n($0), incarnation: UInt64($0)) }
        return ClusterMap(clusterID: 7, version: version, nodes: nodes, groups: groups, shards: shards)
    }

    static var one: ClusterMap { split(at: []) }
    static var two: ClusterMap { split(at: ["m"]) }
}

extension KeyResult {
    static func text(_ text: String) -> KeyResult { KeyResult(value: Bytes(text)) }
    static let done = KeyResult()
}

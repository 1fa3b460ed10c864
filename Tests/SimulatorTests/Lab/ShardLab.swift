import Glibc
import RaftCore
import ShardKV
import ShardMap
import Testing
import Transport

@testable import Simulator

/// What the shardkv lab of MIT 6.5840 does to a cluster of groups, in simulated time: groups join and leave, the shards
/// are evened out over those that are there, whole groups are shut down, and clients go on all the while.
///
/// The lab's group 0, which owns what nobody else does, is the one that the cluster is formed with, on the controller's
/// nodes. Every other group has three nodes of its own. A group that leaves gives its shards away and, as a
/// rule, is deleted; one that joins again is then another group, on the same nodes. Whatever the clients see is judged
/// as in every simulation: every key's history must be linearizable, and no request executed twice.
final class ShardLab {
    /// A scenario did not come to its end.
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// A client's call.
    final class Call {
        fileprivate(set) var end: KeyTable.CallEnd?

        var isAnswered: Bool { if case .answered? = end { true } else { false } }
    }

    /// `RAFT_LAB_SEEDS=n` runs every scenario n times.
    static let seeds = LabCluster.seeds
    /// A shard for each key.
    static let shards = 10
    static let slots = 0..<shards
    /// The lab's bound for whatever must come to pass some time.
    private static let patience = Interval.milliseconds(60_000)

    let simulation: Simulation
    private let groups: [String]
    private let deletesGroups: Bool
    private let keys: [KeyTable.Key]
    private var random: SeededRandom
    /// Those that are to own the shards; nobody: group 0.
    private var wanted: Set<String> = []
    /// How often a group has left.
    private var departures: [String: Int] = [:]
    private var isAsking = false
    private var areClientsCalling = false
    private var calling = 0
    private var isUnreliable = false
    /// From now on groups neither join nor leave by themselves.
    var stopsPursuing = false

    /// A cluster in which only group 0 is there, with ten shards.
    ///
    /// - Parameters:
    ///   - groups: the others that there can be.
    ///   - logEntries: after so many entries a log is compacted.
    ///   - deletesGroups: whether a group that has left is deleted, and not only left without shards.
    init(
        seed: UInt64, groups: [String] = ["a", "b", "c"], isReliable: Bool = true, logEntries: Int? = nil,
        deletesGroups: Bool = true
    ) throws {
        var plan = Plan(seed: seed, groups: 1, nodes: 3 * (groups.count + 1), steps: 0, schedule: FaultSchedule([]))
        (plan.replicas, plan.keys) = (3, ShardLab.shards)
        simulation = Simulation(plan)
        (self.groups, self.deletesGroups) = (groups, deletesGroups)
        random = SeededRandom(seed: seed &+ 1)
        keys = ShardLab.slots.map { [simulation] in simulation.keys.key(at: $0) }
        for node in simulation.nodes {
            guard let logEntries else { break }
            node.settings.host.compactionEntries = logEntries
            node.settings.host.keptEntries = logEntries / 4
        }
        simulation.form()
        try cutShards()
        pursue()
        if !isReliable { becomeUnreliable() }
    }

    // MARK: time

    func sleep(_ milliseconds: Int) throws {
        _ = simulation.run(limit: .milliseconds(milliseconds)) { false }
        try checkJudge()
    }

    func chance(_ range: Range<Int>) -> Int {
        Int(random.number(in: Int64(range.lowerBound)..<Int64(range.upperBound)))
    }

    /// Goes on until `condition` holds.
    func wait(_ what: String, limit: Interval = patience, until condition: () -> Bool) throws {
        let holds = simulation.run(limit: limit, until: condition)
        try checkJudge()
        guard holds else {
            throw Failure(description: "\(what): \(simulation.summary()); \(simulation.operationsSummary())")
        }
    }

    private func checkJudge() throws {
        if let violation = simulation.judge.violation { throw Failure(description: violation.description) }
    }

    /// Ends the scenario: everything heals, every key is served, and all replicas have applied the same.
    func end() throws {
        areClientsCalling = false
        isUnreliable = false
        simulation.heal()
        for node in simulation.nodes { simulation.judge.note(node.violations.first) }
        simulation.end()
        try checkJudge()
        let keys = simulation.keys
        #expect(keys.undecided == 0 && keys.lost == 0 && keys.refused == 0)
    }

    // MARK: groups and shards

    /// The controller's map, as its leader has it.
    var map: ClusterMap? { controller?.map }

    private var controller: (map: ClusterMap, operations: [ClusterOperation], node: SimulatedNode)? {
        guard let leader = simulation.leader(of: ClusterMap.controllerGroup),
            let server = simulation.server(of: leader), let map = server.map
        else { return nil }
        return (map, server.recordedOperations, leader)
    }

    /// The name of a group in the map: a name is not used again.
    func name(_ group: String) -> String { departures[group].map { "\(group)\($0)" } ?? group }

    func nodes(of group: String) -> [SimulatedNode] {
        let place = 3 * (1 + (groups.firstIndex(of: group) ?? -1))
        return Array(simulation.nodes[place..<place + 3])
    }

    /// The slots of the keys that a group owns.
    func slots(of group: String) -> [Int] {
        ShardLab.slots.filter { map?.shard(owning: keys[$0].name)?.group == name(group) }
    }

    /// These groups are to own shards too; they come to as time goes on.
    func join(_ groups: String...) { wanted.formUnion(groups) }

    /// These groups are to own no shards any more.
    func leave(_ groups: String...) { wanted.subtract(groups) }

    /// Waits until the groups that are to own the shards do so evenly, and the others are no more.
    func settle() throws { try wait("the shards are not where they belong") { isSettled } }

    private var isSettled: Bool {
        guard let (map, operations, _) = controller else { return false }
        let isDone = groups.allSatisfy { group in
            let isThere = map.group(name(group)) != nil
            return wanted.contains(group) ? isThere : !isThere || !deletesGroups
        }
        return isDone && ShardPlacement.moves(map, leaving: leaving(map)).isEmpty
            && operations.allSatisfy(\.state.isOver)
    }

    /// The groups of the map that are to own nothing.
    private func leaving(_ map: ClusterMap) -> [String] {
        let staying = wanted.map(name)
        return map.groups.map(\.id).filter { !staying.contains($0) && (!staying.isEmpty || $0 != "g1") }
    }

    private func cutShards() throws {
        for boundary in keys.map({ $0.name.slice(from: 0, count: 1) }).sorted().dropFirst() {
            try wait("no shard is split at \(boundary)") {
                guard let (map, operations, leader) = controller, let shard = map.shard(owning: boundary) else {
                    return false
                }
                if shard.range.start != boundary, !isAsking, operations.allSatisfy(\.state.isOver) {
                    ask([.split(SplitOperation(shard: shard.id, key: boundary))], leader)
                }
                return shard.range.start == boundary
            }
        }
        try wait("the splits do not end") { controller?.operations.allSatisfy(\.state.isOver) == true }
    }

    /// The lab's controller gives orders and does not wait; here it is whoever asks that wants them.
    private func pursue() {
        guard !stopsPursuing else { return }
        simulation.later(40) { [unowned self] in pursue() }
        guard !isAsking, let (map, operations, leader) = controller else { return }
        let pending = operations.filter { !$0.state.isOver }
        for group in groups where map.group(name(group)) == nil {
            let deletion = ClusterOperation.Kind.deleteGroup(DeleteGroupOperation(group: name(group)))
            // the next one is another
            if operations.contains(where: { $0.kind == deletion }) { departures[group, default: 0] += 1 }
        }
        let joining = groups.filter { wanted.contains($0) && map.group(name($0)) == nil }
        let creations = joining.map { group in
            ClusterOperation.Kind.createGroup(
                CreateGroupOperation(group: name(group), peers: nodes(of: group).map(\.peer)))
        }
        let moves = ShardPlacement.moves(map, leaving: leaving(map)).map {
            ClusterOperation.Kind.move(MoveOperation(shard: $0.shard, destination: $0.destination))
        }
        let empty = leaving(map).filter { name in
            name != "g1" && name != ClusterMap.controllerGroup && !map.shards.contains { $0.group == name }
        }
        let deletions = (deletesGroups ? empty : []).map {
            ClusterOperation.Kind.deleteGroup(DeleteGroupOperation(group: $0))
        }
        let isFree = { (kind: ClusterOperation.Kind) in
            !pending.contains { other in
                !Set(other.kind.shards).isDisjoint(with: kind.shards)
                    || kind.memberGroup.map { other.kind.groups.contains($0) } ?? false
            }
        }
        ask((creations + moves + deletions).filter(isFree), leader)
    }

    /// What the controller answers to an operator.
    func answer(to kind: ClusterOperation.Kind) throws -> ControllerReply {
        try answer(to: .begin(kind, wallClock: 0))
    }

    /// What the controller answers to an operator.
    func answer(to command: ControllerCommand) throws -> ControllerReply {
        var answer: ControllerReply??
        guard let leader = controller?.node else { throw Failure(description: "nobody leads the controller") }
        simulation.ask(command, of: leader, by: simulation.clients[0]) { answer = .some($0) }
        try wait("the controller does not answer") { answer != nil }
        guard let reply = answer ?? nil else { throw Failure(description: "the controller's answer is lost") }
        return reply
    }

    /// Asks the controller's leader for all of these; what it refuses is asked for again if it is still wanted.
    private func ask(_ kinds: [ClusterOperation.Kind], _ leader: SimulatedNode) {
        var awaited = kinds.count
        isAsking = awaited > 0
        for kind in kinds {
            simulation.ask(.begin(kind, wallClock: 0), of: leader, by: simulation.clients[0]) { [unowned self] _ in
                awaited -= 1
                if awaited == 0 { isAsking = false }
            }
        }
    }

    // MARK: servers and network

    func shutDown(_ servers: [SimulatedNode]) { for server in servers { server.crash(.some) } }

    func start(_ servers: [SimulatedNode]) throws {
        for server in servers where !server.isRunning { try server.start() }
    }

    /// From now on the network is slow, loses a message in twenty, and breaks connections all the time.
    private func becomeUnreliable() {
        isUnreliable = true
        var disturbance = SimulatedWorld.Disturbance()
        (disturbance.lossOneOf, disturbance.linkDelay) = (20, 1_000_000..<27_000_000)
        let servers = simulation.nodes.map(\.address)
        let ends = servers + simulation.clients.map(\.lane.address)
        for server in servers {
            for end in ends where end != server {
                simulation.world.disturb(from: server, to: end, disturbance)
                simulation.world.disturb(from: end, to: server, disturbance)
            }
        }
        breakConnections(between: servers, and: ends)
    }

    /// Whoever has lost a message on a connection must be told by its end.
    private func breakConnections(between servers: [NodeAddress], and ends: [NodeAddress]) {
        simulation.later(20) { [unowned self] in
            guard isUnreliable else { return }
            let (server, end) = (servers[chance(0..<servers.count)], ends[chance(0..<ends.count)])
            simulation.world.breakConnections(between: server, and: end)
            breakConnections(between: servers, and: ends)
        }
    }

    // MARK: clients

    /// Has a client begin a call about the key of a slot.
    @discardableResult
    func begin(_ operation: KeyModel.Operation, _ slot: Int, then next: @escaping () -> Void = {}) -> Call {
        let call = Call()
        let client = simulation.clients[slot % simulation.clients.count]
        client.lane.post { [keys] in
            client.call([(keys[slot], operation)], within: .milliseconds(120_000)) { ends in
                call.end = ends[0]
                next()
            }
            client.lane.requestTurn()
        }
        return call
    }

    /// Each of these keys gets some bytes more.
    func appends(_ slots: some Sequence<Int> = ShardLab.slots, bytes: Int = 5) -> [Call] {
        slots.map { slot in
            let digit = UInt8(ascii: "0") + UInt8(chance(0..<10))
            return begin(.append(Bytes(Array(repeating: digit, count: bytes))), slot)
        }
    }

    func reads(_ slots: some Sequence<Int> = ShardLab.slots) -> [Call] { slots.map { begin(.get, $0) } }

    /// Waits until all these calls are answered.
    func expect(_ calls: [Call]) throws {
        try wait("calls are not answered") { calls.allSatisfy { $0.end != nil } }
        guard calls.allSatisfy(\.isAnswered) else { throw Failure(description: "calls are refused, or lost") }
    }

    /// Every key can be read, and written.
    func expectService(_ slots: some Sequence<Int> = ShardLab.slots) throws {
        let slots = Array(slots)
        try expect(reads(slots))
        try expect(appends(slots))
    }

    /// From now on a client for each key writes to it, and reads it and its neighbour.
    func beginClients() {
        areClientsCalling = true
        for slot in ShardLab.slots { goOn(slot, turn: 0) }
    }

    /// The clients come to an end: each must have been served.
    func stopClients() throws {
        areClientsCalling = false
        try wait("a client's call has no end") { calling == 0 }
    }

    private func goOn(_ slot: Int, turn: Int) {
        guard areClientsCalling else { return }
        calling += 1
        let isRead = turn % 3 == 2
        let operation = isRead ? KeyModel.Operation.get : .append(Bytes("\(turn % 10)"))
        begin(operation, isRead ? (slot + chance(0..<2)) % ShardLab.shards : slot) { [unowned self] in
            calling -= 1
            simulation.later(10) { [unowned self] in goOn(slot, turn: turn + 1) }
        }
    }
}

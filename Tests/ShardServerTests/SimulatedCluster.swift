import RaftCore
import ShardMap
import ShardServer

/// A cluster without servers, for the scheduler alone: a map, nodes that die and come back, loads with noise, and
/// operations that take their time or fail. Everything comes from one seed.
struct SimulatedCluster {
    struct Shape {
        var nodes: Int
        var zones: Int
        var groups: Int
        var shards: Int
        /// A cluster of a size that is drawn: most are small, some large.
        init(_ random: inout SeededRandom) {
            nodes = Int(random.number(in: 3..<13))
            zones = random.chance(0.4) ? 0 : Int(random.number(in: 1..<5))
            let large = random.chance(0.03)
            groups = Int(random.number(in: 1..<(large ? 301 : 25)))
            shards = groups + Int(random.number(in: 0..<(large ? 301 : 60)))
        }
    }

    private(set) var map: ClusterMap
    private(set) var now = Instant(nanoseconds: 1_000_000_000)
    private(set) var down: Set<UInt64> = []
    private(set) var leaders: [String: PeerID] = [:]
    private(set) var violations: [String] = []
    /// Every decision, with the round in which it was taken.
    private(set) var journal: [(round: Int, decision: Scheduler.Decision)] = []
    private(set) var round = 0
    /// Elections that a change of members forced on a group.
    private(set) var elections: [String: Int] = [:]
    private(set) var shardLoads: [UInt64: (operations: Double, bytes: Double)] = [:]
    var scheduler: Scheduler
    /// Whether nodes come and go, operations fail and loads drift.
    var isStormy = true

    private var random: SeededRandom
    private var lastHeard: [UInt64: Instant] = [:]
    private var running: [(operation: ClusterOperation, visible: Int, due: Int, fails: Bool)] = []
    private var transfers: [(group: String, to: PeerID)] = []
    private var nextOperation: UInt64 = 1
    private var nextShard: UInt64
    private var nextNode: UInt64

    init(seed: UInt64, settings: SchedulerSettings) {
        var random = SeededRandom(seed: seed)
        let shape = Shape(&random)
        nextNode = UInt64(shape.nodes + 1)
        nextShard = UInt64(shape.shards + 1)
        let nodes = (1...shape.nodes).map { SimulatedCluster.node(UInt64($0), zones: shape.zones, &random) }
        let replicas = min(shape.nodes, random.chance(0.8) ? 3 : 5)
        let groups = (0...shape.groups).map { number in
            Group(
                id: number == 0 ? ClusterMap.controllerGroup : "g\(number)",
                peers: Array(nodes.shuffled(using: &random).prefix(replicas)).map { PeerID(address: $0.address) },
                isBorn: true)
        }
        let shards = (0..<shape.shards).map { number in
            Shard(
                id: UInt64(number + 1),
                range: KeyRange(
                    start: number == 0 ? Bytes() : SimulatedCluster.key(number << 24),
                    end: number == shape.shards - 1 ? Bytes() : SimulatedCluster.key((number + 1) << 24)),
                group: groups[1 + Int(random.number(in: 0..<Int64(shape.groups)))].id, epoch: 1)
        }
        map = ClusterMap(clusterID: 1, version: 1, nodes: nodes, groups: groups, shards: shards)
        scheduler = Scheduler(settings: settings)
        let idle = random.chance(0.1)
        for shard in shards {
            shardLoads[shard.id] = SimulatedCluster.load(isIdle: idle, &random)
        }
        self.random = random
        elect()
    }

    private static func node(_ id: UInt64, zones: Int, _ random: inout SeededRandom) -> Node {
        Node(
            id: id, address: NodeAddress(ip: 0x7f00_0001, port: UInt16(7000 + id)), incarnation: id,
            zone: zones == 0 ? "" : "z\(random.number(in: 0..<Int64(zones)))")
    }

    static func key(_ number: Int) -> Bytes {
        Bytes((0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * $0)) })
    }

    /// Most shards do little, a few very much.
    private static func load(isIdle: Bool, _ random: inout SeededRandom) -> (operations: Double, bytes: Double) {
        if isIdle { return (random.fraction() * 5, random.fraction() * 1e6) }
        let heat = 1 / (0.02 + random.fraction())
        let size = 1 / (0.02 + random.fraction())
        return (200 * heat * heat, 2e6 * size * size)
    }

    // MARK: one round

    /// Ten seconds.
    mutating func step() {
        round += 1
        now = now + .milliseconds(10_000)
        if isStormy { storm() }
        finishTransfers()
        finishOperations()
        elect()
        for node in map.nodes where !down.contains(node.id) { lastHeard[node.id] = now }
        let load = measured()
        let pending = running.filter { $0.visible <= round }.map(\.operation)
        for decision in scheduler.decide(map, pending: pending, load: load, now: now) {
            journal.append((round, decision))
            judge(decision)
            begin(decision)
        }
        if running.count > scheduler.settings.operations { violate("\(running.count) operations at a time") }
    }

    /// Nothing comes, goes, fails or drifts any more; noise stays.
    mutating func calm() {
        isStormy = false
        for shard in map.shards { keepOffLimits(shard.id) }
    }

    /// A shard just at a limit would be split whenever noise has it so; that is right, and not what is looked at.
    private mutating func keepOffLimits(_ shard: UInt64) {
        guard !isStormy, var load = shardLoads[shard] else { return }
        if abs(load.bytes / Double(scheduler.settings.splitBytes) - 1) < 0.15 { load.bytes *= 0.7 }
        if abs(load.operations / scheduler.settings.splitOperations - 1) < 0.15 { load.operations *= 0.7 }
        shardLoads[shard] = load
    }

    private mutating func violate(_ what: String) { violations.append("round \(round): \(what)") }

    private mutating func storm() {
        for shard in map.shards where random.chance(0.2) {
            let load = shardLoads[shard.id] ?? (0, 0)
            shardLoads[shard.id] = (
                load.operations * (0.97 + 0.06 * random.fraction()), load.bytes * (0.98 + 0.05 * random.fraction())
            )
        }
        guard random.chance(0.04) else { return }
        let position = Int(random.number(in: 0..<Int64(map.nodes.count)))
        let node = map.nodes[position]
        switch random.number(in: 0..<6) {
        case 0, 1: down.insert(node.id)
        case 2: if let back = down.sorted().first { down.remove(back) }
        case 3:
            let others = map.nodes.count { !$0.isDraining && $0.id != node.id }
            if others >= 3 { map.nodes[position].isDraining = true }
        case 4: map.nodes[position].isDraining = false
        default:
            guard map.nodes.count < 12 else { return }
            let zones = Set(map.nodes.map(\.zone)).count
            map.nodes.append(
                SimulatedCluster.node(nextNode, zones: map.nodes[0].zone.isEmpty ? 0 : zones + 1, &random))
            nextNode += 1
        }
    }

    private mutating func measured() -> ClusterLoad {
        var load = ClusterLoad()
        load.nodes = map.nodes.map {
            ClusterLoad.NodeLoad(node: $0.id, isUp: !down.contains($0.id), lastHeard: lastHeard[$0.id])
        }
        load.groups = map.groups.map { group in
            ClusterLoad.GroupLoad(
                group: group.id, leader: leaders[group.id], caughtUp: group.peers.filter { isUp($0) },
                bytes: UInt64(1e8 * (0.8 + 0.4 * random.fraction())))
        }
        for shard in map.shards where leaders[shard.group] != nil {
            let truth = shardLoads[shard.id] ?? (0, 0)
            load.shards.append(
                ClusterLoad.ShardLoad(
                    shard: shard.id, bytes: UInt64(truth.bytes * (0.8 + 0.4 * random.fraction())),
                    operationsPerSecond: truth.operations * (0.8 + 0.4 * random.fraction()),
                    splitKey: middle(of: shard.range)))
        }
        return load
    }

    private func middle(of range: KeyRange) -> Bytes? {
        func number(_ key: Bytes) -> Int { key.withUnsafeBytes { $0.reduce(0) { $0 << 8 | Int($1) } } }
        let start = number(range.start)
        let end = range.end.isEmpty ? start + (1 << 24) : number(range.end)
        return end - start < 2 ? nil : SimulatedCluster.key((start + end) / 2)
    }

    // MARK: what decisions come to

    private mutating func begin(_ decision: Scheduler.Decision) {
        // neither a proposal nor an order is sure to arrive
        if isStormy, random.chance(0.05) { return }
        switch decision {
        case .transfer(let group, let peer, _):
            transfers.append((group, peer))
        case .begin(var kind, _):
            if case .split(var split) = kind {
                split.newShard = nextShard
                nextShard += 1
                kind = .split(split)
            }
            let operation = ClusterOperation(id: nextOperation, kind: kind, begunMilliseconds: 0)
            nextOperation += 1
            let delay = Int(random.number(in: 1..<(isStormy ? 21 : 5)))
            // what is proposed is not to be seen at once
            let visible = round + Int(random.number(in: 1..<3))
            running.append((operation, visible, round + delay, isStormy && random.chance(0.1)))
        }
    }

    private mutating func finishTransfers() {
        for transfer in transfers where !(isStormy && random.chance(0.1)) {
            let isMember = map.group(transfer.group)?.peers.contains(transfer.to) ?? false
            if isMember, isUp(transfer.to) { leaders[transfer.group] = transfer.to }
        }
        transfers = []
    }

    private mutating func finishOperations() {
        let due = running.filter { $0.due <= round }
        running.removeAll { $0.due <= round }
        for entry in due where !entry.fails {
            switch entry.operation.kind {
            case .changePeers(let change):
                let newcomers = change.to.filter { !change.from.contains($0) }
                // a newcomer that is down cannot catch up, and the driver gives up
                guard newcomers.allSatisfy(isUp), hasQuorum(change.from), hasQuorum(change.to),
                    let position = map.groups.firstIndex(where: { $0.id == change.group })
                else { continue }
                map.groups[position].peers = change.to
            case .move(let move):
                if let position = map.shardPosition(move.shard) { map.shards[position].group = move.destination }
            case .split(let split):
                guard let position = map.shardPosition(split.shard) else { continue }
                let whole = map.shards[position]
                map.shards[position].range.end = split.key
                map.shards.insert(
                    Shard(
                        id: split.newShard, range: KeyRange(start: split.key, end: whole.range.end),
                        group: whole.group, epoch: 2), at: position + 1)
                let load = shardLoads[split.shard] ?? (0, 0)
                let part = 0.35 + 0.3 * random.fraction()
                shardLoads[split.shard] = (load.operations * part, load.bytes * part)
                shardLoads[split.newShard] = (load.operations * (1 - part), load.bytes * (1 - part))
                keepOffLimits(split.shard)
                keepOffLimits(split.newShard)
            case .merge, .createGroup, .deleteGroup:
                violate("the scheduler began \(entry.operation.kind)")
            }
        }
    }

    private mutating func elect() {
        for group in map.groups {
            if let leader = leaders[group.id], group.peers.contains(leader), isUp(leader), hasQuorum(group.peers) {
                continue
            }
            if leaders[group.id] != nil { elections[group.id, default: 0] += 1 }
            leaders[group.id] =
                hasQuorum(group.peers) ? group.peers.filter { isUp($0) }.randomElement(using: &random) : nil
        }
    }

    // MARK: facts

    func node(of peer: PeerID) -> Node? { map.node(at: peer.address) }
    func isUp(_ peer: PeerID) -> Bool { node(of: peer).map { !down.contains($0.id) } ?? false }
    func hasQuorum(_ peers: [PeerID]) -> Bool { peers.count { isUp($0) } > peers.count / 2 }
    func isUsable(_ node: Node) -> Bool { !down.contains(node.id) && !node.isDraining }
    func replicas(on node: Node) -> [Group] {
        map.groups.filter { $0.peers.contains { $0.address == node.address } }
    }

    /// Members that share a zone with an earlier one.
    func crowding(_ peers: [PeerID]) -> Int {
        let zones = peers.compactMap { node(of: $0)?.zone }.filter { !$0.isEmpty }
        return zones.count - Set(zones).count
    }

    /// Nodes that could take a member of a group with these others.
    func candidates(besides peers: [PeerID]) -> [Node] {
        map.nodes.filter { node in isUsable(node) && !peers.contains { $0.address == node.address } }
    }

    // MARK: invariants

    private mutating func judge(_ decision: Scheduler.Decision) {
        switch decision {
        case .transfer(let name, let peer, _):
            guard let group = map.group(name), group.peers.contains(peer), let node = node(of: peer), isUsable(node)
            else { return violate("\(decision): not a member that may lead") }
            if running.contains(where: { $0.operation.kind.memberGroup == name }) {
                violate("\(decision): its members are changing")
            }
        case .begin(let kind, _):
            if let other = running.first(where: { Set($0.operation.kind.shards).intersection(kind.shards).count > 0 }) {
                violate("\(decision): \(other.operation) has the shard")
            }
            switch kind {
            case .changePeers(let change): judge(change, decision)
            case .move(let move):
                let isBusy = running.contains {
                    $0.operation.kind.groups.contains(move.destination)
                }
                if isBusy { violate("\(decision): the destination takes part in something else") }
            default: break
            }
        }
    }

    private mutating func judge(_ change: ChangePeersOperation, _ decision: Scheduler.Decision) {
        if running.contains(where: { $0.operation.kind.memberGroup == change.group }) {
            violate("\(decision): its members are changing")
        }
        guard let group = map.group(change.group), group.peers == change.from else {
            return violate("\(decision): does not know the members")
        }
        if Set(change.to.map(\.address)).count != change.to.count { violate("\(decision): two on a node") }
        if !hasQuorum(change.from) || !hasQuorum(change.to) { violate("\(decision): without a quorum") }
        let leavers = change.from.filter { !change.to.contains($0) }
        let newcomers = change.to.filter { !change.from.contains($0) }
        guard leavers.count == 1, newcomers.count == 1, let leaver = node(of: leavers[0]),
            let newcomer = node(of: newcomers[0])
        else { return violate("\(decision): not a swap") }
        if !isUsable(newcomer) { violate("\(decision): node \(newcomer.id) is not usable") }
        if isUsable(leaver) {
            if crowding(change.to) > crowding(change.from) { violate("\(decision): makes zones worse") }
        } else {
            let others = change.to.filter { $0 != newcomers[0] }
            let best = candidates(besides: change.from).map { crowding(others + [PeerID(address: $0.address)]) }.min()
            if let best, crowding(change.to) > best { violate("\(decision): there is a node in a better zone") }
        }
    }
}

extension SeededRandom {
    /// From 0 to below 1.
    mutating func fraction() -> Double { Double(next() >> 11) / Double(1 << 53) }
    /// True in this part of cases.
    mutating func chance(_ part: Double) -> Bool { fraction() < part }
}

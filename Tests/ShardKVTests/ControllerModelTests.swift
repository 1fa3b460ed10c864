import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("Whatever is ordered in whatever order, the controller's laws hold")
struct ControllerModelTests {
    private typealias World = ControllerWorld

    /// A random order: sometimes sensible, often not.
    struct Orders {
        var random: SeededRandom
        var created = 0

        mutating func roll(_ sides: Int) -> Int { Int(random.number(in: 0..<Int64(max(1, sides)))) }

        mutating func next(_ state: ControllerState) -> ControllerCommand {
            guard let map = state.map else { return .groupBorn("g1") }
            let wallClock = Int64(roll(1_000_000))
            let version = roll(10) == 0 ? map.version &- UInt64(roll(2)) : nil
            switch roll(22) {
            case 21:
                return .upgrade(to: UInt32(1 + roll(4)), expectedVersion: version)
            case 20:
                let modes = [Rebalancing.off, .once, .on]
                return .rebalance(modes[roll(3)], before: roll(2) == 0 ? modes[roll(3)] : nil)
            case 0...7:
                return .begin(kind(map), expectedVersion: version, wallClock: wallClock)
            case 8...15:
                let known = roll(4) != 0 && !state.pending.isEmpty ? state.pending : state.operations
                let id = known.isEmpty ? 1 : known[max(0, known.count - 1 - roll(12))].id
                let states = ClusterOperation.State.allCases
                // mostly the end
                let to = roll(2) == 0 ? states[roll(states.count)] : roll(3) == 0 ? .cancelled : .done
                return .step(operation: id, to: to, reason: roll(2) == 0 ? "because" : nil, wallClock: wallClock)
            case 16:
                return .groupBorn(group(map))
            case 17:
                let number = 1 + roll(9)
                return .join(
                    address: World.peer(number).address, incarnation: UInt64(100 + number + 10 * roll(2)),
                    zone: roll(3) == 0 ? "z\(roll(3))" : nil, level: UInt32(2 + roll(3)))
            default:
                return .node(
                    NodeChange(
                        node: UInt64(1 + roll(12)), zone: roll(3) == 0 ? "z\(roll(3))" : nil,
                        isDraining: roll(2) == 0 ? roll(3) == 0 : nil, isRemoved: roll(4) == 0),
                    expectedVersion: version)
            }
        }

        private mutating func group(_ map: ClusterMap) -> String {
            roll(20) == 0 ? "g\(roll(30))" : map.groups[roll(map.groups.count)].id
        }

        private mutating func shard(_ map: ClusterMap) -> UInt64 {
            roll(20) == 0 ? UInt64(roll(50)) : map.shards[roll(map.shards.count)].id
        }

        private mutating func peers() -> [PeerID] {
            (0..<1 + roll(3)).map { _ in
                PeerID(address: World.peer(1 + roll(9)).address, idx: Int32(roll(10) == 0 ? roll(3) : 0))
            }
        }

        private mutating func kind(_ map: ClusterMap) -> ClusterOperation.Kind {
            switch roll(12) {
            case 0...2:
                let shard = shard(map)
                let start = map.shardPosition(shard).map { map.shards[$0].range.start } ?? Bytes()
                let key = Bytes(start.array + [UInt8(roll(256))])
                return .split(SplitOperation(shard: shard, key: key))
            case 3...5:
                let position = roll(map.shards.count)
                let right = min(map.shards.count - 1, position + (roll(8) == 0 ? 2 : 1))
                return .merge(MergeOperation(left: map.shards[position].id, right: map.shards[right].id))
            case 6...8: return .move(MoveOperation(shard: shard(map), destination: group(map)))
            case 9:
                created += roll(4) == 0 ? 0 : 1
                return .createGroup(CreateGroupOperation(group: "n\(created)", peers: peers()))
            case 10: return .deleteGroup(DeleteGroupOperation(group: group(map)))
            default:
                let name = group(map)
                let present = map.group(name)?.peers ?? []
                let kept = present.filter { _ in roll(3) != 0 }
                return .changePeers(
                    ChangePeersOperation(
                        group: name, from: roll(10) == 0 ? kept : present, to: roll(5) == 0 ? peers() : kept + peers()))
            }
        }
    }

    /// What must be so in every state, and from one state to the next.
    struct Laws {
        /// The highest epoch that any key of a shard that began there has been under.
        var epochs: [UInt64: UInt64] = [:]
        var owners: [UInt64: (owner: String, epoch: UInt64)] = [:]
        var nodes: [UInt64: NodeAddress] = [:]
        var groups: Set<String> = []
        var gone: Set<String> = []
        var goneShards: Set<UInt64> = []
        var members: [String: Set<PeerID>] = [:]
        var left: [String: Set<PeerID>] = [:]
        var lastOperation: UInt64 = 0

        mutating func check(_ state: ControllerState) throws {
            let map = try #require(state.map)
            // the shards partition the keys
            #expect(map.shards.first?.range.start.isEmpty == true && map.shards.last?.range.end.isEmpty == true)
            for (left, right) in zip(map.shards, map.shards.dropFirst()) {
                #expect(left.range.end == right.range.start && left.range.start < right.range.start)
            }
            // each has one owner, which is there, and a new owner means a new epoch
            #expect(Set(map.shards.map(\.id)).count == map.shards.count)
            for shard in map.shards {
                #expect(map.group(shard.group)?.isBorn == true && shard.group != ClusterMap.controllerGroup)
                #expect(shard.epoch >= epochs[shard.id] ?? 0, "an epoch goes back")
                if let (owner, epoch) = owners[shard.id], owner != shard.group { #expect(shard.epoch > epoch) }
                #expect(!goneShards.contains(shard.id), "a shard's number is used again")
                epochs[shard.id] = shard.epoch
            }
            let present = Set(map.shards.map(\.id))
            goneShards.formUnion(owners.keys.filter { !present.contains($0) })
            owners = Dictionary(uniqueKeysWithValues: map.shards.map { ($0.id, ($0.group, $0.epoch)) })
            // one operation at a time for a shard, and for a group's members
            let shards = state.pending.flatMap(\.kind.shards)
            #expect(Set(shards).count == shards.count, "a shard is in two operations")
            let changing = state.pending.compactMap(\.kind.memberGroup)
            #expect(Set(changing).count == changing.count, "a group's members are changed twice at once")
            #expect(state.pending.allSatisfy { !$0.state.isOver } && state.ended.allSatisfy(\.state.isOver))
            // but one that was given up before its birth
            let acting = state.pending.filter {
                if case .createGroup = $0.kind { $0.state == .begun } else { true }
            }
            #expect(acting.allSatisfy { $0.kind.groups.allSatisfy { map.group($0) != nil } })
            #expect(zip(state.pending, state.pending.dropFirst()).allSatisfy { $0.id < $1.id })
            let ends = state.ended.compactMap(\.endNumber)
            #expect(ends.count == state.ended.count && zip(ends, ends.dropFirst()).allSatisfy { $0 + 1 == $1 })
            lastOperation = max(lastOperation, state.operations.last?.id ?? 0)
            #expect(state.counters.operation == lastOperation + 1)
            // numbers and names
            for node in map.nodes {
                #expect(nodes.updateValue(node.address, forKey: node.id) ?? node.address == node.address)
            }
            #expect(zip(map.nodes, map.nodes.dropFirst()).allSatisfy { $0.id < $1.id })
            let names = Set(map.groups.map(\.id))
            #expect(names.count == map.groups.count && names.isDisjoint(with: gone))
            gone.formUnion(groups.subtracting(names))
            groups = names
            for group in map.groups { try check(group, map, state) }
        }

        private mutating func check(_ group: Group, _ map: ClusterMap, _ state: ControllerState) throws {
            let all = group.peers + group.joining
            #expect(all.allSatisfy { map.node(at: $0.address) != nil }, "a member has no node")
            #expect(Set(group.peers.map(\.address)).count == group.peers.count)
            #expect(Set(group.joining).isDisjoint(with: group.peers))
            let isChanging = state.pending.contains {
                if case .changePeers(let change) = $0.kind { change.group == group.id } else { false }
            }
            #expect(group.joining.isEmpty || isChanging)
            // whoever has left does not come back under the same name
            let before = members[group.id, default: []]
            left[group.id, default: []].formUnion(before.subtracting(all))
            members[group.id] = Set(all)
            #expect(left[group.id, default: []].isDisjoint(with: all), "a member comes back under its old name")
            #expect(Set(group.retired.map(\.address)).count == group.retired.count)
        }
    }

    @Test(
        "Thousands of orders, and then every operation can be brought to its end",
        arguments: 1...8 as ClosedRange<UInt64>)
    func orders(_ seed: UInt64) throws {
        var world = try World(nodes: 5, groups: 3, shards: 6)
        var orders = Orders(random: SeededRandom(seed: seed))
        var laws = Laws()
        try laws.check(world.state)
        var twin = world.state
        var counts = (done: 0, refused: 0)
        for _ in 0..<1500 {
            let before = world.state
            let command = orders.next(world.state)
            let reply = world.state.apply(command)
            #expect(twin.apply(command) == reply, "two replicas answer differently")
            #expect(reply.version == world.state.map?.version)
            if reply.error == nil { counts.done += 1 } else { counts.refused += 1 }
            if reply.error != nil {
                #expect(world.state == before, "a refusal changes something")
                #expect(reply.message?.isEmpty == false)
            }
            // one version for each change of the map
            let (old, new) = (try #require(before.map), try world.map)
            #expect(new.version == old.version + (new == old && new.packed == old.packed ? 0 : 1))
            try laws.check(world.state)
        }
        #expect(twin == world.state)
        #expect(counts.done > 250 && counts.refused > 250, "\(counts)")
        for operation in world.state.pending {
            if case .createGroup(let creation) = operation.kind, operation.state == .begun {
                #expect(world.state.apply(.groupBorn(creation.group)).error == nil)
            }
            let path: [ClusterOperation.State]
            switch (operation.kind, operation.state) {
            case (.move, .begun): path = operation.id % 2 == 0 ? [.switched, .done] : [.aborted, .cancelled]
            case (.changePeers, .begun): path = operation.id % 2 == 0 ? [.done] : [.aborted, .cancelled]
            case (_, .aborted): path = [.cancelled]
            default: path = [.done]
            }
            for state in path {
                world.step(operation.id, state)
                try laws.check(world.state)
            }
        }
        #expect(world.state.pending.isEmpty)
    }
}

extension ClusterMap {
    /// Roles, which equality does not look at, too.
    fileprivate var packed: Bytes { packed(Arena()) }
}

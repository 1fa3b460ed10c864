import CMessages
import RaftCore
import ShardKV
import ShardMap
import ShardServer
import Transport
import WireMessages

// Operators: they have shards split, merged and moved while everything else goes on, and take some of it back.

extension Simulation {
    /// An operator asks the controller's leader for something that its map makes possible.
    func operate(_ fault: Fault) {
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader),
            let map = server.map
        else { return }
        // of its own, so that a fault does the same without the faults before it
        var random = SeededRandom(seed: UInt64(fault.amount))
        guard let command = OperatorDraw(map: map, operations: server.recordedOperations).command(&random) else {
            return
        }
        tell("operator: \(command)")
        let client = clients[fault.amount % clients.count]
        client.lane.post { [self] in
            let body = Arena().scope { arena in
                let message = arena.make(flotilla__operate_request__init)
                message.pointee.command = command.message(arena)
                return arena.pack(message)
            }
            client.remote.call(
                leader.address, service: "flotilla.ClusterService", method: "operate", body: body,
                deadline: client.lane.clock.now + .milliseconds(2000)
            ) { [self] result in
                guard case .reply(let reply) = result else { return }
                Arena().scope { arena in
                    guard let answer = arena.unpack(flotilla__operate_reply__init, reply.body)?.pointee else { return }
                    let text = answer.message.map { String(cString: $0) } ?? "begun"
                    tell("controller: \(answer.error) \(text)")
                }
            }
            client.lane.requestTurn()
        }
    }

    /// Whether every operation has ended; false while nobody can say.
    func operationsHaveEnded() -> Bool {
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader) else {
            return false
        }
        return server.recordedOperations.allSatisfy(\.state.isOver)
    }

    func operationsSummary() -> String {
        guard let leader = leader(of: ClusterMap.controllerGroup), let server = server(of: leader) else {
            return "nobody leads the controller"
        }
        return server.operationsInWords.joined(separator: "; ")
    }

    /// What the map says must be what the groups do.
    func compareOwners() {
        guard let leader = leader(of: ClusterMap.controllerGroup), let map = server(of: leader)?.map else { return }
        let held = judge.oneOwner.held
        guard held != map.shards else { return }
        judge.note(Violation("OneOwner", "the map has \(map.shards), the groups have \(held)"))
    }

    private func server(of node: SimulatedNode) -> ShardServer? { (node.program as? KeyValueProgram)?.server }
}

/// What an operator may ask for.
struct OperatorDraw {
    let map: ClusterMap
    let operations: [ClusterOperation]

    /// Something that the map makes possible, whether the controller likes it or not; nil if there is nothing.
    func command(_ random: inout SeededRandom) -> ControllerCommand? {
        func pick<Item>(_ items: [Item]) -> Item? {
            items.isEmpty ? nil : items[Int(random.number(in: 0..<Int64(items.count)))]
        }
        let groups = map.groups.map(\.id).filter { $0 != ClusterMap.controllerGroup }
        let kind: ClusterOperation.Kind?
        switch random.number(in: 0..<10) {
        case 0..<5:
            guard let shard = pick(map.shards), let group = pick(groups) else { return nil }
            kind = .move(MoveOperation(shard: shard.id, epoch: 0, source: "", destination: group))
        case 5..<7:
            let key = Bytes([UInt8(random.number(in: 0x21..<0x7f)), UInt8(random.number(in: 0x21..<0x7f))])
            guard map.shards.count < 40, let shard = map.shard(owning: key) else { return nil }
            kind = .split(SplitOperation(shard: shard.id, epoch: 0, key: key, newShard: 0, group: ""))
        case 7..<9:
            let pairs = zip(map.shards, map.shards.dropFirst()).filter { $0.group == $1.group }
            guard let (left, right) = pick(pairs) else { return nil }
            kind = .merge(
                MergeOperation(left: left.id, leftEpoch: 0, right: right.id, rightEpoch: 0, group: ""))
        default:
            let open = operations.filter { $0.state == .begun }
            guard let operation = pick(open) else { return nil }
            return .step(operation: operation.id, to: .aborted, reason: "an operator's wish", wallClock: 0)
        }
        return kind.map { .begin($0, expectedVersion: nil, wallClock: 0) }
    }
}

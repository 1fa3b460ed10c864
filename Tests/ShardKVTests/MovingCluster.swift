import RaftCore
import ShardMap

@testable import ShardKV

/// Two groups, a controller that splits, merges and moves shards between them, and clients whose writes are lost,
/// repeated and late. Everything is compared, where it takes place, with one map of keys.
final class MovingCluster {
    /// A client's write, sent as often as it takes.
    private struct Request {
        let client: Int
        let sequence: UInt64
        let operations: [KeyOperation]
        var token: UInt64?
    }
    private struct RequestName: Hashable {
        let client: Int
        let sequence: UInt64
    }
    private struct Client {
        var tokens: [UInt64: UInt64] = [:]
        var sequence: UInt64 = 0
        var waiting: [Request] = []
        var map: [Shard] = []
    }

    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"]
    let pageBytes: Int
    let groups: [String: MovingGroup]
    var map: [Shard] = [] {
        didSet { maps = maps.suffix(6) + [map] }
    }
    /// What somebody may still believe.
    private var maps: [[Shard]] = []
    var operations: [MovingOperation] = []
    var nextOperation: UInt64 = 1
    var nextShard: UInt64 = 3
    private var random: SeededRandom
    private var time: Int64 = 1000
    private var clients = [Client](repeating: Client(), count: 5)
    private var late: [(group: String, command: GroupCommand, from: Int?)] = []
    /// What has happened: the results of each write that was executed.
    private var executed: [RequestName: [KeyResult]] = [:]
    /// Writes that were answered with an error that says they never will be.
    private var given: Set<RequestName> = []
    private var reference: [Bytes: StoredValue] = [:]
    private(set) var counts = (writes: 0, repeated: 0, frozen: 0, reads: 0, moves: 0)

    init(seed: UInt64) throws {
        random = SeededRandom(seed: seed)
        let limits = KeyValueStateMachine.Limits(sessionsPerShard: 6, expiredKeysPerTime: 2)
        groups = ["g1": try MovingGroup("g1", limits), "g2": try MovingGroup("g2", limits)]
        pageBytes = 40 + Int(random.number(in: 0..<500))
        map = [
            Shard(id: 1, range: KeyRange(start: Bytes(), end: Bytes("e")), group: "g1", epoch: 1),
            Shard(id: 2, range: KeyRange(start: Bytes("e"), end: Bytes()), group: "g2", epoch: 1),
        ]
        maps = [map]
        for shard in map {
            _ = try groups[shard.group]?.propose(.install([shard]))
            delay(shard.group, .install([shard]))
        }
    }

    func roll(_ sides: Int) -> Int { Int(random.number(in: 0..<Int64(sides))) }

    func delay(_ group: String, _ command: GroupCommand, from client: Int? = nil) {
        late.append((group, command, client))
        if late.count > 40 { late.remove(at: roll(late.count)) }
    }

    func run(steps: Int) throws {
        for _ in 0..<steps { try step() }
        while let last = operations.indices.last { try drive(last) }
        try checkEnd()
    }

    private func step() throws {
        switch roll(20) {
        case 0...8: try write()
        case 9, 10: try read()
        case 11: beginOperation()
        case 12...15: if !operations.isEmpty { try drive(roll(operations.count)) }
        case 16: try replayLate()
        case 17:
            time += Int64(roll(6))
            _ = try group(roll(2)).propose(.time(time - Int64(roll(20))))
        default: try disturb(group(roll(2)))
        }
    }

    private func group(_ number: Int) throws -> MovingGroup {
        guard let group = groups["g\(number + 1)"] else { throw ModelFailure("no such group") }
        return group
    }

    private func disturb(_ group: MovingGroup) throws {
        switch roll(8) {
        case 0: try group.crash(roll(3))
        case 1: try group.members[roll(3)].engine.flush()
        case 2: try group.lead(roll(3))
        case 3: try group.install(on: roll(3))
        default: try group.catchUp(roll(3), by: 1 + roll(20))
        }
    }

    // MARK: clients

    private func operation(_ key: String) -> KeyOperation {
        switch roll(12) {
        case 0, 1: .increment(key, by: Int64(1 + roll(5)))
        case 2, 3: .append(key, String(repeating: "x", count: 1 + roll(4)))
        case 4: .set(key, "\(roll(100))", expiresIn: Int64(1 + roll(30)))
        case 5: .set(key, String(repeating: "L", count: 100 + roll(900)))
        case 6: .delete(key)
        case 7: .expire(key, in: Int64(roll(30)))
        case 8: .persist(key)
        case 9: .get(key)
        default: .set(key, "\(roll(100))")
        }
    }

    private func write() throws {
        let client = roll(clients.count)
        if clients[client].map.isEmpty || roll(10) == 0 { clients[client].map = map }
        if clients[client].waiting.count < 3, roll(2) == 0 || clients[client].waiting.isEmpty {
            clients[client].sequence += 1
            let first = roll(keys.count)
            // often of one shard, sometimes on both sides of a border
            let wanted = (0..<1 + roll(3)).map { keys[min(keys.count - 1, first + $0)] }
            let shard = clients[client].map.first { $0.range.contains(Bytes(wanted[0])) }
            let own = wanted.filter { shard?.range.contains(Bytes($0)) ?? false }
            clients[client].waiting.append(
                Request(client: client, sequence: clients[client].sequence, operations: own.map { operation($0) }))
        }
        try send(client, roll(clients[client].waiting.count))
    }

    private func send(_ client: Int, _ position: Int) throws {
        var request = clients[client].waiting[position]
        guard let shard = clients[client].map.first(where: { $0.range.contains(request.operations[0].key) }),
            let group = groups[shard.group]
        else { throw ModelFailure("no shard") }
        if request.token == nil, let token = clients[client].tokens[shard.id] { request.token = token }
        guard let token = request.token else {
            let open = GroupCommand.openSession(
                shard: shard.id, epoch: shard.epoch, nonce: UInt64(roll(3)) == 0 ? 5 : random.next())
            let reply = try group.propose(open)
            clients[client].tokens[shard.id] = reply.session
            if reply.error == .wrongShard { clients[client].map = map }
            delay(shard.group, open)
            return
        }
        clients[client].waiting[position] = request
        let floor = clients[client].waiting.map(\.sequence).min() ?? request.sequence
        let command = GroupCommand.write(
            SessionWrite(
                shard: shard.id, epoch: shard.epoch, session: token, sequence: request.sequence, floor: floor,
                operations: request.operations))
        if roll(4) == 0 { delay(shard.group, command, from: client) }
        let isSettled = try judge(try group.propose(command), command, client, group)
        let name = RequestName(client: client, sequence: request.sequence)
        if given.contains(name) {
            if clients[client].tokens[shard.id] == token { clients[client].tokens[shard.id] = nil }
            clients[client].waiting.remove(at: position)
        } else if isSettled {
            clients[client].tokens[shard.id] = token
            if roll(3) != 0 { clients[client].waiting.remove(at: position) }
        } else {
            clients[client].map = map
        }
    }

    /// Compares an answer with what the reference says; whether the write has been executed.
    private func judge(
        _ reply: ExecuteReply, _ command: GroupCommand, _ client: Int, _ group: MovingGroup
    ) throws -> Bool {
        guard case .write(let write) = command else { return false }
        let name = RequestName(client: client, sequence: write.sequence)
        switch reply.error {
        case nil:
            if let first = executed[name] {
                counts.repeated += 1
                guard first == reply.results else { throw ModelFailure("\(name) is answered in another way") }
                return true
            }
            guard !given.contains(name) else { throw ModelFailure("\(name) was refused and is executed after all") }
            counts.writes += 1
            let results = write.operations.map { execute($0, at: group.time) }
            guard results == reply.results else {
                throw ModelFailure(
                    "\(name) \(write.operations): \(reply.results) instead of \(results) in \(group.name)")
            }
            executed[name] = results
            return true
        case .shardFrozen: counts.frozen += 1
        case .wrongShard:
            // under the current epoch it is refused for its keys, and for ever
            guard let shard = map.first(where: { $0.id == write.shard }), shard.epoch == write.epoch,
                group.machine.ownedShards.contains(shard),
                write.operations.contains(where: { !shard.range.contains($0.key) })
            else { return false }
            guard executed[name] == nil else { throw ModelFailure("\(name) was executed, and is refused for ever") }
            given.insert(name)
        case .sessionExpired: given.insert(name)
        case .sequenceTooOld: break
        case let error?: throw ModelFailure("\(name): \(error)")
        }
        return false
    }

    private func replayLate() throws {
        guard !late.isEmpty else { return }
        let (name, command, client) = late[roll(late.count)]
        guard let group = groups[name] else { throw ModelFailure("no group") }
        let reply = try group.propose(command)
        if let client { _ = try judge(reply, command, client, group) }
    }

    // MARK: the reference

    private func live(_ key: Bytes, at time: Int64) -> StoredValue? {
        reference[key].flatMap { $0.expiry.map { $0 > time } ?? true ? $0 : nil }
    }

    private func execute(_ operation: KeyOperation, at time: Int64) -> KeyResult {
        let old = live(operation.key, at: time)
        reference[operation.key] = old
        switch operation.code {
        case .get: return KeyResult(value: old?.payload)
        case .set:
            let expiry = operation.expiresInMilliseconds.map { time + $0 }
            reference[operation.key] = StoredValue(operation.value, expiry: expiry)
            return KeyResult()
        case .delete:
            reference[operation.key] = nil
            return .integer(old == nil ? 0 : 1)
        case .append:
            let joined = Bytes((old?.payload.array ?? []) + operation.value.array)
            reference[operation.key] = StoredValue(joined, expiry: old?.expiry)
            return .integer(Int64(joined.count))
        case .increment:
            let number = old.map { Int64($0.payload.text) } ?? 0
            guard let number, old.map({ "\(number)" == $0.payload.text }) ?? true else {
                return .failure(.notAnInteger)
            }
            reference[operation.key] = StoredValue(Bytes("\(number + operation.number)"), expiry: old?.expiry)
            return .integer(number + operation.number)
        case .expire:
            guard let old else { return .integer(0) }
            reference[operation.key] =
                operation.number > 0 ? StoredValue(old.payload, expiry: time + operation.number) : nil
            return .integer(1)
        case .persist:
            guard let old, old.expiry != nil else { return .integer(0) }
            reference[operation.key] = StoredValue(old.payload)
            return .integer(1)
        case .exists, .stringLength, .timeToLive, .scan, .count: preconditionFailure("not used here")
        }
    }

    private func read() throws {
        let key = Bytes(keys[roll(keys.count)])
        guard let shard = maps[roll(maps.count)].first(where: { $0.range.contains(key) }) else { return }
        try check(key, in: shard, mustAnswer: false)
    }

    private func check(_ key: Bytes, in shard: Shard, mustAnswer: Bool) throws {
        guard let group = groups[shard.group] else { throw ModelFailure("no group") }
        let request = ExecuteRequest(
            group: shard.group, shard: shard.id, epoch: shard.epoch, reads: [KeyOperation(.get, key: key), .count])
        guard case .reply(let reply) = try group.machine.read(request, wallClock: 0) else {
            throw ModelFailure("a read needs time")
        }
        guard reply.error == nil else {
            if mustAnswer { throw ModelFailure("\(key) is not served: \(reply.error?.sentence ?? "")") }
            return
        }
        counts.reads += 1
        let keys = reference.keys.filter { shard.range.contains($0) && live($0, at: group.time) != nil }
        guard reply.results[0].value == live(key, at: group.time)?.payload,
            reply.results[1].integer == Int64(keys.count)
        else {
            throw ModelFailure(
                "\(key) is \(reply.results) in \(shard.group), not \(live(key, at: group.time)?.payload as Any)")
        }
    }

    private func checkEnd() throws {
        for (name, command, client) in late {
            guard let group = groups[name] else { throw ModelFailure("no group") }
            let reply = try group.propose(command)
            if let client { _ = try judge(reply, command, client, group) }
        }
        for shard in map {
            guard let owned = groups[shard.group]?.machine.ownedShards, owned.contains(shard) else {
                throw ModelFailure("\(shard) is not what \(shard.group) owns")
            }
        }
        let owned = groups.values.reduce(0) { $0 + $1.machine.ownedShards.count }
        guard owned == map.count else { throw ModelFailure("\(owned) shards are owned, the map has \(map.count)") }
        for group in groups.values { try group.checkEnd() }
    }

    /// Every key is where the map says, and as the reference has it.
    func checkKeys() throws {
        for key in keys {
            guard let shard = map.first(where: { $0.range.contains(Bytes(key)) }) else { throw ModelFailure("a hole") }
            try check(Bytes(key), in: shard, mustAnswer: true)
        }
    }
}

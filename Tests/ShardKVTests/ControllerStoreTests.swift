import CMessages
import RaftCore
import ShardMap
import Synchronization
import Testing
import WireMessages

@testable import ShardKV

@Suite("The controller's state in its store")
struct ControllerStoreTests {
    static var arena: Arena { Arena() }

    /// A log of random orders, and the state behind each entry.
    static func log(seed: UInt64, count: Int) throws -> (commands: [ControllerCommand], states: [ControllerState]) {
        var record = try ControllerTests.record()
        record.groups = 2
        record.boundaries = ["b", "d", "m"].map { Bytes($0) }
        var commands: [ControllerCommand] = [.initialize(record), .groupBorn("g1"), .groupBorn("g2")]
        for node in 4...6 as ClosedRange<UInt64> {
            let node = try ControllerTests.node(node)
            commands.append(.join(address: node.address, incarnation: node.incarnation))
        }
        var state = ControllerState()
        var states = commands.map { command in
            _ = state.apply(command)
            _ = state.takeChanges()
            return state
        }
        var orders = ControllerModelTests.Orders(random: SeededRandom(seed: seed))
        for _ in 0..<count {
            commands.append(orders.next(state))
            _ = state.apply(commands[commands.count - 1])
            _ = state.takeChanges()
            states.append(state)
        }
        return (commands, states)
    }

    static func machine(_ engine: any KeyValueEngine) throws -> ControllerStateMachine {
        try ControllerStateMachine(engine: engine, replicaNumber: 3, birth: RestartTests.birth, knowing: .max)
    }

    static func entries(_ commands: ArraySlice<ControllerCommand>) -> [CommittedEntry] {
        commands.indices.map { entry(LogIndex(Int64($0 + 1)), commands[$0].encoded(arena)) }
    }

    @Test("A restart anywhere finds the state as it was, however the entries came", arguments: [1, 2, 3] as [UInt64])
    func restarts(_ seed: UInt64) throws {
        let (commands, states) = try ControllerStoreTests.log(seed: seed, count: 500)
        let (engine, whole) = (MemoryEngine(), MemoryEngine())
        var random = SeededRandom(seed: seed)
        var machine = try ControllerStoreTests.machine(engine)
        var applied = 0
        while applied < commands.count {
            let next = min(commands.count, applied + Int(random.number(in: 1..<6)))
            _ = try machine.apply(ControllerStoreTests.entries(commands[applied..<next]))
            applied = next
            #expect(machine.map == states[applied - 1].map && machine.operations == states[applied - 1].operations)
            machine = try ControllerStoreTests.machine(engine)
            #expect(machine.state == states[applied - 1])
            #expect(machine.map == states[applied - 1].map && machine.operations == states[applied - 1].operations)
        }
        // one batch or many, the store has the same bytes
        _ = try ControllerStoreTests.machine(whole).apply(ControllerStoreTests.entries(commands[...]))
        #expect(try contents(whole) == contents(engine))
        #expect(try contents(engine).allSatisfy { ReplicaKeys.number(of: $0[0]) == 3 })
    }

    @Test func formerVersionsOfTheMapAreAnswered() throws {
        let (commands, states) = try ControllerStoreTests.log(seed: 4, count: 4000)
        let engine = MemoryEngine()
        var machine = try ControllerStoreTests.machine(engine)
        _ = try machine.apply(ControllerStoreTests.entries(commands[...]))
        machine = try ControllerStoreTests.machine(engine)
        var maps: [UInt64: ClusterMap] = [:]
        for map in states.compactMap(\.map) { maps[map.version] = map }
        let newest = try #require(machine.map?.version)
        #expect(newest > ControllerState.Limits.mapVersions + 20)
        func read(_ version: UInt64) throws -> Bytes {
            let arena = ControllerStoreTests.arena
            let query = arena.scope { arena in
                let request = arena.make(flotilla__get_map_request__init)
                request.pointee.has_version = 1
                request.pointee.version = version
                return arena.pack(request)
            }
            return try machine.read(query)
        }
        for version in newest - ControllerState.Limits.mapVersions...newest {
            let map = try #require(maps[version])
            #expect(try read(version) == map.packed(ControllerStoreTests.arena))
        }
        for version in [0, 1, newest - ControllerState.Limits.mapVersions - 1, newest + 1, .max] {
            #expect(try read(version).isEmpty)
        }
        #expect(ClusterMap(try machine.read(Bytes()), ControllerStoreTests.arena) == machine.map)
        let stored = try contents(engine).filter { $0[0][8] == KeyKind.history.rawValue }
        #expect(stored.count == Int(ControllerState.Limits.mapVersions))
    }

    @Test func whoeverListensHearsOfOperationsToo() throws {
        let machine = try ControllerStoreTests.machine(MemoryEngine())
        let heard = Mutex<[[ClusterOperation.State]]>([])
        machine.onChange = { [unowned machine] map in
            #expect(machine.map == map)
            heard.withLock { $0.append(machine.operations.map(\.state)) }
        }
        _ = try ControllerTests.apply(
            machine, .initialize(try ControllerTests.record()), .groupBorn("g1"), .groupBorn("g2"))
        let move = ClusterOperation.Kind.move(MoveOperation(shard: 1, destination: "g2"))
        let replies = try ControllerTests.apply(machine, .begin(move, wallClock: 5))
        #expect(replies[0].operation?.id == 1 && replies[0].version == machine.map?.version)
        _ = try ControllerTests.apply(machine, .begin(move, wallClock: 5), .verify(1))
        _ = try ControllerTests.apply(machine, .step(operation: 1, to: .switched, wallClock: 6))
        _ = try ControllerTests.apply(machine, .step(operation: 1, to: .done, wallClock: 6))
        _ = try ControllerTests.apply(machine, .step(operation: 1, to: .done, wallClock: 6))
        #expect(heard.withLock { $0 } == [[], [.begun], [.switched], [.done]])
    }

    /// Such a store has the map alone.
    @Test func aStoreOfAVersionWithoutOperationsIsTakenOver() throws {
        let engine = MemoryEngine()
        let machine = try ControllerStoreTests.machine(engine)
        _ = try ControllerTests.apply(machine, .initialize(try ControllerTests.record()), .groupBorn("g1"))
        let kinds: [KeyKind] = [.operations, .counters, .deletedGroups, .removedNodes, .history]
        let extra = try contents(engine).filter { pair in kinds.contains { $0.rawValue == pair[0][8] } }
        #expect(extra.count == 2)
        try engine.write(extra.map { .delete($0[0]) })
        let restarted = try ControllerStoreTests.machine(engine)
        #expect(restarted.map == machine.map)
        #expect(try restarted.map(at: 1) == nil)
        #expect(restarted.state.counters == machine.state.counters)
        let reply = try ControllerTests.apply(
            restarted, .begin(.split(SplitOperation(shard: 1, key: Bytes("0"))), wallClock: 1))[0]
        #expect(reply.operation?.id == 1 && reply.operation?.kind.shards == [1, 5])
    }

    @Test("What cannot be read is refused", arguments: [KeyKind.map, .operations, .counters, .removedNodes, .settings])
    func formats(_ kind: KeyKind) throws {
        let engine = MemoryEngine()
        _ = try ControllerTests.apply(
            try ControllerStoreTests.machine(engine), .initialize(try ControllerTests.record()), .groupBorn("g1"),
            .join(address: NodeAddress(ip: 9, port: 9), incarnation: 9), .node(NodeChange(node: 4, isRemoved: true)),
            .begin(.split(SplitOperation(shard: 1, key: Bytes("0"))), wallClock: 1), .rebalance(.off))
        let pair = try #require(try contents(engine).first { $0[0][8] == kind.rawValue })
        for version in 1...2 as ClosedRange<UInt8> {
            try engine.write([.put(pair[0], Bytes([version]))])
            let error = #expect(throws: StateMachineError.self) { try ControllerStoreTests.machine(engine) }
            #expect(error?.description.contains(version == 2 ? "upgrade" : "damaged") == true)
        }
    }

    @Test func rebalancingIsOnUntilSomebodySaysOtherwiseAndThatIsRemembered() throws {
        let engine = MemoryEngine()
        let machine = try ControllerStoreTests.machine(engine)
        #expect(try ControllerTests.apply(machine, .rebalance(.off))[0].error == .notInitialized)
        let replies = try ControllerTests.apply(
            machine, .initialize(try ControllerTests.record()), .rebalance(.once), .rebalance(.off, before: .on))
        #expect(replies.map(\.error) == [nil, nil, .conflict])
        #expect(replies[2].message?.contains("rebalancing is once by now") == true)
        #expect(machine.rebalancing == .once)
        #expect(try ControllerStoreTests.machine(engine).rebalancing == .once)
        _ = try ControllerTests.apply(machine, .rebalance(.off, before: .once))
        #expect(try ControllerStoreTests.machine(engine).rebalancing == .off)
        #expect(try ControllerStoreTests.machine(MemoryEngine()).rebalancing == .on)
    }

    @Test func aDamagedHistoryIsToldAndHarmsNothingElse() throws {
        let engine = MemoryEngine()
        _ = try ControllerTests.apply(
            try ControllerStoreTests.machine(engine), .initialize(try ControllerTests.record()), .groupBorn("g1"),
            .groupBorn("g2"))
        let pair = try #require(try contents(engine).last { $0[0][8] == KeyKind.history.rawValue })
        for value in [
            Bytes(), Bytes([1]), Bytes([1, 5] + pair[1].array[2...]), Bytes([1, 2, 0, 0, 9, 9] + pair[1].array[6...]),
        ] {
            try engine.write([.put(pair[0], value)])
            let machine = try ControllerStoreTests.machine(engine)
            #expect(throws: StateMachineError.self) { try machine.map(at: 1) }
            #expect(try machine.map(at: 3) == machine.map)
        }
    }

    // MARK: bytes

    static func hex(_ bytes: Bytes) -> String {
        bytes.array.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    @Test func everyKindOfKeyHasTheBytesItAlwaysHad() throws {
        let engine = MemoryEngine()
        var record = try ControllerTests.record()
        (record.groups, record.boundaries, record.replicas) = (2, [Bytes("m")], 1)
        let peer = PeerID(address: record.nodes[2].address)
        _ = try ControllerTests.apply(
            try ControllerStoreTests.machine(engine), .initialize(record), .groupBorn("g1"), .groupBorn("g2"),
            .join(address: NodeAddress(ip: 9, port: 9), incarnation: 9), .node(NodeChange(node: 4, isRemoved: true)),
            .begin(.createGroup(CreateGroupOperation(group: "x", peers: [peer])), wallClock: 1), .groupBorn("x"),
            .step(operation: 1, to: .done, wallClock: 2),
            .begin(.deleteGroup(DeleteGroupOperation(group: "x")), wallClock: 3),
            .step(operation: 2, to: .done, wallClock: 4),
            .begin(.move(MoveOperation(shard: 1, destination: "g2")), wallClock: 5),
            .step(operation: 3, to: .aborted, reason: "no", wallClock: 6))
        let kinds: [KeyKind] = [.operations, .counters, .deletedGroups, .removedNodes]
        let stored = try contents(engine).filter { pair in kinds.contains { $0.rawValue == pair[0][8] } }
        let history = try #require(try contents(engine).last { $0[0][8] == KeyKind.history.rawValue })
        #expect(
            (stored + [history]).map { StateDigest.name(of: $0[0].suffix(from: ReplicaKeys.prefixBytes)) } == [
                "operation 1", "operation 2", "operation 3", "numbers given out next", "deleted group x",
                "removed node 4", "cluster map of version 8",
            ])
        let told = (stored + [history]).map {
            "\(ControllerStoreTests.hex($0[0].suffix(from: 8))) \(ControllerStoreTests.hex($0[1]))"
        }
        #expect(
            told == [
                "100000000000000001 0108011004180120024a160a0178121131302e302e302e333a373030303a303a30c00201",
                "100000000000000002 01080210041803200452030a0178c00202",
                "100000000000000003 010803100318052a026e6f420c080110011a02673122026732",
                "11 01000000000000000400000000000000050000000000000003",
                "1278 01",
                "130000000000000004 010000000000000009",
                "140000000000000008 "
                    + "0103000000000000000108011100000000000000001808320d080112001a016d220267312801",
            ])
    }

    /// As it was before nodes had zones and groups former members; what has none of them has these bytes still.
    @Test func aMapWithoutTheLaterFieldsIsReadAndWrittenAsEver() throws {
        var record = try ControllerTests.record()
        (record.groups, record.boundaries, record.replicas) = (1, [], 1)
        var map = record.initialMap
        let packed = map.packed(ControllerStoreTests.arena)
        let expected =
            "0801114d000000000000001801221a0801120d31302e302e302e313a37303030196500000000000000221a08"
            + "02120d31302e302e302e323a37303030196600000000000000221a0803120d31302e302e302e333a37303030"
            + "1967000000000000002a470a0a636f6e74726f6c6c6572121131302e302e302e313a373030303a303a301211"
            + "31302e302e302e323a373030303a303a30121131302e302e302e333a373030303a303a3018012a190a026731"
            + "121131302e302e302e313a373030303a303a301800320c080112001a00220267312801"
        #expect(ControllerStoreTests.hex(packed) == expected)
        #expect(ClusterMap(packed, ControllerStoreTests.arena) == map)
        map.nodes[0].zone = "a"
        map.nodes[1].isDraining = true
        map.groups[1].joining = [PeerID(address: map.nodes[1].address, idx: 2, role: .witness)]
        map.groups[1].retired = [PeerID(address: map.nodes[2].address, idx: 1)]
        let later = ClusterMap(map.packed(ControllerStoreTests.arena), ControllerStoreTests.arena)
        #expect(later == map && later?.groups[1].joining[0].role == .witness)
    }
}

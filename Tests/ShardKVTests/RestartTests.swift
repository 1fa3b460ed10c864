import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("A replica comes back to exactly the state it had")
struct RestartTests {
    static let limits = KeyValueStateMachine.Limits(
        sessionsPerShard: 3, windowPerSession: 6, replyBytesPerSession: 60, expiredKeysPerTime: 2)

    /// A seeded log of every kind of command, with few keys and sessions so that they meet often.
    static func log(seed: UInt64, entries count: Int) -> [CommittedEntry] {
        var random = SeededRandom(seed: seed)
        func roll(_ sides: Int64) -> Int64 { random.number(in: 0..<sides) }
        let arena = Arena()
        var sequences: [UInt64] = [1, 1, 1, 1]
        // of each client's last session on each shard
        var tokens: [[UInt64]] = [[0, 0], [0, 0], [0, 0], [0, 0]]
        var time: Int64 = 0
        func operation(_ shard: UInt64) -> KeyOperation {
            // once in a while the other shard's key
            let isFirst = (shard == 1) == (roll(15) != 0)
            let key = "\((isFirst ? ["a", "c"] : ["m", "x"])[Int(roll(2))])\(roll(4))"
            return switch roll(12) {
            case 0, 1: .set(key, "\(roll(100))")
            case 2: .set(key, "v", expiresIn: 1 + roll(20))
            case 3: .delete(key)
            case 4: .increment(key, by: roll(10))
            case 5: .append(key, "x")
            case 6: .expire(key, in: roll(20))
            case 7: .persist(key)
            case 8: .scan("", limit: roll(5))
            case 9: .count
            case 10: KeyOperation(.set, key: Bytes(key), value: Bytes("n"), condition: .ifAbsent, keepsExpiry: true)
            default: .get(key)
            }
        }
        func command(_ index: LogIndex) -> GroupCommand {
            let shard: UInt64 = roll(3) == 0 ? 2 : 1
            let client = Int(roll(4))
            switch roll(20) {
            case 0: return .install(shards)
            case 1, 2:
                time += roll(8)
                return .time(time)
            case 3, 4:
                tokens[client][Int(shard) - 1] = SessionTable().freeToken(of: UInt64(client), openedAt: index)
                return .openSession(shard: shard, epoch: 1, nonce: UInt64(client))
            default:
                if roll(4) != 0 { sequences[client] += 1 }
                let sequence = sequences[client]
                return .write(
                    SessionWrite(
                        shard: shard, epoch: 1, session: tokens[client][Int(shard) - 1], sequence: sequence,
                        floor: UInt64(max(0, Int64(sequence) - roll(6))),
                        operations: (0..<1 + roll(3)).map { _ in operation(shard) }))
            }
        }
        return (1...count).map { index in
            let index = LogIndex(Int64(index))
            let isFirst = index == LogIndex(1)
            let payload = (isFirst ? .install(shards) : command(index)).encoded(arena)
            return switch roll(15) {
            case 0 where !isFirst: entry(index, kind: .noOp, Bytes())
            case 1 where !isFirst: entry(index, Bytes("not a command"))
            default: entry(index, payload)
            }
        }
    }

    static let shards = [ShardTests.shard(1, "", "k"), ShardTests.shard(2, "k", "")]

    static func machine(on engine: any KeyValueEngine) throws -> KeyValueStateMachine {
        try KeyValueStateMachine(engine: engine, replicaNumber: 1, birth: birth, limits: limits)
    }

    static let birth = Configuration(peers: ["10.0.0.1:7000", "10.0.0.2:7000"].compactMap { PeerID($0) })

    /// Applies `log` in batches of random length; `between` runs after each and gives the machine to go on with.
    static func run(
        _ log: [CommittedEntry], on engine: any KeyValueEngine, batchSeed: UInt64,
        between: (KeyValueStateMachine) throws -> KeyValueStateMachine = { $0 }
    ) throws -> [Bytes] {
        var random = SeededRandom(seed: batchSeed)
        var replies = [Bytes](repeating: Bytes(), count: log.count)
        var machine = try machine(on: engine)
        while machine.appliedPosition.index.rawValue < Int64(log.count) {
            let first = Int(machine.appliedPosition.index.rawValue)
            let batch = log[first..<min(log.count, first + 1 + Int(random.number(in: 0..<6)))]
            for (offset, reply) in try machine.apply(Array(batch)).enumerated() { replies[first + offset] = reply }
            machine = try between(machine)
        }
        return replies
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>) func batchesAndRestartsChangeNothing(_ seed: UInt64) throws {
        let log = RestartTests.log(seed: seed, entries: 300)
        let whole = MemoryEngine()
        let replies = try RestartTests.machine(on: whole).apply(log)
        let cut = MemoryEngine()
        let repliesWhenCut = try RestartTests.run(log, on: cut, batchSeed: seed) { _ in
            try RestartTests.machine(on: cut)
        }
        #expect(repliesWhenCut == replies)
        #expect(try contents(cut) == contents(whole))
        // the log must have been worth the trouble
        let arena = Arena()
        let outcomes = replies.compactMap { ExecuteReply($0, arena) }
        #expect(outcomes.filter { $0.error == nil && !$0.results.isEmpty }.count > 50)
        for error in [NamedError.sessionExpired, .wrongShard, .sequenceReused, .badRequest] {
            #expect(outcomes.contains { $0.error == error })
        }
    }

    @Test func fromEachBoundaryTheRestOfTheLogLeadsToTheSameState() throws {
        let log = RestartTests.log(seed: 42, entries: 120)
        let whole = MemoryEngine()
        let replies = try RestartTests.machine(on: whole).apply(log)
        let expected = try contents(whole)
        for boundary in 0...log.count {
            let engine = MemoryEngine()
            _ = try RestartTests.machine(on: engine).apply(Array(log[..<boundary]))
            let restarted = try RestartTests.machine(on: engine)
            #expect(restarted.appliedPosition.index == LogIndex(Int64(boundary)))
            #expect(try restarted.apply(Array(log[boundary...])) == Array(replies[boundary...]))
            #expect(try contents(engine) == expected)
        }
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>) func whatACrashLosesTheLogRestores(_ seed: UInt64) throws {
        let log = RestartTests.log(seed: seed, entries: 300)
        let whole = MemoryEngine()
        let replies = try RestartTests.machine(on: whole).apply(log)
        let engine = MemoryEngine()
        var random = SeededRandom(seed: seed)
        var crashes = 0
        let repliesWithCrashes = try RestartTests.run(log, on: engine, batchSeed: seed) { machine in
            switch random.number(in: 0..<8) {
            case 0, 1:
                try machine.flush()
                #expect(try machine.durableMeta()?.last == machine.appliedPosition)
                return machine
            case 2:
                crashes += 1
                let durable = try machine.durableMeta()?.last ?? .zero
                engine.crash()
                let restarted = try RestartTests.machine(on: engine)
                #expect(restarted.appliedPosition == durable)
                return restarted
            default: return machine
            }
        }
        #expect(crashes > 0)
        #expect(repliesWithCrashes == replies)
        #expect(try contents(engine) == contents(whole))
    }

    @Test("What was collected and not handed on the log restores as well", arguments: 1...8 as ClosedRange<UInt64>)
    func whatWasCollectedTheLogRestores(_ seed: UInt64) throws {
        let log = RestartTests.log(seed: seed, entries: 300)
        let whole = MemoryEngine()
        let replies = try RestartTests.machine(on: whole).apply(log)
        let memory = MemoryEngine()
        var limits = CollectingEngine.Limits.few
        limits.replicaBytes = 1000 << (seed % 5)
        var engine = CollectingEngine(over: memory, limits: limits)
        var random = SeededRandom(seed: seed)
        var crashes = 0
        var machine = try RestartTests.machine(on: engine)
        while machine.appliedPosition.index < LogIndex(300) {
            let first = Int(machine.appliedPosition.index.rawValue)
            let batch = Array(log[first..<min(300, first + 1 + Int(random.number(in: 0..<6)))])
            #expect(try machine.apply(batch) == Array(replies[first..<first + batch.count]))
            switch random.number(in: 0..<12) {
            case 0:
                try machine.flush()
                #expect(try machine.durableMeta()?.last == machine.appliedPosition)
            case 1:
                // what the engine below has is the state at some entry, whole
                let below = try RestartTests.machine(on: memory)
                #expect(below.appliedPosition.index <= machine.appliedPosition.index)
            case 2:
                crashes += 1
                try memory.flush()
                engine = CollectingEngine(over: memory, limits: limits)
                machine = try RestartTests.machine(on: engine)
            case 3:
                machine = try RestartTests.machine(on: engine)
                #expect(machine.appliedPosition.index == LogIndex(Int64(first + batch.count)))
            default: break
            }
        }
        #expect(crashes > 0)
        #expect(try contents(engine) == contents(whole))
        try engine.flush()
        #expect(try contents(memory) == contents(whole))
    }

    @Test func entriesAppliedBeforeAreLeftAlone() throws {
        let log = RestartTests.log(seed: 3, entries: 50)
        let engine = MemoryEngine()
        let machine = try RestartTests.machine(on: engine)
        _ = try machine.apply(log)
        let before = try contents(engine)
        #expect(try machine.apply(log).allSatisfy(\.isEmpty))
        #expect(try contents(engine) == before)
        let position = LogPosition(term: Term(4), index: LogIndex(51))
        #expect(try machine.apply([CommittedEntry(position: position, kind: .noOp, payload: Bytes())]) == [Bytes()])
        #expect(machine.appliedPosition == position)
    }

    @Test func replicasOfOneEngineDoNotMeet() throws {
        let log = RestartTests.log(seed: 5, entries: 100)
        let shared = MemoryEngine()
        for number: UInt64 in [1, 2, 256] {
            let machine = try KeyValueStateMachine(
                engine: shared, replicaNumber: number, birth: RestartTests.birth, limits: RestartTests.limits)
            _ = try machine.apply(log)
        }
        let alone = MemoryEngine()
        _ = try RestartTests.machine(on: alone).apply(log)
        let expected = try contents(alone)
        let all = try contents(shared)
        #expect(all.count == 3 * expected.count)
        for part in 0..<3 {
            let pairs = all[part * expected.count..<(part + 1) * expected.count]
            #expect(pairs.map { [$0[0].suffix(from: 8), $0[1]] } == expected.map { [$0[0].suffix(from: 8), $0[1]] })
        }
    }

    @Test func aGapInTheLogTraps() async {
        await #expect(processExitsWith: .failure) {
            let machine = try KeyValueStateMachine(engine: MemoryEngine(), replicaNumber: 1)
            _ = try machine.apply([
                CommittedEntry(
                    position: LogPosition(term: Term(1), index: LogIndex(2)), kind: .noOp, payload: Bytes())
            ])
        }
    }
}

@Suite("What a replica does not understand stops it")
struct FormatTests {
    @Test func aNewerCommandStopsTheReplicaBeforeItChangesAnything() throws {
        let engine = MemoryEngine()
        let machine = try KeyValueStateMachine(engine: engine, replicaNumber: 1)
        let newer = Bytes([0x08, UInt8(ClusterLevel.newest) + 1])  // its format
        #expect(throws: StateMachineError.self) {
            try machine.apply([entry(LogIndex(1), kind: .noOp, Bytes()), entry(LogIndex(2), newer)])
        }
        #expect(machine.appliedPosition == .zero)
        #expect(try contents(engine).isEmpty)
        #expect(throws: StateMachineError.self) { try machine.apply([entry(LogIndex(1), kind: .noOp, Bytes())]) }
        #expect(throws: StateMachineError.self) {
            try machine.read(ExecuteRequest(group: "g1", shard: 1, epoch: 1), wallClock: 0)
        }
    }

    @Test func aMalformedCommandIsAnsweredAndChangesNothing() throws {
        let replica = try Replica()
        _ = try replica.execute(.set("a", "1"))
        let before = try contents(replica.engine).filter { $0[0][8] != KeyKind.meta.rawValue }
        let next = replica.machine.appliedPosition.index.next
        let reply = try replica.machine.apply([entry(next, Bytes([0x08]))])[0]
        #expect(ExecuteReply(reply, Arena())?.error == .badRequest)
        #expect(try contents(replica.engine).filter { $0[0][8] != KeyKind.meta.rawValue } == before)
    }

    @Test(
        "Stored values of a newer or unreadable format are refused",
        arguments: [
            KeyKind.meta, .shards, .sessions, .replies,
        ])
    func storedFormats(_ kind: KeyKind) throws {
        let replica = try Replica()
        _ = try replica.execute(.set("a", "1"))
        let pair = try #require(try contents(replica.engine).first { $0[0][8] == kind.rawValue })
        for version in 1...StoreFormat.newest(kind) + 1 {
            try replica.engine.write([.put(pair[0], Bytes([version]))])
            let error = #expect(throws: StateMachineError.self) { try replica.restart() }
            #expect(error?.description.contains(version > StoreFormat.newest(kind) ? "upgrade" : "damaged") == true)
        }
    }

    @Test func aDamagedValueStopsTheReplica() throws {
        let replica = try Replica()
        _ = try replica.execute(.set("a", "1"))
        let key = KeyLayout(replicaNumber: Replica.number).key(.data, rest: Bytes("a"))
        try replica.engine.write([.put(key, Bytes([9, 0]))])
        #expect(throws: StateMachineError.self) { try replica.result(.scan("")) }
        #expect(throws: StateMachineError.self) { try replica.result(.get("b")) }
    }

    @Test func mutatedCommandsNeverTrap() throws {
        let arena = Arena()
        let commands: [GroupCommand] = [
            .install([Replica.shard, ShardTests.shard(2, "a", "b")]), .time(77),
            .openSession(shard: 1, epoch: 1, nonce: 5),
            ShardTests.write(
                .set("key", "value", expiresIn: 9), .scan("a", to: "b", limit: 3), .increment("n", by: -1)),
        ]
        var random = SeededRandom(seed: 2026)
        var outcomes = (whole: 0, refused: 0)
        for command in commands {
            let payload = command.encoded(arena).array
            #expect(try GroupCommand.decoded(Bytes(payload), arena) == command)
            for _ in 0..<2000 {
                var mutated = payload
                for _ in 0..<random.number(in: 1..<4) {
                    let place = Int(random.number(in: 0..<Int64(mutated.count)))
                    switch random.number(in: 0..<3) {
                    case 0: mutated[place] = UInt8(truncatingIfNeeded: random.next())
                    case 1: mutated.insert(UInt8(truncatingIfNeeded: random.next()), at: place)
                    default: if mutated.count > 1 { mutated.remove(at: place) }
                    }
                }
                do {
                    _ = try GroupCommand.decoded(Bytes(mutated), arena)
                    outcomes.whole += 1
                } catch {
                    #expect(error.error == .badRequest || error.error == .unknownFormat)
                    outcomes.refused += 1
                }
                // nor does a replica that has them in its log
                let replica = try Replica()
                let next = replica.machine.appliedPosition.index.next
                do throws(StateMachineError) { _ = try replica.machine.apply([entry(next, Bytes(mutated))]) } catch {}
            }
        }
        #expect(outcomes.whole > 100 && outcomes.refused > 100)
    }
}

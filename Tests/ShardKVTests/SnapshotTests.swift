import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("A snapshot is the replica, under another number")
struct SnapshotTests {
    static let birth = RestartTests.birth

    /// Ingests what `frozen` writes under `number` and opens a data group's machine on it.
    static func moved(
        _ frozen: any FrozenState, to engine: any KeyValueEngine, as number: UInt64, in world: EngineWorld
    ) throws -> KeyValueStateMachine {
        let folder = try world.folder()
        try frozen.writer(to: folder, as: number).writeAll()
        try engine.ingest(folder, as: number)
        return try KeyValueStateMachine(engine: engine, replicaNumber: number, limits: RestartTests.limits)
    }

    @Test(
        "Sessions, replies, expiries and shards come with it: the log goes on to the same replies and the same state",
        arguments: EngineTests.Kind.allCases, [80, 161, 250])
    func everythingTravels(_ kind: EngineTests.Kind, _ boundary: Int) throws {
        let world = try EngineWorld(kind)
        var log = RestartTests.log(seed: UInt64(boundary), entries: 300)
        // the last two before the snapshot leave a key behind that has to expire
        let arena = Arena()
        let opening = LogIndex(Int64(boundary - 1))
        log[boundary - 2] = entry(opening, GroupCommand.openSession(shard: 1, epoch: 1, nonce: 99).encoded(arena))
        let token = SessionTable().freeToken(of: 99, openedAt: opening)
        let write = ShardTests.write(session: token, .set("b", "expires", expiresIn: 15))
        log[boundary - 1] = entry(opening.next, write.encoded(arena))
        let source = try world.engine(exportedFileBytes: 4096)
        let machine = try RestartTests.machine(on: source)
        _ = try machine.apply(Array(log[..<boundary]))
        let expected = try contents(source, of: 1)
        for kind in [KeyKind.shards, .sessions, .replies, .expiry, .data] {
            #expect(expected.contains { $0[0][0] == kind.rawValue }, "\(kind)")
        }
        let frozen = try machine.freeze()
        let replies = try machine.apply(Array(log[boundary...]))

        let target = try world.engine()
        let restored = try SnapshotTests.moved(frozen, to: target, as: 900, in: world)
        #expect(try contents(target, of: 900) == expected)
        #expect(try contents(target).count == expected.count)
        #expect(restored.appliedPosition == log[boundary - 1].position)
        #expect(frozen.meta == SnapshotMeta(last: restored.appliedPosition, configuration: SnapshotTests.birth))
        #expect(try restored.durableMeta() == frozen.meta)
        #expect(restored.ownedShards == machine.ownedShards)

        #expect(try restored.apply(Array(log[boundary...])) == replies)
        #expect(try contents(target, of: 900) == contents(source, of: 1))
    }

    @Test(arguments: EngineTests.Kind.allCases)
    func aRequestRepeatedAfterwardsGetsItsStoredReply(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let replica = try Replica(engine: try world.engine())
        _ = try replica.machine.apply([
            configurationEntry(replica.machine.appliedPosition.index.next, SnapshotTests.birth)
        ])
        let command = replica.write([.increment("n", by: 1)])
        let reply = try replica.apply(command)
        let target = try world.engine()
        let restored = try SnapshotTests.moved(try replica.machine.freeze(), to: target, as: 2, in: world)
        let arena = Arena()
        let next = restored.appliedPosition.index.next
        let again = try restored.apply([entry(next, command.encoded(arena))])
        #expect(ExecuteReply(try #require(again.first), arena) == reply)
        #expect(reply.results == [.integer(1)])
        let number = KeyLayout(replicaNumber: 2).key(.data, rest: Bytes("n"))
        #expect(try StoredValue(stored: try #require(try target.get(number))).payload == Bytes("1"))
    }

    @Test(arguments: EngineTests.Kind.allCases)
    func theControllersMapTravels(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let source = try ControllerStateMachine(
            engine: try world.engine(), replicaNumber: 0, birth: SnapshotTests.birth)
        _ = try ControllerTests.apply(source, .initialize(try ControllerTests.record()), .groupBorn("g1"))
        let frozen = try source.freeze()
        _ = try ControllerTests.apply(source, .groupBorn("g2"))
        let folder = try world.folder()
        try frozen.writer(to: folder, as: 77).writeAll()
        let target = try world.engine()
        try target.ingest(folder, as: 77)
        let restored = try ControllerStateMachine(engine: target, replicaNumber: 77)
        #expect(restored.map?.version == 2)
        #expect(try restored.durableMeta() == frozen.meta)
        _ = try ControllerTests.apply(restored, .groupBorn("g2"))
        #expect(restored.map == source.map)
    }

    @Test(arguments: EngineTests.Kind.allCases)
    func anInstalledStateIsTheOneAnnounced(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let machine = try RestartTests.machine(on: try world.engine())
        _ = try machine.apply(RestartTests.log(seed: 6, entries: 40))
        let frozen = try machine.freeze()
        let target = try world.engine()
        var wrong = [frozen.meta, frozen.meta]
        wrong[0].last.term = Term(2)
        wrong[1].configuration = Configuration(peers: [RestartTests.birth.peers[0]])
        for (number, meta) in [(10, wrong[0]), (11, wrong[1]), (12, frozen.meta)] as [(UInt64, SnapshotMeta)] {
            let folder = try world.folder()
            try frozen.writer(to: folder, as: number).writeAll()
            func install() throws(StateMachineError) -> any SnapshotStateMachine {
                try target.install(folder, as: number, expecting: meta) { () throws(StateMachineError) in
                    try KeyValueStateMachine(engine: target, replicaNumber: number, limits: RestartTests.limits)
                }
            }
            if number == 12 {
                #expect(try install().appliedPosition == machine.appliedPosition)
                #expect(try target.numbers() == [12])
            } else {
                #expect(throws: StateMachineError.self) { try install() }
                #expect(try target.numbers() == [])
            }
        }
    }

    @Test("The membership in force moves with the state, and what is durable is told as the engine has it")
    func membership() throws {
        let engine = MemoryEngine()
        let machine = try KeyValueStateMachine(engine: engine, replicaNumber: 1)
        #expect(try machine.durableMeta() == nil)
        #expect(throws: StateMachineError.self) { try machine.freeze() }
        // an entry of the log's beginning before anybody has said who the members are
        _ = try machine.apply([entry(LogIndex(1), kind: .noOp, Bytes())])
        try machine.flush()
        #expect(try machine.durableMeta() == nil)
        #expect(throws: StateMachineError.self) { try machine.freeze() }

        let peers = try ["1.2.3.4:5", "250.1.2.3:65535:7:1", "9.9.9.9:1:2147483647:2"].map {
            try #require(PeerID($0))
        }
        let configurations = [
            Configuration(peers: [peers[0]]), Configuration(peers: peers, oldPeers: [peers[0]]),
            Configuration(peers: [peers[0], peers[1]], oldPeers: [peers[1]], learners: [peers[2]]),
        ]
        for (offset, configuration) in configurations.enumerated() {
            let index = LogIndex(Int64(2 + 2 * offset))
            _ = try machine.apply([
                configurationEntry(index, configuration), entry(index.next, kind: .noOp, Bytes()),
            ])
            let meta = SnapshotMeta(
                last: LogPosition(term: Term(1), index: index.next), configuration: configuration)
            #expect(try machine.durableMeta() != meta)
            #expect(try machine.freeze().meta == meta)
            try machine.flush()
            #expect(try machine.durableMeta() == meta)
            let restarted = try KeyValueStateMachine(engine: engine, replicaNumber: 1)
            #expect(try restarted.freeze().meta == meta)
            #expect(restarted.appliedPosition == meta.last)
        }
    }

    @Test("A meta record of version 1 says where the replica is, but not who its members are")
    func metaOfVersionOne() throws {
        let engine = MemoryEngine()
        let old = ByteWriter.bytes(33) { writer in
            writer.put(1 as UInt8)
            for number: Int64 in [3, 9, 77, 0] { writer.put(number) }
        }
        try engine.write([.put(KeyLayout(replicaNumber: 1).key(.meta), old)])
        try engine.flush()
        let machine = try KeyValueStateMachine(engine: engine, replicaNumber: 1, birth: SnapshotTests.birth)
        #expect(machine.appliedPosition == LogPosition(term: Term(3), index: LogIndex(9)))
        #expect(machine.replicatedTime == 77)
        #expect(try machine.durableMeta() == nil)
        _ = try machine.apply([configurationEntry(LogIndex(10), SnapshotTests.birth)])
        try machine.flush()
        #expect(try machine.durableMeta()?.configuration == SnapshotTests.birth)
    }
}

@Suite("Engines freeze, export, take in and drop replicas")
struct EngineSnapshotTests {
    static func fill(_ engine: any KeyValueEngine, _ number: UInt64, keys: Int = 300) throws {
        let prefix = ReplicaKeys.start(of: number).array
        try engine.write(
            (0..<keys).map { key in
                .put(Bytes(prefix + Bytes("key\(100_000 + key)").array), Bytes("\(number) of \(key)"))
            })
    }

    @Test(arguments: EngineTests.Kind.allCases) func aViewStaysAsItWas(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let engine = try world.engine()
        try EngineSnapshotTests.fill(engine, 3)
        let before = try contents(engine, of: 3)
        let view = try engine.freeze()
        let key = try #require(before.first.map { Bytes(ReplicaKeys.start(of: 3).array + $0[0].array) })
        try engine.write([.put(key, Bytes("new"))])
        try engine.flush()
        try engine.drop(3)
        #expect(try contents(engine, of: 3).isEmpty)
        #expect(try view.get(key) == before[0][1])
        var seen = 0
        try view.scan(from: ReplicaKeys.start(of: 3), to: ReplicaKeys.end(of: 3)) { _, _ in
            seen += 1
            return true
        }
        #expect(seen == before.count)
        let folder = try world.folder()
        try view.export(3, as: 4, into: folder).writeAll()
        try engine.ingest(folder, as: 4)
        #expect(try contents(engine, of: 4) == before)
    }

    @Test(arguments: EngineTests.Kind.allCases)
    func aDroppedReplicaIsGoneAndTheOthersStay(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let engine = try world.engine()
        #expect(try engine.numbers() == [])
        let numbers: [UInt64] = [0, 1, 255, 256, 1 << 40, .max - 1]
        for number in numbers {
            try EngineSnapshotTests.fill(engine, number, keys: 20)
            if number == 255 { try engine.flush() }
        }
        #expect(try engine.numbers() == numbers)
        try engine.flush()
        try engine.drop(255)
        try engine.drop(17)
        #expect(try engine.numbers() == numbers.filter { $0 != 255 })
        for number in numbers where number != 255 { #expect(try contents(engine, of: number).count == 20) }
        try engine.flush()
        #expect(try world.crashed(engine).numbers() == numbers.filter { $0 != 255 })
    }

    @Test("What was taken in survives a crash at once, without a flush, and nothing else comes with it")
    func ingestedIsDurable() throws {
        for kind in EngineTests.Kind.allCases {
            let world = try EngineWorld(kind)
            let source = try world.engine(exportedFileBytes: 4096)
            try EngineSnapshotTests.fill(source, 5, keys: 3000)
            try EngineSnapshotTests.fill(source, 6)
            let folder = try world.folder()
            try source.freeze().export(5, as: 50, into: folder).writeAll()
            if kind == .rocks { #expect(try folder.fileNames().count > 3) }
            let target = try world.engine()
            try EngineSnapshotTests.fill(target, 1)
            try target.ingest(folder, as: 50)
            #expect(try target.numbers() == [1, 50])
            let crashed = try world.crashed(target)
            #expect(try crashed.numbers() == [50])
            #expect(try contents(crashed, of: 50) == contents(source, of: 5))
        }
    }

    @Test("Written in steps of any size, while the engine goes on, it is what was frozen", arguments: [1, 100, 5000])
    func exportInSteps(bytes: Int) throws {
        for kind in EngineTests.Kind.allCases {
            let world = try EngineWorld(kind)
            let source = try world.engine(exportedFileBytes: 4096)
            try EngineSnapshotTests.fill(source, 5, keys: 1000)
            let frozen = try contents(source, of: 5)
            let folder = try world.folder()
            let writer = try source.freeze().export(5, as: 50, into: folder)
            var steps: [SnapshotStep] = []
            while steps.last?.isLast != true {
                if steps.count == 2 { try EngineSnapshotTests.fill(source, 5, keys: 1500) }
                steps.append(try writer.write(about: bytes))
            }
            #expect(steps.count > 2 && steps.dropLast().allSatisfy { $0.bytes >= bytes && !$0.isLast })
            let target = try world.engine()
            try target.ingest(folder, as: 50)
            #expect(try contents(target, of: 50) == frozen)
        }
    }

    @Test(arguments: EngineTests.Kind.allCases)
    func damagedFilesAreRefusedAndLeaveNothing(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let source = try world.engine(exportedFileBytes: 4096)
        try EngineSnapshotTests.fill(source, 5, keys: 1000)
        let folder = try world.folder()
        try source.freeze().export(5, as: 50, into: folder).writeAll()
        let target = try world.engine()
        try EngineSnapshotTests.fill(target, 1)
        let before = try contents(target)
        func isRefused(_ folder: any SnapshotFolder) throws {
            let error = #expect(throws: StateMachineError.self) { try target.ingest(folder, as: 50) }
            #expect(error?.description.contains("snapshot") == true || error?.description.contains("no file") == true)
            #expect(try contents(target) == before)
        }
        for name in try folder.fileNames() {
            let count = try folder.contents(of: name).count
            for place in stride(from: 0, to: count, by: max(1, count / 9)) {
                try isRefused(
                    try world.copy(folder, changing: name) { bytes in
                        bytes[place] ^= 0x10
                        return bytes
                    })
            }
            for length in [0, 1, count / 2, count - 1] {
                try isRefused(try world.copy(folder, changing: name) { Array($0.prefix(length)) })
            }
            try isRefused(try world.copy(folder, changing: name) { $0 + [0] })
            try isRefused(try world.copy(folder, changing: name) { _ in nil })
        }
        try target.ingest(folder, as: 50)
        #expect(try contents(target, of: 50) == contents(source, of: 5))
    }

    @Test(arguments: EngineTests.Kind.allCases)
    func aSnapshotForAnotherNumberOrKindOfStoreIsRefused(_ kind: EngineTests.Kind) throws {
        let world = try EngineWorld(kind)
        let engine = try world.engine()
        try EngineSnapshotTests.fill(engine, 5)
        let folder = try world.folder()
        let view = try engine.freeze()
        try view.export(5, as: 50, into: folder).writeAll()
        #expect(throws: StateMachineError.self) { try engine.ingest(folder, as: 51) }
        #expect(throws: StateMachineError.self) { try view.export(6, as: 52, into: try world.folder()).writeAll() }
        try EngineSnapshotTests.fill(engine, 50, keys: 1)
        let error = #expect(throws: StateMachineError.self) { try engine.ingest(folder, as: 50) }
        #expect(error?.description.contains("in use") == true)
        #expect(try contents(engine, of: 50).count == 1)

        let other: EngineTests.Kind = kind == .rocks ? .memory : .rocks
        let otherWorld = try EngineWorld(other)
        let stranger = try otherWorld.engine()
        #expect(throws: StateMachineError.self) { try stranger.ingest(folder, as: 50) }
        #expect(try stranger.numbers().isEmpty)

        // a list of a newer format, whole by its hash
        let newer = try world.copy(folder, changing: ExportedFiles.fileName) { bytes in
            var list = Array(bytes.dropLast(8))
            list[0] = ExportedFiles.format + 1
            return list + ByteWriter.bytes(8) { $0.put(ExportedFiles.hash(Bytes(list))) }.array
        }
        try engine.drop(50)
        let refusal = #expect(throws: StateMachineError.self) { try engine.ingest(newer, as: 50) }
        #expect(refusal?.description.contains("upgrade") == true)
        // what was dropped does not hide what comes after it, flushed or not
        for isFlushed in [false, true] {
            if isFlushed { try engine.flush() }
            try engine.ingest(try world.copy(folder, changing: "") { $0 }, as: 50)
            #expect(try contents(engine, of: 50) == contents(engine, of: 5))
            try engine.drop(50)
            #expect(try engine.numbers() == [5])
        }
    }

    @Test(
        "Files that lie, with the right hashes, are refused or taken in; they trap nothing and touch no other replica")
    func hostileFiles() throws {
        let source = MemoryEngine()
        try EngineSnapshotTests.fill(source, 5, keys: 40)
        let folder = MemoryFolder()
        try source.freeze().export(5, as: 50, into: folder).writeAll()
        let list = try #require(folder.files[ExportedFiles.fileName])
        let pairs = try #require(folder.files["000001.pairs"])
        func hash(_ bytes: [UInt8]) -> [UInt8] {
            ByteWriter.bytes(8) { $0.put(ExportedFiles.hash(Bytes(bytes))) }.array
        }
        func number(_ number: UInt64) -> [UInt8] { ByteWriter.bytes(8) { $0.put(number) }.array }
        var random = SeededRandom(seed: 14)
        func mutated(_ bytes: [UInt8]) -> [UInt8] {
            var bytes = bytes
            for _ in 0..<random.number(in: 1..<4) {
                let place = Int(random.number(in: 0..<Int64(bytes.count)))
                switch random.number(in: 0..<4) {
                case 0: bytes.remove(at: place)
                case 1: bytes.insert(UInt8(truncatingIfNeeded: random.next()), at: place)
                case 2: bytes[place] = 0xff
                default: bytes[place] = UInt8(truncatingIfNeeded: random.next())
                }
            }
            return bytes
        }
        var outcomes = (taken: 0, refused: 0)
        for round in 0..<3000 {
            let lying = MemoryFolder()
            let file = round % 3 == 0 ? pairs : mutated(pairs)
            lying.files["000001.pairs"] = file
            var entry = Array(list[..<22]) + number(UInt64(file.count)) + hash(file)
            if round % 3 == 0 { entry = mutated(entry) }
            lying.files[ExportedFiles.fileName] = entry + hash(entry)
            let target = MemoryEngine()
            do throws(StateMachineError) {
                try target.ingest(lying, as: 50)
                #expect(try target.numbers() == [50])
                outcomes.taken += 1
            } catch {
                #expect(target.count == 0)
                outcomes.refused += 1
            }
        }
        #expect(outcomes.taken > 100 && outcomes.refused > 100, "\(outcomes)")
    }
}

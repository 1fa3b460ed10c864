import RaftCore
import ShardMap
import Synchronization
import Testing
import WireMessages

@testable import ShardKV

@Suite("The controller's map")
struct ControllerTests {
    static func node(_ id: UInt64) throws -> Node {
        Node(id: id, address: try #require(NodeAddress("10.0.0.\(id):7000")), incarnation: 100 + id)
    }

    static func record() throws -> BootstrapRecord {
        let nodes = try (1...3).map { try node($0) }
        return BootstrapRecord(
            clusterID: 77, nodes: nodes, controllerPeers: nodes.map { PeerID(address: $0.address) }, groups: 4,
            replicas: 3, boundaries: BootstrapRecord.evenBoundaries(groups: 4))
    }

    /// Applies each command as the next entry.
    static func apply(_ machine: ControllerStateMachine, _ commands: ControllerCommand...) throws -> [ControllerReply] {
        let arena = Arena()
        let first = machine.appliedPosition.index.next
        let entries = commands.enumerated().map { entry(first.advanced(by: $0.offset), $0.element.encoded(arena)) }
        return try machine.apply(entries).map { try #require(ControllerReply($0, arena)) }
    }

    @Test func beforeItIsInitializedThereIsNoMap() throws {
        let machine = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        let node = try ControllerTests.node(1)
        let replies = try ControllerTests.apply(
            machine, .join(address: node.address, incarnation: 1), .groupBorn("g1"))
        #expect(replies.map(\.error) == [.notInitialized, .notInitialized])
        #expect(machine.map == nil)
        #expect(try machine.read(Bytes()).isEmpty)
    }

    @Test func itIsInitializedOnce() throws {
        let machine = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        let record = try ControllerTests.record()
        var other = record
        other.clusterID = 78
        let replies = try ControllerTests.apply(machine, .initialize(record), .groupBorn("g1"), .initialize(other))
        #expect(replies == [ControllerReply(version: 1), ControllerReply(version: 2), ControllerReply(version: 2)])
        #expect(machine.map?.clusterID == 77)
        #expect(machine.map?.shards == record.initialMap.shards)
        #expect(ClusterMap(try machine.read(Bytes()), Arena()) == machine.map)
    }

    @Test func boundariesThatCutNothingAreRefused() throws {
        let machine = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        for boundaries in [["b", "a"], ["a", "a"], ["", "a"]] {
            var record = try ControllerTests.record()
            record.boundaries = boundaries.map { Bytes($0) }
            #expect(try ControllerTests.apply(machine, .initialize(record))[0].error == .badRequest)
        }
        #expect(machine.map == nil)
    }

    @Test func aNodeKeepsItsNumberAndItsIdentity() throws {
        let machine = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        let address = try ControllerTests.node(9).address
        let replies = try ControllerTests.apply(
            machine, .initialize(try ControllerTests.record()),
            .join(address: try ControllerTests.node(2).address, incarnation: 102),
            .join(address: address, incarnation: 5), .join(address: address, incarnation: 5),
            .join(address: address, incarnation: 6))
        #expect(replies[1] == ControllerReply(nodeID: 2, version: 1))
        #expect(replies[2] == ControllerReply(nodeID: 4, version: 2))
        #expect(replies[3] == ControllerReply(nodeID: 4, version: 2))
        #expect(replies[4].error == .wrongIdentity)
        #expect(machine.map?.nodes.last == Node(id: 4, address: address, incarnation: 5))
    }

    @Test func aGroupIsBornOnce() throws {
        let machine = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        let replies = try ControllerTests.apply(
            machine, .initialize(try ControllerTests.record()), .groupBorn("g2"), .groupBorn("g2"), .groupBorn("g99"))
        #expect(replies.map(\.version) == [1, 2, 2, 2])
        #expect(replies.map(\.error) == [nil, nil, nil, .noSuchGroup])
        #expect(machine.map?.groups.map(\.isBorn) == [true, false, true, false, false])
    }

    @Test func changesAreToldOnceForABatchAndSurviveARestart() throws {
        let engine = MemoryEngine()
        let machine = try ControllerStateMachine(engine: engine, replicaNumber: 0)
        let told = Mutex<[UInt64]>([])
        machine.onChange = { map in told.withLock { $0.append(map.version) } }
        _ = try ControllerTests.apply(machine, .initialize(try ControllerTests.record()), .groupBorn("g1"))
        _ = try ControllerTests.apply(machine, .groupBorn("g1"))
        #expect(try machine.apply([configurationEntry(LogIndex(4), RestartTests.birth)]) == [Bytes()])
        #expect(try machine.apply([entry(LogIndex(3), Bytes())]) == [Bytes()])
        #expect(told.withLock { $0 } == [2])

        let restarted = try ControllerStateMachine(engine: engine, replicaNumber: 0)
        #expect(restarted.map == machine.map && restarted.map?.version == 2)
        #expect(restarted.appliedPosition == LogPosition(term: Term(1), index: LogIndex(4)))
        #expect(try restarted.durableMeta() == nil)
        try restarted.flush()
        #expect(try restarted.durableMeta()?.last == restarted.appliedPosition)
    }

    @Test func aNewerCommandStopsTheReplicaAndAMalformedOneIsAnswered() throws {
        let machine = try ControllerStateMachine(engine: MemoryEngine(), replicaNumber: 0)
        let arena = Arena()
        let malformed = try machine.apply([entry(LogIndex(1), Bytes([0xff]))])[0]
        #expect(ControllerReply(malformed, arena)?.error == .badRequest)
        let newer = Bytes([0x08, UInt8(ClusterLevel.newest) + 1])
        #expect(throws: StateMachineError.self) { try machine.apply([entry(LogIndex(2), newer)]) }
        #expect(throws: StateMachineError.self) { try machine.read(Bytes()) }
        #expect(machine.appliedPosition.index == LogIndex(1))
    }

    @Test func commandsAndRepliesCrossTheWire() throws {
        let arena = Arena()
        let address = try ControllerTests.node(1).address
        let commands: [ControllerCommand] = [
            .initialize(try ControllerTests.record()), .join(address: address, incarnation: .max), .groupBorn("g1"),
        ]
        for command in commands { #expect(try ControllerCommand.decoded(command.encoded(arena), arena) == command) }
        let replies = [
            ControllerReply(), ControllerReply(error: .wrongIdentity, message: "no", nodeID: 1, version: .max),
        ]
        for reply in replies { #expect(ControllerReply(reply.packed(arena), arena) == reply) }
        #expect(ControllerReply(Bytes([0xff]), arena) == nil)
    }
}

import RaftCore
import ShardMap
import Testing
import WireMessages

@testable import ShardKV

@Suite("The cluster's level: what its logs may hold")
struct ClusterLevelTests {
    private let arena = Arena()

    /// A controller of three nodes that know these levels.
    private func state(_ levels: UInt32...) throws -> ControllerState {
        var record = try ControllerTests.record()
        for (position, level) in levels.enumerated() { record.nodes[position].level = level }
        var state = ControllerState()
        #expect(state.apply(.initialize(record)).error == nil)
        return state
    }

    private func expectRefusal(
        _ command: ControllerCommand, _ error: NamedError, _ words: [String], _ state: ControllerState,
        _ location: SourceLocation = #_sourceLocation
    ) {
        var copy = state
        let reply = copy.apply(command)
        #expect(reply.error == error, sourceLocation: location)
        for word in words {
            #expect(reply.message?.contains(word) == true, "\(reply.message ?? "-")", sourceLocation: location)
        }
        #expect(copy == state, "a refusal changes nothing", sourceLocation: location)
    }

    @Test("A new cluster begins with what all its first nodes know")
    func beginning() throws {
        #expect(try state(1, 1, 1).map?.level == 1)
        #expect(try state(2, 2, 1).map?.level == 1)
        #expect(try state(3, 2, 3).map?.level == 2)
    }

    @Test("It is raised when every node has announced that it knows it, and not before")
    func raised() throws {
        var state = try state(2, 2, 1)
        let third = try ControllerTests.node(3)
        expectRefusal(
            .upgrade(to: 2), .programTooOld,
            ["node 3 (10.0.0.3:7000, up to 1)", "start a newer raftd", "raftctl node remove 3"], state)
        let version = state.map?.version
        let join = ControllerCommand.join(address: third.address, incarnation: third.incarnation, level: 2)
        #expect(state.apply(join).nodeID == 3)
        #expect(state.map?.node(3)?.level == 2 && state.map?.version == version.map { $0 + 1 })
        #expect(state.apply(join).version == state.map?.version, "once is enough")
        expectRefusal(.upgrade(to: 3), .programTooOld, ["node 1", "node 2", "node 3"], state)
        expectRefusal(.upgrade(to: 2, expectedVersion: 1), .conflict, ["plan it again"], state)
        #expect(state.map?.level == 1)
        let before = state.map?.version
        #expect(state.apply(.upgrade(to: 2, expectedVersion: before)).error == nil)
        #expect(state.map?.level == 2 && state.map?.version == before.map { $0 + 1 })
        #expect(state.apply(.upgrade(to: 2)).version == state.map?.version, "a repetition changes nothing")
        expectRefusal(.upgrade(to: 1), .refused, ["never lowered"], state)
        expectRefusal(.upgrade(to: 0), .refused, ["never lowered"], state)
    }

    @Test("A change with foreign members is begun from level 2 on: no record of one is older")
    func foreignMembers() throws {
        var state = try state(2, 2, 1)
        #expect(state.apply(.groupBorn("g1")).error == nil)
        let present = try #require(state.map?.group("g1")).peers
        let braft = PeerID(address: NodeAddress(ip: 9, port: 9), idx: 3)
        func begin(_ to: [PeerID], foreign: Bool) -> ControllerCommand {
            .begin(
                .changePeers(ChangePeersOperation(group: "g1", from: present, to: to, allowsForeign: foreign)),
                wallClock: 1)
        }
        let command = begin(present + [braft], foreign: true)
        #expect(command.level == 2 && begin([present[0]], foreign: false).level == 1)
        expectRefusal(
            command, .levelTooLow, ["needs cluster level 2", "is at level 1", "raftctl cluster upgrade"], state)
        #expect(state.previewing(command).reply.error == .levelTooLow, "a plan says so as well")
        // a program of level 1 cannot take it for something that it knows
        let payload = command.encoded(arena)
        #expect(throws: NamedErrorThrown.self) { try ControllerCommand.decoded(payload, arena, knowing: 1) }
        #expect(try ControllerCommand.decoded(payload, arena, knowing: 2) == command)

        let last = try ControllerTests.node(3)
        #expect(
            state.apply(.join(address: last.address, incarnation: last.incarnation, level: 2)).error == nil)
        #expect(state.apply(.upgrade(to: 2)).error == nil)
        let operation = try #require(state.apply(command).operation)
        #expect(operation.kind.level == 2 && state.map?.group("g1")?.joining == [braft])
    }

    @Test("Whoever knows only a lower level is let in no more, new or not; a lower one that will do is noted")
    func letIn() throws {
        var state = try state(3, 3, 3)
        #expect(state.map?.level == 3)
        let third = try ControllerTests.node(3)
        let (known, stranger) = (third.address, NodeAddress(ip: 9, port: 9))
        let words = ["the cluster is at level 3", "up to 2", "newer raftd"]
        expectRefusal(
            .join(address: known, incarnation: third.incarnation, level: 2), .programTooOld, words, state)
        expectRefusal(.join(address: stranger, incarnation: 9, level: 2), .programTooOld, words, state)
        expectRefusal(.join(address: stranger, incarnation: 9), .programTooOld, ["up to 1"], state)
        #expect(state.apply(.join(address: stranger, incarnation: 9, level: 5)).error == nil)
        #expect(state.map?.nodes.last?.level == 5 && state.map?.highestCommonLevel == 3)
        #expect(state.apply(.join(address: stranger, incarnation: 9, level: 4)).error == nil)
        #expect(state.map?.nodes.last?.level == 4)
    }

    @Test("Maps, nodes and commands carry it; those that tell none are at the first one, and look as they always have")
    func forms() throws {
        var map = try #require(try state(2, 2, 2).map)
        #expect(ClusterMap(map.packed(arena), arena) == map)
        let commands: [ControllerCommand] = [
            .upgrade(to: 2), .upgrade(to: .max, expectedVersion: 7),
            .join(address: NodeAddress(ip: 9, port: 9), incarnation: 9, zone: "z", level: 2),
        ]
        for command in commands {
            #expect(try ControllerCommand.decoded(command.encoded(arena), arena) == command)
            // who does not know the new level must be able to read the order, for it may be refused
            #expect(try ControllerCommand.decoded(command.encoded(arena), arena, knowing: 1) == command)
        }
        map.level = 1
        for position in map.nodes.indices { map.nodes[position].level = 1 }
        let packed = map.packed(arena)
        #expect(ClusterMap(packed, arena) == map)
        // field 7 as a number, with the value 2, behind everything else
        var leveled = packed.withUnsafeBytes { Array($0) } + [0x38, 2]
        #expect(ClusterMap(Bytes(leveled), arena)?.level == 2)
        leveled[leveled.count - 1] = 0
        #expect(ClusterMap(Bytes(leveled), arena)?.level == ClusterLevel.first)
    }

    @Test("A restart and a former version find the level there was")
    func stored() throws {
        let engine = MemoryEngine()
        let machine = try ControllerStateMachine(engine: engine, replicaNumber: 3, knowing: 2)
        var record = try ControllerTests.record()
        for position in record.nodes.indices { record.nodes[position].level = position == 0 ? 1 : 2 }
        let first = record.nodes[0]
        let replies = try ControllerTests.apply(
            machine, .initialize(record), .join(address: first.address, incarnation: first.incarnation, level: 2),
            .upgrade(to: 2), .groupBorn("g1"))
        #expect(replies.allSatisfy { $0.error == nil })
        let again = try ControllerStateMachine(engine: engine, replicaNumber: 3, knowing: 2)
        #expect(again.map == machine.map && again.map?.level == 2)
        let version = try #require(again.map?.version)
        #expect(try again.map(at: version - 1)?.level == 2)
        let before = try #require(try again.map(at: version - 2))
        #expect(before.level == 1 && before.nodes[0].level == 2)
        #expect(try again.map(at: version - 3)?.nodes[0].level == 1)
    }

    @Test("A controller that the cluster leaves behind stops before that entry; a newer program goes on from there")
    func leftBehind() throws {
        let engine = MemoryEngine()
        var record = try ControllerTests.record()
        for position in record.nodes.indices { record.nodes[position].level = position == 0 ? 1 : 2 }
        let first = record.nodes[0]
        let commands: [ControllerCommand] = [
            .initialize(record), .upgrade(to: 2),
            .join(address: first.address, incarnation: first.incarnation, level: 2), .upgrade(to: 2), .groupBorn("g1"),
        ]
        let entries = commands.enumerated().map { entry(LogIndex(Int64($0.offset + 1)), $0.element.encoded(arena)) }
        let old = try ControllerStateMachine(engine: engine, replicaNumber: 3, knowing: 1)
        let refused = try #require(ControllerReply(try old.apply(Array(entries[0..<2]))[1], arena))
        #expect(refused.error == .programTooOld, "a refused one stops nobody")
        _ = try old.apply([entries[2]])
        #expect {
            _ = try old.apply([entries[3]])
        } throws: { error in
            let error = error as? StateMachineError
            return error?.needsNewerProgram == true && error?.description.contains("at level 2") == true
        }
        #expect(throws: StateMachineError.self) { try old.apply([entries[4]]) }
        #expect(old.map?.level == 1 && old.appliedPosition.index == LogIndex(3))
        let newer = try ControllerStateMachine(engine: engine, replicaNumber: 3, knowing: 2)
        #expect(newer.appliedPosition.index == LogIndex(3))
        _ = try newer.apply(Array(entries[3...]))
        #expect(newer.map?.level == 2 && newer.map?.group("g1")?.isBorn == true)
    }

    @Test("A state stored by a newer program is told from a damaged one: it must stay, for no other can be had")
    func storedByNewer() throws {
        let engine = MemoryEngine()
        let machine = try KeyValueStateMachine(engine: engine, replicaNumber: 1)
        _ = try machine.apply([entry(LogIndex(1), GroupCommand.time(10).encoded(arena))])
        let key = KeyLayout(replicaNumber: 1).key(.meta)
        let stored = try #require(try engine.get(key)).withUnsafeBytes { Array($0) }
        for (bytes, isNewer) in [([StoreFormat.meta + 1] + stored.dropFirst(), true), ([], false)] {
            try engine.write([.put(key, Bytes(bytes))])
            #expect {
                _ = try KeyValueStateMachine(engine: engine, replicaNumber: 1)
            } throws: { error in
                (error as? StateMachineError)?.needsNewerProgram == isNewer
            }
        }
    }

    @Test("A group's replica stops at a command above its level; a newer program goes on, and is as all others")
    func aboveTheProgram() throws {
        func command(_ number: UInt64, level: UInt8) throws -> Bytes {
            var bytes = GroupCommand.time(Int64(number)).encoded(arena).withUnsafeBytes { Array($0) }
            #expect(bytes[0] == 0x08 && bytes[1] == 1, "the format comes first")
            bytes[1] = level
            return Bytes(bytes)
        }
        let payloads = [try command(10, level: 1), try command(20, level: 2), try command(30, level: 1)]
        let entries = payloads.enumerated().map { entry(LogIndex(Int64($0.offset + 1)), $0.element) }
        let engine = MemoryEngine()
        let old = try KeyValueStateMachine(engine: engine, replicaNumber: 1, knowing: 1)
        _ = try old.apply([entries[0]])
        #expect {
            _ = try old.apply([entries[1]])
        } throws: { error in
            let error = error as? StateMachineError
            let words = ["cluster level 2", "knows up to 1", NamedError.unknownFormat.sentence]
            return error?.needsNewerProgram == true && words.allSatisfy { error?.description.contains($0) == true }
        }
        #expect(throws: StateMachineError.self) { try old.apply([entries[2]]) }
        let healed = try KeyValueStateMachine(engine: engine, replicaNumber: 1, knowing: 2)
        #expect(healed.appliedPosition.index == LogIndex(1) && healed.replicatedTime == 10)
        _ = try healed.apply(Array(entries[1...]))
        let other = try KeyValueStateMachine(engine: MemoryEngine(), replicaNumber: 1, knowing: 2)
        _ = try other.apply(entries)
        #expect(healed.replicatedTime == 30 && healed.latestHash == other.latestHash && healed.latestHash != nil)
    }
}

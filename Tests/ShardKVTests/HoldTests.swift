import RaftCore
import ShardMap
import Synchronization
import Testing
import WireMessages

@testable import ShardKV

@Suite("An entry has the state held as it is behind it")
struct HoldTests {
    /// What was held, by number.
    private final class Receiver: Sendable {
        private let states = Mutex<[(UInt64, Result<FrozenReplica, StateMachineError>)]>([])

        func take(_ number: UInt64, _ state: Result<FrozenReplica, StateMachineError>) {
            states.withLock { $0.append((number, state)) }
        }
        var numbers: [UInt64] { states.withLock { $0.map(\.0) } }
        func state(_ position: Int) throws -> FrozenReplica { try states.withLock { try $0[position].1.get() } }
    }

    private static let key = KeyLayout(replicaNumber: 0).key(.data, rest: Bytes("k")).suffix(from: 8)

    @Test("Whatever else is applied with it, before and after") func middleOfABatch() throws {
        let receiver = Receiver()
        let whole = try Replica()
        let single = try Replica()
        for replica in [whole, single] {
            replica.machine.onHold = { receiver.take($0, $1) }
            let next = replica.machine.appliedPosition.index.next
            _ = try replica.machine.apply([configurationEntry(next, RestartTests.birth)])
        }
        func commands(_ replica: Replica) -> [GroupCommand] {
            [
                replica.write([.set("k", "before")]), .verify(5), replica.write([.set("k", "after")]), .verify(6),
                replica.write([.set("k", "at last")]),
            ]
        }
        let replies = try whole.apply(commands(whole))
        #expect(replies.allSatisfy { $0.error == nil })
        for command in commands(single) { _ = try single.apply(command) }

        #expect(receiver.numbers == [5, 6, 5, 6])
        let states = try (0..<4).map { try receiver.state($0) }
        for (one, other) in [(0, 2), (1, 3)] {
            #expect(states[one].meta == states[other].meta)
            #expect(try states[one].ranges() == states[other].ranges())
        }
        #expect(states[0].meta.last.index.advanced(by: 2) == states[1].meta.last.index)
        let held = try states.map { try $0.keys(from: HoldTests.key, to: Bytes(), limit: 1) }
        #expect(held[0] == held[2] && held[1] == held[3] && held[0] != held[1])
        #expect(try whole.result(.get("k")) == .value("at last"))
        #expect(whole.machine.latestHash == single.machine.latestHash)
    }

    @Test("The controller's too") func controller() throws {
        let receiver = Receiver()
        let machine = try ControllerStateMachine(
            engine: MemoryEngine(), replicaNumber: 3, birth: RestartTests.birth)
        machine.onHold = { receiver.take($0, $1) }
        let arena = Arena()
        let commands: [ControllerCommand] = [
            .verify(8), .join(address: NodeAddress(ip: 1, port: 2), incarnation: 3), .verify(9),
        ]
        let entries = commands.enumerated().map { entry(LogIndex(Int64($0.offset + 1)), $0.element.encoded(arena)) }
        #expect(try machine.apply(entries).count == 3)
        #expect(receiver.numbers == [8, 9] && machine.appliedPosition.index == LogIndex(3))
        #expect(try receiver.state(0).meta.last.index == LogIndex(1))
        #expect(try receiver.state(1).meta.last.index == LogIndex(3))
    }

    @Test("A state that cannot be held stops nothing") func unknownMembers() throws {
        let receiver = Receiver()
        let replica = try Replica()
        replica.machine.onHold = { receiver.take($0, $1) }
        #expect(try replica.apply(.verify(5)).error == nil)
        #expect(throws: StateMachineError.self) { try receiver.state(0) }
        #expect(try replica.execute(.set("k", "v")).count == 1)
    }
}

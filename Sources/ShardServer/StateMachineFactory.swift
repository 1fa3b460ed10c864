import RaftCore
import RaftStorage
import ShardKV
import ShardMap

/// Makes the state machines of a node's replicas on its one engine; any thread.
struct StateMachineFactory: Sendable {
    let engine: any KeyValueEngine
    /// Where the controller's state machine leaves every newer map.
    let appliedMap: LockedValue<ClusterMap?>
    /// Where the state machines leave states that are to be compared.
    let held: HeldStates
    /// The highest level of which this program knows the commands.
    let knownLevel: UInt32
    /// Where the snapshots of guests are.
    var guests: GuestStates?

    /// The state machine of what lies under `number`; with nothing there, that of a replica born with `birth`.
    func make(
        _ group: String, _ kind: String, _ number: UInt64, _ birth: Configuration
    ) throws(StateMachineError) -> any SnapshotStateMachine {
        let held = self.held
        let hold: HeldStateReceiver = { held.put(group, number: $0, $1) }
        switch kind {
        case ShardServer.ReplicaKind.controller:
            let machine = try ControllerStateMachine(
                engine: engine, replicaNumber: number, birth: birth, knowing: knownLevel)
            let applied = appliedMap
            machine.onChange = { applied.set($0) }
            machine.onHold = hold
            return machine
        case ShardServer.ReplicaKind.keyValue:
            let machine = try KeyValueStateMachine(
                engine: engine, replicaNumber: number, birth: birth, knowing: knownLevel)
            machine.onHold = hold
            return machine
        case ShardServer.ReplicaKind.guest:
            guard let guests else { throw StateMachineError("\(group) is a guest, and nobody keeps those here") }
            return try guests.open(number, group: group, birth: birth)
        default:
            throw StateMachineError("\(group) is of the kind \(kind), which this version does not know; upgrade raftd")
        }
    }
}

extension StateMachineFactory: StateMachineStore {
    func takes(_ group: String, kind: String) -> Bool { true }

    /// Only what nobody here has to understand.
    func takesBraftFiles(_ group: String, kind: String) -> Bool { kind == ShardServer.ReplicaKind.guest }

    func install(
        _ folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> any SnapshotStateMachine {
        if kind == ShardServer.ReplicaKind.guest, let guests {
            return try guests.install(folder, as: number, group: group, kind: kind, expecting: meta)
        }
        let machine = try engine.install(folder, as: number, expecting: meta) { () throws(StateMachineError) in
            try make(group, kind, number, .empty)
        }
        // nobody applied the entries that the map came with
        if let map = (machine as? ControllerStateMachine)?.map { appliedMap.set(map) }
        return machine
    }

    /// A guest's snapshot is copied, which takes its time; the engine takes tables in as they are.
    func installer(
        of folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> (any SnapshotInstaller)? {
        guard kind == ShardServer.ReplicaKind.guest else { return nil }
        return guests?.installer(of: folder, as: number, group: group, kind: kind, expecting: meta)
    }

    /// A number is in one of the two, or in none.
    func drop(_ number: UInt64) throws(StateMachineError) {
        try guests?.drop(number)
        try engine.drop(number)
    }

    func numbers() throws(StateMachineError) -> [UInt64] {
        (try engine.numbers() + (guests?.numbers() ?? [])).sorted()
    }

    func flush() throws(StateMachineError) {
        try engine.flush()
        try guests?.flush()
    }
}

import RaftCore
import ShardMap
import WireMessages

@testable import ShardKV

/// What a run of the model found wrong.
struct ModelFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// A group of three replicas over one log. Whoever leads has applied all of it; the others lag as chance will have it,
/// and all give the same replies. Any of them may forget what was not durable, or start from another one's snapshot.
final class MovingGroup {
    final class Member {
        /// Nil: nothing is collected.
        private let collects: CollectingEngine.Limits?
        private var memory = MemoryEngine()
        private(set) var engine: any KeyValueEngine
        var machine: KeyValueStateMachine

        init(_ limits: KeyValueStateMachine.Limits, collects: CollectingEngine.Limits?) throws {
            self.collects = collects
            engine = Member.engine(over: memory, collects)
            machine = try MovingGroup.machine(on: engine, limits)
        }

        private static func engine(
            over memory: MemoryEngine, _ collects: CollectingEngine.Limits?
        ) -> any KeyValueEngine {
            collects.map { CollectingEngine(over: memory, limits: $0) } ?? memory
        }

        /// What was collected is forgotten, and what was not flushed.
        func crash() {
            memory.crash()
            engine = Member.engine(over: memory, collects)
        }

        /// Begins with nothing.
        func wipe() {
            memory = MemoryEngine()
            engine = Member.engine(over: memory, collects)
        }
    }

    static let number: UInt64 = 7
    let name: String
    let limits: KeyValueStateMachine.Limits
    private(set) var members: [Member] = []
    private(set) var leader = 0
    private var log: [CommittedEntry] = []
    private var replies: [Bytes] = []
    private let arena = Arena()

    init(_ name: String, _ limits: KeyValueStateMachine.Limits) throws {
        self.name = name
        self.limits = limits
        for collects in [nil, .few, CollectingEngine.Limits()] {
            members.append(try Member(limits, collects: collects))
        }
    }

    static func machine(
        on engine: any KeyValueEngine, _ limits: KeyValueStateMachine.Limits
    ) throws -> KeyValueStateMachine {
        try KeyValueStateMachine(engine: engine, replicaNumber: number, birth: RestartTests.birth, limits: limits)
    }

    var machine: KeyValueStateMachine { members[leader].machine }
    var time: Int64 { machine.replicatedTime }
    var lastIndex: Int { log.count }

    /// Commits `command`; the reply of the leader, which applies it at once.
    func propose(_ command: GroupCommand) throws -> ExecuteReply {
        let entry = entry(LogIndex(Int64(log.count + 1)), command.encoded(arena))
        log.append(entry)
        let reply = try machine.apply([entry])[0]
        replies.append(reply)
        guard let decoded = ExecuteReply(reply, arena) else { throw ModelFailure("a reply is malformed") }
        return decoded
    }

    /// Has `member` apply the next `count` entries, as one batch.
    func catchUp(_ member: Int, by count: Int = .max) throws {
        let applied = Int(members[member].machine.appliedPosition.index.rawValue)
        let end = min(log.count, applied + min(count, log.count))
        guard applied < end else { return }
        let found = try members[member].machine.apply(Array(log[applied..<end]))
        for (offset, reply) in found.enumerated() where reply != replies[applied + offset] {
            throw ModelFailure("\(name): member \(member) answers entry \(applied + offset + 1) in another way")
        }
    }

    func lead(_ member: Int) throws {
        try catchUp(member)
        leader = member
    }

    /// A power failure: the member goes on from what was durable.
    func crash(_ member: Int) throws {
        members[member].crash()
        members[member].machine = try MovingGroup.machine(on: members[member].engine, limits)
        if member == leader { try catchUp(member) }
    }

    /// Gives `member` the leader's state as a snapshot, in an engine of its own.
    func install(on member: Int) throws {
        guard member != leader, lastIndex > 0 else { return }
        let folder = MemoryFolder()
        try machine.freeze().writer(to: folder, as: MovingGroup.number).writeAll()
        members[member].wipe()
        try members[member].engine.ingest(folder, as: MovingGroup.number)
        members[member].machine = try MovingGroup.machine(on: members[member].engine, limits)
    }

    /// All members have the same state, and nothing in it is of a shard that is not owned.
    func checkEnd() throws {
        for member in members.indices { try catchUp(member) }
        let state = try contents(members[0].engine)
        for member in members.indices.dropFirst() where try contents(members[member].engine) != state {
            throw ModelFailure("\(name): members 0 and \(member) differ")
        }
        let shards = machine.ownedShards
        for key in state.map({ $0[0].suffix(from: ReplicaKeys.prefixBytes) }) {
            var reader = ByteReader(key)
            guard let kind = reader.byte().flatMap({ KeyKind(rawValue: $0) }) else { continue }
            let isRight =
                switch kind {
                case .data: shards.contains { $0.range.contains(key.suffix(from: 1)) }
                case .sessions, .replies, .shards:
                    reader.number().map { id in shards.contains { $0.id == id } } ?? false
                case .staging, .parts, .changes: false
                case .meta, .map, .expiry, .fences: true
                case .operations, .counters, .deletedGroups, .removedNodes, .history, .settings: false
                }
            if !isRight { throw ModelFailure("\(name): \(StateDigest.name(of: key)) was left behind") }
        }
    }
}

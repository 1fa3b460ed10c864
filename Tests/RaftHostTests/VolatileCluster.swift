import RaftCore
import RaftStorage
import Simulator
import Testing
import Transport

@testable import RaftHost

/// A list of tags that only grows: a command's tag is added, the reply is how many there were. It knows how many entries
/// it was given itself, and not with a state.
final class TagList: VolatileStateMachine, @unchecked Sendable {
    private(set) var tags: [UInt64] = []
    private(set) var appliedHere = 0
    /// A command with this tag cannot be applied, if set.
    var failsAt: UInt64?
    /// The command with this tag is added, and answered, otherwise than it should be, if set.
    var isWrongAt: UInt64?
    /// Bytes of each piece.
    private let pieceBytes: Int

    init(pieceBytes: Int = 8) { self.pieceBytes = pieceBytes }

    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        var replies: [Bytes] = []
        for entry in entries {
            appliedHere += 1
            guard entry.kind == .data else {
                replies.append(Bytes())
                continue
            }
            var tag = Command.tag(of: entry.payload)
            if tag == isWrongAt { tag += 1_000_000 }
            replies.append(Bytes("\(tags.count) \(tag)"))
            guard tag != failsAt else { throw StateMachineError("told to fail") }
            tags.append(tag)
        }
        return replies
    }

    func read(_ query: Bytes) -> Bytes { Bytes("\(tags.count)") }

    func frozen() -> any StatePieces {
        EncodedPieces(tags) { [pieceBytes] in Command.payload(tag: $0, byteCount: pieceBytes) }
    }

    func restore(from pieces: inout any StatePieces) throws(StateMachineError) {
        while let piece = try pieces.next() { tags.append(Command.tag(of: piece)) }
    }
}

/// What a node of a ``VolatileCluster`` runs: one replica with a ``TagList`` of every group, composed as an embedded node
/// composes it.
final class VolatileProgram: NodeProgram, @unchecked Sendable {
    /// What a node says, over all of its lives.
    let lines = LockedLines()
    private let groups: [String]
    private let size: Int
    private let pieceBytes: Int
    /// Holds the saved states.
    let disk: MemoryDisk
    /// The state machines made last, by group; those in force, once all is quiet.
    private(set) var lists: [String: TagList] = [:]
    private(set) var machines: [String: SnapshottedStateMachine] = [:]

    init(groups: [String], size: Int, pieceBytes: Int, seed: UInt64) {
        (self.groups, self.size, self.pieceBytes) = (groups, size, pieceBytes)
        disk = MemoryDisk(seed: seed)
    }

    func prepare(_ directory: NodeDirectory, _ number: Int) throws {
        guard directory.identity.clusterID == 0 else { return }
        try directory.join(clusterID: 7, nodeID: UInt64(number), bootstrap: nil)
    }

    func start(_ process: SimulatedNode.Process) throws -> (Instant) -> Instant? {
        let host = process.host
        var makers: [String: VolatileStateMachineMaker] = [:]
        for group in groups {
            makers[group] = { [unowned self] in
                let list = TagList(pieceBytes: pieceBytes)
                lists[group] = list
                return list
            }
        }
        let states = try SavedStates(disk: disk, makers: makers) { [lines] in lines.append($0) }
        host.store = states
        host.remakeStateMachine = { record throws(StateMachineError) in
            try states.open(record.store, group: record.group, birth: record.birth)
        }
        host.onStateMachine = { [unowned self] record, machine in
            machines[record.group] = machine as? SnapshottedStateMachine
        }
        let birth = Configuration(peers: (1...size).map { PeerID(address: SimulatedNode.address($0)) })
        for record in host.records {
            let machine = try states.open(record.store, group: record.group, birth: record.birth)
            machines[record.group] = machine
            host.open(record, stateMachine: machine)
        }
        for group in groups where !host.records.contains(where: { $0.group == group }) {
            let peer = PeerID(address: SimulatedNode.address(process.number))
            host.create(
                group: group, peer: peer, birth: birth, kind: "embedded",
                makeStateMachine: { [unowned self] number throws(StateMachineError) in
                    let machine = try states.open(number, group: group, birth: birth)
                    machines[group] = machine
                    return machine
                }, completion: { _ in })
        }
        host.removeUnknownStates()
        return { _ in nil }
    }

    func crashed() { disk.crash(.some) }
}

/// A cluster of hosts with volatile state machines, in one thread and one virtual time; a seed replays it.
final class VolatileCluster {
    let world: SimulatedWorld
    let nodes: [SimulatedNode]
    let groups: [String]
    /// Tags that were acknowledged, by group.
    private(set) var acknowledged: [String: [UInt64]] = [:]
    private var nextTag: UInt64 = 1

    init(
        seed: UInt64, groups: [String] = ["g"], size: Int = 3, pieceBytes: Int = 8,
        _ change: (inout RaftHost.Settings) -> Void = { _ in }
    ) throws {
        var random = SeededRandom(seed: seed)
        let world = SimulatedWorld(seed: random.next())
        var settings = SimulatedNode.Settings()
        settings.host.saveEntries = 40
        settings.host.keptEntries = 10
        settings.host.keptBytes = 4 << 10
        settings.host.compactionPace = .milliseconds(100)
        change(&settings.host)
        nodes = (1...size).map { number in
            let program = VolatileProgram(groups: groups, size: size, pieceBytes: pieceBytes, seed: random.next())
            settings.logger = Logger(level: .info) { [lines = program.lines] in lines.append($0) }
            return SimulatedNode(
                number: number, world: world, settings: settings, program: program, seed: random.next())
        }
        self.world = world
        self.groups = groups
        for node in nodes { try node.start() }
        awaitLeaders()
    }

    @discardableResult
    func run(limit milliseconds: Int, until condition: () -> Bool = { false }) -> Bool {
        world.runUntil(limit: .milliseconds(milliseconds), condition)
    }

    func leader(of group: String = "g") -> SimulatedNode? { nodes.first { $0.leads(group) } }

    func awaitLeaders() {
        #expect(run(limit: 30_000) { groups.allSatisfy { leader(of: $0) != nil } }, "not every group is led")
    }

    /// Proposes `count` commands to `group`, one after the other; those without an outcome in time are forgotten.
    func write(_ count: Int, to group: String = "g", bytes: Int = 100) {
        for _ in 0..<count {
            guard let leader = leader(of: group) else {
                run(limit: 100)
                continue
            }
            let (host, tag) = (leader.host!, nextTag)
            nextTag += 1
            var isAnswered = false
            leader.lane.post { [self] in
                host.propose(Command.payload(tag: tag, byteCount: bytes), to: group) { outcome in
                    isAnswered = true
                    if outcome.position != nil { self.acknowledged[group, default: []].append(tag) }
                }
            }
            run(limit: 2000) { isAnswered || !leader.isRunning }
        }
    }

    /// Whether all nodes that run have applied the same, and everything acknowledged.
    func agrees(_ group: String = "g") -> Bool {
        let running = nodes.filter(\.isRunning)
        guard let first = running.first?.list(group)?.tags,
            // a state that has come is in force when the replica says so
            Set(running.map { $0.status(of: group)?.appliedIndex }).count == 1
        else { return false }
        return running.allSatisfy { $0.list(group)?.tags == first && $0.status(of: group)?.problem == nil }
            && Set(acknowledged[group] ?? []).isSubset(of: first) && Set(first).count == first.count
    }

    func awaitAgreement(_ place: SourceLocation = #_sourceLocation) {
        for _ in 0..<900 {
            if groups.allSatisfy(agrees) { return }
            run(limit: 100)
        }
        Issue.record("the replicas differ", sourceLocation: place)
    }
}

extension SimulatedNode {
    var volatile: VolatileProgram {
        guard let program = program as? VolatileProgram else { preconditionFailure("a node of another cluster") }
        return program
    }

    func list(_ group: String = "g") -> TagList? { volatile.lists[group] }
    func base(_ group: String = "g") -> LogIndex { host.raft(of: group)?.base.index ?? .zero }
    func saved(_ group: String = "g") -> LogIndex { volatile.machines[group]?.durableMeta()?.last.index ?? .zero }
}

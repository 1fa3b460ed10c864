import CMessages
import RaftCore
import RaftHost
import RaftStorage
import ShardMap
public import Transport
import WireMessages

/// A whole cluster from one plan, in one thread: nodes as `raftd` composes them, clients with the real router, disks,
/// clocks and a network that fail as the plan says; judged after every step.
///
/// A run forms the cluster, suffers the faults while clients go on, and then heals: every group must be led again, all
/// sound replicas must apply the same, and every client must get answers.
public final class Simulation {
    /// What a run came to.
    public struct Outcome: Equatable, Sendable {
        /// What must not happen and did; nil: the run has passed.
        public var violation: Violation?
        /// Stands for everything that happened.
        public var hash: UInt64
        /// Events of the world.
        public var steps: Int
        /// Calls of clients that were answered.
        public var answered: Int
        /// Calls of clients that were certainly not executed.
        public var refused: Int
        /// Calls of clients of which nobody knows.
        public var lost: Int
        /// Reads in the nodes' own processes that were answered.
        public var reads: Int
        /// Keys whose history had too many possibilities to be judged to its end.
        public var undecided: Int
        /// Elections won.
        public var elections: Int
        /// Changes of membership that were carried out to their end by the leader that was asked.
        public var changes: Int
        /// Shards that another group has adopted.
        public var moves: Int
        /// Shards split or merged.
        public var cuts: Int
        /// Snapshots that took the place of a log.
        public var installs: Int
        /// Faults that happened, by kind.
        public var faults: [FaultKind: Int]

        /// What came of a run.
        public init(
            violation: Violation?, hash: UInt64 = 0, steps: Int = 0, answered: Int = 0, refused: Int = 0, lost: Int = 0,
            reads: Int = 0, undecided: Int = 0, elections: Int = 0, changes: Int = 0, moves: Int = 0,
            cuts: Int = 0, installs: Int = 0, faults: [FaultKind: Int] = [:]
        ) {
            self.violation = violation
            self.hash = hash
            self.steps = steps
            self.answered = answered
            self.refused = refused
            self.lost = lost
            self.reads = reads
            self.undecided = undecided
            self.elections = elections
            self.changes = changes
            self.moves = moves
            self.cuts = cuts
            self.installs = installs
            self.faults = faults
        }
    }

    /// What is simulated.
    public let plan: Plan
    /// The world; for whoever wants to look closer.
    public let world: SimulatedWorld
    /// The nodes, in the order of their numbers.
    public let nodes: [SimulatedNode]
    let keys: KeyTable
    let clients: [SimulatedClient]
    private var readers: [InProcessReader] = []
    var judge: Judge!
    /// Of decisions while running; what it decides comes from the plan's seed.
    var random: SeededRandom
    /// What has to be done later: the end of a fault, the start of a node; ascending.
    var agenda: [(due: Instant, number: Int, action: () -> Void)] = []
    private var agendaNumber = 0
    /// Nodes whose power has just failed, in the middle of something.
    var powerless: [(node: SimulatedNode, loss: MemoryDisk.Loss)] = []
    /// Nodes that have lost data for good.
    var rotten: Set<Int> = []
    var faultCounts: [FaultKind: Int] = [:]
    /// Changes of membership that were carried out.
    var changes = 0
    private let timeline: ((String) -> Void)?

    /// A simulation of `plan`; `timeline` hears a line about whatever is worth one.
    public init(_ plan: Plan, timeline: ((String) -> Void)? = nil) {
        self.plan = plan
        self.timeline = timeline
        var random = SeededRandom(seed: plan.seed ^ 0x5eed)
        let world = SimulatedWorld(seed: random.next())
        let addresses = (1...plan.nodes).map { SimulatedNode.address($0) }
        let controllers = Array(addresses.prefix(plan.replicas))
        var settings = SimulatedNode.Settings()
        settings.log.segmentBytes = 16 << 10
        if random.number(in: 0..<3) == 0 {
            // most catching up is from the disk, in small frames
            settings.host.tailBytes = 2 << 10
            settings.host.frameBytes = 4 << 10
            settings.host.raft.maxEntriesPerAppend = 16
            settings.host.raft.maxEntriesInFlight = 64
        }
        Simulation.compactEarly(&settings, seed: plan.seed)
        nodes = addresses.indices.map { position in
            SimulatedNode(
                number: position + 1, world: world, settings: settings,
                program: KeyValueProgram(
                    controllers: controllers, moveChunkBytes: Simulation.moveChunkBytes(plan),
                    hasQuickScheduler: plan.hasQuickScheduler,
                    hasChurn: plan.schedule.faults.contains { $0.kind == .churn }, seed: random.next()),
                seed: random.next())
        }
        let keys = KeyTable(count: plan.keys)
        clients = (1...plan.clients).map {
            SimulatedClient(number: $0, world: world, seeds: addresses, keys: keys, seed: random.next())
        }
        self.keys = keys
        self.world = world
        self.random = random
        connect()
    }

    /// Logs are cut after a few entries in most runs, so that whoever falls behind needs a snapshot, in small pieces.
    private static func compactEarly(_ settings: inout SimulatedNode.Settings, seed: UInt64) {
        var random = SeededRandom(seed: seed ^ 0xc0de)
        guard random.number(in: 0..<4) > 0 else { return }
        settings.host.compactionEntries = Int(random.number(in: 8..<100))
        settings.host.compactionBytes = 16 << 10
        settings.host.keptEntries = Int(random.number(in: 0..<20))
        settings.host.compactionPace = .milliseconds(Int(random.number(in: 1..<200)))
        settings.log.spaceBytes = 1 << 20
        settings.host.lookBytes = 8 << 10
        settings.host.snapshotChunkBytes = Int(random.number(in: 256..<4096))
        settings.host.snapshotBytesPerSecond = Int(random.number(in: 10_000..<1_000_000))
        settings.host.snapshotsReceived = Int(random.number(in: 1..<3))
    }

    /// What there is to move is little: in most runs it goes in several pieces, and values are cut.
    private static func moveChunkBytes(_ plan: Plan) -> Int {
        var random = SeededRandom(seed: plan.seed ^ 0xcafe)
        return Int(random.number(in: 0..<4) == 0 ? 256 << 10 : random.number(in: 1..<400))
    }

    private func connect() {
        let addresses = nodes.map(\.address)
        judge = Judge(
            Judge.WorldEvents(
                nodes: nodes.count,
                number: { address in (addresses.firstIndex(of: address) ?? 0) + 1 },
                disk: { [nodes] in nodes[$0 - 1].logDisk },
                host: { [nodes] in nodes[$0 - 1].isRunning ? nodes[$0 - 1].host : nil },
                clock: { [nodes] in nodes[$0 - 1].lane.clock.now },
                tell: { [unowned self] in tell($0()) }))
        for node in nodes {
            node.observer = judge.observer(of: node.number)
            let reader = InProcessReader(node: node.number, groups: firstGroupNames, judge: judge, seed: random.next())
            (node.program as? KeyValueProgram)?.reader = reader
            readers.append(reader)
        }
        for client in clients {
            client.onViolation = { [unowned self] in judge.note($0) }
            client.onEnd = { [unowned self] key, operation, end in
                world.note(fingerprint(of: end))
                tell("client \(client.number): \(key.name.text): \(operation) \(end)")
            }
        }
    }

    private func fingerprint(of end: KeyTable.CallEnd) -> UInt64 {
        switch end {
        case .answered(.value(let value)): value.map { Simulator.fingerprint($0) } ?? 1
        case .answered(.number(let number)): UInt64(bitPattern: number) &+ 5
        case .answered(.notAnInteger): 2
        case .refused: 3
        case .lost: 4
        }
    }

    /// A line of the timeline.
    func tell(_ line: @autoclosure () -> String) {
        guard let timeline else { return }
        let now = world.now.nanoseconds / 1000
        let fraction = String(now % 1_000_000)
        let padding = String(repeating: "0", count: 6 - fraction.count)
        timeline("\(now / 1_000_000).\(padding)\(fraction)s step \(world.stepCount): \(line())")
    }

    /// Runs everything. Once.
    public func run() -> Outcome {
        form()
        if judge.violation == nil { suffer() }
        if judge.violation == nil { heal() }
        for node in nodes { judge.note(node.violations.first) }
        if let violation = judge.violation { tell(violation.description) }
        world.note(judge.fingerprint)
        defer { end() }
        return Outcome(
            violation: judge.violation, hash: world.digest, steps: world.stepCount, answered: keys.answered,
            refused: keys.refused, lost: keys.lost, reads: judge.reads, undecided: keys.undecided,
            elections: judge.elections, changes: changes, moves: judge.oneOwner.moves,
            cuts: judge.oneOwner.cuts, installs: judge.installs, faults: faultCounts)
    }

    /// Lets go of everything that holds another.
    func end() {
        agenda = []
        for client in clients { client.close() }
        for node in nodes { node.crash() }
    }

    /// One step of the world, and whatever is due between steps.
    func step() {
        if let first = agenda.first, first.due <= world.now {
            agenda.removeFirst()
            first.action()
        }
        world.step()
        while let (node, loss) = powerless.popLast() { restartLater(node, loss, after: 50 + chance(1000)) }
    }

    /// Does `action` about `milliseconds` from now.
    func later(_ milliseconds: Int, _ action: @escaping () -> Void) {
        agendaNumber += 1
        let due = world.now + .milliseconds(milliseconds)
        let place = agenda.firstIndex { $0.due > due } ?? agenda.count
        agenda.insert((due, agendaNumber, action), at: place)
    }

    func chance(_ bound: Int) -> Int { Int(random.number(in: 0..<Int64(bound))) }

    /// Steps until `condition` holds, looked at now and then; false if it does not within `limit` of virtual time.
    func run(limit: Interval, until condition: () -> Bool) -> Bool {
        let end = world.now + limit
        var steps = 0
        while judge.violation == nil {
            if steps % 64 == 0, condition() { return true }
            guard world.now < end else { return condition() }
            step()
            steps += 1
        }
        return false
    }

    /// Those that the cluster is formed with.
    var firstGroupNames: [String] { [ClusterMap.controllerGroup] + (1...plan.groups).map { "g\($0)" } }
}

// MARK: forming

extension Simulation {
    func form() {
        for node in nodes {
            do { try node.start() } catch { judge.note(Violation("Forms", nodes: [node.number], "\(error)")) }
        }
        var isFormed = false
        for _ in 0..<120 where !isFormed && judge.violation == nil {
            askToForm { isFormed = true }
            _ = run(limit: .milliseconds(500)) { isFormed }
        }
        if !isFormed { judge.note(Violation("Forms", "the cluster is not formed after a minute")) }
        tell("formed: \(plan.groups) groups of \(plan.replicas) replicas on \(plan.nodes) nodes")
    }

    private func askToForm(_ done: @escaping () -> Void) {
        let client = clients[0]
        let plan = self.plan
        client.lane.post {
            let body = Arena().scope { arena in
                let message = arena.make(flotilla__init_request__init)
                message.pointee.groups = UInt32(plan.groups)
                message.pointee.replicas = UInt32(plan.replicas)
                message.pointee.has_nodes = 1
                message.pointee.nodes = UInt32(plan.nodes)
                return arena.pack(message)
            }
            client.remote.call(
                SimulatedNode.address(1), service: "flotilla.ClusterService", method: "init", body: body,
                deadline: client.lane.clock.now + .milliseconds(2000)
            ) { result in
                guard case .reply(let reply) = result else { return }
                let isDone = Arena().scope { arena in
                    arena.unpack(flotilla__init_reply__init, reply.body)?.pointee.done ?? 0 != 0
                }
                if isDone { done() }
            }
            client.lane.requestTurn()
        }
    }
}

// MARK: suffering and healing

extension Simulation {
    private func suffer() {
        for client in clients { client.begin() }
        for reader in readers { reader.isReading = true }
        let begin = world.stepCount
        var next = 0
        let faults = plan.schedule.faults
        while world.stepCount - begin < plan.steps, judge.violation == nil {
            while next < faults.count, faults[next].step <= world.stepCount - begin {
                strike(faults[next])
                next += 1
            }
            step()
        }
    }

    func heal() {
        tell("healing")
        for client in clients { client.rest() }
        for reader in readers { reader.isReading = false }
        endFaults()
        guard run(limit: .milliseconds(60_000), until: { clients.allSatisfy { $0.underWay == 0 } }) else {
            return judge.note(Violation("Heals", "a client's call has no end"))
        }
        guard run(limit: .milliseconds(60_000), until: { isLed() && hasRoom() }) else {
            return judge.note(
                Violation(
                    "Heals", "not every group is led, or a node has no room: " + summary() + "; " + operationsSummary())
            )
        }
        guard run(limit: .milliseconds(120_000), until: operationsHaveEnded) else {
            return judge.note(Violation("Heals", "an operation has no end: " + operationsSummary()))
        }
        // which may have given groups other members, and made new ones
        guard run(limit: .milliseconds(60_000), until: isLed) else {
            return judge.note(Violation("Heals", "not every group is led when all operations have ended: " + summary()))
        }
        serveEverybody()
        if plan.hasQuickScheduler, judge.violation == nil { awaitDecisionsEnd() }
        guard judge.violation == nil else { return }
        guard run(limit: .milliseconds(60_000), until: { unwantedReplicas().isEmpty }) else {
            let left = unwantedReplicas().joined(separator: ", ")
            return judge.note(Violation("Heals", "replicas stay that the map does not want: " + left))
        }
        guard run(limit: .milliseconds(60_000), until: isApplied) else {
            return judge.note(Violation("Heals", "not everybody has applied the same: " + summary()))
        }
        compareOwners()
        expectRest()
    }

    /// Nobody without work logs, campaigns or changes leaders; the disk is heard once per interval of the liveness.
    private func expectRest() {
        // the last batch is sealed, and calls that nobody waits for any more have ended
        _ = run(limit: .milliseconds(10_000)) { false }
        // a node without replicas asks one node after the other for the map, and who meets it for the first time notes it
        var last: String?
        for _ in nodes {
            last = unrest()
            guard last != nil, judge.violation == nil else { return }
        }
        judge.note(last.map { Violation("Rests", $0) })
    }

    /// What happens in five seconds that should not; nil if all rest.
    private func unrest() -> String? {
        let before = (state: summary(of: .members), logs: loggedBytes(), syncs: nodes.map(\.logDisk.syncCount))
        _ = run(limit: .milliseconds(5_000)) { false }
        // a node's clock may run a little fast
        let pulses = 5_000 / NodeLiveness.Settings().interval.milliseconds + 2
        let isCalm = zip(nodes, before.syncs).allSatisfy { $0.logDisk.syncCount - $1 <= pulses }
        let (state, logs) = (summary(of: .members), loggedBytes())
        guard state != before.state || logs != before.logs || !isCalm else { return nil }
        let syncs = zip(nodes, before.syncs).map { "\($0.logDisk.syncCount - $1) syncs" }.joined(separator: ", ")
        let writers = nodes.indices.filter { logs[$0] != before.logs[$0] }.map { "node \($0 + 1)" }
        return "in five seconds \(syncs), written by \(writers); before: \(before.state); now: \(state)"
    }

    /// What the logs hold on the disks.
    private func loggedBytes() -> [[UInt8]] {
        nodes.map { node in
            ((try? node.logDisk.list()) ?? []).filter { $0.hasSuffix(".log") }.flatMap {
                node.logDisk.contents($0) ?? []
            }
        }
    }

    /// Every client writes and reads every key, one client after the other: fewer orders are possible.
    private func serveEverybody() {
        for client in clients where judge.violation == nil { serve(client) }
    }

    private func serve(_ client: SimulatedClient) {
        var waiting = keys.count
        for slot in 0..<keys.count {
            let key = keys.key(at: slot)
            client.lane.post { [self] in
                client.call([(key, .increment(1)), (key, .get)], within: .milliseconds(20_000)) { [self] ends in
                    waiting -= 1
                    for end in ends {
                        if case .answered = end { continue }
                        judge.note(Violation("Heals", "key \(key.name.text) is not served: it \(end); " + summary()))
                    }
                }
                client.lane.requestTurn()
            }
        }
        if !run(limit: .milliseconds(60_000), until: { waiting == 0 }) {
            judge.note(Violation("Heals", "\(waiting) calls were never answered: " + summary()))
        }
    }

    /// Whether the replica may have lost data for good: it is not expected to serve.
    private func isLost(_ node: SimulatedNode, _ group: String) -> Bool {
        rotten.contains(node.number) && (!node.isRunning || node.status(of: group)?.state == "damaged")
    }

    private func isLed() -> Bool {
        groupNames.allSatisfy { group in
            guard let leader = leader(of: group), let members = members(of: group) else { return false }
            return members.allSatisfy { isLost($0, group) || $0.status(of: group)?.leader?.address == leader.address }
        }
    }

    /// A host looks for room once a second.
    private func hasRoom() -> Bool { nodes.allSatisfy { !$0.isRunning || !$0.host.refusesWrites } }

    private func isApplied() -> Bool {
        groupNames.allSatisfy { group in
            guard let members = members(of: group) else { return false }
            let last = judge.appliedSequencesEqual.lastApplied(of: group)
            return members.allSatisfy { node in
                if isLost(node, group) { return true }
                guard let status = node.status(of: group) else { return false }
                return status.problem == nil && status.appliedIndex == last && status.lastIndex == last
            }
        }
    }

    /// Whom a summary is about: a replica that left, and perhaps was not told of it, asks for votes in vain for ever.
    enum Audience {
        case members
        case everybody
    }

    /// Who is what, for people.
    func summary(of audience: Audience = .everybody) -> String {
        groupNames.map { group in
            let shown = audience == .members ? members(of: group) ?? [] : nodes
            let configuration = leader(of: group)?.host.raft(of: group)?.configuration
            return group + (configuration.map { " of \($0)" } ?? "") + ": "
                + shown.compactMap { node in
                    guard node.isRunning else { return "\(node.number) down" }
                    guard let status = node.status(of: group) else { return nil }
                    return "\(node.number) \(status.state) of term \(status.term), log \(status.lastIndex), durable "
                        + "\(status.durableIndex), committed \(status.commitIndex), applied \(status.appliedIndex)"
                        + (status.problem.map { " (\($0))" } ?? "")
                }.joined(separator: ", ")
        }.joined(separator: "; ")
    }
}

import RaftCore
import RaftHost
import RaftStorage
import Simulator
import Testing
import Transport

/// A cluster of hosts in one thread and one virtual time; a seed replays it.
final class HostCluster {
    let world: SimulatedWorld
    let nodes: [SimulatedNode]
    let histories: [AppliedHistory]
    private(set) var violations: [String] = []
    /// Who led a group in a term, by group position and term.
    private var leaders: [[Int64: Int]]

    /// What is the same for all nodes, and for all lives of one.
    struct Plan {
        var settings = RaftHost.Settings()
        var log = WriteAheadLog.Settings(segmentBytes: 64 << 10, reserveBytes: 1)
        /// A machine is flushed after about so many of its jobs.
        var flushesOneOf: Int64 = 16
        /// Of a machine's snapshots.
        var snapshotBytes = 100_000
        var clusterID: UInt64 = 99
        var groups: [String] = ["g0"]
        /// Members by node number, from 1.
        var size = 3
        /// Every node is foreign to the others.
        var isOnItsOwn = false
        /// The store takes the files of a braft's snapshot.
        var takesBraftFiles = false
        /// Of the replicas.
        var kind = "recording"
        /// The store takes so many steps to install a state; 0: it does it at once.
        var installSteps = 0
    }

    init(seed: UInt64, plan: Plan = Plan()) {
        var random = SeededRandom(seed: seed)
        let world = SimulatedWorld(seed: random.next())
        let histories = plan.groups.map { AppliedHistory(group: $0) }
        var settings = SimulatedNode.Settings()
        settings.host = plan.settings
        settings.log = plan.log
        nodes = (1...plan.size).map {
            let program = RecordingProgram(plan: plan, histories: histories)
            let node = SimulatedNode(
                number: $0, world: world, settings: settings, program: program, seed: random.next())
            node.makeWorker = { [unowned program] in program.makeWorker($0, $1) }
            return node
        }
        self.world = world
        self.histories = histories
        leaders = plan.groups.map { _ in [:] }
    }

    var groupCount: Int { histories.count }

    /// Starts all nodes.
    func start() throws {
        for node in nodes { try node.start() }
    }

    /// Runs for `interval`, looking around now and then.
    func run(_ interval: Interval) {
        world.run(for: interval)
        observe()
    }

    /// Runs until `condition` holds; false if it does not within `limit`.
    @discardableResult
    func run(limit milliseconds: Int, until condition: () -> Bool) -> Bool {
        defer { observe() }
        return world.runUntil(limit: .milliseconds(milliseconds), condition)
    }

    func leader(of position: Int) -> SimulatedNode? { nodes.first { $0.leads(position) } }

    /// Runs until every group is led by a replica that its followers know; fails the test if that takes too long.
    func awaitLeaders(limit milliseconds: Int = 20_000, _ place: SourceLocation = #_sourceLocation) {
        let isLed = run(limit: milliseconds) {
            (0..<groupCount).allSatisfy { position in
                guard let leader = leader(of: position) else { return false }
                return nodes.allSatisfy { !$0.isRunning || $0.status(position)?.leader == leader.peer }
            }
        }
        #expect(isLed, "not every group is led", sourceLocation: place)
    }

    /// §5.2: at most one leader per term.
    private func observe() {
        for (position, group) in histories.enumerated() {
            for node in nodes where node.leads(position) {
                guard let term = node.host.status(of: group.group)?.term.rawValue else { continue }
                if let known = leaders[position][term], known != node.number {
                    violations.append("\(group.group): \(known) and \(node.number) lead in term \(term)")
                }
                leaders[position][term] = node.number
            }
        }
    }

    /// Everything that must not happen and did, so far.
    var allViolations: [String] {
        violations + histories.flatMap(\.violations) + nodes.flatMap { $0.violations.map(\.description) }
            + nodes.flatMap(\.recording.problems)
    }
}

extension HostCluster {
    /// Proposes on `node` and runs until there is an outcome, or for ten seconds.
    func propose(_ payload: Bytes, to position: Int = 0, on node: SimulatedNode) -> ProposalOutcome? {
        var outcome: ProposalOutcome?
        let host = node.host!
        node.lane.post { [group = histories[position].group] in host.propose(payload, to: group) { outcome = $0 } }
        run(limit: 10_000) { outcome != nil }
        return outcome
    }

    /// Reads on `node`: what the machine answers, or why it was not asked.
    func read(_ position: Int = 0, on node: SimulatedNode) -> ReadResult? {
        var result: ReadResult?
        let host = node.host!
        let machine = node.machines[position]
        node.lane.post { [group = histories[position].group] in
            host.read(group) { outcome in
                guard case .ready(let moment) = outcome else { return result = .refused(outcome) }
                host.evaluate(at: moment) {
                    machine.read(Bytes())
                } completion: {
                    result = .value($0!.text)
                }
            }
        }
        run(limit: 10_000) { result != nil }
        return result
    }

    enum ReadResult {
        case value(String)
        case refused(ReadOutcome)

        var value: String? { if case .value(let text) = self { text } else { nil } }
    }
}

extension ProposalOutcome {
    /// Where it was applied, if it was.
    var position: LogPosition? { if case .applied(_, let position) = self { position } else { nil } }
    /// Why it was refused, if it was.
    var refusal: ProposalRefusal? { if case .refused(let refusal) = self { refusal } else { nil } }
}

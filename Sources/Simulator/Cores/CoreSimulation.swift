import RaftCore

/// A cluster of cores alone, from one seed: one group, without host, log format, wire or state machine, so that a
/// minute of its life takes milliseconds. Members, snapshots, witnesses, learners, transfers, leases and reads of all
/// kinds are in it; it is judged after every event.
///
/// It suffers, and then everything must heal: within a minute there is one leader, everybody has applied the same, and
/// nobody has anything left to do; and a membership is changed, entries are written and reads are served.
public struct CoreSimulation {
    /// What a run came to.
    public struct Outcome: Equatable, Sendable {
        /// What must not happen and did; nil: the run has passed.
        public var violation: Violation?
        /// Stands for everything that happened.
        public var hash: UInt64
        /// Events of cores.
        public var steps: Int
        /// Leaders that have committed or not.
        public var terms: Int
        /// Entries committed.
        public var committed: Int
        /// Changes of membership.
        public var changes: Int
        /// Reads answered.
        public var reads: Int

        /// What came of a run.
        public init(
            violation: Violation?, hash: UInt64 = 0, steps: Int = 0, terms: Int = 0, committed: Int = 0,
            changes: Int = 0, reads: Int = 0
        ) {
            self.violation = violation
            self.hash = hash
            self.steps = steps
            self.terms = terms
            self.committed = committed
            self.changes = changes
            self.reads = reads
        }
    }

    private var cluster: CoreCluster
    private let life: CoreLife
    private let schedule: CoreSchedule

    /// A simulation of `plan`; `timeline` hears of every deed, and of every event of a core.
    public init(_ plan: CorePlan, timeline: ((String) -> Void)? = nil) {
        life = CoreLife(plan.life, seed: plan.seed)
        schedule = plan.schedule
        cluster = CoreCluster(life, seed: plan.seed)
        cluster.timeline = timeline
    }

    /// Runs everything. Once.
    public mutating func run() -> Outcome {
        cluster.suffer(schedule, milliseconds: life.milliseconds)
        cluster.heal()
        cluster.expectRecovery()
        cluster.expectWork()
        return Outcome(
            violation: cluster.judge.violation, hash: cluster.digest, steps: cluster.events,
            terms: cluster.judge.terms, committed: cluster.judge.committed.count,
            changes: cluster.judge.finishedChanges, reads: cluster.judge.finishedReads)
    }
}

extension CoreCluster: CustomStringConvertible {
    /// A cluster for this life.
    init(_ life: CoreLife, seed: UInt64) {
        self.init(size: life.size, seed: seed, roles: life.roles)
        settings = life.settings
        compactsEvery = life.compactsEvery
        pausesBeforeJudging = life.pausesBeforeJudging
        appliesLate = life.appliesLate
        faults = life.faults
    }

    /// Everything converges: one leader, all members at the same place, all at rest.
    mutating func expectRecovery() {
        // what was lost and late before may be missed for a while
        run(milliseconds: 4000)
        let isCalm = run(milliseconds: 40_000) { $0.isCalm }
        expect(isCalm, leader == nil ? "Heals" : "Rests", "it is not well and at rest")
    }

    /// A membership is changed, an entry written and a read served, and there is rest again.
    mutating func expectWork() {
        guard judge.violation == nil, let leader else { return }
        let newcomer = addNode()
        let present = nodes[leader].raft.configuration
        let isAlone = present.peers.count == 1
        let leaver = present.peers.first { $0 != nodes[leader].id || !isAlone }
        let peers = present.peers.filter { $0 != leaver } + [newcomer]
        let change = change(to: Configuration(peers: peers, learners: present.learners), at: leader)
        run(milliseconds: 20_000) { $0.outcomes[change] != nil && $0.isCalm }
        guard case .done = outcomes[change] else {
            return expect(false, "Heals", "a change ends: \(String(describing: outcomes[change]))")
        }
        guard let successor = self.leader else { return }
        let before = judge.commitIndex
        let reads = judge.finishedReads
        propose(3, at: successor)
        read(at: successor, lease: true)
        let follower = members.first { $0 != successor && !nodes[$0].isWitness } ?? successor
        read(at: follower, lease: false)
        let isDone = run(milliseconds: 10_000) {
            $0.judge.commitIndex == before.advanced(by: 3) && $0.judge.finishedReads == reads + 2 && $0.isCalm
        }
        expect(isDone, "Heals", "three entries behind \(before), or two reads, have no end")
    }

    private mutating func expect(_ holds: Bool, _ checker: String, _ facts: String) {
        guard !holds else { return }
        let text = "\(facts): \(self)"
        judge.check(false, checker, text, at: time)
    }

    /// The members, as the leader knows them.
    var members: [Int] { leader.map { nodes[$0].raft.configuration.members.map(Self.position(of:)) } ?? [] }

    /// Whether there is one leader, everybody is at the same place, and nothing is left to do.
    var isCalm: Bool {
        guard let leader, !nodes[leader].raft.isChangingMembership else { return false }
        let last = nodes[leader].raft.lastIndex
        return members.allSatisfy { member in
            let node = nodes[member]
            return node.isUp && node.raft.leader == nodes[leader].id && node.raft.deadline == nil
                && node.raft.commitIndex == last && node.state.index == last && node.writes.isEmpty
        }
    }

    /// Who is what, for people.
    var description: String {
        let states = nodes.indices.filter { nodes[$0].isUp }.map { node -> String in
            let raft = nodes[node].raft
            let due = raft.deadline.map { "\(nodes[node].globalTime($0) / 1_000_000)" } ?? "-"
            return "\(node) \(raft.role) of term \(raft.term), log \(nodes[node].last), committed \(raft.commitIndex), "
                + "applied \(nodes[node].state.index), leader \(raft.leader.map { "\(Self.position(of: $0))" } ?? "-"), "
                + "due \(due), among \(raft.configuration.members.map { Self.position(of: $0) })"
        }
        return states.joined(separator: "; ")
    }
}

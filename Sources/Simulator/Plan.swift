import RaftCore

/// What a simulation is made of: everything in it follows from this.
public struct Plan: Equatable, Sendable {
    /// Rules whatever is left to chance.
    public var seed: UInt64
    /// Nodes.
    public var nodes: Int
    /// Groups of keys; the controller's group comes on top.
    public var groups: Int
    /// Replicas of each.
    public var replicas: Int
    /// Clients.
    public var clients: Int
    /// Keys that they share.
    public var keys: Int
    /// How many events of the world the phase of faults lasts.
    public var steps: Int
    /// The faults.
    public var schedule: FaultSchedule

    /// Steps if nobody says how many.
    public static let usualSteps = 20_000

    /// A plan drawn from `seed`, where arguments do not say otherwise.
    ///
    /// - Parameters:
    ///   - groups: 1 to 1000.
    ///   - nodes: 1 to 9.
    ///   - steps: of the phase of faults.
    ///   - kinds: of the faults drawn, if there is no `schedule`.
    ///   - schedule: the faults.
    public init(
        seed: UInt64, groups: Int? = nil, nodes: Int? = nil, steps: Int? = nil,
        kinds: [FaultKind] = FaultKind.usual, schedule: FaultSchedule? = nil
    ) {
        // one sequence for each, so that an argument leaves the others as they are
        var random = SeededRandom(seed: seed)
        var faultRandom = SeededRandom(seed: random.next())
        let drawnNodes = 3 + Int(random.number(in: 0..<4))
        let drawnGroups = 1 + Int(random.number(in: 0..<4))
        let wantsFive = random.number(in: 0..<2) == 0
        self.seed = seed
        self.nodes = nodes ?? drawnNodes
        self.groups = groups ?? drawnGroups
        replicas = self.nodes >= 5 && wantsFive ? 5 : min(3, self.nodes)
        clients = 4
        keys = 4 + 3 * self.groups
        self.steps = steps ?? Plan.usualSteps
        self.schedule =
            schedule
            ?? .random(
                kinds: kinds, nodes: self.nodes, replicas: replicas, steps: self.steps, stepsPerFault: 800,
                &faultRandom)
    }

    /// Whether the scheduler has settings by which it decides within seconds.
    var hasQuickScheduler: Bool { schedule.faults.contains { $0.kind == .schedule } }

    /// Arguments of `raftsim` that replay this plan.
    public var arguments: String {
        "\(seed) --groups \(groups) --nodes \(nodes) --steps \(steps) --schedule '\(schedule)'"
    }
}

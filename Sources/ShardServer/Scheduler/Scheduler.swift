public import RaftCore
public import ShardMap

/// Keeps a cluster spread: empties nodes that drain, replaces replicas on nodes that are silent, keeps replicas of a
/// group in different zones, and spreads replicas, leaderships and shards.
///
/// A value that the controller's leader asks every few seconds. It decides from the map, the operations under way and
/// the load, and remembers only what it needs in order not to decide the same twice: averages, what it ordered of late,
/// and when something was last changed. So whoever becomes leader starts with an empty one, which waits for as long as
/// it would remember. <doc:Scheduler> has the rules.
///
/// 1. The same questions in the same order get the same answers.
/// 2. It never orders a second replica of a group on a node, nor a change of members without a quorum of voters that
///    are up, before and after.
/// 3. With a steady load it comes to rest: each rule lowers a sum that no other rule raises, by more than noise is.
public struct Scheduler: Sendable {
    /// Limits and thresholds.
    public var settings: SchedulerSettings
    /// Whether it spreads anything; ``ShardMap/Rebalancing/once`` ends by itself.
    public var rebalancing: Rebalancing
    /// What could not be done at the last look, in order of nodes and groups.
    public internal(set) var blocked: [Blocked] = []

    private var firstLook: Instant?
    private var averages = ShardAverages()
    var memory = SchedulerMemory()
    /// When anything was last under way. Who is busy or rests may be next, so all is quiet a cooldown later.
    private var lastBusy = Instant.distantPast
    /// Whether shards are on the move: until all is quiet smaller gains count, so that the next beginning is far away.
    var isMovingShards = false

    /// One that knows nothing yet.
    public init(settings: SchedulerSettings = SchedulerSettings(), rebalancing: Rebalancing = .on) {
        self.settings = settings
        self.rebalancing = rebalancing
    }

    /// What to do now, most urgent first. `now` never goes back.
    public mutating func decide(
        _ map: ClusterMap, pending: [ClusterOperation], load: ClusterLoad, now: Instant
    ) -> [Decision] {
        let began = firstLook ?? now
        firstLook = began
        averages.add(load.shards, of: map, at: now, over: settings.averaging)
        let underWay = pending.filter { !$0.state.isOver }
        memory.look(map, underWay, load, now, settings)
        blocked = []
        guard !(now - began < settings.settle) else { return [] }
        if !underWay.isEmpty || !memory.orders.isEmpty { lastBusy = now }
        let isQuiet = settings.cooldown < now - max(lastBusy, began)
        if isQuiet { isMovingShards = false }

        var outlook = Outlook(map, load, averages, heardSince: began, now)
        for operation in underWay { outlook.expect(operation.kind, isAborted: operation.state == .aborted) }
        for order in memory.orders { outlook.expect(order.decision) }
        var round = Round(
            now: now, outlook: outlook,
            operationsLeft: settings.operations - underWay.count - memory.operationsOrdered,
            transfersLeft: settings.transfers - memory.transfersOrdered)

        emptyNodes(&round)
        // what follows would compete with repair for the same slots
        if round.decisions.isEmpty, rebalancing != .off, !(now - began < settings.cooldown) {
            rebalance(&round)
            if rebalancing == .once, isQuiet, round.decisions.isEmpty { rebalancing = .off }
        }
        return round.decisions
    }

    /// Notes what was ordered by one that is given up for this one, at that time.
    public mutating func remember(_ decision: Decision, at now: Instant) { memory.note(decision, now) }

    private mutating func rebalance(_ round: inout Round) {
        separateZones(&round)
        spreadReplicas(&round)
        // leaders and shards are spread over what replicas and splits leave
        if !round.outlook.isChangingMembers { spreadLeaderships(&round) }
        if splitShards(&round) { moveShards(&round) }
    }

    mutating func order(_ decision: Decision, _ round: inout Round) {
        memory.note(decision, round.now)
        round.add(decision)
    }
}

/// The decisions of one look, and the cluster as it will be with them.
struct Round {
    let now: Instant
    var outlook: Outlook
    var operationsLeft: Int
    var transfersLeft: Int
    private(set) var decisions: [Scheduler.Decision] = []

    init(now: Instant, outlook: Outlook, operationsLeft: Int, transfersLeft: Int) {
        self.now = now
        self.outlook = outlook
        self.operationsLeft = operationsLeft
        self.transfersLeft = transfersLeft
    }

    fileprivate mutating func add(_ decision: Scheduler.Decision) {
        switch decision {
        case .begin: operationsLeft -= 1
        case .transfer: transfersLeft -= 1
        }
        outlook.expect(decision)
        decisions.append(decision)
    }
}

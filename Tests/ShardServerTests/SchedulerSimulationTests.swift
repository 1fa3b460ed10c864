import Glibc
import RaftCore
import ShardMap
import Testing

import struct ShardServer.Scheduler
import struct ShardServer.SchedulerSettings

/// What one seed came to.
struct SchedulerRun {
    var problems: [String] = []
    var journal: [String] = []
    /// Decisions while the cluster was calm, and the rounds until the last of them.
    var decisions = 0
    var rounds = 0

    static let quietRounds = 300

    static var settings: SchedulerSettings {
        var settings = SchedulerSettings()
        settings.repairAfter = .milliseconds(300_000)
        return settings
    }

    init(seed: UInt64, settings: SchedulerSettings = SchedulerRun.settings, stormyRounds: Int = 150) {
        var cluster = SimulatedCluster(seed: seed, settings: settings)
        // some clusters were never spread
        if seed % 3 == 0 { cluster.scheduler.rebalancing = .off }
        for _ in 0..<stormyRounds { cluster.step() }
        cluster.calm()
        // what was true in the storm has to leave the averages, and what was under way to end
        cluster.scheduler.rebalancing = .off
        for _ in 0..<90 { cluster.step() }
        cluster.scheduler.rebalancing = .on
        let calm = cluster.journal.count
        let elections = cluster.elections
        let start = cluster.round
        let bound = 300 + 6 * (cluster.map.groups.count + cluster.map.shards.count)
        var last = start
        while cluster.round - last < SchedulerRun.quietRounds, cluster.round - start < bound + SchedulerRun.quietRounds
        {
            cluster.step()
            if let decision = cluster.journal.last, decision.round > last { last = decision.round }
        }
        problems = cluster.violations
        if cluster.round - last < SchedulerRun.quietRounds { problems.append("no rest within \(bound) rounds") }
        let decided = Array(cluster.journal[calm...])
        decisions = decided.count
        rounds = last - start
        judgeMinimality(decided, cluster, elections)
        judgeRest(cluster)
        journal = cluster.journal.map { "\($0.round) \($0.decision)" }
    }

    /// While nothing changes but noise, no replica or shard moves twice within an hour and no shard more than twice in
    /// all (a large cluster takes hours to come to rest), and a leadership hardly more often than the group lost its
    /// leader.
    private mutating func judgeMinimality(
        _ decided: [(round: Int, decision: Scheduler.Decision)], _ cluster: SimulatedCluster, _ before: [String: Int]
    ) {
        var moved: [UInt64: [Int]] = [:]
        var arrived: [String: [NodeAddress: Int]] = [:]
        let stay = SchedulerSettings().stay.milliseconds / 10_000
        var transferred: [String: Int] = [:]
        for (round, decision) in decided {
            switch decision {
            case .begin(.move(let move), _):
                let before = moved[move.shard] ?? []
                if before.count > 1 || before.contains(where: { round - $0 <= stay }) {
                    problems.append("shard \(move.shard) moved again: \(decision)")
                }
                moved[move.shard] = before + [round]
            case .begin(.split(let split), _):
                // what is left is another load
                moved[split.shard] = nil
            case .begin(.changePeers(let change), _):
                for leaver in change.from where !change.to.contains(leaver) {
                    if let arrival = arrived[change.group]?[leaver.address], round - arrival <= stay {
                        problems.append("a newcomer moved on: \(decision)")
                    }
                }
                for newcomer in change.to where !change.from.contains(newcomer) {
                    arrived[change.group, default: [:]][newcomer.address] = round
                }
            case .transfer(let group, _, _):
                transferred[group, default: 0] += 1
            default: break
            }
        }
        for (group, count) in transferred.sorted(by: { $0.key < $1.key }) {
            let elections = (cluster.elections[group] ?? 0) - (before[group] ?? 0)
            if count > 2 + elections { problems.append("\(count) transfers of \(group), \(elections) elections") }
        }
    }

    /// What the cluster looks like at rest, counted without the scheduler's own means.
    private mutating func judgeRest(_ cluster: SimulatedCluster) {
        for node in cluster.map.nodes where node.isDraining || cluster.down.contains(node.id) {
            for group in cluster.replicas(on: node)
            where cluster.hasQuorum(group.peers) && !cluster.candidates(besides: group.peers).isEmpty {
                problems.append("node \(node.id) still has a replica of \(group.id)")
            }
        }
        let usable = cluster.map.nodes.filter(cluster.isUsable)
        for group in cluster.map.groups where group.peers.allSatisfy({ cluster.isUp($0) }) {
            guard cluster.crowding(group.peers) > 0 else { continue }
            let zones = Set(group.peers.compactMap { cluster.node(of: $0)?.zone })
            let free = cluster.candidates(besides: group.peers).filter { !$0.zone.isEmpty && !zones.contains($0.zone) }
            if !free.isEmpty { problems.append("\(group.id) could be in more zones") }
        }
        let isPlain = cluster.map.nodes.allSatisfy { $0.zone.isEmpty && cluster.isUsable($0) }
        let counts = usable.map { cluster.replicas(on: $0).count }
        if isPlain, let most = counts.max(), let fewest = counts.min(), most - fewest > 1 {
            problems.append("replicas per node: \(counts)")
        }
        judgeLeaders(cluster, usable)
        judgeLoads(cluster)
    }

    private mutating func judgeLeaders(_ cluster: SimulatedCluster, _ usable: [Node]) {
        func led(_ node: Node) -> [Group] {
            cluster.map.groups.filter { cluster.leaders[$0.id]?.address == node.address }
        }
        let mean = Double(usable.reduce(0) { $0 + led($1).count }) / Double(max(usable.count, 1))
        for from in usable {
            for to in usable where led(from).count - led(to).count >= max(2, Int(mean * 0.1) + 1) {
                let shared = led(from).filter { group in
                    group.peers.contains { $0.address == to.address } && group.peers.allSatisfy { cluster.isUp($0) }
                }
                if !shared.isEmpty {
                    problems.append(
                        "node \(from.id) leads \(led(from).count), node \(to.id) leads \(led(to).count)")
                }
            }
        }
    }

    /// No move would lower the higher load of two groups by a fifth of the mean: twice what the scheduler looks for,
    /// because it does not know the true loads.
    private mutating func judgeLoads(_ cluster: SimulatedCluster) {
        let settings = cluster.scheduler.settings
        let groups = cluster.map.groups.dropFirst().map(\.id)
        // nobody tells of the shards of a group without a leader
        guard groups.count > 1, groups.allSatisfy({ cluster.leaders[$0] != nil }) else { return }
        let loads = cluster.map.shards.map { shard in
            let load = cluster.shardLoads[shard.id] ?? (0, 0)
            return (
                shard: shard, operations: load.operations + settings.operationsOfEveryShard,
                bytes: load.bytes + settings.bytesOfEveryShard
            )
        }
        let operations = loads.reduce(0) { $0 + $1.operations }
        let bytes = loads.reduce(0) { $0 + $1.bytes }
        let count = Double(cluster.map.groups.count - 1)
        func share(_ load: (shard: Shard, operations: Double, bytes: Double)) -> Double {
            count * (0.5 * load.operations / operations + 0.5 * load.bytes / bytes)
        }
        let totals = groups.map { group in
            (group: group, load: loads.filter { $0.shard.group == group }.reduce(0) { $0 + share($1) })
        }
        guard let most = totals.max(by: { $0.load < $1.load }), let least = totals.min(by: { $0.load < $1.load }),
            most.load > 1.4
        else { return }
        // who was moved may have to stay although it moved too early
        let moved = cluster.journal.compactMap { entry in
            if case .begin(.move(let move), _) = entry.decision { move.shard } else { nil }
        }
        for load in loads where load.shard.group == most.group && !moved.contains(load.shard.id) {
            if max(most.load - share(load), least.load + share(load)) < most.load - 0.2 {
                problems.append("\(most.group) has \(most.load) of the mean and keeps shard \(load.shard.id)")
                return
            }
        }
    }
}

@Suite("The scheduler in simulated clusters")
struct SchedulerSimulationTests {
    /// Hundreds of seeds (`SCHEDULER_SEEDS=400`) are for a release build.
    @Test("Whatever happened, a cluster comes to rest, with few changes, and stays there", arguments: 0..<8)
    func rest(_ part: UInt64) {
        let count = getenv("SCHEDULER_SEEDS").flatMap { UInt64(String(cString: $0)) } ?? 48
        for seed in 1...count where seed % 8 == part {
            let run = SchedulerRun(seed: seed)
            #expect(run.problems.isEmpty, "seed \(seed)")
        }
    }

    @Test("Rest is for good: nothing is decided in the last three of six hours, long after every cooldown")
    func long() {
        for seed in UInt64(1)...6 {
            var cluster = SimulatedCluster(seed: seed, settings: SchedulerRun.settings)
            cluster.calm()
            for _ in 0..<2160 { cluster.step() }
            let late = cluster.journal.filter { $0.round > 1080 }
            #expect(
                late.isEmpty,
                "seed \(seed): \(late.count) decisions, the last: \(late.last?.decision.description ?? "")")
        }
    }

    @Test func theSameQuestionsGetTheSameAnswers() {
        for seed in UInt64(1)...3 {
            let journal = SchedulerRun(seed: seed).journal
            #expect(!journal.isEmpty)
            #expect(SchedulerRun(seed: seed).journal == journal)
        }
    }

    /// The thresholds, each of which some simulated clusters need in order to come to rest.
    enum Threshold: CaseIterable {
        case replicaDifference, leadershipDifference, gain, averaging, cooldown, retry
    }

    @Test("Without a threshold the same clusters show it", arguments: Threshold.allCases)
    func planted(_ threshold: Threshold) {
        var settings = SchedulerRun.settings
        switch threshold {
        case .replicaDifference: settings.replicaDifference = 1
        case .leadershipDifference:
            settings.leadershipDifference = 1
            settings.leadershipShare = 0
        case .gain:
            settings.imbalance = 0
            settings.gain = 0
        case .averaging: settings.averaging = .milliseconds(1)
        case .cooldown:
            settings.cooldown = .milliseconds(0)
            settings.stay = .milliseconds(0)
        case .retry: settings.retry = .milliseconds(0)
        }
        let bad = (UInt64(1)...40).first { !SchedulerRun(seed: $0, settings: settings).problems.isEmpty }
        #expect(bad != nil)
    }
}

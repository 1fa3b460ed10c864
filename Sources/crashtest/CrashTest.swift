import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import ShardClient

/// Rounds of sudden death: a cluster of real processes under load, SIGKILL of one, two or all three of them, damage to
/// the files of one that is down, or one that is cut off one way, and then every acknowledged write is looked for.
///
/// Only one node is ever damaged, for two may take with them what only a majority must keep. A node that damage has
/// put out of action for good gets a cluster of its own to mourn in: everything is checked, and the next round starts a
/// new one.
struct CrashTest {
    /// What may be chosen.
    struct Options {
        var rounds = 10
        var seed: UInt64 = 1
        var writers = 12
        var isDamaging = true
        var raftd = ""
    }

    private let options: Options
    private var random: SeededRandom
    /// Acknowledged over all clusters, and lost.
    private(set) var acknowledged = 0
    private(set) var lost = 0

    init(_ options: Options) {
        self.options = options
        random = SeededRandom(seed: options.seed)
    }

    /// Runs all rounds and says what came of each.
    mutating func run() async throws {
        var round = 0
        while round < options.rounds {
            let cluster = try await ProcessCluster(
                options.raftd, nodes: 3, groups: 4, replicas: 3,
                flags: ["--log-space", "\(32 << 20)", "--test-faults"])
            let ledger = Ledger()
            let victim = Int(random.number(in: 0..<3))
            var isWhole = true
            while isWhole, round < options.rounds {
                round += 1
                isWhole = try await self.round(round, cluster, ledger, victim)
            }
            acknowledged += ledger.acknowledged
            for node in 0..<3 where cluster.runs(node) { _ = try await cluster.terminate(node) }
        }
    }

    /// False: a replica on the damaged node does not come back by itself.
    private mutating func round(
        _ number: Int, _ cluster: ProcessCluster, _ ledger: Ledger, _ victim: Int
    ) async throws -> Bool {
        var settings = Client.Settings()
        settings.timeout = .milliseconds(3000)
        let client = try cluster.makeClient(settings)
        let before = ledger.acknowledged
        ledger.isWriting = true
        var accident = try await withThrowingTaskGroup(of: Void.self) { group in
            defer { ledger.isWriting = false }
            for writer in 0..<options.writers {
                group.addTask { await ledger.write(through: client, as: writer, round: number) }
            }
            let accident = try await self.accident(cluster, victim)
            ledger.isWriting = false
            try await group.waitForAll()
            return accident
        }
        client.close()
        var repaired = true
        if accident.isDamage {
            repaired = await isRepaired(cluster, victim)
            if !cluster.runs(victim) {
                accident.description += " (it refuses to start: \(try lastWords(cluster, victim)))"
            }
        }
        let reader = try cluster.makeClient()
        defer { reader.close() }
        let losses = try await ledger.losses(through: reader)
        for loss in losses { say("  LOST: \(loss)") }
        lost += losses.count
        let written = ledger.acknowledged - before
        say(
            "round \(number): \(accident.description); \(written) writes acknowledged, \(losses.count) lost; led again"
                + " after \(accident.darkness.formatted)\(repaired ? "" : "; a replica needs another place")")
        return repaired
    }

    private struct Accident {
        var description: String
        var isDamage = false
        /// From the restart until every group was led; of a node that is cut off, from then until all are led elsewhere.
        var darkness = Duration.zero
    }

    /// What happens while others write. Returns when all nodes run and every group is led.
    private mutating func accident(_ cluster: ProcessCluster, _ victim: Int) async throws -> Accident {
        try await pause(300, 1500)
        if random.number(in: 0..<4) == 0 { return try await blackhole(cluster) }
        var nodes = [0, 1, 2]
        let survivor = random.number(in: 0..<3)
        for _ in 0..<survivor { nodes.remove(at: Int(random.number(in: 0..<Int64(nodes.count)))) }
        // at once, not one after the other
        try await withThrowingTaskGroup(of: Void.self) { group in
            for node in nodes { group.addTask { try await cluster.kill(node) } }
            try await group.waitForAll()
        }
        var accident = Accident(description: "killed " + nodes.map { "\($0 + 1)" }.joined(separator: ","))
        if nodes.count < 3 { try await pause(0, 1000) }
        if options.isDamaging, nodes.contains(victim) {
            if let damage = try Damage.inflict(on: cluster.dataDirectory(victim), &random) {
                accident.description += ", \(damage.description) of node \(victim + 1)"
                accident.isDamage = true
            }
        }
        let start = ContinuousClock.now
        for node in nodes { try cluster.start(node) }
        try await cluster.probe.waitUntilLed(timeout: .seconds(60))
        accident.darkness = start.duration(to: .now)
        return accident
    }

    /// One node is not heard by the others, or does not hear them, for a while.
    private mutating func blackhole(_ cluster: ProcessCluster) async throws -> Accident {
        let node = Int(random.number(in: 0..<3))
        let way = random.number(in: 0..<2) == 0 ? BlockedWay.sending : .receiving
        let start = ContinuousClock.now
        try await cluster.block(way, of: node)
        try await cluster.probe.wait(for: "leaders elsewhere", timeout: .seconds(60)) {
            guard let groups = await cluster.probe.groups() else { return false }
            let leaders = await cluster.probe.leaders()
            return groups.allSatisfy { leaders[$0].map { $0 != cluster.addresses[node] } ?? false }
        }
        var accident = Accident(description: "\(way) of \(node + 1) blocked")
        accident.darkness = start.duration(to: .now)
        try await pause(0, 3000)
        try await cluster.unblock()
        try await cluster.probe.waitUntilLed(timeout: .seconds(60))
        return accident
    }

    /// Whether everything on the damaged node comes back by itself within a while.
    private func isRepaired(_ cluster: ProcessCluster, _ victim: Int) async -> Bool {
        for _ in 0..<300 {
            guard cluster.runs(victim) else { return false }
            if let status = await cluster.probe.status(of: cluster.addresses[victim]), !status.replicas.isEmpty,
                status.replicas.allSatisfy({ $0.problem == nil && $0.state != "damaged" })
            {
                return true
            }
            try? await Task.sleep(for: .milliseconds(100))
        }
        return false
    }

    private func lastWords(_ cluster: ProcessCluster, _ node: Int) throws -> String {
        String(try cluster.log(of: node).split(separator: "\n").last ?? "")
    }

    private mutating func pause(_ from: Int64, _ to: Int64) async throws {
        try await Task.sleep(for: .milliseconds(random.number(in: from..<to)))
    }
}

extension Duration {
    /// In seconds, with a digit behind the point.
    fileprivate var formatted: String {
        let tenths = components.seconds * 10 + components.attoseconds / 100_000_000_000_000_000
        return "\(tenths / 10).\(tenths % 10) s"
    }
}

/// Prints a line at once, whoever reads it.
func say(_ line: String, on descriptor: Int32 = STDOUT_FILENO) {
    var line = line + "\n"
    line.withUTF8 { _ = write(descriptor, $0.baseAddress, $0.count) }
}

import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import ShardClient
import ShardMap

/// Three `raftd` on this machine with some groups, each of three replicas and one shard; gone with this object.
struct BenchCluster: Sendable {
    /// Where the nodes keep the state of the groups.
    enum Engine: String, CaseIterable, Sendable {
        case rocksdb
        case memory
    }

    static let nodes = 3

    let processes: ProcessCluster
    /// By key.
    let shards: [Shard]
    /// From the first start of a process until every group was led.
    let formationSeconds: Double

    /// Starts it, and waits until every group is led. `flags` go to every node.
    static func start(
        groups: Int, engine: Engine, flags: [String] = [], timeout: Duration = .seconds(600)
    ) async throws -> BenchCluster {
        let began = ContinuousClock.now
        let cluster = try await ProcessCluster(
            Files.besideThisProgram("raftd"), nodes: nodes, groups: groups, replicas: nodes,
            flags: [
                "--engine", engine.rawValue,
                // the log as it is by default, not in the small segments that tests want
                "--segment-mb", "64",
                // what is measured is as many groups as were asked for
                "--split-operations", "1000000000", "--split-bytes", "\(1 << 50)", "--scheduler-cooldown", "86400",
            ] + flags, timeout: timeout)
        let client = try cluster.makeClient()
        defer { client.close() }
        let map = try await client.clusterMap()
        return BenchCluster(
            processes: cluster, shards: map.shards, formationSeconds: (ContinuousClock.now - began).inSeconds)
    }

    /// The numbers of the processes.
    var pids: [pid_t] { (0..<BenchCluster.nodes).compactMap(processes.pid(of:)) }

    /// Ends its processes, which nothing is asked of any more.
    func end() async throws { try await processes.kill(0, 1, 2) }

    /// Drives it.
    func run(_ load: Load) async throws -> LoadResult {
        let (nodes, shards, pids) = (processes.addresses, shards, pids)
        return try await onOwnThread {
            try LoadGenerator(load, nodes: nodes, shards: shards, processes: pids).run()
        }
    }
}

extension CommandOption {
    /// Which ``BenchCluster/Engine``.
    static let engine = CommandOption(
        name: "engine", value: "NAME", help: "rocksdb or memory: where the nodes keep the state (rocksdb)")
}

extension Arguments {
    func engine() throws(UsageError) -> BenchCluster.Engine {
        let name = try word("engine", of: BenchCluster.Engine.allCases.map(\.rawValue))
        return BenchCluster.Engine(rawValue: name) ?? .rocksdb
    }
}

extension Duration {
    /// As a number.
    var inSeconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}

import RaftCore
import ShardMap

extension Command {
    static let initialize = Command(
        path: ["init"],
        options: [
            CommandOption("groups", "N", "data groups (required)"),
            CommandOption("replicas", "R", "replicas of each (required)"),
            CommandOption("nodes", "N", "refuse until so many nodes have been heard of (default: all controllers)"),
            CommandOption("boundaries", "K1,K2,…", "first keys of all shards but the first: N-1, ascending"),
        ],
        summary: "form the cluster: the controller group and N data groups",
        details: """
            Waits until every group is led and holds its shards. Repeating an init, or two at the same time, is
            harmless: all find the same cluster, and fail if it has another shape.

            Boundaries may have the escapes of `raftctl help kv import`; a comma in a key is \\x2c. Without
            boundaries the first bytes 0x21…0x7e are split evenly.
            """,
        run: { invocation throws(Failure) in
            let plan = try InitPlan(invocation)
            let cluster = try Cluster(invocation)
            let existed = try await Formation(cluster: cluster, plan: plan).run()
            let map = try await cluster.map()
            let groups = map.groups.filter { $0.id != ClusterMap.controllerGroup }
            let replicas = groups.first?.peers.count ?? 0
            guard groups.count == plan.groups, replicas == plan.replicas else {
                throw .failed(
                    "the cluster is there already, with \(groups.count) groups of \(replicas) replicas; "
                        + "see raftctl status, or start nodes on empty directories for another one")
            }
            if invocation.format == .json {
                let members: [(String, JSON)] = [
                    ("cluster_id", .identifier(map.clusterID)), ("existed", .bool(existed)),
                    ("nodes", .integer(Int64(map.nodes.count))), ("groups", .integer(Int64(groups.count))),
                    ("replicas", .integer(Int64(replicas))),
                ]
                return try Output.print(JSON.object(members).text)
            }
            let shape = "\(groups.count) groups of \(replicas) replicas on \(map.nodes.count) nodes"
            try Output.print(existed ? "found the cluster: \(shape)" : "formed a cluster: \(shape)")
        })
}

/// The shape that `init` asks for.
struct InitPlan: Equatable, Sendable {
    var groups: Int
    var replicas: Int
    var boundaries: [Bytes]
    /// Nodes that must have been heard of; 0: the controllers alone.
    var nodes = 0

    /// Refuses what cannot be a cluster before anybody is asked.
    init(_ invocation: Invocation) throws(Failure) {
        groups = try invocation.requiredInteger("groups", in: 1...1 << 20)
        replicas = try invocation.requiredInteger("replicas", in: 1...1 << 10)
        if invocation.values["nodes"] != nil { nodes = try invocation.requiredInteger("nodes", in: 1...1 << 20) }
        guard let text = invocation.values["boundaries"], !text.isEmpty else {
            guard groups == 1 || invocation.values["boundaries"] == nil else {
                throw .usage("\(groups) groups need \(groups - 1) boundaries, not 0")
            }
            boundaries = BootstrapRecord.evenBoundaries(groups: groups)
            return
        }
        var keys: [Bytes] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let key = Escapes.bytes(part) else {
                throw .usage("boundary '\(part)' has a backslash without an escape")
            }
            guard !key.isEmpty, key.count <= KeyLimits.keyBytes else {
                throw .usage("a boundary is a key of 1 to \(KeyLimits.keyBytes) bytes; '\(part)' is none")
            }
            if let last = keys.last, !(last < key) {
                throw .usage("boundaries ascend; '\(part)' does not follow '\(Escapes.text(last))'")
            }
            keys.append(key)
        }
        guard keys.count == groups - 1 else {
            throw .usage("\(groups) groups need \(groups - 1) boundaries, not \(keys.count)")
        }
        boundaries = keys
    }
}

/// Repeats one init request until the cluster stands.
private struct Formation {
    let cluster: Cluster
    let plan: InitPlan

    private static let pauseMilliseconds = 200
    /// Longest time for all of it.
    private static let patience = Duration.seconds(60)
    /// How long a refusal may last: at first the nodes may not have heard of each other.
    private static let refusalPatience = Duration.seconds(8)

    /// Whether the cluster was there before.
    func run() async throws(Failure) -> Bool {
        let start = ContinuousClock.now
        var existed: Bool?
        var refusedSince: ContinuousClock.Instant?
        while start.duration(to: .now) < Formation.patience {
            switch await ask() {
            case .silent:
                // Who has never answered is not there; who has may be busy forming.
                if existed == nil, refusedSince == nil { throw cluster.nobody }
            case .refused(let error, let detail):
                let since = refusedSince ?? .now
                refusedSince = since
                if error == .badRequest || since.duration(to: .now) >= Formation.refusalPatience {
                    throw Failure(error, detail, while: "init")
                }
            case .forming(let existedThen):
                // later answers find what the first one began
                existed = existed ?? existedThen
                refusedSince = nil
            case .done(let existedThen, _): return existed ?? existedThen
            }
            await pause(milliseconds: Formation.pauseMilliseconds)
        }
        throw .failed("the cluster is not formed after \(Formation.patience); repeat the init, and see the nodes' logs")
    }

    /// The first answer of a seed.
    private func ask() async -> Cluster.InitAnswer {
        for seed in cluster.seeds {
            let answer = await cluster.initialize(
                at: seed, plan)
            if answer != .silent { return answer }
        }
        return .silent
    }
}

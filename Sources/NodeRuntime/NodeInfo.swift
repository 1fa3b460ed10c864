import Gateway
import Glibc
import RaftCore
import RaftHost
import ShardServer

/// What the Redis command INFO and the page /status tell of a node.
final class NodeInfo {
    private let host: RaftHost
    private let server: ShardServer
    private let configuration: NodeConfiguration
    private let clock: any NodeClock
    private let startedAt: Instant

    init(host: RaftHost, server: ShardServer, configuration: NodeConfiguration, clock: any NodeClock) {
        self.host = host
        self.server = server
        self.configuration = configuration
        self.clock = clock
        self.startedAt = clock.now
    }

    /// The same as a page of text.
    var page: String {
        sections().map { section, fields in
            "# \(section)\n" + fields.map { "\($0): \($1)\n" }.joined()
        }.joined(separator: "\n")
    }

    func sections() -> [(section: String, fields: [(String, String)])] {
        let uptime = (clock.now - startedAt).milliseconds / 1000
        let replicas = host.status()
        return [
            (
                "Server",
                [
                    ("redis_version", RedisServer.compatibleVersion), ("flotilla_version", configuration.version),
                    ("redis_mode", "standalone"),
                    ("process_id", "\(getpid())"), ("tcp_port", "\(configuration.listen.port)"),
                    ("uptime_in_seconds", "\(uptime)"),
                ]
            ),
            (
                "Cluster",
                [
                    ("cluster_enabled", "0"), ("node_id", "\(host.identity.nodeID)"),
                    ("map_version", "\(server.map?.version ?? 0)"), ("replicas", "\(replicas.count)"),
                    ("leaders", "\(replicas.filter { $0.state == "leader" }.count)"),
                    ("refuses_writes", host.refusesWrites ? "1" : "0"),
                ]
            ),
            ("Persistence", [("loading", "0"), ("log_bytes", "\(host.logBytes)"), ("log_space", "\(host.logSpace)")]),
            ("Replication", [("role", "master"), ("connected_slaves", "0")]),
        ]
    }
}

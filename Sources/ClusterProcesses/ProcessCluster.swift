public import FlotillaTestSupport
public import Glibc
public import RaftCore
public import ShardClient
import Synchronization
import Transport

/// What of a node the others cannot hear, or it of them.
public enum BlockedWay: String, CaseIterable, Sendable {
    /// Nothing that it sends arrives.
    case sending
    /// Nothing that is sent to it arrives.
    case receiving
}

/// A cluster of `raftd` processes. Like ``TestCluster``, with SIGKILL for a crash; everything goes with this object.
public final class ProcessCluster: Sendable {
    /// Where the nodes listen.
    public let addresses: [NodeAddress]
    /// A view of the cluster from outside.
    public let probe: ClusterProbe
    private let executable: String
    private let founders: Int
    private let flags: [String]
    private let directory = TemporaryDirectory()
    private let processes: Mutex<[ChildProcess?]>

    /// Starts the nodes, forms the cluster, and returns when every group is led; each of the two may take `timeout`.
    /// `flags` go to each node besides what it needs. Nodes that are `joining` have addresses, but are not started.
    public init(
        _ raftd: String, nodes: Int = 3, joining: Int = 0, groups: Int = 4, replicas: Int = 3, flags: [String] = [],
        timeout: Duration = .seconds(30)
    ) async throws {
        executable = raftd
        founders = nodes
        self.flags = flags
        ProcessGuard.note(directory: directory.path)
        addresses = LoopbackPorts.take(nodes + joining)
        probe = try ClusterProbe(nodes: addresses)
        processes = Mutex([ChildProcess?](repeating: nil, count: nodes + joining))
        for node in 0..<nodes { try start(node) }
        try await probe.form(groups: groups, replicas: replicas, timeout: timeout)
    }

    deinit { probe.close() }

    /// Starts a node that does not run; it may not listen yet.
    public func start(_ node: Int, _ flags: [String] = []) throws {
        let process = try ChildProcess(executable, arguments(node) + flags, output: logFile(node))
        processes.withLock { $0[node] = process }
    }

    /// What `raftd` is started with.
    public func arguments(_ node: Int) -> [String] {
        [
            "--listen", addresses[node].description, "--data-dir", dataDirectory(node),
            "--controllers", addresses[..<founders].map(\.description).joined(separator: ","), "--segment-mb", "4",
        ] + flags
    }

    /// SIGKILL; returns when the process is gone.
    public func kill(_ nodes: Int...) async throws {
        for node in nodes { process(node)?.signal(SIGKILL) }
        for node in nodes { try await ended(node, -SIGKILL) }
    }

    /// SIGTERM; returns the time until the process has ended with status 0.
    public func terminate(_ node: Int) async throws -> Duration {
        let start = ContinuousClock.now
        process(node)?.signal(SIGTERM)
        try await ended(node, 0)
        return start.duration(to: .now)
    }

    /// SIGSTOP: the process stands still, its kernel goes on.
    public func suspend(_ node: Int) { process(node)?.signal(SIGSTOP) }

    /// SIGCONT.
    public func resume(_ node: Int) { process(node)?.signal(SIGCONT) }

    /// Blocks one way of everything between a node and all others, either what it sends or what it receives from them;
    /// clients still reach it. Returns when both ends are told. The nodes run with `--test-faults`.
    public func block(_ way: BlockedWay, of node: Int) async throws {
        let (there, here) =
            way == .sending
            ? (LinkFaults(outgoing: .held), LinkFaults(incoming: .held))
            : (LinkFaults(incoming: .held), LinkFaults(outgoing: .held))
        // what goes in the name of clients is known by its target only, so both ends are told; the node alone is
        // enough for what nodes say of themselves, and so it comes first
        for other in addresses where other != addresses[node] {
            try await probe.set(there, at: addresses[node], of: other)
        }
        for (number, other) in addresses.enumerated() where number != node && runs(number) {
            try await probe.set(here, at: other, of: addresses[node])
        }
    }

    /// Opens every way between nodes again.
    public func unblock() async throws {
        for (number, node) in addresses.enumerated() where runs(number) {
            for other in addresses where other != node { try await probe.set(LinkFaults(), at: node, of: other) }
        }
    }

    private func ended(_ node: Int, _ expected: Int32) async throws {
        guard let process = process(node) else { return }
        let status = try await process.waitForExit()
        processes.withLock { $0[node] = nil }
        guard status == expected else { throw Failed("node \(node) ended with \(status):\n\(try log(of: node))") }
    }

    private func process(_ node: Int) -> ChildProcess? { processes.withLock { $0[node] } }

    /// The number of the node's process; nil if it does not run.
    public func pid(of node: Int) -> pid_t? { process(node)?.pid }

    /// Whether the node's process is there.
    public func runs(_ node: Int) -> Bool { process(node).map { $0.exitStatus == nil } ?? false }

    /// Where a node keeps everything.
    public func dataDirectory(_ node: Int) -> String { "\(directory.path)/node\(node)" }

    private func logFile(_ node: Int) -> String { "\(directory.path)/node\(node).log" }

    /// Everything the node has printed, over all its runs.
    public func log(of node: Int) throws -> String { try Files.text(logFile(node)) }

    /// Its segments, in order.
    public func segments(of node: Int) throws -> [String] {
        let log = dataDirectory(node) + "/log"
        return try Files.list(log).filter { $0.hasSuffix(".log") }.map { "\(log)/\($0)" }
    }

    /// A client that knows all nodes; close it when done.
    public func makeClient(_ settings: Client.Settings = Client.Settings()) throws -> Client {
        try Client(seeds: addresses, settings: settings)
    }
}

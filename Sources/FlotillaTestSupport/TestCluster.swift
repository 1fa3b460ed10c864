public import NodeRuntime
public import RaftCore
public import RaftHost
public import ShardClient
import Synchronization
import Transport

/// A multi-group cluster of real nodes in this process, for tests: real sockets on free loopback ports, real disks in a
/// temporary directory, RocksDB, a thread for each node.
///
/// Nodes are numbered from 0. Nodes that are killed keep their directories, so that they can be restarted; everything
/// goes when the cluster is closed or released. Any task may use it; ``kill(_:)``, ``stop(_:)`` and ``close()`` block
/// until the node's thread has ended.
///
/// ```swift
/// let cluster = try await TestCluster(groups: 4)
/// let client = try cluster.makeClient()
/// try await client.put(Bytes("k"), Bytes("v"))
/// cluster.kill(0)
/// #expect(try await client.get(Bytes("k")) == Bytes("v"))
/// ```
public final class TestCluster: Sendable {
    /// Where the nodes listen.
    public let addresses: [NodeAddress]
    /// A view of the cluster from outside.
    public let probe: ClusterProbe

    private struct State {
        var running: [NodeThread?]
        /// For each node, whom it cannot reach.
        var cuts: [[Int]]
    }

    private let configurations: [NodeConfiguration]
    private let logger: Logger
    private let directory = TemporaryDirectory()
    private let state: Mutex<State>

    /// Starts `nodes` nodes, forms a cluster of `groups` data groups with `replicas` members each, and returns when
    /// every group is led. Every node is a member of the controller's group, up to five.
    ///
    /// - Parameters:
    ///   - boundaries: the first keys of the shards but the first; without them the first bytes 0x21…0x7e are split
    ///     evenly.
    ///   - configure: changes what a node is started with.
    public init(
        nodes: Int = 3, groups: Int = 4, replicas: Int = 3, boundaries: [Bytes] = [], logger: Logger = .silent,
        configure: (inout NodeConfiguration) -> Void = { _ in }
    ) async throws(TestClusterError) {
        precondition(nodes >= 1 && replicas >= 1 && replicas <= nodes, "\(replicas) replicas on \(nodes) nodes")
        let addresses = LoopbackPorts.take(nodes)
        let directory = self.directory
        configurations = addresses.enumerated().map { number, address in
            var configuration = NodeConfiguration(
                listen: address, dataDirectory: "\(directory.path)/node\(number)",
                controllers: Array(addresses.prefix(min(nodes, 5))))
            configuration.segmentBytes = 8 << 20
            configure(&configuration)
            return configuration
        }
        self.addresses = addresses
        self.logger = logger
        probe = try ClusterProbe(nodes: addresses)
        state = Mutex(
            State(
                running: [NodeThread?](repeating: nil, count: nodes), cuts: [[Int]](repeating: [], count: nodes)))
        for number in 0..<nodes { try restart(number) }
        try await probe.form(groups: groups, replicas: replicas, boundaries: boundaries)
    }

    deinit { close() }

    // MARK: nodes

    /// Ends a node without a farewell; nothing happens to one that does not run.
    public func kill(_ node: Int) { take(node)?.kill() }

    /// Ends a node in order: it hands its leaderships over first.
    public func stop(_ node: Int) { take(node)?.stop() }

    /// Starts a node that does not run, on its own directory; returns when it listens. `configure` changes what it is
    /// started with, this time only.
    public func restart(
        _ node: Int, configure: (inout NodeConfiguration) -> Void = { _ in }
    ) throws(TestClusterError) {
        var configuration = configurations[node]
        configure(&configuration)
        let cut = state.withLock { state in
            precondition(state.running[node] == nil, "node \(node) runs")
            return state.cuts[node].map { addresses[$0] }
        }
        let started: NodeThread
        do throws(NodeError) {
            started = try NodeThread(configuration, logger: logger, cut: cut)
        } catch {
            throw .start(addresses[node], error.description)
        }
        state.withLock { $0.running[node] = started }
    }

    private func take(_ node: Int) -> NodeThread? {
        state.withLock { state in
            defer { state.running[node] = nil }
            return state.running[node]
        }
    }

    // MARK: the network

    /// Cuts two nodes from each other; takes hold with the next turn of their lanes, and outlasts restarts.
    public func cut(_ node: Int, _ other: Int) {
        precondition(node != other, "a node cannot be cut from itself")
        state.withLock { state in
            for (from, to) in [(node, other), (other, node)] where !state.cuts[from].contains(to) {
                state.cuts[from].append(to)
                state.running[from]?.cut(state.cuts[from].map { addresses[$0] })
            }
        }
    }

    /// Cuts a node from all others. Clients still reach it.
    public func isolate(_ node: Int) {
        for other in addresses.indices where other != node { cut(node, other) }
    }

    /// Lifts every cut.
    public func heal() {
        state.withLock { state in
            for node in addresses.indices where !state.cuts[node].isEmpty {
                state.cuts[node] = []
                state.running[node]?.cut([])
            }
        }
    }

    // MARK: use

    /// A client that knows all nodes; close it when done.
    public func makeClient(
        _ settings: Client.Settings = Client.Settings()
    ) throws(TestClusterError) -> Client {
        do throws(TransportError) {
            return try Client(seeds: addresses, settings: settings)
        } catch {
            throw .client(error.description)
        }
    }

    /// Returns when every group has a leader whom a majority of its members follow.
    public func waitUntilLed(timeout: Duration = .seconds(20)) async throws(TestClusterError) {
        try await probe.waitUntilLed(timeout: timeout)
    }

    /// The number of the node that leads `group`; nil if nobody does.
    public func leader(of group: String) async -> Int? { await probe.leader(of: group) }

    /// Returns when every node runs and has applied everything that is committed in its groups.
    public func waitUntilCaughtUp(timeout: Duration = .seconds(20)) async throws(TestClusterError) {
        try await probe.wait(for: "replicas that have caught up", timeout: timeout) {
            let statuses = await probe.statuses()
            guard statuses.count == addresses.count, let groups = await probe.groups() else { return false }
            return groups.allSatisfy { group in
                let replicas = statuses.compactMap { $0.replica(of: group) }
                guard let newest = replicas.map(\.commitIndex).max() else { return false }
                return replicas.allSatisfy { $0.appliedIndex >= newest }
            }
        }
    }

    /// Ends all nodes and removes their directories. Closing again does nothing.
    public func close() {
        for node in addresses.indices { kill(node) }
        probe.close()
        TemporaryDirectory.remove(directory.path)
    }
}

import CMessages
import NodeRuntime
public import RaftCore
import ShardClient
import ShardMap
public import Transport
import WireMessages

/// Why a cluster of a test is not as it should be.
public enum TestClusterError: Error, Sendable, CustomStringConvertible {
    /// A node did not start.
    case start(NodeAddress, String)
    /// The nodes refuse to form a cluster, or an order.
    case refused(String)
    /// It took too long; what was waited for, and how things stand.
    case timedOut(String, state: String)
    /// No client can be made.
    case client(String)

    /// One sentence.
    public var description: String {
        switch self {
        case .start(let address, let reason): "the node \(address) did not start: \(reason)"
        case .refused(let reason): reason
        case .timedOut(let goal, let state): "still not after the time given: \(goal); \(state)"
        case .client(let reason): "no client: \(reason)"
        }
    }
}

/// Forms a cluster of running nodes and looks at it from outside, over the network; in whichever processes they are.
public struct ClusterProbe: Sendable {
    /// The nodes, in the order of a test's numbers.
    public let nodes: [NodeAddress]
    private let client: Client

    private static let service = "flotilla.ClusterService"
    private static let patience = Interval.milliseconds(2000)

    /// A probe of `nodes`, which need not run yet.
    public init(nodes: [NodeAddress]) throws(TestClusterError) {
        self.nodes = nodes
        do throws(TransportError) { client = try Client(seeds: nodes) } catch { throw .client(error.description) }
    }

    /// Ends the probe's thread.
    public func close() { client.close() }

    /// What the node says; nil if it does not answer.
    public func status(of node: NodeAddress) async -> NodeStatus? {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let body = arena.pack(arena.make(flotilla__status_request__init))
        return await call(node, "status", body).flatMap { NodeStatus($0) }
    }

    /// What each node says that answers.
    public func statuses() async -> [NodeStatus] {
        var all: [NodeStatus] = []
        for node in nodes { if let status = await status(of: node) { all.append(status) } }
        return all
    }

    /// Forms the cluster, and returns when every group is led and holds its shards. The first node must be the first of
    /// everybody's controllers. Without `boundaries` the first bytes 0x21…0x7e are split evenly.
    public func form(
        groups: Int, replicas: Int, boundaries: [Bytes] = [], timeout: Duration = .seconds(30)
    ) async throws(TestClusterError) {
        var refusal: String?
        let isFormed = await Self.poll(timeout) {
            switch await initialize(groups, replicas, boundaries) {
            case .done: return true
            case .forming: refusal = nil
            // at first the nodes may not have heard of each other
            case .refused(let reason): refusal = reason
            }
            return false
        }
        guard isFormed else {
            if let refusal { throw .refused("no cluster was formed: \(refusal)") }
            throw await .timedOut("a formed cluster", state: summary())
        }
        try await waitUntilLed(timeout: timeout)
    }

    private enum Formation {
        case done
        case forming
        case refused(String)
    }

    private func initialize(_ groups: Int, _ replicas: Int, _ boundaries: [Bytes]) async -> Formation {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let request = arena.make(flotilla__init_request__init)
        request.pointee.groups = UInt32(groups)
        request.pointee.replicas = UInt32(replicas)
        request.pointee.n_boundaries = boundaries.count
        request.pointee.boundaries = arena.array(boundaries.map { arena.data($0) })
        guard let answer = await call(nodes[0], "init", arena.pack(request)),
            let reply = arena.unpack(flotilla__init_reply__init, answer)?.pointee
        else { return .refused("\(nodes[0]) does not answer") }
        guard reply.error == 0 else { return .refused(String(field: reply.message)) }
        return reply.done != 0 ? .done : .forming
    }

    // MARK: faults

    /// Has `node`, which was started with `--test-faults`, let `faults`, instead of earlier ones, befall what goes between
    /// it and `other`.
    public func set(_ faults: LinkFaults, at node: NodeAddress, of other: NodeAddress) async throws(TestClusterError) {
        do throws(ClientError) {
            _ = try await client.call(
                node, service: FaultService.name, method: "set", body: FaultService.order(faults, of: other),
                timeout: Self.patience)
        } catch {
            throw .refused("\(node) takes no orders of faults: \(error)")
        }
    }

    // MARK: leaders

    /// The number of the node that leads `group`: it says so, and a majority of the group's members follow it in its
    /// term. Nil if there is none.
    public func leader(of group: String) async -> Int? {
        let replicas = await statuses().compactMap { $0.replica(of: group) }
        return Self.leader(among: replicas).flatMap { nodes.firstIndex(of: $0) }
    }

    /// The leader of each group that has one, as ``leader(of:)``.
    public func leaders() async -> [String: NodeAddress] { Self.leaders(await statuses()) }

    private static func leaders(_ statuses: [NodeStatus]) -> [String: NodeAddress] {
        // there may be thousands of groups
        Dictionary(grouping: statuses.flatMap(\.replicas), by: \.group).compactMapValues { leader(among: $0) }
    }

    private static func leader(among replicas: [NodeStatus.Replica]) -> NodeAddress? {
        for candidate in replicas where candidate.state == "leader" {
            let followers = replicas.filter { $0.term == candidate.term && $0.leader == candidate.peer }
            let members = Configuration(peers: candidate.members)
            if members.hasMajority(where: { member in followers.contains { $0.peer == member } }) {
                return candidate.peer.address
            }
        }
        return nil
    }

    /// Returns when every group, the controller's included, has a leader whom a majority of its members follow.
    public func waitUntilLed(timeout: Duration = .seconds(20)) async throws(TestClusterError) {
        try await wait(for: "a leader of every group", timeout: timeout) {
            guard let groups = await groups() else { return false }
            let leaders = ClusterProbe.leaders(await statuses())
            return groups.allSatisfy { leaders[$0] != nil }
        }
    }

    /// The groups' names, the controller's first; nil if nobody can tell.
    public func groups() async -> [String]? {
        guard let map = try? await client.clusterMap() else { return nil }
        let data = map.groups.map(\.id).filter { $0 != ClusterMap.controllerGroup }
        return [ClusterMap.controllerGroup] + data
    }

    // MARK: waiting

    /// Returns when `condition` holds; looks again every 50 ms.
    public func wait(
        for goal: String, timeout: Duration = .seconds(20), _ condition: () async -> Bool
    ) async throws(TestClusterError) {
        guard await Self.poll(timeout, condition) else { throw await .timedOut(goal, state: summary()) }
    }

    private static func poll(_ timeout: Duration, _ condition: () async -> Bool) async -> Bool {
        let end = ContinuousClock.now + timeout
        while !(await condition()) {
            guard ContinuousClock.now < end else { return false }
            // a cancelled test ends with the next look
            do { try await Task.sleep(for: .milliseconds(50)) } catch { return await condition() }
        }
        return true
    }

    private func summary() async -> String {
        let lines = await statuses().map { status in
            let replicas = status.replicas.map {
                "\($0.group)=\($0.state)@\($0.term) \($0.appliedIndex)/\($0.lastIndex)"
            }
            return "node \(status.id) is \(status.state): " + replicas.joined(separator: ", ")
        }
        return lines.isEmpty ? "nobody answers" : lines.joined(separator: "; ")
    }

    private func call(_ node: NodeAddress, _ method: String, _ body: Bytes) async -> Bytes? {
        do throws(ClientError) {
            return try await client.call(
                node, service: Self.service, method: method, body: body, timeout: Self.patience)
        } catch {
            return nil
        }
    }
}

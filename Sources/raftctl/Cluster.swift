import CMessages
import RaftCore
import ShardClient
import ShardMap
import Transport
import WireMessages

/// The cluster as a command reaches it: a client, and the administrative calls to single nodes.
struct Cluster: Sendable {
    let client: Client
    let seeds: [NodeAddress]

    /// How long one node may take to answer before it counts as down.
    private static let nodePatience = Interval.milliseconds(2000)
    static let service = "flotilla.ClusterService"

    /// A client of the nodes that `invocation` names. Nothing is sent yet.
    init(_ invocation: Invocation) throws(Failure) {
        seeds = invocation.seeds
        var settings = Client.Settings()
        settings.timeout = invocation.timeout
        do throws(TransportError) {
            client = try Client(seeds: seeds, settings: settings)
        } catch {
            throw .failed(error.description)
        }
    }

    /// The failure of finding nobody.
    var nobody: Failure {
        let names = seeds.map(\.description).joined(separator: ", ")
        return .unreachable("nobody answers at \(names); start a node, or name another with --cluster")
    }

    /// The map, from the seed that gives one first. All are asked at once: one that hangs must not hold up the others.
    func map() async throws(Failure) -> ClusterMap {
        let (answers, inbox) = AsyncStream.makeStream(of: MapAnswer.self)
        // not a task group, which would wait for the slowest
        for seed in seeds { Task { inbox.yield(await map(at: seed)) } }
        var refusal: Failure?
        for await answer in answers.prefix(seeds.count) {
            switch answer {
            case .map(let map): return map
            case .refused(let failure): refusal = failure
            case .silent: continue
            }
        }
        throw refusal ?? nobody
    }

    /// The newest map that the controller's members have, its leader's among them: what an order is made from. The map
    /// that comes first may be that of a node which has not heard of the order before.
    func newestMap() async throws(Failure) -> ClusterMap {
        var newest = try await map()
        var asked: [NodeAddress] = []
        // members that are new in a newer map may have a newer one still
        while true {
            let unasked = newest.controllers.filter { !asked.contains($0) }
            guard !unasked.isEmpty else { return newest }
            asked += unasked
            let answers = await withTaskGroup(of: MapAnswer.self) { group in
                for member in unasked { group.addTask { await map(at: member) } }
                return await group.reduce(into: []) { $0.append($1) }
            }
            for case .map(let map) in answers where map.version > newest.version { newest = map }
        }
    }

    private enum MapAnswer {
        case map(ClusterMap)
        case refused(Failure)
        case silent
    }

    private func map(at node: NodeAddress) async -> MapAnswer {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let body = arena.pack(arena.make(flotilla__get_map_request__init))
        guard let answer = await call(node, "get_map", body) else { return .silent }
        let action = "the map at \(node)"
        guard let reply = arena.unpack(flotilla__get_map_reply__init, answer)?.pointee else {
            return .refused(Failure(.badRequest, "an answer that does not parse", while: action))
        }
        if reply.error != 0 {
            let error = NamedError(rawValue: reply.error) ?? .internalError
            if error == .notInitialized { return .refused(.failed(error.sentence)) }
            return .refused(Failure(error, reply.message.map { String(cString: $0) }, while: action))
        }
        guard let map = reply.map.flatMap({ ClusterMap($0.pointee) }) else {
            return .refused(Failure(.unknownFormat, nil, while: action))
        }
        return .map(map)
    }

    /// What the node at `address` says of itself; nil if it does not answer.
    func status(of address: NodeAddress) async -> NodeStatus? {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let body = arena.pack(arena.make(flotilla__status_request__init))
        guard let answer = await call(address, "status", body) else { return nil }
        return NodeStatus(answer, arena)
    }

    /// What came of an ``initialize(at:_:)``.
    enum InitAnswer: Equatable {
        /// Not finished: to be asked again.
        case forming(existed: Bool)
        case done(existed: Bool, clusterID: UInt64)
        case refused(NamedError, String?)
        /// No answer, which says nothing about what happened.
        case silent
    }

    /// Asks one node to form the cluster. Repeating the same request is harmless.
    func initialize(at node: NodeAddress, _ plan: InitPlan) async -> InitAnswer {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let request = arena.make(flotilla__init_request__init)
        request.pointee.groups = UInt32(plan.groups)
        request.pointee.replicas = UInt32(plan.replicas)
        request.pointee.n_boundaries = plan.boundaries.count
        request.pointee.boundaries = arena.array(plan.boundaries.map { arena.data($0) })
        request.pointee.has_nodes = 1
        request.pointee.nodes = UInt32(plan.nodes)
        guard let answer = await call(node, "init", arena.pack(request), patience: .milliseconds(5000)) else {
            return .silent
        }
        guard let reply = arena.unpack(flotilla__init_reply__init, answer)?.pointee else {
            return .refused(.badRequest, "an answer that does not parse")
        }
        if reply.error != 0 {
            let error = NamedError(rawValue: reply.error) ?? .internalError
            return .refused(error, reply.message.map { String(cString: $0) })
        }
        let existed = reply.has_existed != 0 && reply.existed != 0
        guard reply.has_done != 0, reply.done != 0 else { return .forming(existed: existed) }
        return .done(existed: existed, clusterID: reply.cluster_id)
    }

    func call(
        _ node: NodeAddress, _ method: String, _ body: Bytes, patience: Interval = Cluster.nodePatience
    ) async -> Bytes? {
        do throws(ClientError) {
            return try await client.call(node, service: Cluster.service, method: method, body: body, timeout: patience)
        } catch {
            return nil
        }
    }
}

extension ClusterMap {
    /// Where the controller's members are.
    var controllers: [NodeAddress] { group(ClusterMap.controllerGroup)?.peers.map(\.address) ?? [] }
}

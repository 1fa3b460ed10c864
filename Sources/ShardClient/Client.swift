public import RaftCore
public import ShardMap
public import Transport

/// A client of a cluster, for programs: owns a thread; may be used from any task.
///
/// Every call ends within the settings' timeout. Calls that run at the same time share requests; concurrency is what
/// makes a client fast. Writes are executed at most once, however often they had to be sent; an error says by the class
/// of its ``ClientError/error`` whether they were.
public final class Client: Sendable {
    /// Limits and times.
    public struct Settings: Sendable {
        /// Of the routing.
        public var router = Router.Settings()
        /// How long a call may take.
        public var timeout = Interval.milliseconds(10_000)
        /// The settings above.
        public init() {}
    }

    private let lane: ClientLane
    private let timeout: Interval

    /// A client that learns the cluster's map from `seeds`, any of its nodes. Connects with the first call.
    public init(seeds: [NodeAddress], settings: Settings = Settings()) throws(TransportError) {
        lane = try ClientLane(seeds: seeds, settings: settings.router)
        timeout = settings.timeout
        try lane.start()
    }

    deinit { lane.close() }

    /// Ends the thread and every call that has no result yet. Blocks until the thread has ended.
    public func close() { lane.close() }

    /// Executes `operations`, each linearizable on its own; results in their order. Those on the same key keep their
    /// order. An operation's failure is in its result; thrown is only that the client is closed.
    public func execute(_ operations: [KeyOperation]) async throws(ClientError) -> [KeyResult] {
        let timeout = timeout
        return try await ask { lane, answer in
            lane.router.execute(operations, deadline: lane.clock.now + timeout) { answer(.success($0)) }
        }
        .mapError { ClientError($0) }.get()
    }

    /// Up to `limit` pairs in key order from `start` on; `next` is where to go on, nil at the end. As
    /// ``KeyValueRouter/scan(from:limit:deadline:completion:)``: each key once, but not a snapshot.
    public func scan(
        from start: Bytes, limit: Int
    ) async throws(ClientError) -> (pairs: [KeyResult.Pair], next: Bytes?) {
        let timeout = timeout
        return try await ask { lane, answer in
            lane.router.scan(from: start, limit: limit, deadline: lane.clock.now + timeout) { answer($0) }
        }
        .mapError { ClientError($0) }.get()
    }

    /// Number of keys, summed over the shards.
    public func count() async throws(ClientError) -> Int64 {
        let timeout = timeout
        return try await ask { lane, answer in
            lane.router.count(deadline: lane.clock.now + timeout) { answer($0) }
        }
        .mapError { ClientError($0) }.get()
    }

    /// The newest map known after a node was asked for it.
    public func clusterMap() async throws(ClientError) -> ClusterMap {
        let timeout = timeout
        return try await ask { lane, answer in
            lane.router.fetchMap(deadline: lane.clock.now + timeout) { answer($0) }
        }
        .mapError { ClientError($0) }.get()
    }

    /// Calls `method` of any `service` of `node` with an encoded message; the reply's body. For tools: nothing is tried
    /// twice, and errors are as the RPC's say.
    public func call(
        _ node: NodeAddress, service: String, method: String, body: Bytes, timeout: Interval
    ) async throws(ClientError) -> Bytes {
        let result: RpcResult = try await ask { lane, answer in
            lane.transport.call(
                node, service: service, method: method, body: body, deadline: lane.clock.now + timeout
            ) { answer(.success($0)) }
        }
        .mapError { ClientError($0) }.get()
        switch result {
        case .reply(let reply): return reply.body
        case .failed(let error): throw ClientError(error)
        }
    }

    /// Runs `start` on the lane and waits for its answer.
    private func ask<Value: Sendable>(
        _ start: @escaping @Sendable (ClientLane, @escaping @Sendable (Result<Value, NamedErrorThrown>) -> Void) -> Void
    ) async -> Result<Value, NamedErrorThrown> {
        await withCheckedContinuation { continuation in
            let isOpen = lane.run { lane in start(lane) { continuation.resume(returning: $0) } }
            if !isOpen { continuation.resume(returning: .failure(NamedErrorThrown(.stopping, "the client is closed"))) }
        }
    }
}

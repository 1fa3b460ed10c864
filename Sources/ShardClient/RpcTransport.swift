internal import CMessages
public import RaftCore
public import ShardMap
public import Transport
internal import WireMessages

/// Reaches nodes over RPC: one channel to each node that was ever asked, over one network. On the lane of the network.
///
/// A node that cannot be reached is not waited for: requests to it fail at once until its channel's next attempt to
/// connect has succeeded, and the router asks another one.
public final class RpcTransport: RouterTransport {
    private let network: any Network
    private let clock: any NodeClock
    private let arena = Arena()
    /// In order of first use; the dictionary only finds them.
    private var channels: [RpcChannel] = []
    private var channelsByNode: [NodeAddress: RpcChannel] = [:]

    /// A transport without connections.
    public init(network: any Network, clock: any NodeClock) {
        self.network = network
        self.clock = clock
    }

    /// As ``RouterTransport/execute(_:command:at:deadline:completion:)``: `flotilla.KvService.execute`.
    public func execute(
        _ request: ExecuteRequest, command: Bytes?, at node: NodeAddress, deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void
    ) {
        let channel = channel(to: node)
        let arena = arena
        arena.scope { scope in
            channel.call(
                service: "flotilla.KvService", method: "execute", message: request.encoded(scope),
                attachment: command.map { [$0] } ?? [], deadline: deadline
            ) { result in completion(RouterOutcome(result, arena)) }
        }
    }

    /// As ``RouterTransport/fetchMap(at:newerThan:patience:deadline:completion:)``: `flotilla.ClusterService.get_map`.
    public func fetchMap(
        at node: NodeAddress, newerThan version: UInt64, patience: Interval, deadline: Instant,
        completion: @escaping (MapAnswer) -> Void
    ) {
        let channel = channel(to: node)
        let arena = arena
        arena.scope { scope in
            let message = scope.make(flotilla__get_map_request__init)
            message.pointee.has_known_version = 1
            message.pointee.known_version = version
            if patience.milliseconds > 0 {
                message.pointee.has_wait_ms = 1
                message.pointee.wait_ms = UInt32(clamping: patience.milliseconds)
            }
            channel.call(
                service: "flotilla.ClusterService", method: "get_map", message: message, deadline: deadline
            ) { result in completion(MapAnswer(result, arena)) }
        }
    }

    /// Any call to `node`, for tools.
    public func call(
        _ node: NodeAddress, service: String, method: String, body: Bytes, deadline: Instant,
        completion: @escaping (RpcResult) -> Void
    ) {
        channel(to: node).call(service: service, method: method, body: body, deadline: deadline, completion: completion)
    }

    /// Fails calls whose deadline has passed and reopens connections; the owner calls it once in each of its turns.
    /// Returns when it is to be called next at the latest.
    public func turn(now: Instant) -> Instant? {
        var next: Instant?
        for channel in channels {
            guard let due = channel.expire(now: now) else { continue }
            next = min(next ?? due, due)
        }
        return next
    }

    /// Closes every connection; calls without an outcome fail.
    public func close() {
        for channel in channels { channel.close() }
    }

    private func channel(to node: NodeAddress) -> RpcChannel {
        if let channel = channelsByNode[node] { return channel }
        let channel = RpcChannel(address: node, network: network, clock: clock)
        channelsByNode[node] = channel
        channels.append(channel)
        return channel
    }
}

extension MapAnswer {
    /// What the result of a `get_map` says.
    fileprivate init(_ result: RpcResult, _ arena: Arena) {
        guard case .reply(let reply) = result else {
            self = .silence
            return
        }
        self = arena.scope { arena in
            guard let message = arena.unpack(flotilla__get_map_reply__init, reply.body)?.pointee else { return .noMap }
            if message.error == NamedError.notInitialized.rawValue { return .noCluster }
            guard message.error == 0 else { return .noMap }
            guard let map = message.map else { return .unchanged }
            return ClusterMap(map.pointee).map { .map($0) } ?? .noMap
        }
    }
}

extension RouterOutcome {
    /// What the result of a call says about the request in it.
    init(_ result: RpcResult, _ arena: Arena) {
        switch result {
        case .reply(let reply):
            if let answer = ExecuteReply(reply.body, arena) {
                self = .reply(answer)
            } else {
                self = .lost("an answer that does not parse")
            }
        case .failed(let error):
            switch error.named {
            case .badRequest, .busy: self = .reply(ExecuteReply(error: error.named, message: error.text))
            case let named where named.outcome == .notExecuted: self = .notSent(error.description)
            default: self = .lost(error.description)
            }
        }
    }
}

extension RpcError {
    /// The error of the service's table that says the same about the request.
    var named: NamedError {
        switch code {
        case RpcCode.hostDown: .unreachable
        case RpcCode.noService, RpcCode.noMethod, RpcCode.notAuthorized: .refused
        case RpcCode.badRequest: .badRequest
        case RpcCode.overcrowded, RpcCode.limitReached: .busy
        case RpcCode.stopping: .stopping
        case RpcCode.internalError: .internalError
        default: .outcomeUnknown
        }
    }
}

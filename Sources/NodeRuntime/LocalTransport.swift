import RaftCore
import ShardClient
import ShardMap
import ShardServer
import WireMessages

/// The router's way to nodes, from inside one: its own groups directly, the others over RPC.
final class LocalTransport: RouterTransport {
    private let address: NodeAddress
    private let server: ShardServer
    private let remote: RpcTransport
    private let arena = Arena()

    init(address: NodeAddress, server: ShardServer, remote: RpcTransport) {
        self.address = address
        self.server = server
        self.remote = remote
    }

    func execute(
        _ request: ExecuteRequest, command: Bytes?, at node: NodeAddress, deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void
    ) {
        guard node == address else {
            return remote.execute(request, command: command, at: node, deadline: deadline, completion: completion)
        }
        server.execute(request, command: command) { [arena] packed in
            guard let reply = ExecuteReply(packed, arena) else {
                return completion(.lost("the state machine's reply does not parse"))
            }
            completion(.reply(reply))
        }
    }

    func fetchMap(
        at node: NodeAddress, newerThan version: UInt64, patience: Interval, deadline: Instant,
        completion: @escaping (MapAnswer) -> Void
    ) {
        guard node == address else {
            return remote.fetchMap(
                at: node, newerThan: version, patience: patience, deadline: deadline, completion: completion)
        }
        // whatever it learns later reaches the router by itself
        completion(server.map.map { .map($0) } ?? (server.belongsToCluster ? .noMap : .noCluster))
    }
}

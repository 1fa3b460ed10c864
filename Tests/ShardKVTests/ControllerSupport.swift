import RaftCore
import ShardMap
import Testing

@testable import ShardKV

/// A controller's state with verbs: what a test orders, or is refused.
struct ControllerWorld {
    var state = ControllerState()
    private var wallClock: Int64 = 1_000

    /// `nodes` nodes, the first three of which hold the controller; groups g1, g2, … of three, all born; shards 1, 2, …
    /// that begin at `""`, `b`, `c`, … and lie at the groups in order.
    init(nodes: Int = 5, groups: Int = 3, shards: Int = 6, level: UInt32 = ClusterLevel.first) throws {
        let record = BootstrapRecord(
            clusterID: 77,
            nodes: try (1...nodes).map { number in
                var node = try ControllerTests.node(UInt64(number))
                node.level = level
                return node
            },
            controllerPeers: (1...3).map { ControllerWorld.peer($0) }, groups: groups, replicas: 3,
            boundaries: (1..<shards).map { Bytes([UInt8(ascii: "a") + UInt8($0)]) })
        #expect(state.apply(.initialize(record)).error == nil)
        for group in 1...groups { #expect(state.apply(.groupBorn("g\(group)")).error == nil) }
    }

    static func peer(_ node: Int, idx: Int32 = 0, role: PeerID.Role = .replica) -> PeerID {
        PeerID(address: NodeAddress(ip: 10 << 24 | UInt32(node), port: 7000), idx: idx, role: role)
    }

    var map: ClusterMap { get throws { try #require(state.map) } }

    func group(_ id: String) throws -> Group { try #require(try map.group(id)) }

    func shard(_ id: UInt64) throws -> Shard {
        let map = try map
        return map.shards[try #require(map.shardPosition(id))]
    }

    /// Begins an operation that can begin.
    mutating func begin(_ kind: ClusterOperation.Kind) throws -> ClusterOperation {
        wallClock += 1
        let reply = state.apply(.begin(kind, wallClock: wallClock))
        #expect(reply.error == nil, "\(reply.message ?? "")")
        return try #require(reply.operation)
    }

    /// Takes an operation to a state that it can come to.
    mutating func step(_ operation: UInt64, _ to: ClusterOperation.State, reason: String? = nil) {
        wallClock += 1
        let reply = state.apply(.step(operation: operation, to: to, reason: reason, wallClock: wallClock))
        #expect(reply.error == nil && reply.operation?.state == to, "\(reply.message ?? "")")
    }

    /// Takes an operation to its end.
    mutating func run(_ kind: ClusterOperation.Kind) throws {
        let operation = try begin(kind)
        if case .createGroup(let creation) = kind { _ = state.apply(.groupBorn(creation.group)) }
        if case .move = kind { step(operation.id, .switched) }
        step(operation.id, .done)
    }

    /// Expects that a command is refused, in words that hold all of `words`, and changes nothing.
    func expectRefusal(
        _ command: ControllerCommand, _ error: NamedError, _ words: [String],
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        var after = state
        let reply = after.apply(command)
        #expect(reply.error == error, sourceLocation: sourceLocation)
        for word in words {
            #expect(
                reply.message?.contains(word) == true, "\(reply.message ?? "no message")",
                sourceLocation: sourceLocation
            )
        }
        #expect(after == state, "a refusal changes something", sourceLocation: sourceLocation)
    }

    func expectRefusal(
        _ kind: ClusterOperation.Kind, _ error: NamedError, _ words: String...,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        expectRefusal(.begin(kind, wallClock: 1), error, words, sourceLocation: sourceLocation)
    }
}

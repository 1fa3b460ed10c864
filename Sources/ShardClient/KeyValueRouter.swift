public import RaftCore
public import ShardMap

/// Executes operations wherever their keys live. The faces of a node (Redis, HTTP) and the client library speak to the
/// store through this. Used on one lane only; completions come on it, possibly before the call returns.
public protocol KeyValueRouter: AnyObject {
    /// Executes `operations`; the completion gets one result for each, in their order.
    ///
    /// Operations on the same key are executed in their order. Operations on different keys are concurrent: each is
    /// linearizable on its own, nothing is promised about all of them together, for they may live in several shards:
    /// some may be executed and others not, and each result says so for itself. `scan` and `count` are not allowed
    /// here. Every operation ends with a result: after `deadline` with ``NamedError/deadlineExceeded`` if it certainly
    /// did not happen, with ``NamedError/outcomeUnknown`` if it may have.
    func execute(_ operations: [KeyOperation], deadline: Instant, completion: @escaping ([KeyResult]) -> Void)

    /// Up to `limit` pairs in key order from `start` on, over all shards; `next` is where to go on, nil at the end.
    ///
    /// A key that is there all the time is found exactly once, whatever is split, merged or moved meanwhile; one that
    /// comes or goes may be or not. Not a snapshot: up to 1,024 pairs of one shard are as of one moment, between the
    /// call and its end.
    func scan(
        from start: Bytes, limit: Int, deadline: Instant,
        completion: @escaping (Result<(pairs: [KeyResult.Pair], next: Bytes?), NamedErrorThrown>) -> Void)

    /// Number of live keys, summed over the shards, each as of a moment of its own; no key counts in two of them.
    func count(deadline: Instant, completion: @escaping (Result<Int64, NamedErrorThrown>) -> Void)
}

/// What came of a request to one node.
public enum RouterOutcome: Sendable {
    /// An answer.
    case reply(ExecuteReply)
    /// The request never left: it was certainly not executed.
    case notSent(String)
    /// It left, and no answer will come: it may have been executed.
    case lost(String)
}

/// What a node that was asked for the cluster's map answers.
public enum MapAnswer: Sendable {
    /// The newest it knows.
    case map(ClusterMap)
    /// It knows none newer than the asker.
    case unchanged
    /// It belongs to no cluster yet.
    case noCluster
    /// It belongs to a cluster and does not know the map yet.
    case noMap
    /// Nothing.
    case silence
}

/// How a ``Router`` reaches nodes: over RPC in a client, directly for a node's own groups. One lane only.
public protocol RouterTransport: AnyObject {
    /// Sends an execute request; `command` is the packed ``GroupCommand`` of a write or an open.
    func execute(
        _ request: ExecuteRequest, command: Bytes?, at node: NodeAddress, deadline: Instant,
        completion: @escaping (RouterOutcome) -> Void)
    /// Asks a node for its map, if that is newer than `version`. A node that has none newer holds its answer until it
    /// has, for at most `patience`; it may also answer at once.
    func fetchMap(
        at node: NodeAddress, newerThan version: UInt64, patience: Interval, deadline: Instant,
        completion: @escaping (MapAnswer) -> Void)
}

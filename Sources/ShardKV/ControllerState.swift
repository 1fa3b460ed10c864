import RaftCore
public import ShardMap

/// What the controller group replicates: the map, the operations under way, and what must never be used again.
///
/// A value: a command in, an answer out, nothing else has a say. A command that is refused changes nothing. Every change
/// of the map raises its version by one and leaves behind how to undo it (``MapRevision``).
public struct ControllerState: Equatable, Sendable {
    /// The map; nil before the cluster is initialized.
    public internal(set) var map: ClusterMap?
    /// Operations under way, ascending by id.
    public internal(set) var pending: [ClusterOperation] = []
    /// Operations that are over, in the order in which they have ended: the last ``Limits/endedOperations`` of them.
    public internal(set) var ended: [ClusterOperation] = []
    /// Whether the cluster is kept spread. On until somebody says otherwise.
    public internal(set) var rebalancing = Rebalancing.on
    /// The numbers given out next.
    var counters = Counters()
    /// Groups there were; for lookup only.
    var deletedGroups: Set<String> = []
    /// Nodes there were, ascending by id.
    var removedNodes: [RemovedNode] = []
    /// What is different since ``takeChanges()``.
    var changes = Changes()

    /// Limits of the replicated state. Replicas must agree about them: changing one needs a new format of commands.
    public enum Limits {
        /// Nodes, against strangers that announce themselves under ever new addresses.
        public static let nodes = 4096
        /// Removed nodes whose data directories are remembered; the newest.
        public static let removedNodes = 4096
        /// Groups, the controller's among them.
        public static let groups = 1 << 20
        /// Deleted groups, all of which are remembered: no more can be deleted.
        public static let deletedGroups = 1 << 20
        /// Members of one group.
        public static let peers = 32
        /// The idx of a foreign member is below this, so that there is always a next one.
        public static let foreignIdx: Int32 = 1 << 20
        /// Shards.
        public static let shards = 1 << 20
        /// Operations under way.
        public static let pendingOperations = 1024
        /// Operations that are over and still told about.
        public static let endedOperations = 1000
        /// Former versions of the map that can be asked for.
        public static let mapVersions: UInt64 = 256
        /// Bytes of the name of a group or a zone.
        public static let nameBytes = 64
        /// Unicode scalars of the reason of an abort; what is behind them is cut off.
        public static let reasonLength = 512
    }

    /// A cluster that is not initialized.
    public init() {}

    /// The next numbers; none is ever given out twice.
    struct Counters: Equatable, Sendable {
        var operation: UInt64 = 1
        var node: UInt64 = 1
        var shard: UInt64 = 1

        init() {}

        /// Of a map that has never lost a node or a shard.
        init(after map: ClusterMap) {
            node = (map.nodes.map(\.id).max() ?? 0) + 1
            shard = (map.shards.map(\.id).max() ?? 0) + 1
        }
    }

    /// A node that was removed: its data directory does not come back.
    struct RemovedNode: Equatable, Sendable {
        var id: UInt64
        var incarnation: UInt64
    }

    /// What has to be written so that a restart finds the state as it is; the map itself, which has a version, apart.
    struct Changes: Equatable, Sendable {
        var operations: [UInt64] = []
        var forgottenOperations: [UInt64] = []
        var deletedGroups: [String] = []
        var removedNodes: [RemovedNode] = []
        var forgottenNodes: [UInt64] = []
        /// Whether ``ControllerState/rebalancing`` is another one.
        var hasNewRebalancing = false
        /// How to undo the changes of the map, oldest first.
        var revisions: [MapRevision] = []
    }

    /// What has changed since the last time.
    mutating func takeChanges() -> Changes {
        defer { changes = Changes() }
        return changes
    }

    /// Applies a command. The answer always has the version of the map behind it.
    public mutating func apply(_ command: ControllerCommand) -> ControllerReply {
        var reply: ControllerReply
        do throws(ControllerRefusal) {
            reply = try perform(command)
        } catch {
            reply = ControllerReply(error: error.error, message: error.message, operation: error.operation)
        }
        reply.version = map?.version
        return reply
    }

    /// What ``apply(_:)`` would answer, and the map there would be. Nothing changes.
    public func previewing(_ command: ControllerCommand) -> (reply: ControllerReply, map: ClusterMap?) {
        var copy = self
        let reply = copy.apply(command)
        return (reply, copy.map)
    }

    private mutating func perform(_ command: ControllerCommand) throws(ControllerRefusal) -> ControllerReply {
        switch command {
        case .initialize(let record): try initialize(record)
        case .join(let address, let incarnation, let zone, let level): try join(address, incarnation, zone, level)
        case .groupBorn(let group): try markBorn(group)
        case .verify: ControllerReply()
        case .begin(let kind, let version, let wallClock): try begin(kind, version, wallClock)
        case .step(let operation, let state, let reason, let wallClock):
            try step(operation, to: state, reason, wallClock)
        case .node(let change, let version): try apply(change, version)
        case .resetMembers(let group, let peers, let version, let wallClock):
            try resetMembers(of: group, to: peers, version, wallClock)
        case .rebalance(let rebalancing, let before): try rebalance(rebalancing, before)
        case .upgrade(let level, let version): try upgrade(to: level, version)
        }
    }

    private mutating func initialize(_ record: BootstrapRecord) throws(ControllerRefusal) -> ControllerReply {
        guard map == nil else { return ControllerReply() }
        guard record.hasAscendingBoundaries else {
            throw ControllerRefusal(.badRequest, "boundaries must be ascending and not empty")
        }
        let initial = record.initialMap
        map = initial
        counters = Counters(after: initial)
        return ControllerReply()
    }

    private mutating func rebalance(
        _ wanted: Rebalancing, _ before: Rebalancing?
    ) throws(ControllerRefusal) -> ControllerReply {
        _ = try initializedMap()
        guard before ?? rebalancing == rebalancing else {
            throw ControllerRefusal(.conflict, "rebalancing is \(rebalancing) by now; see raftctl rebalance")
        }
        if wanted != rebalancing { changes.hasNewRebalancing = true }
        rebalancing = wanted
        return ControllerReply()
    }

    // MARK: what commands share

    /// The map, which most commands need.
    func initializedMap() throws(ControllerRefusal) -> ClusterMap {
        guard let map else { throw ControllerRefusal(.notInitialized, NamedError.notInitialized.sentence) }
        return map
    }

    /// Refuses what was planned on another version of the map.
    func expect(_ version: UInt64?, _ map: ClusterMap) throws(ControllerRefusal) {
        guard let version, version != map.version else { return }
        throw ControllerRefusal(
            .conflict, "the map has version \(map.version), this was planned on version \(version); plan it again")
    }

    mutating func replaceNodes(_ range: Range<Int>, by nodes: [Node]) {
        guard let map else { return }
        revise(range, nodes.count, .nodes(Array(map.nodes[range])))
        self.map!.nodes.replaceSubrange(range, with: nodes)
    }

    mutating func replaceGroups(_ range: Range<Int>, by groups: [Group]) {
        guard let map else { return }
        revise(range, groups.count, .groups(Array(map.groups[range])))
        self.map!.groups.replaceSubrange(range, with: groups)
    }

    mutating func replaceShards(_ range: Range<Int>, by shards: [Shard]) {
        guard let map else { return }
        revise(range, shards.count, .shards(Array(map.shards[range])))
        self.map!.shards.replaceSubrange(range, with: shards)
    }

    mutating func replaceLevel(by level: UInt32) {
        guard let map else { return }
        revise(0..<0, 0, .level(map.level))
        self.map!.level = level
    }

    private mutating func revise(_ range: Range<Int>, _ count: Int, _ replaced: MapRevision.Records) {
        changes.revisions.append(
            MapRevision(version: map!.version, position: range.lowerBound, count: count, replaced: replaced))
        map!.version += 1
    }
}

/// Why a command changes nothing: an answer like any other, thrown within the state only.
struct ControllerRefusal: Error {
    var error: NamedError
    /// The reason, and the way out.
    var message: String
    /// The operation that is in the way.
    var operation: ClusterOperation?

    init(_ error: NamedError, _ message: String, operation: ClusterOperation? = nil) {
        self.error = error
        self.message = message
        self.operation = operation
    }
}

extension BootstrapRecord {
    /// Whether the boundaries cut the keys into ranges that are not empty.
    fileprivate var hasAscendingBoundaries: Bool {
        let starts = [Bytes()] + boundaries
        return zip(starts, starts.dropFirst()).allSatisfy { $0 < $1 }
    }
}

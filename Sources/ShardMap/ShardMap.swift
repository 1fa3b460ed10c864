public import RaftCore

/// A range of keys `[start, end)` in order of unsigned bytes; an empty end is beyond every key.
public struct KeyRange: Equatable, Sendable, CustomStringConvertible {
    /// First key.
    public var start: Bytes
    /// First key behind the range; empty: there is none.
    public var end: Bytes
    /// The range from `start` to before `end`.
    public init(start: Bytes, end: Bytes) {
        self.start = start
        self.end = end
    }
    /// Whether `key` lies in it.
    public func contains(_ key: Bytes) -> Bool { !(key < start) && (end.isEmpty || key < end) }
    /// `[start, end)`.
    public var description: String { "[\(start), \(end.isEmpty ? "∞" : end.description))" }
}

extension Bytes {
    /// The bytes as a sentence shows them: a long key is cut.
    package var abbreviated: String { count > 64 ? "\(slice(from: 0, count: 64))…" : description }
}

/// A shard: a key range owned by one group at a time, under an epoch that every change raises.
public struct Shard: Equatable, Sendable {
    /// Its number; never reused.
    public var id: UInt64
    /// Its keys.
    public var range: KeyRange
    /// The group that owns it.
    public var group: String
    /// Raised by every change of range or owner.
    public var epoch: UInt64
    /// A shard.
    public init(id: UInt64, range: KeyRange, group: String, epoch: UInt64) {
        self.id = id
        self.range = range
        self.group = group
        self.epoch = epoch
    }
}

/// A node as the map knows it.
public struct Node: Equatable, Sendable {
    /// Its number; never reused.
    public var id: UInt64
    /// Where it listens.
    public var address: NodeAddress
    /// Random id of its data directory.
    public var incarnation: UInt64
    /// Replicas of a group are kept in different zones; empty: it is in none.
    public var zone: String
    /// Whether it gets no new replica and gives away those it has.
    public var isDraining: Bool
    /// The highest ``ClusterLevel`` that its program knows, as it announced last.
    public var level: UInt32
    /// A node.
    public init(
        id: UInt64, address: NodeAddress, incarnation: UInt64, zone: String = "", isDraining: Bool = false,
        level: UInt32 = ClusterLevel.first
    ) {
        self.id = id
        self.address = address
        self.incarnation = incarnation
        self.zone = zone
        self.isDraining = isDraining
        self.level = level
    }
}

/// A group as the map knows it.
public struct Group: Equatable, Sendable {
    /// Its name: `controller`, `g1`, `g2`, …
    public var id: String
    /// Its members, as the last change of them that is done has them; at first those it is born with.
    public var peers: [PeerID]
    /// Whether the group itself has taken its first shards over.
    public var isBorn: Bool
    /// Members to be, as long as a change of members is under way.
    public var joining: [PeerID]
    /// For each address the former member with the highest idx, ascending; no newcomer there gets that idx or a lower
    /// one.
    public var retired: [PeerID]
    /// A group.
    public init(id: String, peers: [PeerID], isBorn: Bool, joining: [PeerID] = [], retired: [PeerID] = []) {
        self.id = id
        self.peers = peers
        self.isBorn = isBorn
        self.joining = joining
        self.retired = retired
    }
}

/// The cluster's map: what the controller replicates and every node and client caches.
public struct ClusterMap: Equatable, Sendable {
    /// Random id of the cluster.
    public var clusterID: UInt64
    /// Raised by every change.
    public var version: UInt64
    /// Ascending by id.
    public var nodes: [Node]
    /// In order of creation; the controller group first.
    public var groups: [Group]
    /// Ascending by start; together they cover every key.
    public var shards: [Shard]
    /// The ``ClusterLevel`` up to which commands may be proposed.
    public var level: UInt32

    /// Name of the group that replicates the map.
    public static let controllerGroup = "controller"

    /// A map.
    public init(
        clusterID: UInt64, version: UInt64, nodes: [Node], groups: [Group], shards: [Shard],
        level: UInt32 = ClusterLevel.first
    ) {
        self.clusterID = clusterID
        self.version = version
        self.nodes = nodes
        self.groups = groups
        self.shards = shards
        self.level = level
    }

    /// The shard that owns `key`; nil only while there are no shards.
    public func shard(owning key: Bytes) -> Shard? { shardPosition(owning: key).map { shards[$0] } }

    /// Position in ``shards`` of the one that owns `key`, by binary search.
    public func shardPosition(owning key: Bytes) -> Int? {
        var low = 0
        var high = shards.count
        while low < high {
            let middle = (low + high) / 2
            if key < shards[middle].range.start { high = middle } else { low = middle + 1 }
        }
        return low > 0 && shards[low - 1].range.contains(key) ? low - 1 : nil
    }

    /// The group called `id`.
    public func group(_ id: String) -> Group? { groups.first { $0.id == id } }
    /// Position in ``shards`` of the one with this number.
    public func shardPosition(_ id: UInt64) -> Int? { shards.firstIndex { $0.id == id } }
    /// The node with this number.
    public func node(_ id: UInt64) -> Node? { nodes.first { $0.id == id } }
    /// The node at `address`.
    public func node(at address: NodeAddress) -> Node? { nodes.first { $0.address == address } }
    /// The addresses of those members that are on nodes of the cluster; the others run another program.
    public func nodes(of members: [PeerID]) -> [NodeAddress] {
        members.map(\.address).filter { node(at: $0) != nil }
    }
}

/// Limits of what a client may store; part of the service's contract.
public enum KeyLimits {
    /// Longest key in bytes.
    public static let keyBytes = 64 << 10
    /// Longest value in bytes.
    public static let valueBytes = 8 << 20
    /// Largest packed command in bytes: it must fit an append's frame with room to spare.
    public static let commandBytes = 16 << 20
    /// Most operations of one request.
    public static let operations = 16_384
}

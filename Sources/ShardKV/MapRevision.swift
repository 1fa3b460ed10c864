import RaftCore
import ShardMap
import WireMessages

/// What takes the map back by one version: every command changes one run of nodes, of groups or of shards, or the level.
struct MapRevision: Equatable, Sendable {
    /// The version that it leads back to.
    var version: UInt64
    /// Where the run lies.
    var position: Int
    /// How many records the run has since.
    var count: Int
    /// What it was before.
    var replaced: Records

    enum Records: Equatable, Sendable {
        case nodes([Node])
        case groups([Group])
        case shards([Shard])
        case level(UInt32)
    }

    /// Takes back the last change of `map`; false if that was another one.
    func undo(_ map: inout ClusterMap) -> Bool {
        func replace<Record>(_ records: inout [Record], by replaced: [Record]) -> Bool {
            guard position >= 0, count >= 0, position + count <= records.count else { return false }
            records.replaceSubrange(position..<position + count, with: replaced)
            return true
        }
        guard version &+ 1 == map.version else { return false }
        map.version = version
        switch replaced {
        case .nodes(let nodes): return replace(&map.nodes, by: nodes)
        case .groups(let groups): return replace(&map.groups, by: groups)
        case .shards(let shards): return replace(&map.shards, by: shards)
        case .level(let level):
            map.level = level
            return true
        }
    }
}

// MARK: as it is stored

extension MapRevision {
    /// Kind of the records, position, count; then a packed map that has the records, or the level, alone.
    func stored(_ arena: Arena) -> Bytes {
        var records = ClusterMap(clusterID: 0, version: version, nodes: [], groups: [], shards: [])
        let kind: UInt8
        switch replaced {
        case .nodes(let nodes): (kind, records.nodes) = (1, nodes)
        case .groups(let groups): (kind, records.groups) = (2, groups)
        case .shards(let shards): (kind, records.shards) = (3, shards)
        case .level(let level): (kind, records.level) = (4, level)
        }
        let packed = records.packed(arena)
        return ByteWriter.bytes(10 + packed.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(kind)
            writer.put(UInt32(position))
            writer.put(UInt32(count))
            writer.put(packed)
        }
    }

    init(stored value: Bytes, _ arena: Arena) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .history)
        guard let kind = reader.byte(), let position = reader.shortNumber(), let count = reader.shortNumber(),
            let records = ClusterMap(reader.rest, arena)
        else { throw StoreFormat.damaged(.history) }
        let replaced: Records
        switch kind {
        case 1: replaced = .nodes(records.nodes)
        case 2: replaced = .groups(records.groups)
        case 3: replaced = .shards(records.shards)
        case 4: replaced = .level(records.level)
        default: throw StoreFormat.damaged(.history)
        }
        self.init(version: records.version, position: Int(position), count: Int(count), replaced: replaced)
    }
}

import RaftCore
import ShardMap
import WireMessages

// How the controller's state lies in the engine. The map is one value; everything else has a key of its own, so that a
// change costs what it changes.

extension ControllerState {
    /// What is stored; a state stored by a version that knew the map alone is one too.
    init(_ store: ReplicaStore, _ arena: Arena) throws(StateMachineError) {
        self.init()
        guard let stored = try store.get(store.layout.key(.map)) else { return }
        guard let map = ClusterMap(try StoreFormat.open(stored, .map).rest, arena) else {
            throw StoreFormat.damaged(.map)
        }
        self.map = map
        counters =
            try store.get(store.layout.key(.counters)).map { (value) throws(StateMachineError) in
                try Counters(stored: value)
            } ?? Counters(after: map)
        if let stored = try store.get(store.layout.key(.settings)) {
            var body = try StoreFormat.open(stored, .settings)
            guard let rebalancing = body.byte().flatMap({ Rebalancing(rawValue: $0) }) else {
                throw StoreFormat.damaged(.settings)
            }
            self.rebalancing = rebalancing
        }
        try store.scan(.operations) { (_, value) throws(StateMachineError) in
            let packed = try StoreFormat.open(value, .operations).rest
            guard let operation = ClusterOperation(packed, arena) else { throw StoreFormat.damaged(.operations) }
            if operation.state.isOver { ended.append(operation) } else { pending.append(operation) }
            return true
        }
        ended.sort { ($0.endNumber ?? 0, $0.id) < ($1.endNumber ?? 0, $1.id) }
        try store.scan(.deletedGroups) { (key, _) throws(StateMachineError) in
            deletedGroups.insert(KeyLayout.rest(of: key).text)
            return true
        }
        try store.scan(.removedNodes) { (key, value) throws(StateMachineError) in
            var id = ByteReader(key, from: KeyLayout.prefixBytes)
            var body = try StoreFormat.open(value, .removedNodes)
            guard let id = id.number(), let incarnation = body.number() else {
                throw StoreFormat.damaged(.removedNodes)
            }
            removedNodes.append(RemovedNode(id: id, incarnation: incarnation))
            return true
        }
    }

    /// Puts what `changes` says, and the counters and the map as they are now.
    func put(_ changes: Changes, to store: ReplicaStore, _ arena: Arena) {
        let layout = store.layout
        if let map { store.put(layout.key(.map), stored(map.packed(arena))) }
        store.put(layout.key(.counters), counters.stored)
        if changes.hasNewRebalancing {
            store.put(layout.key(.settings), Bytes([StoreFormat.current, rebalancing.rawValue]))
        }
        for id in changes.operations {
            guard let operation = operation(id) else { continue }
            store.put(layout.key(.operations, id), stored(operation.packed(arena)))
        }
        for id in changes.forgottenOperations { store.delete(layout.key(.operations, id)) }
        for group in changes.deletedGroups {
            store.put(layout.key(.deletedGroups, rest: Bytes(group)), stored(Bytes()))
        }
        for node in changes.removedNodes { store.put(layout.key(.removedNodes, node.id), node.stored) }
        for id in changes.forgottenNodes { store.delete(layout.key(.removedNodes, id)) }
        for revision in changes.revisions {
            store.put(layout.key(.history, revision.version), revision.stored(arena))
            guard revision.version >= Limits.mapVersions else { continue }
            store.delete(layout.key(.history, revision.version - Limits.mapVersions))
        }
    }

    private func stored(_ body: Bytes) -> Bytes {
        ByteWriter.bytes(1 + body.count) { writer in
            writer.put(StoreFormat.current)
            writer.put(body)
        }
    }

    /// The map as it was at `version`; nil if that is not remembered, or not yet. Reads one stored change for each
    /// version in between.
    func map(at version: UInt64, _ store: ReplicaStore, _ arena: Arena) throws(StateMachineError) -> ClusterMap? {
        guard var map, version <= map.version else { return nil }
        var revisions: [MapRevision] = []
        let start = store.layout.key(.history, version)
        try store.scan(from: start, to: store.layout.end(of: .history)) { (_, value) throws(StateMachineError) in
            revisions.append(try MapRevision(stored: value, arena))
            return true
        }
        guard UInt64(revisions.count) == map.version - version else { return nil }
        for revision in revisions.reversed() {
            guard revision.undo(&map) else { throw StoreFormat.damaged(.history) }
        }
        return map
    }
}

extension ControllerState.Counters {
    fileprivate init(stored value: Bytes) throws(StateMachineError) {
        var reader = try StoreFormat.open(value, .counters)
        guard let operation = reader.number(), let node = reader.number(), let shard = reader.number() else {
            throw StoreFormat.damaged(.counters)
        }
        (self.operation, self.node, self.shard) = (operation, node, shard)
    }

    fileprivate var stored: Bytes {
        ByteWriter.bytes(25) { writer in
            writer.put(StoreFormat.current)
            writer.put(operation)
            writer.put(node)
            writer.put(shard)
        }
    }
}

extension ControllerState.RemovedNode {
    fileprivate var stored: Bytes {
        ByteWriter.bytes(9) { writer in
            writer.put(StoreFormat.current)
            writer.put(incarnation)
        }
    }
}

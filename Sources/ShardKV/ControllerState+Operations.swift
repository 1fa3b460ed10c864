import ShardMap

// How operations begin and come to their ends. Which ones can begin is decided in the files of shards and of groups.

extension ControllerState {
    /// The operation with this number, under way or over; nil if there never was one, or it is forgotten.
    public func operation(_ id: UInt64) -> ClusterOperation? {
        pending.first { $0.id == id } ?? ended.first { $0.id == id }
    }

    /// All that are known, ascending by id.
    public var operations: [ClusterOperation] { (ended + pending).sorted { $0.id < $1.id } }

    /// Records the operation with everything that it fixes, or says why it cannot be.
    mutating func begin(
        _ asked: ClusterOperation.Kind, _ version: UInt64?, _ wallClock: Int64
    ) throws(ControllerRefusal) -> ControllerReply {
        let map = try initializedMap()
        try expect(version, map)
        guard pending.count < Limits.pendingOperations else {
            throw ControllerRefusal(
                .busy, "\(pending.count) operations are under way, the most there may be; try again when some are done")
        }
        guard asked.level <= map.level else {
            throw ControllerRefusal(
                .levelTooLow,
                "this needs cluster level \(asked.level), and the cluster is at level \(map.level); raise it once every "
                    + "node runs a raftd that knows it: raftctl cluster upgrade")
        }
        let kind = try fixed(asked, map)
        let operation = ClusterOperation(id: counters.operation, kind: kind, begunMilliseconds: wallClock)
        counters.operation += 1
        switch kind {
        case .split: counters.shard += 1
        case .merge, .move, .deleteGroup: break
        case .createGroup(let creation):
            let group = Group(id: creation.group, peers: creation.peers, isBorn: false)
            replaceGroups(map.groups.count..<map.groups.count, by: [group])
        case .changePeers(let change):
            update(change.group) { group in group.joining = change.to.filter { !change.from.contains($0) } }
        }
        pending.append(operation)
        changes.operations.append(operation.id)
        return ControllerReply(operation: operation)
    }

    /// What is asked for with the ids and epochs that the controller fixes; throws if it cannot be done.
    private func fixed(
        _ kind: ClusterOperation.Kind, _ map: ClusterMap
    ) throws(ControllerRefusal) -> ClusterOperation.Kind {
        switch kind {
        case .split(let split): .split(try fixed(split, map))
        case .merge(let merge): .merge(try fixed(merge, map))
        case .move(let move): .move(try fixed(move, map))
        case .createGroup(let creation): .createGroup(try fixed(creation, map))
        case .deleteGroup(let deletion): .deleteGroup(try checked(deletion, map))
        case .changePeers(let change): .changePeers(try fixed(change, map))
        }
    }

    /// Takes an operation to its next state and changes the map accordingly. A step that has been done is answered as
    /// it was; of two that exclude each other the first one counts.
    mutating func step(
        _ id: UInt64, to state: ClusterOperation.State, _ reason: String?, _ wallClock: Int64
    ) throws(ControllerRefusal) -> ControllerReply {
        _ = try initializedMap()
        guard var operation = operation(id) else {
            throw ControllerRefusal(
                .noSuchOperation,
                "there is no operation \(id), or it ended too long ago; see raftctl operation list --all")
        }
        if operation.state == state { return ControllerReply(operation: operation) }
        guard operation.next.contains(state) else {
            throw ControllerRefusal(
                .conflict, "\(operation) is \(operation.state); it cannot become \(state)", operation: operation)
        }
        try enter(state, operation)
        operation.state = state
        if state == .aborted {
            operation.reason = reason.map { text in
                String(String.UnicodeScalarView(text.unicodeScalars.prefix(Limits.reasonLength)))
            }
        }
        if state.isOver { operation.endedMilliseconds = wallClock }
        return ControllerReply(operation: record(operation))
    }

    private mutating func enter(
        _ state: ClusterOperation.State, _ operation: ClusterOperation
    ) throws(ControllerRefusal) {
        switch operation.kind {
        case .split(let split): finish(split)
        case .merge(let merge): finish(merge)
        case .move(let move): enter(state, move)
        case .createGroup(let creation): try enter(state, creation, operation)
        case .deleteGroup(let deletion): finish(deletion)
        case .changePeers(let change): enter(state, change)
        }
    }

    /// Keeps what has become of a pending operation; if it is over, with the number of its end. Returns it as it is kept.
    @discardableResult mutating func record(_ operation: ClusterOperation) -> ClusterOperation {
        guard let position = pending.firstIndex(where: { $0.id == operation.id }) else { return operation }
        changes.operations.append(operation.id)
        guard operation.state.isOver else {
            pending[position] = operation
            return operation
        }
        pending.remove(at: position)
        var operation = operation
        // without it they would come in another order when they are read back
        operation.endNumber = (ended.last?.endNumber ?? 0) + 1
        // whoever waits for it must find it, however many have come and gone since it began
        ended.append(operation)
        if ended.count > Limits.endedOperations { changes.forgottenOperations.append(ended.removeFirst().id) }
        return operation
    }
}

extension ClusterOperation {
    /// The states it may come to from where it is.
    fileprivate var next: [State] {
        switch (kind, state) {
        case (.move, .begun): [.switched, .aborted]
        case (.move, .switched): [.done]
        case (.createGroup, .begun), (.changePeers, .begun): [.done, .aborted]
        case (_, .aborted): [.cancelled]
        case (_, .begun): [.done]
        default: []
        }
    }
}

extension ControllerRefusal {
    /// Refused because `operation` has `what`.
    init(_ operation: ClusterOperation, has what: String) {
        var wayOut = "wait for it: raftctl operation wait \(operation.id)"
        if operation.next.contains(.aborted) {
            wayOut += ", or cancel it: raftctl operation cancel \(operation.id)"
        }
        self.init(.conflict, "\(what) is in \(operation), which is under way; \(wayOut)", operation: operation)
    }
}

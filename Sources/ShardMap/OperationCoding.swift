public import CMessages
public import RaftCore
public import WireMessages

// The wire form of the controller's operations; an OperationRecord is also what the controller stores.

extension ClusterOperation {
    /// The operation as a message. Allocates in `arena`, which must outlive the message.
    public func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__OperationRecord> {
        let message = kind.encoded(arena)
        message.pointee.id = id
        message.pointee.state = Flotilla__OperationState(rawValue: state.rawValue)
        if begunMilliseconds != 0 {
            message.pointee.has_begun_ms = 1
            message.pointee.begun_ms = begunMilliseconds
        }
        if let endedMilliseconds {
            message.pointee.has_ended_ms = 1
            message.pointee.ended_ms = endedMilliseconds
        }
        if let reason { message.pointee.reason = arena.string(reason) }
        if let endNumber {
            message.pointee.has_end_number = 1
            message.pointee.end_number = endNumber
        }
        return message
    }

    /// The operation of a message; nil if it is malformed.
    public init?(_ message: Flotilla__OperationRecord) {
        guard let state = State(rawValue: message.state.rawValue), let kind = Kind(message) else { return nil }
        self.init(
            id: message.id, state: state, kind: kind,
            begunMilliseconds: message.has_begun_ms != 0 ? message.begun_ms : 0,
            endedMilliseconds: message.has_ended_ms != 0 ? message.ended_ms : nil,
            reason: message.reason.map { String(cString: $0) },
            endNumber: message.has_end_number != 0 ? message.end_number : nil)
    }

    /// The operation in memory of its own.
    public func packed(_ arena: Arena) -> Bytes { arena.scope { $0.pack(encoded($0)) } }

    /// The operation of packed bytes; nil if they are not one.
    public init?(_ bytes: Bytes, _ arena: Arena) {
        let operation = arena.scope { arena in
            arena.unpack(flotilla__operation_record__init, bytes).flatMap { ClusterOperation($0.pointee) }
        }
        guard let operation else { return nil }
        self = operation
    }
}

extension ClusterOperation.Kind {
    /// A record that says what to do, and nothing else: what a `begin` carries.
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__OperationRecord> {
        let message = arena.make(flotilla__operation_record__init)
        message.pointee.state = FLOTILLA__OPERATION_STATE__OPERATION_BEGUN
        switch self {
        case .split(let split): message.pointee.split = split.encoded(arena)
        case .merge(let merge): message.pointee.merge = merge.encoded(arena)
        case .move(let move): message.pointee.move = move.encoded(arena)
        case .createGroup(let creation): message.pointee.create_group = creation.encoded(arena)
        case .deleteGroup(let deletion): message.pointee.delete_group = deletion.encoded(arena)
        case .changePeers(let change): message.pointee.change_peers = change.encoded(arena)
        }
        return message
    }

    /// What a record says is to be done; nil unless it says exactly one thing.
    init?(_ message: Flotilla__OperationRecord) {
        var kinds: [ClusterOperation.Kind?] = []
        if let split = message.split?.pointee { kinds.append(.split(SplitOperation(split))) }
        if let merge = message.merge?.pointee { kinds.append(.merge(MergeOperation(merge))) }
        if let move = message.move?.pointee { kinds.append(.move(MoveOperation(move))) }
        if let creation = message.create_group?.pointee {
            kinds.append(CreateGroupOperation(creation).map { .createGroup($0) })
        }
        if let deletion = message.delete_group?.pointee {
            kinds.append(.deleteGroup(DeleteGroupOperation(group: String(field: deletion.group))))
        }
        if let change = message.change_peers?.pointee {
            kinds.append(ChangePeersOperation(change).map { .changePeers($0) })
        }
        guard kinds.count == 1, let kind = kinds[0] else { return nil }
        self = kind
    }
}

extension SplitOperation {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__SplitOperation> {
        let message = arena.make(flotilla__split_operation__init)
        message.pointee.shard = shard
        message.pointee.epoch = epoch
        message.pointee.key = arena.data(key)
        message.pointee.new_shard = newShard
        message.pointee.group = arena.string(group)
        return message
    }

    fileprivate init(_ message: Flotilla__SplitOperation) {
        self.init(
            shard: message.shard, epoch: message.epoch, key: Bytes(message.key), newShard: message.new_shard,
            group: String(field: message.group))
    }
}

extension MergeOperation {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__MergeOperation> {
        let message = arena.make(flotilla__merge_operation__init)
        message.pointee.left = left
        message.pointee.left_epoch = leftEpoch
        message.pointee.right = right
        message.pointee.right_epoch = rightEpoch
        message.pointee.group = arena.string(group)
        return message
    }

    fileprivate init(_ message: Flotilla__MergeOperation) {
        self.init(
            left: message.left, leftEpoch: message.left_epoch, right: message.right,
            rightEpoch: message.right_epoch, group: String(field: message.group))
    }
}

extension MoveOperation {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__MoveOperation> {
        let message = arena.make(flotilla__move_operation__init)
        message.pointee.shard = shard
        message.pointee.epoch = epoch
        message.pointee.source = arena.string(source)
        message.pointee.destination = arena.string(destination)
        return message
    }

    fileprivate init(_ message: Flotilla__MoveOperation) {
        self.init(
            shard: message.shard, epoch: message.epoch, source: String(field: message.source),
            destination: String(field: message.destination))
    }
}

extension CreateGroupOperation {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__CreateGroupOperation> {
        let message = arena.make(flotilla__create_group_operation__init)
        message.pointee.group = arena.string(group)
        message.pointee.n_peers = peers.count
        message.pointee.peers = arena.strings(peers.map(\.description))
        return message
    }

    fileprivate init?(_ message: Flotilla__CreateGroupOperation) {
        guard let peers = PeerID.decoded(message.peers, count: message.n_peers) else { return nil }
        self.init(group: String(field: message.group), peers: peers)
    }
}

extension DeleteGroupOperation {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__DeleteGroupOperation> {
        let message = arena.make(flotilla__delete_group_operation__init)
        message.pointee.group = arena.string(group)
        return message
    }
}

extension ChangePeersOperation {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ChangePeersOperation> {
        let message = arena.make(flotilla__change_peers_operation__init)
        message.pointee.group = arena.string(group)
        message.pointee.n_from = from.count
        message.pointee.from = arena.strings(from.map(\.description))
        message.pointee.n_to = to.count
        message.pointee.to = arena.strings(to.map(\.description))
        if allowsForeign { (message.pointee.has_allows_foreign, message.pointee.allows_foreign) = (1, 1) }
        return message
    }

    fileprivate init?(_ message: Flotilla__ChangePeersOperation) {
        guard let from = PeerID.decoded(message.from, count: message.n_from),
            let to = PeerID.decoded(message.to, count: message.n_to)
        else { return nil }
        self.init(
            group: String(field: message.group), from: from, to: to,
            allowsForeign: message.has_allows_foreign != 0 && message.allows_foreign != 0)
    }
}

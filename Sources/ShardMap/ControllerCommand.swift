public import CMessages
public import RaftCore
public import WireMessages

/// What an entry of the controller group says; also what an operator asks of the controller.
public enum ControllerCommand: Equatable, Sendable {
    /// Begins the map; only the first one counts.
    case initialize(BootstrapRecord)
    /// A node asks to be in the map, or tells its zone and the highest ``ClusterLevel`` that its program knows.
    case join(address: NodeAddress, incarnation: UInt64, zone: String? = nil, level: UInt32 = ClusterLevel.first)
    /// The group has taken its first shards over.
    case groupBorn(String)
    /// Has each replica hold its state as it is behind this entry, under this number, to be compared with the others'.
    case verify(UInt64)
    /// Begins an operation. With an expected version it is refused unless the map has that one. `wallClock` is the
    /// proposer's, in milliseconds since 1970, for people only.
    case begin(ClusterOperation.Kind, expectedVersion: UInt64? = nil, wallClock: Int64)
    /// Takes an operation to its next state.
    case step(operation: UInt64, to: ClusterOperation.State, reason: String? = nil, wallClock: Int64)
    /// Changes or removes a node; the expected version is as that of `begin`.
    case node(NodeChange, expectedVersion: UInt64? = nil)
    /// The group's members were reset by force to these, some of those it had: the map follows, and what was being done
    /// to its members is over. The expected version is as that of `begin`.
    case resetMembers(group: String, peers: [PeerID], expectedVersion: UInt64? = nil, wallClock: Int64)
    /// Says whether the cluster is kept spread; with `before` it is refused unless that is so now.
    case rebalance(Rebalancing, before: Rebalancing? = nil)
    /// Raises the cluster's ``ClusterLevel``; refused unless every node of the map knows it. The expected version is as
    /// that of `begin`.
    case upgrade(to: UInt32, expectedVersion: UInt64? = nil)
}

/// Whether leaders, replicas and shards are spread; nodes are emptied and replicas repaired in any case.
///
/// The numbers are on the wire and in the controller's store.
public enum Rebalancing: UInt8, Equatable, Sendable {
    /// Not at all.
    case off = 0
    /// Until nothing is left to do, then ``off``.
    case once = 1
    /// Always.
    case on = 2
}

/// What is to be different about a node of the map; what is nil stays as it is.
public struct NodeChange: Equatable, Sendable {
    /// The node's number.
    public var node: UInt64
    /// Replicas of a group are kept in different zones; empty: none.
    public var zone: String?
    /// Whether it gets no new replica and gives away those it has.
    public var isDraining: Bool?
    /// Whether it leaves the map.
    public var isRemoved: Bool
    /// A change.
    public init(node: UInt64, zone: String? = nil, isDraining: Bool? = nil, isRemoved: Bool = false) {
        self.node = node
        self.zone = zone
        self.isDraining = isDraining
        self.isRemoved = isRemoved
    }
}

/// What the controller answers to a command.
public struct ControllerReply: Equatable, Sendable {
    /// Nil: done, or done before.
    public var error: NamedError?
    /// More about the error: the reason, and the way out.
    public var message: String?
    /// Answer to a join: the node's number.
    public var nodeID: UInt64?
    /// The map's version after the command.
    public var version: UInt64?
    /// The operation that was begun or stepped, as it is after the command; with an error the one that is in the way.
    public var operation: ClusterOperation?

    /// An answer.
    public init(
        error: NamedError? = nil, message: String? = nil, nodeID: UInt64? = nil, version: UInt64? = nil,
        operation: ClusterOperation? = nil
    ) {
        self.error = error
        self.message = message
        self.nodeID = nodeID
        self.version = version
        self.operation = operation
    }
}

// MARK: the wire form

extension ControllerCommand {
    /// The payload of an entry.
    public func encoded(_ arena: Arena) -> Bytes { arena.scope { $0.pack(message($0)) } }

    /// Reads a payload; throws `badRequest`, or `unknownFormat` at a command, an operation or a state of one that this
    /// version does not know, or one that needs a higher level than `known`: a newer one may well apply it.
    public static func decoded(
        _ payload: Bytes, _ arena: Arena, knowing known: UInt32 = ClusterLevel.newest
    ) throws(NamedErrorThrown) -> ControllerCommand {
        try arena.scope { (arena) throws(NamedErrorThrown) in
            guard let message = arena.unpack(flotilla__controller_command__init, payload)?.pointee else {
                throw NamedErrorThrown(.badRequest)
            }
            return try ControllerCommand(message, knowing: known)
        }
    }

    /// The command as a message. Allocates in `arena`, which must outlive the message.
    public func message(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ControllerCommand> {
        let message = arena.make(flotilla__controller_command__init)
        message.pointee.format = level
        func expect(_ version: UInt64?) {
            guard let version else { return }
            message.pointee.has_expected_version = 1
            message.pointee.expected_version = version
        }
        func tell(_ wallClock: Int64) {
            message.pointee.has_wall_clock_ms = 1
            message.pointee.wall_clock_ms = wallClock
        }
        switch self {
        case .initialize(let record): message.pointee.initialize = record.encoded(arena)
        case .join(let address, let incarnation, let zone, let level):
            let join = arena.make(flotilla__announce_request__init)
            join.pointee.address = arena.string(address.description)
            join.pointee.incarnation = incarnation
            if let zone { join.pointee.zone = arena.string(zone) }
            if level != ClusterLevel.first { (join.pointee.has_level, join.pointee.level) = (1, level) }
            message.pointee.join = join
        case .groupBorn(let group): message.pointee.group_born = arena.string(group)
        case .verify(let number):
            message.pointee.has_verify = 1
            message.pointee.verify = number
        case .begin(let kind, let version, let wallClock):
            message.pointee.begin = kind.encoded(arena)
            expect(version)
            tell(wallClock)
        case .step(let operation, let state, let reason, let wallClock):
            let step = arena.make(flotilla__operation_step__init)
            step.pointee.operation = operation
            step.pointee.state = Flotilla__OperationState(rawValue: state.rawValue)
            if let reason { step.pointee.reason = arena.string(reason) }
            message.pointee.step = step
            tell(wallClock)
        case .node(let change, let version):
            message.pointee.node = change.encoded(arena)
            expect(version)
        case .resetMembers(let group, let peers, let version, let wallClock):
            let reset = arena.make(flotilla__reset_members__init)
            reset.pointee.group = arena.string(group)
            reset.pointee.n_peers = peers.count
            reset.pointee.peers = arena.strings(peers.map(\.description))
            message.pointee.reset_members = reset
            expect(version)
            tell(wallClock)
        case .rebalance(let rebalancing, let before):
            message.pointee.has_rebalancing = 1
            message.pointee.rebalancing = UInt32(rebalancing.rawValue)
            if let before {
                message.pointee.has_rebalancing_before = 1
                message.pointee.rebalancing_before = UInt32(before.rawValue)
            }
        case .upgrade(let level, let version):
            (message.pointee.has_upgrade, message.pointee.upgrade) = (1, level)
            expect(version)
        }
        return message
    }

    /// The command of a message; throws as ``decoded(_:_:knowing:)`` does.
    public init(
        _ message: Flotilla__ControllerCommand, knowing known: UInt32 = ClusterLevel.newest
    ) throws(NamedErrorThrown) {
        guard message.format <= known else { throw .needs(level: message.format, knowing: known) }
        let version = message.has_expected_version != 0 ? message.expected_version : nil
        let wallClock = message.has_wall_clock_ms != 0 ? message.wall_clock_ms : 0
        if let initialize = message.initialize?.pointee {
            guard initialize.format <= MessageFormat.current else { throw NamedErrorThrown(.unknownFormat) }
            guard let record = BootstrapRecord(initialize) else { throw NamedErrorThrown(.badRequest) }
            self = .initialize(record)
        } else if let join = message.join?.pointee {
            guard let address = NodeAddress(String(field: join.address)) else { throw NamedErrorThrown(.badRequest) }
            self = .join(
                address: address, incarnation: join.incarnation, zone: join.zone.map { String(cString: $0) },
                level: join.has_level != 0 ? max(join.level, ClusterLevel.first) : ClusterLevel.first)
        } else if message.has_verify != 0 {
            self = .verify(message.verify)
        } else if let begin = message.begin?.pointee {
            guard let kind = ClusterOperation.Kind(begin) else { throw NamedErrorThrown(unread: begin.base) }
            self = .begin(kind, expectedVersion: version, wallClock: wallClock)
        } else if let step = message.step?.pointee {
            guard let state = ClusterOperation.State(rawValue: step.state.rawValue) else {
                throw NamedErrorThrown(.unknownFormat)
            }
            self = .step(
                operation: step.operation, to: state, reason: step.reason.map { String(cString: $0) },
                wallClock: wallClock)
        } else if let change = message.node?.pointee {
            self = .node(NodeChange(change), expectedVersion: version)
        } else if let reset = message.reset_members?.pointee {
            guard let peers = PeerID.decoded(reset.peers, count: reset.n_peers) else {
                throw NamedErrorThrown(.badRequest)
            }
            self = .resetMembers(
                group: String(field: reset.group), peers: peers, expectedVersion: version, wallClock: wallClock)
        } else if message.has_rebalancing != 0 {
            let before = message.has_rebalancing_before != 0 ? message.rebalancing_before : message.rebalancing
            // what a later version may mean by it
            guard let rebalancing = Rebalancing(number: message.rebalancing), let former = Rebalancing(number: before)
            else { throw NamedErrorThrown(.unknownFormat) }
            self = .rebalance(rebalancing, before: message.has_rebalancing_before != 0 ? former : nil)
        } else if message.has_upgrade != 0 {
            self = .upgrade(to: message.upgrade, expectedVersion: version)
        } else {
            guard let group = message.group_born else { throw NamedErrorThrown(unread: message.base) }
            self = .groupBorn(String(field: group))
        }
    }
}

extension Rebalancing {
    /// Nil: a number that means nothing here.
    public init?(number: UInt32) {
        guard let rebalancing = UInt8(exactly: number).flatMap({ Rebalancing(rawValue: $0) }) else { return nil }
        self = rebalancing
    }
}

extension NodeChange {
    fileprivate func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__NodeChange> {
        let message = arena.make(flotilla__node_change__init)
        message.pointee.node = node
        if let zone { message.pointee.zone = arena.string(zone) }
        if let isDraining {
            message.pointee.has_draining = 1
            message.pointee.draining = isDraining ? 1 : 0
        }
        if isRemoved {
            message.pointee.has_remove = 1
            message.pointee.remove = 1
        }
        return message
    }

    fileprivate init(_ message: Flotilla__NodeChange) {
        self.init(
            node: message.node, zone: message.zone.map { String(cString: $0) },
            isDraining: message.has_draining != 0 ? message.draining != 0 : nil,
            isRemoved: message.has_remove != 0 && message.remove != 0)
    }
}

extension ControllerReply {
    /// The reply in memory of its own.
    public func packed(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let reply = arena.make(flotilla__controller_reply__init)
            reply.pointee.error = error?.rawValue ?? 0
            if let text = message { reply.pointee.message = arena.string(text) }
            if let nodeID {
                reply.pointee.has_node_id = 1
                reply.pointee.node_id = nodeID
            }
            if let version {
                reply.pointee.has_version = 1
                reply.pointee.version = version
            }
            reply.pointee.operation = operation?.encoded(arena)
            return arena.pack(reply)
        }
    }

    /// Reads a packed reply; nil if it is malformed.
    public init?(_ bytes: Bytes, _ arena: Arena) {
        let reply = arena.scope { arena -> ControllerReply? in
            guard let message = arena.unpack(flotilla__controller_reply__init, bytes)?.pointee else { return nil }
            let operation = message.operation.map { ClusterOperation($0.pointee) }
            // there, and malformed
            if case .some(.none) = operation { return nil }
            return ControllerReply(
                error: message.error == 0 ? nil : NamedError(rawValue: message.error) ?? .internalError,
                message: message.message.map { String(cString: $0) },
                nodeID: message.has_node_id != 0 ? message.node_id : nil,
                version: message.has_version != 0 ? message.version : nil, operation: operation ?? nil)
        }
        guard let reply else { return nil }
        self = reply
    }
}

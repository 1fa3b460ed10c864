public import RaftCore
import CMessages
public import ShardMap
public import WireMessages

/// What an entry of the controller group says.
public enum ControllerCommand: Equatable, Sendable {
    /// Begins the map; only the first one counts.
    case initialize(BootstrapRecord)
    /// A node asks to be in the map.
    case join(address: NodeAddress, incarnation: UInt64)
    /// The group has taken its first shards over.
    case groupBorn(String)
    /// Has each replica hold its state as it is behind this entry, under this number, to be compared with the others'.
    case verify(UInt64)

    /// The payload of an entry.
    public func encoded(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__controller_command__init)
            message.pointee.format = MessageFormat.current
            switch self {
            case .initialize(let record): message.pointee.initialize = record.encoded(arena)
            case .join(let address, let incarnation):
                let join = arena.make(flotilla__announce_request__init)
                join.pointee.address = arena.string(address.description)
                join.pointee.incarnation = incarnation
                message.pointee.join = join
            case .groupBorn(let group): message.pointee.group_born = arena.string(group)
            case .verify(let number):
                message.pointee.has_verify = 1
                message.pointee.verify = number
            }
            return arena.pack(message)
        }
    }

    /// Reads a payload; throws `badRequest` or `unknownFormat`.
    public static func decoded(_ payload: Bytes, _ arena: Arena) throws(NamedErrorThrown) -> ControllerCommand {
        try arena.scope { (arena) throws(NamedErrorThrown) in
            guard let message = arena.unpack(flotilla__controller_command__init, payload)?.pointee else {
                throw NamedErrorThrown(.badRequest)
            }
            guard message.format <= MessageFormat.current else { throw NamedErrorThrown(.unknownFormat) }
            if let initialize = message.initialize?.pointee {
                guard initialize.format <= MessageFormat.current else { throw NamedErrorThrown(.unknownFormat) }
                guard let record = BootstrapRecord(initialize) else { throw NamedErrorThrown(.badRequest) }
                return .initialize(record)
            }
            if let join = message.join?.pointee {
                guard let address = NodeAddress(String(field: join.address)) else {
                    throw NamedErrorThrown(.badRequest)
                }
                return .join(address: address, incarnation: join.incarnation)
            }
            if message.has_verify != 0 { return .verify(message.verify) }
            guard let group = message.group_born else { throw NamedErrorThrown(.badRequest) }
            return .groupBorn(String(field: group))
        }
    }
}

/// What the controller answers to a command.
public struct ControllerReply: Equatable, Sendable {
    /// Nil: done, or done before.
    public var error: NamedError?
    /// More about the error.
    public var message: String?
    /// Answer to a join: the node's number.
    public var nodeID: UInt64?
    /// The map's version after the command.
    public var version: UInt64?

    /// An answer.
    public init(error: NamedError? = nil, message: String? = nil, nodeID: UInt64? = nil, version: UInt64? = nil) {
        self.error = error
        self.message = message
        self.nodeID = nodeID
        self.version = version
    }

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
            return arena.pack(reply)
        }
    }

    /// Reads a packed reply; nil if it is malformed.
    public init?(_ bytes: Bytes, _ arena: Arena) {
        let reply = arena.scope { arena -> ControllerReply? in
            guard let message = arena.unpack(flotilla__controller_reply__init, bytes)?.pointee else { return nil }
            return ControllerReply(
                error: message.error == 0 ? nil : NamedError(rawValue: message.error) ?? .internalError,
                message: message.message.map { String(cString: $0) },
                nodeID: message.has_node_id != 0 ? message.node_id : nil,
                version: message.has_version != 0 ? message.version : nil)
        }
        guard let reply else { return nil }
        self = reply
    }
}

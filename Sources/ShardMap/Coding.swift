public import CMessages
public import RaftCore
public import WireMessages

// The wire form of what this module names. Decoding returns nil for whatever is not a well-formed message of a known
// format; it never traps.

/// Formats written by this version; a newer one is refused by name. That of a command is the level that it needs, see
/// ``ClusterLevel``.
public enum MessageFormat {
    /// Of maps and records.
    public static let current: UInt32 = 1
}

// MARK: operations

extension KeyOperation {
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__Operation>? {
        let message = arena.make(flotilla__operation__init)
        message.pointee.code = Flotilla__OpCode(rawValue: code.rawValue)
        message.pointee.key = arena.data(key)
        if !value.isEmpty {
            message.pointee.has_value = 1
            message.pointee.value = arena.data(value)
        }
        if condition != .always {
            message.pointee.has_condition = 1
            message.pointee.condition = Flotilla__SetCondition(rawValue: condition.rawValue)
        }
        if returnsOldValue {
            message.pointee.has_get_old = 1
            message.pointee.get_old = 1
        }
        if let expiresInMilliseconds {
            message.pointee.has_expire_in_ms = 1
            message.pointee.expire_in_ms = expiresInMilliseconds
        }
        if let expiresAtMilliseconds {
            message.pointee.has_expires_at_ms = 1
            message.pointee.expires_at_ms = expiresAtMilliseconds
        }
        if keepsExpiry {
            message.pointee.has_keep_ttl = 1
            message.pointee.keep_ttl = 1
        }
        if number != 0 {
            message.pointee.has_number = 1
            message.pointee.number = number
        }
        return message
    }

    init?(_ message: Flotilla__Operation) {
        guard let code = Code(rawValue: message.code.rawValue),
            let condition = Condition(rawValue: message.has_condition != 0 ? message.condition.rawValue : 0)
        else { return nil }
        self.init(
            code, key: Bytes(message.key), value: message.has_value != 0 ? Bytes(message.value) : Bytes(),
            condition: condition, returnsOldValue: message.has_get_old != 0 && message.get_old != 0,
            expiresInMilliseconds: message.has_expire_in_ms != 0 ? message.expire_in_ms : nil,
            expiresAtMilliseconds: message.has_expires_at_ms != 0 ? message.expires_at_ms : nil,
            keepsExpiry: message.has_keep_ttl != 0 && message.keep_ttl != 0,
            number: message.has_number != 0 ? message.number : 0)
    }

    static func decoded(
        _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Flotilla__Operation>?>?, count: Int
    ) -> [KeyOperation]? {
        var operations: [KeyOperation] = []
        operations.reserveCapacity(count)
        for position in 0..<count {
            guard let message = messages?[position], let operation = KeyOperation(message.pointee) else { return nil }
            operations.append(operation)
        }
        return operations
    }
}

extension KeyResult {
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__OperationResult>? {
        let message = arena.make(flotilla__operation_result__init)
        message.pointee.error = error?.rawValue ?? 0
        if let value {
            message.pointee.has_value = 1
            message.pointee.value = arena.data(value)
        }
        if let integer {
            message.pointee.has_integer = 1
            message.pointee.integer = integer
        }
        if !applied {
            message.pointee.has_applied = 1
            message.pointee.applied = 0
        }
        if !pairs.isEmpty {
            message.pointee.n_keys = pairs.count
            message.pointee.keys = arena.array(pairs.map { arena.data($0.key) })
            message.pointee.n_values = pairs.count
            message.pointee.values = arena.array(pairs.map { arena.data($0.value) })
        }
        return message
    }

    init(_ message: Flotilla__OperationResult) {
        self.init(
            value: message.has_value != 0 ? Bytes(message.value) : nil,
            integer: message.has_integer != 0 ? message.integer : nil,
            applied: message.has_applied == 0 || message.applied != 0)
        if message.error != 0 { error = NamedError(rawValue: message.error) ?? .internalError }
        for position in 0..<min(message.n_keys, message.n_values) {
            pairs.append(Pair(key: Bytes(message.keys[position]), value: Bytes(message.values[position])))
        }
    }
}

// MARK: commands, requests, replies

extension GroupCommand {
    /// The payload of an entry.
    public func encoded(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__group_command__init)
            message.pointee.format = level
            switch self {
            case .write(let write): message.pointee.write = write.encoded(arena)
            case .openSession(let shard, let epoch, let nonce):
                let open = arena.make(flotilla__open_session__init)
                open.pointee.shard = shard
                open.pointee.epoch = epoch
                open.pointee.nonce = nonce
                message.pointee.open_session = open
            case .install(let shards):
                let install = arena.make(flotilla__install_shards__init)
                install.pointee.n_shards = shards.count
                install.pointee.shards = arena.array(shards.map { $0.encoded(arena) })
                message.pointee.install = install
            case .time(let milliseconds):
                message.pointee.has_time_ms = 1
                message.pointee.time_ms = milliseconds
            case .verify(let number):
                message.pointee.has_verify = 1
                message.pointee.verify = number
            case .step(let step): message.pointee.step = step.encoded(arena)
            }
            return arena.pack(message)
        }
    }

    /// Reads a payload; throws `badRequest`, or `unknownFormat` at a command, a step or an operation on a key that this
    /// version does not know, or one that needs a higher level than `known`: a newer one may well apply it.
    public static func decoded(
        _ payload: Bytes, _ arena: Arena, knowing known: UInt32 = ClusterLevel.newest
    ) throws(NamedErrorThrown) -> GroupCommand {
        try arena.scope { (arena) throws(NamedErrorThrown) -> GroupCommand in
            guard
                let message = arena.unpack(flotilla__group_command__init, payload)?.pointee
            else { throw NamedErrorThrown(.badRequest) }
            guard message.format <= known else { throw .needs(level: message.format, knowing: known) }
            if let write = message.write {
                guard
                    let operations = KeyOperation.decoded(write.pointee.operations, count: write.pointee.n_operations)
                else { throw NamedErrorThrown(.unknownFormat) }
                return .write(
                    SessionWrite(
                        shard: write.pointee.shard, epoch: write.pointee.epoch, session: write.pointee.session,
                        sequence: write.pointee.sequence, floor: write.pointee.floor, operations: operations))
            }
            if let open = message.open_session?.pointee {
                return .openSession(shard: open.shard, epoch: open.epoch, nonce: open.nonce)
            }
            if let install = message.install?.pointee {
                guard let shards = Shard.decoded(install.shards, count: install.n_shards) else {
                    throw NamedErrorThrown(.badRequest)
                }
                return .install(shards)
            }
            if message.has_verify != 0 { return .verify(message.verify) }
            if let step = message.step { return .step(try ShardStep(step.pointee)) }
            guard message.has_time_ms != 0 else { throw NamedErrorThrown(unread: message.base) }
            return .time(message.time_ms)
        }
    }
}

/// A ``NamedError`` thrown.
public struct NamedErrorThrown: Error, Equatable, Sendable {
    /// Which.
    public var error: NamedError
    /// More about it.
    public var message: String?
    /// `error`, thrown.
    public init(_ error: NamedError, _ message: String? = nil) {
        self.error = error
        self.message = message
    }
}

extension NamedErrorThrown {
    /// Of a message that says nothing that this version knows: whether a newer one would find something in it.
    init(unread message: ProtobufCMessage) { self.init(message.n_unknown_fields > 0 ? .unknownFormat : .badRequest) }
}

extension SessionWrite {
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__WriteCommand> {
        let message = arena.make(flotilla__write_command__init)
        message.pointee.shard = shard
        message.pointee.epoch = epoch
        message.pointee.session = session
        message.pointee.sequence = sequence
        message.pointee.floor = floor
        message.pointee.n_operations = operations.count
        message.pointee.operations = arena.array(operations.map { $0.encoded(arena) })
        return message
    }
}

extension ExecuteRequest {
    /// The request's body. Allocates in `arena`, which must outlive the message.
    public func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ExecuteRequest> {
        let message = arena.make(flotilla__execute_request__init)
        message.pointee.group = arena.string(group)
        message.pointee.has_shard = 1
        message.pointee.shard = shard
        message.pointee.has_epoch = 1
        message.pointee.epoch = epoch
        if !reads.isEmpty {
            message.pointee.n_reads = reads.count
            message.pointee.reads = arena.array(reads.map { $0.encoded(arena) })
        }
        if let deadlineMilliseconds {
            message.pointee.has_deadline_ms = 1
            message.pointee.deadline_ms = deadlineMilliseconds
        }
        if let requestID {
            message.pointee.has_request_id = 1
            message.pointee.request_id = requestID
        }
        return message
    }

    /// The request's body in memory of its own: what a state machine is asked to read.
    public func packed(_ arena: Arena) -> Bytes { arena.scope { $0.pack(encoded($0)) } }

    /// Reads a body; nil if it is malformed.
    public init?(_ body: Bytes, _ arena: Arena) {
        let request = arena.scope { arena -> ExecuteRequest? in
            guard
                let message = arena.unpack(flotilla__execute_request__init, body)?.pointee,
                let reads = KeyOperation.decoded(message.reads, count: message.n_reads)
            else { return nil }
            return ExecuteRequest(
                group: String(field: message.group), shard: message.has_shard != 0 ? message.shard : 0,
                epoch: message.has_epoch != 0 ? message.epoch : 0, reads: reads,
                deadlineMilliseconds: message.has_deadline_ms != 0 ? message.deadline_ms : nil,
                requestID: message.has_request_id != 0 ? message.request_id : nil)
        }
        guard let request else { return nil }
        self = request
    }
}

extension ExecuteReply {
    /// The reply's body in memory of its own.
    public func packed(_ arena: Arena) -> Bytes {
        arena.scope { arena in
            let message = arena.make(flotilla__execute_reply__init)
            message.pointee.error = error?.rawValue ?? 0
            if let text = self.message { message.pointee.message = arena.string(text) }
            if let leader { message.pointee.leader = arena.string(leader.description) }
            if let session {
                message.pointee.has_session = 1
                message.pointee.session = session
            }
            if !results.isEmpty {
                message.pointee.n_results = results.count
                message.pointee.results = arena.array(results.map { $0.encoded(arena) })
            }
            message.pointee.route = route?.encoded(arena)
            return arena.pack(message)
        }
    }

    /// Reads a body; nil if it is malformed.
    public init?(_ body: Bytes, _ arena: Arena) {
        let reply = arena.scope { arena -> ExecuteReply? in
            guard
                let message = arena.unpack(flotilla__execute_reply__init, body)?.pointee
            else { return nil }
            var reply = ExecuteReply(
                message: message.message.map { String(cString: $0) },
                leader: message.leader.flatMap { NodeAddress(String(cString: $0)) },
                session: message.has_session != 0 ? message.session : nil,
                route: message.route.map { Shard($0.pointee) })
            if message.error != 0 { reply.error = NamedError(rawValue: message.error) ?? .internalError }
            reply.results.reserveCapacity(message.n_results)
            for position in 0..<message.n_results {
                guard let result = message.results[position] else { return nil }
                reply.results.append(KeyResult(result.pointee))
            }
            return reply
        }
        guard let reply else { return nil }
        self = reply
    }
}

// MARK: the map

extension Shard {
    /// The shard as a message.
    public func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ShardRecord>? {
        let message = arena.make(flotilla__shard_record__init)
        message.pointee.id = id
        message.pointee.start = arena.data(range.start)
        message.pointee.end = arena.data(range.end)
        message.pointee.group = arena.string(group)
        message.pointee.epoch = epoch
        return message
    }

    /// The shard of a message.
    public init(_ message: Flotilla__ShardRecord) {
        self.init(
            id: message.id, range: KeyRange(start: Bytes(message.start), end: Bytes(message.end)),
            group: String(field: message.group), epoch: message.epoch)
    }

    /// The shards of a repeated field.
    public static func decoded(
        _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Flotilla__ShardRecord>?>?, count: Int
    ) -> [Shard]? {
        var shards: [Shard] = []
        for position in 0..<count {
            guard let message = messages?[position] else { return nil }
            shards.append(Shard(message.pointee))
        }
        return shards
    }
}

extension Node {
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__NodeRecord>? {
        let message = arena.make(flotilla__node_record__init)
        message.pointee.id = id
        message.pointee.address = arena.string(address.description)
        message.pointee.incarnation = incarnation
        if !zone.isEmpty { message.pointee.zone = arena.string(zone) }
        if isDraining {
            message.pointee.has_draining = 1
            message.pointee.draining = 1
        }
        if level != ClusterLevel.first { (message.pointee.has_level, message.pointee.level) = (1, level) }
        return message
    }

    static func decoded(
        _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Flotilla__NodeRecord>?>?, count: Int
    ) -> [Node]? {
        var nodes: [Node] = []
        for position in 0..<count {
            guard let message = messages?[position]?.pointee, let address = NodeAddress(String(field: message.address))
            else { return nil }
            nodes.append(
                Node(
                    id: message.id, address: address, incarnation: message.incarnation,
                    zone: String(field: message.zone), isDraining: message.has_draining != 0 && message.draining != 0,
                    level: message.has_level != 0 ? max(message.level, ClusterLevel.first) : ClusterLevel.first))
        }
        return nodes
    }
}

extension Group {
    func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__GroupRecord>? {
        let record = arena.make(flotilla__group_record__init)
        record.pointee.id = arena.string(id)
        record.pointee.n_peers = peers.count
        record.pointee.peers = arena.strings(peers.map(\.description))
        record.pointee.born = isBorn ? 1 : 0
        record.pointee.n_joining = joining.count
        record.pointee.joining = arena.strings(joining.map(\.description))
        record.pointee.n_retired = retired.count
        record.pointee.retired = arena.strings(retired.map(\.description))
        return record
    }

    static func decoded(
        _ records: UnsafeMutablePointer<UnsafeMutablePointer<Flotilla__GroupRecord>?>?, count: Int
    ) -> [Group]? {
        var groups: [Group] = []
        for position in 0..<count {
            guard let record = records?[position]?.pointee,
                let peers = PeerID.decoded(record.peers, count: record.n_peers),
                let joining = PeerID.decoded(record.joining, count: record.n_joining),
                let retired = PeerID.decoded(record.retired, count: record.n_retired)
            else { return nil }
            groups.append(
                Group(
                    id: String(field: record.id), peers: peers, isBorn: record.born != 0, joining: joining,
                    retired: retired))
        }
        return groups
    }
}

extension PeerID {
    /// The peers of a repeated string field; nil if one does not parse.
    public static func decoded(
        _ texts: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?, count: Int
    ) -> [PeerID]? {
        var peers: [PeerID] = []
        for position in 0..<count {
            guard let peer = PeerID(String(field: texts?[position])) else { return nil }
            peers.append(peer)
        }
        return peers
    }
}

extension ClusterMap {
    /// The map as a message.
    public func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__ClusterMap> {
        let message = arena.make(flotilla__cluster_map__init)
        message.pointee.format = MessageFormat.current
        message.pointee.cluster_id = clusterID
        message.pointee.version = version
        message.pointee.n_nodes = nodes.count
        message.pointee.nodes = arena.array(nodes.map { $0.encoded(arena) })
        message.pointee.n_groups = groups.count
        message.pointee.groups = arena.array(groups.map { $0.encoded(arena) })
        message.pointee.n_shards = shards.count
        message.pointee.shards = arena.array(shards.map { $0.encoded(arena) })
        if level != ClusterLevel.first { (message.pointee.has_level, message.pointee.level) = (1, level) }
        return message
    }

    /// The map in memory of its own.
    public func packed(_ arena: Arena) -> Bytes { arena.scope { $0.pack(encoded($0)) } }

    /// The map of a message; nil if it is malformed or of a newer format.
    public init?(_ message: Flotilla__ClusterMap) {
        guard message.format <= MessageFormat.current, let nodes = Node.decoded(message.nodes, count: message.n_nodes),
            let groups = Group.decoded(message.groups, count: message.n_groups),
            let shards = Shard.decoded(message.shards, count: message.n_shards)
        else { return nil }
        self.init(
            clusterID: message.cluster_id, version: message.version, nodes: nodes, groups: groups, shards: shards,
            level: message.has_level != 0 ? max(message.level, ClusterLevel.first) : ClusterLevel.first)
    }

    /// The map of packed bytes; nil if they are not one.
    public init?(_ bytes: Bytes, _ arena: Arena) {
        let map = arena.scope { arena in
            arena.unpack(flotilla__cluster_map__init, bytes)
                .flatMap { ClusterMap($0.pointee) }
        }
        guard let map else { return nil }
        self = map
    }
}

extension BootstrapRecord {
    /// The record as a message.
    public func encoded(_ arena: Arena) -> UnsafeMutablePointer<Flotilla__BootstrapRecord> {
        let message = arena.make(flotilla__bootstrap_record__init)
        message.pointee.format = MessageFormat.current
        message.pointee.cluster_id = clusterID
        message.pointee.n_nodes = nodes.count
        message.pointee.nodes = arena.array(nodes.map { $0.encoded(arena) })
        message.pointee.n_controller_peers = controllerPeers.count
        message.pointee.controller_peers = arena.strings(controllerPeers.map(\.description))
        message.pointee.groups = UInt32(groups)
        message.pointee.replicas = UInt32(replicas)
        message.pointee.n_boundaries = boundaries.count
        message.pointee.boundaries = arena.array(boundaries.map { arena.data($0) })
        return message
    }

    /// The record of a message; nil if it is malformed, impossible or of a newer format.
    public init?(_ message: Flotilla__BootstrapRecord) {
        guard message.format <= MessageFormat.current, let nodes = Node.decoded(message.nodes, count: message.n_nodes),
            let peers = PeerID.decoded(message.controller_peers, count: message.n_controller_peers), !nodes.isEmpty,
            message.replicas >= 1, message.replicas <= nodes.count, message.groups >= 1, message.groups <= 1 << 20,
            // as they are given out; a stranger's number must not make the next one overflow
            nodes.enumerated().allSatisfy({ $0.element.id == UInt64($0.offset + 1) })
        else { return nil }
        self.init(
            clusterID: message.cluster_id, nodes: nodes, controllerPeers: peers, groups: Int(message.groups),
            replicas: Int(message.replicas),
            boundaries: (0..<message.n_boundaries).map { Bytes(message.boundaries[$0]) })
    }
}

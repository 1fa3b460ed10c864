import CMessages
import RaftCore
import ShardMap
import WireMessages

/// What an order would do, as the one says who would carry it out.
struct PlanReport: Equatable, Sendable {
    struct Replica: Equatable, Sendable {
        var group: String
        var peer: PeerID
        /// new, stays or goes.
        var change: String
        var isUp: Bool?
    }

    /// Voters that decide together for a while.
    struct Stage: Equatable, Sendable {
        var group: String
        var name: String
        var voters: Int
        var needed: Int
        var up: Int?
        /// How many more may fail; below zero: so many are missing.
        var bears: Int? { up.map { $0 - needed } }
    }

    var title: String
    /// Of the map it was judged on.
    var version: UInt64
    /// Nil: what is planned cannot be held to.
    var token: String?
    var operation: ClusterOperation?
    var steps: [String]
    var replicas: [Replica]
    var stages: [Stage]
    var bytes: UInt64?
    var notes: [String]
}

extension PlanReport {
    /// Reads a reply without error; nil if it is malformed.
    init?(_ reply: Flotilla__PlanReply) {
        guard reply.has_version != 0 else { return nil }
        let operation = reply.operation.flatMap { ClusterOperation($0.pointee) }
        var replicas: [Replica] = []
        for position in 0..<reply.n_replicas {
            guard let record = reply.replicas[position]?.pointee, let peer = PeerID(String(field: record.peer)) else {
                return nil
            }
            replicas.append(
                Replica(
                    group: String(field: record.group), peer: peer, change: String(field: record.change),
                    isUp: record.has_up != 0 ? record.up != 0 : nil))
        }
        self.init(
            title: operation?.kind.description ?? "", version: reply.version,
            token: reply.token.map { String(cString: $0) },
            operation: operation, steps: (0..<reply.n_steps).map { String(field: reply.steps[$0]) }, replicas: replicas,
            stages: (0..<reply.n_stages).compactMap { reply.stages[$0]?.pointee }.map { stage in
                Stage(
                    group: String(field: stage.group), name: String(field: stage.stage), voters: Int(stage.voters),
                    needed: Int(stage.needed), up: stage.has_up != 0 ? Int(stage.up) : nil)
            },
            bytes: reply.has_bytes != 0 ? reply.bytes : nil,
            notes: (0..<reply.n_notes).map { String(field: reply.notes[$0]) })
    }

    /// For people.
    var text: String {
        var parts = ["plan: \(title)"]
        if !steps.isEmpty {
            parts.append(steps.enumerated().map { "  \($0 + 1). \($1)" }.joined(separator: "\n"))
        }
        switch bytes {
        case 0: parts.append("nothing is copied to other nodes")
        case .some(let bytes): parts.append("about \(Quantity.bytes(bytes)) are copied to other nodes")
        case nil: parts.append("nobody knows yet how many bytes are copied to other nodes")
        }
        if !replicas.isEmpty { parts.append("\n" + replicaTable) }
        if !stages.isEmpty { parts.append("\n" + stageTable) }
        if !notes.isEmpty { parts.append("\n" + notes.map { "note: \($0)" }.joined(separator: "\n")) }
        let way = token.map { "; to do exactly this: the same command with --token \($0)" } ?? ""
        parts.append("\nnothing has been done\(way)")
        return parts.joined(separator: "\n")
    }

    private var replicaTable: String {
        var table = Table(["GROUP", "PEER", "CHANGE", "NODE"])
        for replica in replicas {
            let node = replica.isUp.map { $0 ? "up" : "down" } ?? "unknown"
            table.add([replica.group, replica.peer.description, replica.change, node])
        }
        return table.text
    }

    private var stageTable: String {
        var table = Table(["GROUP", "STAGE", "VOTERS", "NEEDED", "UP", "BEARS"], numeric: [2, 3, 4, 5])
        for stage in stages {
            table.add([
                stage.group, stage.name, String(stage.voters), String(stage.needed), stage.up.map { String($0) } ?? "?",
                stage.bears.map { $0 < 0 ? "none" : "\($0)" } ?? "?",
            ])
        }
        return table.text
    }

    var json: JSON {
        let kind = operation.map { [("operation", JSON.object($0.kind.json))] } ?? []
        return .object([
            (
                "plan",
                .object(
                    [("title", .string(title)), ("map_version", .unsigned(version)), ("token", .optional(token))] + kind
                        + [
                            ("steps", .array(steps.map { .string($0) })),
                            ("bytes", bytes.map { .unsigned($0) } ?? .null),
                            ("replicas", .array(replicas.map(\.json))), ("quorums", .array(stages.map(\.json))),
                            ("notes", .array(notes.map { .string($0) })),
                        ])
            )
        ])
    }

    func print(_ format: OutputFormat) throws(Failure) { try Output.print(format == .json ? json.text : text) }
}

extension PlanReport.Replica {
    fileprivate var json: JSON {
        .object([
            ("group", .string(group)), ("peer", .string(peer.description)), ("change", .string(change)),
            ("up", isUp.map { .bool($0) } ?? .null),
        ])
    }
}

extension PlanReport.Stage {
    fileprivate var json: JSON {
        .object([
            ("group", .string(group)), ("stage", .string(name)), ("voters", .integer(Int64(voters))),
            ("needed", .integer(Int64(needed))), ("up", .optional(up.map { Int64($0) })),
            ("bears", .optional(bears.map { Int64($0) })),
        ])
    }
}

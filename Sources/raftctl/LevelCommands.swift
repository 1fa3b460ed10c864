import RaftCore
import ShardMap

// The cluster's level: what its nodes' programs know, and what of that may be used.

extension Command {
    static let clusterStatus = Command(
        path: ["cluster", "status"],
        summary: "the cluster's level, and the highest that each node's program knows",
        details: """
            Nothing is written to a log that the cluster's level does not allow, so that every node can read it. After all
            nodes have been restarted with a newer raftd, raftctl cluster upgrade raises the level.

            KNOWS is what the map has of a node; beside it in parentheses, what the node itself says, if that is another.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let map = try await cluster.newestMap()
            let report = LevelReport(map, answers: await cluster.statuses(of: map.nodes.map(\.address)))
            try Output.print(invocation.format == .json ? report.json.text : report.text)
        })

    static let clusterUpgrade = Command(
        path: ["cluster", "upgrade"],
        options: [
            CommandOption("to", "LEVEL", "not higher than this (default: the highest that a node's program knows)"),
            .plan, .token,
        ],
        summary: "raise the cluster's level to what the nodes' programs know",
        details: """
            Refused unless every node of the map knows that level. There is no way back: after this no node can be started
            with a program that does not know it.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let map = try await cluster.newestMap()
            let asked = try invocation.integer("to", in: 1...Int(UInt32.max))
            let level = asked.map { UInt32($0) } ?? map.nodes.map(\.level).max() ?? map.level
            let order = ControllerCommand.upgrade(to: level)
            guard try await cluster.carryOut(order, "the upgrade to level \(level)", invocation) != nil else { return }
            let json = JSON.object([("level", .unsigned(UInt64(level))), ("before", .unsigned(UInt64(map.level)))])
            let text =
                asked == nil && level == map.level
                ? "the cluster is at level \(level), and no node's program knows a higher one"
                : "the cluster is at level \(level)"
            try Output.print(invocation.format == .json ? json.text : text)
        })
}

/// What is told of the cluster's level.
struct LevelReport: Equatable, Sendable {
    struct NodeLine: Equatable, Sendable {
        var id: UInt64
        var address: NodeAddress
        var state: String
        var version: String?
        /// As the map has it.
        var level: UInt32
        /// As the node itself says; nil if it does not answer.
        var toldLevel: UInt32?
    }

    var level: UInt32
    /// What every node knows.
    var commonLevel: UInt32
    var nodes: [NodeLine]
    /// Why it cannot be the highest that a node knows.
    var problem: String?

    /// `answers` has one for each node of the map, in its order.
    init(_ map: ClusterMap, answers: [NodeStatus?]) {
        level = map.level
        commonLevel = map.highestCommonLevel
        nodes = zip(map.nodes, answers).map { node, status in
            NodeLine(
                id: node.id, address: node.address, state: status?.state ?? "down", version: status?.version,
                level: node.level, toldLevel: status?.level)
        }
        problem = map.nodes.map(\.level).max().flatMap { map.refusal(ofLevel: $0) }
    }

    var text: String {
        var table = Table(["ID", "ADDRESS", "STATE", "VERSION", "KNOWS"], numeric: [0])
        for node in nodes {
            let told = node.toldLevel.flatMap { $0 == node.level ? nil : " (\($0))" } ?? ""
            table.add([
                String(node.id), node.address.description, node.state, node.version ?? "-",
                "up to \(node.level)\(told)",
            ])
        }
        var lines = ["the cluster is at level \(level)" + advice, "", table.text]
        if let problem { lines += ["", problem] }
        return lines.joined(separator: "\n")
    }

    private var advice: String {
        if commonLevel > level {
            return "; every node knows level \(commonLevel): raftctl cluster upgrade --to \(commonLevel)"
        }
        return problem == nil ? ", the highest that its nodes know" : ""
    }

    var json: JSON {
        .object([
            ("level", .unsigned(UInt64(level))), ("common_level", .unsigned(UInt64(commonLevel))),
            (
                "nodes",
                .array(
                    nodes.map { node in
                        .object([
                            ("id", .unsigned(node.id)), ("address", .string(node.address.description)),
                            ("state", .string(node.state)), ("version", .optional(node.version)),
                            ("level", .unsigned(UInt64(node.level))),
                            ("told_level", node.toldLevel.map { .unsigned(UInt64($0)) } ?? .null),
                        ])
                    })
            ),
            ("problem", .optional(problem)),
        ])
    }
}

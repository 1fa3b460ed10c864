import RaftCore
import ShardMap

// How nodes, groups and shards are shown: as tables for people, as JSON for programs.

extension ClusterState {
    var nodeTable: String {
        var table = Table(
            ["NODE", "ADDRESS", "ZONE", "STATE", "LEADS", "REPLICAS", "LOG", "UP", "VERSION"],
            numeric: [4, 5, 6, 7])
        for node in nodes {
            let status = node.status
            table.add([
                node.id.map { String($0) } ?? "-", node.address.description, node.zone.isEmpty ? "-" : node.zone,
                node.isDraining ? "\(node.state), draining" : node.state,
                status == nil ? "-" : String(node.groupsLed), status.map { String($0.replicas.count) } ?? "-",
                status?.logUse ?? "-",
                status?.uptimeMilliseconds.map { Quantity.duration(milliseconds: $0) } ?? "-", status?.version ?? "-",
            ])
        }
        return table.text
    }

    var groupTable: String {
        var table = Table(
            ["GROUP", "LEADER", "TERM", "COMMIT", "APPLIED", "LAG", "REPLICAS", "PROBLEM"], numeric: [2, 3, 4, 5])
        for group in groups + guests {
            table.add([
                group.isGuest ? "\(group.id) (guest)" : group.id, group.leader?.address.description ?? "none",
                Quantity.optional(group.term),
                Quantity.optional(group.commitIndex), Quantity.optional(group.appliedIndex),
                Quantity.optional(group.maxLag), "\(group.healthyMembers)/\(group.members.count)", group.problem ?? "",
            ])
        }
        return table.text
    }

    var nodesJSON: JSON {
        .array(
            nodes.map { node in
                var members: [(String, JSON)] = [
                    ("id", node.id.map { .unsigned($0) } ?? .null), ("address", .string(node.address.description)),
                    ("state", .string(node.state)), ("zone", .string(node.zone)),
                    ("draining", .bool(node.isDraining)),
                ]
                if let status = node.status {
                    members += [
                        ("groups_led", .integer(Int64(node.groupsLed))),
                        ("replicas", .integer(Int64(status.replicas.count))),
                        ("incarnation", .identifier(status.incarnation)), ("run_number", .unsigned(status.runNumber)),
                        ("log_bytes", status.logBytes.map { .unsigned($0) } ?? .null),
                        ("log_space", status.logSpace.map { .unsigned($0) } ?? .null),
                        ("uptime_ms", status.uptimeMilliseconds.map { .unsigned($0) } ?? .null),
                        ("version", .optional(status.version)),
                    ]
                }
                return .object(members)
            })
    }

    var groupsJSON: JSON { .array((groups + guests).map(\.json)) }

    var shardsJSON: JSON { .array(map?.shards.map(\.json) ?? []) }
}

extension ClusterState.GroupView {
    var memberTable: String {
        var table = Table(
            ["PEER", "STATE", "TERM", "COMMIT", "APPLIED", "LAST", "DURABLE", "LAG", "PROBLEM"],
            numeric: [2, 3, 4, 5, 6, 7])
        for member in members {
            let status = member.status
            table.add([
                member.peer.description, member.state, Quantity.optional(status?.term),
                Quantity.optional(status?.commitIndex), Quantity.optional(status?.appliedIndex),
                Quantity.optional(status?.lastIndex),
                Quantity.optional(status?.durableIndex ?? member.asLed?.matchIndex),
                Quantity.optional(lag(of: member)), status?.problem ?? "",
            ])
        }
        return table.text
    }

    var json: JSON {
        .object([
            ("id", .string(id)), ("guest", .bool(isGuest)),
            ("peers", .array(members.map { .string($0.peer.description) })),
            ("leader", .optional(leader?.description)), ("term", .optional(term)),
            ("commit_index", .optional(commitIndex)), ("applied_index", .optional(appliedIndex)),
            ("last_index", .optional(lastIndex)), ("max_lag", .optional(maxLag)),
            ("healthy_replicas", .integer(Int64(healthyMembers))), ("problem", .optional(problem)),
            ("replicas", .array(members.map { json(of: $0) })),
        ])
    }

    private func json(of member: ClusterState.MemberView) -> JSON {
        let status = member.status
        return .object([
            ("peer", .string(member.peer.description)), ("state", .string(member.state)),
            ("term", .optional(status?.term)), ("commit_index", .optional(status?.commitIndex)),
            ("applied_index", .optional(status?.appliedIndex)), ("last_index", .optional(status?.lastIndex)),
            ("durable_index", .optional(status?.durableIndex)), ("lag", .optional(lag(of: member))),
            ("problem", .optional(status?.problem)), ("debt", status?.debt.map { .integer($0) } ?? .null),
            ("foreign", .bool(member.isForeign)),
            ("reachable", member.asLed?.isReachable.map { .bool($0) } ?? .null),
            ("match_index", .optional(member.asLed?.matchIndex)),
        ])
    }
}

extension Shard {
    var json: JSON {
        .object(
            [("id", .unsigned(id))] + JSON.members("start", range.start) + JSON.members("end", range.end)
                + [("group", .string(group)), ("epoch", .unsigned(epoch))])
    }

    /// Table of `shards`.
    static func table(_ shards: [Shard]) -> String {
        var table = Table(["SHARD", "GROUP", "EPOCH", "FROM", "TO"], numeric: [0, 2])
        for shard in shards {
            let words = shard.words
            table.add([String(shard.id), shard.group, String(shard.epoch), words.start, words.end])
        }
        return table.text
    }

    /// Its bounds, for people.
    var words: (start: String, end: String) {
        (
            range.start.isEmpty ? "(first)" : Escapes.text(range.start),
            range.end.isEmpty ? "(last)" : Escapes.text(range.end)
        )
    }
}

extension NodeStatus {
    /// What the log takes, of what it may.
    fileprivate var logUse: String? {
        guard let logBytes else { return nil }
        return Quantity.bytes(logBytes) + (logSpace.map { "/" + Quantity.bytes($0) } ?? "")
    }
}

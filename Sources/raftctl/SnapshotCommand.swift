import CMessages
import RaftCore
import ShardMap
import WireMessages

// Replicas that save their state now and not when their time has come.

extension Command {
    static let groupSnapshot = Command(
        path: ["group", "snapshot"], arguments: "GROUP [PEER]", positionals: 1...2,
        summary: "save the state of a group's replicas, or of one, so that their logs can go up to there",
        details: """
            Waits until the state of each replica is durable and its log was looked at. INDEX is the last entry whose
            effects are saved, FIRST the first one that the log still has: it keeps what a member that lags may need.
            """,
        run: { invocation throws(Failure) in
            let group = invocation.positionals[0]
            let cluster = try Cluster(invocation)
            let peer = invocation.positionals.count > 1 ? try Invocation.peers(invocation.positionals[1]).first : nil
            guard let view = try await cluster.state(needsGroups: true).groups.first(where: { $0.id == group }) else {
                throw .failed("there is no group '\(group)'; raftctl group list shows them")
            }
            let members = view.members.map(\.peer).filter { peer == nil || $0.address == peer?.address }
            guard !members.isEmpty else {
                throw .failed(
                    "\(peer?.address.description ?? "nobody") is no member of \(group); see raftctl group show \(group)"
                )
            }
            let saved = await cluster.save(group, members)
            try Output.print(
                invocation.format == .json ? SavedReplica.json(group, saved) : SavedReplica.table(saved))
            let failed = saved.compactMap { replica in replica.problem.map { "\(replica.peer.address): \($0)" } }
            guard failed.isEmpty else {
                throw .failed("\(group) is not saved everywhere: \(failed.joined(separator: "; "))")
            }
        })
}

/// A replica that was to save its state.
struct SavedReplica: Equatable, Sendable {
    var peer: PeerID
    /// The last entry whose effects are saved.
    var index: Int64?
    /// The first entry that the log still has.
    var firstIndex: Int64?
    var problem: String?

    static func table(_ replicas: [SavedReplica]) -> String {
        var table = Table(["PEER", "INDEX", "FIRST", "PROBLEM"], numeric: [1, 2])
        for replica in replicas {
            table.add([
                replica.peer.description, Quantity.optional(replica.index), Quantity.optional(replica.firstIndex),
                replica.problem ?? "",
            ])
        }
        return table.text
    }

    static func json(_ group: String, _ replicas: [SavedReplica]) -> String {
        let list = replicas.map { replica in
            JSON.object([
                ("peer", .string(replica.peer.description)), ("index", .optional(replica.index)),
                ("first_index", .optional(replica.firstIndex)), ("problem", .optional(replica.problem)),
            ])
        }
        return JSON.object([("group", .string(group)), ("replicas", .array(list))]).text
    }
}

extension Cluster {
    /// A large state takes its time to be written.
    private static let savePatience = Interval.milliseconds(620_000)

    /// Has these members save their states, at the same time.
    fileprivate func save(_ group: String, _ members: [PeerID]) async -> [SavedReplica] {
        await withTaskGroup(of: SavedReplica.self) { tasks in
            for member in members { tasks.addTask { await save(group, member) } }
            return await tasks.reduce(into: []) { $0.append($1) }.sorted { $0.peer < $1.peer }
        }
    }

    private func save(_ group: String, _ member: PeerID) async -> SavedReplica {
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let request = arena.make(flotilla__save_replica_request__init)
        request.pointee.group = arena.string(group)
        // one that is down would be waited for as long as one that writes
        guard await status(of: member.address) != nil,
            let answer = await call(
                member.address, "save_replica", arena.pack(request), patience: Cluster.savePatience)
        else { return SavedReplica(peer: member, problem: "no answer; see raftctl why \(group)") }
        guard let reply = arena.unpack(flotilla__save_replica_reply__init, answer)?.pointee else {
            return SavedReplica(peer: member, problem: "an answer that does not parse")
        }
        if let refusal = LeaderRefusal(reply.error, reply.message) {
            return SavedReplica(peer: member, problem: refusal.message ?? refusal.error.sentence)
        }
        return SavedReplica(peer: member, index: reply.index, firstIndex: reply.first_index)
    }
}

import RaftCore
import ShardMap

// Commands that show the cluster.

extension Command {
    static let status = Command(
        path: ["status"],
        options: [CommandOption("wait", "SECONDS", "first wait until every group is led; fail if that takes longer")],
        summary: "the whole cluster: nodes, and groups with leader and lag",
        details: "LAG is how many committed entries the slowest replica that answers has not applied yet.",
        run: { invocation throws(Failure) in
            let state = try await led(try Cluster(invocation), within: try invocation.integer("wait", in: 0...86_400))
            state.complain()
            if invocation.format == .json {
                let id = state.map.map { JSON.identifier($0.clusterID) } ?? .null
                let members: [(String, JSON)] = [
                    ("cluster_id", id), ("nodes", state.nodesJSON), ("groups", state.groupsJSON),
                    ("shards", state.shardsJSON),
                ]
                return try Output.print(JSON.object(members).text)
            }
            try Output.print(state.nodeTable)
            let isFormed = state.map != nil || !state.groups.isEmpty || !state.guests.isEmpty
            try Output.print("\n" + (isFormed ? state.groupTable : NamedError.notInitialized.sentence))
        })

    /// The state; if `patience` is given, as soon as every group is led.
    private static func led(_ cluster: Cluster, within patience: Int?) async throws(Failure) -> ClusterState {
        guard let patience else { return try await cluster.state(needsGroups: false) }
        let start = ContinuousClock.now
        while true {
            let failure: Failure
            do throws(Failure) {
                let state = try await cluster.state(needsGroups: true)
                if state.isLed { return state }
                let leaderless = state.groups.filter { !$0.isServed }.map(\.id).joined(separator: ", ")
                failure = .failed(
                    state.note
                        ?? "after \(patience) s nobody leads \(leaderless); see raftctl status and the nodes' logs")
            } catch {
                failure = error
            }
            guard start.duration(to: .now) < .seconds(patience) else { throw failure }
            await pause(milliseconds: 200)
        }
    }

    static let nodeList = Command(
        path: ["node", "list"], summary: "the nodes, and what each says of itself",
        run: { invocation throws(Failure) in
            let state = try await Cluster(invocation).state(needsGroups: true)
            state.complain()
            let json = JSON.object([("nodes", state.nodesJSON)])
            try Output.print(invocation.format == .json ? json.text : state.nodeTable)
        })

    static let groupList = Command(
        path: ["group", "list"], summary: "the groups, with leader, term and indexes",
        run: { invocation throws(Failure) in
            let state = try await Cluster(invocation).state(needsGroups: true)
            state.complain()
            let json = JSON.object([("groups", state.groupsJSON)])
            try Output.print(invocation.format == .json ? json.text : state.groupTable)
        })

    static let groupShow = Command(
        path: ["group", "show"], arguments: "GROUP", positionals: 1...1,
        summary: "every replica of a group: state, term and indexes",
        details: """
            STATE is leader, follower, candidate or damaged; down if the replica's node does not answer, missing
            if the node answers and does not have it. The group of the map itself is called controller. A member that
            runs another program is a braft, silent if the group's leader is not in touch with it; DURABLE is what it has
            acknowledged. Of a guest group, which is another program's, members of which nothing is known are foreign.

            Where no node gives the map, for want of a majority perhaps, the nodes named and the other members of their
            groups are asked all the same: what they say of their own replicas is shown, and standard error says so.
            """,
        run: { invocation throws(Failure) in
            let state = try await Cluster(invocation).state(needsGroups: true)
            let id = invocation.positionals[0]
            guard let group = (state.groups + state.guests).first(where: { $0.id == id }) else {
                throw .failed(
                    state.note.map { "no node that answers has a replica of '\(id)': \($0)" }
                        ?? "there is no group '\(id)'; raftctl group list shows them")
            }
            state.complain()
            let json = JSON.object([("groups", .array([group.json]))])
            try Output.print(invocation.format == .json ? json.text : group.memberTable)
        })

    static let shardList = Command(
        path: ["shard", "list"],
        options: [CommandOption("hot", nil, "with their load, those with the most operations first")],
        summary: "the shards: key range, group and epoch",
        details: """
            With --hot, OPS/S are reads and writes of late, and BYTES what the store takes for keys and values, which may
            leave out what was written in the last minutes. The nodes are asked for both.
            """,
        run: { invocation throws(Failure) in
            if invocation.isSet("hot") { return try await Cluster(invocation).printHotShards(invocation) }
            let shards = try await Cluster(invocation).map().shards
            let json = JSON.object([("shards", .array(shards.map(\.json)))])
            try Output.print(invocation.format == .json ? json.text : Shard.table(shards))
        })

    static let shardLocate = Command(
        path: ["shard", "locate"], arguments: "KEY", positionals: 1...1, options: [.escaped],
        summary: "the shard that owns a key",
        run: { invocation throws(Failure) in
            let key = try invocation.key(0)
            guard let shard = try await Cluster(invocation).map().shard(owning: key) else {
                throw .failed("no shard owns the key; the cluster is not formed completely, see raftctl status")
            }
            let json = JSON.object([("shards", .array([shard.json]))])
            try Output.print(invocation.format == .json ? json.text : Shard.table([shard]))
        })
}

extension ClusterState {
    /// Says what is missing from what is shown.
    fileprivate func complain() {
        if let note { Output.complain("raftctl: \(note)") }
    }
}

/// Waits a little.
func pause(milliseconds: Int) async {
    // cancellation, the only way this can fail, ends the wait early, which is what it is for
    try? await Task.sleep(for: .milliseconds(milliseconds))
}

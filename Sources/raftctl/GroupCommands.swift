import CMessages
import RaftCore
import ShardMap
import WireMessages

// Groups and their members; the controller's own are changed like any group's.

extension Command {
    static let groupCreate = Command(
        path: ["group", "create"], arguments: "GROUP", positionals: 1...1,
        options: [CommandOption("peers", "PEER,…", "nodes that hold a replica, as ip:port")] + CommandOption.operation,
        summary: "a new group, without shards",
        run: { invocation throws(Failure) in
            guard let list = invocation.values["peers"] else { throw .usage("--peers is missing") }
            let creation = CreateGroupOperation(group: invocation.positionals[0], peers: try Invocation.peers(list))
            try await Cluster(invocation).begin(.createGroup(creation), "the new group", invocation)
        })

    static let groupDelete = Command(
        path: ["group", "delete"], arguments: "GROUP", positionals: 1...1, options: CommandOption.operation,
        summary: "remove a group that owns no shard, with its replicas",
        run: { invocation throws(Failure) in
            let deletion = DeleteGroupOperation(group: invocation.positionals[0])
            try await Cluster(invocation).begin(.deleteGroup(deletion), "the deletion", invocation)
        })

    /// The commands that change the members of a group, and their twins for the controller's own.
    static let memberCommands: [Command] = [
        changePeers(["group", "change-peers"], "make these nodes a group's members"),
        addPeer(["group", "add-peer"], "give a group one more member"),
        removePeer(["group", "remove-peer"], "take a member out of a group"),
        changePeers(["controller", "change-peers"], "make these nodes the controller's members"),
        addPeer(["controller", "add-peer"], "give the controller one more member"),
        removePeer(["controller", "remove-peer"], "take a member out of the controller"),
    ]

    private static func changePeers(_ path: [String], _ summary: String) -> Command {
        memberCommand(path, "PEER,…", summary) { (_, argument) throws(Failure) in try Invocation.peers(argument) }
    }

    private static func addPeer(_ path: [String], _ summary: String) -> Command {
        memberCommand(path, "PEER", summary) { (present, argument) throws(Failure) in
            let added = try Invocation.peers(argument)
            for peer in added where present.contains(where: { $0.address == peer.address }) {
                throw .failed("\(peer.address) is a member already")
            }
            return present + added
        }
    }

    private static func removePeer(_ path: [String], _ summary: String) -> Command {
        memberCommand(path, "PEER", summary) { (present, argument) throws(Failure) in
            let removed = try Invocation.peers(argument)
            for peer in removed where !present.contains(where: { $0.address == peer.address }) {
                throw .failed("\(peer.address) is no member")
            }
            return present.filter { member in !removed.contains { $0.address == member.address } }
        }
    }

    private static func memberCommand(
        _ path: [String], _ argument: String, _ summary: String,
        _ target: @escaping @Sendable ([PeerID], String) throws(Failure) -> [PeerID]
    ) -> Command {
        let isController = path[0] == ClusterMap.controllerGroup
        let count = isController ? 1 : 2
        let mayAddForeign = !isController && path[1] != "remove-peer"
        let foreign = CommandOption("foreign", nil, "newcomers at addresses of no node are brafts")
        return Command(
            path: path, arguments: isController ? argument : "GROUP \(argument)", positionals: count...count,
            options: (mayAddForeign ? [foreign] : []) + CommandOption.operation, summary: summary,
            details: """
                PEER is a node as ip:port. Newcomers catch up before they count; the change passes through a joint
                membership where more than one member changes. Members that leave delete their replicas. With --foreign a
                PEER at an address that is no node's is a braft, as ip:port:idx, started there for this group.
                """,
            run: { invocation throws(Failure) in
                let id = isController ? ClusterMap.controllerGroup : invocation.positionals[0]
                let cluster = try Cluster(invocation)
                guard let group = try await cluster.newestMap().group(id) else {
                    throw .failed("there is no group '\(id)'; raftctl group list shows them")
                }
                let wanted = try target(group.peers, invocation.positionals[count - 1])
                let change = ChangePeersOperation(
                    group: id, from: group.peers, to: wanted,
                    allowsForeign: invocation.isSet("foreign"))
                try await cluster.begin(.changePeers(change), "the change of members", invocation)
            })
    }

    static let groupTransfer = Command(
        path: ["group", "transfer-leader"], arguments: "GROUP [PEER]", positionals: 1...2,
        summary: "hand a group's leadership to a member, or to whoever is ready",
        run: { invocation throws(Failure) in
            let group = invocation.positionals[0]
            let peer = invocation.positionals.count > 1 ? try Invocation.peers(invocation.positionals[1]).first : nil
            let leader = try await Cluster(invocation).transfer(group, to: peer)
            let json = JSON.object([("group", .string(group)), ("leader", .optional(leader?.description))])
            try Output.print(
                invocation.format == .json
                    ? json.text : "\(group) is led by \(leader?.description ?? "another member")")
        })

    // MARK: nodes

    static let nodeResume = nodeCommand(
        "resume", "use a node again that was drained", { $0.isDraining = false }, done: "is used again")
    static let nodeRemove = nodeCommand(
        "remove", "forget a node that holds no replica any more", { $0.isRemoved = true }, done: "is removed")

    private static func nodeCommand(
        _ verb: String, _ summary: String, _ change: @escaping @Sendable (inout NodeChange) -> Void, done: String
    ) -> Command {
        Command(
            path: ["node", verb], arguments: "NODE", positionals: 1...1, options: [.plan, .token], summary: summary,
            details: "NODE is a node's number or its address.",
            run: { invocation throws(Failure) in
                let cluster = try Cluster(invocation)
                let node = try await cluster.node(invocation.positionals[0])
                var wanted = NodeChange(node: node.id)
                change(&wanted)
                let action = "node \(node.id), \(verb)"
                guard
                    let answer = try await cluster.carryOut(.node(wanted, expectedVersion: nil), action, invocation)
                else { return }
                let json = JSON.object([
                    ("node", .unsigned(node.id)), ("version", answer.version.map { .unsigned($0) } ?? .null),
                ])
                try Output.print(invocation.format == .json ? json.text : "node \(node.id) \(done)")
            })
    }
}

extension Invocation {
    /// Peers separated by commas.
    static func peers(_ text: String) throws(Failure) -> [PeerID] {
        var peers: [PeerID] = []
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let peer = PeerID(String(word)) else {
                throw .usage("'\(word)' is not a peer of the form ip:port")
            }
            peers.append(peer)
        }
        return peers
    }
}

extension Cluster {
    /// The node with this number or address.
    func node(_ name: String) async throws(Failure) -> Node {
        let nodes = try await newestMap().nodes
        guard let node = nodes.first(where: { "\($0.id)" == name || $0.address.description == name }) else {
            throw .failed("there is no node '\(name)'; raftctl node list shows them")
        }
        return node
    }

    /// Hands a group over; who leads it then.
    func transfer(_ group: String, to peer: PeerID?) async throws(Failure) -> NodeAddress? {
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__transfer_request__init)
            message.pointee.group = arena.string(group)
            if let peer { message.pointee.peer = arena.string(peer.description) }
            return arena.pack(message)
        }
        let question = LeaderQuestion(
            group: group, method: "transfer", body: body, action: "the transfer of \(group)",
            patience: .milliseconds(10_000), isRepeatable: false, trail: "see raftctl group show \(group)")
        return try await ask(question) { (answer, arena) in
            guard let reply = arena.unpack(flotilla__transfer_reply__init, answer)?.pointee else { return nil }
            if let refusal = LeaderRefusal(reply.error, reply.message, reply.leader) { return .refused(refusal) }
            return .answer(reply.leader.flatMap { NodeAddress(String(cString: $0)) })
        }
    }
}

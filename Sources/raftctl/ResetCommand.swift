import CMessages
import RaftCore
import ShardMap
import WireMessages

// Members by force, after a group has lost its majority for good.

extension Command {
    static let resetCommands: [Command] = [
        resetPeer(["group", "reset-peer"], "by force: go on with these members of a group that lost its majority"),
        resetPeer(["controller", "reset-peer"], "by force: go on with these members of a controller without majority"),
    ]

    private static func resetPeer(_ path: [String], _ summary: String) -> Command {
        let isController = path[0] == ClusterMap.controllerGroup
        let count = isController ? 1 : 2
        return Command(
            path: path, arguments: isController ? "PEER,…" : "GROUP PEER,…", positionals: count...count,
            options: [
                CommandOption("unsafe", nil, "without it nothing is done"),
                CommandOption("on", "PEER", "the member that begins; needed if several of the new ones are up"),
                .plan, .token,
            ],
            summary: summary,
            details: """
                For the case that a majority of the members is gone for good: their disks are lost. The members named
                are put in force on one of them, and nobody is asked. Name all that are left: whoever is left out deletes
                its replica. Of members that are left, the one whose log is longest should begin (LAST in raftctl group
                show).

                What only the lost members had is lost, acknowledged writes among it, and reads may have shown it. If a
                lost majority comes back after all, it goes on by itself, and there are two groups under one name: see to
                it that it does not.

                Where the controller has lost its majority as well, reset that first: raftctl controller reset-peer. Then
                take the nodes that are gone out of the map with raftctl node remove, and add members again.
                """,
            run: { invocation throws(Failure) in
                let group = isController ? ClusterMap.controllerGroup : invocation.positionals[0]
                let cluster = try Cluster(invocation)
                let wanted = try Invocation.peers(invocation.positionals[count - 1])
                let on = try invocation.values["on"].map { (text) throws(Failure) in try Invocation.peers(text)[0] }
                let state = try await cluster.state(needsGroups: true)
                let reset = try ForcedReset(group, to: wanted, on: on, state)
                try reset.judge(invocation)
                if invocation.isSet("plan") { return try reset.plan.print(invocation.format) }
                try await cluster.carryOut(reset)
                let json = JSON.object([
                    ("group", .string(group)), ("on", .string(reset.on.description)),
                    ("peers", .array(reset.target.map { .string($0.description) })),
                ])
                let names = reset.target.map(\.address.description).joined(separator: ", ")
                try Output.print(invocation.format == .json ? json.text : "\(group) has the members \(names)")
            })
    }
}

/// A reset as it is to be done. Made from answers by rules alone.
struct ForcedReset: Equatable {
    var group: String
    /// The members that the one who begins knows of.
    var present: [PeerID]
    var target: [PeerID]
    /// Who begins.
    var on: PeerID
    /// The reset has happened; what is left is that the map follows.
    var isInForce: Bool
    var leader: PeerID?
    var mapVersion: UInt64
    var plan: PlanReport

    init(_ group: String, to wanted: [PeerID], on chosen: PeerID?, _ state: ClusterState) throws(Failure) {
        guard let view = state.groups.first(where: { $0.id == group }) else {
            throw .failed(
                state.note.map { "no node that answers has a replica of '\(group)': \($0)" }
                    ?? "there is no group '\(group)'; raftctl group list shows them")
        }
        let show = "raftctl group show \(group)"
        var target: [ClusterState.MemberView] = []
        for peer in wanted where !target.contains(where: { $0.peer.address == peer.address }) {
            guard let member = view.members.first(where: { $0.peer.address == peer.address }) else {
                throw .failed("\(peer.address) is no member of \(group), and only members can go on; see \(show)")
            }
            target.append(member)
        }
        let alive = target.filter { $0.status != nil && $0.state != "damaged" }
        let first: ClusterState.MemberView
        if let chosen {
            guard let member = target.first(where: { $0.peer.address == chosen.address }) else {
                throw .failed("\(chosen.address), which is to begin, is not among the members that are to be left")
            }
            first = member
        } else {
            guard let only = alive.first else {
                throw .failed("none of the members that are to be left answers; start one of their nodes, see \(show)")
            }
            guard alive.count == 1 else {
                let best = alive.max { ($0.status?.lastIndex ?? 0) < ($1.status?.lastIndex ?? 0) }
                throw .failed(
                    "\(alive.count) of the members that are to be left are up; name the one that begins, best the one "
                        + "whose log is longest: --on \(best?.peer.address ?? only.peer.address)")
            }
            first = only
        }
        guard let status = first.status, first.state != "damaged" else {
            throw .failed("\(first.peer.address) does not answer, or is damaged; let another member begin, see \(show)")
        }
        self.group = group
        on = first.peer
        self.target = target.map(\.peer).sorted()
        present = status.peers.sorted()
        isInForce = present == self.target
        leader = view.leader
        mapVersion = state.map?.version ?? 0
        plan = PlanReport(
            title: "reset the members of \(group) by force", version: mapVersion, token: nil, operation: nil, steps: [],
            replicas: [], stages: [], bytes: 0, notes: [])
        describe(status, alive, view)
    }

    /// Refuses what is not to be done, or not so.
    func judge(_ invocation: Invocation) throws(Failure) {
        if let leader, !isInForce {
            throw .failed(
                "\(group) is led by \(leader.address), so it has its majority; change its members in order: raftctl "
                    + (group == ClusterMap.controllerGroup ? "controller change-peers" : "group change-peers \(group)"))
        }
        guard !invocation.isSet("plan") else { return }
        guard invocation.isSet("unsafe") else {
            throw .failed(
                "this may lose what only the members left out have, acknowledged writes among it; see what it would do "
                    + "with --plan, and do it with --unsafe")
        }
        guard let text = invocation.values["token"] else { return }
        guard let token = PlanToken(text) else {
            throw .failed("'\(text)' is no token: copy it as the plan shows it, or plan again with --plan")
        }
        guard token.version == mapVersion else {
            throw .failed(
                "the map has version \(mapVersion), this was planned on version \(token.version); plan it again with "
                    + "--plan")
        }
        guard token.description == plan.token else {
            throw .failed(
                "the token is that of another command, or the members of \(group) are others by now; plan again with "
                    + "--plan, and use the token it shows")
        }
    }

    private mutating func describe(
        _ status: ReplicaStatus, _ alive: [ClusterState.MemberView], _ view: ClusterState.GroupView
    ) {
        let names = target.map(\.address.description).joined(separator: ", ")
        let leavers = present.filter { !target.contains($0) }
        plan.steps = ["\(on.address) takes \(names) for the members of \(group), from a new term on, and asks nobody"]
        if target.count > 1 { plan.steps.append("it is elected by a majority of them, and they take over its log") }
        plan.steps.append(
            group == ClusterMap.controllerGroup
                ? "the controller is led again, and records its members in the map"
                : "the controller records the members of \(group) in the map; a change of them under way is over")
        if !leavers.isEmpty {
            let gone = leavers.map(\.address.description).joined(separator: ", ")
            plan.steps.append("\(gone): replicas of \(group) are deleted there, should the nodes come back")
        }
        func isUp(_ peer: PeerID) -> Bool {
            view.members.first { $0.peer == peer }.map { $0.isForeign ? $0.isHealthy == true : $0.isNodeUp } ?? false
        }
        func stage(_ name: String, _ peers: [PeerID]) -> PlanReport.Stage {
            let voters = Configuration(peers: peers).peers
            return PlanReport.Stage(
                group: group, name: name, voters: voters.count, needed: voters.count / 2 + 1,
                up: voters.count(where: isUp))
        }
        plan.replicas = present.map { peer in
            PlanReport.Replica(
                group: group, peer: peer, change: target.contains(peer) ? "stays" : "goes", isUp: isUp(peer))
        }
        plan.stages = [stage("before", present), stage("after", target)]
        plan.notes = [
            "lost is what \(on.address) does not have: whatever was committed behind entry \(status.lastIndex)"
        ]
        if status.lastIndex > status.commitIndex {
            plan.notes.append(
                "entries \(status.commitIndex + 1) to \(status.lastIndex) may never have been committed, and will be now"
            )
        }
        for member in view.members where member.peer != on {
            guard let last = member.status?.lastIndex, last > status.lastIndex else { continue }
            plan.notes.append(
                "\(member.peer.address) has entries up to \(last): let that one begin (--on \(member.peer.address))")
        }
        for peer in leavers where isUp(peer) {
            plan.notes.append("\(peer.address) is up and is left out; name it too if its disk is whole")
        }
        let planned =
            [Bytes("reset"), Bytes(group), Bytes(on.description)] + (present + target).map { Bytes($0.description) }
        plan.token = PlanToken(version: mapVersion, planned: planned).description
    }
}

extension Cluster {
    fileprivate func carryOut(_ reset: ForcedReset) async throws(Failure) {
        if !reset.isInForce { try await force(reset) }
        try await awaitMembers(reset)
        if reset.group == ClusterMap.controllerGroup { return try await awaitMap(reset) }
        do throws(Failure) {
            try await record(reset)
        } catch {
            throw Failure(
                status: error.status,
                message: "\(reset.group) has its new members, but the map does not know: \(error.message); when the "
                    + "controller is led again, repeat this command")
        }
    }

    /// The member that begins may still believe in a leader that is gone, for as long as it has promised to.
    private func force(_ reset: ForcedReset) async throws(Failure) {
        let begun = ContinuousClock.now
        while let refusal = try await refusal(of: reset) {
            guard refusal.error == .busy, begun.duration(to: .now) < Cluster.beliefPatience else {
                throw Failure(refusal.error, refusal.message, while: "the reset of \(reset.group)")
            }
            await pause(milliseconds: 200)
        }
    }

    private static let beliefPatience = Duration.seconds(15)

    /// Has the member that begins do so; nil if it has.
    private func refusal(of reset: ForcedReset) async throws(Failure) -> LeaderRefusal? {
        let action = "the reset of \(reset.group)"
        let arena = Arena()
        defer { withExtendedLifetime(arena) {} }
        let request = arena.make(flotilla__reset_replica_request__init)
        request.pointee.group = arena.string(reset.group)
        request.pointee.n_from = reset.present.count
        request.pointee.from = arena.strings(reset.present.map(\.description))
        request.pointee.n_to = reset.target.count
        request.pointee.to = arena.strings(reset.target.map(\.description))
        guard let answer = await call(reset.on.address, "reset_replica", arena.pack(request)) else {
            throw .failed("\(action): \(reset.on.address) gave no answer; repeat the command, it is done once only")
        }
        guard let reply = arena.unpack(flotilla__reset_replica_reply__init, answer)?.pointee else {
            throw Failure(.badRequest, "an answer that does not parse", while: action)
        }
        return LeaderRefusal(reply.error, reply.message)
    }

    /// Has the map follow. The controller asks the group's leader whether these are its members, and that they are
    /// committed may take a moment.
    private func record(_ reset: ForcedReset) async throws(Failure) {
        let command = ControllerCommand.resetMembers(group: reset.group, peers: reset.target, wallClock: 0)
        let body = Arena().scope { arena in
            let message = arena.make(flotilla__operate_request__init)
            message.pointee.command = command.message(arena)
            return arena.pack(message)
        }
        var question = controllerQuestion("operate", body, "the record of it")
        question.insists = true
        question.patience = .milliseconds(15_000)
        try await ask(question) { (answer, arena) -> LeaderAnswer<Void>? in
            guard let reply = arena.unpack(flotilla__operate_reply__init, answer)?.pointee else { return nil }
            return LeaderRefusal(reply.error, reply.message, reply.leader).map { .refused($0) } ?? .answer(())
        }
    }

    private static let attempts = 150

    /// Returns when one of the new members leads.
    private func awaitMembers(_ reset: ForcedReset) async throws(Failure) {
        for _ in 0..<Cluster.attempts {
            for member in reset.target {
                let replica = await status(of: member.address)?.replicas.first { $0.group == reset.group }
                if replica?.state == "leader", replica?.peers.sorted() == reset.target { return }
            }
            await pause(milliseconds: 200)
        }
        throw .failed(
            "\(reset.group) was reset on \(reset.on.address), but nobody leads it; a majority of its new members must be "
                + "up, then repeat this command: see raftctl why \(reset.group)")
    }

    /// Returns when the controller has recorded its own members.
    private func awaitMap(_ reset: ForcedReset) async throws(Failure) {
        for _ in 0..<Cluster.attempts {
            let known = (try? await newestMap())?.group(reset.group)?.peers.sorted()
            if known == reset.target { return }
            await pause(milliseconds: 200)
        }
        throw .failed("the controller is led again, but the map does not have its members yet; see raftctl group show")
    }
}

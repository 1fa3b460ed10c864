import RaftCore
import ShardMap

/// The cluster at a glance: the map, and what every node in it says. Made from answers by rules alone.
struct ClusterState: Equatable, Sendable {
    /// A node of the map, or a seed while there is no map.
    struct NodeView: Equatable, Sendable {
        var id: UInt64?
        var address: NodeAddress
        /// Nil: it does not answer.
        var status: NodeStatus?
        /// Where the map has it; empty: nowhere.
        var zone = ""
        /// Whether its replicas and leaderships are to go elsewhere.
        var isDraining = false

        var state: String { status?.state ?? "down" }
        var groupsLed: Int { status?.replicas.count { $0.state == "leader" } ?? 0 }
    }

    /// A member of a group.
    struct MemberView: Equatable, Sendable {
        var peer: PeerID
        /// Nil: its node does not answer, or does not have it.
        var status: ReplicaStatus?
        var isNodeUp: Bool
        /// It is another program's, and cannot be asked.
        var isForeign = false
        /// What the group's leader knows of a foreign one, if that is one of ours.
        var asLed: ForeignStatus?

        var state: String {
            guard isForeign, status == nil else { return status?.state ?? (isNodeUp ? "missing" : "down") }
            guard let asLed else { return "foreign" }
            return asLed.isReachable.map { $0 ? "braft" : "braft, silent" } ?? "braft, unknown"
        }

        /// Whether it is there and sound; nil: nobody who could be asked knows.
        var isHealthy: Bool? {
            isForeign && status == nil ? asLed?.isReachable : status != nil && state != "damaged"
        }
    }

    /// A group, as its leader sees it; while nobody leads, as the member that is furthest does.
    struct GroupView: Equatable, Sendable {
        var id: String
        var leader: PeerID?
        var members: [MemberView]
        var term: Int64?
        var commitIndex: Int64?
        var appliedIndex: Int64?
        var lastIndex: Int64?
        /// Whether it is a guest: most of its members may be other programs, of whom nothing is known here.
        var isGuest = false

        /// Entries committed that a member has not applied yet, or, if it is foreign, not acknowledged; nil if nobody
        /// knows.
        func lag(of member: MemberView) -> Int64? {
            guard let commitIndex, let applied = member.status?.appliedIndex ?? member.asLed?.matchIndex else {
                return nil
            }
            return max(0, commitIndex - applied)
        }

        /// The largest lag of a member that answers.
        var maxLag: Int64? { members.compactMap { lag(of: $0) }.max() }
        /// Members that answer and are not damaged, or are foreign and in touch with the leader.
        var healthyMembers: Int { members.count { $0.isHealthy == true } }
        /// Of those who vote: all, those that are there and sound, and those of whom nobody knows.
        var voters: (all: Int, up: Int, unknown: Int) {
            let voters = members.filter { $0.peer.role != .learner }
            return (voters.count, voters.count { $0.isHealthy == true }, voters.count { $0.isHealthy == nil })
        }
        /// Whether one leads that can serve nobody.
        var isLedByForeigner: Bool { members.contains { $0.isForeign && $0.peer == leader } }
        /// Whether one leads that can serve.
        var isServed: Bool { leader != nil && !isLedByForeigner }
        /// What its members complain of, in one line.
        var problem: String? {
            let problems = members.compactMap { member in
                member.status?.problem.map { "\(member.peer.address): \($0)" }
            }
            return problems.isEmpty ? nil : problems.joined(separator: "; ")
        }
    }

    /// Nil: none of the nodes that were asked knows it.
    var map: ClusterMap?
    /// Why there is none, if nodes know of groups all the same.
    var mapProblem: String?
    var nodes: [NodeView]
    var groups: [GroupView]
    /// Groups of other programs in which nodes that answer are members; no map knows of them.
    var guests: [GroupView]

    /// Whether every group has a leader that can serve.
    var isLed: Bool { map != nil && groups.allSatisfy(\.isServed) }

    /// Joins the map and the nodes' answers; `answers` has one for each node of the map, in its order.
    init(map: ClusterMap, answers: [NodeStatus?]) {
        precondition(answers.count == map.nodes.count, "one answer for each node")
        self.map = map
        let nodes = zip(map.nodes, answers).map {
            NodeView(id: $0.id, address: $0.address, status: $1, zone: $0.zone, isDraining: $0.isDraining)
        }
        self.nodes = nodes
        let addresses = Set(nodes.map(\.address))
        groups = map.groups.map { group in
            ClusterState.view(of: group.id, peers: group.peers, nodes) { !addresses.contains($0) }
        }
        guests = ClusterState.guests(nodes)
    }

    /// Without a map, for the reason given: the nodes that were asked, and the groups of which they have replicas.
    init(asked: [NodeAddress], answers: [NodeStatus?], because problem: String) {
        let nodes = zip(asked, answers).map { address, status in
            // zero: it belongs to no cluster yet
            NodeView(id: status.flatMap { $0.id == 0 ? nil : $0.id }, address: address, status: status)
        }
        let ids = Set(nodes.flatMap { $0.status?.replicas.filter { !$0.isGuest }.map(\.group) ?? [] })
        self.nodes = nodes
        groups = ids.sorted().map { ClusterState.view(of: $0, peers: [], nodes) { _ in false } }
        guests = ClusterState.guests(nodes)
        mapProblem = groups.isEmpty ? nil : problem
    }

    /// The nodes of all members that the nodes of this state know of, besides these.
    var nodesUnasked: [NodeAddress] {
        let known = Set(nodes.map(\.address))
        let members = groups.flatMap { group in group.members.filter { !$0.isForeign }.map(\.peer.address) }
        return Set(members).subtracting(known).sorted()
    }

    /// To stand beside what is shown without a map.
    var note: String? {
        mapProblem.map {
            "the controller's map is not known, so this is what the nodes say of their own replicas (\($0))"
        }
    }

    private static func guests(_ nodes: [NodeView]) -> [GroupView] {
        let ids = Set(nodes.flatMap { $0.status?.replicas.filter(\.isGuest).map(\.group) ?? [] })
        return ids.sorted().map { id in
            view(of: id, peers: [], nodes, isGuest: true) { address in !nodes.contains { $0.address == address } }
        }
    }

    /// `known` are the members as the map has them; `isElsewhere` says at which addresses there are other programs, besides
    /// those that its members tell of.
    private static func view(
        of group: String, peers known: [PeerID], _ nodes: [NodeView], isGuest: Bool = false,
        isElsewhere: (NodeAddress) -> Bool
    ) -> GroupView {
        var reports: [ReplicaStatus] = []
        for node in nodes {
            reports += node.status?.replicas.filter { $0.group == group && $0.isGuest == isGuest } ?? []
        }
        // A leader cut off may not know yet that it was deposed: the highest term is the one that counts.
        let leader = reports.filter { $0.state == "leader" }.max { $0.term < $1.term }
        let chief = leader ?? reports.max { ($0.term, $0.lastIndex) < ($1.term, $1.lastIndex) }
        let peers = (chief?.peers).flatMap { $0.isEmpty ? nil : $0 } ?? (known.isEmpty ? reports.map(\.peer) : known)
        let told = chief?.foreign ?? []
        let members = peers.map { peer in
            let known = told.first { $0.peer == peer }
            return MemberView(
                peer: peer, status: reports.first { $0.peer == peer },
                isNodeUp: nodes.contains { $0.address == peer.address && $0.status != nil },
                isForeign: known != nil || isElsewhere(peer.address), asLed: known)
        }
        // of a foreign leader only those who follow it tell
        let follows = chief?.leader.flatMap { followed in
            isGuest || members.contains { $0.isForeign && $0.peer == followed } ? followed : nil
        }
        return GroupView(
            id: group, leader: leader?.peer ?? follows, members: members, term: chief?.term,
            commitIndex: chief?.commitIndex, appliedIndex: chief?.appliedIndex, lastIndex: chief?.lastIndex,
            isGuest: isGuest)
    }
}

extension Cluster {
    /// The cluster as it is now; nodes are asked at the same time. If nobody gives the map, what the seeds and the other
    /// members of their groups say of themselves. Fails only if nobody answers at all, or, where `needsGroups`, if there
    /// is no cluster yet.
    func state(needsGroups: Bool) async throws(Failure) -> ClusterState {
        let failure: Failure
        do throws(Failure) {
            let map = try await self.map()
            return ClusterState(map: map, answers: await statuses(of: map.nodes.map(\.address)))
        } catch {
            failure = error
        }
        let answers = await statuses(of: seeds)
        var state = ClusterState(asked: seeds, answers: answers, because: failure.message)
        let others = state.nodesUnasked
        if !others.isEmpty {
            let all = answers + (await statuses(of: others))
            state = ClusterState(asked: seeds + others, answers: all, because: failure.message)
        }
        guard !state.groups.isEmpty || !state.guests.isEmpty || (!needsGroups && failure.status == .failed) else {
            throw failure
        }
        return state
    }

    /// What each node says; nil if it does not answer.
    func statuses(of nodes: [NodeAddress]) async -> [NodeStatus?] {
        await withTaskGroup(of: (Int, NodeStatus?).self) { tasks in
            for (position, node) in nodes.enumerated() {
                tasks.addTask { (position, await status(of: node)) }
            }
            var answers = [NodeStatus?](repeating: nil, count: nodes.count)
            for await (position, status) in tasks { answers[position] = status }
            return answers
        }
    }
}

import RaftCore
import ShardMap

/// Why a key, a shard or a group does what it does, or does not: a chain of links from the key to the disks, each as it
/// was found. Made from answers by rules alone.
struct WhyReport: Equatable, Sendable {
    enum Finding: String, Sendable {
        /// As it should be.
        case ok
        /// Nothing is wrong, and something goes on.
        case busy
        case trouble
        /// Nobody could be asked.
        case unknown
    }

    struct Link: Equatable, Sendable {
        var name: String
        var finding: Finding
        /// What is, or what is wrong.
        var text: String
        /// What to do about it.
        var advice: String?
    }

    /// What was asked about.
    enum Subject: Equatable, Sendable {
        case key(Bytes)
        case shard(UInt64)
        case group(String)
    }

    var subject: Subject
    var links: [Link] = []

    var isWell: Bool { links.allSatisfy { $0.finding == .ok || $0.finding == .busy } }

    mutating func add(_ name: String, _ finding: Finding, _ text: String, _ advice: String? = nil) {
        links.append(Link(name: name, finding: finding, text: text, advice: advice))
    }
}

/// What is known when a report is made.
struct WhyFacts: Sendable {
    /// Now, and a moment before.
    var state: ClusterState
    var earlier: ClusterState
    /// Nodes that take connections and do not answer.
    var hanging: Set<NodeAddress> = []
    /// Nil: the controller could not be asked.
    var operations: [OperationReport]?
    /// How a read of the key ended, if one was tried: its duration, or what went wrong.
    var read: ReadTrial?

    enum ReadTrial: Equatable, Sendable {
        case done(milliseconds: Int)
        case failed(String)
    }
}

extension WhyReport {
    /// A lag that is more than what is on its way.
    private static let lagMax: Int64 = 10_000
    /// So long may a sync take.
    private static let stallMilliseconds: UInt64 = 1000

    init(_ subject: Subject, _ facts: WhyFacts) {
        self.subject = subject
        addMap(facts)
        switch subject {
        case .key(let key):
            if let shard = facts.state.map?.shard(owning: key) {
                add("key", .ok, "\(Escapes.text(key)) is in shard \(shard.id)")
                addShard(shard, facts)
                addRead(facts)
            } else {
                add("key", .unknown, "without the map nobody knows its shard")
            }
        case .shard(let id):
            if let shard = facts.state.map?.shards.first(where: { $0.id == id }) {
                addShard(shard, facts)
            } else if facts.state.map == nil {
                add("shard", .unknown, "without the map nobody knows its group")
            } else {
                add("shard", .trouble, "there is no shard \(id)", "raftctl shard list shows them")
            }
        case .group(let group): addGroup(group, facts)
        }
        let controller = ClusterMap.controllerGroup
        if facts.state.map == nil, subject != .group(controller),
            facts.state.groups.contains(where: { $0.id == controller })
        {
            addGroup(controller, facts)
        }
    }

    private mutating func addMap(_ facts: WhyFacts) {
        if let map = facts.state.map {
            add("map", .ok, "version \(map.version), of \(map.nodes.count) nodes")
        } else {
            add(
                "map", .trouble,
                "no node that answers knows the map, so only what the nodes say of their own replicas is known",
                "see to the controller: raftctl why group controller")
        }
    }

    private mutating func addShard(_ shard: Shard, _ facts: WhyFacts) {
        let start = shard.range.start.isEmpty ? "the first key" : Escapes.text(shard.range.start)
        let end = shard.range.end.isEmpty ? "the last" : "before \(Escapes.text(shard.range.end))"
        add("shard \(shard.id)", .ok, "from \(start) to \(end), at group \(shard.group), epoch \(shard.epoch)")
        addOperations(facts) { $0.shards.contains(shard.id) }
        addGroup(shard.group, facts)
    }

    private mutating func addOperations(_ facts: WhyFacts, _ isMeant: (ClusterOperation.Kind) -> Bool) {
        guard let operations = facts.operations else {
            guard !links.contains(where: { $0.name == "operations" }) else { return }
            return add(
                "operations", .unknown, "the controller could not be asked", "raftctl why group controller")
        }
        for report in operations where isMeant(report.operation.kind) {
            let name = "operation \(report.operation.id)"
            let step = report.step.map { ", at: \($0)" } ?? ""
            let text = "\(report.operation.kind), \(report.operation.state)\(step)"
            if let problem = report.problem {
                let wayBack =
                    report.operation.canBeTakenBack
                    ? ", or take it back: raftctl operation cancel \(report.operation.id)" : ""
                add(name, .trouble, "\(text): \(problem)", "see to that, and it goes on by itself\(wayBack)")
            } else {
                add(name, .busy, text, "raftctl operation wait \(report.operation.id)")
            }
        }
    }

    // MARK: groups

    private mutating func addGroup(_ id: String, _ facts: WhyFacts) {
        guard let view = facts.state.groups.first(where: { $0.id == id }) else {
            return add(
                "group \(id)", .trouble,
                facts.state.map == nil ? "no node that answers has a replica of it" : "there is no such group",
                "raftctl group list shows them")
        }
        let members = view.members.map(\.peer.address.description).joined(separator: ", ")
        if let group = facts.state.map?.group(id), !group.isBorn {
            add(
                "group \(id)", .trouble, "it is not born: not all of \(members) have their replicas yet",
                "start the nodes that are down, or take it back: raftctl operation list")
        } else {
            add("group \(id)", .ok, "members \(members)")
        }
        if id != ClusterMap.controllerGroup || facts.operations != nil { addOperations(facts) { $0.memberGroup == id } }
        let voters = view.voters
        let troubled = addReplicas(view, facts, hasQuorum: voters.up > voters.all / 2)
        addLeader(view, facts)
        addLog(view, facts)
        addNodes(view, facts, except: troubled)
    }

    /// The nodes of those that are out of service.
    private mutating func addReplicas(
        _ view: ClusterState.GroupView, _ facts: WhyFacts, hasQuorum: Bool
    ) -> Set<NodeAddress> {
        var troubled: Set<NodeAddress> = []
        for member in view.members {
            let address = member.peer.address
            let name = "replica \(member.peer)"
            if member.status == nil, member.isForeign {
                if addForeign(member, name, view) { troubled.insert(address) }
            } else if member.status == nil, !member.isNodeUp {
                troubled.insert(address)
                if facts.hanging.contains(address) {
                    add(
                        name, .trouble, "its node takes connections and does not answer, or cannot be reached",
                        "is the process at \(address) stopped, its disk hanging, or the network cut? Else restart it")
                } else {
                    add(
                        name, .trouble, "its node does not run",
                        "start raftd at \(address)"
                            + (hasQuorum ? "; if its disk is lost: raftctl \(replacement(view.id, address))" : ""))
                }
            } else if member.status == nil {
                let isNew = facts.state.map?.group(view.id)?.peers.contains(member.peer) == false
                add(
                    name, isNew ? .busy : .trouble, "its node runs and does not have it",
                    isNew ? nil : "see the log of \(address); raftctl \(replacement(view.id, address))")
            } else if let problem = member.status?.problem {
                let heals = member.status?.debt != nil
                add(
                    name, .trouble, problem,
                    heals ? "nothing: it heals as soon as the group is led" : "see the log of \(address)")
            } else {
                add(name, .ok, "\(member.state), applied up to \(Quantity.optional(member.status?.appliedIndex))")
            }
        }
        return troubled
    }

    /// A member that runs another program, by what the group's leader knows; whether something is wrong with it.
    private mutating func addForeign(
        _ member: ClusterState.MemberView, _ name: String, _ view: ClusterState.GroupView
    ) -> Bool {
        let address = member.peer.address
        let match = member.asLed?.matchIndex.map { ", acknowledged up to \($0)" } ?? ""
        switch member.isHealthy {
        case true?: add(name, .ok, "a braft in touch with the leader\(match)")
        case false?:
            add(
                name, .trouble, "a braft that the leader is not in touch with\(match)",
                "start the braft at \(address), or take it out: raftctl group remove-peer \(view.id) \(address)")
        case nil:
            let isLeader = view.leader == member.peer
            add(name, isLeader ? .ok : .unknown, isLeader ? "a braft, which leads" : "a braft: no node leads and knows")
        }
        return member.isHealthy == false
    }

    private func replacement(_ group: String, _ address: NodeAddress) -> String {
        let verb = group == ClusterMap.controllerGroup ? "controller" : "group"
        return "\(verb) remove-peer \(verb == "group" ? group + " " : "")\(address), and add another"
    }

    private mutating func addLeader(_ view: ClusterState.GroupView, _ facts: WhyFacts) {
        if let leader = view.leader, view.isLedByForeigner {
            return add(
                "leader", .trouble, "\(leader.address), a braft, which serves no keys (NOT_SERVED)",
                "its nodes ask it for leadership each second; if that lasts, see its log, or stop it")
        }
        if let leader = view.leader {
            return add("leader", .ok, "\(leader.address), term \(Quantity.optional(view.term))")
        }
        let voters = view.voters
        let needed = voters.all / 2 + 1
        let unknown = voters.unknown > 0 ? ", of \(voters.unknown) brafts nobody knows," : ""
        guard voters.up + voters.unknown >= needed else {
            let verb = view.id == ClusterMap.controllerGroup ? "controller reset-peer" : "group reset-peer \(view.id)"
            return add(
                "leader", .trouble,
                "nobody leads: \(voters.up) of \(voters.all) voters are there, and \(needed) are needed",
                "start the nodes of the others; if their disks are lost for good: raftctl \(verb) PEER,… --plan")
        }
        guard voters.up >= needed else {
            return add(
                "leader", .trouble,
                "nobody leads: \(voters.up) of \(voters.all) voters are there\(unknown) and \(needed) are needed",
                "start the nodes of the others, and see to the brafts")
        }
        add(
            "leader", .trouble, "nobody leads, though \(voters.up) of \(voters.all) voters are there",
            "if that lasts longer than a few seconds: do they hear each other (below)? See their logs")
    }

    // MARK: logs

    private mutating func addLog(_ view: ClusterState.GroupView, _ facts: WhyFacts) {
        guard let leader = view.leader, let commit = view.commitIndex, let last = view.lastIndex else {
            return add("log", .unknown, "nobody leads, so nobody knows what is committed")
        }
        let before = facts.earlier.groups.first { $0.id == view.id }
        if last > commit, before?.commitIndex == commit, before?.leader == leader, before?.lastIndex ?? 0 > commit {
            add(
                "log", .trouble, "\(last - commit) entries at \(leader.address) wait for a majority",
                "the members above that are out of service, or do not hear the leader, keep it")
        } else {
            add("log", .ok, "committed up to \(commit)")
        }
        for member in view.members {
            guard let lag = view.lag(of: member), lag > 0 else { continue }
            func reached(_ member: ClusterState.MemberView?) -> Int64? {
                member?.status?.appliedIndex ?? member?.asLed?.matchIndex
            }
            let earlier = reached(before?.members.first { $0.peer == member.peer })
            let name = "log of \(member.peer.address)"
            let stands = earlier != nil && earlier == reached(member) && before?.commitIndex ?? 0 > earlier!
            if stands {
                add(name, .trouble, "\(lag) entries behind, and it stands still", "see its disk and network below")
            } else if lag > WhyReport.lagMax {
                add(name, .trouble, "\(lag) entries behind; it gets on", "wait; see its disk and network below")
            } else {
                add(name, .busy, "\(lag) entries behind; it gets on")
            }
        }
    }

    // MARK: nodes

    private mutating func addNodes(
        _ view: ClusterState.GroupView, _ facts: WhyFacts, except troubled: Set<NodeAddress>
    ) {
        // whether a foreign one is heard is the leader's business, and stands above
        let members = Set(view.members.filter { !$0.isForeign }.map(\.peer.address))
        for node in facts.state.nodes where members.contains(node.address) && !troubled.contains(node.address) {
            guard let status = node.status else { continue }
            let name = "node \(node.address)"
            var isWell = true
            func found(_ text: String, _ advice: String) {
                add(name, .trouble, text, advice)
                isWell = false
            }
            if let stall = status.stallMilliseconds, stall >= WhyReport.stallMilliseconds {
                found(
                    "its log or its state machines have kept it waiting for \(stall) ms",
                    "is its disk slow or hanging? raftctl group transfer-leader gives its groups other leaders")
            }
            if let refusal = status.refusal {
                found("it refuses writes: \(refusal)", "make room on its disk, or move replicas elsewhere")
            } else if status.state != "serving" {
                found("it is \(status.state)", "see its log")
            }
            // who is down is not heard by anybody, and stands above
            let deaf = status.unheard.filter { members.contains($0) && !troubled.contains($0) }
            if !deaf.isEmpty {
                let names = deaf.map(\.description).joined(separator: ", ")
                found("it does not hear \(names)", "see the network between them, and their logs")
            }
            if isWell { add(name, .ok, "disk and network") }
        }
    }

    private mutating func addRead(_ facts: WhyFacts) {
        switch facts.read {
        case .done(let milliseconds): add("read", .ok, "answered within \(milliseconds) ms")
        case .failed(let problem): add("read", .trouble, problem, "see above")
        case nil: break
        }
    }
}

// MARK: how it is shown

extension WhyReport {
    var text: String {
        var table = Table(["", "LINK", "WHAT IS"])
        for link in links {
            table.add([link.mark, link.name, link.text])
            if let advice = link.advice { table.add(["", "", "-> \(advice)"]) }
        }
        return table.text
    }

    var json: JSON {
        let list = links.map { link in
            JSON.object([
                ("link", .string(link.name)), ("finding", .string(link.finding.rawValue)), ("text", .string(link.text)),
                ("advice", .optional(link.advice)),
            ])
        }
        return .object([("subject", .string(subject.name)), ("well", .bool(isWell)), ("links", .array(list))])
    }
}

extension WhyReport.Link {
    fileprivate var mark: String {
        switch finding {
        case .ok: "OK"
        case .busy: "BUSY"
        case .trouble: "WRONG"
        case .unknown: "?"
        }
    }
}

extension ClusterOperation {
    fileprivate var canBeTakenBack: Bool {
        switch kind {
        case .move, .createGroup, .changePeers: state == .begun
        case .split, .merge, .deleteGroup: false
        }
    }
}

extension WhyReport.Subject {
    var name: String {
        switch self {
        case .key(let key): "key \(Escapes.text(key))"
        case .shard(let id): "shard \(id)"
        case .group(let group): "group \(group)"
        }
    }
}

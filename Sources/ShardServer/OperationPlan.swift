import RaftCore
import ShardMap

/// What an order would do, for somebody who has not given it yet. Made by rules alone, from the maps before and behind
/// the order and what the nodes last told of themselves.
struct OperationPlan: Equatable {
    /// A member of a group, as the order leaves it.
    struct Replica: Equatable {
        enum Change: String {
            case new
            case stays
            case goes
        }
        var group: String
        var peer: PeerID
        var change: Change
        /// Nil: nobody knows.
        var isUp: Bool?
    }

    /// Voters that decide together for a while.
    struct Stage: Equatable {
        var group: String
        var name: String
        var voters: Int
        /// Nil: nobody knows.
        var up: Int?
        var needed: Int { voters / 2 + 1 }
    }

    /// The operation as it would begin, with everything that is fixed then; nil: the order takes one entry.
    var operation: ClusterOperation?
    var steps: [String] = []
    var replicas: [Replica] = []
    var stages: [Stage] = []
    /// Copied to other nodes; nil: nobody knows.
    var bytes: UInt64? = 0
    /// What should be known before.
    var notes: [String] = []
}

extension OperationPlan {
    /// The plan of an operation that would begin on `after`, the map that its beginning leaves behind.
    init(_ operation: ClusterOperation, _ after: ClusterMap, _ load: ClusterLoad) {
        self.operation = operation
        let view = View(map: after, load: load)
        switch operation.kind {
        case .split(let split): addStage("throughout", split.group, view)
        case .merge(let merge): addStage("throughout", merge.group, view)
        case .move(let move):
            bytes = load.shards.first { $0.shard == move.shard }?.bytes
            addStage("throughout", move.source, view)
            addStage("throughout", move.destination, view)
        case .createGroup(let creation):
            replicas = creation.peers.map { view.replica(creation.group, $0, .new) }
            stages = [view.stage("after", creation.group, creation.peers)]
        case .deleteGroup(let deletion):
            replicas = after.group(deletion.group)?.peers.map { view.replica(deletion.group, $0, .goes) } ?? []
        case .changePeers(let change): add(change, view)
        }
        steps = operation.states.flatMap { state in
            var reached = operation
            reached.state = state
            return reached.orders(after).flatMap { $0.explained(operation.kind, bytes: bytes) }
        }
        noteStages()
        for replica in replicas where replica.change == .new && replica.isUp == false {
            notes.append("\(replica.peer.address) does not answer: nothing comes of this before it does")
        }
    }

    private mutating func addStage(_ name: String, _ group: String, _ view: View) {
        guard let peers = view.map.group(group)?.peers else { return }
        stages.append(view.stage(name, group, peers))
    }

    private mutating func add(_ change: ChangePeersOperation, _ view: View) {
        let newcomers = change.to.filter { !change.from.contains($0) }
        replicas =
            change.from.map { view.replica(change.group, $0, change.to.contains($0) ? .stays : .goes) }
            + newcomers.map { view.replica(change.group, $0, .new) }
        let copies = UInt64(newcomers.count { $0.role != .witness })
        let size = view.load.groups.first { $0.group == change.group }?.bytes
        bytes = copies == 0 ? 0 : size.map { $0.times(copies) }
        let (old, new) = (Configuration(peers: change.from), Configuration(peers: change.to))
        stages.append(view.stage("before", change.group, change.from))
        if old.peers.count(where: { !new.peers.contains($0) }) + new.peers.count(where: { !old.peers.contains($0) }) > 1
        {
            stages.append(view.stage("joint: old members", change.group, change.from))
            stages.append(view.stage("joint: new members", change.group, change.to))
        }
        stages.append(view.stage("after", change.group, change.to))
    }

    private mutating func noteStages() {
        var noted: Set<String> = []
        for stage in stages {
            guard let up = stage.up, up <= stage.needed, stage.voters > 1 || up < stage.needed else { continue }
            guard noted.insert("\(stage.group) \(up < stage.needed)").inserted else { continue }
            notes.append(
                up < stage.needed
                    ? "\(stage.group) has no quorum (\(stage.name)): nothing goes on until more of its voters are up"
                    : "\(stage.group) bears no failure (\(stage.name))")
        }
    }

    /// What the scheduler would begin with.
    init(_ decisions: [Scheduler.Decision], _ load: ClusterLoad) {
        steps = decisions.map(\.description)
        let copied = decisions.map { $0.bytes(load) }
        bytes = copied.contains(nil) ? nil : copied.reduce(0) { $0.plus($1 ?? 0) }
        notes =
            decisions.isEmpty
            ? ["everything is spread as far as the nodes have told, or operations are under way that come first"]
            : ["what is decided later depends on what these bring; each of them has a plan of its own"]
    }

    /// The plan of raising the level of `before`.
    init(upgradeTo level: UInt32, _ before: ClusterMap) {
        guard level > before.level else {
            notes = ["the cluster is at level \(level) already"]
            return
        }
        steps = [
            "the cluster's level is raised from \(before.level) to \(level), which all \(before.nodes.count) nodes know"
        ]
        notes = ["a level is never lowered: no node can be started with an older raftd after this"]
    }

    /// The plan of a change of a node on `before`.
    init(_ change: NodeChange, _ before: ClusterMap, _ load: ClusterLoad) {
        guard let node = before.node(change.node) else { return }
        let view = View(map: before, load: load)
        if change.isRemoved {
            steps = [
                "the map forgets node \(node.id) at \(node.address); its data directory is never let in again"
            ]
        } else if change.isDraining == true {
            steps = ["node \(node.id) at \(node.address) gets no new replica"]
            let groups = before.groups.filter { $0.peers.contains { $0.address == node.address } }
            for group in groups {
                replicas += group.peers.filter { $0.address == node.address }.map { view.replica(group.id, $0, .goes) }
                stages.append(view.stage("now", group.id, group.peers))
            }
            // for look-up only
            let told = Dictionary(load.groups.map { ($0.group, $0.bytes) }) { first, _ in first }
            let sizes = groups.map { told[$0.id] }
            bytes = sizes.contains(nil) ? nil : sizes.reduce(0) { $0.plus($1 ?? 0) }
            if !groups.isEmpty {
                steps.append("its leaderships go to other members, one after the other")
                steps.append("each of its replicas goes to another node, by a change of members with a plan of its own")
            }
            noteStages()
        } else {
            steps = ["the map has node \(node.id) otherwise; nothing moves at once"]
        }
    }

    /// What is known of the nodes.
    private struct View {
        let map: ClusterMap
        let load: ClusterLoad
        /// For look-up only.
        private let nodes: [NodeAddress: Bool]

        init(map: ClusterMap, load: ClusterLoad) {
            self.map = map
            self.load = load
            let told = Dictionary(load.nodes.map { ($0.node, $0.isUp) }) { first, _ in first }
            nodes = Dictionary(map.nodes.compactMap { node in told[node.id].map { (node.address, $0) } }) { first, _ in
                first
            }
        }

        /// Of a foreign member the group's leader tells; of one that is yet to come, nobody.
        func isUp(_ peer: PeerID, in group: String) -> Bool? {
            if let isUp = nodes[peer.address] { return isUp }
            guard map.node(at: peer.address) == nil, map.group(group)?.peers.contains(peer) == true else { return nil }
            return load.groups.first { $0.group == group }.map { $0.caughtUp.contains(peer) }
        }

        func replica(_ group: String, _ peer: PeerID, _ change: Replica.Change) -> Replica {
            Replica(group: group, peer: peer, change: change, isUp: isUp(peer, in: group))
        }

        func stage(_ name: String, _ group: String, _ peers: [PeerID]) -> Stage {
            let voters = Configuration(peers: peers).peers
            let known = voters.map { isUp($0, in: group) }
            return Stage(
                group: group, name: name, voters: voters.count,
                up: known.contains(nil) ? nil : known.count { $0 == true })
        }
    }
}

extension Scheduler.Decision {
    /// Copied to other nodes; nil: nobody knows.
    fileprivate func bytes(_ load: ClusterLoad) -> UInt64? {
        guard case .begin(let kind, _) = self else { return 0 }
        switch kind {
        case .move(let move): return load.shards.first { $0.shard == move.shard }?.bytes
        case .changePeers(let change):
            let copies = UInt64(change.to.count { !change.from.contains($0) && $0.role != .witness })
            guard copies > 0 else { return 0 }
            return load.groups.first { $0.group == change.group }.map { $0.bytes.times(copies) }
        case .split, .merge, .createGroup, .deleteGroup: return 0
        }
    }
}

extension UInt64 {
    /// Of what others tell: too much is as much as there can be.
    fileprivate func times(_ count: UInt64) -> UInt64 {
        let (product, overflows) = multipliedReportingOverflow(by: count)
        return overflows ? .max : product
    }

    fileprivate func plus(_ other: UInt64) -> UInt64 {
        let (sum, overflows) = addingReportingOverflow(other)
        return overflows ? .max : sum
    }
}

extension ClusterOperation {
    /// The recorded states that it passes through if nothing goes wrong, before its end.
    fileprivate var states: [State] { if case .move = kind { [.begun, .switched] } else { [.begun] } }
}

extension OperationOrder {
    /// The order as a step of a plan; none for what goes without saying.
    fileprivate func explained(_ kind: ClusterOperation.Kind, bytes: UInt64?) -> [String] {
        switch self {
        case .step(let step, let group):
            switch step.action {
            case .split: ["\(group) cuts shard \(step.shard) in two; both stay where they are, under new epochs"]
            case .merge(let right, _): ["\(group) unites shards \(step.shard) and \(right), under a new epoch"]
            case .open: ["\(group) serves shard \(step.shard) on, and notes what changes in it"]
            case .receive: ["\(group) makes room for shard \(step.shard)"]
            case .freeze: ["the rest is little: \(group) answers nothing of shard \(step.shard) from here on"]
            case .adopt: ["\(group) serves shard \(step.shard)"]
            case .release: ["\(group) deletes its copy of shard \(step.shard)"]
            case .resume, .stage, .discard: []
            }
        case .awaitCatchUp(let group): ["the data is copied to \(group) while reads and writes go on"]
        case .awaitComplete(let group): ["the last changes are copied to \(group)"]
        case .create(let peer, let group): ["\(peer.address) begins an empty replica \(peer) of \(group)"]
        case .change(let group, let from, let to): explained(group, from, to)
        case .awaitBirth(let group): ["its members create their replicas of \(group) and elect a leader"]
        case .record(.switched): ["the controller records the new owner: the move can be taken back until here"]
        case .record: if case .deleteGroup(let deletion) = kind { deletion.explained } else { [] }
        }
    }

    private func explained(_ group: String, _ from: [PeerID], _ to: [PeerID]) -> [String] {
        let (old, new) = (Configuration(peers: from), Configuration(peers: to))
        let newcomers = to.filter { !from.contains($0) }
        let leavers = from.filter { !to.contains($0) }
        let changed =
            old.peers.count { !new.peers.contains($0) } + new.peers.count { !old.peers.contains($0) }
        var steps: [String] = []
        if !newcomers.isEmpty {
            steps.append("the leader of \(group) sends \(names(newcomers)) the state and the log, until they keep up")
        }
        if changed > 1 { steps.append("joint stage: a majority of the old and one of the new members must agree") }
        steps.append("\(group) has the members \(names(to))")
        if !leavers.isEmpty { steps.append("replicas of \(group) are deleted at \(names(leavers))") }
        return steps
    }

    private func names(_ peers: [PeerID]) -> String { peers.map(\.address.description).joined(separator: ", ") }
}

extension DeleteGroupOperation {
    fileprivate var explained: [String] {
        ["the map loses group \(group), for good: no group gets its name again", "its members delete their replicas"]
    }
}

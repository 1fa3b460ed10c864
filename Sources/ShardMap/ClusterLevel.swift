public import RaftCore

// Which commands a cluster may have in its logs. Every command has a level: that of the program which first knew its
// kind. The controller replicates the cluster's level, and an operator raises it once every node's program knows it.
//
// 1. Nobody proposes a command above the cluster's level, as the newest map it knows has it.
// 2. The cluster's level is never lowered, and raised only to what every node of the map has announced.
// 3. A replica that meets a command above what its program knows stops there: it never guesses and never skips.
//
// A new kind of command, or a new meaning of one, raises ``ClusterLevel/newest`` by one and says so below.
//
// Level 2: changes of members whose newcomers may run another program (``ChangePeersOperation/allowsForeign``).

/// The levels of clusters and of commands.
public enum ClusterLevel {
    /// Of everything that there was before there were levels; who tells none is there.
    public static let first: UInt32 = 1
    /// The highest whose commands this program knows.
    public static let newest: UInt32 = 2
    /// From which on a group may have foreign members. A program of the first level takes the order for a mistake, and
    /// would hold another map from then on.
    public static let foreignMembers: UInt32 = 2
}

extension GroupCommand {
    /// The cluster level that it needs.
    public var level: UInt32 {
        switch self {
        case .write(let write): write.operations.reduce(ClusterLevel.first) { max($0, $1.level) }
        case .openSession, .install, .time, .verify: ClusterLevel.first
        case .step(let step): step.action.level
        }
    }
}

extension ControllerCommand {
    /// The cluster level that it needs. To raise the level needs only the first one: who does not know the new level has
    /// to read that it is refused.
    public var level: UInt32 {
        switch self {
        case .initialize, .join, .groupBorn, .verify, .step, .node, .resetMembers, .rebalance, .upgrade:
            ClusterLevel.first
        case .begin(let kind, _, _): kind.level
        }
    }
}

extension KeyOperation {
    /// The cluster level that it needs in a log.
    public var level: UInt32 { max(code.level, condition.level) }
}

extension KeyOperation.Code {
    /// The cluster level that it needs in a log.
    var level: UInt32 {
        switch self {
        case .get, .set, .delete, .exists, .increment, .append, .stringLength, .timeToLive, .expire, .persist, .scan,
            .count:
            ClusterLevel.first
        }
    }
}

extension KeyOperation.Condition {
    /// The cluster level that it needs in a log.
    var level: UInt32 {
        switch self {
        case .always, .ifAbsent, .ifPresent: ClusterLevel.first
        }
    }
}

extension ShardStep.Action {
    /// The cluster level that it needs.
    fileprivate var level: UInt32 {
        switch self {
        case .split, .merge, .open, .freeze, .release, .resume, .receive, .stage, .adopt, .discard: ClusterLevel.first
        }
    }
}

extension ClusterOperation.Kind {
    /// The cluster level that it needs: none is begun, so none is recorded, in a cluster at a lower one.
    public var level: UInt32 {
        switch self {
        case .split, .merge, .move, .createGroup, .deleteGroup: ClusterLevel.first
        case .changePeers(let change): change.allowsForeign ? ClusterLevel.foreignMembers : ClusterLevel.first
        }
    }
}

extension NamedErrorThrown {
    /// At a command that needs `level`, of a program that knows less.
    static func needs(level: UInt32, knowing known: UInt32) -> NamedErrorThrown {
        NamedErrorThrown(
            .unknownFormat, "it needs cluster level \(level), and this raftd knows up to \(known); start a newer raftd")
    }
}

extension ClusterMap {
    /// The highest level that every node has announced: what the cluster can be raised to.
    public var highestCommonLevel: UInt32 { nodes.map(\.level).min() ?? ClusterLevel.first }

    /// What to say to a node whose program knows only levels up to `known`, and could not read what the logs hold or will
    /// hold; nil: it can be part of the cluster.
    public func refusal(ofProgramAt address: NodeAddress, knowing known: UInt32) -> String? {
        guard known < level else { return nil }
        return
            "the cluster is at level \(level), and the raftd at \(address) knows levels up to \(known) only; start a "
            + "newer raftd there"
    }

    /// Why no node can join at `address`: a group has a member there that runs another program, and the map would take
    /// that for the node's; nil: none has.
    public func refusal(ofNewNodeAt address: NodeAddress) -> String? {
        func isThere(_ peer: PeerID) -> Bool { peer.address == address }
        guard node(at: address) == nil,
            let group = groups.first(where: { $0.peers.contains(where: isThere) })
                ?? groups.first(where: { $0.joining.contains(where: isThere) })
        else { return nil }
        return
            "group \(group.id) has a member at \(address) that runs another program; take it out first: raftctl group "
            + "remove-peer \(group.id) \(address), or start raftd under another address"
    }

    /// What to say of the nodes that do not know `level`, and what to do about them; nil: all know it.
    public func refusal(ofLevel level: UInt32) -> String? {
        let lacking = nodes.filter { $0.level < level }
        guard let first = lacking.first else { return nil }
        let named = lacking.prefix(8).map { "node \($0.id) (\($0.address), up to \($0.level))" }.joined(separator: ", ")
        let more = lacking.count > 8 ? " and \(lacking.count - 8) more" : ""
        return
            "not every node knows level \(level): \(named)\(more); start a newer raftd there, or have a node that is "
            + "gone for good forgotten: raftctl node remove \(first.id)"
    }
}

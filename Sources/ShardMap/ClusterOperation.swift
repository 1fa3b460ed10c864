public import RaftCore

/// A change of shards, groups or members that takes more than one entry: the controller records it when it begins and
/// at each state it comes to. Its log is the only judge of how an operation ends.
public struct ClusterOperation: Equatable, Sendable {
    /// Ascending in the order in which operations begin; never reused.
    public var id: UInt64
    /// How far it has come.
    public var state: State
    /// What is done, with the ids and epochs that were fixed when it began.
    public var kind: Kind
    /// Milliseconds since 1970 by the clock of whoever proposed the beginning; for people, it decides nothing.
    public var begunMilliseconds: Int64
    /// Milliseconds since 1970, likewise; nil while the operation is under way.
    public var endedMilliseconds: Int64?
    /// Why it was aborted.
    public var reason: String?
    /// How many operations had ended when this one did, itself included; nil while it is under way, and of one that a
    /// version which did not count them has ended.
    public var endNumber: UInt64?

    /// An operation.
    public init(
        id: UInt64, state: State = .begun, kind: Kind, begunMilliseconds: Int64, endedMilliseconds: Int64? = nil,
        reason: String? = nil, endNumber: UInt64? = nil
    ) {
        self.id = id
        self.state = state
        self.kind = kind
        self.begunMilliseconds = begunMilliseconds
        self.endedMilliseconds = endedMilliseconds
        self.reason = reason
        self.endNumber = endNumber
    }

    /// How far an operation has come. The numbers are stored and never change their meaning.
    ///
    /// A move goes `begun → switched → done` or `begun → aborted → cancelled`; everything else `begun → done`.
    public enum State: UInt32, Sendable, CaseIterable {
        /// Recorded: its participants act on it.
        case begun = 1
        /// A move whose destination owns the shard; the source deletes it.
        case switched = 2
        /// A move given up: the source owns the shard under the next epoch, and the destination discards what it has.
        case aborted = 3
        /// Every participant has applied its end.
        case done = 4
        /// Every participant has applied that it was aborted.
        case cancelled = 5

        /// Whether nothing comes after it.
        public var isOver: Bool { self == .done || self == .cancelled }
    }

    /// What an operation does.
    public enum Kind: Equatable, Sendable {
        /// Cuts a shard in two.
        case split(SplitOperation)
        /// Unites a shard with its right neighbour.
        case merge(MergeOperation)
        /// Gives a shard to another group.
        case move(MoveOperation)
        /// Adds a group.
        case createGroup(CreateGroupOperation)
        /// Removes a group that owns no shard.
        case deleteGroup(DeleteGroupOperation)
        /// Gives a group other members.
        case changePeers(ChangePeersOperation)
    }
}

/// A shard is cut in two halves, each under ``epoch`` + 1, both of the same group.
public struct SplitOperation: Equatable, Sendable {
    /// The shard, which keeps the keys below ``key``.
    public var shard: UInt64
    /// Its epoch before; fixed by the controller.
    public var epoch: UInt64
    /// The first key of the new shard.
    public var key: Bytes
    /// The number of the new shard; fixed by the controller.
    public var newShard: UInt64
    /// The owner of both; fixed by the controller.
    public var group: String
    /// A split; what the controller fixes may be left out of one that is asked for.
    public init(shard: UInt64, epoch: UInt64 = 0, key: Bytes, newShard: UInt64 = 0, group: String = "") {
        self.shard = shard
        self.epoch = epoch
        self.key = key
        self.newShard = newShard
        self.group = group
    }
}

/// The left shard takes over the keys of its right neighbour, under the higher of both epochs + 1.
public struct MergeOperation: Equatable, Sendable {
    /// The shard that stays.
    public var left: UInt64
    /// Its epoch before; fixed by the controller.
    public var leftEpoch: UInt64
    /// The shard that goes, whose first key is where ``left`` ends.
    public var right: UInt64
    /// Its epoch before; fixed by the controller.
    public var rightEpoch: UInt64
    /// The owner of both; fixed by the controller.
    public var group: String
    /// A merge; what the controller fixes may be left out of one that is asked for.
    public init(left: UInt64, leftEpoch: UInt64 = 0, right: UInt64, rightEpoch: UInt64 = 0, group: String = "") {
        self.left = left
        self.leftEpoch = leftEpoch
        self.right = right
        self.rightEpoch = rightEpoch
        self.group = group
    }
}

/// A shard gets another owner under ``epoch`` + 1; if the move is aborted, it keeps its owner under that epoch.
public struct MoveOperation: Equatable, Sendable {
    /// The shard.
    public var shard: UInt64
    /// Its epoch before; fixed by the controller.
    public var epoch: UInt64
    /// The owner before; fixed by the controller.
    public var source: String
    /// The owner to be.
    public var destination: String
    /// A move; what the controller fixes may be left out of one that is asked for.
    public init(shard: UInt64, epoch: UInt64 = 0, source: String = "", destination: String) {
        self.shard = shard
        self.epoch = epoch
        self.source = source
        self.destination = destination
    }
}

/// A group comes to be; it is in the map, not yet born, as soon as the operation begins.
public struct CreateGroupOperation: Equatable, Sendable {
    /// Its name.
    public var group: String
    /// Its first members.
    public var peers: [PeerID]
    /// A creation.
    public init(group: String, peers: [PeerID]) {
        self.group = group
        self.peers = peers
    }
}

/// A group that owns no shard goes; it leaves the map when the operation is done.
public struct DeleteGroupOperation: Equatable, Sendable {
    /// Its name, which no other group ever gets.
    public var group: String
    /// A deletion.
    public init(group: String) { self.group = group }
}

/// A group gets other members.
public struct ChangePeersOperation: Equatable, Sendable {
    /// Its name.
    public var group: String
    /// The members before.
    public var from: [PeerID]
    /// The members to be. The controller gives newcomers an idx above any that the group had at their address.
    public var to: [PeerID]
    /// Newcomers at addresses where the map has no node are foreign: they run another program, such as a braft, and keep
    /// the idx named. Without it they are refused as mistakes.
    public var allowsForeign: Bool
    /// A change of members.
    public init(group: String, from: [PeerID], to: [PeerID], allowsForeign: Bool = false) {
        self.group = group
        self.from = from
        self.to = to
        self.allowsForeign = allowsForeign
    }
}

extension ClusterOperation.Kind {
    /// The shards it is about; no other operation may be about one of them as long as this one is under way.
    public var shards: [UInt64] {
        switch self {
        case .split(let split): [split.shard, split.newShard]
        case .merge(let merge): [merge.left, merge.right]
        case .move(let move): [move.shard]
        case .createGroup, .deleteGroup, .changePeers: []
        }
    }

    /// The groups that take part.
    public var groups: [String] {
        switch self {
        case .split(let split): [split.group]
        case .merge(let merge): [merge.group]
        case .move(let move): [move.source, move.destination]
        case .createGroup, .deleteGroup, .changePeers: memberGroup.map { [$0] } ?? []
        }
    }

    /// The group whose members it makes, removes or changes; one operation does at a time.
    public var memberGroup: String? {
        switch self {
        case .split, .merge, .move: nil
        case .createGroup(let creation): creation.group
        case .deleteGroup(let deletion): deletion.group
        case .changePeers(let change): change.group
        }
    }
}

extension ClusterOperation.Kind: CustomStringConvertible {
    /// What is done, in words: `move shard 3 from g1 to g2`.
    public var description: String {
        switch self {
        case .split(let split): "split shard \(split.shard) at \(split.key.abbreviated)"
        case .merge(let merge): "merge shard \(merge.right) into shard \(merge.left)"
        case .move(let move): "move shard \(move.shard) from \(move.source) to \(move.destination)"
        case .createGroup(let creation): "create group \(creation.group)"
        case .deleteGroup(let deletion): "delete group \(deletion.group)"
        case .changePeers(let change):
            "change the members of group \(change.group) to "
                + change.to.map(\.address.description).joined(separator: ",")
        }
    }
}

extension ClusterOperation: CustomStringConvertible {
    /// The operation as a refusal names it: `operation 7 (move shard 3 from g1 to g2)`.
    public var description: String { "operation \(id) (\(kind))" }
}

/// What an entry is; the numbers are braft's and never change.
public enum EntryKind: UInt8, Sendable {
    /// Carries nothing.
    case noOp = 1
    /// Carries a payload for the state machine.
    case data = 2
    /// Carries a membership; in force as soon as it is appended (§6).
    case configuration = 3
}

/// What the core knows of an entry besides its index: never the payload.
public struct EntryHeader: Equatable, Sendable {
    /// Term in which a leader created it.
    public var term: Term
    /// What it is.
    public var kind: EntryKind
    /// The entry of `kind` made in `term`.
    @inlinable public init(term: Term, kind: EntryKind) {
        self.term = term
        self.kind = kind
    }
}

/// A configuration and the entry that carries it.
public struct PlacedConfiguration: Equatable, Sendable {
    /// Index of the entry; zero for the membership at the group's birth.
    public var index: LogIndex
    /// The membership.
    public var configuration: Configuration
    /// `configuration`, carried by the entry at `index`.
    public init(index: LogIndex, configuration: Configuration) {
        self.index = index
        self.configuration = configuration
    }
}

/// RequestVote, or PreVote: the same question without consequences (dissertation §9.6).
public struct VoteRequest: Equatable, Sendable {
    /// Whether only willingness is asked.
    public var isPreVote: Bool
    /// The term voted in; of a pre-vote the one that would be.
    public var term: Term
    /// The candidate's last entry.
    public var last: LogPosition
    /// Names a leader that handed over, and its term: a voter that follows it may vote although its promise stands.
    public var handOver: TermLeader?
    /// A question for `term`.
    public init(isPreVote: Bool, term: Term, last: LogPosition, handOver: TermLeader? = nil) {
        self.isPreVote = isPreVote
        self.term = term
        self.last = last
        self.handOver = handOver
    }
}

/// A leader and the term it leads in.
public struct TermLeader: Equatable, Sendable {
    /// The leader.
    public var leader: PeerID
    /// Its term.
    public var term: Term
    /// `leader` in `term`.
    public init(leader: PeerID, term: Term) {
        self.leader = leader
        self.term = term
    }
}

/// The answer to a ``VoteRequest``.
public struct VoteReply: Equatable, Sendable {
    /// As in the request; the wire leaves it to the asker to remember.
    public var isPreVote: Bool
    /// Term of the request; remembered by the asker.
    public var requestTerm: Term
    /// The voter's term after it considered.
    public var term: Term
    /// Whether the vote was given.
    public var granted: Bool
    /// What a voter tells braft besides; nil between Flotilla nodes, which need none of it.
    public var details: VoteDetails?
    /// An answer.
    public init(isPreVote: Bool, requestTerm: Term, term: Term, granted: Bool, details: VoteDetails? = nil) {
        self.isPreVote = isPreVote
        self.requestTerm = requestTerm
        self.term = term
        self.granted = granted
        self.details = details
    }
}

/// Tells a candidate how it can win voters that stand by a leader which is going: it names that leader to them.
public struct VoteDetails: Equatable, Sendable {
    /// Of a vote: the voter led and leads no more because of it. Of a pre-vote: it leads, and would.
    public var isDisrupted: Bool
    /// The voter's term before it considered.
    public var previousTerm: Term
    /// The candidate's log would do, but the voter stands by a leader.
    public var isRejectedByLease: Bool
    /// Details.
    public init(isDisrupted: Bool, previousTerm: Term, isRejectedByLease: Bool) {
        self.isDisrupted = isDisrupted
        self.previousTerm = previousTerm
        self.isRejectedByLease = isRejectedByLease
    }
}

/// AppendEntries as the receiver's core sees it: the payloads wait with the host.
public struct AppendRequest: Equatable, Sendable {
    /// The leader's term.
    public var term: Term
    /// The entry before the first one sent.
    public var previous: LogPosition
    /// The entries after ``previous``, in order; empty in a probe.
    public var entries: [EntryHeader]
    /// The memberships of the configuration entries among them, ascending by index.
    public var configurations: [PlacedConfiguration]
    /// The leader's commit index.
    public var commit: LogIndex
    /// A request.
    public init(
        term: Term, previous: LogPosition, entries: [EntryHeader] = [], configurations: [PlacedConfiguration] = [],
        commit: LogIndex
    ) {
        self.term = term
        self.previous = previous
        self.entries = entries
        self.configurations = configurations
        self.commit = commit
    }
}

/// What the leader remembers of an append it sent, and finds again in the answer.
public struct AppendTicket: Equatable, Sendable {
    /// Term in which it was sent.
    public var term: Term
    /// Index of the entry before the first one sent.
    public var previous: LogIndex
    /// How many entries it carried.
    public var count: Int
    /// The leader's newest read round when it was sent (dissertation §6.4).
    public var round: UInt64
    /// A ticket.
    public init(term: Term, previous: LogIndex, count: Int, round: UInt64) {
        self.term = term
        self.previous = previous
        self.count = count
        self.round = round
    }
}

/// The answer to an ``AppendRequest``.
public struct AppendReply: Equatable, Sendable {
    /// The request that is answered.
    public var ticket: AppendTicket
    /// The follower's term.
    public var term: Term
    /// Whether the follower's log holds the previous entry, and now the new ones, durably.
    public var success: Bool
    /// On a mismatch the last index the leader should consider as matching; absent reads as 0, as in braft.
    public var lastIndex: LogIndex?
    /// On a mismatch the follower's term at ``lastIndex``: nothing of the leader's in a higher term can match before it
    /// (§5.3). Absent if the follower is a braft.
    public var lastTerm: Term?
    /// The promise under which the follower accepts this leader, if it stands (Liveness, rule 14).
    public var support: SupportStamp?
    /// An answer.
    public init(
        ticket: AppendTicket, term: Term, success: Bool, lastIndex: LogIndex?, lastTerm: Term? = nil,
        support: SupportStamp? = nil
    ) {
        self.ticket = ticket
        self.term = term
        self.success = success
        self.lastIndex = lastIndex
        self.lastTerm = lastTerm
        self.support = support
    }
}

/// TimeoutNow: campaign at once (dissertation §3.10).
public struct TimeoutNowRequest: Equatable, Sendable {
    /// The leader's term.
    public var term: Term
    /// Whether the leader has already stepped down.
    public var oldLeaderSteppedDown: Bool
    /// A request.
    public init(term: Term, oldLeaderSteppedDown: Bool) {
        self.term = term
        self.oldLeaderSteppedDown = oldLeaderSteppedDown
    }
}

/// The answer to a ``TimeoutNowRequest``.
public struct TimeoutNowReply: Equatable, Sendable {
    /// The receiver's term.
    public var term: Term
    /// Whether it campaigns.
    public var success: Bool
    /// An answer.
    public init(term: Term, success: Bool) {
        self.term = term
        self.success = success
    }
}

/// The sender leads this term no more: who stood by it for that is free (Liveness, rule 8).
public struct ReleaseRequest: Equatable, Sendable {
    /// The term.
    public var term: Term
    /// A request.
    public init(term: Term) { self.term = term }
}

/// The answer to a ``ReleaseRequest``: heard.
public struct ReleaseReply: Equatable, Sendable {
    /// The term of the request.
    public var term: Term
    /// An answer.
    public init(term: Term) { self.term = term }
}

/// A follower asks up to where it must have applied before it may read (dissertation §6.4).
public struct ReadIndexRequest: Equatable, Sendable {
    /// The follower's term.
    public var term: Term
    /// Tells the questions of one follower apart.
    public var sequence: UInt64
    /// A question.
    public init(term: Term, sequence: UInt64) {
        self.term = term
        self.sequence = sequence
    }
}

/// The answer to a ``ReadIndexRequest``.
public struct ReadIndexReply: Equatable, Sendable {
    /// Of the question.
    public var sequence: UInt64
    /// The index; nil if the asked one does not lead.
    public var index: LogIndex?
    /// An answer.
    public init(sequence: UInt64, index: LogIndex?) {
        self.sequence = sequence
        self.index = index
    }
}

/// What a snapshot stands for.
public struct SnapshotMeta: Equatable, Sendable {
    /// The last entry it contains.
    public var last: LogPosition
    /// The membership in force there.
    public var configuration: Configuration
    /// A snapshot of everything up to `last`.
    public init(last: LogPosition, configuration: Configuration) {
        self.last = last
        self.configuration = configuration
    }
}

/// InstallSnapshot (§7): the leader offers a snapshot; how its bytes travel is the hosts' matter.
public struct SnapshotRequest: Equatable, Sendable {
    /// The leader's term.
    public var term: Term
    /// What is offered.
    public var meta: SnapshotMeta
    /// An offer.
    public init(term: Term, meta: SnapshotMeta) {
        self.term = term
        self.meta = meta
    }
}

/// The answer to a ``SnapshotRequest``.
public struct SnapshotReply: Equatable, Sendable {
    /// The follower's term.
    public var term: Term
    /// Whether the follower holds everything that the snapshot does, durably.
    public var success: Bool
    /// An answer.
    public init(term: Term, success: Bool) {
        self.term = term
        self.success = success
    }
}

/// A message as a receiving core sees it.
public enum Message: Equatable, Sendable {
    /// Asks for a vote.
    case voteRequest(VoteRequest)
    /// Answers it.
    case voteReply(VoteReply)
    /// Sends entries or probes.
    case appendRequest(AppendRequest)
    /// Answers it.
    case appendReply(AppendReply)
    /// Hands leadership over.
    case timeoutNowRequest(TimeoutNowRequest)
    /// Answers it.
    case timeoutNowReply(TimeoutNowReply)
    /// Ends a leadership.
    case releaseRequest(ReleaseRequest)
    /// Answers it.
    case releaseReply(ReleaseReply)
    /// Asks for a read index.
    case readIndexRequest(ReadIndexRequest)
    /// Answers it.
    case readIndexReply(ReadIndexReply)
    /// Offers a snapshot.
    case snapshotRequest(SnapshotRequest)
    /// Answers it.
    case snapshotReply(SnapshotReply)
}

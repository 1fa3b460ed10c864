/// What must survive a crash besides the log (Figure 2).
public struct HardState: Equatable, Sendable {
    /// Latest term seen.
    public var term: Term
    /// Who got the vote in it.
    public var vote: PeerID?
    /// A state.
    public init(term: Term, vote: PeerID?) {
        self.term = term
        self.vote = vote
    }
    /// Of a replica that never heard of a term.
    public static let initial = HardState(term: .zero, vote: nil)
}

/// Names a write to the log: its completion counts only while ``term`` is still the accepted leader's. The entry's
/// own term would be an ABA hole: an old write's completion would vouch for entries that replaced it.
public struct DurableMark: Equatable, Sendable {
    /// Term of the leader under which the entries were accepted.
    public var term: Term
    /// Last index of the log after the write.
    public var index: LogIndex
    /// A mark.
    public init(term: Term, index: LogIndex) {
        self.term = term
        self.index = index
    }
}

/// What happened. One event is one call of ``Raft/step(_:now:liveness:into:)``.
public enum Event: Sendable {
    /// The replica has been opened; comes first and once.
    case started
    /// A message came in.
    case received(Message, from: PeerID)
    /// A client proposes this many data entries; ignored unless the replica leads (the host asks first).
    case proposed(count: Int)
    /// A write of the log, and everything before it, is durable.
    case persisted(DurableMark)
    /// Somebody wants to read linearizably; the answer is a ready or a failed read of this number.
    case readRequested(UInt64)
    /// ``Raft/deadline`` has come.
    case deadlineReached
    /// The connection to a node broke: requests under way to it are lost.
    case connectionLost(NodeAddress)
    /// An append was answered with an RPC error.
    case appendFailed(AppendTicket, peer: PeerID)
    /// A promise between this node and that one was gained or lapsed, or the node started anew.
    case livenessChanged(NodeAddress)
    /// Hand leadership to this voter (dissertation §3.10); nil: to the most up-to-date one that supports us.
    case transferRequested(PeerID?)
}

/// A request to send. For an append the host adds the entries `ticket.previous + 1 ... + ticket.count`.
public struct Outbound: Equatable, Sendable {
    /// What is sent.
    public enum Body: Equatable, Sendable {
        /// A vote or pre-vote.
        case vote(VoteRequest)
        /// Entries or a probe.
        case append(AppendTicket, previousTerm: Term, commit: LogIndex)
        /// A hand-over.
        case timeoutNow(TimeoutNowRequest)
    }
    /// The receiver.
    public var to: PeerID
    /// What is sent.
    public var body: Body
    /// `body` to `to`.
    public init(to: PeerID, body: Body) {
        self.to = to
        self.body = body
    }
}

/// A change of the log: first cut, then add.
public struct LogChange: Equatable, Sendable {
    /// Where the added entries come from.
    public enum Source: Equatable, Sendable {
        /// The received append, from this offset of its entries on.
        case message(offset: Int)
        /// The proposal.
        case proposal
        /// The core itself: one configuration entry, the first of its term.
        case configuration(Configuration)
    }
    /// If set, this entry and everything behind it goes first.
    public var truncateFrom: LogIndex?
    /// Index of the first added entry.
    public var first: LogIndex
    /// How many are added, at least one.
    public var count: Int
    /// Term of the added entries if the source is not a message.
    public var term: Term
    /// Where they come from.
    public var source: Source
    /// A change.
    public init(truncateFrom: LogIndex?, first: LogIndex, count: Int, term: Term, source: Source) {
        self.truncateFrom = truncateFrom
        self.first = first
        self.count = count
        self.term = term
        self.source = source
    }
}

/// Why a message was not acted upon: it breaks the protocol. Counted by name.
public enum Refusal: String, Sendable, CaseIterable {
    /// A second leader in one term.
    case twoLeadersInOneTerm
    /// Entries would replace committed ones.
    case conflictsWithCommitted
    /// Terms of the entries go back, or exceed the leader's.
    case termsOutOfOrder
    /// An index or a term below zero, an overflow, or a configuration without its entry.
    case malformed
    /// An answer to something never asked, or from somebody unknown.
    case unexpectedReply
}

/// What to do, in the order of duty. The host keeps one buffer, drains it after each step and reuses it.
public struct Effects: Sendable {
    /// May leave now, before anything is durable.
    public var messages: [Outbound] = []
    /// Answers the received request; may leave now.
    public var reply: Message?
    /// Must become durable, together with ``logChange``.
    public var hardState: HardState?
    /// Must become durable, together with ``hardState``.
    public var logChange: LogChange?
    /// Answers the received request, only after this and every earlier write of the group is durable.
    public var acknowledgement: Message?
    /// Leave only after this and every earlier write of the group is durable.
    public var durableMessages: [Outbound] = []
    /// Everything up to here is committed and durable here: apply it.
    public var applicable: LogIndex?
    /// Reads that may be evaluated as soon as the index is applied.
    public var readyReads: [(read: UInt64, index: LogIndex)] = []
    /// Reads that this replica cannot serve (any more): ask the leader.
    public var failedReads: [UInt64] = []
    /// Whether role, term or leader changed.
    public var statusChanged = false
    /// Why the received message was not acted upon.
    public var refusal: Refusal?

    /// An empty buffer.
    public init() {}

    /// Empties the buffer and keeps its memory.
    public mutating func removeAll() {
        messages.removeAll(keepingCapacity: true)
        reply = nil
        hardState = nil
        logChange = nil
        acknowledgement = nil
        durableMessages.removeAll(keepingCapacity: true)
        applicable = nil
        readyReads.removeAll(keepingCapacity: true)
        failedReads.removeAll(keepingCapacity: true)
        statusChanged = false
        refusal = nil
    }
}

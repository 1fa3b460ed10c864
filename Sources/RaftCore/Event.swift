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
    /// A message came in; `run` is the run number of the sender's node when it was sent, zero if nobody knows.
    /// `isForeign` if the sender has shown that it knows no promises, also where liveness knows nothing of it.
    case received(Message, from: PeerID, run: UInt64 = 0, isForeign: Bool = false)
    /// A client proposes this many data entries; ignored unless the replica leads (the host asks first).
    case proposed(count: Int)
    /// A write of the log, and everything before it, is durable.
    case persisted(DurableMark)
    /// Somebody wants to read linearizably; the answer is a ready or a failed read of this number. With `lease` a
    /// leader may answer without asking anybody, see ``ReadyRead/lease``.
    case readRequested(UInt64, lease: Bool)
    /// A request for the leader's read index was not answered.
    case readIndexFailed(ReadIndexRequest)
    /// ``Raft/deadline`` has come.
    case deadlineReached
    /// The connection to a node broke: requests under way to it are lost.
    case connectionLost(NodeAddress)
    /// An append was answered with an RPC error; `isBusy` if that asks for more patience than others do (braft's EBUSY
    /// and EINTR).
    case appendFailed(AppendTicket, peer: PeerID, isBusy: Bool = false)
    /// A promise between this node and that one was gained or lapsed, or the node started anew, or can be reached
    /// again.
    case livenessChanged(NodeAddress)
    /// Hand leadership to this voter (dissertation §3.10); nil: to the most up-to-date one that supports us.
    case transferRequested(PeerID?)
    /// Lead no more, for the node cannot do what a leader must: its state machine or its log is in trouble.
    case stepDownRequested
    /// Change the membership to this one (dissertation §4.3); the answer is a finished change of this number.
    case membershipRequested(UInt64, Configuration)
    /// An operator's order after a majority was lost for good: this membership is in force at once, whatever the log
    /// says. Loses what only the lost majority knew. Answered like a change.
    case resetRequested(UInt64, Configuration)
    /// The log's entries up to here, all applied, are about to be dropped.
    case compacted(through: LogIndex)
    /// A snapshot asked for by ``Effects/snapshotWanted`` is here, complete and durable but not in force.
    case snapshotReceived(SnapshotMeta)
    /// Sending a snapshot ended: `peer` holds everything up to `installed`, or it failed.
    case snapshotSent(to: PeerID, installed: LogIndex?)
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
        /// The leader of this term leads no more.
        case release(ReleaseRequest)
        /// A follower's question up to where it must apply to read.
        case readIndex(ReadIndexRequest)
        /// The receiver needs entries that the log no longer has: the host sends a snapshot in the name of the leader
        /// of this term, and reports ``Event/snapshotSent(to:installed:)`` exactly once.
        case snapshot(Term)
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

/// What happened to a replica's campaigns in one step.
public struct ElectionNotes: OptionSet, Sendable {
    /// The bits.
    public let rawValue: UInt8
    /// Of bits.
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// It asked for pre-votes: a campaign begins.
    public static let asked = ElectionNotes(rawValue: 1)
    /// It stood for election, in a term of its own.
    public static let stood = ElectionNotes(rawValue: 2)
    /// It won.
    public static let won = ElectionNotes(rawValue: 4)
    /// It lost: too many refused, or cannot answer.
    public static let refused = ElectionNotes(rawValue: 8)
    /// It lost: too few answered within an election timeout.
    public static let unanswered = ElectionNotes(rawValue: 16)
    /// It lost: others have reached a higher term.
    public static let lostToTerm = ElectionNotes(rawValue: 32)
    /// It lost: there is a leader.
    public static let lostToLeader = ElectionNotes(rawValue: 64)
    /// All of them by name.
    public static let names: [(note: ElectionNotes, name: String)] = [
        (.asked, "asked"), (.stood, "stood"), (.won, "won"), (.refused, "refused"), (.unanswered, "unanswered"),
        (.lostToTerm, "lost_to_term"), (.lostToLeader, "lost_to_leader"),
    ]
}

/// What a request for a vote, or a pre-vote, came to.
public enum VoteVerdict: String, Sendable, CaseIterable {
    /// It is given.
    case granted
    /// Not by a node that has just started.
    case quiet
    /// Not by who is loyal to a leader, or leads.
    case loyal
    /// Not in a term that is over.
    case outdated
    /// Not to somebody whose log lacks what may be committed.
    case shorterLog = "shorter_log"
    /// Not in a term in which somebody else has it, or that has a leader.
    case taken
}

/// Why a message was not acted upon: it breaks the protocol. Counted by name.
public enum Refusal: String, Sendable, CaseIterable {
    /// A second leader in one term.
    case twoLeadersInOneTerm
    /// Entries would replace committed ones.
    case conflictsWithCommitted
    /// Terms of the entries go back, or exceed the leader's.
    case termsOutOfOrder
    /// An index or a term below zero or beyond all counting, a request of term zero, a place in a log that none has, a
    /// configuration without its entry, or a message from the replica itself.
    case malformed
    /// An answer to something never asked.
    case unexpectedReply
    /// An answer or a question from somebody who is no member.
    case unknownPeer
    /// A success for entries that this leader never had.
    case acknowledgedTooMuch
    /// A snapshot of a place that the log contradicts although it is committed.
    case conflictingSnapshot
}

/// A read whose moment has come.
public struct ReadyRead: Equatable, Sendable {
    /// The read's number.
    public var read: UInt64
    /// Evaluate it as soon as this index is applied.
    public var index: LogIndex
    /// Set: no majority was asked. The result counts only if ``Raft/holdsLease(of:now:liveness:)`` is true for this term
    /// at a time taken *after* the evaluation; otherwise request the read again without lease.
    public var lease: Term?
    /// A read.
    public init(read: UInt64, index: LogIndex, lease: Term?) {
        self.read = read
        self.index = index
        self.lease = lease
    }
}

/// What came of a change of membership.
public enum ChangeOutcome: Equatable, Sendable {
    /// In force and committed, by the entry at this index; a forced reset is in force only.
    case done(LogIndex)
    /// Nothing was changed.
    case refused(ChangeRefusal)
    /// Nothing was changed: this newcomer did not catch up in time.
    case notCaughtUp(PeerID)
    /// Leadership ended first: the next leader may complete the change, or not.
    case unknown
}

/// Why a change of membership was not begun.
public enum ChangeRefusal: String, Equatable, Sendable {
    /// This replica does not lead.
    case notLeader
    /// Another change or a hand-over is under way, or the leader's first entry is not committed yet.
    case busy
    /// Nobody would be left to vote with a state of its own.
    case noVoters
    /// A voter would become a witness, or a witness a replica: it comes back under another idx.
    case roleChange
    /// A reset must keep this replica as a voter, and is not for a group that has its majority.
    case notApplicable
    /// braft knows no learners: a group has none while it has a foreign member.
    case foreignWithLearners
}

/// A snapshot takes the place of the log's beginning.
public struct SnapshotInstall: Equatable, Sendable {
    /// Which one.
    public var meta: SnapshotMeta
    /// Whether the entries behind it stay; otherwise the whole log goes.
    public var keepsSuffix: Bool
    /// An installation.
    public init(meta: SnapshotMeta, keepsSuffix: Bool) {
        self.meta = meta
        self.keepsSuffix = keepsSuffix
    }
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
    /// Must become durable, together with ``hardState``: the snapshot just received is in force from now on.
    public var install: SnapshotInstall?
    /// Answers the received request, only after this and every earlier write of the group is durable.
    public var acknowledgement: Message?
    /// Leave only after this and every earlier write of the group is durable.
    public var durableMessages: [Outbound] = []
    /// Everything up to here is committed and durable here: apply it.
    public var applicable: LogIndex?
    /// Get this snapshot from the leader that asked; then comes ``Event/snapshotReceived(_:)``, or nothing.
    public var snapshotWanted: SnapshotMeta?
    /// Reads that may be evaluated as soon as the index is applied.
    public var readyReads: [ReadyRead] = []
    /// Reads that this replica cannot serve (any more): ask the leader.
    public var failedReads: [UInt64] = []
    /// Answers to questions for the read index that came earlier.
    public var readIndexReplies: [(to: PeerID, reply: ReadIndexReply)] = []
    /// Changes of membership that have ended.
    public var finishedChanges: [(change: UInt64, outcome: ChangeOutcome)] = []
    /// What came of this replica's campaigns; for counting.
    public var elections = ElectionNotes()
    /// What a request for a vote, or a pre-vote, came to; for counting.
    public var verdict: VoteVerdict?
    /// Whether role, term or leader changed.
    public var statusChanged = false
    /// Whether ``Raft/peers`` may have changed.
    public var peersChanged = false
    /// Why the received message was not acted upon.
    public var refusal: Refusal?

    /// An empty buffer.
    public init() {}

    /// Empties the buffer and keeps its memory.
    public mutating func removeAll() {
        // most are empty after most steps, and to look costs less than to release what is not there
        if !messages.isEmpty { messages.removeAll(keepingCapacity: true) }
        if case .some = reply { reply = nil }
        hardState = nil
        if case .some = logChange { logChange = nil }
        if case .some = install { install = nil }
        if case .some = acknowledgement { acknowledgement = nil }
        if !durableMessages.isEmpty { durableMessages.removeAll(keepingCapacity: true) }
        applicable = nil
        if case .some = snapshotWanted { snapshotWanted = nil }
        if !readyReads.isEmpty { readyReads.removeAll(keepingCapacity: true) }
        if !failedReads.isEmpty { failedReads.removeAll(keepingCapacity: true) }
        if !readIndexReplies.isEmpty { readIndexReplies.removeAll(keepingCapacity: true) }
        if !finishedChanges.isEmpty { finishedChanges.removeAll(keepingCapacity: true) }
        elections = []
        verdict = nil
        statusChanged = false
        peersChanged = false
        refusal = nil
    }
}

public import RaftCore
import RaftStorage
import Transport

/// What came of a proposal.
public enum ProposalOutcome: Sendable {
    /// Committed and applied; the state machine's reply, and the entry.
    case applied(Bytes, LogPosition)
    /// Not proposed: the replica does not lead. The leader, if one is known.
    case notLeader(PeerID?)
    /// Not proposed, for this reason.
    case refused(ProposalRefusal)
    /// Leadership was lost before it was applied: it may still be, or not.
    case unknown
}

/// Why a proposal was not accepted.
public enum ProposalRefusal: Sendable, Equatable {
    /// Too much is waiting already.
    case busy
    /// The disk has too little room.
    case diskFull
    /// The replica's log or state is damaged.
    case damaged
    /// The payload is larger than an entry may be.
    case tooLarge
    /// The node is stopping, or leadership is being handed over.
    case stopping
    /// There is no such group here, or no more.
    case noSuchGroup
    /// Not every node's program need know such a command; said by who proposes.
    case levelTooLow
}

/// A moment at which a replica's state is recent enough for a linearizable answer.
public struct ReadMoment: Sendable {
    let group: String
    /// The replica's number: it counts only while that is here.
    let replica: LogGroup
    /// Set: it counts only if this term's lease stands when the state has been looked at.
    let lease: Term?
}

/// What came of a wish to read linearizably.
public enum ReadOutcome: Sendable {
    /// The state machine has everything a read must see: evaluate it, see ``RaftHost/evaluate(at:_:completion:)``.
    case ready(ReadMoment)
    /// The replica does not lead. The leader, if one is known.
    case notLeader(PeerID?)
    /// Not possible, for this reason.
    case refused(ProposalRefusal)
}

/// How a replica is doing, for people and tools.
public struct ReplicaStatus: Sendable {
    /// The group.
    public var group: String
    /// What kind of state machine it has; the owner's word.
    public var kind: String
    /// This member.
    public var peer: PeerID
    /// `leader`, `follower`, `candidate` or `damaged`.
    public var state: String
    /// Its term.
    public var term: Term
    /// Who leads, as far as it knows.
    public var leader: PeerID?
    /// Highest index known committed.
    public var commitIndex: LogIndex
    /// Highest index applied.
    public var appliedIndex: LogIndex
    /// Last index of its log.
    public var lastIndex: LogIndex
    /// Last index of its log that is durable.
    public var durableIndex: LogIndex
    /// The membership in force.
    public var configuration: Configuration
    /// The last entry that its log ever held, while it lacks a part of it and heals; nil otherwise.
    public var debt: LogPosition?
    /// Why it does not serve, or does not get on, if so.
    public var problem: String?
}

/// What a node remembers of a replica it holds.
public struct ReplicaRecord: Equatable, Sendable {
    /// The group.
    public var group: String
    /// This member of it.
    public var peer: PeerID
    /// The replica's number on this node, in the log; never reused.
    public var number: UInt64
    /// The membership at the group's birth.
    public var birth: Configuration
    /// What kind of state machine it has; the owner's word.
    public var kind: String
    /// The number of its state in the store: ``number``, until a snapshot was installed under another.
    public var store: UInt64
    /// The version of the map that wanted it; nil: nobody said.
    public var mapVersion: UInt64?
    /// What is wrong with that state, as far as comparisons with others have told.
    var fence: Fence?
    /// It may have followed a foreign leader lately, and owe that one a lease after a restart.
    var followedForeigners = false

    /// A record.
    public init(group: String, peer: PeerID, number: UInt64, birth: Configuration, kind: String) {
        self.group = group
        self.peer = peer
        self.number = number
        self.birth = birth
        self.kind = kind
        self.store = number
    }
}

/// One group's member on this node: the core, the log's young end in memory, and whoever waits for something.
/// Lane-confined; what goes to the workers is handed over by value. Completions that run on the lane may carry it past
/// a worker.
final class Replica: @unchecked Sendable {
    var record: ReplicaRecord
    let slot: Int
    var stateMachine: any StateMachine
    var raft: Raft
    /// It takes part in nothing any more; whoever still knows it lets go of it.
    var isRemoved = false
    /// The log's young end: everything not durable yet, and as much of the rest as its bounds allow.
    var tail = LogTail()
    /// Set while a part of the log that was durable cannot be read.
    var logProblem: String?
    /// There is a debt in the log.
    var owes = false
    var foreignLeaders = ForeignLeaders.none
    /// Set while the state machine cannot go on.
    var applyProblem: String?
    /// Set once its state was found to differ from the others'; until it gets another state.
    var fence: Fence?
    /// The fenced state is gone; the one made anew of the log is applied to, and serves once it was compared well.
    var trial: StateTrial?
    var comparison = ComparisonState()
    /// Why the replica does not serve, if it does not.
    var problem: String? { logProblem ?? trial?.problem ?? fence?.problem ?? applyProblem }
    /// Set while nothing is given to the state machine: when it is made anew from what the store holds.
    var applyRetry: Instant?

    /// Index up to which applying was ordered, and done.
    var applyOrdered: LogIndex
    var applied: LogIndex
    var applicable: LogIndex

    /// Proposals of this turn, not given to the core yet.
    var proposing: [(payload: Bytes, completion: (ProposalOutcome) -> Void)] = []
    var proposed = FIFO<Proposed>()
    /// Payload bytes of both.
    var proposedBytes = 0

    /// Reads of this turn; reads whose round is under way; reads that wait for their index to be applied.
    var reading: [(ReadOutcome) -> Void] = []
    /// Those that must not rely on a lease.
    var asking: [(ReadOutcome) -> Void] = []
    var readRounds = FIFO<(read: UInt64, since: Instant, completions: [(ReadOutcome) -> Void])>()
    var awaitingApply: [(index: LogIndex, moment: ReadMoment, completions: [(ReadOutcome) -> Void])] = []
    /// Reads in the four of them.
    var readsWaiting = 0
    /// Followers that asked for the read index, by the number their question got here.
    var questions: [UInt64: RpcResponder] = [:]
    /// Whoever waits for a change of membership, by its number.
    var changes: [UInt64: (ChangeOutcome) -> Void] = [:]

    /// The deadline last given to the heap.
    var armed: Instant?
    /// Nodes that came to support this leader, or did so anew: told when the pacer lets it go.
    var news: [NodeAddress] = []
    var isDirty = false
    var isReadyToApply = false
    var outlets: [Outlet] = []
    /// The nodes of the other members, under which the host knows it.
    var circle: [NodeAddress] = []
    /// How often it tried to hand over because it cannot serve.
    var handOvers = 0

    /// Memberships along the log, ascending: the one in force at the base, then the entries'.
    var memberships: [PlacedConfiguration]
    var growth = LogGrowth()
    /// The log is looked at for compaction when it has so many bytes, or entries.
    var compactionBytes: Int
    var compactionEntries: Int
    var isCompactionCandidate = false
    /// Peers for which the log is kept.
    var pins: [SnapshotPin] = []
    /// Snapshots for peers.
    var outgoing: [OutgoingSnapshot] = []
    /// Peers for which the state is being frozen.
    var freezing: [PeerID] = []
    /// What brafts said that did not take the snapshot offered to them last.
    var snapshotRefusals: [(peer: PeerID, text: String)] = []
    /// The entry of a snapshot that was offered and cannot be taken: nothing else brings what is missing up to there.
    var unusable: LogIndex?
    /// The snapshot being received.
    var incoming: IncomingSnapshot?
    /// None is received before, for the last one could not be installed.
    var nextIncoming = Instant.distantPast
    /// Set while a snapshot's state is about to take the place of the present one, to which nothing is applied any
    /// more.
    var isSwitching = false
    /// When its state is saved, if it has a volatile one.
    var saves: SaveSchedule?
    /// What its state holds durably, as far as that was read back last.
    var durableState = LogIndex.zero
    /// Its state is being saved, or waits for that.
    var isSaving = false
    /// How often the state machine failed since it last went on.
    var failures = 0
    /// How often the present state was found damaged by a read, whether or not it was opened anew in between.
    var failedReads = 0
    /// Its state is lost: it waits for a snapshot.
    var needsState = false
    /// Counts the states it has had: what is applied to an earlier one is nothing to this one.
    var generation = 0
    /// How often entries were taken back from the log.
    var truncations = 0
    /// The proposal that is followed on its way.
    var followed: FollowedProposal?
    /// Entries applied and reads answered; and how many there were when the busiest groups were looked for.
    var operations: UInt64 = 0
    var operationsSeen: UInt64 = 0
    var isActive = false
    /// When something was applied last, and whether that is to be looked at.
    var warmedAt = Instant.distantPast
    var isWarm = false
    /// Set for a guest.
    let guest: GuestDuties?

    init(
        record: ReplicaRecord, slot: Int, raft: Raft, stateMachine: any StateMachine, applied: LogIndex,
        memberships: [PlacedConfiguration], settings: RaftHost.Settings
    ) {
        self.record = record
        self.slot = slot
        self.raft = raft
        self.memberships = memberships
        self.compactionBytes = settings.compactionBytes
        self.compactionEntries = settings.compactionEntries
        self.stateMachine = stateMachine
        self.applied = applied
        self.applyOrdered = applied
        self.applicable = applied
        self.tail = LogTail(after: raft.lastIndex)
        guest = record.kind == RaftHost.guestKind ? GuestDuties(settings) : nil
        if record.followedForeigners { foreignLeaders = .remembered }
        adopt(stateMachine, settings)
    }

    /// Has `machine`, to which nothing has been applied yet, take the place of the one there was.
    func adopt(_ machine: any StateMachine, _ settings: RaftHost.Settings) {
        stateMachine = machine
        guard machine is SnapshottedStateMachine else { return saves = nil }
        saves = SaveSchedule(settings, group: group, peer: id, saved: machine.appliedPosition.index)
    }

    var group: String { record.group }
    var id: PeerID { record.peer }
    /// Whether nobody here understands its entries.
    var isGuest: Bool { guest != nil }

    /// The entry at `index` and all behind it are gone.
    func cutLog(from index: LogIndex) {
        truncations += 1
        tail.truncate(from: index)
        growth.truncate(from: index)
        memberships.removeAll { $0.index >= index }
    }

    /// The log was looked at for compaction: next time when it has grown by a fraction of what it may have.
    func noteLook(_ settings: RaftHost.Settings) {
        let entries = raft.base.index.distance(to: raft.lastIndex)
        compactionBytes = max(settings.compactionBytes, growth.bytes + settings.compactionBytes / 4)
        compactionEntries = max(settings.compactionEntries, entries + settings.compactionEntries / 4)
    }

    /// The beginning of the log is gone, or all of it.
    func noteStart(_ start: LogStart) {
        switch start {
        case .compact(let base):
            growth.compact(through: base.position.index)
            memberships.removeAll { $0.index <= base.position.index }
            memberships.insert(
                PlacedConfiguration(index: base.position.index, configuration: base.configuration), at: 0)
        case .reset(let base):
            growth.reset()
            memberships = [PlacedConfiguration(index: base.position.index, configuration: base.configuration)]
            tail = LogTail(after: base.position.index)
            for outlet in outlets { outlet.clear() }
        }
    }

    /// Answers everybody who waits: what was accepted may be executed by others, the rest is not, for the reason given.
    func dismiss(_ refusal: ProposalRefusal) {
        let accepted = proposed.removeAll()
        let refused = proposing
        let rounds = readRounds.removeAll().map(\.completions) + awaitingApply.map(\.completions) + [reading, asking]
        let waiting = changes.keys.sorted().compactMap { changes[$0] }
        (proposing, awaitingApply, reading, asking, changes) = ([], [], [], [], [:])
        for completion in waiting { completion(.unknown) }
        for proposal in accepted { proposal.completion(.unknown) }
        for proposal in refused { proposal.completion(.refused(refusal)) }
        for completion in rounds.joined() { completion(.refused(refusal)) }
    }

    func status() -> ReplicaStatus {
        let lacks = unusable.flatMap { raft.commitIndex < $0 ? $0 : nil }.map {
            "it lacks entries up to \($0), which its leader has no more, and its state machine takes no snapshot"
        }
        let state =
            if problem != nil {
                "damaged"
            } else {
                switch raft.role {
                case .leader: "leader"
                case .candidate, .preCandidate: "candidate"
                case .follower: "follower"
                }
            }
        return ReplicaStatus(
            group: group, kind: record.kind, peer: id, state: state, term: raft.term, leader: raft.leader,
            commitIndex: raft.commitIndex, appliedIndex: applied, lastIndex: raft.lastIndex,
            durableIndex: raft.durableIndex,
            configuration: raft.configuration, debt: raft.debt, problem: problem ?? lacks ?? guest?.complaint)
    }
}

/// A proposal in the log, until it is applied.
struct Proposed {
    var position: LogPosition
    var byteCount: Int
    var completion: (ProposalOutcome) -> Void
}

/// The young end of a group's log in memory, contiguous.
struct LogTail {
    private var entries: [LogEntry] = []
    private var head = 0
    /// Index of the first entry held; one past the log's end if none is.
    private(set) var first: LogIndex
    /// Payload bytes held.
    private(set) var bytes = 0

    init(after last: LogIndex = .zero) { first = last.next }

    var count: Int { entries.count - head }
    var last: LogIndex { first.advanced(by: count - 1) }

    mutating func append(_ entry: LogEntry) {
        precondition(entry.position.index == first.advanced(by: count), "a gap in the log's tail")
        bytes += entry.payload.count
        entries.append(entry)
    }

    /// Removes `index` and everything behind it.
    mutating func truncate(from index: LogIndex) {
        if index < first {
            entries.removeAll()
            head = 0
            bytes = 0
            first = index
            return
        }
        while count > 0, last >= index { bytes -= entries.removeLast().payload.count }
    }

    /// The entries `from ... through`, or nil if the first of them is not held any more.
    func slice(from: LogIndex, count wanted: Int) -> ArraySlice<LogEntry>? {
        guard from >= first else { return nil }
        let start = head + first.distance(to: from)
        guard start <= entries.count else { return nil }
        return entries[start..<min(start + wanted, entries.count)]
    }

    /// Forgets old entries up to and including `index` while more than `budget` bytes or `limit` entries are held.
    mutating func trim(through index: LogIndex, budget: Int, count limit: Int = 16_384) {
        while count > 0, first <= index, bytes > budget || count > limit {
            bytes -= entries[head].payload.count
            entries[head].payload = Bytes()
            head += 1
            first = first.next
        }
        if head > 1024, head * 2 > entries.count {
            entries.removeFirst(head)
            head = 0
        }
    }
}

/// A queue on an array; popping moves a mark, memory is given back when half of it is behind the mark.
struct FIFO<Element> {
    private var items: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == items.count }
    var count: Int { items.count - head }
    var first: Element? { isEmpty ? nil : items[head] }

    mutating func append(_ element: Element) { items.append(element) }

    mutating func popFirst() -> Element? {
        guard !isEmpty, let element = items[head] else { return nil }
        items[head] = nil
        head += 1
        if head == items.count {
            items.removeAll(keepingCapacity: true)
            head = 0
        } else if head >= 64, head * 2 >= items.count {
            items.removeFirst(head)
            head = 0
        }
        return element
    }

    /// Gives back its memory, if nothing waits in it.
    mutating func giveBack() { if isEmpty { (items, head) = ([], 0) } }

    var last: Element? { isEmpty ? nil : items[items.count - 1] }

    mutating func popLast() -> Element? {
        guard let last, !isEmpty else { return nil }
        items.removeLast()
        if head == items.count {
            items.removeAll(keepingCapacity: true)
            head = 0
        }
        return last
    }

    mutating func prepend(_ element: Element) {
        if head > 0 {
            head -= 1
            items[head] = element
        } else {
            items.insert(element, at: 0)
        }
    }

    mutating func removeAll() -> [Element] {
        defer {
            items.removeAll(keepingCapacity: true)
            head = 0
        }
        return items[head...].compactMap { $0 }
    }
}

import RaftCore

/// Watches a cluster and knows the properties of Figure 3, and what leases, reads and disks promise.
struct CoreJudge {
    private var leaders: [Term: PeerID] = [:]
    /// What is committed, the term of whoever knew it first, and the state's digest behind it.
    private(set) var committed: [CoreEntry] = []
    private var knownIn: [Term] = []
    private var digests: [UInt64] = [CoreState().digest]
    /// Up to where each node's commit index was looked at.
    private var judged: [LogIndex] = []
    /// The latest term whose leader has committed something.
    private var committingTerm = Term.zero
    /// Every entry that was ever in a log, and the term before it.
    private var known: [LogPosition: (entry: CoreEntry, previous: Term)] = [:]
    private var reads: [UInt64: LogIndex] = [:]
    private var nextRead: UInt64 = 0
    /// After a majority was lost for good, commits cannot be counted on disks that are gone.
    var isMajorityLost = false
    private(set) var finishedReads = 0
    private(set) var leaseReads = 0
    private(set) var failedReads = 0
    private(set) var finishedChanges = 0
    private(set) var installedSnapshots = 0
    var terms: Int { leaders.count }

    var commitIndex: LogIndex { LogIndex(Int64(committed.count)) }

    /// Whether a promise of a node to another stood when somebody looked last, by both their positions, and its name.
    private var promises: [Int: (stamp: SupportStamp, stood: Bool)] = [:]
    /// The first thing that must not happen and did.
    private(set) var violation: Violation?

    /// Records a violation of what `checker` stands for if `holds` is false; the first only, for one brings many.
    mutating func check(
        _ holds: Bool, _ checker: String, _ facts: @autoclosure () -> String, at time: Int64
    ) {
        guard !holds, violation == nil else { return }
        violation = Violation(checker, "\(facts()), at \(time / 1_000_000) ms")
    }

    /// What a replica was before an event: who counted for what it committed thereby, and whether it led.
    struct Before {
        var voters: Configuration
        var isLeader: Bool
        var commitIndex: LogIndex
    }

    /// Looks at a node that has just taken in an event.
    mutating func inspect(_ node: Int, _ nodes: [CoreNode], _ before: Before, at time: Int64) {
        let raft = nodes[node].raft
        inspectCommitted(node, nodes, before, at: time)
        guard raft.isLeader else { return }
        if leaders[raft.term] != raft.id { inspectLeader(nodes[node], at: time) }
        if raft.term < committingTerm { inspectLease(nodes[node], at: time) }
    }

    // MARK: Figure 3

    /// State Machine Safety: what is committed is the same everywhere and never changes.
    private mutating func inspectCommitted(
        _ node: Int, _ nodes: [CoreNode], _ before: Before, at time: Int64
    ) {
        while judged.count < nodes.count { judged.append(.zero) }
        let raft = nodes[node].raft
        let commit = raft.commitIndex
        check(
            commit >= before.commitIndex || isMajorityLost, "CommittedNeverChanges",
            "\(raft.id) has committed \(before.commitIndex), and then \(commit)", at: time)
        guard commit != judged[node] else { return }
        var index = min(judged[node], commit)
        judged[node] = commit
        let isNew = commit > commitIndex
        while index < commit {
            index = index.next
            guard let entry = nodes[node].log[index] else { continue }
            if index <= commitIndex {
                let isSame = entry.agrees(with: committed[Int(index.rawValue) - 1])
                check(
                    isSame, "CommittedNeverChanges", "\(raft.id) has another entry \(index) than was committed",
                    at: time)
            } else {
                committed.append(entry)
                knownIn.append(raft.term)
                digests.append(CoreState.digest(after: digests[digests.count - 1], value: entry.value))
            }
        }
        check(commit <= commitIndex, "CommittedNeverChanges", "\(raft.id) skipped something", at: time)
        guard isNew, commit <= commitIndex else { return }
        check(
            raft.isLeader || before.isLeader, "LeaderCompleteness", "committed by somebody who does not lead", at: time)
        committingTerm = max(committingTerm, raft.term)
        for other in nodes where other.isUp && other.raft.isLeader && other.raft.term < committingTerm {
            inspectLease(other, at: time)
        }
        guard !isMajorityLost else { return }
        let last = LogPosition(term: committed[committed.count - 1].term, index: commit)
        let isDurable = before.voters.hasMajority {
            let disk = nodes[CoreCluster.position(of: $0)].disk
            // who acknowledged it and then lost it votes as if it had it
            return disk.holds(last) || disk.lost.contains(last)
        }
        check(
            isDurable, "DurableBeforeAcknowledged", "\(raft.id) committed \(last), which no majority holds durably",
            at: time)
    }

    /// Election Safety and Leader Completeness.
    private mutating func inspectLeader(_ node: CoreNode, at time: Int64) {
        let raft = node.raft
        check(leaders[raft.term] == nil, "OneLeaderPerTerm", "two leaders in term \(raft.term)", at: time)
        check(!node.isWitness, "Roles", "a witness leads", at: time)
        leaders[raft.term] = node.id
        for (offset, entry) in committed.enumerated() where knownIn[offset] < raft.term {
            let index = LogIndex(Int64(offset) + 1)
            guard index >= node.log.base.index else { continue }
            let holds = node.log.term(at: index) == entry.term
            check(
                holds, "LeaderCompleteness", "\(raft.id) leads term \(raft.term) without committed entry \(index)",
                at: time)
        }
    }

    /// Log Matching: same index and term, same entry and same term before it; so, by induction, same log.
    mutating func inspectMatching(_ entry: CoreEntry, _ index: LogIndex, previous: Term, at time: Int64) {
        let position = LogPosition(term: entry.term, index: index)
        guard let first = known[position] else { return known[position] = (entry, previous) }
        let isSame = first.previous == previous && first.entry.agrees(with: entry)
        check(isSame, "LogMatching", "two entries \(position)", at: time)
        if first.entry.value == 0 { known[position] = (entry, previous) }
    }

    /// Every state machine applies the same sequence, whether from the log or out of a snapshot.
    mutating func inspectApplied(_ node: CoreNode, at time: Int64) {
        let state = node.state
        guard state.index <= commitIndex else {
            return check(
                false, "AppliedSequencesEqual", "\(node.id) applied \(state.index), which is not committed", at: time)
        }
        guard !node.isWitness else { return }
        let isSame = digests[Int(state.index.rawValue)] == state.digest
        check(isSame, "AppliedSequencesEqual", "\(node.id) applied another sequence up to \(state.index)", at: time)
    }

    /// Whoever holds a committed entry in the term in which it was committed or later keeps it, or a snapshot that
    /// stands for it. The leader of an earlier term may still have it dropped where it did not count.
    mutating func inspectDropped(from index: LogIndex, of node: CoreNode, at time: Int64) {
        guard index > .zero, index <= commitIndex, let entry = node.log[index] else { return }
        let place = Int(index.rawValue) - 1
        let isCommitted = node.raft.term >= knownIn[place] && entry.agrees(with: committed[place])
        check(!isCommitted, "CommittedNeverChanges", "\(node.id) drops \(index), which is committed", at: time)
    }

    mutating func noteInstalled() { installedSnapshots += 1 }

    /// The membership in force is the last one in the log, committed or not (§4.1). Only an operator who gives a lost
    /// majority up puts another one in force first.
    mutating func inspectMembership(of node: CoreNode, at time: Int64) {
        guard !isMajorityLost else { return }
        let logged = node.log.configuration(at: node.log.lastIndex) ?? .empty
        check(
            node.raft.configuration == logged, "MembershipFollowsLog",
            "in force at \(node.id): \(node.raft.configuration), in its log: \(logged)", at: time)
    }

    // MARK: Disks

    /// The term never goes back, nor does a vote change (§5.2).
    mutating func inspectHardState(_ before: HardState, _ after: HardState, at time: Int64) {
        let isForward =
            after.term > before.term || (after.term == before.term && (before.vote == nil || after.vote == before.vote))
        check(isForward, "HardStateNeverGoesBack", "hard state went from \(before) to \(after)", at: time)
    }

    /// Nothing is said before it is durable.
    mutating func inspectSaid(_ packet: CorePacket, by node: CoreNode, at time: Int64) {
        let hardState = node.disk.hardState
        func isDurable(_ term: Term, votedFor vote: PeerID) -> Bool {
            hardState.term > term || hardState == HardState(term: term, vote: vote)
        }
        switch packet.body {
        case .vote(let request) where !request.isPreVote:
            check(
                isDurable(request.term, votedFor: node.id), "DurableBeforeAcknowledged",
                "asked for votes before the own was durable", at: time)
        case .reply(.voteReply(let reply)) where reply.granted && !reply.isPreVote:
            let voted = CoreCluster.id(packet.to)
            check(
                isDurable(reply.requestTerm, votedFor: voted), "DurableBeforeAcknowledged",
                "voted before it was durable", at: time)
        case .reply(.appendReply(let reply)) where reply.success:
            check(
                hardState.term >= reply.term, "DurableBeforeAcknowledged",
                "acknowledged in a term that was not durable", at: time)
            check(
                node.disk.holds(packet.vouched!), "DurableBeforeAcknowledged",
                "acknowledged entries that were not durable", at: time)
        case .snapshotReply(let reply, _, _) where reply.success:
            check(
                node.disk.holds(packet.vouched!), "DurableBeforeAcknowledged",
                "acknowledged a snapshot that was not durable", at: time)
        default: break
        }
    }

    // MARK: Reads and leases

    mutating func beginRead() -> UInt64 {
        nextRead += 1
        reads[nextRead] = commitIndex
        return nextRead
    }

    /// A read sees whatever was committed, so whatever was acknowledged to anybody, when it was asked for.
    mutating func finishRead(_ read: UInt64, seen index: LogIndex, lease: Bool = false, at time: Int64) {
        // one that was asked for before a majority was lost has lost its claim
        guard let floor = reads.removeValue(forKey: read) else { return }
        finishedReads += 1
        if lease { leaseReads += 1 }
        check(
            index >= floor, "ReadsAreFresh", "a stale read\(lease ? " by lease" : "") saw \(index), not \(floor)",
            at: time)
    }

    mutating func failRead(_ read: UInt64) {
        if reads.removeValue(forKey: read) != nil { failedReads += 1 }
    }

    /// While a lease is held, no other leader commits.
    private mutating func inspectLease(_ node: CoreNode, at time: Int64) {
        let holds = node.raft.holdsLease(
            of: node.raft.term, now: node.localTime(time), liveness: node.liveness)
        let newest = committingTerm
        check(
            !holds, "LeaseSafety", "\(node.id) holds a lease of term \(node.raft.term) after one of \(newest)", at: time
        )
    }

    /// An asker never counts longer on a promise than the supporter.
    mutating func inspectPromises(of node: Int, _ nodes: [CoreNode], at time: Int64) {
        for other in nodes where other.isUp && other.id != nodes[node].id {
            inspectPromise(of: other, to: nodes[node], at: time)
            inspectPromise(of: nodes[node], to: other, at: time)
        }
    }

    private mutating func inspectPromise(of supporter: CoreNode, to asker: CoreNode, at time: Int64) {
        inspectStamp(of: supporter, to: asker, at: time)
        guard asker.liveness.supportStands(from: supporter.id.address, now: asker.localTime(time)),
            asker.liveness.runNumber(of: supporter.id.address) == supporter.run
        else { return }
        let isKept = supporter.liveness.promiseStands(to: asker.id.address, now: supporter.localTime(time))
        check(isKept, "PromisesAreKept", "a promise that is counted on has ended", at: time)
    }

    /// A promise that has ended never stands again: the next one has another name.
    private mutating func inspectStamp(of supporter: CoreNode, to asker: CoreNode, at time: Int64) {
        let pair = CoreCluster.position(of: supporter.id) << 8 | CoreCluster.position(of: asker.id)
        let now = supporter.localTime(time)
        guard let stamp = supporter.liveness.promiseStamp(to: asker.id.address, now: now) else {
            promises[pair]?.stood = false
            return
        }
        let isNew = promises[pair].map { $0.stood || $0.stamp != stamp } ?? true
        check(isNew, "PromisesAreKept", "a promise that had ended stands again", at: time)
        promises[pair] = (stamp, true)
    }

    // MARK: The rest

    /// Between ourselves nobody breaks the protocol.
    mutating func note(_ refusal: Refusal?, at time: Int64) {
        guard let refusal else { return }
        // answers that come twice or late, and questions of those who have left
        let isHarmless = refusal == .unexpectedReply || refusal == .unknownPeer
        check(isHarmless, "NobodyIsRefused", "refused: \(refusal)", at: time)
    }

    /// A change that is done is what was asked for, and committed.
    mutating func inspectChange(_ target: Configuration, _ outcome: ChangeOutcome, at time: Int64) {
        guard case .done(let index) = outcome else { return }
        finishedChanges += 1
        guard index <= commitIndex else {
            return check(false, "ChangesAreDone", "a change is done but not committed", at: time)
        }
        let found = committed[Int(index.rawValue) - 1].configuration
        check(found == target, "ChangesAreDone", "asked for \(target), got \(String(describing: found))", at: time)
    }

    /// Only `survivor`'s log is left of the group: what it lacks is lost, also of terms.
    mutating func loseMajority(but survivor: CoreNode) {
        isMajorityLost = true
        let held = committed.indices.prefix {
            let index = LogIndex(Int64($0) + 1)
            return index < survivor.log.base.index || survivor.log.term(at: index) == committed[$0].term
        }
        let term = survivor.raft.term
        for lost in leaders.keys.filter({ $0 > term }) { leaders[lost] = nil }
        for lost in known.keys.filter({ $0.term > term }) { known[lost] = nil }
        committingTerm = min(committingTerm, term)
        let lost = committed.count - held.count
        committed.removeLast(lost)
        knownIn.removeLast(lost)
        digests.removeLast(lost)
        reads.removeAll()
    }
}

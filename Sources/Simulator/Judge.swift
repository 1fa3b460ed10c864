import RaftCore
import RaftHost
import RaftStorage
import ShardMap
import WireMessages

/// Gives the checkers what the nodes' observers see, and keeps the first violation.
///
/// It follows each replica's log twice: as the replica sees it, and as its disk holds it, which lags by the writes
/// under way. A restarted replica must have found what its disk held, or that and some of those writes, in order.
final class Judge {
    /// What is known of a replica.
    private struct Followed {
        var log = LogChain()
        var durable = LogChain()
        var writes: [FollowedWrite] = []
        /// How many of the writes are done: they leave the array from time to time.
        var done = 0
        var commit = LogIndex.zero
        /// The term it leads in.
        var leads: Term?
        /// Successes that wait for the disk, each with what stood for the log up to its end when it was decided on: the
        /// entries may be replaced before it leaves, which is as if it had been long under way.
        var acknowledging: [(reply: AppendReply, chain: UInt64?)] = []
        /// A part of its log was lost while it ran: it starts with the rest.
        var isCut = false
        /// Its log when it lost a part of that to damage.
        var lost: LogChain?
        /// The membership in force after its last step.
        var configuration = Configuration.empty
    }

    private struct FollowedWrite {
        var state: HardState?
        /// The whole log in its stead, from a snapshot.
        var reset: LogChain?
        var truncateFrom: LogIndex?
        var entries: [(term: Term, fingerprint: UInt64)]
    }

    private let world: WorldEvents
    private var followed: [ReplicaName: Followed] = [:]
    private let arena = Arena()
    private var oneLeaderPerTerm = OneLeaderPerTerm()
    private var logMatching = LogMatching()
    private var leaderCompleteness = LeaderCompleteness()
    private(set) var committedNeverChanges = CommittedNeverChanges()
    private(set) var appliedSequencesEqual = AppliedSequencesEqual()
    private var hardStateNeverGoesBack = HardStateNeverGoesBack()
    private let durableBeforeAcknowledged = DurableBeforeAcknowledged()
    private(set) var exactlyOnce = ExactlyOnce()
    private let leaseSafety = LeaseSafety()
    private let readsAreFresh = ReadsAreFresh()
    private let replicasAgree = ReplicasAgree()
    private(set) var oneOwner = OneOwner()
    /// Reads in the nodes' own processes that had an answer.
    private(set) var reads = 0
    private(set) var violation: Violation?
    /// Disks whose next look would find damage, or whose owner lost a majority's trust: by node.
    private var rotten: Set<Int> = []
    private var looks = 0
    /// Elections won.
    private(set) var elections = 0
    /// Logs cut at their beginning, and snapshots put in force.
    private(set) var compactions = 0
    private(set) var installs = 0
    /// Replicas that are no more, as long as no other one has begun in their place.
    private var gone: Set<ReplicaName> = []
    /// By group, what is known to be committed.
    private var committedLogs: [String: LogChain] = [:]

    /// By group, the nodes that lead it, each in a term of its own; one that has crashed may be among them.
    private var leaders: [String: [Int]] = [:]

    /// One acknowledgement in so many has the disk read back as a restart would.
    private static let looksOneOf = 400

    /// What the judge wants from the world around it.
    struct WorldEvents {
        var nodes: Int
        /// The number of the node at an address.
        var number: (NodeAddress) -> Int
        /// A node's log disk.
        var disk: (Int) -> MemoryDisk
        /// The host of a running node.
        var host: (Int) -> RaftHost?
        /// What the clock of a running node shows.
        var clock: (Int) -> Instant
        /// Hears what stands in a timeline.
        var tell: (@autoclosure () -> String) -> Void
    }

    init(_ world: WorldEvents) { self.world = world }

    /// A node's disk was damaged: what it held does not count any more as its own fault.
    func rots(_ node: Int) { rotten.insert(node) }

    /// Keeps the first violation.
    func note(_ found: Violation?) {
        if violation == nil, let found { violation = found }
    }

    /// Stands for everything that was committed.
    var fingerprint: UInt64 {
        var hash: UInt64 = 0
        for name in followed.keys.sorted(by: { ($0.group, $0.node) < ($1.group, $1.node) }) {
            guard let replica = followed[name] else { continue }
            hash = mixed(hash, replica.log.chain(at: replica.commit) ?? 0)
        }
        return hash
    }
}

// MARK: steps

extension Judge {
    fileprivate func stepped(
        _ name: ReplicaName, _ event: Event, _ raft: Raft, _ effects: Effects, _ write: LogWrite?
    ) {
        guard violation == nil else { return }
        var replica = followed.removeValue(forKey: name) ?? Followed()
        if case .started = event, !replica.isCut { restart(&replica, name, raft) }
        if case .persisted = event { persist(&replica, name) }
        if effects.hardState != nil {
            note(hardStateNeverGoesBack.changed(name, to: HardState(term: raft.term, vote: raft.vote)))
        }
        if let write { submit(write, &replica, name, raft.term) }
        replica.isCut = false
        if case .appendReply(let reply) = effects.acknowledgement, reply.success {
            replica.acknowledging.append((reply, replica.log.chain(at: reply.end)))
        }
        let wasLeading = replica.leads
        replica.leads = raft.isLeader ? raft.term : nil
        // a leader that commits and then puts another membership in force has counted by the old one
        let counted = replica.configuration
        replica.configuration = raft.configuration
        followed[name] = replica
        if (wasLeading != nil) != raft.isLeader { noteLeader(name, raft.isLeader) }
        if let term = replica.leads, wasLeading != term { elected(name, term, replica) }
        if raft.commitIndex > replica.commit { committed(name, raft, counted) }
        if let reply = effects.reply { said(name, reply) }
        if raft.isLeader { note(leaseSafety.believed(name.group, believers(of: name.group))) }
    }

    private func submit(
        _ write: LogWrite, _ replica: inout Followed, _ name: ReplicaName, _ term: Term
    ) {
        var reset: LogChain?
        if let start = write.start { reset = begin(start, &replica, name) }
        if let index = write.truncateFrom {
            if !replica.isCut || !rotten.contains(name.node) {
                note(committedNeverChanges.truncates(name, from: index, in: term, of: replica.log))
            } else {
                // with what is being written: it is durable, and acknowledged, before the cut is
                replica.lost = replica.log
            }
            replica.log.truncate(from: index)
        }
        let first = replica.log.lastIndex.next
        var entries: [(term: Term, fingerprint: UInt64)] = []
        entries.reserveCapacity(write.entries.count)
        for entry in write.entries {
            let print = Judge.fingerprint(of: entry.kind, entry.payload)
            entries.append((entry.position.term, print))
            replica.log.append(term: entry.position.term, fingerprint: print)
        }
        if !entries.isEmpty { note(logMatching.grew(name, replica.log, from: first)) }
        replica.writes.append(
            FollowedWrite(
                state: write.hardState, reset: reset, truncateFrom: write.truncateFrom, entries: entries))
    }

    /// What goes is committed, and what a snapshot stands for is what was committed.
    private func begin(_ start: LogStart, _ replica: inout Followed, _ name: ReplicaName) -> LogChain? {
        let known = committedLogs[name.group] ?? LogChain()
        switch start {
        case .compact(let base):
            compactions += 1
            let position = base.position
            if known[position.index]?.term != position.term || replica.log[position.index] != known[position.index] {
                note(
                    Violation(
                        "CommittedNeverChanges", group: name.group, index: position.index, nodes: [name.node],
                        "compacts what is not committed"))
            }
            return nil
        case .reset(let base):
            installs += 1
            if known[base.position.index]?.term != base.position.term {
                note(
                    Violation(
                        "CommittedNeverChanges", group: name.group, index: base.position.index, nodes: [name.node],
                        "installs what is not committed"))
            }
            var log = LogChain()
            log.extend(by: known, through: base.position.index)
            replica.log = log
            return log
        }
    }

    private static func fingerprint(of kind: EntryKind, _ payload: Bytes) -> UInt64 {
        kind == .data ? Simulator.fingerprint(payload) : UInt64(kind.rawValue)
    }

    /// The replica's oldest write under way is durable, it says.
    private func persist(_ replica: inout Followed, _ name: ReplicaName) {
        guard replica.done < replica.writes.count else {
            return note(Violation("DurableBeforeAcknowledged", group: name.group, nodes: [name.node], "done twice"))
        }
        let write = replica.writes[replica.done]
        replica.done += 1
        if replica.done >= 64 {
            replica.writes.removeFirst(replica.done)
            replica.done = 0
        }
        replica.durable.take(write.reset, write.truncateFrom, write.entries)
        if let state = write.state { hardStateNeverGoesBack.persisted(name, state) }
        // a later write may be on its way there, or one of an earlier life that nobody counts on
        if !world.disk(name.node).isSynced { look(at: name, replica) }
    }

    /// A hard state has overtaken writes, which do not say earlier ones any more.
    fileprivate func promised(_ name: ReplicaName, _ state: HardState) {
        guard violation == nil, var replica = followed.removeValue(forKey: name) else { return }
        for position in replica.writes.indices.dropFirst(replica.done) {
            guard let earlier = replica.writes[position].state, earlier.term <= state.term else { continue }
            if earlier.term < state.term || earlier.vote == nil || earlier == state {
                replica.writes[position].state = nil
            }
        }
        followed[name] = replica
        hardStateNeverGoesBack.persisted(name, state)
    }

    private func restart(_ replica: inout Followed, _ name: ReplicaName, _ raft: Raft) {
        gone.remove(name)
        let found = HardState(term: raft.term, vote: raft.vote)
        note(hardStateNeverGoesBack.restarted(name, with: found))
        func explains(_ log: LogChain) -> Bool {
            log.lastIndex == raft.lastIndex && log.last.term == raft.lastTerm
        }
        var log = replica.durable
        var isExplained = explains(log)
        for write in replica.writes[replica.done...] where !isExplained {
            log.take(write.reset, write.truncateFrom, write.entries)
            isExplained = explains(log)
        }
        // what rot took is gone
        if !isExplained, rotten.contains(name.node), raft.lastIndex < log.lastIndex {
            log = replica.durable
            log.truncate(from: raft.lastIndex.next)
            isExplained = explains(log)
        }
        if !isExplained {
            note(
                Violation(
                    "DurableBeforeAcknowledged", group: name.group, index: raft.lastIndex, nodes: [name.node],
                    "a restart found the log up to \(raft.lastIndex)@\(raft.lastTerm), "
                        + "\(replica.durable.last) was durable and \(replica.writes.count - replica.done) writes on "
                        + "their way"))
        }
        let wasLeading = replica.leads
        let lost = log.lastIndex < replica.durable.lastIndex ? replica.durable : replica.lost
        replica = Followed(log: log, durable: log)
        replica.lost = lost
        (replica.leads, replica.configuration) = (wasLeading, raft.configuration)
        // what was read from a cache must have been synced before anything is said
        look(at: name, replica)
        note(appliedSequencesEqual.starts(name, at: raft.commitIndex))
        if raft.commitIndex > .zero {
            note(committedNeverChanges.committed(name, .first...raft.commitIndex, in: raft.term, log))
        }
        replica.commit = raft.commitIndex
        world.tell("node \(name.node) starts \(name.group) in term \(raft.term), log \(log.last)")
    }

    private func elected(_ name: ReplicaName, _ term: Term, _ replica: Followed) {
        elections += 1
        world.tell("node \(name.node) leads \(name.group) in term \(term), log \(replica.log.last)")
        note(oneLeaderPerTerm.leads(name, in: term))
        note(leaderCompleteness.elected(name, in: term, replica.log))
        note(
            durableBeforeAcknowledged.votes(
                name, in: term, durable: hardStateNeverGoesBack.durableState(of: name)))
    }

    private func committed(_ name: ReplicaName, _ raft: Raft, _ counted: Configuration) {
        guard let replica = followed[name] else { return }
        let first = replica.commit.next
        followed[name]?.commit = raft.commitIndex
        note(committedNeverChanges.committed(name, first...raft.commitIndex, in: raft.term, replica.log))
        committedLogs[name.group, default: LogChain()].extend(by: replica.log, through: raft.commitIndex)
        guard raft.isLeader else { return }
        note(
            leaderCompleteness.committed(name, through: raft.commitIndex, in: raft.term, replica.log) { node in
                followed[ReplicaName(name.group, on: node)]?.log
            })
        note(
            durableBeforeAcknowledged.commits(name, through: raft.commitIndex, replica.log, counted) {
                let replica = followed[ReplicaName(name.group, on: world.number($0.address))]
                return [replica?.durable, replica?.lost].compactMap { $0 }
            })
        note(leaseSafety.commits(name.group, by: name.node, in: raft.term, believers(of: name.group)))
    }
}

// MARK: what is said and applied

extension Judge {
    /// An answer that had to wait for the disk leaves.
    fileprivate func acknowledged(_ name: ReplicaName, _ message: Message) {
        guard case .appendReply(let reply) = message, reply.success,
            let place = followed[name]?.acknowledging.firstIndex(where: { $0.reply == reply })
        else { return said(name, message) }
        let chain = followed[name]?.acknowledging[place].chain
        followed[name]?.acknowledging.removeFirst(place + 1)
        said(name, message, chain: chain)
    }

    private func said(_ name: ReplicaName, _ message: Message, chain: UInt64? = nil) {
        guard violation == nil, let replica = followed[name] else { return }
        switch message {
        case .appendReply(let reply):
            guard reply.success else { return }
            note(
                durableBeforeAcknowledged.acknowledges(
                    name, through: reply.end, chain: chain ?? replica.log.chain(at: reply.end),
                    durable: replica.durable))
            lookNowAndThen(at: name, replica)
        case .voteReply(let reply):
            guard reply.granted, !reply.isPreVote else { return }
            let state = hardStateNeverGoesBack.durableState(of: name)
            note(durableBeforeAcknowledged.votes(name, in: reply.requestTerm, durable: state))
            lookNowAndThen(at: name, replica)
        default: return
        }
    }

    private func lookNowAndThen(at name: ReplicaName, _ replica: Followed) {
        looks += 1
        if looks % Judge.looksOneOf == 0 { look(at: name, replica) }
    }

    /// Reads back what the node's disk would hold if it lost its unsynced bytes now.
    private func look(at name: ReplicaName, _ replica: Followed) {
        guard !rotten.contains(name.node), let host = world.host(name.node),
            let record = host.records.first(where: { $0.group == name.group })
        else { return }
        do throws(StorageError) {
            let (log, recovered) = try WriteAheadLog.open(
                disk: world.disk(name.node).durableCopy(), settings: .init(reserveBytes: 1)
            ) { _ in }
            try log.close()
            let found = recovered[record.number] ?? RecoveredGroup()
            let terms = found.termRuns
            let base = found.base?.position ?? .zero
            note(
                durableBeforeAcknowledged.holds(
                    name, last: LogPosition(term: terms.last?.term ?? base.term, index: found.lastIndex),
                    termAt: { index in index == base.index ? base.term : terms.last { $0.index <= index }?.term },
                    found.hardState,
                    log: replica.durable, state: hardStateNeverGoesBack.durableState(of: name)))
        } catch {
            note(
                Violation(
                    "DurableBeforeAcknowledged", group: name.group, nodes: [name.node],
                    "the disk cannot be read back: \(error.description)"))
        }
    }

    fileprivate func applied(_ name: ReplicaName, _ entries: [CommittedEntry], _ replies: [Bytes]) {
        // what was handed to the state machine's worker before the end may be done after it
        guard violation == nil, !gone.contains(name) else { return }
        if let last = entries.last, let replica = followed[name] {
            note(durableBeforeAcknowledged.applies(name, last.position, durable: replica.durable))
        }
        for (entry, reply) in zip(entries, replies) {
            let isNew = entry.position.index > appliedSequencesEqual.lastApplied(of: name.group)
            let print = Judge.fingerprint(of: entry.kind, entry.payload)
            let replyPrint = Simulator.fingerprint(reply)
            note(appliedSequencesEqual.applied(name, entry.position, entry: print, reply: replyPrint))
            guard isNew, entry.kind == .data, name.group != ClusterMap.controllerGroup else { continue }
            judge(entry.payload, reply, replyPrint, in: name)
        }
    }

    fileprivate func cut(_ name: ReplicaName) { followed[name]?.isCut = true }

    /// Another one under this name is another replica.
    fileprivate func removed(_ name: ReplicaName) {
        followed[name] = nil
        gone.insert(name)
        hardStateNeverGoesBack.removed(name)
        appliedSequencesEqual.removed(name)
    }

    fileprivate func switched(_ name: ReplicaName, to position: LogPosition) {
        note(appliedSequencesEqual.starts(name, at: position.index))
    }

    fileprivate func fenced(_ name: ReplicaName, at index: LogIndex) {
        note(replicasAgree.fenced(name, at: index))
    }

    /// The first time that anybody applies this entry.
    private func judge(_ payload: Bytes, _ reply: Bytes, _ replyPrint: UInt64, in name: ReplicaName) {
        guard let command = try? GroupCommand.decoded(payload, arena) else { return }
        let isRefused = ExecuteReply(reply, arena)?.error != nil
        switch command {
        case .write(let write):
            judge(write, isRefused ? nil : replyPrint, in: name)
            if !isRefused { note(oneOwner.executed(write, in: name.group)) }
        case .install(let shards): if !isRefused { note(oneOwner.installed(shards, in: name.group)) }
        case .step(let step): if !isRefused { note(oneOwner.stepped(step, in: name.group)) }
        case .openSession, .time, .verify: return
        }
    }

    private func judge(_ write: SessionWrite, _ reply: UInt64?, in name: ReplicaName) {
        var content: UInt64 = 0
        for operation in write.operations {
            content = mixed(content, UInt64(operation.code.rawValue))
            content = mixed(content, Simulator.fingerprint(operation.key))
            content = mixed(content, Simulator.fingerprint(operation.value))
            content = mixed(content, UInt64(bitPattern: operation.number))
        }
        let request = ExactlyOnce.Request(session: write.session, sequence: write.sequence)
        note(exactlyOnce.applied(request, content: content, reply: reply, in: name.group))
    }

    /// A read in a node's own process has its answer.
    func read(_ name: ReplicaName, from floor: LogIndex, saw index: LogIndex) {
        reads += 1
        note(readsAreFresh.read(name, from: floor, saw: index))
    }

    private func noteLeader(_ name: ReplicaName, _ leads: Bool) {
        if leads { leaders[name.group, default: []].append(name.node) }
        if !leads { leaders[name.group]?.removeAll { $0 == name.node } }
    }

    /// Who holds the lease of a group now, by the own clock; looked at only if there is more than one leader. A lease
    /// is gained in a step of its leader alone, so looking after the steps of leaders misses none.
    private func believers(of group: String) -> [LeaseSafety.Believer] {
        guard let candidates = leaders[group], candidates.count > 1 else { return [] }
        return candidates.compactMap { node in
            guard let host = world.host(node), let raft = host.raft(of: group), raft.isLeader,
                raft.holdsLease(of: raft.term, now: world.clock(node), liveness: host.liveness)
            else { return nil }
            return LeaseSafety.Believer(node: node, term: raft.term)
        }
    }

    /// The observer of a node.
    func observer(of node: Int) -> any ReplicaObserver { NodeObserver(self, node) }
}

/// What a node's host tells the judge. The world runs on one thread, its workers too.
private final class NodeObserver: ReplicaObserver, @unchecked Sendable {
    private unowned let judge: Judge
    private let node: Int

    init(_ judge: Judge, _ node: Int) {
        self.judge = judge
        self.node = node
    }

    func stepped(_ group: String, _ event: Event, _ raft: Raft, _ effects: Effects, _ write: LogWrite?) {
        judge.stepped(ReplicaName(group, on: node), event, raft, effects, write)
    }

    func acknowledged(_ group: String, _ message: Message) { judge.acknowledged(ReplicaName(group, on: node), message) }

    func promised(_ group: String, _ state: HardState) { judge.promised(ReplicaName(group, on: node), state) }

    func applied(_ group: String, _ entries: [CommittedEntry], _ replies: [Bytes]) {
        judge.applied(ReplicaName(group, on: node), entries, replies)
    }

    func cut(_ group: String) { judge.cut(ReplicaName(group, on: node)) }

    func switched(_ group: String, to position: LogPosition) {
        judge.switched(ReplicaName(group, on: node), to: position)
    }

    func fenced(_ group: String, at index: LogIndex) { judge.fenced(ReplicaName(group, on: node), at: index) }

    func removed(_ group: String) { judge.removed(ReplicaName(group, on: node)) }
}

extension AppendReply {
    /// Up to where a success vouches for the log.
    fileprivate var end: LogIndex { ticket.previous.advanced(by: ticket.count) }
}

extension LogIndex {
    /// The first entry's.
    fileprivate static var first: LogIndex { LogIndex(1) }
}

extension LogChain {
    /// What a write does to the log.
    fileprivate mutating func take(
        _ reset: LogChain?, _ truncateFrom: LogIndex?, _ entries: [(term: Term, fingerprint: UInt64)]
    ) {
        if let reset { self = reset }
        if let truncateFrom { truncate(from: truncateFrom) }
        for entry in entries { append(term: entry.term, fingerprint: entry.fingerprint) }
    }
}

import CMessages
import RaftCore
import RaftStorage
import Transport
import WireMessages

// Guests: replicas of groups whose entries mean something to another program only, a braft's as a rule. They vote, store
// and acknowledge like any other; nothing is applied to them. Two things follow.
//
// A guest that leads serves nobody, so it looks for a voter that does: it asks the others what they are (braft does not
// know the question), and hands over to the most up-to-date of those who can serve, one after the other, ever more
// slowly. Where all are guests one leads, and the group lives.
//
// A guest's log goes back to the last snapshot that came. A leader sends one to those only who lack what it has compacted
// away, so a guest that keeps up would never get one: when its log has become heavy it answers one append as a follower
// would that has no more than that snapshot. What it acknowledged it has all the same. If the leader has compacted since,
// its snapshot comes and the log begins there; if not, it sends again what is here already, and is not asked again
// before the log has doubled.

/// What a guest has to look after. An object, so that the replicas that are none have no room for it. Lane-confined.
final class GuestDuties {
    /// Its log has become heavy when it takes so many bytes, or has so many entries.
    fileprivate var heavyBytes: Int
    fileprivate var heavyEntries: Int
    /// The leader is not asked for a snapshot before.
    fileprivate var nextAsking = Instant.distantPast
    /// The node's log has no more room for it.
    fileprivate var isRefusing = false
    /// What an operator should know.
    fileprivate(set) var complaint: String?

    /// While it leads: whether the other voters can serve, as far as they have said.
    fileprivate var canServe: [(peer: PeerID, answer: Bool)] = []
    /// When it looks for a successor again.
    fileprivate var due = Instant.distantPast
    /// How long it waits before it looks again; twice as long each time.
    fileprivate var pause = GuestDuties.shortestPause
    /// When it last handed over, and how often in this term.
    fileprivate var handedOverAt = Instant.distantPast
    fileprivate var handOvers = 0
    /// How often in a row it came to lead again soon after it had handed over.
    private var inVain = 0

    init(_ settings: RaftHost.Settings) {
        (heavyBytes, heavyEntries) = (settings.compactionBytes, settings.compactionEntries)
    }

    fileprivate static let shortestPause = Interval.milliseconds(250)
    fileprivate static let longestPause = Interval.milliseconds(8000)
    /// Whoever leads again so soon after it handed over has done that in vain.
    private static let vanity = Interval.milliseconds(15_000)

    /// Only hand-overs make the next one wait, for they interrupt the group; looking for a successor does not.
    private var penalty: Interval {
        let doublings = min(inVain + handOvers, 5)
        return Interval(
            nanoseconds: min(GuestDuties.longestPause.nanoseconds, GuestDuties.shortestPause.nanoseconds << doublings))
    }

    fileprivate func beginLeading(_ now: Instant) {
        (canServe, handOvers) = ([], 0)
        inVain = now < handedOverAt + GuestDuties.vanity ? inVain + 1 : 0
        pause = penalty
        due = inVain > 0 ? now + pause : now
    }

    /// Somebody has come back who may be able to serve.
    fileprivate func hasten(_ now: Instant) {
        guard penalty.nanoseconds < (now - handedOverAt).nanoseconds else { return }
        (pause, due) = (penalty, now)
    }

    /// A later snapshot has come.
    func noteSnapshot(_ settings: RaftHost.Settings) {
        (heavyBytes, heavyEntries) = (settings.compactionBytes, settings.compactionEntries)
        nextAsking = .distantPast
    }
}

extension RaftHost {
    /// The kind of replicas whose entries nobody here understands.
    public static let guestKind = "guest"

    static let guestService = "flotilla.GuestService"
    private static let guestAskingPace = Interval.milliseconds(60_000)
    private static let needyAskingPace = Interval.milliseconds(300_000)
    private static let questionTimeout = Interval.milliseconds(2000)

    /// Whether this node's replica of `group` is a guest.
    public func isGuest(_ group: String) -> Bool { byGroup[group]?.isGuest ?? false }

    // MARK: the log

    /// What a guest answers to an append instead of taking it in; nil: nothing special. Throws while it has no room.
    func guestAnswer(
        to message: AppendRequest, from leader: PeerID, _ replica: Replica
    ) throws(RaftWire.WireError) -> AppendReply? {
        guard !message.entries.isEmpty, let guest = replica.guest, message.term >= replica.raft.term else { return nil }
        now = lane.clock.now
        let raft = replica.raft
        // one that catches up has its log sent anyway
        let isBehind = raft.lastIndex.advanced(by: 1024) < message.commit
        let isAsking =
            message.term == raft.term && raft.leader == leader && message.previous.index > raft.base.index && !isBehind
            && replica.incoming == nil && liveness.isForeign(leader.address) && guest.nextAsking <= now
        let isNeedy = guest.isRefusing || replica.needsState
        if isAsking, isNeedy || isHeavy(replica) {
            let bytes = log.liveBytes(of: replica.record.number)
            guest.nextAsking = now + (isNeedy ? RaftHost.needyAskingPace : RaftHost.guestAskingPace)
            guest.heavyBytes = max(guest.heavyBytes, 2 * bytes)
            guest.heavyEntries = max(guest.heavyEntries, 2 * raft.base.index.distance(to: raft.lastIndex))
            logger.log(
                .info, "the leader is asked for a later snapshot",
                [
                    ("group", replica.group), ("snapshot", raft.base.index.description),
                    ("last", raft.lastIndex.description), ("bytes", "\(bytes)"),
                ])
            let ticket = AppendTicket(
                term: message.term, previous: message.previous.index, count: message.entries.count, round: 0)
            return AppendReply(ticket: ticket, term: raft.term, success: false, lastIndex: raft.base.index)
        }
        guard !guest.isRefusing else {
            throw RaftWire.WireError(code: RaftHost.busy, text: "the log has no room before a later snapshot comes")
        }
        return nil
    }

    private func isHeavy(_ replica: Replica) -> Bool {
        guard let guest = replica.guest else { return false }
        return replica.raft.base.index.distance(to: replica.raft.lastIndex) >= guest.heavyEntries
            || log.liveBytes(of: replica.record.number) >= guest.heavyBytes
    }

    /// Whether a snapshot that the log has no need of is of use all the same: the log may then begin later.
    func wantsLaterState(_ meta: SnapshotMeta, _ replica: Replica) -> Bool {
        guard replica.isGuest, let machine = replica.stateMachine as? any SnapshotStateMachine else { return false }
        do throws(StateMachineError) {
            return try machine.durableMeta()?.last.index ?? .zero < meta.last.index
        } catch {
            return true
        }
    }

    /// The log has been looked at. A guest that keeps its oldest part takes nothing more once only a quarter of the
    /// log's bound is left: that is for the others.
    func noteGuests(_ usage: LogUsage) {
        guard !guests.isEmpty else { return }
        let isNear = usage.totalBytes > usage.spaceBytes / 2
        let isFar = usage.totalBytes > usage.spaceBytes / 4 * 3
        for replica in guests {
            guard let guest = replica.guest else { preconditionFailure("a guest has duties") }
            let keepsOldest = isNear && usage.pins.contains { $0.group == replica.record.number }
            let (hasComplained, wasRefusing) = (guest.complaint != nil, guest.isRefusing)
            let isRefusing = keepsOldest && isFar
            guest.isRefusing = isRefusing
            guard keepsOldest else {
                guest.complaint = nil
                continue
            }
            let text =
                "its log goes back to its last snapshot, at \(replica.raft.base.index), and keeps the node's log at "
                + "\(usage.totalBytes) of \(usage.spaceBytes) bytes; "
                + (isRefusing ? "it takes no more entries until a later snapshot comes" : "it needs a later snapshot")
            guest.complaint = text
            guard !hasComplained || wasRefusing != isRefusing else { continue }
            logger.log(.warning, "a guest's log is near its bound", [("group", replica.group), ("problem", text)])
        }
    }

    // MARK: leading

    /// It begins to look for a successor, or needs none any more.
    func guestLeadershipChanged(_ replica: Replica) {
        leadingGuests.removeAll { $0 === replica }
        guard replica.raft.isLeader else { return }
        leadingGuests.append(replica)
        replica.guest?.beginLeading(now)
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueGuests() -> Instant? {
        guard !leadingGuests.isEmpty, stopping == nil else { return nil }
        var next: Instant?
        for replica in leadingGuests {
            guard let due = replica.guest?.due else { continue }
            if due <= now { seekSuccessor(of: replica) }
            if let due = replica.guest?.due { next = min(next ?? due, due) }
        }
        return next
    }

    /// The connection to `node` is there again.
    func hastenGuests(of node: NodeAddress) {
        for replica in leadingGuests where replica.raft.configuration.voters.contains(where: { $0.address == node }) {
            replica.guest?.hasten(now)
        }
    }

    private func seekSuccessor(of replica: Replica) {
        guard let guest = replica.guest else { return }
        guest.due = now + guest.pause
        guest.pause = min(GuestDuties.longestPause, Interval(nanoseconds: 2 * guest.pause.nanoseconds))
        let voters = replica.raft.configuration.voters.filter { $0 != replica.id && $0.role != .witness }
        for voter in voters where !guest.canServe.contains(where: { $0.peer == voter }) { ask(voter, replica) }
        guard !replica.raft.isTransferring, !replica.raft.isChangingMembership else { return }
        let able = voters.filter { voter in guest.canServe.contains { $0.peer == voter && $0.answer } }
            .filter { liveness.isReachable($0.address) && replica.raft.progress(of: $0)?.match ?? .zero > .zero }
            .sorted { match(of: $0, replica) > match(of: $1, replica) }
        guard !able.isEmpty else { return }
        let successor = able[guest.handOvers % able.count]
        guest.handOvers += 1
        guest.handedOverAt = now
        logger.log(
            .info, "a guest serves nobody and hands over",
            [("group", replica.group), ("to", successor.description), ("term", replica.raft.term.description)])
        inbox.append((replica, .transferRequested(successor)))
        lane.requestTurn()
    }

    private func match(of peer: PeerID, _ replica: Replica) -> LogIndex {
        replica.raft.progress(of: peer)?.match ?? .zero
    }

    /// Asks a voter whether it understands its entries. A braft does, and not the question.
    private func ask(_ voter: PeerID, _ replica: Replica) {
        guard let link = linkByNode[voter.address] else { return }
        let term = replica.raft.term
        wire.arena.scope { arena in
            let message = arena.make(flotilla__describe_replica_request__init)
            message.pointee.group_id = arena.string(replica.group)
            message.pointee.peer = arena.string(voter.description)
            link.data.call(
                service: RaftHost.guestService, method: "describe", message: message,
                deadline: now + RaftHost.questionTimeout
            ) { [self] result in
                guard replica.raft.isLeader, replica.raft.term == term, !isOver else { return }
                var answer: Bool?
                switch result {
                case .reply(let reply):
                    answer = wire.arena.scope { arena in
                        arena.unpack(flotilla__describe_replica_reply__init, reply.body).map {
                            $0.pointee.can_serve != 0
                        }
                    }
                case .failed(let error) where error.code == RpcCode.noService || error.code == RpcCode.noMethod:
                    answer = true
                case .failed: break
                }
                guard let answer else { return }
                now = lane.clock.now
                replica.guest?.canServe.removeAll { $0.peer == voter }
                replica.guest?.canServe.append((voter, answer))
                // at once, for clients wait
                if answer, replica.guest?.handOvers == 0 { replica.guest?.hasten(now) }
                lane.requestTurn()
            }
        }
    }

    func registerGuests(on server: RpcServer) {
        server.register(RaftHost.guestService) { [self] method, request in
            guard method == "describe" else { return false }
            describe(request)
            return true
        }
    }

    private func describe(_ request: RpcRequest) {
        wire.arena.scope { arena in
            guard let message = arena.unpack(flotilla__describe_replica_request__init, request.body)?.pointee else {
                return request.responder.fail(RaftHost.malformed.code, RaftHost.malformed.text)
            }
            guard let replica = byGroup[String(field: message.group_id)],
                replica.id == PeerID(String(field: message.peer))
            else { return request.responder.fail(RaftHost.noSuchReplica.code, RaftHost.noSuchReplica.text) }
            let reply = arena.make(flotilla__describe_replica_reply__init)
            reply.pointee.can_serve = replica.isGuest ? 0 : 1
            request.responder.reply(reply)
        }
    }
}

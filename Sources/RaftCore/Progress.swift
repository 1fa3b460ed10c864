/// What a leader knows of one other member's log (nextIndex and matchIndex of Figure 2), and what it waits for.
///
/// 1. `match < next`.
/// 2. In `probe` at most one append is under way, and `next` does not move before it is answered.
/// 3. In `replicate` the entries `match + 1 ..< next` are under way; appends overlap freely.
/// 4. In `snapshot` one snapshot is under way, and no entries are.
/// 5. A foreign member has at most one append with entries under way, for it may handle several in any order.
/// 6. `match` goes back only when the peer denies what it acknowledged, for a part of its log is lost. Then a success
///    counts only if its append left after the denial came, however late others arrive: they may have been said before
///    the loss.
struct Progress: Sendable {
    /// How entries are sent.
    enum State: Sendable {
        /// Where the logs part is not known, or the peer is silent: one append at a time.
        case probe
        /// The logs are known to agree up to `match`: appends follow each other without waiting.
        case replicate
        /// It needs what the log no longer has: the host is sending it a snapshot.
        case snapshot
    }

    /// The member.
    let peer: PeerID
    /// Whether it counts for the majorities of the configuration's peers and old peers.
    var isVoter = false
    var isOldVoter = false
    /// Whether it holds no payloads; of a newcomer, whether it will hold none.
    var isWitness: Bool
    /// Everything up to here is durable there.
    var match: LogIndex = .zero
    /// The next entry to send.
    var next: LogIndex
    /// How entries are sent.
    var state = State.probe
    /// In `probe`: whether it was refused, so that entries sent with the next one would likely be wasted.
    var isSearching = false
    /// The commit index it is known to know.
    var knownCommit: LogIndex = .zero
    /// It has denied what it acknowledged: successes of appends before this round may be from before that.
    var trustedRound: UInt64 = 0
    /// Highest round of any append sent to it, and of any it answered.
    var sentRound: UInt64 = 0
    var answeredRound: UInt64 = 0
    /// When it last got on, while it owes an answer.
    var waitingSince: Instant?
    /// The promise that it named last when it accepted this leader in this term.
    var support: SupportStamp?
    /// When it was last sent an append, and when it last answered one in this term; what a foreign member is judged by.
    var sentAt = Instant.distantPast
    var answeredAt = Instant.distantPast
    /// Until then a foreign member that answered an append with an error gets no entries.
    var heldUntil = Instant.distantPast

    /// A member of which nothing is known but that it may hold everything before `next`.
    init(peer: PeerID, next: LogIndex) {
        self.peer = peer
        self.next = next
        isWitness = peer.role == .witness
    }

    /// Entries sent and not acknowledged.
    var entriesInFlight: Int { state == .replicate ? match.distance(to: next) - 1 : 0 }
    /// Whether it owes an answer, or the leader owes it a probe.
    var isWaiting: Bool { state == .probe || entriesInFlight > 0 || sentRound > answeredRound }

    /// Forgets what is under way.
    mutating func becomeProbe(now: Instant) {
        if state != .probe {
            state = .probe
            next = match.next
            isSearching = false
        }
        waitingSince = now
    }

    /// Notes that an append of this round leaves.
    mutating func noteSent(round: UInt64, now: Instant) {
        sentRound = max(sentRound, round)
        sentAt = now
        if waitingSince == nil { waitingSince = now }
    }

    /// Notes under which promise it accepts this leader. Answers come in any order, promises are numbered.
    mutating func note(_ named: SupportStamp) {
        if let known = support, (named.supporterRun, named.epoch) < (known.supporterRun, known.epoch) { return }
        support = named
    }

    /// Notes that it holds everything up to `index`. Answers may come in any order and more than once.
    mutating func noteSuccess(through index: LogIndex) {
        match = max(match, index)
        switch state {
        case .replicate:
            next = max(next, match.next)
        case .probe where index.next >= next:
            // an answer from before the probe's position does not confirm that position
            state = .replicate
            next = match.next
            isSearching = false
        case .probe, .snapshot:
            next = max(next, match.next)
        }
    }
}

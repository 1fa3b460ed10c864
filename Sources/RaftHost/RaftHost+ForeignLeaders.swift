import RaftCore
import Transport

// What outlasts a run of the loyalty to foreign leaders. A braft that reads by its lease counts on followers that vote for
// nobody else for a while, and a follower that starts anew does not know whom it followed: the braft may be cut off from
// it for good. So before a replica follows a foreign leader for the first time, the node's own record says that it may do
// so, and after a restart such a replica waits until that lease is over. Guests are expected to follow brafts, and so is
// everybody on a node in no cluster; of them nothing is written.

/// Whether the node's record says that a replica may have followed a foreign leader.
enum ForeignLeaders {
    /// It does not, and none was heard.
    case none
    /// It is to say so.
    case noting
    /// It says so, of this run of the node.
    case heard
    /// It says so of an earlier run; in this one none was heard.
    case remembered
}

/// Replicas of which the node's record is to say something else.
struct ForeignNotes {
    /// Those that were spoken to by a foreign leader for the first time.
    fileprivate var new: [Replica] = []
    /// A write with such ones is on its way: more of them wait, for each write says everything of all replicas.
    fileprivate var isWriting = false
    /// Those that are ``ForeignLeaders/remembered``, and when nothing is owed from an earlier run any more.
    fileprivate var old: [Replica] = []
    fileprivate var oldEnd = Instant.distantPast

    mutating func forget(_ replica: Replica) {
        new.removeAll { $0 === replica }
        old.removeAll { $0 === replica }
    }
}

extension RaftHost {
    /// Whether a replica may owe a lease that it gave in an earlier run of the node.
    func mayOweLease(_ record: ReplicaRecord) -> Bool {
        isOnItsOwn || record.kind == RaftHost.guestKind || record.followedForeigners
    }

    /// A foreign leader speaks to `replica`. It comes again while that is not on record.
    func hearForeignLeader(_ replica: Replica) throws(RaftWire.WireError) {
        guard !hearsStrangers(replica) else { return }
        switch replica.foreignLeaders {
        case .heard: return
        case .remembered: return replica.foreignLeaders = .heard
        case .none:
            replica.foreignLeaders = .noting
            foreignNotes.new.append(replica)
            lane.requestTurn()
        case .noting: break
        }
        throw RaftWire.WireError(code: RaftHost.again, text: "the first words of a foreign leader are being noted")
    }

    /// A replica starts that may have followed a foreign leader in an earlier run.
    func noteEarlierForeigners(_ replica: Replica) {
        guard replica.foreignLeaders == .remembered else { return }
        foreignNotes.old.append(replica)
        // by then nothing is owed from before this moment
        let end = lane.clock.now + settings.raft.foreignLease
        foreignNotes.oldEnd = max(foreignNotes.oldEnd, end)
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func pursueForeignNotes() -> Instant? {
        if !foreignNotes.new.isEmpty, !foreignNotes.isWriting {
            let replicas = foreignNotes.new
            foreignNotes.new = []
            foreignNotes.isWriting = true
            setFollowedForeigners(true, of: replicas) { [self] in
                foreignNotes.isWriting = false
                for replica in replicas { replica.foreignLeaders = .heard }
                lane.requestTurn()
            }
        }
        guard !foreignNotes.old.isEmpty else { return nil }
        guard foreignNotes.oldEnd <= now else { return foreignNotes.oldEnd }
        // those that follow nobody foreign any more need not wait after the next restart
        let replicas = foreignNotes.old.filter { $0.foreignLeaders == .remembered }
        foreignNotes.old = []
        for replica in replicas { replica.foreignLeaders = .none }
        if !replicas.isEmpty { setFollowedForeigners(false, of: replicas) {} }
        return nil
    }

    private func setFollowedForeigners(
        _ followed: Bool, of replicas: [Replica], then done: @escaping () -> Void
    ) {
        let numbers = Set(replicas.map(\.record.number))
        for position in nodeState.replicas.indices where numbers.contains(nodeState.replicas[position].number) {
            nodeState.replicas[position].followedForeigners = followed
        }
        writeNodeState(then: done)
    }
}

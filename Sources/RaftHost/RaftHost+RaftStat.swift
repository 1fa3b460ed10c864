import RaftCore
import Transport

// braft.raft_stat: how the replicas here are doing, line by line as a braft says it, so that what reads those pages
// reads these.

extension RaftHost {
    static let raftStatService = "braft.raft_stat"
    /// Groups in one answer.
    private static let raftStatGroupsMax = 1000

    func registerRaftStat(on server: RpcServer) {
        server.register(RaftHost.raftStatService) { [self] method, request in
            guard method == "default_method" else { return false }
            let text = raftStat(of: request.path.isEmpty ? nil : request.path)
            // the message has no fields
            request.responder.reply(body: Bytes(), attachment: [Bytes(text)])
            return true
        }
    }

    /// The page `/raft_stat` of braft, in text: of `group`, empty if there is no replica of it here, or of all, up to a
    /// thousand.
    ///
    /// What braft counts and this host does not is 0: the counters of each replicator, and `last_msg_to_now`, for a leader
    /// that is supported sends nothing. `last_snapshot_index` is where the log begins.
    public func raftStat(of group: String? = nil) -> String {
        var text = ""
        let shown = group.map { byGroup[$0].map { [$0] } ?? [] } ?? replicas.sorted { $0.group < $1.group }
        for replica in shown.prefix(RaftHost.raftStatGroupsMax) {
            text += "[\(replica.group)]\r\n"
            describe(replica, &text)
            text += "\r\n"
        }
        let broken = damaged.filter { group == nil || $0.group == group }.sorted { $0.group < $1.group }
        for status in broken.prefix(RaftHost.raftStatGroupsMax) {
            text += "[\(status.group)]\r\npeer_id: \(status.peer)\r\nstate: ERROR\r\nreadonly: 0\r\n"
            text += "term: \(status.term)\r\nconf_index: 0\r\npeers:\(spaced(status.configuration.listed))\r\n\r\n"
        }
        let left = max(0, shown.count - RaftHost.raftStatGroupsMax) + max(0, broken.count - RaftHost.raftStatGroupsMax)
        if left > 0 { text += "and \(left) more groups: ask for one of them, /raft_stat/GROUP\r\n" }
        return text
    }

    private func describe(_ replica: Replica, _ text: inout String) {
        let raft = replica.raft
        text += "peer_id: \(replica.id)\r\n"
        text += "state: \(state(of: replica))\r\n"
        text += "readonly: \(writeRefusal == nil ? 0 : 1)\r\n"
        text += "term: \(raft.term)\r\n"
        text += "conf_index: \(replica.memberships.last?.index ?? .zero)\r\n"
        text += "peers:\(spaced(raft.configuration.listed))\r\n"
        if raft.isLeader {
            text += "changing_conf: \(raft.isChangingMembership ? "YES" : "NO")    stage: \(stage(raft))\r\n"
        }
        if let target = raft.targetConfiguration { text += "new_peers:\(spaced(target.listed))\r\n" }
        if raft.configuration.isJoint { text += "old_peers:\(spaced(raft.configuration.oldPeers))\r\n" }
        if raft.role == .follower {
            text += "leader: \(raft.leader?.description ?? "0.0.0.0:0:0:0")\r\nlast_msg_to_now: 0\r\n"
        }
        let election = settings.raft.electionTimeout.milliseconds
        text += "election_timer: \(timer(election, raft.role == .follower ? raft.deadline : nil))\r\n"
        let isCandidate = raft.role == .candidate || raft.role == .preCandidate
        text += "vote_timer: \(timer(election, isCandidate ? raft.deadline : nil))\r\n"
        text += "stepdown_timer: \(timer(election, raft.isLeader ? raft.deadline : nil))\r\n"
        text += "snapshot_timer: \(timer(0, nil))\r\n"
        // these end in LF alone there, too
        text += "storage: [\(raft.base.index.next), \(raft.lastIndex)]\n"
        text += "disk_index: \(raft.durableIndex)\n"
        text += "known_applied_index: \(replica.applied)\n"
        text += "last_log_id: (index=\(raft.lastIndex),term=\(raft.lastTerm))\n"
        let isApplying = replica.applyOrdered > replica.applied
        text += "state_machine: \(isApplying ? "Applying log_index=\(replica.applied.next)" : "Idle")\n"
        text += "last_committed_index: \(raft.commitIndex)\r\n"
        if raft.isLeader, raft.lastIndex > raft.commitIndex {
            text += "pending_index: \(raft.commitIndex.next)\r\n"
            text += "pending_queue_size: \(raft.commitIndex.distance(to: raft.lastIndex))\r\n"
        }
        text += "last_snapshot_index: \(raft.base.index)\r\n"
        text += "last_snapshot_term: \(raft.base.term)\r\n"
        text += "snapshot_status: \(snapshotStatus(of: replica))\r\n"
        guard raft.isLeader else { return }
        for (number, peer) in raft.peers.enumerated() {
            guard let progress = raft.progress(of: peer) else { continue }
            let flying = max(0, progress.match.distance(to: progress.next) - 1)
            text += "replicator_\(number + 1)@\(peer): next_index=\(progress.next) "
            text += " flying_append_entries_size=\(flying) "
            if progress.isInstalling {
                text += "installing snapshot {\(raft.base.index), \(raft.base.term)}"
            } else if flying > 0 {
                text += "appending [\(progress.match.next), \(progress.next.previous)]"
            } else {
                text += "idle"
            }
            text += " hc=0 ac=0 ic=0\r\n"
        }
    }

    private func state(of replica: Replica) -> String {
        guard replica.problem == nil else { return "ERROR" }
        return switch replica.raft.role {
        case .leader: replica.raft.isTransferring ? "TRANSFERRING" : "LEADER"
        case .candidate, .preCandidate: "CANDIDATE"
        case .follower: "FOLLOWER"
        }
    }

    private func stage(_ raft: Raft) -> String {
        if raft.configuration.isJoint { return "STAGE_JOINT" }
        guard let target = raft.targetConfiguration else { return "STAGE_NONE" }
        return target == raft.configuration ? "STAGE_STABLE" : "STAGE_CATCHING_UP"
    }

    private func snapshotStatus(of replica: Replica) -> String {
        if replica.isSwitching { return "LOADING" }
        if replica.incoming != nil { return "DOWNLOADING" }
        return replica.isSaving ? "SAVING" : "IDLE"
    }

    private func timer(_ milliseconds: Int, _ due: Instant?) -> String {
        let state = due.map { "SCHEDULING(in \(max(0, ($0 - now).milliseconds))ms)" } ?? "STOPPED"
        return "timeout(\(milliseconds)ms) \(state)"
    }

    private func spaced(_ peers: [PeerID]) -> String { peers.map { " \($0)" }.joined() }
}

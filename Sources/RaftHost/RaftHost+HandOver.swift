import RaftCore

/// Leaders that cannot serve look for a successor, again and again until there is one.
extension RaftHost {
    /// Whether it makes sense that `replica` leads: it can make a vote durable, apply and answer.
    func canServe(_ replica: Replica) -> Bool {
        replica.problem == nil && !isLogFull && stopping == nil && !hasFailed
    }

    /// The most up-to-date member is asked first; it may be unable to serve as well, so later the others in turn.
    func handOver(_ replica: Replica) {
        let others = replica.raft.configuration.members.filter {
            $0 != replica.id && liveness.supportStands(from: $0.address, now: now)
        }
        let attempt = replica.handOvers
        replica.handOvers += 1
        let successor = attempt == 0 || others.isEmpty ? nil : others[attempt % others.count]
        inbox.append((replica, .transferRequested(successor)))
        handOverDue = handOverDue ?? now + settings.applyRetryInterval
    }

    func retryHandOvers() {
        handOverDue = nil
        for replica in replicas where replica.problem != nil && leadsOthers(replica) { handOver(replica) }
    }
}

import RaftCore

// What replicas at rest keep in memory.

extension RaftHost {
    /// A replica to which nothing has been applied for so long gives back what it does not need at rest.
    static let coolingTime = Interval.milliseconds(10_000)

    /// Something was applied to `replica`.
    func noteWarmth(of replica: Replica) {
        replica.warmedAt = now
        guard !replica.isWarm else { return }
        replica.isWarm = true
        warm.append((replica, now))
    }

    /// Lets go of what replicas hold that have come to rest: entries in memory, small slices of which keep whole slabs
    /// alive, and the room of queues. Whoever lacks entries later gets them from the log. Returns when to come back; where
    /// nothing was applied lately there is nothing to do.
    func pursueCooling() -> Instant? {
        while let (replica, since) = warm.first {
            guard since + RaftHost.coolingTime <= now else { return since + RaftHost.coolingTime }
            _ = warm.popFirst()
            if replica.isRemoved { continue }
            if replica.warmedAt + RaftHost.coolingTime <= now, replica.isAtRest {
                replica.isWarm = false
                replica.cool()
            } else {
                warm.append((replica, now))
            }
        }
        warm.giveBack()
        return nil
    }
}

extension Replica {
    /// Whether it has nothing to do, and nobody waits for anything.
    var isAtRest: Bool {
        raft.deadline == nil && raft.durableIndex == raft.lastIndex && applied == raft.lastIndex
            && applyOrdered == applied && !isDirty && !isReadyToApply && proposing.isEmpty && proposed.isEmpty
            && reading.isEmpty && asking.isEmpty && readRounds.isEmpty && awaitingApply.isEmpty
            && outlets.allSatisfy { $0.orders.isEmpty && !$0.isReady && !$0.isLoading }
    }

    /// Gives back what it does not need at rest.
    func cool() {
        tail = LogTail(after: raft.lastIndex)
        proposed.giveBack()
        readRounds.giveBack()
        (proposing, reading, asking, awaitingApply) = ([], [], [], [])
        for outlet in outlets {
            outlet.orders.giveBack()
            outlet.loaded = []
        }
    }
}

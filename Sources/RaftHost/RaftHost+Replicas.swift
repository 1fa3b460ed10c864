public import RaftCore
import RaftStorage
import Transport

// The replicas of this node: how they start, and how they are doing.

extension RaftHost {
    /// Starts a replica that the log remembers.
    ///
    /// One whose part of the log is damaged is not started: it shows up in ``status()`` as damaged.
    public func open(_ record: ReplicaRecord, stateMachine: any StateMachine) {
        let opened = openLog(of: record, stateMachine)
        let state = opened.state
        let applied = stateMachine.appliedPosition.index
        var damage = opened.problem
        if damage == nil, applied > state.lastIndex {
            // nothing is applied before it is durable in the log: a part of the log has gone
            damage = "the store has applied entry \(applied), the log ends at \(state.lastIndex)"
        }
        let base = state.base?.position.index ?? .zero
        if case .promises = state.damage { unknownStates.append(record.number) }
        if let damage {
            logger.log(.error, "replica is damaged and does not serve", [("group", record.group), ("problem", damage)])
            damaged.append(
                ReplicaStatus(
                    group: record.group, kind: record.kind, peer: record.peer, state: "damaged",
                    term: state.hardState.term, leader: nil, commitIndex: .zero, appliedIndex: applied,
                    lastIndex: state.lastIndex,
                    durableIndex: state.lastIndex,
                    configuration: state.configurations.last?.configuration ?? record.birth,
                    debt: nil, problem: damage))
            return
        }
        var configurations = state.configurations
        if let base = state.base {
            configurations.insert(
                PlacedConfiguration(index: base.position.index, configuration: base.configuration), at: 0)
        } else if !record.birth.isEmpty {
            configurations.insert(PlacedConfiguration(index: .zero, configuration: record.birth), at: 0)
        }
        let raft = makeRaft(
            record, state.hardState, base: state.base?.position ?? .zero, runs: state.termRuns, last: state.lastIndex,
            memberships: configurations, applied: max(applied, base), debt: state.debt)
        let replica = Replica(
            record: record, slot: slots.count, raft: raft, stateMachine: stateMachine, applied: max(applied, base),
            memberships: configurations, settings: settings)
        replicas.append(replica)
        if replica.isGuest { guests.append(replica) }
        slots.append(replica)
        byGroup[record.group] = replica
        replica.owes = state.debt != nil
        noteEarlierForeigners(replica)
        membershipChanged(replica)
        step(replica, .started, StepContext(write: opened.repair))
        // may write; a log that lost entries takes nothing before it is repaired
        if let fence = record.fence { restore(fence, of: replica) }
        askForCompaction(replica)
        if applied < base, replica.id.role != .witness {
            let problem = "the store holds entries up to \(applied), the log begins behind \(base)"
            wantState(of: replica, problem)
            if !replica.needsState { leaveUnapplied(replica, problem) }
        }
        lane.requestTurn()
    }

    /// The state cannot go on with the log, and no other can take its place: what is missing is not to be passed over.
    private func leaveUnapplied(_ replica: Replica, _ problem: String) {
        logger.log(
            .error, "the state cannot go on with the log, and no snapshot can be taken",
            [("group", replica.group), ("problem", problem)])
        replica.applyProblem = problem
        replica.applyRetry = .distantFuture
        handOver(replica)
    }

    private func openLog(of record: ReplicaRecord, _ stateMachine: any StateMachine) -> OpenedLog {
        let state = recovered.removeValue(forKey: record.number) ?? RecoveredGroup()
        var durable: SnapshotMeta?
        do throws(StateMachineError) {
            durable = try (stateMachine as? any SnapshotStateMachine)?.durableMeta()
        } catch {
            logger.log(
                .warning, "the state cannot be read", [("group", record.group), ("problem", error.description)])
        }
        let opened = OpenedLog(state, number: record.number, durable: durable)
        if opened.repair != nil, let damage = state.damage {
            logger.log(
                .error, "the log has lost entries",
                [
                    ("group", record.group), ("last", opened.state.lastIndex.description),
                    ("debt", opened.state.debt?.description ?? "none"), ("problem", damage.reason),
                ])
        }
        return opened
    }

    /// Creates a replica, at its group's birth or, with an empty `birth`, for a change of membership: remembered
    /// durably, then started. The completion gets nil, also if the replica is there already, or why there is none: the
    /// node holds another replica of the group, or once held one with this idx or a higher one.
    ///
    /// `mapVersion` is the version of the map that wants the replica; one that is there already remembers the highest.
    public func create(
        group: String, peer: PeerID, birth: Configuration, kind: String, mapVersion: UInt64? = nil,
        makeStateMachine: @escaping (_ number: UInt64) throws(StateMachineError) -> any StateMachine,
        completion: @escaping (String?) -> Void
    ) {
        if let position = nodeState.replicas.firstIndex(where: { $0.group == group }) {
            let existing = nodeState.replicas[position]
            guard existing.peer == peer, existing.kind == kind else {
                return later {
                    completion("the node holds another replica of \(group), \(existing.peer), of kind \(existing.kind)")
                }
            }
            if let mapVersion, mapVersion > existing.mapVersion ?? 0 {
                nodeState.replicas[position].mapVersion = mapVersion
                return writeNodeState { completion(nil) }
            }
            // it may be on its way to the disk
            return whenDurable(of: 0) { completion(nil) }
        }
        if let former = nodeState.tombstone(of: group), former.idx >= peer.idx {
            return later {
                completion("\(former) was removed from this node: a new replica of \(group) needs a higher idx")
            }
        }
        var record = ReplicaRecord(group: group, peer: peer, number: nodeState.takeNumber(), birth: birth, kind: kind)
        record.mapVersion = mapVersion
        let stateMachine: any StateMachine
        do throws(StateMachineError) { stateMachine = try makeStateMachine(record.number) } catch {
            let text = error.description
            deferred.append { completion(text) }
            lane.requestTurn()
            return
        }
        nodeState.replicas.append(record)
        births.append(record.number)
        writeNodeState { [self] in
            logger.log(.info, "replica created", [("group", group), ("peer", peer.description)])
            births.removeAll { $0 == record.number }
            open(record, stateMachine: stateMachine)
            completion(nil)
        }
    }

    /// How the replica of `group` is doing; nil if there is none here.
    public func status(of group: String) -> ReplicaStatus? {
        byGroup[group]?.status() ?? damaged.first { $0.group == group }
    }

    /// Whether this node has a replica of `group`, in service or not.
    public func holds(_ group: String) -> Bool { byGroup[group] != nil || damaged.contains { $0.group == group } }

    /// How all replicas are doing.
    public func status() -> [ReplicaStatus] { replicas.map { $0.status() } + damaged }

    /// The consensus of the replica of `group`, for those who judge it; nil if there is none here.
    public func raft(of group: String) -> Raft? { byGroup[group]?.raft }

    /// Whether this node leads `group`, and may propose.
    public func leads(_ group: String) -> Bool { byGroup[group]?.raft.isLeader ?? false }

    /// The wall clocks of the voters of `group` known here, their median in milliseconds since 1970; nil unless a
    /// majority is known.
    public func medianWallClock(of group: String) -> Int64? {
        guard let replica = byGroup[group] else { return nil }
        let monotonic = lane.clock.now.nanoseconds / 1_000_000
        var clocks: [Int64] = []
        let members = replica.raft.configuration.voters
        for member in members {
            if member == replica.id {
                clocks.append(lane.clock.wallClockMilliseconds)
            } else if let offset = liveness.wallClockOffset(of: member.address) {
                clocks.append(monotonic &+ offset)
            }
        }
        guard clocks.count > members.count / 2 else { return nil }
        clocks.sort()
        return clocks[(clocks.count - 1) / 2]
    }

    /// Bytes of the log on disk.
    public var logBytes: Int { log.totalBytes }

    /// Whether proposals are refused for want of disk space. While the log is at its own bound they are refused as busy:
    /// compaction makes room before long.
    public var refusesWrites: Bool { (isLogFull && !isLogAtBound) || hasLittleRoom }

    /// Bytes that the log may occupy.
    public var logSpace: Int { log.spaceBytes }
}

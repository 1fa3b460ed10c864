// Changes of membership (§6; dissertation §4.3), in braft's stages: newcomers catch up, both configurations decide,
// the new one alone does.

/// A change that this leader was asked for.
struct MembershipChange: Sendable {
    /// The asker's number.
    let id: UInt64
    /// The membership wanted.
    let target: Configuration
    /// Voters to be that lack too much of the log yet, and where they were when they last got on.
    var catchingUp: [(peer: PeerID, match: LogIndex)]
    /// When one of them last got on.
    var gotOnAt: Instant
    /// When newcomers will have stood still too long; nil once all have caught up.
    var deadline: Instant?
    /// The entry that puts the target in force alone.
    var finalIndex: LogIndex?
}

extension Raft {
    mutating func changeMembership(
        _ change: UInt64, to target: Configuration, _ around: Surroundings, _ effects: inout Effects
    ) {
        func refuse(_ refusal: ChangeRefusal) { effects.finishedChanges.append((change, .refused(refusal))) }
        guard role == .leader else { return refuse(.notLeader) }
        // a change that overlaps another, or precedes the first entry of the term, could leave two majorities that do
        // not meet (dissertation §4.1 and its correction)
        let isSettled =
            leadership!.transfer == nil
            && (!isChangingMembership || planted("changes-overlap"))
            && (commitIndex >= leadership!.firstIndex || planted("change-before-own-term"))
            && (configurations.last.map { $0.index <= commitIndex } == true || planted("changes-overlap")
                || planted("change-before-own-term"))
        guard isSettled, let last = configurations.last else { return refuse(.busy) }
        guard !target.isJoint, target.peers.contains(where: { $0.role == .replica }) else { return refuse(.noVoters) }
        let changesRole = target.peers.contains {
            configuration.isVoter($0) && configuration.isWitness($0) != target.isWitness($0)
        }
        guard !changesRole else { return refuse(.roleChange) }
        guard target.learners.isEmpty || !target.members.contains(where: { around.isForeign($0) }) else {
            return refuse(.foreignWithLearners)
        }
        guard target != configuration else { return effects.finishedChanges.append((change, .done(last.index))) }
        let newcomers = target.peers.filter { !configuration.isVoter($0) }
        leadership!.change = MembershipChange(
            id: change, target: target, catchingUp: newcomers.map { ($0, .zero) }, gotOnAt: around.now,
            deadline: around.now + settings.catchUpTimeout)
        for newcomer in newcomers where leadership!.position(of: newcomer) == nil {
            insertProgress(of: newcomer)
            sendProbe(to: leadership!.position(of: newcomer)!, around, &effects)
        }
    }

    /// Takes the next step that is due: out of catching up, out of the joint stage, out of the change, out of office.
    mutating func pursueMembership(_ around: Surroundings, _ effects: inout Effects) {
        // nearly always there is none to take
        guard leadership!.change != nil || configuration.isJoint || !leadership!.isVoter else { return }
        noteCatchingUp(around)
        guard let last = configurations.last, effects.logChange == nil,
            last.index <= commitIndex || planted("final-before-joint-is-committed"),
            commitIndex >= leadership!.firstIndex || planted("change-before-own-term")
        else { return }
        if configuration.isJoint {
            append(Configuration(peers: configuration.peers, learners: configuration.learners), around, &effects)
            leadership!.change?.finalIndex = log.lastIndex
        } else if let change = leadership!.change {
            if change.finalIndex != nil {
                leadership!.change = nil
                effects.finishedChanges.append((change.id, .done(last.index)))
            } else if !change.target.learners.isEmpty, change.target.members.contains(where: { around.isForeign($0) }) {
                // found out since
                failChange(.refused(.foreignWithLearners), &effects)
                leadership!.hasLeavers = true
            } else if change.catchingUp.isEmpty {
                begin(change, around, &effects)
            }
        }
        // a leader that is not in the membership manages it until it is committed (dissertation §4.2.2)
        if !configuration.isVoter(id), configurations.last!.index <= commitIndex, leadership!.change == nil {
            resign(around, &effects)
        }
    }

    /// More than one voter more or less takes the joint stage; otherwise any two majorities meet (§4.1).
    private mutating func begin(_ change: MembershipChange, _ around: Surroundings, _ effects: inout Effects) {
        let target = change.target
        let leaving = configuration.peers.filter { !target.peers.contains($0) }
        let joining = target.peers.filter { !configuration.peers.contains($0) }
        if leaving.count + joining.count > 1, !planted("joint-stage-skipped") {
            let joint = Configuration(peers: target.peers, oldPeers: configuration.peers, learners: target.learners)
            append(joint, around, &effects)
        } else {
            append(target, around, &effects)
            leadership!.change!.finalIndex = log.lastIndex
        }
    }

    /// Appends a configuration entry, which is in force from now on.
    private mutating func append(_ new: Configuration, _ around: Surroundings, _ effects: inout Effects) {
        let index = log.lastIndex.next
        extendLog(by: 1, term: term)
        adopt(PlacedConfiguration(index: index, configuration: new))
        effects.logChange = LogChange(
            truncateFrom: nil, first: index, count: 1, term: term, source: .configuration(new))
        let known = leadership!.peers.map(\.peer)
        trackMembers(around)
        leadership!.hasLeavers = true
        for position in leadership!.peers.indices where !known.contains(leadership!.peers[position].peer) {
            sendProbe(to: position, around, &effects)
        }
    }

    /// Makes ``Leadership/peers`` hold all members, and know who votes.
    mutating func trackMembers(_ around: Surroundings) {
        for member in configuration.members where member != id && leadership!.position(of: member) == nil {
            insertProgress(of: member)
        }
        leadership!.isVoter = configuration.peers.contains(id)
        leadership!.isOldVoter = configuration.oldPeers.contains(id)
        for position in leadership!.peers.indices {
            let peer = leadership!.peers[position].peer
            leadership!.peers[position].isVoter =
                configuration.peers.contains(peer) || planted("learners-and-leavers-count")
            leadership!.peers[position].isOldVoter = configuration.oldPeers.contains(peer)
            if configuration.contains(peer) {
                leadership!.peers[position].isWitness = configuration.isWitness(peer)
            }
        }
    }

    private mutating func insertProgress(of peer: PeerID) {
        let position = leadership!.peers.firstIndex { peer < $0.peer } ?? leadership!.peers.count
        let next = max(log.lastIndex, log.base.index.next)
        leadership!.peers.insert(Progress(peer: peer, next: next), at: position)
        membershipVersion += 1
    }

    /// Leavers get the log until the configuration without them is committed, and that they are told of once more.
    mutating func forgetLeavers() {
        guard configurations.count == 1 else { return }
        leadership!.hasLeavers = false
        membershipVersion += 1
        let newcomers = leadership!.change?.target
        leadership!.peers.removeAll {
            !configuration.contains($0.peer) && newcomers?.contains($0.peer) != true
        }
    }

    // MARK: catching up

    private mutating func noteCatchingUp(_ around: Surroundings) {
        guard var change = leadership!.change, change.deadline != nil else { return }
        var gotOn = false
        change.catchingUp = change.catchingUp.compactMap { newcomer in
            guard let position = leadership!.position(of: newcomer.peer) else { return newcomer }
            let match = leadership!.peers[position].match
            if match > newcomer.match { gotOn = true }
            // without its promise the leader might lose its majority as soon as the newcomer counts
            let isThere =
                match > .zero && match.distance(to: log.lastIndex) <= settings.catchUpMargin
                && (around.isSupported(by: newcomer.peer) || around.isForeign(newcomer.peer))
            return isThere ? nil : (newcomer.peer, match)
        }
        if gotOn { (change.gotOnAt, change.deadline) = (around.now, around.now + settings.catchUpTimeout) }
        if change.catchingUp.isEmpty { change.deadline = nil }
        leadership!.change = change
    }

    /// Gives a change up whose newcomers stand still. One that is being sent a snapshot is given its time.
    mutating func checkCatchUp(_ around: Surroundings, _ effects: inout Effects) {
        guard let change = leadership!.change, let deadline = change.deadline, deadline <= around.now else { return }
        let isInstalling = change.catchingUp.contains { newcomer in
            leadership!.position(of: newcomer.peer).map { leadership!.peers[$0].state == .snapshot } ?? false
        }
        if isInstalling {
            leadership!.change!.deadline = around.now + settings.catchUpTimeout
        } else {
            failChange(.notCaughtUp(change.catchingUp[0].peer), &effects)
            leadership!.hasLeavers = true
        }
    }

    /// A snapshot to `peer` was given its time and came to nothing: the time of a newcomer may be over.
    mutating func noteLostSnapshot(of peer: PeerID, _ around: Surroundings) {
        guard let change = leadership!.change, change.deadline != nil,
            change.catchingUp.contains(where: { $0.peer == peer })
        else { return }
        leadership!.change!.deadline = max(around.now, change.gotOnAt + settings.catchUpTimeout)
    }

    mutating func failChange(_ outcome: ChangeOutcome, _ effects: inout Effects) {
        guard let change = leadership?.change else { return }
        leadership!.change = nil
        effects.finishedChanges.append((change.id, outcome))
    }

    // MARK: lost quorum

    /// Puts `target` in force without asking anybody, as braft's reset_peer does: in a new term, and in the log as soon
    /// as this replica leads, which repeats it. What only the lost majority had is lost, and a debt to it is void.
    mutating func resetMembership(
        _ change: UInt64, to target: Configuration, _ around: Surroundings, _ effects: inout Effects
    ) {
        let isServed = role == .leader ? hasSupport(around) : isPledged(around)
        guard !target.isJoint, target.peers.contains(id), !target.isWitness(id), !isServed else {
            return effects.finishedChanges.append((change, .refused(.notApplicable)))
        }
        adopt(term: term.next, around, &effects)
        pledge = nil
        debt = nil
        configurations = [PlacedConfiguration(index: commitIndex, configuration: target)]
        configuration = target
        membershipVersion += 1
        wake(from: max(around.now, around.liveness.quietUntil))
        effects.finishedChanges.append((change, .done(commitIndex)))
    }
}

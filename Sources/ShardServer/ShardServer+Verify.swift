import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// `raftctl group verify`: an entry has each replica hold its state as it is behind that entry; the leader cuts its own
// into ranges, the others digest the same, and where one differs its range is cut again. Under load nothing waits for
// it: what is compared is held while the replicas go on.

extension ShardServer {
    /// A member that has not applied the entry yet is asked again so often.
    private static let digestPace = Interval.milliseconds(200)
    /// Digesting reads everything.
    private static let digestTimeout = Interval.milliseconds(300_000)

    func answerVerifyGroup(_ request: RpcRequest) {
        let name = arena.scope { arena in
            arena.unpack(flotilla__verify_group_request__init, request.body).map { String(field: $0.pointee.group) }
        }
        guard let group = name else { return request.responder.fail(RpcCode.badRequest, "malformed request") }
        guard host.holds(group) else { return refuse(request.responder, .noSuchGroup, group) }
        guard host.leads(group) else { return refuse(request.responder, .notLeader, nil) }
        // the states held for one make room for those of the next
        guard verifying.insert(group).inserted else {
            return refuse(request.responder, .busy, "the group is being verified already")
        }
        let number = random.next()
        let completion = { [self] (outcome: ProposalOutcome) in
            switch outcome {
            case .applied(_, let position): begin(group, number, position.index, request.responder)
            case .notLeader, .unknown: giveUp(group, request.responder, .notLeader, nil)
            case .refused(let refusal): giveUp(group, request.responder, refusal.namedError, nil)
            }
        }
        if group == ClusterMap.controllerGroup {
            propose(ControllerCommand.verify(number), completion: completion)
        } else {
            propose(GroupCommand.verify(number), to: group, completion: completion)
        }
    }

    private func refuse(_ responder: RpcResponder, _ error: NamedError, _ message: String?) {
        arena.scope { arena in
            let reply = arena.make(flotilla__verify_group_reply__init)
            reply.pointee.error = error.rawValue
            if let message { reply.pointee.message = arena.string(message) }
            responder.reply(reply)
        }
    }

    private func giveUp(_ group: String, _ responder: RpcResponder, _ error: NamedError, _ message: String?) {
        verifying.remove(group)
        refuse(responder, error, message)
    }

    private func begin(_ group: String, _ number: UInt64, _ index: LogIndex, _ responder: RpcResponder) {
        guard let status = host.status(of: group) else { return giveUp(group, responder, .noSuchGroup, group) }
        let now = lane.clock.now
        switch held.find(group, number: number, now) {
        case nil: giveUp(group, responder, .busy, "another comparison has begun")
        case .failure(let error)?: giveUp(group, responder, .internalError, error.description)
        case .success(let state)?:
            let verification = Verification(
                group, number: number, at: index, of: (status.peer, status.configuration),
                foreign: status.configuration.members.filter { isForeign($0, of: status) }, state: state,
                responder: responder, now: now)
            host.runAside {
                ShardServer.attempt { () throws(StateMachineError) in try state.ranges() }
            } completion: {
                [self] result in
                switch result {
                case .failure(let error): giveUp(group, responder, .damaged, error.description)
                case .success(let ranges):
                    verification.ranges = ranges
                    let asked = verification.members.indices.filter { !verification.members[$0].isOver }
                    if asked.isEmpty { finishIfDone(verification) }
                    for member in asked { ask(member, verification, ranges) }
                }
            }
        }
    }

    static func attempt<R>(
        _ body: () throws(StateMachineError) -> R
    ) -> Result<R, StateMachineError> {
        do throws(StateMachineError) {
            return .success(try body())
        } catch {
            return .failure(error)
        }
    }

    /// Asks those again that had not applied the entry; returns when to come back.
    func verifyTurn(_ now: Instant) -> Instant? {
        guard !digestRetries.isEmpty else { return nil }
        if nextDigestRetry > now { return nextDigestRetry }
        let due = digestRetries
        digestRetries.removeAll()
        for (verification, member) in due { ask(member, verification, verification.ranges) }
        return nil
    }

    // MARK: narrowing

    /// Asks a member for the digests of `ranges`, cut by the leader.
    private func ask(_ member: Int, _ verification: Verification, _ ranges: [RangeDigest]) {
        let bounds = ranges.map(\.start) + [ranges[ranges.count - 1].end]
        call(member, verification, bounds: bounds, listsKeys: false) { [self] reply in
            guard reply.counts.count == ranges.count, reply.hashes.count == ranges.count else {
                return end(member, verification, "its answer does not fit the question")
            }
            let digests = ranges.indices.map { position in
                RangeDigest(
                    start: ranges[position].start, end: ranges[position].end, keys: reply.counts[position],
                    hash: reply.hashes[position])
            }
            if verification.members[member].value == nil {
                verification.members[member].value = Verification.value(of: digests)
            }
            guard let first = StateDigest.firstDifference(ranges, digests) else {
                return end(member, verification, nil)
            }
            verification.members[member].difference = Verification.Difference(ranges[first], digests[first])
            narrow(member, verification, ranges[first])
        }
    }

    private func narrow(_ member: Int, _ verification: Verification, _ range: RangeDigest) {
        guard range.keys > UInt64(StateDigest.listedKeys) else { return list(member, verification, range) }
        let state = verification.state
        host.runAside {
            ShardServer.attempt { () throws(StateMachineError) in try state.ranges(from: range.start, to: range.end) }
        } completion: { [self] result in
            switch result {
            case .success(let ranges): ask(member, verification, ranges)
            // what is known of the place is enough
            case .failure: end(member, verification, nil)
            }
        }
    }

    private func list(_ member: Int, _ verification: Verification, _ range: RangeDigest) {
        let state = verification.state
        host.runAside {
            ShardServer.attempt { () throws(StateMachineError) in try state.keys(from: range.start, to: range.end) }
        } completion: { [self] result in
            guard case .success(let own) = result else { return end(member, verification, nil) }
            call(member, verification, bounds: [range.start, range.end], listsKeys: true) { [self] reply in
                let theirs = zip(reply.keys, reply.hashes).map { KeyDigest(key: $0, hash: $1) }
                if let key = StateDigest.firstDifference(own, theirs) {
                    let hashes = [own, theirs].map { list in list.first { $0.key == key }?.hash }
                    verification.members[member].difference?.place = StateDigest.name(of: key)
                    verification.members[member].difference?.start = key
                    verification.members[member].difference?.leaderHash = hashes[0] ?? 0
                    verification.members[member].difference?.hash = hashes[1] ?? 0
                    verification.members[member].difference?.leaderKeys = hashes[0] == nil ? 0 : 1
                    verification.members[member].difference?.keys = hashes[1] == nil ? 0 : 1
                }
                end(member, verification, nil)
            }
        }
    }

    private struct Digests {
        var keys: [Bytes]
        var counts: [UInt64]
        var hashes: [UInt64]
    }

    private func call(
        _ member: Int, _ verification: Verification, bounds: [Bytes], listsKeys: Bool,
        _ done: @escaping (Digests) -> Void
    ) {
        let peer = verification.members[member].peer
        let now = lane.clock.now
        // a member that is down answers nothing for ever
        guard host.liveness.isReachable(peer.address) else {
            return end(member, verification, "its node does not answer")
        }
        _ = held.find(verification.group, number: verification.number, now)
        let body = arena.scope { arena in
            let message = arena.make(flotilla__digest_request__init)
            message.pointee.group = arena.string(verification.group)
            message.pointee.verify = verification.number
            message.pointee.version = UInt32(StateDigest.version)
            message.pointee.n_bounds = bounds.count
            message.pointee.bounds = arena.array(bounds.map { arena.data($0) })
            message.pointee.has_lists_keys = 1
            message.pointee.lists_keys = listsKeys ? 1 : 0
            return arena.pack(message)
        }
        channel(to: peer.address).call(
            service: Services.cluster, method: "digest", body: body, attachment: [],
            deadline: now + ShardServer.digestTimeout
        ) { [self] result in
            lane.requestTurn()
            guard case .reply(let reply) = result else {
                return end(member, verification, "its node does not answer")
            }
            let parsed = arena.scope { arena -> (problem: String?, comes: Bool, digests: Digests)? in
                guard let message = arena.unpack(flotilla__digest_reply__init, reply.body)?.pointee else { return nil }
                let error = message.error == 0 ? nil : NamedError(rawValue: message.error) ?? .internalError
                let digests = Digests(
                    keys: (0..<message.n_keys).map { Bytes(message.keys[$0]) },
                    counts: (0..<message.n_counts).map { message.counts[$0] },
                    hashes: (0..<message.n_hashes).map { message.hashes[$0] })
                let text = message.message.map { String(cString: $0) }
                return (error.map { text ?? $0.sentence }, message.comes != 0, digests)
            }
            guard let parsed else { return end(member, verification, "its answer does not parse") }
            if parsed.comes {
                guard lane.clock.now < verification.patienceEnds else {
                    return end(member, verification, "it has not applied entry \(verification.index) in time")
                }
                digestRetries.append((verification, member))
                nextDigestRetry = lane.clock.now + ShardServer.digestPace
            } else if let problem = parsed.problem {
                end(member, verification, problem)
            } else {
                done(parsed.digests)
            }
        }
    }

    private func end(_ member: Int, _ verification: Verification, _ problem: String?) {
        verification.members[member].problem = problem
        verification.members[member].isOver = true
        finishIfDone(verification)
    }

    // MARK: the result

    private func finishIfDone(_ verification: Verification) {
        guard verification.members.allSatisfy(\.isOver) else { return }
        verifying.remove(verification.group)
        var fenced: [PeerID] = []
        var standard = verification.leader
        var isDecided = true
        switch verification.outcome {
        case .equal: break
        case .divergent(let peers, let right): (fenced, standard) = (peers, right)
        case .undecided: isDecided = false
        }
        let difference = verification.members.first { $0.peer == standard }?.difference
        for peer in fenced {
            let own = verification.members.first { $0.peer == peer }?.difference ?? difference
            host.fence(
                verification.group, peer, at: verification.index,
                "its state differs from \(standard)'s at index \(verification.index): \(own?.words ?? "")")
        }
        answer(verification, standard, difference, fenced, isDecided)
    }

    private func answer(
        _ verification: Verification, _ standard: PeerID, _ leaderDifference: Verification.Difference?,
        _ fenced: [PeerID], _ isDecided: Bool
    ) {
        let right = verification.members.first { $0.peer == standard }?.value
        arena.scope { arena in
            let reply = arena.make(flotilla__verify_group_reply__init)
            reply.pointee.error = 0
            reply.pointee.has_index = 1
            reply.pointee.index = verification.index.rawValue
            reply.pointee.has_decided = 1
            reply.pointee.decided = isDecided ? 1 : 0
            var leader = Verification.Member(peer: verification.leader)
            if standard != verification.leader { leader.difference = leaderDifference }
            var verdicts = [verdict(of: leader, fenced, arena)]
            for var member in verification.members {
                // of those that a majority agrees with
                if standard != verification.leader, member.value == right { member.difference = nil }
                verdicts.append(verdict(of: member, fenced, arena))
            }
            reply.pointee.n_replicas = verdicts.count
            reply.pointee.replicas = arena.array(verdicts)
            verification.responder.reply(reply)
        }
    }

    private func verdict(
        of member: Verification.Member, _ fenced: [PeerID], _ arena: Arena
    ) -> UnsafeMutablePointer<Flotilla__ReplicaVerdict>? {
        let verdict = arena.make(flotilla__replica_verdict__init)
        verdict.pointee.peer = arena.string(member.peer.description)
        verdict.pointee.has_fenced = 1
        verdict.pointee.fenced = fenced.contains(member.peer) ? 1 : 0
        if let difference = member.difference {
            verdict.pointee.result = arena.string("differs")
            verdict.pointee.has_start = 1
            verdict.pointee.start = arena.data(difference.start)
            verdict.pointee.has_end = 1
            verdict.pointee.end = arena.data(difference.end)
            verdict.pointee.place = arena.string(difference.words)
            verdict.pointee.has_leader_hash = 1
            verdict.pointee.leader_hash = difference.leaderHash
            verdict.pointee.has_hash = 1
            verdict.pointee.hash = difference.hash
            verdict.pointee.has_leader_keys = 1
            verdict.pointee.leader_keys = difference.leaderKeys
            verdict.pointee.has_keys = 1
            verdict.pointee.keys = difference.keys
        } else if member.isForeign {
            verdict.pointee.result = arena.string("not checked")
            verdict.pointee.problem = arena.string("it runs another program")
        } else if let problem = member.problem {
            verdict.pointee.result = arena.string("unknown")
            verdict.pointee.problem = arena.string(problem)
        } else {
            verdict.pointee.result = arena.string("equal")
        }
        return verdict
    }

    // MARK: the asked node

    func answerDigest(_ request: RpcRequest) {
        let parsed = arena.scope { arena -> (group: String, number: UInt64, bounds: [Bytes], listsKeys: Bool)? in
            guard let message = arena.unpack(flotilla__digest_request__init, request.body)?.pointee,
                message.version == UInt32(StateDigest.version), message.n_bounds >= 2,
                message.n_bounds <= 2 * StateDigest.rangesPerRound + 1
            else { return nil }
            return (
                String(field: message.group), message.verify, (0..<message.n_bounds).map { Bytes(message.bounds[$0]) },
                message.lists_keys != 0
            )
        }
        guard let parsed else { return request.responder.fail(RpcCode.badRequest, "malformed request") }
        guard let status = host.status(of: parsed.group) else {
            return answer(request.responder, .noSuchGroup, nil)
        }
        switch held.find(parsed.group, number: parsed.number, lane.clock.now) {
        case nil:
            if let problem = status.problem { return answer(request.responder, .damaged, problem) }
            arena.scope { arena in
                let reply = arena.make(flotilla__digest_reply__init)
                reply.pointee.error = 0
                reply.pointee.has_comes = 1
                reply.pointee.comes = 1
                request.responder.reply(reply)
            }
        case .failure(let error)?: answer(request.responder, .internalError, error.description)
        case .success(let state)?:
            let bounds = parsed.bounds
            let responder = request.responder
            if parsed.listsKeys {
                host.runAside {
                    ShardServer.attempt { () throws(StateMachineError) in try state.keys(from: bounds[0], to: bounds[1])
                    }
                } completion: { [self] result in
                    switch result {
                    case .failure(let error): answer(responder, .damaged, error.description)
                    case .success(let keys): answer(responder, keys: keys.map(\.key), [], keys.map(\.hash))
                    }
                }
            } else {
                let ranges = zip(bounds, bounds.dropFirst()).map { RangeDigest(start: $0, end: $1) }
                host.runAside {
                    ShardServer.attempt { () throws(StateMachineError) in try state.digests(of: ranges) }
                } completion: { [self] result in
                    switch result {
                    case .failure(let error): answer(responder, .damaged, error.description)
                    case .success(let digests):
                        answer(responder, keys: [], digests.map(\.keys), digests.map(\.hash))
                    }
                }
            }
        }
    }

    private func answer(_ responder: RpcResponder, _ error: NamedError, _ message: String?) {
        arena.scope { arena in
            let reply = arena.make(flotilla__digest_reply__init)
            reply.pointee.error = error.rawValue
            if let message { reply.pointee.message = arena.string(message) }
            responder.reply(reply)
        }
    }

    private func answer(_ responder: RpcResponder, keys: [Bytes], _ counts: [UInt64], _ hashes: [UInt64]) {
        arena.scope { arena in
            let reply = arena.make(flotilla__digest_reply__init)
            reply.pointee.error = 0
            reply.pointee.n_keys = keys.count
            reply.pointee.keys = arena.array(keys.map { arena.data($0) })
            reply.pointee.n_counts = counts.count
            reply.pointee.counts = arena.array(counts)
            reply.pointee.n_hashes = hashes.count
            reply.pointee.hashes = arena.array(hashes)
            responder.reply(reply)
        }
    }
}

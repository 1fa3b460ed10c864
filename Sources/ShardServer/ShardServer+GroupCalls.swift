import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// What the controller's leader asks of other groups' leaders. Whoever is asked answers for a replica of its own that
// leads, or says who might.

/// A question to the leader of a group.
enum GroupQuestion {
    /// Apply this step of an operation.
    case step(ShardStep)
    /// How far is the staging of this operation?
    case moveStatus(operation: UInt64, frozen: Bool)
    /// Have these members.
    case changePeers(operation: UInt64, from: [PeerID], to: [PeerID], mapVersion: UInt64)
    /// Let this member lead.
    case transfer(PeerID)
}

/// What a group's leader answers.
enum GroupAnswer {
    /// The step is applied, or the members are those wanted.
    case done
    /// It is on its way, and so much of what members to be are sent.
    case underWay(CopyProgress? = nil)
    case moveStatus(MoveStatus)
    /// The group may be led from there.
    case notLeader(NodeAddress?)
    /// Not done, and asking another member would not help.
    case refused(NamedError, String?)
    /// Nobody knows.
    case failed(String)
}

/// How far a copy is.
struct CopyProgress: Equatable {
    var bytesDone: UInt64
    var bytesLeft: UInt64
}

/// What the leader of a move's destination knows of it.
struct MoveStatus: Equatable {
    /// So little is left that the source may freeze.
    var isCaughtUp = false
    /// Everything is staged, from a frozen source.
    var isComplete = false
    var bytesDone: UInt64 = 0
    var bytesLeft: UInt64 = 0
}

extension GroupAnswer {
    var isDone: Bool { if case .done = self { true } else { false } }

    init(_ answer: PeersAnswer) {
        switch answer.error {
        case nil: self = answer.isDone ? .done : .underWay(answer.progress)
        case .notLeader, .noSuchGroup: self = .notLeader(answer.leader?.address)
        case .busy: self = .failed(answer.message ?? NamedError.busy.sentence)
        case .some(let error): self = .refused(error, answer.message)
        }
    }
}

extension GroupAnswer {
    init(_ answer: TransferAnswer) {
        switch answer.error {
        case nil: self = .done
        case .notLeader, .noSuchGroup: self = .notLeader(answer.leader?.address)
        case .busy, .noLeader: self = .failed(answer.message ?? answer.error?.sentence ?? "")
        case .some(let error): self = .refused(error, answer.message)
        }
    }
}

/// Where the leaders of groups were found.
struct LeaderHints {
    private var leaders: [String: NodeAddress] = [:]
    private var turns: [String: Int] = [:]

    /// Whom of `members` to ask: who led last, or one after the other.
    mutating func target(of group: String, _ members: [NodeAddress]) -> NodeAddress? {
        if let leader = leaders[group], members.contains(leader) { return leader }
        guard !members.isEmpty else { return nil }
        defer { turns[group, default: 0] += 1 }
        return members[turns[group, default: 0] % members.count]
    }

    mutating func note(_ leader: NodeAddress?, of group: String) { leaders[group] = leader }
}

extension ShardServer {
    private static let groupCallTimeout = Interval.milliseconds(5000)
    /// Hints followed for one question.
    private static let hops = 2

    /// Asks the leader of `group`. The completion comes in a later turn, or from within this call.
    func ask(
        _ question: GroupQuestion, of group: String, hops: Int = ShardServer.hops, at node: NodeAddress? = nil,
        completion: @escaping (GroupAnswer) -> Void
    ) {
        guard let map, let members = map.group(group).map({ $0.peers + $0.joining }) else {
            return completion(.failed("there is no group \(group) in the map"))
        }
        guard let target = node ?? leaderHints.target(of: group, map.nodes(of: members)) else {
            return completion(.failed("\(group) has no members"))
        }
        let judge = { [self] (answer: GroupAnswer) in
            switch answer {
            case .notLeader(let hint):
                leaderHints.note(hint, of: group)
                if let hint, hint != target, hops > 0, map.node(at: hint) != nil {
                    return ask(question, of: group, hops: hops - 1, at: hint, completion: completion)
                }
                completion(.failed("\(group) has no leader that could be found"))
            case .failed(let problem):
                leaderHints.note(nil, of: group)
                completion(.failed("\(target): \(problem)"))
            case .done, .underWay, .moveStatus, .refused:
                leaderHints.note(target, of: group)
                completion(answer)
            }
        }
        if target == address { return answer(question, of: group, judge) }
        let (method, body, attachment) = packed(question, group)
        channel(to: target).call(
            service: Services.cluster, method: method, body: body, attachment: attachment.isEmpty ? [] : [attachment],
            deadline: lane.clock.now + ShardServer.groupCallTimeout
        ) { [self] result in
            // whatever came of it, something is due, and nothing else may wake this lane
            lane.requestTurn()
            switch result {
            case .failed(let error): judge(.failed(error.text))
            case .reply(let reply): judge(unpacked(reply.body, question))
            }
        }
    }

    /// Answers for this node's replica.
    func answer(_ question: GroupQuestion, of group: String, _ completion: @escaping (GroupAnswer) -> Void) {
        switch question {
        case .step(let step): carryOut(step, at: group, completion)
        case .moveStatus(let operation, let frozen): moveStatus(group, operation, frozen: frozen, completion)
        case .changePeers(let operation, let from, let to, _):
            changePeers(of: group, operation: operation, from: from, to: to) { completion(GroupAnswer($0)) }
        case .transfer(let peer): transferLeadership(of: group, to: peer) { completion(GroupAnswer($0)) }
        }
    }

    /// Has the group's leader here propose a step.
    private func carryOut(_ step: ShardStep, at group: String, _ completion: @escaping (GroupAnswer) -> Void) {
        guard machines[group] != nil else { return completion(.notLeader(nil)) }
        propose(.step(step), to: group) { [self] outcome in
            switch outcome {
            case .applied(let packed, _):
                guard let reply = ExecuteReply(packed, arena) else { return completion(.failed("malformed reply")) }
                if let error = reply.error { return completion(.refused(error, reply.message)) }
                if case .receive = step.action { beginPulling(into: group) }
                logger.log(
                    .info, "shard step taken",
                    [
                        ("group", group), ("operation", "\(step.operation)"), ("shard", "\(step.shard)"),
                        ("step", step.action.name),
                    ])
                completion(.done)
            case .notLeader(let leader): completion(.notLeader(leader?.address))
            case .refused(let refusal): completion(.failed(refusal.namedError.sentence))
            case .unknown: completion(.failed("leadership was lost before the step was applied"))
            }
        }
    }

    // MARK: on the wire

    private func packed(_ question: GroupQuestion, _ group: String) -> (method: String, body: Bytes, attachment: Bytes)
    {
        arena.scope { arena in
            switch question {
            case .step(let step):
                let message = arena.make(flotilla__order_request__init)
                message.pointee.group = arena.string(group)
                return ("order", arena.pack(message), GroupCommand.step(step).encoded(arena))
            case .moveStatus(let operation, let frozen):
                let message = arena.make(flotilla__move_status_request__init)
                message.pointee.group = arena.string(group)
                message.pointee.operation = operation
                message.pointee.has_frozen = 1
                message.pointee.frozen = frozen ? 1 : 0
                return ("move_status", arena.pack(message), Bytes())
            case .changePeers(let operation, let from, let to, let mapVersion):
                let message = arena.make(flotilla__change_peers_request__init)
                message.pointee.group = arena.string(group)
                message.pointee.operation = operation
                message.pointee.n_from = from.count
                message.pointee.from = arena.strings(from.map(\.description))
                message.pointee.n_to = to.count
                message.pointee.to = arena.strings(to.map(\.description))
                message.pointee.has_map_version = 1
                message.pointee.map_version = mapVersion
                return ("change_peers", arena.pack(message), Bytes())
            case .transfer(let peer):
                let message = arena.make(flotilla__transfer_request__init)
                message.pointee.group = arena.string(group)
                message.pointee.peer = arena.string(peer.description)
                return ("transfer", arena.pack(message), Bytes())
            }
        }
    }

    private func unpacked(_ body: Bytes, _ question: GroupQuestion) -> GroupAnswer {
        arena.scope { arena in
            if case .changePeers = question {
                guard let reply = arena.unpack(flotilla__change_peers_reply__init, body)?.pointee else {
                    return .failed("malformed reply")
                }
                if let failure = failure(reply.error, reply.message, reply.leader) { return failure }
                guard reply.done == 0 else { return .done }
                guard reply.has_bytes_done != 0 else { return .underWay() }
                return .underWay(CopyProgress(bytesDone: reply.bytes_done, bytesLeft: reply.bytes_left))
            }
            if case .transfer = question {
                guard let reply = arena.unpack(flotilla__transfer_reply__init, body)?.pointee else {
                    return .failed("malformed reply")
                }
                return failure(reply.error, reply.message, reply.leader) ?? .done
            }
            guard let reply = arena.unpack(flotilla__leader_reply__init, body)?.pointee else {
                return .failed("malformed reply")
            }
            if let failure = failure(reply.error, reply.message, reply.leader) { return failure }
            if let move = reply.move?.pointee {
                return .moveStatus(
                    MoveStatus(
                        isCaughtUp: move.caught_up != 0, isComplete: move.complete != 0, bytesDone: move.bytes_done,
                        bytesLeft: move.bytes_left))
            }
            return reply.has_done != 0 && reply.done == 0 ? .underWay() : .done
        }
    }

    private func failure(
        _ number: UInt32, _ message: UnsafeMutablePointer<CChar>?, _ leader: UnsafeMutablePointer<CChar>?
    ) -> GroupAnswer? {
        guard number != 0 else { return nil }
        let error = NamedError(rawValue: number) ?? .internalError
        let text = message.map { String(cString: $0) }
        switch error {
        case .notLeader: return .notLeader(leader.flatMap { NodeAddress(String(cString: $0)) })
        // of the asked replica, not of the group
        case .noSuchGroup: return .notLeader(nil)
        case .busy, .noLeader, .stopping, .diskFull, .damaged, .outcomeUnknown:
            return .failed(text ?? error.sentence)
        default: return .refused(error, text)
        }
    }

    func answerOrder(_ request: RpcRequest) {
        let group = arena.scope { arena in
            arena.unpack(flotilla__order_request__init, request.body).map { String(field: $0.pointee.group) }
        }
        let command = try? GroupCommand.decoded(request.attachment, arena, knowing: settings.knownLevel)
        guard let group, case .step(let step)? = command else {
            return request.responder.fail(RpcCode.badRequest, "malformed order")
        }
        answer(.step(step), of: group) { [self] in reply($0, to: request) }
    }

    func answerMoveStatus(_ request: RpcRequest) {
        let parsed = arena.scope { arena in
            arena.unpack(flotilla__move_status_request__init, request.body).map {
                (String(field: $0.pointee.group), $0.pointee.operation, $0.pointee.frozen != 0)
            }
        }
        guard let (group, operation, frozen) = parsed else {
            return request.responder.fail(RpcCode.badRequest, "malformed request")
        }
        answer(.moveStatus(operation: operation, frozen: frozen), of: group) { [self] in reply($0, to: request) }
    }

    private func reply(_ answer: GroupAnswer, to request: RpcRequest) {
        arena.scope { arena in
            let reply = arena.make(flotilla__leader_reply__init)
            reply.pointee.error = 0
            switch answer {
            case .done: (reply.pointee.has_done, reply.pointee.done) = (1, 1)
            case .underWay: (reply.pointee.has_done, reply.pointee.done) = (1, 0)
            case .moveStatus(let status):
                let move = arena.make(flotilla__move_status__init)
                move.pointee.caught_up = status.isCaughtUp ? 1 : 0
                move.pointee.complete = status.isComplete ? 1 : 0
                move.pointee.bytes_done = status.bytesDone
                move.pointee.bytes_left = status.bytesLeft
                reply.pointee.move = move
            case .notLeader(let leader):
                reply.pointee.error = NamedError.notLeader.rawValue
                if let leader { reply.pointee.leader = arena.string(leader.description) }
            case .refused(let error, let text):
                reply.pointee.error = error.rawValue
                if let text { reply.pointee.message = arena.string(text) }
            case .failed(let problem):
                reply.pointee.error = NamedError.busy.rawValue
                reply.pointee.message = arena.string(problem)
            }
            request.responder.reply(reply)
        }
    }
}

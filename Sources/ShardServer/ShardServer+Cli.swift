import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// Orders of braft's command line service on groups of the map. The map follows because the controller carries them out,
// as it does raftctl's: the group's leader, which braft's clients ask, has an operation begun and watches it to its end.

/// An order on its way.
struct CliOrder {
    /// What is to be done next.
    enum Step {
        /// Have the controller take this.
        case order(ControllerCommand)
        /// See how far this operation is.
        case watch(UInt64)
    }

    /// Orders under way at a time.
    static let atOnce = 64

    let number: UInt64
    let group: String
    var step: Step
    /// The members before, and those to be, as far as the controller has said.
    var before: [PeerID]
    var after: [PeerID]
    var due: Instant
    /// When it is given up unless the controller is heard.
    var until: Instant
    var isAsking = false
    /// Where the controller's leader may be; otherwise its members are asked in turn.
    var leader: NodeAddress?
    var turns = 0
    /// The controller may have taken the order although nobody heard it say so.
    var mayHaveBegun = false
    /// Since when the operation has not got on, and since when this node does not lead the group.
    var stuckSince: Instant?
    var ledElsewhereSince: Instant?
    /// Since when the controller's leader knows nothing of the operation: a new one may not have applied it yet.
    var unknownSince: Instant?
    /// Why it is being cancelled, and since when.
    var failure: RpcError?
    var cancelledAt: Instant?
    let done: (MemberAnswer) -> Void
}

/// What the controller's leader says to an order or a question.
private enum ControllerAnswer {
    case taken(ClusterOperation?)
    case refused(NamedError, String?, ClusterOperation?)
    case progress(ClusterOperation, problem: String?)
    /// It knows of no such operation.
    case unknownOperation
    case elsewhere(NodeAddress?)
    /// Whether it may have been taken all the same.
    case failed(String, mayHaveBegun: Bool)
}

extension ShardServer {
    /// How long the controller may be silent.
    private static let cliPatience = Interval.milliseconds(30_000)
    /// How long an operation may stand still before it is cancelled.
    private static let stuckPatience = Interval.milliseconds(5_000)
    /// How long the end of an operation may take to get here once this node leads the group no more.
    private static let endPatience = Interval.milliseconds(3_000)
    private static let callPatience = Interval.milliseconds(5_000)
    /// How long a new leader of the controller may take to know what an earlier one began.
    private static let unknownPatience = Interval.milliseconds(2_000)

    /// What ``RaftHost/RaftHost/memberAuthority`` is for groups of the map.
    func takeMemberOrder(_ group: String, _ order: MemberOrder, _ done: @escaping (MemberAnswer) -> Void) -> Bool {
        let kinds = [ReplicaKind.controller, ReplicaKind.keyValue]
        guard host.records.contains(where: { $0.group == group && kinds.contains($0.kind) }) else { return false }
        guard let raft = host.raft(of: group) else {
            done(.failed(RpcError(code: CliCode.notFound, text: "there is no such replica here")))
            return true
        }
        guard cliOrders.count < CliOrder.atOnce else {
            done(.failed(RpcError(code: CliCode.busy, text: "too many changes of members are waiting")))
            return true
        }
        let present = raft.configuration
        if case .reset(let peers) = order {
            reset(group, present, to: peers, done)
        } else if raft.isChangingMembership {
            done(.failed(RpcError(code: CliCode.busy, text: "the members of \(group) are being changed")))
        } else if let wanted = order.members(from: present.listed) {
            let change = ChangePeersOperation(group: group, from: present.listed, to: wanted)
            let command = ControllerCommand.begin(
                .changePeers(change), wallClock: lane.clock.wallClockMilliseconds)
            enqueue(command, group, present.listed, done)
        } else {
            done(.done(before: present.listed, after: present.listed))
        }
        return true
    }

    private func reset(
        _ group: String, _ present: Configuration, to peers: [PeerID], _ done: @escaping (MemberAnswer) -> Void
    ) {
        resetReplica(of: group, from: present.members, to: peers) { answer in
            if let error = answer.error {
                return done(.failed(RpcError(error, answer.message)))
            }
            // the controller sees by itself what has become of the group
            done(.done(before: present.listed, after: answer.peers))
        }
    }

    private func enqueue(
        _ command: ControllerCommand, _ group: String, _ before: [PeerID],
        _ done: @escaping (MemberAnswer) -> Void
    ) {
        nextCliOrder += 1
        let now = lane.clock.now
        cliOrders.append(
            CliOrder(
                number: nextCliOrder, group: group, step: .order(command), before: before, after: before, due: now,
                until: now + ShardServer.cliPatience, done: done))
        lane.requestTurn()
    }

    /// Called once a turn; returns when it is to be called next at the latest.
    func cliTurn(_ now: Instant) -> Instant? {
        guard !cliOrders.isEmpty else { return nil }
        var next: Instant?
        for order in cliOrders where !order.isAsking {
            // an answer that came from within a call may have ended it
            guard let position = position(of: order.number) else { continue }
            if order.due <= now {
                cliOrders[position].isAsking = true
                ask(order)
            } else {
                next = next.map { min($0, order.due) } ?? order.due
            }
        }
        return next
    }

    /// The leader of a group, here, gave a change up, for a newcomer does not catch up: braft's clients do not wait for
    /// better times.
    func noteNotCaughtUp(_ peer: PeerID, operation: UInt64) {
        for position in cliOrders.indices {
            guard case .watch(operation) = cliOrders[position].step else { continue }
            cancel(at: position, operation, "\(peer) did not catch up in time")
        }
    }

    private func position(of number: UInt64) -> Int? { cliOrders.firstIndex { $0.number == number } }

    private func finish(at position: Int, _ answer: MemberAnswer) {
        let order = cliOrders.remove(at: position)
        order.done(answer)
    }

    private func cancel(at position: Int, _ operation: UInt64, _ reason: String) {
        guard cliOrders[position].failure == nil else { return }
        cliOrders[position].failure = RpcError(code: CliCode.notCaughtUp, text: reason)
        cliOrders[position].cancelledAt = lane.clock.now
        cliOrders[position].step = .order(
            .step(
                operation: operation, to: .aborted, reason: reason, wallClock: lane.clock.wallClockMilliseconds))
        cliOrders[position].due = .distantPast
        lane.requestTurn()
    }

    // MARK: answers

    private func take(_ answer: ControllerAnswer, _ asked: CliOrder) {
        lane.requestTurn()
        guard let position = position(of: asked.number) else { return }
        cliOrders[position].isAsking = false
        let now = lane.clock.now
        cliOrders[position].due = now + .milliseconds(50)
        switch answer {
        case .elsewhere(let hint):
            cliOrders[position].leader = hint == address ? nil : hint
            giveUp(at: position, now, "the controller has no leader that could be found")
        case .failed(let problem, let mayHaveBegun):
            cliOrders[position].leader = nil
            cliOrders[position].due = now + .milliseconds(200)
            if case .order = asked.step, mayHaveBegun { cliOrders[position].mayHaveBegun = true }
            giveUp(at: position, now, problem)
        case .refused(let error, let text, let operation): refused(at: position, asked, error, text, operation, now)
        case .taken(let operation):
            cliOrders[position].until = now + ShardServer.cliPatience
            guard let operation, case .changePeers(let change) = operation.kind else {
                return finish(at: position, .done(before: asked.before, after: asked.after))
            }
            cliOrders[position].after = change.to
            cliOrders[position].step = .watch(operation.id)
            cliOrders[position].due = now + .milliseconds(20)
        case .progress(let operation, let problem): note(at: position, operation, problem, now)
        case .unknownOperation:
            let since = asked.unknownSince ?? now
            cliOrders[position].unknownSince = since
            guard since + ShardServer.unknownPatience <= now else { return }
            let error = RpcError(code: CliCode.timedOut, text: "the controller has forgotten what came of it")
            finish(at: position, .failed(error))
        }
    }

    private func giveUp(at position: Int, _ now: Instant, _ problem: String) {
        guard cliOrders[position].until <= now else { return }
        let isUnknown =
            if case .watch = cliOrders[position].step { true } else { cliOrders[position].mayHaveBegun }
        let code = isUnknown ? CliCode.timedOut : CliCode.tryAgain
        finish(at: position, .failed(cliOrders[position].failure ?? RpcError(code: code, text: problem)))
    }

    private func refused(
        at position: Int, _ asked: CliOrder, _ error: NamedError, _ text: String?, _ operation: ClusterOperation?,
        _ now: Instant
    ) {
        guard case .order(let command) = asked.step else {
            return finish(at: position, .failed(RpcError(error, text)))
        }
        switch command {
        case .begin(.changePeers(let change), _, _):
            guard asked.mayHaveBegun, error == .conflict else {
                return finish(at: position, .failed(RpcError(error, text, operation)))
            }
            if let operation, case .changePeers(let known) = operation.kind, known.group == change.group,
                known.from.sorted() == change.from.sorted(), known.to.hasSameNodes(as: change.to)
            {
                cliOrders[position].after = known.to
                cliOrders[position].step = .watch(operation.id)
                return
            }
            // it may have been carried out, or have come too late
            let present = host.raft(of: asked.group)?.configuration.listed ?? []
            if operation == nil, present.hasSameNodes(as: change.to) {
                return finish(at: position, .done(before: asked.before, after: present))
            }
            let problem = RpcError(code: CliCode.timedOut, text: text ?? error.sentence)
            finish(at: position, .failed(operation == nil ? problem : RpcError(error, text, operation)))
        case .step(let id, _, _, _):
            // it has come to its end first
            cliOrders[position].step = .watch(id)
        default: finish(at: position, .failed(RpcError(error, text)))
        }
    }

    private func note(at position: Int, _ operation: ClusterOperation, _ problem: String?, _ now: Instant) {
        cliOrders[position].until = now + ShardServer.cliPatience
        cliOrders[position].unknownSince = nil
        let order = cliOrders[position]
        switch operation.state {
        case .done: return finish(at: position, .done(before: order.before, after: order.after))
        case .cancelled:
            let text = operation.reason ?? "the change was cancelled"
            let error = order.failure ?? RpcError(code: CliCode.notPermitted, text: text)
            return finish(at: position, .failed(error))
        case .begun, .switched, .aborted: break
        }
        if let failure = order.failure {
            if let since = order.cancelledAt, since + ShardServer.cliPatience <= now {
                finish(at: position, .failed(failure))
            }
            return
        }
        if host.leads(order.group) {
            cliOrders[position].ledElsewhereSince = nil
        } else if let since = order.ledElsewhereSince {
            guard now < since + ShardServer.endPatience else {
                let text = "leader stepped down; operation \(operation.id) goes on"
                return finish(at: position, .failed(RpcError(code: CliCode.notPermitted, text: text)))
            }
        } else {
            cliOrders[position].ledElsewhereSince = now
        }
        guard let problem, operation.state == .begun else {
            cliOrders[position].stuckSince = nil
            return
        }
        if let since = order.stuckSince, since + ShardServer.stuckPatience <= now {
            cancel(at: position, operation.id, problem)
        } else if order.stuckSince == nil {
            cliOrders[position].stuckSince = now
        }
    }

    // MARK: asking the controller

    private func ask(_ order: CliOrder) {
        if host.leads(ClusterMap.controllerGroup) { return askHere(order) }
        let members = (map?.group(ClusterMap.controllerGroup)?.peers ?? []).map(\.address).filter { $0 != address }
        guard let target = order.leader ?? (members.isEmpty ? nil : members[order.turns % members.count]) else {
            return take(.elsewhere(nil), order)
        }
        if let position = position(of: order.number) { cliOrders[position].turns += 1 }
        let (method, body) = packed(order.step)
        channel(to: target).call(
            service: Services.cluster, method: method, body: body, attachment: [],
            deadline: lane.clock.now + ShardServer.callPatience
        ) { [self] result in
            switch result {
            case .failed(let error):
                // what did not leave was not taken
                let mayHaveBegun = error.code != RpcCode.hostDown && error.code != RpcCode.overcrowded
                take(.failed("\(target): \(error.text)", mayHaveBegun: mayHaveBegun), order)
            case .reply(let reply): take(unpacked(reply.body, order.step), order)
            }
        }
    }

    private func askHere(_ order: CliOrder) {
        switch order.step {
        case .watch(let id):
            guard let operation = controller?.operations.first(where: { $0.id == id }) else {
                return take(.unknownOperation, order)
            }
            let problem = operations.position(of: operation).flatMap { operations.runs[$0].problem }
            take(.progress(operation, problem: problem), order)
        case .order(let command): propose(command, order)
        }
    }

    private func propose(_ command: ControllerCommand, _ order: CliOrder) {
        propose(command) { [self] outcome in
            switch outcome {
            case .applied(let packed, _):
                guard let reply = ControllerReply(packed, arena) else {
                    return take(.refused(.internalError, nil, nil), order)
                }
                operationsChanged()
                if let error = reply.error {
                    take(.refused(error, reply.message, reply.operation), order)
                } else {
                    take(.taken(reply.operation), order)
                }
            case .notLeader(let leader): take(.elsewhere(leader?.address), order)
            case .refused(let refusal): take(.failed(refusal.namedError.sentence, mayHaveBegun: false), order)
            case .unknown: take(.failed(NamedError.outcomeUnknown.sentence, mayHaveBegun: true), order)
            }
        }
    }

    private func packed(_ step: CliOrder.Step) -> (method: String, body: Bytes) {
        arena.scope { arena in
            switch step {
            case .order(let command):
                let message = arena.make(flotilla__operate_request__init)
                message.pointee.command = command.message(arena)
                return ("operate", arena.pack(message))
            case .watch(let operation):
                let message = arena.make(flotilla__list_operations_request__init)
                message.pointee.has_id = 1
                message.pointee.id = operation
                return ("list_operations", arena.pack(message))
            }
        }
    }

    private func unpacked(_ body: Bytes, _ step: CliOrder.Step) -> ControllerAnswer {
        arena.scope { arena in
            switch step {
            case .order:
                guard let reply = arena.unpack(flotilla__operate_reply__init, body)?.pointee else {
                    return .failed("malformed reply", mayHaveBegun: true)
                }
                let operation = reply.operation.flatMap { ClusterOperation($0.pointee) }
                return refusal(reply.error, reply.message, reply.leader, operation) ?? .taken(operation)
            case .watch(let id):
                guard let reply = arena.unpack(flotilla__list_operations_reply__init, body)?.pointee else {
                    return .failed("malformed reply", mayHaveBegun: true)
                }
                if let refusal = refusal(reply.error, reply.message, reply.leader, nil) { return refusal }
                for position in 0..<reply.n_operations {
                    guard let progress = reply.operations[position]?.pointee,
                        let operation = progress.operation.flatMap({ ClusterOperation($0.pointee) }),
                        operation.id == id
                    else { continue }
                    return .progress(operation, problem: progress.problem.map { String(cString: $0) })
                }
                return .unknownOperation
            }
        }
    }

    private func refusal(
        _ number: UInt32, _ message: UnsafeMutablePointer<CChar>?, _ leader: UnsafeMutablePointer<CChar>?,
        _ operation: ClusterOperation?
    ) -> ControllerAnswer? {
        guard number != 0 else { return nil }
        let error = NamedError(rawValue: number) ?? .internalError
        let text = message.map { String(cString: $0) }
        switch error {
        case .notLeader, .noSuchGroup: return .elsewhere(leader.flatMap { NodeAddress(String(cString: $0)) })
        case .noLeader, .stopping, .diskFull, .outcomeUnknown:
            return .failed(text ?? error.sentence, mayHaveBegun: error == .outcomeUnknown)
        default: return .refused(error, text, operation)
        }
    }
}

extension [PeerID] {
    /// Whether both name the same nodes in the same roles; the controller gives newcomers their idx.
    fileprivate func hasSameNodes(as other: [PeerID]) -> Bool {
        func names(_ peers: [PeerID]) -> [String] {
            peers.map { PeerID(address: $0.address, role: $0.role).description }.sorted()
        }
        return names(self) == names(other)
    }
}

extension MemberOrder {
    /// The members to be, for the controller, which gives newcomers their idx and keeps that of the others; nil if they are
    /// those there are. A group of the map has one member on a node, so idx 0 means whoever is there.
    fileprivate func members(from present: [PeerID]) -> [PeerID]? {
        func meant(_ peer: PeerID) -> PeerID? {
            present.first { $0.address == peer.address && (peer.idx == 0 || peer.idx == $0.idx) }
        }
        switch self {
        case .add(let peer): return meant(peer) == nil ? present + [peer] : nil
        case .remove(let peer):
            guard let leaver = meant(peer) else { return nil }
            return present.filter { $0 != leaver }
        case .replace(let peers), .reset(let peers):
            let wanted = peers.map { peer in
                PeerID(address: peer.address, idx: meant(peer)?.idx ?? peer.idx, role: peer.role)
            }
            let isSame = wanted.sorted().map(\.description) == present.sorted().map(\.description)
            return isSame ? nil : wanted
        }
    }
}

extension RpcError {
    /// A refusal of the controller in braft's numbers.
    fileprivate init(_ error: NamedError, _ text: String?, _ operation: ClusterOperation? = nil) {
        let code =
            switch error {
            case .noSuchGroup: CliCode.notFound
            case .busy, .staleOperation: CliCode.busy
            case .conflict: operation == nil ? CliCode.invalid : CliCode.busy
            case .notLeader, .damaged, .levelTooLow, .programTooOld: CliCode.notPermitted
            case .noLeader, .stopping, .diskFull, .notInitialized: CliCode.tryAgain
            case .outcomeUnknown, .unreachable: CliCode.timedOut
            default: CliCode.invalid
            }
        self.init(code: code, text: text ?? error.sentence)
    }
}

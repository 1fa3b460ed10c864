import CMessages
import RaftCore
import RaftHost
import ShardKV
import ShardMap
import Transport
import WireMessages

// How a moving shard's data comes to its destination: the destination's leader reads it from a replica of the source,
// piece by piece, and proposes each piece to its own group. How far it has come is in that group's state, so whoever
// comes to lead goes on there.

/// One shard that a group led here receives.
final class ShardPull {
    let group: String
    let operation: UInt64
    /// Whether a question or a proposal is under way.
    var isUnderWay = false
    var due = Instant.distantPast
    /// Which of the source's replicas is asked.
    var turn = 0
    var failures = 0
    /// Left at the source, as one in touch with its leader said last; nil as long as the scan goes on.
    var bytesLeft: UInt64?
    var patience = TailPatience()
    /// Of the piece that was asked for, if others wait for it.
    var reservation: CopyPace.Reservation?
    /// Who waits for the staging to be complete, and until when.
    var waiters: [(until: Instant, completion: (GroupAnswer) -> Void)] = []

    init(_ group: String, _ operation: UInt64) {
        self.group = group
        self.operation = operation
    }
}

/// What a node pulls, and the answers it owes to others that pull.
struct Pulling {
    /// Whoever was asked for longest ago comes first.
    var pulls: [ShardPull] = []
    /// Answers that wait for the node's budget, by the time they are due.
    var answers: [(due: Instant, send: () -> Void)] = []
    var pace = CopyPace()
}

extension ShardServer {
    /// Between questions while there is nothing new.
    private static let idlePace = Interval.milliseconds(20)
    private static let frozenPace = Interval.milliseconds(2)
    private static let readTimeout = Interval.milliseconds(5000)
    private static let completionPatience = Interval.milliseconds(1000)
    /// As much as a source may owe its budget and go on reading.
    private static let backlogMax = Interval.milliseconds(1000)

    /// Goes on with what is due; returns when to come back.
    func pullTurn(_ now: Instant) -> Instant? {
        var next: Instant?
        func comesBack(_ due: Instant) { next = next.map { min($0, due) } ?? due }
        while let answer = pulling.answers.first, answer.due <= now { pulling.answers.removeFirst().send() }
        if let answer = pulling.answers.first { comesBack(answer.due) }
        for pull in pulling.pulls {
            for waiter in pull.waiters where waiter.until <= now { waiter.completion(.moveStatus(status(of: pull))) }
            pull.waiters.removeAll { $0.until <= now }
            if let until = pull.waiters.map(\.until).min() { comesBack(until) }
            guard !pull.isUnderWay else { continue }
            let due = isPaced(pull) ? max(pull.due, pulling.pace.next) : pull.due
            if due <= now { goOn(pull, now) }
            if !pull.isUnderWay { comesBack(max(due, pull.due)) }
        }
        pulling.pulls.removeAll { $0.due == .distantFuture && !$0.isUnderWay }
        return next
    }

    /// `group` is led here and has something to receive.
    func beginPulling(into group: String) {
        for move in machines[group]?.moves ?? [] where move.phase == .receiving {
            guard !pulling.pulls.contains(where: { $0.group == group && $0.operation == move.operation }) else {
                continue
            }
            pulling.pulls.append(ShardPull(group, move.operation))
            lane.requestTurn()
        }
    }

    /// What the group's leader here knows of a move into it.
    func moveStatus(
        _ group: String, _ operation: UInt64, frozen: Bool, _ completion: @escaping (GroupAnswer) -> Void
    ) {
        guard host.leads(group), let machine = machines[group] else {
            return completion(.notLeader(host.status(of: group)?.leader?.address))
        }
        guard let staging = machine.moves.first(where: { $0.operation == operation })?.staging else {
            return completion(.failed("nothing is staged for operation \(operation)"))
        }
        if staging.isComplete {
            return completion(
                .moveStatus(MoveStatus(isCaughtUp: true, isComplete: true, bytesDone: staging.bytesStaged)))
        }
        beginPulling(into: group)
        guard let pull = pulling.pulls.first(where: { $0.group == group && $0.operation == operation }) else {
            return completion(.failed("operation \(operation) is over"))
        }
        guard frozen else { return completion(.moveStatus(status(of: pull))) }
        // every client of the shard waits
        pull.due = .distantPast
        pull.waiters.append((lane.clock.now + ShardServer.completionPatience, completion))
        lane.requestTurn()
    }

    private func status(of pull: ShardPull) -> MoveStatus {
        let staging = staging(of: pull)
        let tailMax = pull.patience.tailBytes(ofPieces: staging?.nextChunk ?? 0)
        return MoveStatus(
            isCaughtUp: (pull.bytesLeft ?? .max) <= tailMax, isComplete: staging?.isComplete ?? false,
            bytesDone: staging?.bytesStaged ?? 0, bytesLeft: pull.bytesLeft ?? 0)
    }

    /// Clients of a frozen shard wait, and one that is written faster than it comes has to be copied faster.
    private func isPaced(_ pull: ShardPull) -> Bool {
        pull.waiters.isEmpty && pull.patience.excess(ofPieces: staging(of: pull)?.nextChunk ?? 0) == 0
    }

    private func staging(of pull: ShardPull) -> ShardMove.Staging? {
        machines[pull.group]?.moves.first { $0.operation == pull.operation }?.staging
    }

    // MARK: pulling

    private func goOn(_ pull: ShardPull, _ now: Instant) {
        guard host.leads(pull.group), let staging = staging(of: pull), !staging.isComplete else { return end(pull) }
        guard let source = source(of: staging.shard), !source.peers.isEmpty else {
            return pause(pull, "the map known here does not say who owns shard \(staging.shard.id)")
        }
        pull.isUnderWay = true
        pull.reservation = isPaced(pull) ? pulling.pace.begin(now) : nil
        pulling.pulls.removeAll { $0 === pull }
        pulling.pulls.append(pull)
        let question = ReadMoveRequest(
            group: source.id, operation: pull.operation, shard: staging.shard.id, epoch: staging.shard.epoch - 1,
            cursor: staging.cursor, tail: staging.tail, bytes: settings.moveChunkBytes)
        let node = source.peers[pull.turn % source.peers.count].address
        readMove(question, at: node) { [self] result in
            switch result {
            case .failure(let error): pause(pull, "\(node): \(error.text)")
            case .success(let reply): take(reply, pull, after: staging)
            }
        }
    }

    /// The group that owns the shard before the move.
    private func source(of shard: Shard) -> Group? {
        guard let owned = map?.shards.first(where: { $0.id == shard.id }), owned.epoch == shard.epoch - 1 else {
            return nil
        }
        return map?.group(owned.group)
    }

    private func take(_ reply: ReadMoveReply, _ pull: ShardPull, after staging: ShardMove.Staging) {
        pull.bytesLeft = reply.bytesLeft
        if reply.tail > .zero {
            pull.patience.take(bytesLeft: reply.bytesLeft)
            // it does not follow: one that applies nothing any more never has news, and hears of no freeze
            if reply.bytesLeft == nil { pull.turn += 1 }
        }
        let hasNews =
            !reply.pairs.isEmpty || reply.isComplete || reply.cursor != staging.cursor
            || (staging.tail == .zero && reply.tail > .zero)
        guard hasNews else {
            giveBack(pull)
            pull.failures = 0
            pull.isUnderWay = false
            pull.due = lane.clock.now + (pull.waiters.isEmpty ? ShardServer.idlePace : ShardServer.frozenPace)
            return lane.requestTurn()
        }
        let step = ShardStep(
            operation: pull.operation, shard: staging.shard.id, epoch: staging.shard.epoch - 1,
            action: .stage(reply.chunk(staging.nextChunk)))
        let proposed = lane.clock.now
        propose(.step(step), to: pull.group) { [self] outcome in
            guard case .applied(let packed, _) = outcome else {
                return pause(pull, "\(pull.group) could not take a part: \(outcome)")
            }
            if let answer = ExecuteReply(packed, arena), let error = answer.error {
                return pause(pull, answer.message ?? error.sentence)
            }
            let now = lane.clock.now
            pulling.pace.applied(after: now - proposed, paced: pull.reservation != nil, now)
            pull.reservation = nil
            pull.failures = 0
            pull.isUnderWay = false
            pull.due = .distantPast
            if reply.isComplete { end(pull) }
            lane.requestTurn()
        }
    }

    private func giveBack(_ pull: ShardPull) {
        if let reservation = pull.reservation { pulling.pace.cancel(reservation) }
        pull.reservation = nil
    }

    private func pause(_ pull: ShardPull, _ problem: String) {
        giveBack(pull)
        pull.isUnderWay = false
        pull.turn += 1
        let shift = Int64(min(pull.failures, 5))
        pull.failures += 1
        pull.due = lane.clock.now + .milliseconds(pull.waiters.isEmpty ? 20 << shift : 5 << shift)
        complain(
            "a part of a moving shard could not be read", about: "\(pull.operation)",
            [("group", pull.group), ("operation", "\(pull.operation)"), ("problem", problem)])
        lane.requestTurn()
    }

    /// It is complete, or no longer this node's.
    private func end(_ pull: ShardPull) {
        pull.isUnderWay = false
        pull.due = .distantFuture
        let answer: GroupAnswer =
            host.leads(pull.group)
            ? .moveStatus(status(of: pull)) : .notLeader(host.status(of: pull.group)?.leader?.address)
        for waiter in pull.waiters { waiter.completion(answer) }
        pull.waiters.removeAll()
        lane.requestTurn()
    }

    // MARK: being read

    /// Why a source could not be read.
    struct ReadMoveFailure: Error {
        var text: String
    }

    private func readMove(
        _ question: ReadMoveRequest, at node: NodeAddress,
        _ completion: @escaping (Result<ReadMoveReply, ReadMoveFailure>) -> Void
    ) {
        if node == address { return readMoveHere(question, completion) }
        channel(to: node).call(
            service: Services.cluster, method: "read_move", body: question.packed(arena), attachment: [],
            deadline: lane.clock.now + ShardServer.readTimeout
        ) { [self] result in
            lane.requestTurn()
            switch result {
            case .failed(let error): completion(.failure(ReadMoveFailure(text: error.text)))
            case .reply(let reply):
                guard let reply = ReadMoveReply(reply.body, arena) else {
                    return completion(.failure(ReadMoveFailure(text: "malformed reply")))
                }
                if let error = reply.error {
                    return completion(.failure(ReadMoveFailure(text: reply.message ?? error.sentence)))
                }
                completion(.success(reply))
            }
        }
    }

    /// Reads the state as it is applied here: whichever it is, it is one that the destination may take a part of.
    func readMoveHere(
        _ question: ReadMoveRequest, _ completion: @escaping (Result<ReadMoveReply, ReadMoveFailure>) -> Void
    ) {
        // one whose state is doubtful may vote, but must not be copied
        guard let machine = machines[question.group], host.raft(of: question.group) != nil,
            host.status(of: question.group)?.problem == nil
        else { return completion(.failure(ReadMoveFailure(text: NamedError.noSuchGroup.sentence))) }
        let isFrozen = machine.moves.contains { $0.operation == question.operation && $0.phase == .frozen }
        // whoever asks would have given up before the answer may leave
        guard isFrozen || host.transferBacklog < ShardServer.backlogMax else {
            return completion(.failure(ReadMoveFailure(text: "the node sends as much as it may; ask again")))
        }
        host.evaluateAsApplied {
            ShardServer.attempt { () throws(StateMachineError) in try machine.readMove(question) }
        } completion: { [self] result in
            var reply: ReadMoveReply
            switch result {
            case .success(let answer): reply = answer
            case .failure(let error):
                couldNotRead(machine, of: question.group, error)
                return completion(.failure(ReadMoveFailure(text: error.description)))
            }
            if let error = reply.error {
                return completion(.failure(ReadMoveFailure(text: reply.message ?? error.sentence)))
            }
            // of one that was removed meanwhile the state may have gone while it was read
            guard machines[question.group] === machine, host.raft(of: question.group) != nil else {
                return completion(.failure(ReadMoveFailure(text: NamedError.noSuchGroup.sentence)))
            }
            // what is left is for those to say who are in touch with a leader; another may stand still
            let status = host.status(of: question.group)
            if status?.leader == nil || status?.appliedIndex != status?.commitIndex { reply.bytesLeft = nil }
            let due = host.payForTransfer(reply.pairs.reduce(0) { $0 + $1.key.count + ($1.value?.count ?? 0) })
            // while the shard is frozen its clients wait
            guard due > lane.clock.now, !isFrozen else { return completion(.success(reply)) }
            pulling.answers.append((due, { completion(.success(reply)) }))
            lane.requestTurn()
        }
    }

    func answerReadMove(_ request: RpcRequest) {
        guard let question = ReadMoveRequest(request.body, arena) else {
            return request.responder.fail(RpcCode.badRequest, "malformed request")
        }
        readMoveHere(question) { [self] result in
            switch result {
            case .success(let reply): request.responder.reply(body: reply.packed(arena))
            case .failure(let error):
                request.responder.reply(body: ReadMoveReply(error: .refused, message: error.text).packed(arena))
            }
        }
    }
}

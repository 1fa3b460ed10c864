public import RaftCore
internal import ShardClient
internal import ShardMap
public import Transport

/// One Redis client's connection. Used on the lane's thread only.
///
/// Bytes become requests, requests wait in a queue, and rounds are taken from its front, one at a time:
///
/// 1. Replies leave in the order of the commands.
/// 2. A round starts when the one before it has been answered, and not while too much is unsent.
/// 3. Reading is paused exactly while the queue is full or too much is unsent; what then stays unconsumed is presented
///    again when it resumes.
/// 4. After QUIT or a protocol error nothing is executed any more; the connection closes once the replies have left.
/// 5. A client that closes its sending direction gets the replies to all that it has sent.
public final class RedisConnection: ConnectionHandler {
    private let server: RedisServer
    private var parser: RequestParser
    /// Known from the first bytes on until it is closed.
    private var connection: (any Connection)?
    private var client: ClientState?
    /// Complete requests whose round has not begun, and what they cost to keep.
    private var queue: [Request] = []
    private var queueCost = 0
    private var isRoundRunning = false
    /// Whether rounds are being started further up the stack: a router may answer before its call returns.
    private var isStartingRounds = false
    /// Whether whatever still comes in is dropped.
    private var isEnding = false

    /// A connection's handler; each connection has its own.
    public init(server: RedisServer) {
        self.server = server
        self.parser = RequestParser(
            limits: RequestParser.Limits(
                bulkBytes: server.settings.maxBulkBytes, commandBytes: server.settings.queryBufferLimit,
                arguments: server.settings.maxArguments))
    }

    /// Nothing: a client speaks first.
    public func opened(_ connection: any Connection) {}

    /// Takes requests until the queue is full.
    public func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        adopt(connection)
        var position = 0
        var needed = 0
        parsing: while !isEnding, hasRoom {
            switch parser.next(bytes, &position) {
            case .incomplete(let wanted):
                needed = wanted
                break parsing
            case .request(let request):
                enqueue(request)
                // Only a full queue is worth a round before everything that has come is in it.
                if !hasRoom { startRounds() }
            }
        }
        startRounds()
        parser.settle()
        settlePause()
        return isEnding ? Consumption(consumed: bytes.count) : Consumption(consumed: position, needed: needed)
    }

    /// Forgets the connection; the round that runs is still executed, and not answered.
    public func closed(_ connection: any Connection, reason: String) {
        self.connection = nil
        isEnding = true
        queue = []
        queueCost = 0
    }

    /// Goes on with what waited for room in the connection.
    public func drained(_ connection: any Connection) {
        startRounds()
        settlePause()
    }

    /// A round runs, or commands wait for theirs.
    public var owesAnswers: Bool { isRoundRunning || !queue.isEmpty }
}

// MARK: the queue

extension RedisConnection {
    private var hasRoom: Bool {
        queue.count < server.settings.maxPendingCommands && queueCost < server.settings.queryBufferLimit
    }

    private var isOutboxFull: Bool { connection.map { $0.unsentBytes > server.settings.maxUnsentBytes } ?? true }

    private func adopt(_ connection: any Connection) {
        if client != nil { return }
        self.connection = connection
        client = ClientState(id: connection.id, address: connection.peerDescription, connectedAt: server.clock.now)
    }

    private func enqueue(_ request: Request) {
        queue.append(request)
        queueCost += request.cost
        // Behind a violation nothing can be told apart any more.
        if case .violation = request.body { isEnding = true }
    }

    private func settlePause() {
        guard let connection else { return }
        let shouldPause = !isEnding && (!hasRoom || isOutboxFull)
        if connection.isReadingPaused != shouldPause { connection.isReadingPaused = shouldPause }
    }
}

// MARK: rounds

extension RedisConnection {
    private func startRounds() {
        guard !isStartingRounds else { return }
        isStartingRounds = true
        while !isRoundRunning, !queue.isEmpty, !isOutboxFull { start(takeRound()) }
        isStartingRounds = false
    }

    private func takeRound() -> Round {
        var round = Round()
        guard var client else { preconditionFailure("a request without a connection") }
        let size = server.settings.roundSize
        var taken = 0
        while taken < min(queue.count, size), round.operations.count < size, !round.isLast {
            guard round.take(queue[taken].body, server, &client) else { break }
            queueCost -= queue[taken].cost
            taken += 1
        }
        self.client = client
        queue.removeFirst(taken)
        if round.isLast {
            isEnding = true
            queue = []
            queueCost = 0
        }
        return round
    }

    /// The completions hold this handler until they are called, as every router's are at the deadline.
    private func start(_ round: Round) {
        isRoundRunning = true
        switch round.work {
        case .operations where round.operations.isEmpty: finish(round, [])
        case .operations:
            server.router.execute(round.operations, deadline: server.deadline) { self.finish(round, $0) }
        case .scan(let step):
            server.router.scan(from: step.start, limit: step.limit, deadline: server.deadline) { outcome in
                switch outcome {
                case .success(let found):
                    let cursor = found.next.map { self.server.cursor(for: $0) } ?? 0
                    self.finish(round, with: step.reply(to: found.pairs, cursor: cursor))
                case .failure(let failure): self.finish(round, with: .error(Refusal(failure.error, failure.message)))
                }
            }
        case .count:
            server.router.count(deadline: server.deadline) { outcome in
                switch outcome {
                case .success(let count): self.finish(round, with: .integer(count))
                case .failure(let failure): self.finish(round, with: .error(Refusal(failure.error, failure.message)))
                }
            }
        }
    }

    private func finish(_ round: Round, _ results: [KeyResult]) {
        answer(round) { connection in
            round.forEachReply(results) { server.writer.write($0, $1, to: connection) }
        }
    }

    private func finish(_ round: Round, with reply: Reply) {
        answer(round) { server.writer.write(reply, round.parts[0].version, to: $0) }
    }

    private func answer(_ round: Round, _ write: (any Connection) -> Void) {
        precondition(isRoundRunning, "a round is answered once")
        isRoundRunning = false
        guard let connection else { return }
        write(connection)
        server.writer.flush(to: connection)
        if round.isLast { return connection.closeAfterSending(reason: "the client's conversation ended") }
        guard !isStartingRounds else { return }
        startRounds()
        settlePause()
    }
}

import RaftCore
import ShardMap

/// A reply a session remembers; its bytes are in the store only.
struct Answer: Equatable, Sendable {
    /// The request's number.
    var sequence: UInt64
    /// Tells a repeated request from another one under the same number.
    var hash: UInt64
    /// Length of the reply in bytes.
    var bytes: Int
}

/// What a session says about a write.
enum SessionVerdict: Equatable, Sendable {
    /// It is new: execute it and remember the reply.
    case execute
    /// It has been executed: the remembered reply is the answer.
    case answered
    /// It must not be executed.
    case refuse(NamedError)
}

/// When a session was used. Epochs come first, for indexes of different groups do not compare, and every change of
/// owner raises the epoch; so a table that moves needs no rewriting.
struct SessionUse: Comparable, Sendable {
    /// The shard's.
    var epoch: UInt64
    /// The entry's, in the log of the group that owned the shard then.
    var index: LogIndex

    static let never = SessionUse(epoch: 0, index: .zero)

    static func < (left: SessionUse, right: SessionUse) -> Bool {
        (left.epoch, left.index) < (right.epoch, right.index)
    }
}

/// A client's identity on one shard, which makes its writes exactly-once.
struct Session: Sendable {
    /// Named by the entry that opened it: ``SessionTable/freeToken(of:openedAt:)``.
    let token: UInt64
    /// The last entry that named it; different for every session of a shard, but for those that a merge has united.
    var lastUse: SessionUse
    /// The entry that opened it; ``SessionUse/never`` if it was stored by a version that did not note it.
    let opened: SessionUse
    /// Everything below was answered and the answers have arrived; replies below are forgotten.
    private(set) var floor: UInt64 = 0
    /// Ascending by sequence.
    private(set) var answers: [Answer] = []
    /// Sum over ``answers``.
    private(set) var answerBytes = 0

    init(token: UInt64, opened: SessionUse, lastUse: SessionUse? = nil, floor: UInt64 = 0) {
        self.token = token
        self.opened = opened
        self.lastUse = lastUse ?? opened
        self.floor = floor
    }

    /// Judges a write; changes nothing. The client's floor counts even before it is recorded: its numbers may run over
    /// several shards, so one that has not heard of the client for long may be far behind.
    func verdict(on write: SessionWrite, hash: UInt64, _ limits: KeyValueStateMachine.Limits) -> SessionVerdict {
        guard write.floor <= write.sequence else { return .refuse(.badRequest) }
        guard write.sequence >= floor else { return .refuse(.sequenceTooOld) }
        if let answer = answer(to: write.sequence) {
            return answer.hash == hash ? .answered : .refuse(.sequenceReused)
        }
        let present = max(floor, write.floor)
        let isInWindow = write.sequence - present < UInt64(limits.windowPerSession)
        // answers that the client says have arrived take no room any more, or the session could never get on
        let kept = answerBytes - answers[..<position(of: present)].reduce(0) { $0 + $1.bytes }
        guard isInWindow, kept < limits.replyBytesPerSession else { return .refuse(.windowExceeded) }
        return .execute
    }

    /// Remembers the reply to a new request.
    mutating func record(_ answer: Answer) {
        let position = position(of: answer.sequence)
        precondition(
            answer.sequence >= floor && (position == answers.count || answers[position].sequence != answer.sequence),
            "a request is answered twice")
        answers.insert(answer, at: position)
        answerBytes += answer.bytes
    }

    /// Raises the floor to at least `floor`; returns the sequences whose replies are forgotten.
    mutating func raiseFloor(to floor: UInt64) -> [UInt64] {
        guard floor > self.floor else { return [] }
        self.floor = floor
        let kept = position(of: floor)
        let forgotten = answers[..<kept]
        answerBytes -= forgotten.reduce(0) { $0 + $1.bytes }
        defer { answers.removeFirst(kept) }
        return forgotten.map(\.sequence)
    }

    /// The session that both are behind a merge: with the replies of both, as far as the higher floor leaves them. Under
    /// one number both have the same reply, or the client broke the rules and gets this one's.
    func united(with other: Session) -> Session {
        var united = Session(
            token: token, opened: opened, lastUse: max(lastUse, other.lastUse), floor: max(floor, other.floor))
        for answer in answers where answer.sequence >= united.floor { united.record(answer) }
        for answer in other.answers where answer.sequence >= united.floor && !united.remembers(answer.sequence) {
            united.record(answer)
        }
        return united
    }

    /// Whether there is a reply to `sequence`.
    func remembers(_ sequence: UInt64) -> Bool { answer(to: sequence) != nil }

    private func position(of sequence: UInt64) -> Int {
        if let last = answers.last, last.sequence < sequence { return answers.count }
        return partitionPoint(answers.count) { answers[$0].sequence >= sequence }
    }

    private func answer(to sequence: UInt64) -> Answer? {
        let position = position(of: sequence)
        return position < answers.count && answers[position].sequence == sequence ? answers[position] : nil
    }
}

/// The sessions of one shard, in the order of their last use. That order is the log's, so every replica evicts the same
/// session at the same entry.
struct SessionTable: Sendable {
    /// A place in the list from the least to the most recently used; links are positions in ``places``.
    private struct Place: Sendable {
        var session: Session
        var older: Int?
        var newer: Int?
    }

    /// Stands for no session; what the table as a whole remembers is stored under it.
    static let noToken: UInt64 = 0

    private var places: [Place] = []
    private var free: [Int] = []
    /// For lookup only; its order reaches nothing.
    private var positions: [UInt64: Int] = [:]
    private var oldest: Int?
    private var newest: Int?

    init() {}

    /// The table of `sessions`, whatever their order.
    init(_ sessions: [Session], evicted: SessionUse) {
        self.evicted = evicted
        for session in sessions.sorted(by: { ($0.lastUse, $0.token) < ($1.lastUse, $1.token) }) { insert(session) }
    }

    /// No session that was evicted here, or where the table comes from, was used after that.
    private(set) var evicted = SessionUse.never

    /// Number of sessions.
    var count: Int { positions.count }

    /// From the least to the most recently used.
    var sessions: [Session] {
        var sessions: [Session] = []
        var next = oldest
        while let position = next {
            sessions.append(places[position].session)
            next = places[position].newer
        }
        return sessions
    }

    /// The session of `token`.
    subscript(token: UInt64) -> Session? { positions[token].map { places[$0].session } }

    /// The token of the session that the entry `index` opens under `epoch`. For one nonce every index gives another: an
    /// entry that was committed twice does not bring back a session that was evicted, under which late writes would be
    /// executed again. So does every epoch, for behind a move the indexes are those of another log. Part of the
    /// replicated rules.
    func freeToken(of nonce: UInt64, openedAt index: LogIndex, epoch: UInt64 = 1) -> UInt64 {
        var seed = nonce &+ UInt64(bitPattern: index.rawValue) &* 0x9e37_79b9_7f4a_7c15
        seed &+= (epoch &- 1) &* 0xd1b5_4a32_d192_ed03
        // zero stands for no session, and nothing keeps clients from choosing their nonces badly
        while seed.mixed == SessionTable.noToken || positions[seed.mixed] != nil { seed &+= 1 }
        return seed.mixed
    }

    /// What the write's session says about it; a write never opens a session.
    func verdict(on write: SessionWrite, hash: UInt64, _ limits: KeyValueStateMachine.Limits) -> SessionVerdict {
        guard let position = positions[write.session] else { return .refuse(.sessionExpired) }
        return places[position].session.verdict(on: write, hash: hash, limits)
    }

    /// Adds a session that is not there, as the most recently used one.
    mutating func insert(_ session: Session) {
        precondition(positions[session.token] == nil, "a session is opened twice")
        let position: Int
        if let reused = free.popLast() {
            position = reused
            places[reused] = Place(session: session)
        } else {
            position = places.count
            places.append(Place(session: session))
        }
        positions[session.token] = position
        link(position)
    }

    /// Forgets the least recently used session and returns it; nil if there is none.
    mutating func evict() -> Session? {
        guard let session = oldest.map({ places[$0].session }) else { return nil }
        remove(session.token)
        evicted = max(evicted, session.lastUse)
        return session
    }

    /// Forgets a session.
    private mutating func remove(_ token: UInt64) {
        guard let position = positions.removeValue(forKey: token) else { return }
        unlink(position)
        places[position].session = Session(token: 0, opened: .never)
        free.append(position)
    }

    /// The table of both, as a merge makes it; at most `limit` sessions.
    ///
    /// A session that only one of them has may have been evicted from the other one, with replies to requests that are
    /// asked again. Then it is no session of both: its client hears that it has expired, and nothing is executed twice.
    func united(with other: SessionTable, limit: Int) -> SessionTable {
        var table = SessionTable()
        table.evicted = max(evicted, other.evicted)
        var united: [Session] = []
        for (one, another) in [(self, other), (other, self)] {
            for session in one.sessions where another[session.token] == nil {
                if session.opened > another.evicted || another.evicted == .never {
                    united.append(session)
                } else {
                    table.evicted = max(table.evicted, session.lastUse)
                }
            }
        }
        united += sessions.compactMap { session in other[session.token].map { session.united(with: $0) } }
        table = SessionTable(united, evicted: table.evicted)
        while table.count > limit { _ = table.evict() }
        return table
    }

    /// Notes that `token`, which must be there, is used now, and lets `body` change the session.
    mutating func use<R>(_ token: UInt64, at use: SessionUse, _ body: (inout Session) -> R) -> R {
        guard let position = positions[token] else { preconditionFailure("a session that is not there is used") }
        unlink(position)
        link(position)
        places[position].session.lastUse = use
        return body(&places[position].session)
    }

    /// Brings a stored answer back to its session without using it; false if it cannot be one of the session's.
    mutating func restore(_ answer: Answer, to token: UInt64) -> Bool {
        guard let position = positions[token], answer.sequence >= places[position].session.floor else { return false }
        places[position].session.record(answer)
        return true
    }

    private mutating func link(_ position: Int) {
        places[position].older = newest
        places[position].newer = nil
        if let newest { places[newest].newer = position } else { oldest = position }
        newest = position
    }

    private mutating func unlink(_ position: Int) {
        let (older, newer) = (places[position].older, places[position].newer)
        if let older { places[older].newer = newer } else { oldest = newer }
        if let newer { places[newer].older = older } else { newest = older }
    }
}

internal import Glibc
internal import RaftCore

/// What a client sent, once it is complete.
struct Request {
    /// What it is.
    enum Body {
        /// A command's name and arguments; never empty.
        case command([Bytes])
        /// A command too large to be kept: it was skipped, and this is its answer.
        case refused(Refusal)
        /// No request can be found in what follows; this is the last answer.
        case violation(Refusal)
    }

    var body: Body
    /// What it costs to keep, in bytes.
    var cost: Int
}

/// Finds requests in a stream of bytes: multibulk (RESP) and inline commands. One for each connection.
///
///     request   = multibulk / inline
///     multibulk = "*" count CRLF *("$" length CRLF *OCTET CRLF)
///     inline    = words, separated by spaces, with "…" and '…' quoted as in C and a shell; LF
///
/// Invariants:
/// 1. What is consumed is never needed again: a command may come in as many pieces as it has bytes, and each is looked
///    at once. Only a header line or a bulk that is not complete yet stays unconsumed.
/// 2. Arguments are slices of what was received. Those of a command that is still incomplete are copied into memory of
///    their own (``settle()``), so that a sender of single bytes cannot hold a read buffer with each of them.
/// 3. What is kept for an incomplete command never exceeds ``Limits/commandBytes``; a bulk above ``Limits/bulkBytes``
///    is not kept at all.
///
/// Like Redis it takes any two bytes for the line end behind a bulk, and any byte for the one behind a CR.
struct RequestParser {
    struct Limits {
        /// Longest argument that is kept.
        var bulkBytes: Int
        /// Most that one command's arguments may cost.
        var commandBytes: Int
        /// Most arguments of one command.
        var arguments: Int
        /// Longest inline command or header line.
        var lineBytes = 64 << 10
        /// A longer bulk is not a mistake in size but a broken stream.
        var absurdBulkBytes = 512 << 20
    }

    enum Step {
        case request(Request)
        /// There is no complete request; the unconsumed rest is of use once it is so long (0: unknown).
        case incomplete(needed: Int)
    }

    /// What an argument costs besides its bytes.
    static let argumentCost = 32

    private let limits: Limits
    /// Of the command that is being received.
    private var arguments: [Bytes] = []
    private var argumentsLeft = 0
    private var settledCount = 0
    private var cost = 0
    private var refusal: Refusal?
    /// Length of the bulk whose header has been consumed.
    private var bulkLength: Int?
    /// Bytes of a bulk that is not kept, its line end included, still to come.
    private var skipLeft = 0

    init(limits: Limits) { self.limits = limits }

    /// The next request in `bytes` from `position` on, which moves behind what is consumed.
    mutating func next(_ bytes: Bytes, _ position: inout Int) -> Step {
        while position < bytes.count {
            if argumentsLeft == 0 {
                let isMultibulk = bytes[position] == UInt8(ascii: "*")
                if let step = isMultibulk ? beginMultibulk(bytes, &position) : inline(bytes, &position) { return step }
            } else {
                if let step = argument(bytes, &position) { return step }
                if argumentsLeft == 0 { return .request(finish()) }
            }
        }
        return .incomplete(needed: bulkLength.map { $0 + 2 } ?? 0)
    }

    /// Gives the arguments of an incomplete command memory of their own.
    mutating func settle() {
        for index in settledCount..<arguments.count { arguments[index] = arguments[index].compacted }
        settledCount = arguments.count
    }
}

// MARK: multibulk

extension RequestParser {
    private enum Line {
        case number(Int64?)
        case incomplete
        case tooLong
    }

    /// Each of these returns nil when it has moved on and there may be more to do.
    private mutating func beginMultibulk(_ bytes: Bytes, _ position: inout Int) -> Step? {
        switch headerLine(bytes, &position) {
        case .incomplete: return .incomplete(needed: 0)
        case .tooLong: return violation("too big mbulk count string")
        case .number(let count):
            guard let count, count <= limits.arguments else { return violation("invalid multibulk length") }
            argumentsLeft = max(0, Int(count))
            arguments.reserveCapacity(min(argumentsLeft, 64))
            return nil
        }
    }

    private mutating func argument(_ bytes: Bytes, _ position: inout Int) -> Step? {
        if skipLeft > 0 {
            let skipped = min(skipLeft, bytes.count - position)
            position += skipped
            skipLeft -= skipped
            if skipLeft == 0 { argumentsLeft -= 1 }
            return nil
        }
        guard let length = bulkLength else { return beginBulk(bytes, &position) }
        guard bytes.count - position >= length + 2 else { return .incomplete(needed: length + 2) }
        arguments.append(bytes.slice(from: position, count: length))
        position += length + 2
        bulkLength = nil
        argumentsLeft -= 1
        return nil
    }

    private mutating func beginBulk(_ bytes: Bytes, _ position: inout Int) -> Step? {
        guard bytes[position] == UInt8(ascii: "$") else {
            let found = Character(Unicode.Scalar(bytes[position]))
            return violation("expected '$', got '\(found)'")
        }
        switch headerLine(bytes, &position) {
        case .incomplete: return .incomplete(needed: 0)
        case .tooLong: return violation("too big bulk count string")
        case .number(let length):
            guard let length, length >= 0, length <= limits.absurdBulkBytes else {
                return violation("invalid bulk length")
            }
            admitBulk(Int(length))
            return nil
        }
    }

    /// Decides whether a bulk is kept. Once one is not, neither are the others of its command.
    private mutating func admitBulk(_ length: Int) {
        if refusal == nil {
            cost += length + RequestParser.argumentCost
            if length > limits.bulkBytes {
                refusal = .bulkTooLong
            } else if cost > limits.commandBytes {
                refusal = .commandTooLong(limits.commandBytes)
            }
            if refusal != nil { dropArguments() }
        }
        if refusal != nil { skipLeft = length + 2 } else { bulkLength = length }
    }

    /// The number between the marker at `position` and the line's end, which is consumed if it is there.
    private func headerLine(_ bytes: Bytes, _ position: inout Int) -> Line {
        let start = position + 1
        guard let end = bytes.position(of: UInt8(ascii: "\r"), from: start, limit: limits.lineBytes) else {
            return bytes.count - position > limits.lineBytes ? .tooLong : .incomplete
        }
        guard end + 1 < bytes.count else { return .incomplete }
        position = end + 2
        return .number(bytes.strictInteger(from: start, to: end))
    }

    private mutating func finish() -> Request {
        let request = Request(body: refusal.map { .refused($0) } ?? .command(arguments), cost: cost)
        dropArguments()
        cost = 0
        refusal = nil
        return request
    }

    private mutating func dropArguments() {
        arguments = []
        settledCount = 0
    }

    private func violation(_ sentence: String) -> Step {
        .request(Request(body: .violation(Refusal("ERR Protocol error: \(sentence)")), cost: 0))
    }
}

// MARK: inline commands

extension RequestParser {
    private func inline(_ bytes: Bytes, _ position: inout Int) -> Step? {
        guard let end = bytes.position(of: UInt8(ascii: "\n"), from: position, limit: limits.lineBytes) else {
            return bytes.count - position > limits.lineBytes
                ? violation("too big inline request") : .incomplete(needed: 0)
        }
        let line = bytes.slice(from: position, count: end - position).array
        position = end + 1
        guard let words = InlineWords.split(line) else { return violation("unbalanced quotes in request") }
        if words.isEmpty { return nil }
        return .request(Request(body: .command(words), cost: line.count + words.count * RequestParser.argumentCost))
    }
}

extension Bytes {
    /// Where `byte` first occurs from `start` on, among `limit` bytes.
    fileprivate func position(of byte: UInt8, from start: Int, limit: Int) -> Int? {
        withUnsafeBytes { buffer in
            let length = min(buffer.count - start, limit)
            guard length > 0, let base = buffer.baseAddress else { return nil }
            return memchr(base + start, Int32(byte), length).map { UnsafeRawPointer($0) - base }
        }
    }
}

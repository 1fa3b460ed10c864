public import RaftCore

/// One port, several protocols: looks at a connection's first bytes, then hands it to the matching handler for good.
/// A connection that matches nothing is closed, also one that stops in the middle of a protocol's first bytes, and, much
/// later, one that says nothing at all: a braft may connect long before it has something to say. Whoever is recognised is its
/// handler's business. One sniffer for each accepted connection.
public final class ProtocolSniffer: ConnectionHandler, SweptItem {
    /// Whether the first bytes are a protocol's.
    public enum Match: Sendable {
        /// They are.
        case yes
        /// They are not, whatever follows.
        case no
        /// They may be; more is needed.
        case needMore
    }

    /// A protocol: how it is recognised and who then takes over. The first that says yes wins.
    public typealias Choice = (matches: (Bytes) -> Match, make: () -> any ConnectionHandler)

    private var choices: [Choice]
    private var chosen: (any ConnectionHandler)?
    private let sweep: DeadlineSweep?
    private let patience: Interval
    /// Set while it is in the sweep.
    private var undecided: (any Connection)?
    private var hasBegun = false
    /// Counted from its beginning, then from the first bytes that did not tell.
    public private(set) var deadline: Instant?
    /// Who is still undecided here speaks no protocol of ours.
    private static let undecidedBytesMax = 4 << 10

    /// Tries `choices` in order. With a sweep, who has begun and is not recognised `patience` later is closed, and so is
    /// `connection` if nothing has come after `silence`.
    public init(
        choices: [Choice], of connection: (any Connection)? = nil, sweep: DeadlineSweep? = nil,
        patience: Interval = .milliseconds(30_000), silence: Interval = .milliseconds(300_000)
    ) {
        self.choices = choices
        self.sweep = sweep
        self.patience = patience
        if let connection { watch(connection, for: silence) }
    }

    private func watch(_ connection: any Connection, for time: Interval) {
        guard let sweep else { return }
        if undecided == nil { sweep.add(self) }
        undecided = connection
        deadline = sweep.now + time
    }

    /// Recognises a protocol whose connections begin with `prefix`, such as `PRPC`.
    public static func beginning(with prefix: String) -> (Bytes) -> Match {
        let expected = Array(prefix.utf8)
        return { bytes in
            let common = min(bytes.count, expected.count)
            for position in 0..<common where bytes[position] != expected[position] { return .no }
            return common == expected.count ? .yes : .needMore
        }
    }

    /// Passed on; a sniffed connection is an accepted one, whose handler is not chosen yet.
    public func opened(_ connection: any Connection) { chosen?.opened(connection) }

    /// Decides, if that is still to be done, and passes everything on.
    public func received(_ bytes: Bytes, on connection: any Connection) -> Consumption {
        if let chosen { return chosen.received(bytes, on: connection) }
        var isUndecided = false
        for choice in choices {
            switch choice.matches(bytes) {
            case .no: continue
            case .needMore: isUndecided = true
            case .yes:
                let handler = choice.make()
                settle()
                chosen = handler
                choices = []
                return handler.received(bytes, on: connection)
            }
        }
        guard isUndecided, bytes.count < ProtocolSniffer.undecidedBytesMax else {
            connection.close(reason: "no protocol begins like this")
            return Consumption(consumed: bytes.count)
        }
        if !hasBegun { watch(connection, for: patience) }
        hasBegun = true
        return Consumption(consumed: 0)
    }

    /// Nobody begins so slowly.
    public func expire(now: Instant) { undecided?.close(reason: "no protocol was begun in time") }

    /// It is decided, or over.
    private func settle() {
        guard undecided != nil else { return }
        (undecided, deadline) = (nil, nil)
        sweep?.remove(self)
    }

    /// Passed on.
    public func closed(_ connection: any Connection, reason: String) {
        settle()
        chosen?.closed(connection, reason: reason)
        chosen = nil
        choices = []
    }

    /// Passed on.
    public func drained(_ connection: any Connection) { chosen?.drained(connection) }

    /// Passed on.
    public func inputEnded(_ connection: any Connection) { chosen?.inputEnded(connection) }

    /// Passed on; who is undecided owes nothing.
    public var owesAnswers: Bool { chosen?.owesAnswers ?? false }
}

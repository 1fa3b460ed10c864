public import RaftCore

/// Why something on the network did not work.
public enum TransportError: Error, Sendable, CustomStringConvertible {
    /// The port is taken.
    case addressInUse(NodeAddress)
    /// A system call failed.
    case system(call: String, errno: Int32, message: String)

    /// One sentence.
    public var description: String {
        switch self {
        case .addressInUse(let address):
            "\(address) is in use by another process; stop it or choose another port"
        case .system(let call, let errno, let message): "\(call): \(message) (errno \(errno))"
        }
    }
}

/// A byte stream to another process. Used on the lane's thread only.
public protocol Connection: AnyObject {
    /// Tells connections of this process apart.
    var id: UInt64 { get }
    /// The other side, for people.
    var peerDescription: String { get }
    /// Bytes accepted by ``send(_:)`` that the kernel does not have yet.
    var unsentBytes: Int { get }
    /// Whatever a service wants to remember of this connection, such as who said hello on it.
    var context: AnyObject? { get set }
    /// Queues bytes. They leave, joined with others in one system call, at the end of the lane's turn.
    func send(_ bytes: Bytes)
    /// Closes after the turn; what is queued may be lost. The handler hears ``ConnectionHandler/closed(_:reason:)``.
    func close(reason: String)
    /// Closes as soon as everything queued has left.
    func closeAfterSending(reason: String)
    /// While true nothing is read, so that the other side feels the pressure. Set back to false, the unconsumed rest
    /// is presented again after the turn, even if nothing follows it.
    var isReadingPaused: Bool { get set }
}

/// When a connection's queue of unsent bytes counts as full and as empty again.
public enum WaterMark {
    /// Above this many unsent bytes the other side is too slow; whoever can should stop producing.
    public static let high = 8 << 20
    /// At or below this many, ``ConnectionHandler/drained(_:)`` is called.
    public static let low = 1 << 20
}

/// How much of the received bytes a handler has dealt with.
public struct Consumption: Sendable {
    /// So many bytes from the start are done with; the rest is presented again with what follows.
    public var consumed: Int
    /// Size the unconsumed rest will grow to before it is of use, 0 if unknown; room is made for it in one piece.
    public var needed: Int
    /// A consumption.
    @inlinable public init(consumed: Int, needed: Int = 0) {
        self.consumed = consumed
        self.needed = needed
    }
}

/// What a connection's owner does with it. Called on the lane's thread only.
public protocol ConnectionHandler: AnyObject {
    /// An outgoing connection is established.
    func opened(_ connection: any Connection)
    /// Bytes came in: everything received and not consumed yet. Slices of them may be kept.
    func received(_ bytes: Bytes, on connection: any Connection) -> Consumption
    /// The connection is gone, or could not be established; called exactly once.
    func closed(_ connection: any Connection, reason: String)
    /// Queued bytes fell below the low-water mark after having been above the high-water mark.
    func drained(_ connection: any Connection)
    /// The other side has sent its last byte: it has gone, or waits for answers. Only heard while reading is not paused.
    func inputEnded(_ connection: any Connection)
    /// Whether answers to what was received are still to come. Asked once the other side has sent its last byte: it may
    /// go on reading, so the connection stays for as long as this holds, within the network's limit. Default: false.
    var owesAnswers: Bool { get }
}

extension ConnectionHandler {
    /// Nothing is to be done about it.
    public func inputEnded(_ connection: any Connection) {}
    /// Nothing is owed: the connection closes as soon as what is queued has left.
    public var owesAnswers: Bool { false }
}

/// The seam between nodes: real sockets in a process, pipes of a simulation in a test.
public protocol Network: AnyObject {
    /// Starts to connect; the handler hears the outcome.
    func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection
    /// Accepts connections on `address`; each gets the handler that `accept` returns.
    func listen(
        on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler
    ) throws(TransportError)
}

/// Runs jobs, in order, away from the lane: the disk, the state machines. The completion comes back on the lane.
public protocol Worker: AnyObject {
    /// Runs `job` after all earlier ones, then `completion` on the lane.
    func submit(_ job: @escaping @Sendable () -> Void, completion: @escaping @Sendable () -> Void)
}

/// What drives a lane: time, timers and turns. Real: a libuv loop; in a test: advanced by hand.
public protocol LaneDriver: AnyObject {
    /// The lane's clocks.
    var clock: any NodeClock { get }
    /// Calls `turn` once after each batch of inputs, and at the latest when the deadline it returned has come.
    func setTurn(_ turn: @escaping (Instant) -> Instant?)
    /// Makes a turn happen soon although no input came. Only on the lane's thread.
    func requestTurn()
}

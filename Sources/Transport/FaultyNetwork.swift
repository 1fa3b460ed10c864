internal import CMessages
public import RaftCore

/// What happens to the bytes that go one way between two nodes.
public enum LinkFault: Equatable, Sendable, CustomStringConvertible {
    /// Nothing.
    case absent
    /// They are held back: none arrives, none is lost, and nobody is told.
    case held
    /// Each arrives so much later, in order.
    case delayed(Interval)

    /// `open`, `held`, or how much later.
    public var description: String {
        switch self {
        case .absent: "open"
        case .held: "held"
        case .delayed(let time): "\(time)"
        }
    }
}

/// What happens to the bytes between this node and another one. Without arguments: nothing.
public struct LinkFaults: Equatable, Sendable, CustomStringConvertible {
    /// To those that this node sends.
    public var outgoing = LinkFault.absent
    /// To those that it receives.
    public var incoming = LinkFault.absent

    /// Faults of both ways.
    public init(outgoing: LinkFault = .absent, incoming: LinkFault = .absent) {
        self.outgoing = outgoing
        self.incoming = incoming
    }

    /// Both ways.
    public var description: String { "to \(outgoing), from \(incoming)" }

    /// Whether no connection can be made: that takes packets both ways.
    var holdsAny: Bool { outgoing == .held || incoming == .held }
}

/// A network whose ways to and from single nodes can be blocked or made slow on command, so that one-way blackholes of
/// real processes need no privilege. Tests put it between a node and its sockets.
///
/// It imitates what TCP makes of packets that are dropped:
/// 1. Bytes whose way is held wait in the order in which they were sent, and arrive when it is open again. The ways are
///    independent: what is sent the other way arrives.
/// 2. A connection is neither reset nor closed by it. What one side closes meanwhile the other one hears of afterwards,
///    behind the bytes that were on their way.
/// 3. No connection comes about while either way is held: a connect hangs until its owner gives it up, and who connects
///    to this node is not listened to.
/// 4. Memory is bounded as with a full window: bytes that come are left to the kernel, those that go count as
///    ``Connection/unsentBytes`` beyond ``windowBytes``.
///
/// Unlike with lost packets, the kernels' acknowledgements pass: what goes the way that is open never stalls.
///
/// Whose a connection is: an outgoing one is the node's to whose address it leads, an accepted one that of the node that
/// its first request introduces. One that introduces nobody (a client, an operator, what a node does in the name of its
/// clients) belongs to no node here, so a way is closed to those as well only if both nodes of it are told. Lane-confined.
public final class FaultyNetwork: Network {
    /// The node that a connection's first request introduces, by service, method and encoded message; nil if it does not.
    public typealias Introduction = (_ service: String, _ method: String, _ body: Bytes) -> NodeAddress?

    /// So many bytes of a connection whose way is not open count as sent, as if the kernel had them.
    public static let windowBytes = 1 << 20
    /// Larger first requests introduce nobody.
    private static let introductionBytesMax = 4 << 10

    private let inner: any Network
    private let lane: any LaneDriver
    private let introduction: Introduction
    private let codec = FrameCodec()
    private var faultsByNode: [NodeAddress: LinkFaults] = [:]
    /// Every connection there is, by its number.
    private var connections: [UInt64: FaultyConnection] = [:]
    private var lastID: UInt64 = 0
    /// Those that have something to do, now or at a time.
    private var active: [FaultyConnection] = []

    /// A network on top of `inner`, without faults yet. Its owner calls ``turn(now:)`` once in every turn of `lane`.
    public init(_ inner: any Network, lane: any LaneDriver, introduction: @escaping Introduction) {
        self.inner = inner
        self.lane = lane
        self.introduction = introduction
    }

    /// What is in force, by address; nodes without faults are not there.
    public var faults: [(node: NodeAddress, faults: LinkFaults)] {
        faultsByNode.sorted { $0.key < $1.key }.map { (node: $0.key, faults: $0.value) }
    }

    /// Bytes that wait here because of faults.
    public var waitingBytes: Int { connections.values.reduce(0) { $0 + $1.waitingBytes } }

    /// From the end of this turn on `faults`, instead of earlier ones, befall what goes between this node and `node`.
    public func set(_ faults: LinkFaults, of node: NodeAddress) {
        faultsByNode[node] = faults == LinkFaults() ? nil : faults
        for (_, connection) in connections.sorted(by: { $0.key < $1.key }) where connection.node == node {
            connection.faults = faults
        }
    }

    /// Lets through what is due; returns when it is to be called next at the latest.
    public func turn(now: Instant) -> Instant? {
        guard !active.isEmpty else { return nil }
        let batch = active
        active = []
        var earliest: Instant?
        for connection in batch {
            connection.isActive = false
            guard let due = connection.turn(now: now) else { continue }
            earliest = min(earliest ?? due, due)
            // it has its turn then, and needs none before
            if !connection.isActive { note(connection) }
        }
        return earliest
    }

    /// Starts to connect; while a way is held, the handler hears nothing of it.
    public func connect(to address: NodeAddress, handler: any ConnectionHandler) -> any Connection {
        let connection = FaultyConnection(makeID(), self, to: address, handler)
        connections[connection.id] = connection
        connection.faults = faults(of: address)
        connection.connectUnlessHeld()
        return connection
    }

    /// Accepts connections on `address`; each gets the handler that `accept` returns.
    public func listen(
        on address: NodeAddress, accept: @escaping (any Connection) -> any ConnectionHandler
    ) throws(TransportError) {
        try inner.listen(on: address) { [unowned self] accepted in
            let connection = FaultyConnection(makeID(), self, accepted: accepted)
            connections[connection.id] = connection
            connection.handler = accept(connection)
            return connection
        }
    }

    private func makeID() -> UInt64 {
        lastID += 1
        return lastID
    }
}

// MARK: what connections need

extension FaultyNetwork {
    /// Who is at the other end of an accepted connection.
    enum Caller {
        case node(NodeAddress)
        /// Nobody whom faults are for.
        case stranger
        /// Too little has come to tell.
        case unclear
    }

    func caller(introducedBy bytes: Bytes) -> Caller {
        switch Frame.next(in: bytes, at: 0, bodyBytesMax: FaultyNetwork.introductionBytesMax) {
        case .malformed: return .stranger
        case .incomplete: return .unclear
        case .frame(let frame):
            let names = codec.decodeMeta(of: frame) { meta -> (String, String)? in
                guard let request = meta.request?.pointee else { return nil }
                return (String(cString: request.service_name), String(cString: request.method_name))
            }
            guard case let (service, method)?? = names else { return .stranger }
            return introduction(service, method, frame.payload).map { .node($0) } ?? .stranger
        }
    }

    func faults(of node: NodeAddress) -> LinkFaults { faultsByNode[node] ?? LinkFaults() }

    var now: Instant { lane.clock.now }

    func open(_ connection: FaultyConnection, to address: NodeAddress) -> any Connection {
        inner.connect(to: address, handler: connection)
    }

    /// `connection` has its turn soon.
    func activate(_ connection: FaultyConnection) {
        if !connection.isActive { note(connection) }
        lane.requestTurn()
    }

    private func note(_ connection: FaultyConnection) {
        connection.isActive = true
        active.append(connection)
    }

    func forget(_ connection: FaultyConnection) {
        connections[connection.id] = nil
        lane.requestTurn()
    }
}

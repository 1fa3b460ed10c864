import RaftCore
import RaftStorage
import Transport

/// An append the core ordered and that has not left yet.
struct AppendOrder {
    var ticket: AppendTicket
    var previousTerm: Term
    var commit: LogIndex
}

/// The appends of one replica towards one peer, in order. Those whose entries are no longer in memory wait for a
/// read from the log; the ones behind them wait with them.
///
/// Lane-confined, like ``PeerLink``; completions that run on the lane may carry it past a worker.
final class Outlet: @unchecked Sendable {
    unowned let replica: Replica
    let peer: PeerID
    unowned let link: PeerLink
    var orders = FIFO<AppendOrder>()
    var isReady = false
    /// Entries read from the log for the first order, once they are there.
    var loaded: [LogEntry] = []
    var isLoading = false
    /// Of a foreign peer: entries are on their way to it. What follows waits, for it may handle requests in any order.
    var isAwaiting = false
    /// Of a foreign peer: appends without entries on their way, and the latest of those that wait for one of them.
    var bareUnderWay = 0
    var waitingBare: AppendOrder?

    init(replica: Replica, peer: PeerID, link: PeerLink) {
        self.replica = replica
        self.peer = peer
        self.link = link
    }

    /// Forgets everything ordered.
    func clear() {
        _ = orders.removeAll()
        loaded = []
    }
}

/// What answers at an address.
enum PeerKind {
    /// A node of this cluster.
    case familiar
    /// Something that does not speak our services, such as a braft.
    case foreign
}

/// Everything between this node and one other: a connection for the groups and one for liveness, so that nothing
/// large can delay the latter.
final class PeerLink: @unchecked Sendable {
    let address: NodeAddress
    let data: RpcChannel
    let liveness: RpcChannel
    /// Outlets with something to send.
    var ready = FIFO<Outlet>()
    /// Since when the node has not answered this one, or since the last measure against that; of a foreign one, since
    /// when it owes answers and has given none.
    var silentSince: Instant?
    /// What was found at the other end of ``data``, and of ``liveness``; nil while there is no connection.
    var kind: PeerKind?
    var livenessKind: PeerKind?
    /// When somebody last asked for a connection.
    var soughtAt = Instant.distantPast

    init(address: NodeAddress, data: RpcChannel, liveness: RpcChannel, silentSince: Instant) {
        self.address = address
        self.data = data
        self.liveness = liveness
        self.silentSince = silentSince
    }

    func enqueue(_ order: AppendOrder, on outlet: Outlet) {
        // what was ordered before and waits is for a place that the core has left
        if kind == .foreign { _ = outlet.orders.removeAll() }
        // the answer to a later probe of the same place serves for the earlier one as well
        if order.ticket.count == 0, let last = outlet.orders.last, last.ticket.count == 0,
            last.ticket.previous == order.ticket.previous, last.ticket.term == order.ticket.term
        {
            _ = outlet.orders.popLast()
        }
        outlet.orders.append(order)
        makeReady(outlet)
    }

    /// Forgets what `replica` wanted to send.
    func forget(_ replica: Replica) {
        for outlet in ready.removeAll() where outlet.replica !== replica { ready.append(outlet) }
    }

    func makeReady(_ outlet: Outlet) {
        guard !outlet.isReady, !outlet.isLoading else { return }
        outlet.isReady = true
        ready.append(outlet)
    }
}

import CMessages
public import RaftCore
import RaftHost
public import Transport
import WireMessages

/// `flotilla.FaultService`: faults of the network on command. Whoever reaches the node can give them, so it is there only
/// where a test wants it (``NodeConfiguration/takesFaultOrders``). On the lane.
public final class FaultService {
    /// By which it is called.
    public static let name = "flotilla.FaultService"
    private static let delayMillisecondsMax: UInt32 = 600_000

    private let network: FaultyNetwork
    private let address: NodeAddress
    private let logger: Logger
    private let arena = Arena()

    /// Orders of the node at `address`, which befall `network`.
    init(_ network: FaultyNetwork, of address: NodeAddress, _ logger: Logger) {
        self.network = network
        self.address = address
        self.logger = logger
    }

    func register(on server: RpcServer) {
        server.register(FaultService.name) { [self] method, request in
            switch method {
            case "set": answerSet(request)
            case "list": answerList(request)
            default: return false
            }
            return true
        }
    }

    private func answerSet(_ request: RpcRequest) {
        let order = arena.scope { arena -> (node: NodeAddress?, faults: LinkFaults?)? in
            guard let message = arena.unpack(flotilla__link_faults__init, request.body)?.pointee else { return nil }
            return (NodeAddress(String(field: message.node)), LinkFaults(message))
        }
        guard let order else { return request.responder.fail(RpcCode.badRequest, "malformed LinkFaults") }
        guard let node = order.node, node != address else {
            return request.responder.fail(RpcCode.badRequest, "node is the address IP:PORT of another node")
        }
        guard let faults = order.faults else {
            return request.responder.fail(
                RpcCode.badRequest,
                "each way is held, or delayed by up to \(FaultService.delayMillisecondsMax) ms, or neither")
        }
        network.set(faults, of: node)
        logger.log(.warning, "faults ordered", [("node", node.description), ("faults", "\(faults)")])
        answerList(request)
    }

    private func answerList(_ request: RpcRequest) {
        arena.scope { arena in
            let reply = arena.make(flotilla__list_faults_reply__init)
            let faults = network.faults.map { node, faults in
                let message = arena.make(flotilla__link_faults__init)
                message.pointee.node = arena.string(node.description)
                faults.write(to: message)
                return Optional(message)
            }
            reply.pointee.n_faults = faults.count
            reply.pointee.faults = arena.array(faults)
            reply.pointee.waiting_bytes = UInt64(network.waitingBytes)
            request.responder.reply(reply)
        }
    }

    /// The request of `set` that has `faults`, instead of earlier ones, befall what goes between the node that is told and
    /// `node`. Any thread.
    public static func order(_ faults: LinkFaults, of node: NodeAddress) -> Bytes {
        let arena = Arena()
        return arena.scope { arena in
            let message = arena.make(flotilla__link_faults__init)
            message.pointee.node = arena.string(node.description)
            faults.write(to: message)
            return arena.pack(message)
        }
    }

    /// Nil: it says two things of one way.
    fileprivate static func fault(holds: Bool, delay: UInt32) -> LinkFault? {
        guard !holds || delay == 0, delay <= delayMillisecondsMax else { return nil }
        return holds ? .held : delay > 0 ? .delayed(.milliseconds(Int(delay))) : .absent
    }
}

extension LinkFaults {
    fileprivate init?(_ message: Flotilla__LinkFaults) {
        let (to, from) = (message.delay_to_ms, message.delay_from_ms)
        guard let outgoing = FaultService.fault(holds: message.hold_to != 0, delay: to),
            let incoming = FaultService.fault(holds: message.hold_from != 0, delay: from)
        else { return nil }
        self.init(outgoing: outgoing, incoming: incoming)
    }

    fileprivate func write(to message: UnsafeMutablePointer<Flotilla__LinkFaults>) {
        switch outgoing {
        case .absent: break
        case .held: (message.pointee.has_hold_to, message.pointee.hold_to) = (1, 1)
        case .delayed(let delay):
            (message.pointee.has_delay_to_ms, message.pointee.delay_to_ms) = (1, UInt32(delay.milliseconds))
        }
        switch incoming {
        case .absent: break
        case .held: (message.pointee.has_hold_from, message.pointee.hold_from) = (1, 1)
        case .delayed(let delay):
            (message.pointee.has_delay_from_ms, message.pointee.delay_from_ms) = (1, UInt32(delay.milliseconds))
        }
    }
}

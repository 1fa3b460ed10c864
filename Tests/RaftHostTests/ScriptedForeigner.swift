import CMessages
import RaftCore
import Testing
import WireMessages

@testable import RaftHost
import Simulator
@testable import Transport

/// Something in the simulated network that speaks braft's services only: answers as a script says, and speaks without
/// hello.
final class ScriptedForeigner {
    let lane: SimulatedLane
    let peer: PeerID
    private let world: SimulatedWorld
    private var channels: [NodeAddress: RpcChannel] = [:]
    /// Answers a call of braft.RaftService; nil: never.
    var answer: (_ method: String, _ request: RpcRequest) -> Bytes? = { _, _ in nil }
    /// Calls of any service, in order.
    private(set) var calls: [String] = []
    private(set) var connections = 0
    let wire = RaftWire()

    init(at number: Int, in world: SimulatedWorld, listens: Bool = true) throws {
        self.world = world
        let address = SimulatedNode.address(number)
        peer = PeerID(address: address)
        lane = world.addNode(at: address)
        lane.setTurn { [unowned self] now in channels.values.compactMap { $0.expire(now: now) }.min() }
        guard listens else { return }
        let server = RpcServer(address: address)
        for service in [RaftHost.raftService, "braft.CliService"] {
            server.register(service) { [unowned self] method, request in
                calls.append(method)
                if let body = answer(method, request) { request.responder.reply(body: body) }
                return true
            }
        }
        try lane.listen(on: address) { [unowned self] _ in
            connections += 1
            return server.makeHandler()
        }
    }

    /// Calls without hello; nil: it was answered.
    func call(
        _ node: NodeAddress, _ method: String, _ body: Bytes, attachment: [Bytes] = [],
        _ done: @escaping (RpcError?, Bytes) -> Void
    ) {
        lane.post { [self] in
            let channel = channels[node] ?? RpcChannel(address: node, network: lane, clock: lane.clock)
            channels[node] = channel
            channel.call(
                service: RaftHost.raftService, method: method, body: body, attachment: attachment,
                deadline: lane.clock.now + .milliseconds(1000)
            ) { result in
                switch result {
                case .reply(let reply): done(nil, reply.body)
                case .failed(let error): done(error, Bytes())
                }
            }
        }
    }

    /// Asks for a pre-vote in the name of `sender`: the code of the error, or nil.
    func askForVote(_ group: String, of to: PeerID, as sender: PeerID? = nil) -> Int32? {
        let body = wire.arena.scope { arena in
            wire.arena.pack(
                wire.voteRequest(
                    VoteRequest(isPreVote: true, term: Term(1), last: .zero), group: group, from: sender ?? peer,
                    to: to,
                    arena: arena))
        }
        var outcome: Int32??
        call(to.address, "pre_vote", body) { error, _ in outcome = .some(error?.code) }
        world.runUntil(limit: .milliseconds(3000)) { outcome != nil }
        return outcome ?? -1
    }

    /// Asks for a vote in its own name: what is answered; nil: it is not heard.
    func askForVote(
        _ group: String, of to: PeerID, term: Term, last: LogPosition = .zero, isPreVote: Bool = false
    ) -> VoteReply? {
        let request = VoteRequest(isPreVote: isPreVote, term: term, last: last)
        let body = wire.arena.scope { arena in
            wire.arena.pack(wire.voteRequest(request, group: group, from: peer, to: to, arena: arena))
        }
        var outcome: VoteReply??
        call(to.address, isPreVote ? "pre_vote" : "request_vote", body) { [self] error, reply in
            outcome = .some(error == nil ? wire.decodeVoteReply(reply, to: request) : nil)
        }
        world.runUntil(limit: .milliseconds(3000)) { outcome != nil }
        return outcome ?? nil
    }

    /// A heartbeat of a leader that knows nothing of the receiver's log.
    func heartbeat(_ group: String, to: PeerID, term: Term, _ done: @escaping (RpcError?) -> Void = { _ in }) {
        let body = wire.arena.scope { arena in
            wire.arena.pack(
                wire.appendRequest(
                    group: group, from: peer, to: to, term: term, previous: .zero, entries: [], withPayloads: true,
                    commit: .zero, arena: arena))
        }
        call(to.address, "append_entries", body) { error, _ in done(error) }
    }
}

import CMessages
import RaftCore
import Simulator
import WireMessages

@testable import RaftHost
@testable import Transport

/// Something that speaks braft's services and no others, as the test says: a follower that lacks everything, or a leader
/// that offers its files.
final class BraftPeer {
    /// A call of its own.
    final class Call {
        var result: RpcResult?
        var code: Int32? { if case .failed(let error)? = result { error.code } else { nil } }
        var text: String? { if case .failed(let error)? = result { error.text } else { nil } }
        var reply: RpcReply? { if case .reply(let reply)? = result { reply } else { nil } }
    }

    /// What it answers to a read of a file.
    enum Answer {
        case error(Int32)
        case part(GetFileReply, attachment: [UInt8])
        /// None.
        case silence
    }

    let address: NodeAddress
    let wire = RaftWire()
    private let world: SimulatedWorld
    private let lane: SimulatedLane
    private var channels: [NodeAddress: RpcChannel] = [:]

    /// Snapshots that were offered to it, and who waits for the answers.
    private(set) var offers: [(uri: String, request: SnapshotRequest, responder: RpcResponder)] = []
    /// The end of its log.
    var lastIndex = LogIndex.zero
    /// The files it serves, with the list, by name.
    var files: [String: [UInt8]] = [:]
    var reader: Int64 = -42
    /// What it was asked for.
    private(set) var reads: [GetFileRequest] = []
    /// Looks at a read before it is answered as usual.
    var onRead: (GetFileRequest) -> Answer? = { _ in nil }

    init(_ world: SimulatedWorld, at address: NodeAddress) throws {
        self.world = world
        self.address = address
        lane = world.addNode(at: address)
        lane.setTurn { [unowned self] now in channels.values.compactMap { $0.expire(now: now) }.min() }
        let server = RpcServer(address: address)
        server.register("braft.RaftService") { [unowned self] in serveRaft($0, $1) }
        server.register("braft.FileService") { [unowned self] method, request in
            guard method == "get_file" else { return false }
            serveFile(request)
            return true
        }
        try lane.listen(on: address) { _ in server.makeHandler() }
    }

    var peer: PeerID { PeerID(address: address) }

    // MARK: serving

    private func serveRaft(_ method: String, _ request: RpcRequest) -> Bool {
        switch method {
        case "pre_vote", "request_vote":
            wire.arena.scope { arena in
                let reply = arena.make(braft__request_vote_response__init)
                reply.pointee.term = 1
                reply.pointee.granted = 0
                request.responder.reply(reply)
            }
        case "append_entries":
            let decoded = try? wire.decodeAppendRequest(request.body, attachment: request.attachment)
            guard let (_, message, entries) = decoded else { return false }
            let isContinued = message.previous.index <= lastIndex
            let last = message.previous.index.advanced(by: entries.count)
            if isContinued { lastIndex = max(lastIndex, last) }
            wire.arena.scope { arena in
                let reply = arena.make(braft__append_entries_response__init)
                reply.pointee.term = message.term.rawValue
                reply.pointee.success = isContinued ? 1 : 0
                if !isContinued || entries.isEmpty {
                    reply.pointee.has_last_log_index = 1
                    reply.pointee.last_log_index = lastIndex.rawValue
                }
                request.responder.reply(reply)
            }
        case "install_snapshot":
            guard let (_, message, uri) = try? wire.decodeSnapshotRequest(request.body) else { return false }
            offers.append((uri, message, request.responder))
        default: return false
        }
        return true
    }

    /// Says that the snapshot offered last was installed, or not.
    func answerOffer(success: Bool) {
        guard let offer = offers.last else { return }
        if success { lastIndex = offer.request.meta.last.index }
        lane.post { [self] in
            let reply = SnapshotReply(term: offer.request.term, success: success)
            offer.responder.reply(body: wire.packReply(.snapshotReply(reply)))
        }
    }

    func refuseOffer(_ code: Int32) {
        guard let offer = offers.last else { return }
        lane.post { offer.responder.fail(code, "told to refuse") }
    }

    private func serveFile(_ request: RpcRequest) {
        guard let asked = wire.decodeGetFileRequest(request.body) else { return request.responder.fail(1003, "") }
        reads.append(asked)
        let answer = onRead(asked) ?? usualAnswer(to: asked)
        switch answer {
        case .error(let code): request.responder.fail(code, "told to fail")
        case .silence: break
        case .part(let reply, let attachment):
            wire.arena.scope { arena in
                request.responder.reply(wire.getFileReply(reply, arena: arena), attachment: [Bytes(attachment)])
            }
        }
    }

    func usualAnswer(to asked: GetFileRequest) -> Answer {
        guard asked.reader == reader else { return .error(2) }
        guard let file = files[asked.name] else { return .error(1) }
        let offset = Int(asked.offset)
        let count = max(0, min(Int(asked.count), file.count - offset))
        let isAtEnd = offset + count >= file.count
        let segment = count > 0 ? BraftPeer.segment(offset, Array(file[offset..<offset + count])) : []
        return .part(GetFileReply(isAtEnd: isAtEnd, readSize: Int64(count)), attachment: segment)
    }

    /// Bytes of a file as they travel.
    static func segment(_ offset: Int, _ bytes: [UInt8]) -> [UInt8] {
        let header = (0..<8).map { UInt8(truncatingIfNeeded: offset >> (56 - 8 * $0)) }
        return header + (0..<4).map { UInt8(truncatingIfNeeded: bytes.count >> (24 - 8 * $0)) } + bytes
    }

    // MARK: calling

    private func channel(to node: NodeAddress) -> RpcChannel {
        if let channel = channels[node] { return channel }
        let channel = RpcChannel(address: node, network: lane, clock: lane.clock)
        channel.queueWhileConnecting = true
        channels[node] = channel
        return channel
    }

    func call(_ service: String, _ method: String, _ body: Bytes, to node: NodeAddress) -> Call {
        let call = Call()
        lane.post { [self] in
            channel(to: node).call(service: service, method: method, body: body) { call.result = $0 }
        }
        return call
    }

    /// Offers its files under `reader`, or what `uri` says.
    func offer(
        _ meta: SnapshotMeta, term: Int64, to node: SimulatedNode, group: String = "g0", uri: String? = nil,
        receiver: String? = nil, sender: String? = nil
    ) -> Call {
        let body = wire.arena.scope { arena in
            let request = wire.snapshotRequest(
                SnapshotRequest(term: Term(term), meta: meta), uri: uri ?? "remote://\(address)/\(reader)",
                group: group, from: peer, to: node.peer, arena: arena)
            if let receiver { request.pointee.peer_id = arena.string(receiver) }
            if let sender { request.pointee.server_id = arena.string(sender) }
            return arena.pack(request)
        }
        return call("braft.RaftService", "install_snapshot", body, to: node.address)
    }

    func getFile(_ request: GetFileRequest, of node: SimulatedNode) -> Call {
        let body = wire.arena.scope { arena in arena.pack(wire.getFileRequest(request, arena: arena)) }
        return call("braft.FileService", "get_file", body, to: node.address)
    }
}
